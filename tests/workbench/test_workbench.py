"""The workbench without a browser and without an event loop: what is chosen is trained and shown, and mistakes lose nothing."""

import time

import numpy as np
import pandas as pd
import pytest
from bench_trouble import GALORE, TASK, captions, fresh, key_of, knob_of, put, recorded, run, said, until
from ipywidgets.widgets.widget import _instances

import wbench as wb
from wbench.errors import KnobError, UnknownNameError
from wbench.runs import RunStore

# --- training ---------------------------------------------------------------------------------------------------------


def test_what_the_controls_say_is_trained_as_train_does_it_and_is_on_display(bench, bench_store, tmp_path):
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


def test_a_configuration_that_was_trained_before_is_shown_at_once(still, bench_store):
    recipe = fresh()
    made = recorded(bench_store, GALORE, recipe=recipe)
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


def test_what_trains_is_drawn_while_it_trains_and_stop_keeps_it(bench, bench_store):
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
    assert (made.status, bench_store.get(made.id).status) == ("stopped", "stopped")
    assert len(made.metrics) > 3
    assert not bench.board.shown[0].live


def test_a_run_that_was_stopped_is_trained_anew_and_replaced(bench, bench_store):
    recipe = fresh()
    job = recorded(bench_store, GALORE, recipe=recipe)
    writer = bench_store.writer(job.spec)
    bench_store.delete(job.id)
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


def test_what_does_not_go_together_is_said_and_nothing_trains(bench, bench_store):
    before = len(bench_store.runs())
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
    assert len(bench_store.runs()) == before
    off = bench.setup._method_box.children[1].children[0].children[1]
    off.click()
    assert bench.setup.note.value == ""
    assert [method.id for method in bench.setup.methods()] == ["galore"]
    assert len(run(bench)) == 1


def test_what_only_the_model_can_refuse_is_said_and_the_panel_stays_usable(bench, bench_store):
    before = len(bench_store.runs())
    put(bench, wb.methods.GaLore(layers="nothing.*"))
    run(bench)
    assert "galore: layers=&#x27;nothing.*&#x27; matches no layer" in said(bench)
    assert len(bench_store.runs()) == before
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
def test_what_cannot_be_shown_at_all_is_refused_before_anything_starts(given, error, words, bench_store):

    before = len(_instances)
    with pytest.raises(error, match=words):
        wb.Workbench(
            given.get("task"),
            given.get("method"),
            **{"store": bench_store, **{k: v for k, v in given.items() if k not in {"task", "method"}}},
        )
    assert len(_instances) == before
