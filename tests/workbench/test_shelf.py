"""The list of runs: grouped over seeds, named by what differs, marked for life, and never wrong about what is on disk."""

import json
import shutil
import statistics
import time

import pytest
from many import copies
from recorded_run import record
from shelved import config, galore, put, shelf_of

from wbench.errors import RunError
from wbench.runs import RunStore
from wbench.runs.catalogue import Catalogue
from wbench.runs.marks import Mark, Marks
from wbench.tasks import Digits


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


# --- groups and rows --------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_one_row_with_mean_deviation_and_number(store):
    for seed, value in ((2, 0.2), (0, 0.3), (1, 0.4)):
        record(store, seed, value=value, info={"timings": {"seconds": 2.0 + seed}})
    other = record(store, 0, lr=0.5, status="stopped")
    shelf = shelf_of(store)
    assert {key: [entry.seed for entry in entries] for key, entries in shelf.groups.items()} == {
        config(other): [0], config(record(store, 0)): [0, 1, 2],
    }  # fmt: skip
    one, three = shelf.rows("test.accuracy")
    values = [0.6, 0.8, 0.4]
    assert (three["n"], three["value"], three["spread"]) == (
        3,
        pytest.approx(statistics.mean(values)),
        pytest.approx(statistics.stdev(values)),
    )
    assert (three["seconds"], three["status"], three["colour"], three["pinned"], three["note"]) == (
        3.0,
        "finished",
        None,
        False,
        "",
    )
    assert (one["n"], one["spread"], one["status"], one["task"]) == (1, None, "stopped", "digits")
    assert one["created"] >= three["created"]


def test_numbers_that_are_asked_for_take_the_place_of_the_last_ones(store):
    first, second = record(store, 0), record(store, 1)
    shelf = shelf_of(store)
    [row] = shelf.rows("test.accuracy", {first.id: 3.0, second.id: float("nan")})
    assert (row["value"], row["spread"], row["n"]) == (3.0, None, 2)
    assert shelf.rows("test.nothing")[0]["value"] is None
    assert shelf.metrics() == ["test.accuracy"]


def test_a_name_says_what_differs_from_the_usual(store):
    usual = Digits().recipe("cpu").fields()
    named = {
        "baseline": put(store, recipe=usual),
        "galore": put(store, methods=[galore()], recipe=usual),
        "galore layers=a,b rank=3": put(store, methods=[galore(rank=3, layers=["a", "b"])], recipe=usual),
        "galore scale=0.5 + nap": put(store, methods=[galore(scale=0.5), {"id": "nap", "fields": {}}], recipe=usual),
        "baseline, lr=0.5 optimizer=adam": put(store, recipe={**usual, "lr": 0.5, "optimizer": "adam"}),
        "elsewhere": put(store, methods=[{"id": "elsewhere", "fields": {"rank": 3}}], recipe=usual),
    }
    shelf = shelf_of(store)
    assert {shelf.name(config(run)) for run in named.values()} == set(named)
    for name, run in named.items():
        assert shelf.name(config(run)) == name


def test_the_task_is_named_with_its_options_and_a_users_own_by_its_name(store):
    put(store, options={**Digits(norm="batch").fields()})
    put(store, task="user", options={"name": "my <data>"})
    assert {row["task"] for row in shelf_of(store).rows("test.accuracy")} == {"digits norm=batch", "my <data>"}


def test_configurations_on_display_have_their_runs_batch_size_and_methods(store):
    runs = [put(store, seed, methods=[galore()], recipe={"batch_size": 32}) for seed in (1, 0)]
    shelf = shelf_of(store)
    [item], gone = shelf.shown([config(runs[0]), "nothing"])
    assert gone == ["nothing"]
    assert ([run.seed for run in item.runs], item.batch_size, item.methods, item.colour) == ([0, 1], 32, ("galore",), 0)
    assert shelf.run(runs[0].id) is item.runs[1]


# --- marks ------------------------------------------------------------------------------------------------------------


def test_a_colour_is_for_life_whatever_is_drawn_beside_it_deleted_or_opened_again(store):
    runs = [record(store, lr=0.1 * (1 + index)) for index in range(4)]
    keys = [config(run) for run in runs]
    shelf = shelf_of(store)
    assert [shelf.shown([key])[0][0].colour for key in keys[:3]] == [0, 1, 2]
    shelf.delete([keys[1]])
    assert shelf.marks.colour(keys[3]) == 3
    again = shelf_of(store)
    assert [again.marks.colour(key) for key in (keys[2], keys[0], keys[3])] == [2, 0, 3]
    again.undo([keys[1]])
    assert again.marks.colour(keys[1]) == 1
    again.delete([keys[0]])
    again.purge()
    assert again.marks.colour("new") == 0


def test_only_what_was_drawn_or_ticked_has_a_colour(store):
    keys = [config(record(store, lr=0.1 * (1 + index))) for index in range(3)]
    shelf = shelf_of(store)
    rows = shelf.rows("test.accuracy", None, [keys[1]])
    assert {row["key"]: row["colour"] for row in rows} == {keys[0]: None, keys[1]: 0, keys[2]: None}


def test_pins_notes_and_names_outlive_the_session_and_two_windows_do_not_undo_one_another(store):
    key = config(record(store))
    first, second = Marks(store), Marks(store)
    first.set(key, pinned=True)
    second.set(key, note="good <b>")
    second.set("other", name="x")
    first.set(key, name="the one")
    for marks in (first, Marks(store)):
        assert marks[key] == Mark(name="the one", note="good <b>", pinned=True)
    row = shelf_of(store).rows("test.accuracy")[0]
    assert (row["name"], row["note"], row["pinned"]) == ("the one", "good <b>", True)


def test_two_windows_give_no_colour_twice(store):
    first, second = Marks(store), Marks(store)
    assert (first.colour("a"), second.colour("b"), first.colour("c"), second.colour("a")) == (0, 1, 2, 0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"colour": "red"}', '{"what": 1}', "\xff", '{"name": 3}'])
def test_a_damaged_mark_is_no_mark(store, text):
    key = config(record(store))
    Marks(store).set(key, name="x")
    file = store.place.cache / "marks" / f"{key}.json"
    file.write_bytes(text.encode("latin-1"))
    assert Marks(store)[key] == Mark()
    assert shelf_of(store).rows("test.accuracy", None, [key])[0]["colour"] == 0
    assert json.loads(file.read_text())["colour"] == 0


def test_a_store_that_cannot_be_written_is_listed_and_says_so_when_marked(store):
    key = config(record(store))
    shutil.rmtree(store.place.cache, ignore_errors=True)
    store.place.cache.write_text("in the way")
    shelf = shelf_of(store)
    assert shelf.rows("test.accuracy", None, [key])[0]["colour"] == 0
    with pytest.raises(RunError, match=r"mark of .* cannot be kept"):
        shelf.marks.set(key, name="x")
    assert shelf.name(key) == "x"


# --- deleted ----------------------------------------------------------------------------------------------------------


def test_deletion_is_undone_or_made_final(store):
    kept, gone = record(store, lr=0.1), record(store, lr=0.2)
    more = record(store, 1, lr=0.2)
    shelf = shelf_of(store)
    shelf.delete([config(gone)])
    assert list(shelf.groups) == list(shelf_of(store).groups) == [config(kept)]
    assert store.find(gone.id) is not None
    shelf.undo([config(gone)])
    assert len(shelf.groups) == 2
    shelf.delete([config(gone)])
    assert shelf_of(store).purge() == 2
    assert [run.id for run in store.runs()] == [kept.id]
    assert (store.find(more.id), Marks(store).deleted()) == (None, [])
    shelf.refresh()
    assert shelf.purge() == 0


def test_a_folder_that_is_deleted_replaced_or_added_is_seen_at_the_next_look(store):
    run, other = record(store, 0, status="stopped"), record(store, 1)
    shelf = shelf_of(store)
    assert shelf.run(run.id).status == "stopped"
    assert len(shelf.run(run.id).metrics) == 3
    record(store, 0, value=0.25)
    shelf.refresh()
    assert shelf.run(run.id).status == "finished"
    assert shelf.run(run.id).metrics["value"].max() == 0.5
    shutil.rmtree(other.path)
    assert shelf.run(other.id) is None
    [item], gone = shelf.shown([config(run)])
    assert ([one.seed for one in item.runs], gone) == ([0], [])
    shutil.rmtree(run.path)
    assert shelf.shown([config(run)]) == ([], [config(run)])
    shelf.refresh()
    assert shelf.groups == {}
    record(store, 5)
    shelf.refresh()
    assert [entry.seed for entries in shelf.groups.values() for entry in entries] == [5]


@pytest.mark.parametrize("file", ["run.json", "metrics.parquet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_damaged_run_is_left_out_and_the_others_are_listed(store, file, when):
    good, bad = record(store, 0), record(store, 1)
    if when == "after":
        early = shelf_of(store)
        assert early.run(bad.id) is not None
        early._open.clear()
    (bad.path / file).write_text("{")
    shelf = early if when == "after" else shelf_of(store)
    assert shelf.run(bad.id) is None
    shelf.refresh()
    assert [[entry.id for entry in entries] for entries in shelf.groups.values()] == [[good.id]]
    shutil.rmtree(bad.path)
    record(store, 1)
    shelf.refresh()
    assert [len(entries) for entries in shelf.groups.values()] == [2]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"format": 1, "runs": {"x": 3}}', b'{"format": 0, "runs": {}}', b"\xff\0"]
)
def test_a_damaged_index_is_made_again(store, text):
    record(store, 0)
    expected = Catalogue(store).entries()
    file = store.place.cache / "catalogue.json"
    whole = file.read_bytes()
    file.write_bytes(text)
    assert Catalogue(store).entries() == expected
    assert file.read_bytes() == whole


def test_the_index_holds_what_the_runs_say(store):
    for seed in range(4):
        record(store, seed, lr=0.1 * (seed % 2 + 1), info={"timings": {"seconds": 1.5}})
    for _ in range(2):  # read from the runs, then from the index
        entries = Catalogue(store).entries()
        assert [entry.id for entry in entries] == [run.id for run in store.runs()]
        for entry, run in zip(entries, store.runs(), strict=True):
            assert (entry.seed, entry.status, entry.summary, entry.created, entry.seconds) == (
                run.seed, run.status, run.summary, run.created, 1.5,
            )  # fmt: skip
            assert (entry.task, entry.recipe, entry.config) == (run.spec["task"], run.spec["recipe"], config(run))


def test_runs_at_a_url_are_listed_too():
    store = RunStore("memory://workbench-shelf/runs")
    run = record(store)
    shelf = shelf_of(store)
    assert [row["n"] for row in shelf.rows("test.accuracy")] == [1]
    assert shelf.run(run.id) is shelf.run(run.id)
    assert shelf.run("nothing") is None
    shelf.delete([config(run)])
    assert shelf.purge() == 1


# --- differences ------------------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_settings_also_where_names_are_the_same(store):
    recipe = Digits().recipe("cpu").fields()
    one = put(store, methods=[galore(rank=2)], recipe=recipe, code="a")
    two = put(store, methods=[{**galore(rank=2), "code": "y"}], recipe={**recipe, "momentum": 0.25}, code="b")
    three = put(store, recipe=recipe)
    four = put(store, task="mnist", methods=[galore(rank=4)], recipe=recipe, code="a")
    shelf = shelf_of(store)
    shelf.marks.set(config(two), name="galore rank=2")
    frame = shelf.compared([config(one), config(two)])
    assert list(frame.columns) == ["galore rank=2"] * 2
    assert frame.to_numpy().tolist() == [[recipe["momentum"], 0.25]]
    assert frame.index.tolist() == ["recipe.momentum"]
    more = shelf.compared([config(one), config(four)])
    assert {name: more.loc[name].tolist() for name in more.index} == {
        "galore.rank": [2, 4],
        "task.id": ["digits", "mnist"],
    }
    more = shelf.compared([config(one), config(three)])
    assert {name: more.loc[name].tolist() for name in more.index} == {"methods": ["galore", "baseline"]}
    shutil.rmtree(one.path)
    with pytest.raises(RunError, match="the runs of galore rank=2 are gone"):
        shelf.compared([config(one), config(three)])


# --- speed ------------------------------------------------------------------------------------------------------------


def test_two_thousand_runs_are_listed_in_half_a_second(store):
    model = put(store, methods=[galore(rank=3)], recipe=Digits().recipe("cpu").fields())
    copies(model, store, range(1, 2000))
    Catalogue(store).entries()  # the index

    def listed():
        begin = time.process_time()  # of computing: other processes of a busy machine slow this one down, too
        shelf = shelf_of(store)
        rows = shelf.rows("test.accuracy")
        assert sum(row["n"] for row in rows) == 2000
        return time.process_time() - begin

    assert min(listed() for _ in range(3)) < 0.5
    shelf = shelf_of(store)
    begin = time.process_time()
    shelf.refresh()
    assert time.process_time() - begin < 0.2
