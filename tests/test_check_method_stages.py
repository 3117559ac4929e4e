"""The contract test of trained methods passes a tiny right method and names the broken part of tiny wrong ones."""

import copy
from typing import ClassVar

import pandas as pd
import pytest
import torch
from broken import CALLS, Tiny, broken, check_all
from torch import nn

import wbench as wb
from wbench.method import Layer, Objective, Transform
from wbench.splits import TensorSplit
from wbench.testing import ContractError, check_method, small_batch


class Measured(Tiny, Objective):
    """It measures itself and can be turned down after training."""

    id: ClassVar[str] = "measured"
    picture: ClassVar[str] = "broken:lines"
    live: ClassVar[tuple[str, ...]] = ("share",)
    share: float = wb.knob(1.0, 0.0, 1.0, doc="Share of the weight that is used.")

    def observe(self, model, ctx=None):
        return pd.DataFrame({"layer": ["0"], "size": [float(model[0].weight.detach().norm())]})

    def finish(self, model, ctx=None):
        model[0].full = model[0].weight.detach().clone()
        return self.retune(model)

    def retune(self, model):
        with torch.no_grad():
            model[0].weight.copy_(self.share * getattr(model[0], "full", model[0].weight))
        return model

    def packed_bytes(self, model, ctx=None):
        return {"weights": 7}


def frame(**columns):
    return lambda self, model, ctx=None: pd.DataFrame(columns)


def moved(self, model, ctx=None):
    with torch.no_grad():
        model[0].weight.add_(1.0)


def halved(self, model):
    with torch.no_grad():
        model[0].weight.mul_(0.5 if self.share < 1 else 1.0)
    return model


def forgetful(self, model):
    with torch.no_grad():
        model[0].weight.mul_(torch.where(model[0].weight.abs() > self.share / 1e3 - 1e-3, 1.0, 0.0))
        if self.share < 1:
            model[0].weight.zero_()
    return model


@check_all([
    (broken(Measured, packed_bytes=lambda *_: {"disk": 1}), "packed_bytes names \\['disk'\\]"),
    (broken(Measured, packed_bytes=lambda *_: {"weights": 1.5}), "weights=1.5, not a whole number"),
    (broken(Measured, packed_bytes=lambda *_: {"weights": -1}), "weights=-1, not a whole number"),
    (broken(Measured, observe=frame(layer=[], size=[])), "empty frame"),
    (broken(Measured, observe=frame(step=[1], size=[1.0])), "a column 'step'"),
    (broken(Measured, observe=frame(size=[[1, 2]])), "column 'size'; a cell is one number or text"),
    (broken(Measured, observe=lambda *_: [1]), "gives list, not a DataFrame"),
    (broken(Measured, observe=lambda *_: None), "observe gives nothing"),
    (broken(Measured, observe=moved), "observe changes the model"),
    (broken(Measured, picture="broken:absent"), "cannot be imported"),
    (broken(Measured, picture="broken:fails"), "does not draw what observe gives: KeyError"),
    (broken(Measured, picture="broken:nothing"), "gives NoneType, no plotly figure"),
    (broken(Measured, live=("shares",)), "live names \\['shares'\\], which are no fields"),
    (broken(Measured, finish=lambda self, model, ctx=None: model, retune=lambda self, model: halved(self.replace(share=0.5), model)),
     "own settings changes the model"),
    (broken(Measured, retune=halved), "twice differs from once"),
    (broken(Measured, retune=forgetful), "and back does not give the model back"),
])  # fmt: skip
def test_what_a_method_says_of_itself(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)


def test_a_method_that_measures_itself_passes():
    assert {"live", "packed", "observed", "retuned"} <= set(check_method(Measured))


class Loss(Tiny, Objective):
    """Cross entropy, halved, and a decay."""

    id: ClassVar[str] = "halved"

    def loss(self, model, batch, ctx=None):
        return 0.5 * nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def penalty(self, model, ctx=None):
        return 1e-3 * model[0].weight.square().sum()


def scaled(by):
    return lambda self, model, batch, ctx=None: by * model(batch[0]).sum()


@check_all([
    (broken(Loss, loss=scaled(float("inf"))), "the loss is not finite"),
    (broken(Loss, loss=lambda self, model, batch, ctx=None: model(batch[0])), "the loss has shape \\(64, 8\\)"),
    (broken(Loss, loss=lambda *_: torch.tensor(1.0), penalty=lambda *_: 0.0), "does not depend on its parameters"),
    (broken(Loss, loss=scaled(0.0), penalty=lambda *_: 0.0), "all are zero"),
    (broken(Loss, loss=lambda self, model, *_: (model[0].weight * 0).sqrt().sum()), "gradients that are not finite"),
    (broken(Loss, penalty=lambda self, model, ctx=None: model[0].weight), "the penalty has shape"),
    (broken(Loss, penalty=lambda *_: float("nan")), "the penalty is not finite"),
])  # fmt: skip
def test_what_an_objective_must_give(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)


def test_an_objective_passes():
    assert "objective" in check_method(Loss)


class Rounds(Tiny, Transform):
    """It rounds trained weights to tenths."""

    id: ClassVar[str] = "rounds"
    calibrates: ClassVar[bool] = True

    def transform(self, module, inputs, name):
        module.weight.copy_(module.weight.round(decimals=1))
        return module


def unseeded(self, module, inputs, name):
    CALLS.append(name)
    module.weight.mul_(1.0 + len(CALLS))
    return module


def spoils(self, module, inputs, name):
    other = copy.deepcopy(module)
    module.weight.fill_(torch.nan)
    return other


def dirties(self, model, ctx=None):
    ctx.splits["calibration"].tensors[0].zero_()
    return model


@check_all([
    (broken(Rounds, transform=unseeded), "finish gives other bits with the same seed"),
    (broken(Rounds, transform=spoils), "finish leaves NaN or inf"),
    (broken(Rounds, finish=dirties), "changes the data"),
    (broken(Rounds, result="rebuilt", restore=lambda self, model, state: Nearly(model, state)), "hold the bits"),
])  # fmt: skip
def test_what_a_transform_must_keep(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)


def Nearly(model, state):  # noqa: N802 - stands for a class
    model.load_state_dict({name: value * (1 + 1e-7) for name, value in state.items()})
    return model


def test_a_transform_passes():
    assert "transformed" in check_method(Rounds)


class Builds(Tiny, Layer):
    """A network of its own for the task's inputs and classes."""

    id: ClassVar[str] = "builds"

    def build(self, task, ctx=None):
        x, y = task.data(0)["train"].tensors
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), int(y.max()) + 1))


class Wanting(Tiny, Objective):
    """It needs samples without labels."""

    id: ClassVar[str] = "wanting"

    def loss(self, model, batch, ctx=None):
        extra = ctx.stream("unlabelled", 8)[0]
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) + 1e-3 * model(extra).square().mean()


def test_an_architecture_is_built_for_the_task_that_is_given():
    task = wb.tasks.Digits()
    assert check_method(Builds) and check_method(Builds, task=task)
    with pytest.raises(ContractError, match="do not load into the untouched model"):
        check_method(
            broken(Builds, result="plain", finish=lambda self, model, ctx=None: nn.Sequential(model)), task=task
        )


def test_a_task_brings_model_data_and_batch():
    seen = []

    class Looks(Loss):
        """It looks at what it is given."""

        def loss(self, model, batch, ctx=None):
            seen.append((tuple(batch[0].shape), sorted(ctx.splits)))
            return super().loss(model, batch, ctx)

        def penalty(self, model, ctx=None):
            return 0.0

    check_method(Looks, task=wb.tasks.Digits())
    assert seen[0] == (
        (64, *wb.tasks.Digits().data(0)["train"].tensors[0].shape[1:]),
        sorted(wb.tasks.Digits().data(0)),
    )
    check_method(Looks)
    assert seen[-1] == ((64, 16), ["calibration", "test", "train", "valid"])


def test_named_data_is_given_with_splits():
    assert check_method(Wanting, splits={"unlabelled": TensorSplit(small_batch(3)[0])})
    with pytest.raises(wb.WBenchError, match="no data named 'unlabelled'"):
        check_method(Wanting)
