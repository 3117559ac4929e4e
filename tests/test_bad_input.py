"""What a user can get wrong: refused by name with what is allowed, or survived with everything that was done kept."""

import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_task import RECIPE, X, Y, arrays, never
from torch import nn

import wbench as wb
from wbench import cli
from wbench.errors import CompositionError, DataError, KnobError, LayerMatchError, UnknownNameError


def _with(value):
    x = X.copy()
    x[3, 2] = value
    return x


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
