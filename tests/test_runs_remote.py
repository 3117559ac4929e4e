"""Runs at a URL: in memory, and on an S3-compatible server that the tests start."""

import errno
import json
import os
import socket
import time
import uuid

import fsspec
import pandas as pd
import pytest
import torch
from remote_run import SPEC, attempts, filled, put, there
from s3_server import needs_s3

from wbench import runs as ask
from wbench.errors import RunError
from wbench.runs import RunStore, run_id
from wbench.runs.place import Unreachable
from wbench.runs.remote_files import Files
from wbench.runs.url import without_password

pytest_plugins = ("remote_stores",)  # server, store, s3


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


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
