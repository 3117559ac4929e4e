"""What is done with runs in the workbench: deleted, copied, loaded, compared, started from, combined."""

import shutil

import pytest
from bench_trouble import GALORE, Mine, captions, fresh, key_of, knob_of, put, recorded, run, said, until

import wbench as wb
from wbench.errors import RunError
from wbench.runs import RunStore
from wbench.workbench.script import script

# --- runs: deleted, copied, loaded, compared --------------------------------------------------------------------------


def test_a_run_folder_that_is_deleted_under_the_panel_is_said_and_trained_again(bench, bench_store):
    recipe = fresh()
    put(bench, GALORE, recipe=recipe)
    [made] = run(bench)
    bench.listing.select([key_of(bench, made)])
    shutil.rmtree(made.path)
    bench.board.toolbar.cursor.set(3)
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
    bench.board.toolbar.cursor.newest.value = True


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


def test_a_run_is_copied_as_python(bench, bench_store):
    put(bench, GALORE)
    [made] = run(bench)
    sent = []
    bench.frame.face.send = lambda content, buffers=None: sent.append(content)
    bench.actions.box.children[0].children[0].click()
    assert bench.actions.python == script(made, bench_store)
    assert sent == [{"kind": "copy", "text": bench.actions.python}]
    assert "wb.methods.GaLore(rank=4)" in bench.actions.shown.value
    put(bench, GALORE)
    assert bench.current == []
    bench.actions.box.children[0].children[0].click()
    assert "tick a run in the table, or train one first" in said(bench)


def test_settings_of_a_run_are_put_on_the_controls(bench, bench_store):
    stream = wb.train("digit_streams tasks=2", scale="smoke", store=bench_store)
    recipe = fresh(lr=0.7, momentum=0.1, betas=(0.5, 0.6))
    many = recorded(bench_store, wb.methods.LoRA(rank=2, trainable=("head",)), seed=7, recipe=recipe)
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


def test_differences_and_settings_against_results(bench, bench_store):
    runs = [
        recorded(bench_store, GALORE, seed=40 + place, recipe=fresh(lr=lr))
        for place, lr in enumerate((1.001, 1.01, 1.1))
    ]
    runs.append(recorded(bench_store, seed=40))
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
    drawn = bench.parallel.draw()
    frame = drawn.frame.set_index("seed")
    for one in runs[1:3]:
        assert frame.loc[one.seed, "lr"] == one.spec["recipe"]["lr"]
        assert frame.loc[one.seed, "test.accuracy"] == one.summary["test.accuracy"]
    assert drawn.figure.data[0].type == "parcoords"
    place = next(value for title, value in bench.board.tabs.options if title == "Settings and results")
    bench.board.tabs.value = place
    bench.wait(10)
    assert "drag along an axis" in captions(bench)["Settings and results"]


def test_what_is_brushed_among_settings_and_results_is_ticked_and_drawn(bench, bench_store):
    rates = (1.001, 1.01, 1.1, 1.2)
    runs = [recorded(bench_store, GALORE, seed=60, recipe=fresh(lr=lr)) for lr in rates]
    bench.reread()
    put(bench, GALORE, recipe=fresh(lr=1.2))
    bench.listing.select([key_of(bench, runs[3])])
    bench.board.tabs.value = next(value for title, value in bench.board.tabs.options if title == "Settings and results")
    bench.wait(10)
    view = next(view for title, _, view in bench.board.drawn() if title == "Settings and results")

    def brush(ranges):
        view._receive(view, {"kind": "select", "selection": ranges}, [])
        bench.wait(10)

    within = {key_of(bench, run) for run in runs[1:3]}
    brush({"lr": [[1.005, 1.15]]})
    assert set(bench.listing.selected) >= within and key_of(bench, runs[0]) not in bench.listing.selected
    assert {item.key for item in bench.board.shown} >= within
    assert "lie within and are ticked" in captions(bench)["Settings and results"]
    brush({"lr": [[1.0, 1.005], [1.05, 1.15]], "seed": [[59.5, 60.5]]})
    assert set(bench.listing.selected) == {key_of(bench, runs[0]), key_of(bench, runs[2])}
    brush({"lr": [[5.0, 6.0]]})
    assert not bench.listing.selected
    brush({})
    assert bench.listing.selected == [key_of(bench, runs[3])]
    assert "drag along an axis" in captions(bench)["Settings and results"]
    brush({"lr": [[1.005, 1.15]]})
    bench.listing.select([key_of(bench, runs[0])])  # by hand, meanwhile
    brush({})
    assert bench.listing.selected == [key_of(bench, runs[0])]


# --- other kinds ------------------------------------------------------------------------------------------------------


def test_a_pinned_or_ticked_run_can_be_started_from(bench, bench_store):
    base = recorded(bench_store, probes=())
    bench.reread()
    assert [label for label, _ in bench.setup.start_menu.options] == ["new weights"]
    bench.listing._edit(key_of(bench, base), "pinned", True)
    assert bench.setup.start_menu.options[1][1] == base.id
    put(bench, wb.methods.LoRA(rank=2))
    bench.setup.start_menu.value = base.id
    [made] = run(bench)
    assert made.spec["start"] == base.id
    bench_store.delete(base.id)
    bench.run()
    assert "the run to start from is gone; choose another one" in said(bench)
    bench.listing._edit(key_of(bench, base), "pinned", False)
    bench.reread()
    assert bench.setup.start_menu.value == ""
    assert len(run(bench)) <= 1


def test_ticked_runs_are_combined_around_the_one_that_is_started_from(bench, bench_store):
    base = recorded(bench_store, probes=())
    members = [recorded(bench_store, seed=place, start=base, probes=()) for place in range(2)]
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
