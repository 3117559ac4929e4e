"""Questions in SQL to all runs of a store, the bulk resume decision, older formats, and clocks that step back."""

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

import wbench.runs.record as record_module
from wbench import runs as ask
from wbench.errors import RunError
from wbench.runs import RunStore, run_id

SPEC = {"task": {"id": "digits"}, "methods": [{"id": "galore", "fields": {"rank": 8}}], "recipe": {"lr": 0.1}}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def record(store, seed=0, status="finished", value=0.5, lr=0.1, rank=8, table="spectrum", info=None):
    spec = {**SPEC, "seed": seed, "recipe": {"lr": lr}, "methods": [{"id": "galore", "fields": {"rank": rank}}]}
    writer = store.writer(spec, info)
    writer.log([
        {"step": step, "phase": "train", "split": "test", "name": "accuracy", "value": value * step} for step in range(3)
    ])  # fmt: skip
    writer.table(table, pd.DataFrame({"step": [0, 1], "sigma": [value, 2 * value]}))
    return writer.commit(status)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_table_of_runs_has_what_differs_and_final_metrics(store):
    record(store, 1, lr=0.1, rank=4, info={"timings": {"seconds": 1.5}})
    record(store, 2, lr=0.2, rank=[1, 2], status="stopped", value=0.25)
    frame = ask(store=store).set_index("seed")
    assert list(frame.columns) == [
        "id", "created", "task", "methods", "status", "reason", "seconds", "galore.rank", "recipe.lr",
        "metric.test.accuracy",
    ]  # fmt: skip
    assert frame["recipe.lr"].to_dict() == {1: 0.1, 2: 0.2}
    assert frame["galore.rank"].to_dict() == {1: "4", 2: "[1, 2]"}
    assert frame["metric.test.accuracy"].to_dict() == {1: 1.0, 2: 0.5}
    assert frame.loc[1, ["status", "methods", "task", "seconds"]].tolist() == ["finished", "galore", "digits", 1.5]
    assert abs(frame.loc[1, "created"].timestamp() - time.time()) < 60
    assert ask(store=store)["id"].tolist() == [run.id for run in store.runs()]


def test_answers_agree_with_pandas_on_the_runs_themselves(store):
    for seed in range(6):
        record(store, seed, lr=[0.1, 0.2][seed % 2], value=seed / 8, table=["spectrum", "histogram"][seed % 3 == 0])
    runs = store.runs()
    rows = pd.concat([run.metrics.assign(run=run.id, lr=run.spec["recipe"]["lr"]) for run in runs])
    expected = rows.groupby(["lr", "step"])["value"].mean().to_dict()
    query = 'SELECT "recipe.lr" lr, step, avg(value) v FROM metrics JOIN runs ON run = id GROUP BY ALL'
    for _ in range(2):  # read from the runs, then from the index
        assert {(row.lr, row.step): row.v for row in ask(query, store).itertuples()} == pytest.approx(expected)
    sigma = {run.id: run.probe("spectrum")["sigma"].sum() for run in runs if "spectrum" in run.probes}
    assert ask("SELECT run, sum(sigma) s FROM Spectrum GROUP BY run", store).set_index("run")["s"].to_dict() == sigma
    assert len(ask("FROM histogram", store)) == 4


def test_a_table_attached_later_is_asked_and_odd_names_and_columns_are_quoted(store):
    run, other = record(store, 1, table="a-b c"), record(store, 2)
    run.attach("landscape", pd.DataFrame({"run": ["x"], 'say "hi"': [3]}))
    assert ask("FROM landscape", store).to_dict("records") == [{"run": run.id, 'say "hi"': 3}]
    assert ask('SELECT run, sigma FROM "a-b c" WHERE step = 1', store).to_numpy().tolist() == [[run.id, 1.0]]
    other.attach("landscape", pd.DataFrame({"alpha": [0.5]}))
    assert set(ask("FROM landscape", store)["run"]) == {run.id, other.id}


def test_an_empty_store_and_empty_runs_are_asked(store):
    assert ask(store=store).empty
    assert ask("FROM metrics", store).empty
    store.writer({}).commit()
    record(store)
    assert ask("SELECT count(*) n FROM metrics", store)["n"].tolist() == [3]


# --- the index is never trusted ---------------------------------------------------------------------------------------


def total(store):
    frame = ask("SELECT run, max(value) v FROM metrics GROUP BY run", store)
    return frame.set_index("run")["v"].to_dict()


def direct(store):
    return {run.id: run.metrics["value"].max() for run in store.runs()}


def test_deleted_replaced_and_new_runs_are_seen_at_once(store):
    runs = [record(store, seed, status="stopped", value=0.25) for seed in range(3)]
    assert total(store) == direct(store) == {run.id: 0.5 for run in runs}
    store.delete(runs[0].id)
    record(store, 1, value=0.5)
    for seed in range(10, 22):  # more than the files that are merged
        record(store, seed, value=0.125)
        assert total(store) == direct(store)
    assert len(direct(store)) == 14
    assert len(list((store.root / ".index").glob("*"))) <= 9


@pytest.mark.parametrize("harm", [
    lambda data: b"", lambda data: data[:-20], lambda data: b"\0" * len(data), lambda data: data + b"x",
    lambda data: data[:60] + bytes(byte ^ 255 for byte in data[60:90]) + data[90:],
])  # fmt: skip
def test_a_damaged_index_is_made_again(store, harm):
    for seed in range(3):
        record(store, seed, value=seed / 8)
    expected = total(store)
    [file] = (store.root / ".index").iterdir()
    file.write_bytes(harm(file.read_bytes()))
    assert total(store) == expected == direct(store)
    assert total(store) == expected
    assert len(list((store.root / ".index").iterdir())) == 1


def test_a_store_whose_index_cannot_be_written_is_asked_all_the_same(store):
    record(store)
    (store.root / ".index").write_text("in the way")
    assert total(store) == direct(store)


def test_damaged_runs_are_left_out_with_one_warning(store):
    good, short, changed = (record(store, seed) for seed in range(3))
    os.truncate(short.path / "spectrum.parquet", 10)
    data = bytearray((changed.path / "metrics.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (changed.path / "metrics.parquet").write_bytes(data)
    with pytest.warns(UserWarning) as caught:
        assert list(total(store)) == [good.id]
    assert len(caught) == 2
    assert f"1 damaged run(s) are left out: {short.path} is damaged" in str(caught[0].message)
    assert str(changed.path) in str(caught[1].message)


def ask_one(root):
    store = RunStore(root)
    for seed in range(12):
        record(store, seed, value=seed / 16)
        found = total(store)
        if any(found[run] != value for run, value in direct(store).items() if run in found):
            return None
    return total(store)


def test_processes_that_extend_the_index_at_once_agree(store):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = pool.map(ask_one, [str(store.root)] * 2)
    assert first == second == direct(store)
    assert len(first) == 12


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW runs", "COPY runs TO '{path}'", "SET threads = 1", "ATTACH '{path}'", "CREATE TABLE x AS FROM runs",
        "INSTALL httpfs", "PRAGMA version", "DELETE FROM runs", "EXPORT DATABASE '{path}'", "SELECT 1; SELECT 2",
        "FROM runs; COPY runs TO '{path}'", "", ";", "EXPLAIN ANALYZE FROM runs", "CALL pragma_version()",
    ],
)  # fmt: skip
def test_a_statement_that_does_not_only_read_is_refused(store, tmp_path, query):
    record(store)
    before = sorted(tmp_path.rglob("*"))
    if query:
        with pytest.raises(RunError, match=r"statement.*allowed: one SELECT"):
            ask(query.format(path=tmp_path / "out"), store)
    else:
        assert len(ask(query, store)) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "source",
    ["read_text('{path}')", "'{path}'", "read_csv('{path}')", "glob('{folder}/*')", "read_blob('{path}')", "secret_frame",
     "read_parquet('https://localhost/x.parquet')", "sqlite_scan('{path}', 'x')"],
)  # fmt: skip
def test_other_files_networks_and_variables_cannot_be_read(store, tmp_path, source):
    record(store)
    secret_frame = pd.DataFrame({"x": [1]})
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="cannot be answered") as caught:
        ask(f"SELECT * FROM spectrum, {source.format(path=tmp_path / 'secret.csv', folder=tmp_path)}", store)
    assert "1,2" not in str(caught.value)
    assert len(secret_frame) == 1


def test_a_mistake_is_answered_with_duckdbs_reason_and_the_tables(store):
    record(store)
    with pytest.raises(RunError, match=r"(?s)nothing.*does not exist.*tables: runs, metrics, spectrum"):
        ask("FROM nothing", store)
    with pytest.raises(RunError, match="(?s)syntax error"):
        ask("SELEC 1", store)


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_thousand(store):
    model = record(store)
    content = json.loads((model.path / "run.json").read_text())
    for seed in range(1, 2000):
        spec = {**model.spec, "seed": seed, "recipe": {"lr": 1.0 + seed}}
        folder = store.root / run_id(spec)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({**content, "id": folder.name, "spec": spec}))
        for name in content["files"]:
            (folder / name).hardlink_to(model.path / name)
    return store


def test_two_thousand_runs_are_decided_and_asked_in_under_a_second(two_thousand):
    store = two_thousand
    ids = store.place.names()
    ask("FROM metrics", RunStore(store.root / "none"))  # imports
    total(store)  # the index

    def seconds(work):  # of computing, in the best of three: other processes of a busy machine slow this one down, too
        spent = []
        for _ in range(3):
            begin = time.process_time()
            assert len(work()) == 2000
            spent.append(time.process_time() - begin)
        return min(spent)

    assert seconds(lambda: store.finished(ids)) < 1.0
    assert seconds(lambda: ask(store=store)) < 1.0
    query = 'SELECT "recipe.lr", max(value) FROM metrics JOIN runs ON run = id GROUP BY ALL'
    assert seconds(lambda: ask(query, store)) < 1.0


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
