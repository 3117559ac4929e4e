"""Runs over the years: the bulk resume decision, older formats, clocks that step back, and writers killed midway."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
import torch
from recorded_run import record, total

import wbench.runs.record as record_module
from wbench import runs as ask
from wbench.errors import RunError
from wbench.runs import RunStore


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


# --- the bulk resume decision -----------------------------------------------------------------------------------------


def test_only_whole_finished_or_diverged_runs_need_no_training(store):
    runs = {
        status: record(store, seed, status) for seed, status in enumerate(("finished", "diverged", "stopped", "failed"))
    }
    broken = record(store, 9)
    (broken.path / "metrics.parquet").unlink()
    copied = store.root / ("0" * 16)
    shutil.copytree(runs["finished"].path, copied)
    found = store.finished([*(run.id for run in runs.values()), broken.id, copied.name, "f" * 16, runs["finished"].id])
    assert {name: run.status for name, run in found.items()} == {
        runs[status].id: status for status in ("finished", "diverged")
    }  # fmt: skip
    assert store.finished([]) == {}


# --- older and newer formats ------------------------------------------------------------------------------------------


def first_format(root):
    """A run as the first format has it, written by hand: every later version reads it."""
    spec = {
        "task": {"id": "digits"},
        "methods": [{"id": "galore", "fields": {"rank": 8}}],
        "seed": 3,
        "recipe": {"lr": 0.1},
    }
    text = '{"methods":[{"fields":{"rank":8},"id":"galore"}],"recipe":{"lr":0.1},"seed":3,"task":{"id":"digits"}}'
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    metrics = {
        "step": [0, 1],
        "phase": ["train"] * 2,
        "split": ["test"] * 2,
        "name": ["accuracy"] * 2,
        "value": [0.25, 0.5],
    }
    pd.DataFrame(metrics).to_parquet(folder / "metrics.parquet", index=False)
    pd.DataFrame({"step": [0], "sigma": [2.0]}).to_parquet(folder / "spectrum.parquet", index=False)
    files = ("metrics.parquet", "spectrum.parquet")
    content = {
        "format": 1, "id": folder.name, "created": 1_700_000_000.5, "status": "finished", "reason": "",
        "summary": {"test.accuracy": 0.5}, "spec": spec, "info": {"timings": {"seconds": 2.0}},
        "files": {name: (folder / name).stat().st_size for name in files},
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content, indent=1))
    return folder


def check_first_format(store, folder):
    run = store.get(folder.name)
    assert list(store.finished([folder.name])) == [folder.name]
    assert (run.seed, run.status, run.final("accuracy"), run.created) == (3, "finished", 0.5, 1_700_000_000.5)
    assert (run.metrics["value"].tolist(), run.probe("spectrum")["sigma"].tolist()) == ([0.25, 0.5], [2.0])
    assert folder.name in ask("FROM runs", store)["id"].tolist()


def test_a_run_of_the_first_format_is_read_beside_those_of_today(store):
    folder = first_format(store.root)
    new = record(store, 8)
    check_first_format(store, folder)
    assert [run.id for run in store.runs()] == [new.id, folder.name]
    assert json.loads((folder / "run.json").read_text())["format"] == 1  # never rewritten


def test_an_older_format_is_brought_up_when_read_and_a_newer_one_is_refused(store, monkeypatch):
    folder = first_format(store.root)
    content = json.loads((folder / "run.json").read_text())
    older = {key: value for key, value in content.items() if key != "reason"} | {"format": 0, "why": ""}
    (folder / "run.json").write_text(json.dumps(older))
    with pytest.raises(RunError, match="format 0; this version reads 1"):
        store.get(folder.name)
    monkeypatch.setitem(record_module.MIGRATIONS, 0, lambda old: {**old, "reason": old["why"]})
    check_first_format(store, folder)
    (folder / "run.json").write_text(json.dumps({key: value for key, value in older.items() if key != "why"}))
    with pytest.raises(RunError, match="is no record of format 0"):
        store.get(folder.name)
    (folder / "run.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(RunError, match="format 2; this version reads 0 to 1; a newer wbench wrote it: update"):
        store.get(folder.name)


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [[2e9, 1e9, 0.0, -5.0], [1e9] * 4, [4e11, 1e300, 1e9, 1.0]])
def test_a_clock_that_steps_back_or_far_ahead_changes_no_result(store, tmp_path, monkeypatch, clock):
    plain = RunStore(tmp_path / "plain")
    for seed in range(4):
        record(plain, seed, value=seed / 8)
    for seed, now in enumerate(clock):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            patch.setattr(time, "perf_counter", lambda now=now: now)
            record(store, seed, "stopped")
            record(store, seed, value=seed / 8, info={"timings": {"seconds": -3.0}})
            assert store.sweep() == []
    assert [run.created for run in store.runs()] == sorted(clock, reverse=True)
    assert list(store.finished(store.place.names())) == list(plain.finished(plain.place.names()))
    assert total(store) == total(plain)
    metric = "metric.test.accuracy"
    for frame in (store.frame(), ask(store=store)):
        assert frame.set_index("id")[metric].to_dict() == plain.frame().set_index("id")[metric].to_dict()


# --- killed and competing writers of a folder -------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1])
def test_a_writer_killed_between_its_renames_loses_no_run(store, after):
    """The former run was moved aside, and the new one is, or is not, in its place."""
    former = record(store, 1, "stopped", value=0.25)
    code = """
        import os, signal, sys
        from test_runs_query import record
        from wbench.runs import RunStore
        real, calls = os.rename, []
        def rename(*given):
            real(*given)
            calls.append(given)
            if len(calls) > int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        os.rename = rename
        record(RunStore(sys.argv[1]), 1, value=0.75)
    """
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(store.root), str(after)],
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == -signal.SIGKILL
    assert store.damaged() == []
    store.sweep()
    assert [path.name for path in store.root.iterdir()] == [former.id]
    assert store.get(former.id).status == ("finished" if after else "stopped")
    assert record(store, 1, value=0.75).final("accuracy") == 1.5


def test_a_finished_run_left_aside_is_put_back_over_a_stopped_one_and_a_deleted_one_is_not(store):
    run = record(store, 1)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    run.path.rename(store.root / f".old-{run.id}-{child.pid}-0123abcd")
    record(store, 1, "stopped")
    gone = record(store, 2)
    gone.path.rename(store.root / f".gone-{gone.id}-{child.pid}-0123abcd")
    elsewhere = store.root / f".tmp-{run.id}-{child.pid}-{'0' * 16}"  # of another machine
    elsewhere.mkdir()
    assert len(store.sweep()) == 2
    assert [(found.id, found.status) for found in store.runs()] == [(run.id, "finished")]
    assert elsewhere.exists()
    os.utime(elsewhere, (1e9, 1e9))
    assert store.sweep() == [elsewhere.name]


def commit_many(root, value):
    torch.set_num_threads(1)
    store = RunStore(root)
    found = [record(store, seed % 15, "stopped" if seed < 15 else "finished", value=value) for seed in range(30)]
    return [(run.id, run.final("accuracy"), run.metrics["value"].iloc[-1]) for run in found[15:]]


def test_processes_that_commit_the_same_runs_many_times_agree_on_each(store):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = pool.map(commit_many, [str(store.root)] * 2, [0.25, 0.5])
    assert first == second == [(name, value, value) for name, value, _ in first]
    assert {run.id: run.final("accuracy") for run in store.runs()} == {name: value for name, value, _ in first}
    assert [path.name for path in store.root.iterdir() if path.name.startswith(".")] == []
