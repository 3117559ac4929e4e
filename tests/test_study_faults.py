"""What may go wrong while a study runs. After each: what is finished is whole and bit for bit that of the uninterrupted study,
what failed is listed with its reason, and a second start completes it."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_trouble import VARIABLE, contents, study

import wbench as wb
from wbench.errors import RunError

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted study."""
    store = wb.RunStore(tmp_path_factory.mktemp("whole"))
    assert not study(store).run(workers=1).failures
    return contents(store)


@pytest.fixture
def trouble(tmp_path, monkeypatch):
    file = tmp_path / "trouble"
    monkeypatch.setenv(VARIABLE, str(file))
    return file


def after_fault(store, whole, trouble, missing, reason):
    """Check the three promises, and complete the study."""
    found = contents(store)
    assert len(found) == 6 - len(missing) and all(whole[name] == found[name] for name in found)
    frame = study(store).frame()
    bad = frame[frame["status"] != "finished"]
    assert list(bad["trouble.number"]) == missing
    assert all(reason in text for text in bad["reason"]), list(bad["reason"])
    assert all(status == "failed" for status in bad["status"])
    trouble.unlink(missing_ok=True)
    outcome = study(store).run(workers=1)
    assert not outcome.failures and contents(store) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_raises(tmp_path, whole, trouble, workers):
    trouble.write_text("raise 2")
    store = wb.RunStore(tmp_path / "runs")
    outcome = study(store).run(workers=workers)
    assert list(outcome.failures.values()) == ["this run has got into trouble"]
    after_fault(store, whole, trouble, [2], "this run has got into trouble")


def test_a_run_that_hangs_is_ended_at_its_time_limit(tmp_path, whole, trouble):
    trouble.write_text("hang 4")
    store = wb.RunStore(tmp_path / "runs")
    outcome = study(store).run(workers=3, time_limit=10.0)  # two runs a worker: 20 seconds, then 10
    assert list(outcome.failures) == [("t", 4, 0)], outcome.failures
    after_fault(store, whole, trouble, [4], "limit of 10")


def test_a_run_that_exhausts_memory(tmp_path, whole, trouble):
    trouble.write_text("memory 1")
    store = wb.RunStore(tmp_path / "runs")
    outcome = study(store).run(workers=2, memory=1.5)
    assert len(outcome.failures) == 1
    after_fault(store, whole, trouble, [1], "memory")


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path, whole, trouble):
    trouble.write_text("die 3")
    store = wb.RunStore(tmp_path / "runs")
    assert not study(store).run(workers=2).failures
    assert contents(store) == whole


def test_a_full_disk_in_the_middle_of_a_write(tmp_path, whole, trouble, monkeypatch):
    from wbench.runs import writer

    store, written = wb.RunStore(tmp_path / "runs"), []
    original = writer.write_tensors

    def full(path, kept):
        written.append(path)
        if len(written) == 4:
            Path(path).write_bytes(b"half")
            raise OSError(28, os.strerror(28))
        original(path, kept)

    monkeypatch.setattr(writer, "write_tensors", full)
    outcome = study(store).run(workers=1)
    monkeypatch.undo()
    assert all("No space left" in reason for reason in outcome.failures.values())
    found = contents(store)
    assert found and all(whole[name] == found[name] for name in found)
    assert not store.damaged() and not list((tmp_path / "runs").glob(".tmp*"))
    assert not study(store).run(workers=1).failures and contents(store) == whole


def test_a_clock_that_steps_back(tmp_path, whole, trouble, monkeypatch):
    moments = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 2e9 - 3600.0 * next(moments))
    monkeypatch.setattr(time, "perf_counter", lambda: 1e6 - 5.0 * next(moments))
    monkeypatch.setattr(time, "monotonic", lambda: 1e6 - 5.0 * next(moments))
    store = wb.RunStore(tmp_path / "runs")
    told = []
    assert not study(store).run(workers=1, told=told.append).failures
    monkeypatch.undo()
    assert contents(store) == whole and set(study(store).frame()["status"]) == {"finished"}
    assert told[-1].done == 6


def test_a_store_with_runs_of_an_older_version_beside_ours(tmp_path, whole, trouble):
    import json
    import shutil

    store = wb.RunStore(tmp_path / "runs")
    study(store).run(workers=1)
    old = next(iter(store.runs())).path
    record = json.loads((old / "run.json").read_text())
    record["spec"]["code"] = "0123456789ab"  # what an earlier version of the code has made is another run
    from wbench.runs import run_id

    name = run_id(record["spec"])
    shutil.copytree(old, store.root / name)
    (store.root / name / "run.json").write_text(json.dumps({**record, "id": name}))
    assert len(store.runs()) == 7
    assert set(study(store).frame()["status"]) == {"finished"}
    assert {key: value for key, value in contents(store).items() if key != name} == whole


COMMAND = "import sys; sys.path.insert(0, {tests!r}); import wbench as wb; from study_trouble import study; "


def start(folder, *, numbers=6, workers=2):
    code = COMMAND.format(tests=str(TESTS))
    code += f"print(len(study(wb.RunStore({str(folder)!r}), {numbers}).run(workers={workers}).failures))"
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def alive(session):
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX" and int(fields[3]) == session:
                found.append(int(entry.name))
    return found


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_the_main_process_ends_in_the_middle(tmp_path, whole, trouble, signal_number):
    trouble.write_text("slow 5")  # keeps one worker busy while the other finishes
    store = wb.RunStore(tmp_path / "runs")
    process = start(tmp_path / "runs")
    assert wait_for(lambda: len(store.runs()) >= 3, 60), (
        process.stderr.read() if process.poll() is not None else "too slow"
    )
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.kill()
    process.wait(20)
    assert wait_for(lambda: not alive(process.pid), 3), alive(process.pid)
    found = contents(store)
    assert 3 <= len(found) < 6 and all(whole[name] == found[name] for name in found)
    trouble.unlink()
    assert not study(store).run(workers=1).failures and contents(store) == whole


def test_two_studies_write_the_same_runs_at_once(tmp_path, whole, trouble):
    both = [start(tmp_path / "runs", workers=1), start(tmp_path / "runs", workers=1)]
    for process in both:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and out.strip() == "0", errors
    store = wb.RunStore(tmp_path / "runs")
    assert contents(store) == whole and not store.damaged()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith((".tmp", ".old"))]


def test_a_store_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be kept"):
        study(wb.RunStore(tmp_path / "file" / "runs")).run(workers=1)


def test_runs_that_failed_are_tried_again_and_counted(tmp_path, trouble):
    trouble.write_text("raise 0")
    store = wb.RunStore(tmp_path / "runs")
    told = []
    small = dataclasses.replace(study(store, numbers=2))
    small.run(workers=1, told=told.append)
    assert told[-1].failed == 1 and told[-1].done == 2
    assert list(small.run(workers=1).failures.values()) == ["this run has got into trouble"]
