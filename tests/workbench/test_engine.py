"""Training in a process beside: the run is that of `wb.train`, and what is told of it is what is recorded."""

import time

import pandas as pd
import pytest
from engine_trouble import LONG, RECIPE, Noisy, Trouble, digits, finished, hidden, of, train, until

import wbench as wb
from wbench.runs import RunStore
from wbench.training.job import describe
from wbench.training.train import train_job
from wbench.workbench.engine import Ended, Landscape, Progress, Refused, Rows, Started, Table, Trainer
from wbench.workbench.engine.surface import LiveSurface


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def trainer(store, monkeypatch):
    monkeypatch.setattr("wbench.workbench.engine.trainer.PATIENCE", 60.0)  # however busy the machine is
    with Trainer(store) as trainer:
        yield trainer


def same(ours, theirs):
    assert ours.id == theirs.id
    assert ours.spec == theirs.spec
    assert ours.status == theirs.status
    assert ours.summary.keys() == theirs.summary.keys()
    pd.testing.assert_frame_equal(ours.metrics, theirs.metrics, check_exact=True)
    assert set(ours.probes) - {"landscape"} == set(theirs.probes)
    for name in theirs.probes:
        pd.testing.assert_frame_equal(ours.probe(name), theirs.probe(name), check_exact=True)
    for name in ("weights", "trained") if theirs.methods else ("weights",):
        tensors, others = ours.tensors(name), theirs.tensors(name)
        assert tensors.keys() == others.keys()
        for key in others:
            assert tensors[key].numpy().tobytes() == others[key].numpy().tobytes(), key


@pytest.mark.parametrize("methods", [None, "galore", ["weight_compander"]], ids=["baseline", "galore", "compander"])
def test_the_run_is_bit_for_bit_that_of_train_and_told_as_recorded(trainer, store, tmp_path, methods):
    messages = train(trainer, digits(methods=methods, seed=3))
    ended = of(Ended, messages)[0]
    run = store.get(ended.run_id)
    theirs = wb.train(**digits(methods=methods, seed=3), store=RunStore(tmp_path / "other"))
    same(run, theirs)
    assert ended.status == "finished"
    assert ended.seconds > 0
    assert of(Started, messages) == [Started(0, run.id, RECIPE.steps, False)]
    told = pd.DataFrame([row for message in of(Rows, messages) for row in message.rows])
    pd.testing.assert_frame_equal(told, theirs.metrics, check_exact=True, check_dtype=False)
    names = {message.name for message in of(Table, messages)}
    assert names == set(theirs.probes) - {"items"}
    for name in names:
        frame = pd.concat([m.frame for m in of(Table, messages) if m.name == name], ignore_index=True)
        pd.testing.assert_frame_equal(frame, theirs.probe(name), check_exact=True, check_dtype=False)
    assert messages[-1] is ended


def test_a_run_of_the_store_is_told_at_once_and_not_trained(trainer, store):
    run = wb.train(**digits(), store=store)
    created = run.created
    messages = train(trainer, digits(), digits(seed=1))
    assert messages[:2] == [
        Started(0, run.id, RECIPE.steps, True),
        Ended(0, run.id, "finished", "", run.info["timings"]["seconds"]),
    ]
    assert store.get(run.id).created == created
    assert of(Ended, messages, 1)[0].status == "finished"


def test_rows_come_in_few_messages(trainer):
    begin = time.monotonic()
    trainer.start([(0, digits(probes=(), recipe=RECIPE.model_copy(update={"steps": 400})))])
    messages = finished(trainer, 0)
    seconds = time.monotonic() - begin
    assert sum(len(message.rows) for message in of(Rows, messages)) > 400
    assert len(of(Rows, messages)) <= seconds / 0.08 + 3


def test_rows_that_nobody_has_taken_become_one_message(trainer):
    trainer.start([(0, digits(probes=()))])
    until_idle(trainer)
    messages = trainer.drain()
    assert [type(message) for message in messages] == [Started, Rows, Ended]
    assert trainer.drain() == []


def until_idle(trainer):
    end = time.monotonic() + 60
    while trainer.busy and time.monotonic() < end:
        time.sleep(0.01)
    assert not trainer.busy


def test_stop_keeps_what_there_is_and_drops_what_waits(trainer, store):
    trainer.start([(0, digits(recipe=LONG)), (1, digits(seed=1)), (2, digits(seed=2))])
    before = until(trainer, lambda m: isinstance(m, Rows) and m.rows[-1]["step"] > 5)
    trainer.stop()
    after = finished(trainer, 0, 1, 2, seconds=30)
    ended = of(Ended, after)[0]
    run = store.get(ended.run_id)
    assert (ended.status, run.status) == ("stopped", "stopped")
    assert ended.reason.startswith("stopped at step ")
    rows = [row for message in of(Rows, before + after) for row in message.rows]
    pd.testing.assert_frame_equal(pd.DataFrame(rows), run.metrics, check_dtype=False)
    for job in (1, 2):
        assert [(m.run_id, m.status) for m in of(Ended, after, job)] == [(None, "stopped")]
    assert len(store.runs()) == 1
    assert of(Ended, train(trainer, digits(seed=5)))[0].status == "finished"
    assert hidden(store) == []


def test_jobs_after_the_first_train_together(trainer, store, tmp_path):
    messages = train(trainer, *(digits(seed=seed) for seed in range(4)))
    runs = [store.get(of(Ended, messages, job)[0].run_id) for job in range(4)]
    assert ["vectorized" in run.info for run in runs] == [False, True, True, True]
    assert all(of(Progress, messages, job) for job in (1, 2, 3))
    for job, run in enumerate(runs):
        assert run.seed == job
        told = [row for message in of(Rows, messages, job) for row in message.rows]
        pd.testing.assert_frame_equal(pd.DataFrame(told), run.metrics, check_dtype=False)
    alone = wb.train(**digits(seed=2), store=RunStore(tmp_path / "other"))
    assert runs[2].final("loss") == pytest.approx(alone.final("loss"), rel=1e-4)


def test_jobs_that_cannot_train_together_train_one_by_one(trainer, store):
    messages = train(trainer, *(digits(seed=seed, methods=[Noisy()]) for seed in range(3)))
    assert [of(Ended, messages, job)[0].status for job in range(3)] == ["finished"] * 3
    assert not any("vectorized" in run.info for run in store.runs())


def test_stop_ends_runs_that_train_together(trainer, store):
    trainer.start([(0, digits(seed=9)), *((job, digits(seed=job, recipe=LONG)) for job in (1, 2, 3))])
    until(trainer, lambda m: isinstance(m, Progress) and m.done > 5)
    trainer.stop()
    messages = finished(trainer, 1, 2, 3, seconds=30)
    for job in (1, 2, 3):
        ended = of(Ended, messages, job)[0]
        assert ended.status == "stopped"
        assert store.get(ended.run_id).status == "stopped"
    assert hidden(store) == []


def test_a_stop_before_the_worker_is_there_leaves_nothing(trainer, store):
    trainer.start([(0, digits(recipe=LONG))])
    trainer.stop()
    assert of(Ended, finished(trainer, 0))[0].status == "stopped"
    assert of(Ended, train(trainer, digits()))[0].status == "finished"


def test_a_landscape_changes_no_bit_of_the_run_and_is_refined_after_it(trainer, store, tmp_path):
    recipe, methods = RECIPE.model_copy(update={"steps": 600}), [Noisy()]  # enough for one on a busy machine
    trainer.landscape(True)
    messages = train(trainer, digits(methods=methods, recipe=recipe, every=5))
    messages += until(trainer, lambda m: isinstance(m, Landscape) and m.last)
    found = of(Landscape, messages)
    assert [m for m in found if m.note] == []
    assert any(m.step is not None and m.points == 9 and not m.last for m in found)
    assert [m.points for m in found if m.step is None] == [9, 17, 33]
    run = store.get(of(Ended, messages)[0].run_id)
    fine, coarse = (next(m.frame for m in reversed(found) if m.points == points) for points in (33, 9))
    pd.testing.assert_frame_equal(run.probe("landscape"), fine)
    both = fine.merge(coarse, on=["alpha", "beta"])
    assert len(both) == 81
    assert (both["loss_x"] == both["loss_y"]).all()
    same(run, wb.train(**digits(methods=methods, recipe=recipe, every=5), store=RunStore(tmp_path / "other")))


def test_a_landscape_gives_way_to_a_run_and_is_taken_up_again(trainer, store):
    run = wb.train(**digits(), store=store)
    trainer.refine(7, run.id, digits())
    until(trainer, lambda m: isinstance(m, Landscape) and m.points == 9)
    messages = train(trainer, digits(seed=1))
    messages += until(trainer, lambda m: isinstance(m, Landscape) and m.last)
    ends = [m for m in messages if isinstance(m, Ended) or (isinstance(m, Landscape) and m.last)]
    assert [type(m) for m in ends] == [Ended, Landscape]
    assert len(ends[1].frame) == 33**2
    trainer.refine(8, run.id, digits())
    kept = of(Landscape, until(trainer, lambda m: isinstance(m, Landscape)), 8)
    pd.testing.assert_frame_equal(kept[0].frame, ends[1].frame)


def test_live_landscapes_take_less_than_a_fifth_of_the_time(store):
    job, told = describe(**digits(recipe=RECIPE.model_copy(update={"steps": 200}), every=1)), []
    surface = LiveSurface(0, job, told.append, lambda: True, lambda: None)
    train_job(job, store, on_probe=surface)
    trained = time.perf_counter() - surface.begin - surface.spent
    assert told
    assert all(m.points == 9 and len(m.frame) == 81 for m in told)
    assert surface.spent - surface.cost <= 0.2 * trained  # what the last one costs, nobody knew before


def test_a_number_in_use_and_a_closed_trainer_are_refused(store):
    with Trainer(store) as trainer:
        trainer.start([(4, digits(methods=[Trouble()]))])
        with pytest.raises(wb.WBenchError, match="job 4 has not ended"):
            trainer.start([(4, digits())])
        finished(trainer, 4)
    with pytest.raises(wb.WBenchError, match="closed"):
        trainer.start([(5, digits())])
    with pytest.raises(wb.WBenchError, match="threads=0"):
        Trainer(store, threads=0)


def test_what_cannot_be_sent_is_refused(trainer):
    class Sealed:
        def __reduce__(self):
            raise TypeError("sealed")

    trainer.start([(0, digits(references={"base": Sealed()}))])
    assert "sealed" in of(Refused, trainer.drain())[0].message
    assert not trainer.busy
