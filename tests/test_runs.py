"""Runs on disk: names, round trips, listing, comparing, deleting."""

import hashlib
import json
import math
import time
import types

import numpy as np
import pandas as pd
import pytest
import torch

from wbench.errors import RunError
from wbench.runs import Run, RunStore, run_id

SPEC = {
    "task": {"id": "digits"},
    "methods": [{"id": "galore", "fields": {"rank": 8}}],
    "seed": 3,
    "recipe": {"lr": 0.1},
}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def rows(*values, split="test", name="accuracy"):
    return [{"step": i, "phase": "train", "split": split, "name": name, "value": v} for i, v in enumerate(values)]


def record(store, spec=SPEC, *, status="finished", value=0.5, reason=""):
    writer = store.writer(spec)
    writer.log(rows(0.1, value))
    writer.table("spectrum", pd.DataFrame({"step": [0, 1], "value": [1.0, 2.0]}))
    writer.tensors("weights", {"fc.weight": torch.arange(6.0).reshape(2, 3)})
    return writer.commit(status=status, reason=reason)


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_name_is_the_hash_of_sorted_compact_json():
    text = '{"a":[1,true,null,"x"],"b":0.1}'
    assert run_id({"b": 0.1, "a": (1, True, None, "x")}) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_name_depends_on_values_and_not_on_order_or_container():
    name = run_id(SPEC)
    assert run_id(dict(reversed(SPEC.items()))) == name
    assert run_id(types.MappingProxyType({**SPEC, "methods": tuple(SPEC["methods"])})) == name
    changed = [
        {**SPEC, "seed": 4},
        {**SPEC, "seed": 3.0},
        {**SPEC, "recipe": {"lr": 0.1 + 1e-16}},
        {**SPEC, "extra": None},
    ]
    assert len({name, *map(run_id, changed)}) == 5


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), r"spec\.a\[1\]\.b=nan"),
        (float("inf"), r"spec\.a\[1\]\.b=inf"),
        (np.int64(3), r"spec\.a\[1\]\.b="),
        (torch.ones(1), r"spec\.a\[1\]\.b="),
        ({1: 2}, r"spec\.a\[1\]\.b has the key 1"),
        ({"x"}, r"spec\.a\[1\]\.b="),
    ],
)
def test_a_value_that_is_no_json_is_refused_by_its_place(value, place):
    with pytest.raises(RunError, match=place):
        run_id({"a": [0, {"b": value}]})


# --- what is written is read ------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_written(store):
    writer = store.writer(SPEC, {"device": "cpu"})
    writer.log(rows(0.25, 0.75))
    writer.log(rows(1.5, split="train", name="loss"))
    for step in range(2):
        writer.table("spectrum", pd.DataFrame({"step": [step], "layer": ["fc"], "value": [float(step)]}))
    state = {
        "w": torch.randn(4, 3).t(), "half": torch.randn(5).bfloat16(), "count": torch.tensor(7), "none": torch.empty(0, 3),
    }  # fmt: skip
    writer.tensors("weights", state)
    run = writer.commit(info={"timings": {"seconds": 1.5}})

    again = store.find(run_id(SPEC))
    assert (again.id, again.path, again.status, again.reason) == (run_id(SPEC), store.root / run.id, "finished", "")
    assert (again.spec, again.info) == (SPEC, {"device": "cpu", "timings": {"seconds": 1.5}})
    assert (again.seed, again.task, again.methods, again.label) == (3, "digits", ("galore",), "digits + galore")
    assert list(again.metrics.columns) == ["step", "phase", "split", "name", "value"]
    assert again.metrics["value"].tolist() == [0.25, 0.75, 1.5]
    assert again.probes == ["spectrum"]
    assert again.probe("spectrum")["value"].tolist() == [0.0, 1.0]
    assert (again.final("accuracy"), again.final("loss", "train")) == (0.75, 1.5)
    loaded = again.tensors()
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_files_are_open_formats(store):
    run = record(store)
    assert {path.name for path in run.path.iterdir()} == {
        "run.json",
        "metrics.parquet",
        "spectrum.parquet",
        "weights.safetensors",
    }
    content = json.loads((run.path / "run.json").read_text())
    for name, size in content["files"].items():
        data = (run.path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (size, content["sha256"][name])


def test_tied_tensors_are_stored_once_and_tied_again(store):
    table = torch.randn(100, 50)
    writer = store.writer(SPEC)
    writer.tensors("weights", {"embed": table, "head": table, "view": table[:50], "other": table.clone()})
    run = writer.commit()
    loaded = run.tensors()
    assert loaded["embed"].data_ptr() == loaded["head"].data_ptr() != loaded["other"].data_ptr()
    for name, tensor in {"embed": table, "head": table, "view": table[:50], "other": table}.items():
        assert torch.equal(loaded[name], tensor)
    assert (run.path / "weights.safetensors").stat().st_size < 2.6 * table.numel() * 4


def test_what_is_kept_is_as_it_was_when_it_was_given(store):
    spec = {"seed": 1, "nested": {"list": [1]}}
    weight, frame = torch.zeros(3, requires_grad=True), pd.DataFrame({"step": [0]})
    writer = store.writer(spec)
    writer.tensors("weights", {"w": weight})
    writer.table("probe", frame)
    spec["nested"]["list"].append(2)
    frame.loc[0, "step"] = 9
    with torch.no_grad():
        weight.fill_(1.0)
    run = writer.commit()
    assert run.spec == {"seed": 1, "nested": {"list": [1]}}
    assert torch.equal(run.tensors()["w"], torch.zeros(3))
    assert run.probe("probe")["step"].tolist() == [0]


def test_numbers_that_are_not_finite_are_kept_as_nan(store):
    writer = store.writer(SPEC, {"speed": float("inf"), "folder": store.root})
    writer.log(rows(0.5, float("nan")))
    run = writer.commit(status="diverged", reason="loss is NaN at step 1 in layer fc")
    assert math.isnan(run.final("accuracy"))
    assert math.isnan(run.metrics["value"].iloc[-1])
    assert (run.status, run.info["speed"], run.info["folder"]) == ("diverged", None, str(store.root))


def test_an_empty_run_can_be_kept(store):
    run = store.writer({}).commit(status="stopped", reason="interrupted")
    assert run.metrics.empty
    assert (run.seed, run.task, run.methods, run.probes) == (0, "?", (), [])
    assert run.id in repr(run)


def test_a_live_writer_answers_like_a_run(store):
    writer = store.writer(SPEC)
    writer.log(rows(0.1))
    writer.table("spectrum", pd.DataFrame({"step": [0]}))
    writer.table("spectrum", pd.DataFrame({"step": [1]}))
    assert writer.metrics["value"].tolist() == [0.1]
    assert writer.probe("spectrum")["step"].tolist() == [0, 1]
    with pytest.raises(RunError, match="'spectrun'.*Did you mean spectrum"):
        writer.probe("spectrun")
    assert store.runs() == []


def test_a_table_computed_later_is_found_and_replaced(store):
    run = record(store)
    run.attach("landscape", pd.DataFrame({"alpha": [0.0]}))
    run.attach("landscape", pd.DataFrame({"alpha": [1.0, 2.0]}))
    again = store.get(run.id)
    assert again.probes == ["spectrum", "landscape"]
    assert again.probe("landscape")["alpha"].tolist() == [1.0, 2.0]
    assert [path.name for path in (run.path / "derived").iterdir()] == ["landscape.parquet"]
    with pytest.raises(RunError, match="recorded 'spectrum' itself"):
        run.attach("spectrum", pd.DataFrame({"alpha": [0.0]}))


def test_what_was_not_recorded_is_refused_with_what_was(store):
    run = record(store)
    for ask, words in (
        (lambda: run.probe("spectra"), "no table 'spectra'.*Did you mean spectrum"),
        (lambda: run.probe("metrics"), "no table 'metrics'"),
        (lambda: run.tensors("trained"), "kept no tensors 'trained'; it has: weights"),
        (lambda: run.final("acuracy"), r"no metric 'test.acuracy'.*test.accuracy"),
    ):
        with pytest.raises(RunError, match=words):
            ask()


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "metrics", "a\0b", "x" * 200])
def test_a_name_that_is_no_file_name_is_refused(store, name):
    writer, run = store.writer({"seed": 0}), record(store)
    frame = pd.DataFrame({"x": [1]})
    for use in (lambda: writer.table(name, frame), lambda: writer.tensors(name, {}), lambda: run.attach(name, frame)):
        with pytest.raises(RunError, match="cannot be named"):
            use()
    with pytest.raises(RunError):
        run.probe(name)
    with pytest.raises(RunError):
        run.tensors(name)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"step": 0, "phase": "train", "split": "test", "name": "loss"},
            "a metric row has step, phase, split, name, value",
        ),
        ({**rows(1.0)[0], "unit": "nats"}, "got step, phase, split, name, value, unit"),
        ({**rows(1.0)[0], "value": "high"}, "'test.accuracy' must be a number, got 'high'"),
        ({**rows(1.0)[0], "value": None}, "must be a number, got None"),
    ],
)
def test_a_row_that_could_not_be_written_is_refused_when_it_is_logged(store, row, words):
    with pytest.raises(RunError, match=words):
        store.writer(SPEC).log([row])


def test_an_unknown_status_is_refused(store):
    with pytest.raises(RunError, match="status='done' is not allowed; allowed: finished, diverged, stopped, failed"):
        store.writer(SPEC).commit(status="done")


def test_html_of_a_run_shows_untrusted_text_as_text(store):
    evil = "<script>alert('x')</script>"
    writer = store.writer({"task": {"id": evil}, "methods": [{"id": evil}]})
    writer.log(rows(1.0, name=evil))
    shown = writer.commit(status="failed", reason=evil)._repr_html_()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 4


def test_any_json_can_be_a_spec(store):
    for spec in (
        {"task": "digits", "methods": "none", "seed": "first"},
        {"task": None, "methods": [1, None]},
        {"seed": [1]},
    ):
        run = store.writer(spec).commit()
        assert run.id in repr(run) + run._repr_html_()
    assert len(store.frame()) == 3


# --- the store --------------------------------------------------------------------------------------------------------


def test_the_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WBENCH_HOME", str(tmp_path / "home"))
    assert RunStore().root == tmp_path / "home" / "runs"
    monkeypatch.chdir(tmp_path)
    for unset in (lambda: monkeypatch.setenv("WBENCH_HOME", ""), lambda: monkeypatch.delenv("WBENCH_HOME")):
        unset()
        assert RunStore().root.resolve() == tmp_path / ".wbench" / "runs"
    assert RunStore().runs() == []
    assert not (tmp_path / ".wbench").exists()


def test_a_finished_or_diverged_run_is_kept_and_a_partial_one_replaced(store):
    for status in ("finished", "diverged"):
        spec = {**SPEC, "kind": status}
        first = record(store, spec, status=status, value=0.5)
        assert record(store, spec, value=0.9).final("accuracy") == first.final("accuracy") == 0.5
    for status in ("stopped", "failed"):
        spec = {**SPEC, "kind": status}
        record(store, spec, status=status, value=0.5)
        assert record(store, spec, value=0.9).final("accuracy") == 0.9
    assert len(store.runs()) == 4
    assert [path.name for path in store.root.iterdir() if path.name.startswith(".")] == []


def test_runs_are_listed_newest_first(store, monkeypatch):
    for seed, created in ((0, 10.0), (1, 30.0), (2, 20.0)):
        monkeypatch.setattr(time, "time", lambda created=created: created)
        record(store, {"seed": seed})
    assert [run.seed for run in store.runs()] == [1, 2, 0]


def test_a_run_is_found_by_a_unique_start_of_its_id(store):
    run = record(store)
    others = [record(store, {"seed": seed}) for seed in range(40)]
    assert store.get(run.id).id == run.id
    assert store.find(run.id).id == run.id
    firsts = [other.id[0] for other in others]
    shared = next(first for first in firsts if firsts.count(first) > 1)
    with pytest.raises(RunError, match=f"'{shared}' is the start of .* runs"):
        store.get(shared)
    for absent in ("zzzz", "", ".", "../runs"):
        assert store.find(absent or "none") is None
        with pytest.raises(RunError, match="no run"):
            store.get(absent)


def test_the_table_of_runs_has_final_metrics_as_columns(store):
    record(store, SPEC, value=0.5)
    record(store, {"task": {"id": "digits"}, "seed": 1}, status="stopped", value=0.75)
    frame = store.frame().set_index("seed")
    assert frame.loc[3, ["task", "methods", "status", "metric.test.accuracy"]].tolist() == [
        "digits",
        "galore",
        "finished",
        0.5,
    ]
    assert frame.loc[1, ["task", "methods", "status", "metric.test.accuracy"]].tolist() == [
        "digits",
        "baseline",
        "stopped",
        0.75,
    ]
    assert abs(frame["created"].iloc[0].timestamp() - time.time()) < 60
    empty = RunStore(store.root / "none").frame()
    assert empty.empty
    assert list(empty.columns) == ["id", "created", "task", "methods", "seed", "status", "reason", "seconds"]


def test_only_what_differs_is_compared(store):
    twice = [{"id": "lora", "fields": {"rank": 4}}, {"id": "lora", "fields": {"rank": 8}}]
    a = record(store, {**SPEC, "methods": twice}, value=0.5)
    b = record(store, {**SPEC, "methods": [twice[0], {"id": "lora", "fields": {"rank": 16}}], "seed": 4}, value=0.75)
    table = store.compare([a.id, b.id[:10]])
    assert list(table.columns) == [a.id, b.id]
    assert {key: tuple(row) for key, row in zip(table.index, table.to_numpy(), strict=True)} == {
        "methods.lora[1].fields.rank": (8, 16), "seed": (3, 4), "metric.test.accuracy": (0.5, 0.75),
    }  # fmt: skip
    assert store.compare([a.id]).empty
    with pytest.raises(RunError, match="no run"):
        store.compare([a.id, "zzz"])


def test_deleting_leaves_nothing_and_spares_the_others(store):
    run, other = record(store), record(store, {"seed": 9})
    assert store.delete(run.id[:8]) == run.id
    assert [path.name for path in store.root.iterdir()] == [other.id]
    for absent in (run.id, "", ".", "..", "../runs"):
        with pytest.raises(RunError, match="no run"):
            store.delete(absent)


def test_two_thousand_runs_are_listed_in_well_under_a_second(store):
    model = record(store)
    text = (model.path / "run.json").read_text()
    for seed in range(2000):
        spec = {**SPEC, "seed": 1000 + seed}
        folder = store.root / run_id(spec)
        folder.mkdir()
        content = {**json.loads(text), "id": folder.name, "spec": spec}
        (folder / "run.json").write_text(json.dumps(content))
        for name in content["files"]:
            (folder / name).hardlink_to(model.path / name)
    store.runs()
    begin = time.process_time()
    assert len(store.runs()) == 2001
    assert time.process_time() - begin < 1.0


def test_one_run_opens_in_milliseconds(store):
    run = record(store)
    Run(run.path).metrics  # noqa: B018 - loads pandas and pyarrow
    begin = time.process_time()
    for _ in range(20):
        Run(run.path)
    opened = (time.process_time() - begin) / 20
    again = Run(run.path)
    begin = time.process_time()
    assert len(again.metrics) + len(again.probe("spectrum")) + len(again.tensors()) == 5
    everything = time.process_time() - begin
    assert opened < 0.005
    assert everything < 0.1
