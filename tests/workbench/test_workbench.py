"""The workbench without a browser and without an event loop: what is chosen is trained, shown and kept, and mistakes lose nothing."""

import itertools
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from bench_trouble import TINY, Mine, knob_of, said, until

import wbench as wb
from wbench.errors import KnobError, RunError, UnknownNameError
from wbench.runs import RunStore
from wbench.workbench.script import script

TASK = wb.tasks.find_task("digits hidden=16")
GALORE = wb.methods.GaLore(rank=4)
numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(tmp_path_factory.mktemp("bench") / "runs")


@pytest.fixture(scope="module")
def trained(store):
    """A workbench that all tests of this file use, one after the other."""
    with wb.Workbench(TASK, GALORE, scale="smoke", store=store) as bench:
        yield bench


@pytest.fixture
def bench(trained):
    put(trained)
    trained.listing.select([])
    trained.setup.start_menu.value = ""
    trained.board.tabs.value = 0
    yield trained
    trained.stop()
    trained.wait(60)


@pytest.fixture
def still(store, monkeypatch):
    """Workbenches on the same store that start no worker process."""
    monkeypatch.setattr("wbench.workbench.engine.trainer.Trainer.warm", lambda self: None)
    made = []

    def make(*given, **options):
        made.append(wb.Workbench(*given, **{"scale": "smoke", "store": store, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fresh(**changes):
    """A recipe of its own, so that no other test has trained with it."""
    return TINY.replace(**{"lr": 0.05 + 1e-4 * next(numbers), **changes})


def put(bench, *methods, task=TASK, recipe=None, seed=0):
    bench.setup.put(task, methods, recipe or fresh(), seed)


def run(bench):
    bench.run()
    bench.wait(60)
    return bench.current


def key_of(bench, run):
    return next(key for key, entries in bench.shelf.groups.items() if run.id in {entry.id for entry in entries})


def captions(bench):
    return {title: drawn.caption for title, drawn, _ in bench.board.drawn()}


def recorded(store, *methods, **more):
    return wb.train(TASK, methods, store=store, **{"recipe": fresh(), **more})


# --- training ---------------------------------------------------------------------------------------------------------


def test_what_the_controls_say_is_trained_as_train_does_it_and_is_on_display(bench, store, tmp_path):
    recipe = fresh()
    put(bench, GALORE, recipe=recipe, seed=3)
    assert "Not trained yet: press Run." in said(bench)
    knob_of(bench, "galore", "rank").slider.value += 1
    rank = knob_of(bench, "galore", "rank").value
    bench.frame.run.click()
    bench.wait(60)
    [made] = bench.current
    theirs = recorded(RunStore(tmp_path / "other"), GALORE.replace(rank=rank), seed=3, recipe=recipe)
    assert made.id == theirs.id
    pd.testing.assert_frame_equal(made.metrics, theirs.metrics, check_exact=True)
    assert f"galore rank={rank}" in said(bench)
    assert "finished after" in said(bench)
    assert [item.key for item in bench.board.shown] == [key_of(bench, made)]
    assert set(captions(bench)) == {"Loss and metrics", "Weights", "Singular spectrum", "Effective learning rate"}
    loss = made.metrics.query("split == 'train' and name == 'loss' and step == 20 and phase != 'end'")["value"].iloc[0]
    assert f"{loss:.4g}" in captions(bench)["Loss and metrics"]
    row = next(row for row in bench.listing.table.rows if row["key"] == key_of(bench, made))
    assert (row["n"], row["status"], row["value"]) == (1, "finished", made.summary["test.accuracy"])
    assert row["colour"] == bench.board.shown[0].colour
    assert bench.frame.stop.disabled
    assert not bench.trainer.busy


def test_a_configuration_that_was_trained_before_is_shown_at_once(still, store):
    recipe = fresh()
    made = recorded(store, GALORE, recipe=recipe)
    bench = still(TASK, GALORE)
    put(bench, GALORE, recipe=recipe)
    begin = time.process_time()
    knob_of(bench, "recipe", "lr").choose(0.9)
    assert "Not trained yet" in said(bench)
    knob_of(bench, "recipe", "lr").choose(recipe.lr)
    assert "Trained before: shown at once." in said(bench)
    bench._not_before = 0.0
    bench.wait(10)
    assert time.process_time() - begin < 2.0
    assert [run.id for run in bench.current] == [made.id]
    assert "galore rank=4" in captions(bench)["Loss and metrics"]
    assert bench.trainer.pid is None


def test_several_seeds_are_one_row_with_an_interval(bench):
    put(bench, seed=700)
    bench.setup.seeds_field.value = 3
    found = run(bench)
    assert [one.seed for one in found] == [700, 701, 702]
    [item] = bench.board.shown
    assert len(item.runs) == 3
    assert "(n = 3)" in captions(bench)["Loss and metrics"]
    values = [one.summary["test.accuracy"] for one in found]
    row = next(row for row in bench.listing.table.rows if row["key"] == item.key)
    assert (row["n"], row["value"], row["spread"]) == (
        3,
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
    )
    assert all("finished" in one.status for one in found)
    bench.setup.seeds_field.value = 1


def test_what_trains_is_drawn_while_it_trains_and_stop_keeps_it(bench, store):
    put(bench, GALORE, recipe=fresh(steps=100_000))
    bench.run()
    until(bench, lambda: bench.board.shown and bench.board.shown[0].live and bench.board.shown[0].runs)
    until(bench, lambda: "train loss at step" in captions(bench).get("Loss and metrics", ""))
    assert "Training galore rank=4" in said(bench)
    assert not bench.frame.stop.disabled
    assert "<em>training</em>" in bench.board.legend.value
    assert 0.0 < bench._jobs.share() < 1.0
    begin = time.monotonic()
    bench.frame.stop.click()
    assert time.monotonic() - begin < 0.3
    bench.wait(30)
    assert "stopped after" in said(bench)
    [made] = bench.current
    assert (made.status, store.get(made.id).status) == ("stopped", "stopped")
    assert len(made.metrics) > 3
    assert not bench.board.shown[0].live


def test_a_run_that_was_stopped_is_trained_anew_and_replaced(bench, store):
    recipe = fresh()
    job = recorded(store, GALORE, recipe=recipe)
    writer = store.writer(job.spec)
    store.delete(job.id)
    writer.log([{"step": 1, "phase": "train", "split": "train", "name": "loss", "value": 9.0}])
    writer.commit("stopped", "by hand")
    bench.reread()
    put(bench, GALORE, recipe=recipe)
    assert "Not trained yet" in said(bench)
    assert [one.status for one in bench.current] == ["stopped"]
    [made] = run(bench)
    assert (made.status, made.metrics.equals(job.metrics)) == ("finished", True)
    assert bench.board.shown[0].runs == [made]


def test_a_slider_that_has_come_to_rest_trains_where_that_is_wanted(bench):
    put(bench, GALORE)
    bench.frame.eager.value = True
    before = len(bench.shelf.groups)
    for value in (1, 2, 3):
        knob_of(bench, "galore", "rank").choose(value)
        bench._loop.spin()
    until(bench, lambda: len(bench.shelf.groups) > before and not bench.trainer.busy)
    bench.frame.eager.value = False
    assert len(bench.shelf.groups) == before + 1
    assert [one.spec["methods"][0]["fields"]["rank"] for one in bench.current] == [3]


# --- what is not allowed ----------------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_said_and_nothing_trains(bench, store):
    before = len(store.runs())
    put(bench, wb.methods.GradNormLoRP())
    knob_of(bench, "gradnormlorp", "proj_rank").field.value = "32"
    assert "proj_rank 32 must be &lt;= rank 8" in bench.setup.note.value
    bench.run()
    assert "proj_rank 32 must be &lt;= rank 8" in said(bench)
    put(bench, GALORE)
    bench.setup.method_menu.value = "q_galore"
    assert "galore and q_galore" in bench.setup.note.value
    bench.run()
    assert "role='alert'" in said(bench)
    assert len(store.runs()) == before
    off = bench.setup._method_box.children[1].children[0].children[1]
    off.click()
    assert bench.setup.note.value == ""
    assert [method.id for method in bench.setup.methods()] == ["galore"]
    assert len(run(bench)) == 1


def test_what_only_the_model_can_refuse_is_said_and_the_panel_stays_usable(bench, store):
    before = len(store.runs())
    put(bench, wb.methods.GaLore(layers="nothing.*"))
    run(bench)
    assert "galore: layers=&#x27;nothing.*&#x27; matches no layer" in said(bench)
    assert len(store.runs()) == before
    put(bench, GALORE)
    assert [one.status for one in run(bench)] == ["finished"]


def test_divergence_is_a_result_that_says_where_it_began(bench):
    put(bench, recipe=fresh(lr=100.0, weight_decay=10.0, steps=60))
    [made] = run(bench)
    assert made.status == "diverged"
    assert "diverged after" in said(bench)
    assert "role='alert'" in said(bench)
    assert "step" in said(bench)
    assert [item.key for item in bench.board.shown] == [key_of(bench, made)]
    assert captions(bench)["Weights"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"task": "digit"}, UnknownNameError, "unknown task 'digit'. Did you mean digits"),
        ({"task": "digits", "method": "galor"}, UnknownNameError, "Did you mean galore"), ({"scale": "huge"}, KnobError, "scale='huge'"),
        ({"model": 1}, KnobError, r"missing: data=\(x, y\) or a loader"), ({"data": 1}, KnobError, "missing: model="),
        ({"task": "digits", "model": 1, "data": 2}, KnobError, "not both"),
        ({"model": 1, "data": {"train": 1}}, KnobError, "allowed: a mapping with 'train' and 'test'"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_at_all_is_refused_before_anything_starts(given, error, words, store):
    from ipywidgets.widgets.widget import _instances

    before = len(_instances)
    with pytest.raises(error, match=words):
        wb.Workbench(
            given.get("task"),
            given.get("method"),
            **{"store": store, **{k: v for k, v in given.items() if k not in {"task", "method"}}},
        )
    assert len(_instances) == before


# --- runs: deleted, copied, loaded, compared --------------------------------------------------------------------------


def test_a_run_folder_that_is_deleted_under_the_panel_is_said_and_trained_again(bench, store):
    recipe = fresh()
    put(bench, GALORE, recipe=recipe)
    [made] = run(bench)
    bench.listing.select([key_of(bench, made)])
    shutil.rmtree(made.path)
    bench.board.toolbar.set_cursor(3)
    bench.wait(10)
    knob_of(bench, "recipe", "lr").choose(0.3)
    assert "The runs of 1 configuration(s) are gone from" in said(bench)
    knob_of(bench, "recipe", "lr").choose(recipe.lr)
    bench.wait(10)
    assert made.id not in {entry.id for entries in bench.shelf.groups.values() for entry in entries}
    assert bench.listing.selected == []
    assert bench.current == []
    [again] = run(bench)
    assert again.id == made.id
    assert again.metrics.equals(made.metrics)
    bench.board.toolbar.newest.value = True


def test_a_configuration_that_was_deleted_is_back_when_it_is_trained_again(bench):
    put(bench, GALORE)
    [made] = run(bench)
    key = key_of(bench, made)
    bench.listing.table.delete([key])
    assert key not in bench.shelf.groups
    assert bench.current == []
    run(bench)
    assert [one.id for one in bench.current] == [made.id]
    assert key in {row["key"] for row in bench.listing.table.rows}
    assert [item.key for item in bench.board.shown] == [key]


def test_a_run_is_copied_as_python(bench, store):
    put(bench, GALORE)
    [made] = run(bench)
    sent = []
    bench.frame.face.send = lambda content, buffers=None: sent.append(content)
    bench.actions.box.children[0].children[0].click()
    assert bench.actions.python == script(made, store)
    assert sent == [{"kind": "copy", "text": bench.actions.python}]
    assert "wb.methods.GaLore(rank=4)" in bench.actions.shown.value
    put(bench, GALORE)
    assert bench.current == []
    bench.actions.box.children[0].children[0].click()
    assert "tick a run in the table, or train one first" in said(bench)


def test_settings_of_a_run_are_put_on_the_controls(bench, store):
    stream = wb.train("digit_streams tasks=2", scale="smoke", store=store)
    recipe = fresh(lr=0.7, momentum=0.1, betas=(0.5, 0.6))
    many = recorded(store, wb.methods.LoRA(rank=2, trainable=("head",)), seed=7, recipe=recipe)
    bench.reread()
    for made in (stream, many):
        bench.listing.select([key_of(bench, made)])
        bench.actions.load()
        given = bench.setup.arguments()
        assert wb.training.job.describe(**given).id == made.id
        assert "The controls have the settings of" in bench.actions.said.value
    bench.listing.select([])


def test_a_method_that_is_not_installed_is_trained_and_its_copy_says_so(bench):
    put(bench, Mine(weight=0.25))
    [made] = run(bench)
    assert made.methods == ("mine",)
    bench.actions.copy_python()
    assert "# method mine is not installed: put it in its place with {'weight': 0.25}" in bench.actions.python
    bench.act(lambda: bench.load(key_of(bench, made)))
    assert "unknown method &#x27;mine&#x27;" in said(bench)


def test_differences_and_settings_against_results(bench, store):
    runs = [
        recorded(store, GALORE, seed=40 + place, recipe=fresh(lr=lr)) for place, lr in enumerate((1.001, 1.01, 1.1))
    ]
    runs.append(recorded(store, seed=40))
    bench.reread()
    put(bench)
    bench.listing.select([key_of(bench, runs[0])])
    bench.act(bench.actions.differences)
    assert "tick two runs or more" in said(bench)
    bench.listing.select([key_of(bench, one) for one in (*runs[:2], runs[3])])
    assert [item.key for item in bench.board.shown] == [key_of(bench, one) for one in (*runs[:2], runs[3])]
    assert len({item.colour for item in bench.board.shown}) == 3
    bench.actions.differences()
    assert "<code>recipe.lr</code></th><td>1.001</td><td>1.01</td>" in bench.actions.shown.value
    assert "<code>methods</code></th><td>galore</td><td>galore</td><td>baseline</td>" in bench.actions.shown.value
    drawn = bench.actions.parallel()
    frame = drawn.frame.set_index("seed")
    for one in runs[1:3]:
        assert frame.loc[one.seed, "lr"] == one.spec["recipe"]["lr"]
        assert frame.loc[one.seed, "test.accuracy"] == one.summary["test.accuracy"]
    assert drawn.figure.data[0].type == "parcoords"
    place = next(value for title, value in bench.board.tabs.options if title == "Settings and results")
    bench.board.tabs.value = place
    bench.wait(10)
    assert "drag along an axis" in captions(bench)["Settings and results"]


# --- other kinds ------------------------------------------------------------------------------------------------------


def test_a_pinned_or_ticked_run_can_be_started_from(bench, store):
    base = recorded(store, probes=())
    bench.reread()
    assert [label for label, _ in bench.setup.start_menu.options] == ["new weights"]
    bench.listing._edit(key_of(bench, base), "pinned", True)
    assert bench.setup.start_menu.options[1][1] == base.id
    put(bench, wb.methods.LoRA(rank=2))
    bench.setup.start_menu.value = base.id
    [made] = run(bench)
    assert made.spec["start"] == base.id
    store.delete(base.id)
    bench.run()
    assert "the run to start from is gone; choose another one" in said(bench)
    bench.listing._edit(key_of(bench, base), "pinned", False)
    bench.reread()
    assert bench.setup.start_menu.value == ""
    assert len(run(bench)) <= 1


def test_ticked_runs_are_combined_around_the_one_that_is_started_from(bench, store):
    base = recorded(store, probes=())
    members = [recorded(store, seed=place, start=base, probes=()) for place in range(2)]
    bench.reread()
    put(bench, wb.methods.OPCM())
    assert "tick at least two finished runs" in bench.setup.note.value
    bench.run()
    assert "tick at least two finished runs" in said(bench)
    keys = [key_of(bench, one) for one in (*members, base)]
    bench.listing.select(keys)
    assert bench.setup.note.value == ""
    bench.setup.start_menu.value = base.id
    [made] = run(bench)
    assert [name for _, name in made.spec["members"]] == [one.id for one in members]
    assert made.spec["references"] == {"base": base.id}
    assert "Without steps, and not drawn: opcm" in captions(bench)["Loss and metrics"]
    bench.listing.select([])
    bench.setup.start_menu.value = ""


def test_an_estimator_is_fitted_and_its_results_are_drawn(bench):
    task = wb.tasks.find_task("quantiles")
    put(bench, wb.methods.QuantileAverage(models=("linear", "neighbors")), task=task, recipe=task.recipe("smoke"))
    [made] = run(bench)
    assert "Nothing is trained in steps here" in captions(bench)["Loss and metrics"]
    assert f"{made.summary['test.loss']:.4g}" in captions(bench)["Loss and metrics"]


def test_a_landscape_is_computed_while_its_panel_is_open_and_kept(bench):
    put(bench)
    [made] = run(bench)
    bench.board.tabs.value = next(value for title, value in bench.board.tabs.options if title == "Loss landscape")
    until(bench, lambda: "Loss landscape" in captions(bench), 60)
    first = captions(bench)["Loss landscape"]
    assert " points." in first
    until(bench, lambda: not bench._surfaces.busy, 120)
    bench.wait(10)
    assert "landscape" in RunStore(bench.store.url).get(made.id).probes
    assert captions(bench)["Loss landscape"] != first


def test_waiting_too_long_is_an_error_and_training_goes_on(bench):
    put(bench, recipe=fresh(steps=50_000))
    bench.run()
    with pytest.raises(RunError, match=r"training has not ended within 0.3 s"):
        bench.wait(0.3)
    bench.stop()
    bench.wait(30)
