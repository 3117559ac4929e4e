"""Training in a process beside: whatever happens there, one message says it, and the next run trains."""

import gc
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from engine_trouble import LONG, RECIPE, digits, finished, hidden, of, train, trouble, until
from small_task import X, Y, small

import wbench as wb
from wbench.runs import RunStore
from wbench.workbench.engine import Ended, Failed, Refused, Rows, Started, Trainer

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes and signals as Linux has them")


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def trainer(store):
    with Trainer(store) as trainer:
        yield trainer


def ended_by(messages, job=0):
    found = [m for m in messages if isinstance(m, Ended | Refused | Failed) and m.job == job]
    assert len(found) == 1
    return found[0]


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone_within(pids, seconds):
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def test_what_train_refuses_is_refused_with_the_same_words(trainer, store):
    cases = [
        digits(methods="no such method"),
        {"task": "no such task"},
        digits(methods=[wb.methods.GaLore(layers="nothing.*")]),
        digits(scale="huge", recipe=None),
    ]
    messages = train(trainer, *cases)
    for job, arguments in enumerate(cases):
        refused = ended_by(messages, job)
        assert isinstance(refused, Refused)
        with pytest.raises(wb.WBenchError) as error:
            wb.train(**arguments, store=store)
        assert (refused.kind, refused.message) == (type(error.value).__name__, str(error.value))
    assert store.runs() == []


def test_data_that_is_not_finite_and_a_model_that_cannot_run_are_told(trainer, store):
    broken = wb.Task.from_arrays(X, Y, model=lambda: small()[2:], recipe=RECIPE)
    messages = train(trainer, {"task": broken})
    failed = ended_by(messages)
    assert isinstance(failed, Failed)
    assert "shapes cannot be multiplied" in failed.message
    assert "Traceback" in failed.traceback
    assert ended_by(train(trainer, digits())).status == "finished"
    assert hidden(store) == []
    with pytest.raises(wb.WBenchError, match="NaN"):  # in the caller already, where the task is made
        wb.Task.from_arrays(np.full_like(X, np.nan), Y, model=small)


def test_a_run_that_diverges_has_ended_and_says_where(trainer, store):
    ended = ended_by(train(trainer, trouble("nan")))
    assert (ended.status, store.get(ended.run_id).status) == ("diverged", "diverged")
    assert "step 5" in ended.reason


def test_a_method_that_raises_fails_its_own_run_alone(trainer, store):
    jobs = [trouble("none"), trouble("raise", seed=1), trouble("none", seed=2), trouble("none", seed=3)]
    messages = train(trainer, *jobs)
    assert [ended_by(messages, job).status for job in (0, 2, 3)] == ["finished"] * 3
    failed = ended_by(messages, 1)
    assert (failed.kind, failed.message) == ("ValueError", "this run has got into trouble")
    assert "engine_trouble.py" in failed.traceback
    assert store.get(failed.run_id).status == "failed"


def test_out_of_memory_is_said_and_the_next_run_trains(trainer, store):
    messages = train(trainer, trouble("memory"), digits(seed=1))
    failed = ended_by(messages)
    assert isinstance(failed, Failed)
    assert failed.message.startswith("out of memory")
    assert ended_by(messages, 1).status == "finished"


@linux
def test_a_worker_that_is_killed_is_told_and_replaced(trainer, store):
    messages = train(trainer, trouble("die"), digits(seed=1))
    failed = ended_by(messages)
    assert isinstance(failed, Failed)
    assert failed.kind == "WorkerDiedError"
    assert "SIGKILL" in failed.message
    assert ended_by(messages, 1).status == "finished"
    trainer.start([(0, digits(recipe=LONG))])
    until(trainer, lambda m: isinstance(m, Rows))
    os.kill(trainer.pid, signal.SIGKILL)
    assert "SIGKILL" in ended_by(finished(trainer, 0)).message
    assert hidden(store) == []


@linux
def test_a_run_that_does_not_stop_is_ended_with_its_process(trainer, store, tmp_path):
    sign = tmp_path / "hangs"
    trainer.start([(0, trouble("hang", sign)), (1, digits(seed=1))])
    until(trainer, lambda m: isinstance(m, Started))
    end = time.monotonic() + 30
    while not sign.exists() and time.monotonic() < end:
        time.sleep(0.02)
    first = trainer.pid
    begin = time.monotonic()
    trainer.stop()
    messages = finished(trainer, 0, 1)
    assert 1.5 < time.monotonic() - begin < 30
    assert [ended_by(messages, job).status for job in (0, 1)] == ["stopped", "stopped"]
    assert not alive(first)
    assert store.runs() == []
    assert hidden(store) == []
    assert ended_by(train(trainer, digits(seed=1))).status == "finished"


def test_a_store_that_is_removed_meanwhile_is_made_again(trainer, store):
    ended = ended_by(train(trainer, trouble("remove", store.root)))
    assert store.get(ended.run_id).status == "finished"


def test_a_run_that_could_not_be_written_is_written_by_the_next_attempt(trainer, store):
    arguments = trouble("block", store.root)
    failed = ended_by(train(trainer, arguments))
    assert failed.kind == "RunError"
    assert "cannot be written" in failed.message
    store.root.unlink()
    messages = train(trainer, arguments)
    assert of(Started, messages)[0].cached
    run = store.get(ended_by(messages).run_id)
    assert run.status == "finished"
    assert len(run.metrics.query("split == 'train' and name == 'loss' and phase == 'train'")) == RECIPE.steps


@linux
def test_closing_ends_the_process_and_keeps_the_run_as_stopped(store):
    trainer = Trainer(store)
    trainer.start([(0, digits(recipe=LONG))])
    until(trainer, lambda m: isinstance(m, Rows))
    pid = trainer.pid
    begin = time.monotonic()
    trainer.close()
    assert time.monotonic() - begin < 5
    assert gone_within([pid], 3)
    trainer.close()
    assert ended_by(trainer.drain()).status == "stopped"
    store.sweep()  # where it had to be killed, the line's own thread may still be at it
    assert [run.status for run in store.runs()] in ([], ["stopped"])
    assert hidden(store) == []


@linux
def test_a_trainer_that_nobody_holds_any_more_ends_its_process(store):
    trainer = Trainer(store)
    train(trainer, digits())
    pid = trainer.pid
    assert alive(pid)
    del trainer
    gc.collect()
    assert gone_within([pid], 3)


PARENT = """
    import atexit, os, time

    lines = []
    # the first that is registered is called last, after multiprocessing has waited for what runs
    atexit.register(lambda: print(len(lines), flush=True))

    import wbench as wb
    from wbench.workbench.engine import Rows, Trainer, trainer as made_in

    if __name__ == "__main__":
        made = made_in.Line
        made_in.Line = lambda *args: lines.append(made(*args)) or lines[-1]
        trainer = Trainer(wb.RunStore("runs"))
        trainer.start([(0, {"task": "digits", "recipe": wb.Recipe(steps=200_000)})])
        while not any(isinstance(message, Rows) for message in trainer.drain()):
            trainer.wait()
        print(trainer.pid, flush=True)
        END
"""


@linux
@pytest.mark.parametrize("end", ["time.sleep(600)", "pass"], ids=["killed", "ends"])
def test_no_process_outlives_the_parent(tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT).replace("END", end))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path, start_new_session=True
    )
    try:
        worker = int(process.stdout.readline())
        session = [one.pid for one in psutil.process_iter() if _session(one.pid) == process.pid]
        assert worker in session
        if "sleep" in end:
            process.kill()
        assert process.wait(30) == (-signal.SIGKILL if "sleep" in end else 0)
        assert gone_within(session, 2)
        # no other worker in place of the one that was ended
        assert process.stdout.read() == ("" if "sleep" in end else "1\n")
    finally:
        for pid in [one.pid for one in psutil.process_iter() if _session(one.pid) == process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    store = RunStore(tmp_path / "runs")
    store.sweep()
    assert hidden(store) == []


def _session(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return None


NOTEBOOK = """
import sys
import wbench as wb
from typing import ClassVar
from wbench.workbench.engine import Ended, Trainer

SOURCE = '''
import torch
SCALE = 1.0
def change(model):
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.0 - 1e-3 * SCALE)

class Mine(wb.Method):
    "Shrinks the weights."
    id: ClassVar[str] = "mine"
    title: ClassVar[str] = "Mine"
    paper: ClassVar = wb.Paper("Mine", "Me", 2026)
    stage: ClassVar = "pipeline"

    def after_step(self, model, ctx=None):
        if ctx.phase in {"train", "other", "third"}:
            change(model)
'''
ids = []
with Trainer(wb.RunStore("runs")) as trainer:
    for text in (SOURCE, "\\n\\n" + SOURCE, SOURCE.replace("SCALE = 1.0", "SCALE = 2.0"), SOURCE.replace("1.0 -", "1.0 +")):
        exec(compile(text, "<cell>", "exec"), globals())
        arguments = {"task": "digits", "methods": [Mine()], "recipe": wb.Recipe(steps=5)}
        trainer.start([(0, arguments)])
        found = []
        while trainer.busy or not found:
            trainer.wait(1)
            found += [message for message in trainer.drain() if not hasattr(message, "frame")]
        theirs = wb.train(**arguments, store=wb.RunStore("other"))
        ours = wb.RunStore("runs").get(found[-1].run_id)
        print(found[0].cached, ours.id, ours.id == theirs.id, ours.final("loss") == theirs.final("loss"))
"""


@linux
def test_a_method_of_a_notebook_trains_and_another_one_under_its_name_is_another_run(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["False", "True", "False", "False"]
    assert all(line[2:] == ["True", "True"] for line in lines)
    assert lines[0][1] == lines[1][1]
    assert len({line[1] for line in lines}) == 3


def test_a_method_whose_file_was_edited_trains_as_it_is_now(trainer, store, tmp_path, monkeypatch):
    source = Path(__file__).with_name("engine_trouble.py").read_text()
    source = source[: source.index("class Noisy")].replace('"engine_trouble"', '"engine_edited"')
    file = tmp_path / "engine_edited.py"
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("engine_edited")
    first = ended_by(train(trainer, digits(methods=[module.Trouble(what="raise")])))
    file.write_text(source.replace("has got into trouble", "is in new trouble"))
    os.utime(file, (1, 1))  # as old compiled code must not be taken for it
    module = importlib.reload(module)
    second = ended_by(train(trainer, digits(methods=[module.Trouble(what="raise")])))
    assert first.message == "this run has got into trouble"
    assert second.message == "this run is in new trouble"
    assert first.run_id != second.run_id
