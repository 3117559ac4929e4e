"""The public contract test passes on every method and fails on methods that break one part each."""

from typing import ClassVar, Literal

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.method import Objective, Parametrization
from wbench.models import MLP, ViT
from wbench.splits import TensorSplit
from wbench.testing import ContractError, check_method, small_batch

SMALL = {
    "poincare_resnet": {"depth": 8, "channels": (2, 3, 4)},
    "fixmatch": {"mu": 1},
    "shrinkmatch": {"mu": 1},
}  # settings that fit 16-32-32-8


def net():
    torch.manual_seed(0)
    return MLP((16, 32, 32, 8), norm=nn.BatchNorm1d)


def pairs():
    inputs = small_batch()[0]
    return {"unlabelled": TensorSplit(inputs, inputs + 0.1)}


def transformer():
    torch.manual_seed(0)
    return ViT(1, 8, 8, patch_size=2, depth=2, width=16, heads=2)


def pictures():
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(32) % 8


WITH_VIEWS = {"model": net, "splits": pairs()}
WITH_ATTENTION = {"model": transformer, "batch": pictures()}
SUBJECT = {
    "fixmatch": WITH_VIEWS, "shrinkmatch": WITH_VIEWS, "masa": WITH_ATTENTION, "masa_trained": WITH_ATTENTION,
    "low_rank": WITH_ATTENTION, "low_rank_trained": WITH_ATTENTION,
    "poincare_resnet": {"task": wb.Task.from_arrays(*pictures(), model=lambda: MLP((64, 8)), test=pictures())},
}  # fmt: skip
LAST = {"population": ["in_dtypes", "refusals"], "estimator": ["estimator", "parameters"]}


@pytest.mark.parametrize("cls", wb.methods.all().values(), ids=lambda cls: cls.id)
def test_every_method_keeps_the_contract(cls):
    done = check_method(cls, method=cls(**SMALL.get(cls.id, {})), **SUBJECT.get(cls.id, {}))
    assert done[-2:] == LAST.get(cls.stage, ["null", "vectorized"])


@pytest.mark.parametrize(
    "method",
    [
        wb.methods.WeightCompander(fn="mulaw"), wb.methods.WeightCompander(fn="power_arctan", per="channel"),
        wb.methods.NaP(norm="rmsnorm"), wb.methods.NaP(affine_mode="decay"), wb.methods.GaLore(proj_type="full"),
        wb.methods.Bone(variant="miss"), wb.methods.Bone(variant="mini", mini_r=4),
    ],
    ids=str,
)  # fmt: skip
def test_every_form_of_a_method_keeps_the_contract(method):
    check_method(type(method), method=method)


class Good(Objective):
    """A method that does nothing."""

    id: ClassVar[str] = "good"
    title: ClassVar[str] = "Good"
    paper: ClassVar = wb.Paper("Paper", "Author", 2026)

    def null(self):
        return self


def test_a_method_that_does_nothing_passes():
    check_method(Good)


class NoDoc(Good):
    """Its field is undocumented."""

    strength: float = wb.knob(0.5, 0.0, 1.0, doc="")


class NoBounds(Good):
    """Its field has no bounds."""

    strength: float = wb.knob(0.5, doc="Strength.")


class Unpublished(Good):
    """It names no paper."""

    paper: ClassVar = None


class Leaves(Good):
    """It leaves a module behind though it says that its result is plain."""

    def prepare(self, model, ctx=None):
        model.append(nn.LayerNorm(8))
        return model


class Changes(Good):
    """Its finish changes the function."""

    def finish(self, model, ctx=None):
        with torch.no_grad():
            model[0].weight.mul_(2)
        return model


class Random(Good):
    """It draws from somewhere else than the seed."""

    def after_step(self, model, ctx=None):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(1, generator=torch.Generator().manual_seed(torch.seed() % 2**31)))


class NotNull(Good):
    """Its null still acts."""

    def after_step(self, model, ctx=None):
        with torch.no_grad():
            model[0].weight.mul_(0.9)


class Overflows(Good):
    """It says that it works in half precision, where it overflows."""

    dtypes: ClassVar = (torch.float32, torch.float16)

    def prepare(self, model, ctx=None):
        with torch.no_grad():
            model[0].weight.mul_(1e5)
        return model

    def null(self):
        return None


class Twice(Parametrization):
    """A tensor of it has two owners."""

    id: ClassVar[str] = "twice"
    title: ClassVar[str] = "Twice"
    paper: ClassVar = wb.Paper("Paper", "Author", 2026)
    result: ClassVar[Literal["plain", "rebuilt"]] = "plain"

    def reparametrize(self, weight, name):
        return nn.Identity()

    def prepare(self, model, ctx=None):
        model[2].second = model[2].weight
        return model

    def finish(self, model, ctx=None):
        del model[2].second
        return model


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoDoc, "field 'strength' has no doc"), (NoBounds, "field 'strength' has no bounds"), (Unpublished, "names no paper"),
        (Leaves, "do not load into the untouched model"), (Changes, "finish changed the function"), (Random, "other bits"),
        (NotNull, "null\\(\\) does not give exactly the baseline"), (Overflows, "float16"), (Twice, "two owners"),
    ],
)  # fmt: skip
def test_a_broken_part_is_named(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)
