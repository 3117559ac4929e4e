"""Runs at a URL whose writers compete, are killed, or left much behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor

import fsspec
import pytest
import torch
from remote_run import SPEC, attempts, filled, there
from s3_server import needs_s3

from wbench.runs import RunStore, run_id

pytest_plugins = ("remote_stores",)  # server, store, s3


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
        from remote_run import filled
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
