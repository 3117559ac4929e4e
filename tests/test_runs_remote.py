"""Runs at a URL: in memory, and on an S3-compatible server that the tests start."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
import torch
from s3_server import needs_s3, serving

from wbench import runs as ask
from wbench.errors import RunError
from wbench.runs import RunStore, run_id
from wbench.runs.place import Unreachable
from wbench.runs.remote_files import Files
from wbench.runs.url import without_password

fsspec = pytest.importorskip("fsspec")
SPEC = {"task": {"id": "digits"}, "seed": 3}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture(params=["memory", pytest.param("s3", marks=needs_s3)])
def store(request):
    if request.param == "memory":
        return RunStore(f"memory://{uuid.uuid4().hex}/runs")
    request.getfixturevalue("server")
    return RunStore(f"s3://bucket/{uuid.uuid4().hex}")


@pytest.fixture
def s3(server):
    return RunStore(f"s3://bucket/{uuid.uuid4().hex}")


def filled(store, spec=SPEC, value=0.5):
    writer = store.writer(spec)
    writer.log([{"step": 0, "phase": "end", "split": "test", "name": "accuracy", "value": value}])
    writer.table("spectrum", pd.DataFrame({"step": range(50), "value": [value] * 50}))
    writer.tensors("weights", {"w": torch.full((5, 2), value)})
    return writer


def there(store):
    """Every file below the store, asked of the protocol itself."""
    fs, base = fsspec.core.url_to_fs(store.url)
    fs.invalidate_cache()
    return sorted(path.removeprefix(base).lstrip("/") for path in fs.find(base))


def attempts(store):
    return {tuple(path.split("/")[:2]) for path in there(store) if path.count("/") > 1}


def put(store, path, data):
    fs, base = fsspec.core.url_to_fs(store.url)
    fs.pipe_file(f"{base}/{path}", data)


# --- what is written is read ----------------------------------------------------------------------------------------


def test_a_run_at_a_url_comes_back_as_it_was_written(store, tmp_path):
    local = filled(RunStore(tmp_path / "runs")).commit(info={"device": "cpu"})
    made = filled(store).commit(info={"device": "cpu"})
    again = RunStore(store.url).get(made.id[:6])
    for name in ("id", "spec", "info", "status", "reason", "summary", "seed", "task", "methods", "probes"):
        assert getattr(again, name) == getattr(local, name)
    assert not again.path.exists()  # nothing was fetched yet
    assert again.metrics.equals(local.metrics)
    assert again.probe("spectrum").equals(local.probe("spectrum"))
    assert torch.equal(again.tensors()["w"], local.tensors()["w"])
    assert again.path.is_relative_to(tmp_path / "home" / "cache")
    assert sorted(path.name for path in again.path.iterdir()) == [
        "metrics.parquet",
        "spectrum.parquet",
        "weights.safetensors",
    ]
    with pytest.raises(RunError, match="no local folder"):
        store.root  # noqa: B018


def test_a_store_is_listed_compared_and_emptied_as_a_local_one(store):
    assert (store.runs(), store.damaged(), store.find(run_id(SPEC)), store.frame().empty) == ([], [], None, True)
    runs = [filled(store, {**SPEC, "seed": seed}, seed / 4).commit(status) for seed, status in enumerate(
        ("finished", "diverged", "stopped", "failed")
    )]  # fmt: skip
    assert {run.id: run.status for run in store.runs()} == {run.id: run.status for run in runs}
    assert store.frame().set_index("id").loc[runs[3].id, "metric.test.accuracy"] == 0.75
    assert store.compare([runs[0].id, runs[3].id]).loc["seed"].tolist() == [0, 3]
    asked = [runs[3].id, runs[1].id, "0" * 16, runs[0].id]
    assert list(store.finished(asked)) == [runs[1].id, runs[0].id]
    for run in runs:
        assert store.delete(run.id[:8]) == run.id
    assert there(store) == []
    with pytest.raises(RunError, match="no run"):
        store.delete(runs[0].id)


def test_a_table_computed_later_is_kept_at_the_url_and_replaced(store):
    run = filled(store).commit()
    run.attach("landscape", pd.DataFrame({"alpha": [0.0]}))
    again = store.get(run.id)
    assert again.probe("landscape")["alpha"].tolist() == [0.0]
    run.attach("landscape", pd.DataFrame({"alpha": [1.0, 2.0]}))
    assert again.probes == ["spectrum", "landscape"]
    assert again.probe("landscape")["alpha"].tolist() == [1.0, 2.0]
    with pytest.raises(RunError, match="recorded 'spectrum' itself"):
        run.attach("spectrum", pd.DataFrame({"alpha": [0.0]}))


def test_questions_are_answered_from_a_url(store):
    for seed in range(3):
        filled(store, {**SPEC, "seed": seed}, seed / 4).commit()
    store.runs()[0].attach("landscape", pd.DataFrame({"alpha": [7.0]}))
    for _ in range(2):  # fetched, then from what was fetched
        answer = ask("SELECT seed, m.value, count(*) AS n FROM runs JOIN metrics m ON m.run = id JOIN spectrum s ON s.run = id "
                     "GROUP BY ALL ORDER BY seed", store)  # fmt: skip
        assert answer.to_numpy().tolist() == [[0, 0.0, 50], [1, 0.25, 50], [2, 0.5, 50]]
        assert ask("SELECT run, alpha FROM landscape", store).to_numpy().tolist() == [[store.runs()[0].id, 7.0]]


def test_finished_runs_are_never_replaced_and_partial_ones_are(store):
    run = filled(store, value=0.25).commit("failed", "out of memory")
    assert filled(store, value=0.5).commit("stopped").final("accuracy") == 0.5
    assert (store.get(run.id).status, len(attempts(store))) == ("stopped", 1)
    assert filled(store, value=0.75).commit().final("accuracy") == 0.75
    for status in ("finished", "diverged", "stopped", "failed"):
        assert filled(store, value=1.0).commit(status).final("accuracy") == 0.75
    assert len(attempts(store)) == 1
    assert [path for path in there(store) if path.endswith(".json")] == [f"{run.id}/run.json"]


def test_a_file_url_is_the_local_folder(tmp_path):
    run = filled(RunStore(f"file://{tmp_path}/runs")).commit()
    assert run.path == tmp_path / "runs" / run.id
    assert RunStore(RunStore(tmp_path / "runs").url).get(run.id).id == run.id


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nothing://x", "nothing://x.*nothing"),
        ("memory://", "names no folder"),
        ("memory://a*", "a plain URL is allowed"),
    ],
)
def test_a_url_that_cannot_hold_runs_is_refused(url, words):
    with pytest.raises(RunError, match=words):
        RunStore(url)


def test_a_password_in_a_url_is_not_shown(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(f"cannot open memory://anna:se@cret@host/runs/{args[0]}")

    store = RunStore("memory://anna:se@cret@host/runs")
    assert repr(store) == "RunStore('memory://host/runs')"
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", refuse)
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.put_file", refuse)
    for use in (lambda: store.find("0" * 16), store.check_writable, lambda: store.writer(SPEC)):
        with pytest.raises(RunError) as caught:
            use()
        assert "cret" not in str(caught.value)
        assert caught.value.__cause__ is None or "cret" not in str(caught.value.__cause__)
    assert without_password("s3://bucket/a@b and x://u:p@h/c") == "s3://bucket/a@b and x://h/c"


@pytest.mark.parametrize("failing", ["put_file", "pipe_file"])
def test_an_upload_that_fails_loses_nothing(failing, tmp_path, monkeypatch):
    store = RunStore(f"memory://{uuid.uuid4().hex}/runs")
    writer = filled(store)
    real, calls = getattr(fsspec.implementations.memory.MemoryFileSystem, failing), []

    def full(self, *args, **kwargs):
        calls.append(args)
        if len(calls) > (failing == "put_file"):  # in the middle of several files, or at the record
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(f"fsspec.implementations.memory.MemoryFileSystem.{failing}", full)
        with pytest.raises(
            RunError, match="No space left on device; free space and commit again.*nothing is lost"
        ) as caught:
            writer.commit()
    assert (there(store), store.runs(), store.damaged()) == ([], [], [])
    elsewhere = RunStore(tmp_path / "elsewhere")
    assert caught.value.writer.commit(to=elsewhere).final("accuracy") == 0.5
    assert writer.commit().final("accuracy") == 0.5


def test_a_local_disk_that_is_full_loses_nothing(store, monkeypatch):
    writer = filled(store)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(RunError, match="No space left on device"):
            writer.commit()
    assert there(store) == []
    assert writer.commit().final("accuracy") == 0.5


@needs_s3
def test_a_server_that_is_gone_is_said_and_is_not_taken_for_an_empty_store(s3, tmp_path, monkeypatch):
    writer, run = filled(s3, {"seed": 9}), filled(s3).commit()
    fresh = RunStore(s3.url)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    conf = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", conf)
    for use in (lambda: fresh.find(run.id), lambda: fresh.finished([run.id]), fresh.runs):
        with pytest.raises(Unreachable, match="cannot be read: .*onnect"):
            use()
    with pytest.raises(RunError, match="runs cannot be kept in s3://bucket"):
        fresh.check_writable()
    with pytest.raises(RunError, match="nothing is lost") as caught:
        writer.commit()
    assert caught.value.writer.commit(to=RunStore(tmp_path / "elsewhere")).final("accuracy") == 0.5
    monkeypatch.undo()


@needs_s3
def test_a_bucket_that_does_not_exist_is_refused_before_training(server):
    with pytest.raises(RunError, match=r"runs cannot be kept in s3://absent/runs: .*bucket"):
        RunStore("s3://absent/runs").writer(SPEC)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda record: b"{", "run.json is damaged"),
        (lambda record: json.dumps(record | {"attempt": "../../x"}).encode(), "is no folder of an attempt"),
        (lambda record: json.dumps(record | {"attempt": "0" * 32}).encode(), "metrics.parquet is missing"),
        (lambda record: json.dumps(record | {"files": {"../x": 1}}).encode(), "list of files cannot be read at '../x'"),
        (lambda record: json.dumps(record | {"files": {"metrics.parquet": 1}}).encode(), "instead of 1"),
        (lambda record: json.dumps(record | {"status": "failed"}).encode(), "does not belong there"),
    ],
)
def test_a_damaged_record_is_named_left_out_and_replaced(store, harm, words):
    good, run = filled(store, {"seed": 1}).commit(), filled(store).commit()
    fs, base = fsspec.core.url_to_fs(store.url)
    put(store, f"{run.id}/run.json", harm(json.loads(fs.cat_file(f"{base}/{run.id}/run.json"))))
    [(where, reason)] = store.damaged()
    assert where == f"{store}/{run.id}"
    assert words in reason
    with pytest.warns(UserWarning, match="1 damaged"):
        assert [found.id for found in store.runs()] == [good.id]
    assert list(store.finished([run.id, good.id])) == [good.id]
    assert filled(store, value=0.75).commit().final("accuracy") == 0.75
    assert store.damaged() == []


def test_a_changed_file_is_found_at_reading_and_a_changed_copy_is_fetched_again(store):
    run = filled(store).commit()
    assert store.get(run.id).probe("spectrum")["value"].iloc[0] == 0.5
    copy = store.get(run.id).path / "spectrum.parquet"
    data = copy.read_bytes()
    changed = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    copy.write_bytes(changed)
    assert store.get(run.id).probe("spectrum")["value"].iloc[0] == 0.5
    copy.unlink()
    put(store, f"{run.remote}/spectrum.parquet", changed)
    with pytest.raises(RunError, match=r"spectrum.parquet is damaged.*delete the run and train it again"):
        store.get(run.id).probe("spectrum")
    assert store.delete(run.id) == run.id
    with pytest.raises(RunError, match="is missing|deleted or replaced meanwhile"):
        run.metrics  # noqa: B018


def test_what_dead_attempts_left_is_swept_after_a_day_and_nothing_else(store, monkeypatch):
    finished, stopped = filled(store, {"seed": 1}).commit(), filled(store, {"seed": 2}).commit("stopped")
    stopped.attach("landscape", pd.DataFrame({"alpha": [0.0]}))
    whole = there(store)
    put(store, f"{finished.id}/{'a' * 32}/metrics.parquet", b"half")
    put(store, f"{'f' * 16}/{'b' * 32}/metrics.parquet", b"half")
    assert (len(store.runs()), store.damaged()) == (2, [])
    assert store.sweep() == []
    now = Files.now
    with monkeypatch.context() as patch:  # the server's clock, not this machine's, decides
        patch.setattr(time, "time", lambda: 4e9)
        assert store.sweep() == []
        patch.setattr(Files, "now", lambda self: now(self) + 90_000)
        assert sorted(store.sweep()) == sorted([f"{finished.id}/{'a' * 32}", f"{'f' * 16}/{'b' * 32}"])
    assert there(store) == whole
    with pytest.raises(RunError, match="older_than=-1"):
        store.sweep(-1)


# --- competing and killed writers -------------------------------------------------------------------------------------


def test_threads_that_finish_the_same_run_agree_on_one(store):
    """A stopped run lies there, and writers of every kind meet."""
    filled(store, value=0.0).commit("stopped")
    start, found = threading.Barrier(6), []

    def commit(index):
        writer = filled(store, value=(index + 1) / 8)
        start.wait()
        found.append(writer.commit("finished" if index % 2 else "stopped"))

    threads = [threading.Thread(target=commit, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    [run] = store.runs()
    values = {run.final("accuracy") for run in found if run.status == "finished"}
    assert (run.status, values, store.damaged()) == ("finished", {run.final("accuracy")}, [])
    assert run.probe("spectrum")["value"].unique().tolist() == [run.final("accuracy")]
    store.sweep(older_than=0)
    assert attempts(store) == {(run.id, run.attempt)}
    assert [path for path in there(store) if path.endswith(".json")] == [f"{run.id}/run.json"]


def commit_many(url, index):
    torch.set_num_threads(1)
    store = RunStore(url)
    found = [filled(store, {**SPEC, "seed": seed}, value=(index + 1) / 8).commit() for seed in range(6)]
    return [
        (run.id, run.final("accuracy"), run.metrics["value"].iloc[0], run.tensors()["w"][0, 0].item()) for run in found
    ]


@needs_s3
def test_processes_that_finish_the_same_runs_agree_on_each(s3):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = pool.map(commit_many, [s3.url] * 2, range(2))
    assert first == second
    for name, *values in first:
        assert len(set(values)) == 1  # the record, the metrics and the weights are of one writer
        assert s3.get(name).final("accuracy") == values[0]
    s3.sweep(older_than=0)
    assert len(attempts(s3)) == 6


@needs_s3
@pytest.mark.parametrize("stage", ["upload", "put"])
def test_a_killed_upload_leaves_no_run_and_is_swept(s3, stage):
    code = """
        import os, signal, sys
        from test_runs_remote import filled
        from wbench.runs import RunStore
        from wbench.runs.remote_files import Files
        writer = filled(RunStore(sys.argv[1]))
        real = Files.upload
        def half(self, files):
            real(self, dict(list(files.items())[:1]))
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(Files, sys.argv[2], half if sys.argv[2] == "upload" else lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        writer.commit()
    """
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), s3.url, stage], env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == -signal.SIGKILL
    left = there(s3)
    assert len(left) == (1 if stage == "upload" else 3)
    assert (s3.runs(), s3.damaged(), s3.find(run_id(SPEC)), s3.sweep()) == ([], [], None, [])
    assert filled(s3).commit().final("accuracy") == 0.5
    assert s3.sweep(older_than=0) == ["/".join(left[0].split("/")[:2])]
    assert s3.runs()[0].probe("spectrum")["value"].iloc[0] == 0.5


@needs_s3
def test_many_records_are_read_at_once_and_listed_once(s3, monkeypatch):
    import s3fs

    model = filled(s3).commit()
    fs, base = fsspec.core.url_to_fs(s3.url)
    record = json.loads(fs.cat_file(f"{base}/{model.id}/run.json")) | {"files": {}, "sha256": {}}
    specs = [{**SPEC, "seed": 100 + seed} for seed in range(200)]
    fs.pipe({
        f"{base}/{run_id(spec)}/run.json": json.dumps(record | {"id": run_id(spec), "spec": spec}).encode()
        for spec in specs
    })
    calls, real = [], s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        calls.append(method)
        return await real(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    found = s3.finished([run_id(spec) for spec in specs[:150]])
    assert len(found) == 150
    assert calls.count("get_object") == 150
    assert len(calls) <= 153
