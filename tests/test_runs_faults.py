"""Runs when things go wrong: full disks, damaged files, killed and competing processes."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
import torch

from wbench.errors import RunError
from wbench.runs import Run, RunStore, moves, run_id

SPEC = {"task": {"id": "digits"}, "seed": 3}
FILES = ["metrics.parquet", "spectrum.parquet", "weights.safetensors"]


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def filled(store, spec=SPEC, value=0.5):
    writer = store.writer(spec)
    writer.log([{"step": 0, "phase": "end", "split": "test", "name": "accuracy", "value": value}])
    writer.table("spectrum", pd.DataFrame({"step": range(50), "value": [0.5] * 50}))
    writer.tensors("weights", {"w": torch.randn(50, 20)})
    return writer


def left_over(store):
    return [path.name for path in store.root.iterdir() if path.name.startswith(".")]


# --- a store that cannot be written -------------------------------------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    ("where", "broken", "cause", "remedy"),
    [
        ("os.fsync", fail, "No space left on device", "free space"),
        ("pandas.DataFrame.to_parquet", fail, "No space left on device", "free space"),
        ("safetensors.torch.save_file", fail, "No space left on device", "free space"),
        ("os.rename", refuse, "Read-only file system", "choose a writable folder"),
        ("pathlib.Path.mkdir", refuse, "Read-only file system", "choose a writable folder"),
    ],
)
def test_a_store_that_cannot_be_written_loses_nothing(store, tmp_path, monkeypatch, where, broken, cause, remedy):
    writer = filled(store)
    with monkeypatch.context() as patch:
        patch.setattr(where, broken)
        with pytest.raises(RunError) as caught:
            writer.commit()
    for words in (str(store.root), cause, remedy, "nothing is lost"):
        assert words in str(caught.value)
    assert (store.runs(), store.damaged(), left_over(store)) == ([], [], [])
    elsewhere = RunStore(tmp_path / "elsewhere")
    run = writer.commit(to=elsewhere)
    assert run.path.parent == elsewhere.root
    assert (run.final("accuracy"), len(run.probe("spectrum")), run.tensors()["w"].shape) == (0.5, 50, (50, 20))
    assert writer.commit().final("accuracy") == 0.5


def test_a_file_that_really_cannot_grow_is_reported_by_every_writer(tmp_path):
    """The system itself refuses to write more than 4 kB a file: no function is replaced."""
    code = """
        import resource, sys
        import pandas as pd, torch
        from wbench.errors import RunError
        from wbench.runs import RunStore
        store = RunStore(sys.argv[1])
        for kind in ("table", "tensors", "metrics"):
            writer = store.writer({"kind": kind})
            if kind == "table":
                writer.table("t", pd.DataFrame({"x": torch.randn(50_000).numpy()}))
            elif kind == "tensors":
                writer.tensors("weights", {"w": torch.randn(50_000)})
            else:
                rows = torch.randn(50_000).tolist()
                writer.log([{"step": i, "phase": "p", "split": "s", "name": "n", "value": v} for i, v in enumerate(rows)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            try:
                writer.commit()
            except RunError as error:
                assert "File too large" in str(error) and "nothing is lost" in str(error), error
            else:
                raise SystemExit(f"{kind} was written")
            assert not list(store.root.iterdir()), list(store.root.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert writer.commit().status == "finished"
            store.delete(writer.id)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_below_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"runs cannot be kept in .*file/runs.*choose a writable folder"):
        RunStore(tmp_path / "file" / "runs").writer(SPEC)


def test_a_table_that_parquet_cannot_hold_is_named_and_nothing_is_left(store):
    writer = filled(store)
    writer.table("mixed", pd.DataFrame({"x": [1, "a", None, {2}]}))
    with pytest.raises(RunError, match="table 'mixed' cannot be kept as Parquet"):
        writer.commit()
    assert (store.runs(), left_over(store)) == ([], [])


def test_a_table_attached_to_a_full_disk_leaves_the_run_whole(store, monkeypatch):
    run = filled(store).commit()
    run.attach("landscape", pd.DataFrame({"alpha": [0.0]}))
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="'landscape' cannot be kept in .*No space left"):
        run.attach("landscape", pd.DataFrame({"alpha": [1.0]}))
    monkeypatch.undo()
    assert store.get(run.id).probe("landscape")["alpha"].tolist() == [0.0]
    assert [path.name for path in (run.path / "derived").iterdir()] == ["landscape.parquet"]


def test_an_exception_or_abort_leaves_no_run(store):
    with pytest.raises(KeyboardInterrupt), filled(store) as writer:
        raise KeyboardInterrupt
    assert writer.metrics.empty
    writer = filled(store)
    writer.abort()
    with pytest.raises(RunError, match="nothing is recorded"):
        writer.probe("spectrum")
    assert list(store.root.iterdir()) == []
    with filled(store) as writer:
        writer.commit()
    assert len(store.runs()) == 1


# --- damage -------------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def overwrite(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("harm", "words"), [(os.unlink, "is missing"), (truncate, r"has \d+ bytes instead of")])
def test_a_missing_or_truncated_file_is_found_at_listing(store, name, harm, words):
    good, bad = filled(store, {"seed": 1}).commit(), filled(store).commit()
    harm(bad.path / name)
    with pytest.warns(UserWarning, match=f"1 damaged.*{bad.id}.*{name} {words}"):
        assert [run.id for run in store.runs()] == [good.id]
    [(path, reason)] = store.damaged()
    assert path == bad.path
    assert name in reason
    assert store.find(bad.id) is None
    with pytest.raises(RunError, match=name):
        store.get(bad.id)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_bit_is_found_at_reading(store, name):
    run = filled(store).commit()
    overwrite(run.path / name)
    again = store.get(run.id)
    read = {"metrics.parquet": lambda: again.metrics, "spectrum.parquet": lambda: again.probe("spectrum")}
    with pytest.raises(RunError, match=f"{name} is damaged.*delete the run and train it again"):
        read.get(name, again.tensors)()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [truncate, os.unlink])
def test_a_file_damaged_after_opening_is_found_at_reading(store, name, harm):
    run = filled(store).commit()
    again = Run(run.path)
    again._checksums.clear()  # as for a file too large to have one
    harm(run.path / name)
    read = {"metrics.parquet": lambda: again.metrics, "spectrum.parquet": lambda: again.probe("spectrum")}
    with pytest.raises(RunError, match=f"{name} is damaged"):
        read.get(name, again.tensors)()


def edited(**changes):
    def harm(path):
        record = json.loads(path.read_text())
        record.update(changes)
        path.write_text(json.dumps({key: value for key, value in record.items() if value != "drop"}))

    return harm


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "run.json is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), "run.json is damaged"),
        (lambda path: path.write_text("[" * 100_000), "run.json is damaged"),
        (lambda path: path.write_text("[]"), "it lacks created"),
        (os.unlink, "run.json is missing"),
        (edited(spec={"seed": 4}), "its id does not match"),
        (edited(id="0" * 16), "its id does not match"),
        (edited(status="drop"), "it lacks status"),
        (edited(files=[1]), "files cannot be read"),
        (edited(summary=None), "summary cannot be read"),
        (edited(format=99), "of format 99; this version reads 1"),
    ],
)
def test_a_damaged_record_is_found_at_listing(store, harm, words):
    run = filled(store).commit()
    harm(run.path / "run.json")
    [(path, reason)] = store.damaged()
    assert path == run.path
    assert words in reason
    with pytest.warns(UserWarning, match="1 damaged"):
        assert store.runs() == []
    assert store.delete(run.id) == run.id
    assert store.damaged() == []


def test_a_copied_run_folder_is_no_second_run(store):
    run = filled(store).commit()
    shutil.copytree(run.path, store.root / f"{run.id}-copy")
    with pytest.warns(UserWarning, match=f"holds run {run.id}"):
        assert len(store.runs()) == 1
    assert store.get(run.id).id == run.id


def test_a_damaged_run_is_replaced_by_a_whole_one(store):
    run = filled(store).commit()
    truncate(run.path / "metrics.parquet")
    assert filled(store, value=0.75).commit().final("accuracy") == 0.75
    assert (store.damaged(), left_over(store)) == ([], [])


# --- killed and competing processes ---------------------------------------------------------------------------------------


def test_a_killed_writer_leaves_no_run_and_is_swept(store):
    code = """
        import os, signal, sys
        import pandas as pd
        from wbench.runs import RunStore
        writer = RunStore(sys.argv[1]).writer({"task": {"id": "digits"}, "seed": 3})
        writer.table("t", pd.DataFrame({"x": [1]}))
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        writer.commit()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), store.root], capture_output=True)
    assert done.returncode == -9
    [half] = left_over(store)
    assert half.startswith(f".tmp-{run_id(SPEC)}-")
    assert (store.runs(), store.damaged(), store.find(run_id(SPEC))) == ([], [], None)
    with pytest.raises(RunError, match="no run"):
        store.delete(half)
    alive = store.root / f".tmp-{run_id(SPEC)}-{os.getpid()}-0123abcd"
    alive.mkdir()
    assert store.sweep() == [half]
    assert left_over(store) == [alive.name]
    assert RunStore(store.root / "none").sweep() == []


def test_a_failed_replacement_puts_the_former_run_back(store, monkeypatch):
    former = filled(store, value=0.25).commit(status="stopped")
    rename = os.rename

    def full(source, target):
        if ".tmp-" in str(source):
            fail()
        rename(source, target)

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(RunError, match="No space left"):
        filled(store, value=0.75).commit()
    monkeypatch.undo()
    assert (store.get(former.id).final("accuracy"), left_over(store)) == (0.25, [])


def test_a_finished_run_that_appears_during_a_commit_is_kept(store, monkeypatch):
    """Another process finishes between this one's look and its rename."""
    filled(store, value=0.25).commit(status="stopped")
    kept, calls = moves._kept, []

    def late(folder):
        found = kept(folder)
        if not calls:
            calls.append(folder)
            shutil.rmtree(folder)
            other = RunStore(store.root.parent / "other")
            os.rename(filled(other, value=0.75).commit().path, folder)
        return found

    monkeypatch.setattr(moves, "_kept", late)
    ours = filled(store, value=0.5).commit(status="stopped")
    assert (ours.status, ours.final("accuracy"), left_over(store)) == ("finished", 0.75, [])


def commit_one(root, index):
    torch.set_num_threads(1)
    return filled(RunStore(root), value=index / 8).commit().final("accuracy")


def test_processes_that_finish_the_same_run_agree_on_one(store):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        values = list(pool.map(commit_one, [str(store.root)] * 8, range(8)))
    assert len(set(values)) == 1
    assert store.runs()[0].final("accuracy") == values[0]
    assert left_over(store) == []


def test_a_reader_never_sees_half_a_run_while_it_is_replaced(store):
    run = filled(store).commit(status="stopped")
    stop, seen, wrong = threading.Event(), [], []

    def read():
        while not stop.is_set():
            found = store.find(run.id)
            if found is not None:
                seen.append(found.status)
            elif (store.path(run.id)).exists() and store.damaged():
                wrong.extend(store.damaged())

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(15):
        filled(store, value=float(index)).commit(status="stopped")
    stop.set()
    reader.join()
    assert seen
    assert wrong == []
    assert (store.get(run.id).final("accuracy"), left_over(store)) == (14.0, [])
