"""What a user can get wrong: refused by name with what is allowed, or survived with everything that was done kept."""

import errno
import json
import os
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import wbench as wb
from wbench import cli
from wbench.errors import CompositionError, DataError, KnobError, LayerMatchError, RunError, UnknownNameError

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
RECIPE = wb.Recipe(optimizer="sgd", lr=0.1, steps=12, batch_size=16)


def _with(value):
    x = X.copy()
    x[3, 2] = value
    return x


def never(*_):
    pytest.fail("training began")


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def arrays(x=X, y=Y, model=small, recipe=RECIPE, **options):
    return wb.Task.from_arrays(x, y, model=model, recipe=recipe, **options)


# --- names and knobs


@pytest.mark.parametrize(
    ("task", "method", "given", "near"),
    [("digits", "gallore", "gallore", "galore"), ("digits", "wieght_compander", "wieght_compander", "weight_compander"),
     ("mnits", None, "mnits", "mnist"), ("digit_stream", None, "digit_stream", "digit_streams")],
)  # fmt: skip
def test_an_unknown_method_or_task_is_refused_with_the_closest(tmp_path, task, method, given, near):
    with pytest.raises(UnknownNameError, match=rf"'{given}'\. Did you mean .*\b{near}\b") as raised:
        wb.train(task, method, scale="smoke", store=wb.RunStore(tmp_path / "s"), on_step=never)
    assert isinstance(raised.value, LookupError)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wb.methods.GaLore(rank=0), ["galore", "rank=0", "from 1 to 65536"]),
        (lambda: wb.methods.GaLore(rank=2.5), ["galore", "rank=2.5", "an integer"]),
        (lambda: wb.methods.GaLore(rank="8"), ["galore", "rank='8'", "an integer"]),
        (lambda: wb.methods.GaLore(scale=float("nan")), ["galore", "scale=nan", "a number"]),
        (lambda: wb.methods.GaLore(proj_type="both"), ["proj_type='both'", "one of std"]),
        (lambda: wb.methods.GaLore(ranks=8), ["'ranks'", "Did you mean rank"]),
        (lambda: wb.tasks.Digits(label_noise=1.5), ["digits", "label_noise=1.5", "from 0 to 1"]),
        (lambda: wb.Recipe(steps=-1), ["steps=-1", "an integer from"]),
        (lambda: wb.methods.GaLore().replace(rank=-3), ["galore", "rank=-3", "from 1 to 65536"]),
        (lambda: setattr(wb.methods.GaLore(), "rank", 8), ["rank", ".replace(rank=8)"]),
    ],
)  # fmt: skip
def test_a_refused_knob_names_field_value_and_what_is_allowed(make, words):
    with pytest.raises(KnobError) as raised:
        make()
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize("name", ["galore", "nap", "weight_compander", "bone"])
def test_a_layer_pattern_without_match_lists_the_closest_layers(tmp_path, name):
    method = wb.methods.get(name)(layers="blokcs.0")
    with pytest.raises(LayerMatchError) as raised:
        wb.train("digits", method, scale="smoke", store=wb.RunStore(tmp_path / "s"), on_step=never)
    assert name in str(raised.value)
    assert "blokcs.0" in str(raised.value)
    suggested = str(raised.value).rpartition("Did you mean ")[2].rstrip("?").split(", ")
    assert {"blocks.0"} <= set(suggested) or any(layer.startswith("blocks.0") for layer in suggested), raised.value
    assert wb.RunStore(tmp_path / "s").runs() == []


def test_two_optimizers_are_refused_by_name_before_training(tmp_path):
    with pytest.raises(CompositionError) as raised:
        wb.train(
            "digits", ["galore", "frozen_projection"], scale="smoke", store=wb.RunStore(tmp_path / "s"), on_step=never
        )
    assert "galore" in str(raised.value)
    assert "frozen_projection" in str(raised.value)
    assert not (tmp_path / "s").exists()


# --- data


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:0], Y[:0], "data set is empty"),
        (_with(np.nan), Y, "1 NaN or inf of 256 values"),
        (_with(np.inf), Y, "1 NaN or inf of 256 values"),
        (X, np.full(64, np.nan), "64 NaN or inf of 64 values"),
        (X, Y[:-1], r"differ in length: \[64, 63\]"),
        (np.array([["a", "b"]] * 64), Y, "cannot be read as numbers"),
        (None, Y, "cannot be read as numbers|empty"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_when_the_task_is_made(x, y, message):
    with pytest.raises(DataError, match=message):
        arrays(x, y)


def test_too_few_samples_to_hold_some_out_is_refused(tmp_path):
    with pytest.raises(DataError, match="1 samples are too few"):
        wb.train(arrays(X[:1], Y[:1]), store=wb.RunStore(tmp_path), on_step=never)
    with pytest.raises(DataError, match=r"test=1\.5 is not allowed"):
        arrays(test=1.5)


# --- checkpoints, through the command line


class _Payload:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def _truncated(path, marker):
    save_file({"w": torch.ones(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def _truncated_torch(path, marker):
    torch.save({"w": torch.ones(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def _torch_code(path, marker):
    torch.save({"w": torch.ones(3), "x": _Payload(marker)}, path)


def _bare_pickle(path, marker):
    path.write_bytes(pickle.dumps(_Payload(marker)))


def _nan(path, marker):
    save_file({"fine": torch.ones(2, 2), "worn.weight": torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]])}, path)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (lambda path, marker: None, "absent.safetensors", ["does not exist"]),
        (_truncated, "cut.safetensors", []),
        (lambda path, marker: path.write_bytes(b""), "empty.safetensors", []),
        (_truncated_torch, "cut.pt", []),
        (_torch_code, "code.pt", ["code"]),
        (_bare_pickle, "bare.bin", ["code"]),
        (_nan, "nan.safetensors", ["worn.weight", "2 NaN or inf of 4", "--nonfinite skip"]),
        (lambda path, marker: path.write_text("x"), "model.gguf", []),
    ],
)
def test_a_bad_checkpoint_ends_with_status_1_and_one_message_and_nothing_is_executed(
    tmp_path, monkeypatch, capsys, make, name, words
):
    path, marker = tmp_path / name, tmp_path / "executed"
    make(path, marker)
    monkeypatch.setattr(sys, "argv", ["wbench", "probe", str(path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (1, "")
    assert err.startswith("error: ")
    assert str(path) in err
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not marker.exists()


def test_the_payload_of_the_tests_above_does_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(_Payload(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


def test_a_start_that_is_no_checkpoint_is_refused_before_training(tmp_path):
    with pytest.raises(wb.errors.CheckpointError, match=r"absent\.safetensors"):
        wb.train("digits", scale="smoke", start=tmp_path / "absent.safetensors", on_step=never)


# --- disks


def test_a_full_disk_leaves_nothing_half_written_and_the_writer_can_commit_elsewhere(tmp_path, monkeypatch):
    full, other = wb.RunStore(tmp_path / "full"), wb.RunStore(tmp_path / "other")
    writer = full.writer({"seed": 0, "task": {"id": "own"}})
    writer.log([{"step": 1, "phase": "train", "split": "train", "name": "loss", "value": 0.5}])
    writer.tensors("weights", {"w": torch.arange(6.0)})
    real = os.fsync

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as raised:
        writer.commit()
    assert str(full.root) in str(raised.value)
    assert os.strerror(errno.ENOSPC) in str(raised.value)
    assert "free space" in str(raised.value)
    assert list(full.root.iterdir()) == []

    monkeypatch.setattr(os, "fsync", real)
    run = writer.commit(to=other)
    assert run.path.parent == other.root
    assert run.metrics["value"].tolist() == [0.5]
    assert torch.equal(run.tensors()["w"], torch.arange(6.0))
    assert list(full.root.iterdir()) == []


def test_a_disk_that_fills_during_training_is_an_error_of_ours_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="free space"):
        wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path / "s"))
    assert list((tmp_path / "s").iterdir()) == []


def test_a_store_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="choose a writable folder") as raised:
        wb.train(arrays(), store=wb.RunStore(tmp_path / "file" / "runs"), on_step=never)
    assert str(tmp_path / "file" / "runs") in str(raised.value)
    assert (tmp_path / "file").read_text() == "in the way"

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(RunError, match="Read-only file system; choose a writable folder"):
        wb.train(arrays(), store=wb.RunStore(tmp_path / "runs"), on_step=never)


def test_the_command_line_names_the_store_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(
        sys, "argv", ["wbench", "train", "digits", "--scale", "smoke", "--store", str(tmp_path / "file" / "s")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    err = capsys.readouterr().err
    assert stopped.value.code == 1
    assert err.startswith("error: ")
    assert str(tmp_path / "file" / "s") in err


# --- run directories damaged by hand


def _edit(**changes):
    def damage(run):
        file = run.path / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def _cut(name):
    def damage(run):
        (run.path / name).write_bytes((run.path / name).read_bytes()[:50])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run.path / "metrics.parquet").unlink(),
        lambda run: (run.path / "run.json").unlink(),
        lambda run: (run.path / "run.json").write_text("{"),
        lambda run: (run.path / "run.json").write_text("[]"),
        lambda run: (run.path / "run.json").write_bytes(b"\xff\xfe"),
        _cut("metrics.parquet"),
        _cut("weights.safetensors"),
        _edit(spec={"seed": 99}),
        _edit(spec=None),
        _edit(files=[]),
        _edit(summary=None),
        _edit(info=[]),
        _edit(created="yesterday"),
    ],
    ids=["metrics gone", "record gone", "record cut", "record a list", "record no text", "metrics cut", "weights cut",
         "spec changed", "spec gone", "files a list", "summary gone", "info a list", "created text"],
)  # fmt: skip
def test_a_damaged_run_is_named_and_left_out_while_the_others_load(tmp_path, damage):
    store = wb.RunStore(tmp_path)
    runs = [wb.train(arrays(), seed=seed, probes=(), store=store) for seed in range(3)]
    expected = runs[1].metrics
    damage(runs[1])
    with pytest.warns(UserWarning, match=runs[1].id):
        found = store.runs()
    assert {run.id for run in found} == {runs[0].id, runs[2].id}
    assert all(len(run.metrics) and run.tensors() for run in found)
    ((path, reason),) = store.damaged()
    assert path == runs[1].path
    assert runs[1].id in reason
    with pytest.raises(RunError, match=runs[1].id):
        store.get(runs[1].id)
    again = wb.train(arrays(), seed=1, probes=(), store=store)
    assert again.metrics.equals(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(store.runs()) == 3


def test_a_run_of_a_format_that_cannot_be_read_is_named_and_neither_trained_again_nor_replaced(tmp_path):
    store = wb.RunStore(tmp_path)
    runs = [wb.train(arrays(), seed=seed, probes=(), store=store) for seed in range(2)]
    _edit(format=999)(runs[1])
    before = (runs[1].path / "run.json").read_bytes()
    with pytest.warns(UserWarning, match=runs[1].id):
        assert [run.id for run in store.runs()] == [runs[0].id]
    with pytest.raises(RunError, match=rf"{runs[1].id}.*of format 999.*a newer wbench wrote it: update"):
        wb.train(arrays(), seed=1, probes=(), store=store)
    assert (runs[1].path / "run.json").read_bytes() == before


def test_a_table_damaged_inside_is_named_when_it_is_read(tmp_path):
    run = wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path))
    for name in ("metrics.parquet", "weights.safetensors"):
        data = (run.path / name).read_bytes()
        (run.path / name).write_bytes(b"\0" * len(data))
    damaged = wb.RunStore(tmp_path).get(run.id)
    with pytest.raises(RunError, match=r"metrics\.parquet is damaged"):
        damaged.metrics  # noqa: B018
    with pytest.raises(RunError, match=r"weights\.safetensors"):
        damaged.tensors()


def test_a_foreign_folder_in_the_store_is_no_run_and_harms_none(tmp_path):
    run = wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path))
    (tmp_path / "my notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.warns(UserWarning, match="my notes"):
        assert [found.id for found in wb.RunStore(tmp_path).runs()] == [run.id]


# --- training that goes wrong


class _Worn(nn.Module):
    """Gives inf from its sixth training batch on."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += self.training
        return x * float("inf") if self.seen > 5 and self.training else x


def test_a_loss_that_is_not_finite_keeps_the_run_so_far_and_names_step_and_first_layer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("first", nn.Linear(4, 8))
    model.add_module("worn", _Worn())
    model.add_module("last", nn.Linear(8, 2))
    store = wb.RunStore(tmp_path)
    run = wb.train(arrays(model=model), probes=(), store=store)
    assert run.status == "diverged"
    assert "step 6 " in run.reason
    assert "'worn' (output)" in run.reason
    losses = store.get(run.id).metrics.query("split == 'train' and name == 'loss'")
    assert losses["step"].tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(losses["value"]).all()
    assert "diverged" in repr(run)


def test_weights_that_are_not_finite_are_noticed_in_the_step_that_made_them(tmp_path):
    def root_of_zero(output, target):
        return (0 * output).abs().sqrt().mean(1)

    run = wb.train(arrays(loss=root_of_zero), probes=(), store=wb.RunStore(tmp_path))
    assert run.status == "diverged"
    assert "at step 1" in run.reason
    assert "'0.weight' (32 of 32 values)" in run.reason


def test_a_learning_rate_far_too_large_diverges_in_a_named_step(tmp_path):
    def huge(output, target):
        return output.pow(4).mean(1)

    run = wb.train(arrays(loss=huge, recipe=RECIPE.replace(lr=100.0)), probes=(), store=wb.RunStore(tmp_path))
    assert run.status == "diverged"
    assert "at step " in run.reason
    assert run.metrics.query("name == 'loss'")["value"].notna().all()


def test_ctrl_c_keeps_the_partial_run_and_the_next_call_trains_it_whole(tmp_path):
    store = wb.RunStore(tmp_path)

    def press(step, loss):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wb.train(arrays(), probes=(), store=store, on_step=press)
    (partial,) = store.runs()
    assert partial.status == "stopped"
    steps = partial.metrics.query("split == 'train' and name == 'loss'")["step"]
    assert steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    whole = wb.train(arrays(), probes=(), store=store)
    assert (whole.id, whole.status) == (partial.id, "finished")
    assert [run.status for run in store.runs()] == ["finished"]


def test_an_error_in_the_middle_keeps_the_partial_run_marked_failed(tmp_path):
    store = wb.RunStore(tmp_path)

    def fail(step, loss):
        if step == 3:
            raise ZeroDivisionError("in the caller's code")

    with pytest.raises(ZeroDivisionError):
        wb.train(arrays(), probes=(), store=store, on_step=fail)
    (partial,) = store.runs()
    assert (partial.status, partial.reason) == ("failed", "in the caller's code")


def test_a_full_disk_at_the_end_of_training_loses_nothing(monkeypatch, tmp_path):
    import errno

    from wbench.runs import writer as room

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "write_frame", full)
        with pytest.raises(wb.WBenchError, match="free space and commit again") as error:
            wb.train("digits", scale="smoke", probes=())
    run = error.value.writer.commit(to=wb.RunStore(tmp_path / "other"))
    assert run.status == "finished" and run.final("accuracy") > 0.5


def test_a_status_that_does_not_exist_is_damage(tmp_path):
    import json

    store = wb.RunStore(tmp_path)
    run = wb.train("digits", scale="smoke", probes=(), store=store)
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "status": "triumphant"}))
    assert "status='triumphant'" in store.damaged()[0][1]
