"""Methods together: each mechanism is seen in one run, which restores; what makes no sense is refused by name before a step."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from plugin.tiny_methods.layer import Factorized
from plugin.tiny_methods.transform import Wanda
from sklearn.dummy import DummyClassifier
from small_task import never
from torch import nn

import wbench as wb
from wbench.errors import WBenchError
from wbench.method import EstimatorMethod, Transform, replace_module
from wbench.methods import OPCM, Bone, FrozenProjection, GaLore, LoRA, NaP, WeightCompander
from wbench.methods.adapter.lamda import LaMDA
from wbench.methods.optimizer.q_galore import QGaLore
from wbench.methods.parametrization.reste import ReSTE
from wbench.methods.transform.bitstack import BitStack
from wbench.methods.transform.low_rank_trained import LowRankTrained

TASK = wb.tasks.Digits(hidden=(32, 32, 32), train_size=256)
RECIPE = wb.Recipe(optimizer="adam", lr=1e-2, steps=8, batch_size=64)
FIRST, SECOND, THIRD = (f"blocks.{index}.linear" for index in range(3))


def trained(*methods, **options):
    """Return the run, the initial weights, those before and after the methods were taken off."""
    run = wb.train(TASK, methods, recipe=RECIPE, every=1, **options)
    assert run.status == "finished"
    model = wb.restore(run, methods=methods)
    assert all(torch.equal(value, run.tensors()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        x, y = TASK.data(0)["test"].tensors
        assert float((model(x).argmax(1) == y).float().mean()) == pytest.approx(run.final("accuracy"), abs=1e-6)
    return run, TASK.model(0).state_dict(), run.tensors("trained") if methods else {}, run.tensors()


def rank(change):
    values = torch.linalg.svdvals(change.double())
    return int((values > 1e-5 * values[0]).sum())


def latent(state, layer):
    return state[f"{layer}.parametrizations.weight.original"]


def companded(state, layer):
    a, b = (state[f"{layer}.parametrizations.weight.0.log_{name}"].exp() for name in "ab")
    return a * torch.atan(latent(state, layer) / b)


def assert_compands(before, after, layer):
    start = WeightCompander().prepare(TASK.model(0)).state_dict()
    assert torch.allclose(after[f"{layer}.weight"], companded(before, layer), atol=1e-7)
    name = f"{layer}.parametrizations.weight.0.log_a"
    assert float((before[name] - start[name]).abs()) > 1e-3
    return latent(before, layer) - latent(start, layer)


def assert_binary(before, after, layer):
    weight = latent(before, layer)
    expected = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean()
    assert torch.allclose(after[f"{layer}.weight"], expected) and len(after[f"{layer}.weight"].unique()) == 2


@pytest.mark.parametrize("order", [1, -1])
def test_weight_compander_and_galore_train_companded_weights_in_a_subspace(order):
    run, _, before, after = trained(*[WeightCompander(), GaLore(rank=4)][::order])
    assert rank(assert_compands(before, after, SECOND)) == 4
    assert (run.probe("method.galore").query("layer == @SECOND")["refreshes"] == 1).all()
    _, _, before, after = trained(WeightCompander())
    assert rank(assert_compands(before, after, SECOND)) > 4


def test_reste_and_galore_train_the_weights_behind_the_signs_in_a_subspace():
    run, start, before, after = trained(ReSTE(), GaLore(rank=4))
    for layer in (SECOND, THIRD):
        assert_binary(before, after, layer)
        assert rank(latent(before, layer) - start[f"{layer}.weight"]) == 4
    assert set(run.probe("method.galore")["layer"]) == {FIRST, SECOND, THIRD}
    _, start, before, _ = trained(ReSTE())
    assert rank(latent(before, SECOND) - start[f"{SECOND}.weight"]) > 4


def off_grid(values, size):
    """Return how far the values of each group are from multiples of their smallest difference, at worst."""
    groups = np.sort(values.double().reshape(-1, size).numpy(), 1)
    apart = np.diff(groups, axis=1)
    step = np.where(apart > 1e-6, apart, np.inf).min(1, keepdims=True)
    levels = (groups - groups[:, :1]) / step
    return float(np.abs(levels - levels.round()).max())


def test_q_galore_keeps_companded_weights_on_its_grid():
    run, _, before, after = trained(WeightCompander(), QGaLore(rank=4, group_size=128))
    assert_compands(before, after, SECOND)
    assert off_grid(latent(before, SECOND), 128) < 0.05
    assert run.probe("method.q_galore").query("layer == @SECOND")["changed"].max() > 0
    _, _, before, _ = trained(WeightCompander())
    assert off_grid(latent(before, SECOND), 128) > 0.4


def test_nap_holds_the_norms_that_are_trained_while_bone_adapts_another_layer():
    kept = ("blocks.1*", "blocks.2*")
    _, start, before, after = trained(NaP(), Bone(r=8, layers=FIRST, trainable=kept))
    for layer in (SECOND, THIRD):
        old, new = start[f"{layer}.weight"], after[f"{layer}.weight"]
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-5) and not torch.equal(new, old)
        assert not torch.equal(after[f"{layer.removesuffix('linear')}norm.weight"], torch.ones(32))
    weight, d = start[f"{FIRST}.weight"], before[f"{FIRST}.d"]
    assert torch.equal(before[f"{FIRST}.base.weight"], weight) and float(d.abs().max()) > 0
    expected = weight.clone()
    for p in range(weight.shape[0] // 8):
        rows = slice(8 * p, 8 * p + 8)
        for q in range(weight.shape[1] // 8):
            block = (rows, slice(8 * q, 8 * q + 8))
            expected[block] += weight[block] @ d[p] + d[p]
    assert torch.allclose(after[f"{FIRST}.weight"], expected, atol=1e-6)
    _, start, _, after = trained()
    assert float(after[f"{SECOND}.weight"].norm()) != pytest.approx(float(start[f"{SECOND}.weight"].norm()), rel=1e-3)


def test_lamda_adapts_one_layer_while_reste_trains_another_that_it_is_told_to_keep():
    _, start, before, after = trained(ReSTE(layers=SECOND), LaMDA(rank=4, layers=FIRST, trainable=SECOND))
    assert_binary(before, after, SECOND)
    assert not torch.equal(latent(before, SECOND), start[f"{SECOND}.weight"])
    change = (after[f"{FIRST}.weight"] - start[f"{FIRST}.weight"]).double()
    leading = torch.linalg.svd(start[f"{FIRST}.weight"].double())[2][:4]
    assert float(change.norm()) > 1e-3
    assert float((change - change @ leading.T @ leading).norm()) < 1e-5 * float(change.norm()) + 1e-5
    assert torch.equal(after[f"{THIRD}.weight"], start[f"{THIRD}.weight"])


def test_two_adapters_train_beside_each_other_on_different_layers():
    for order in (1, -1):
        _, start, before, after = trained(*[LoRA(rank=2, layers=FIRST), Bone(r=8, layers=SECOND)][::order])
        assert rank(after[f"{FIRST}.weight"] - start[f"{FIRST}.weight"]) == 2
        assert float(before[f"{SECOND}.d"].abs().max()) > 0
        assert not torch.equal(after[f"{SECOND}.weight"], start[f"{SECOND}.weight"])
        assert torch.equal(after["head.weight"], start["head.weight"])


@pytest.mark.parametrize("other", [WeightCompander(), Bone(r=8), NaP()], ids=lambda method: method.id)
@pytest.mark.parametrize("order", [1, -1])
def test_a_transform_acts_on_what_other_methods_leave(other, order):
    _, start, _, after = trained(*[other, Wanda(sparsity=0.5)][::order])
    for layer in (FIRST, SECOND, THIRD):
        weight = after[f"{layer}.weight"]
        assert (weight == 0).sum(1).tolist() == [weight.shape[1] // 2] * len(weight)
        kept = weight != 0
        assert not torch.equal(weight[kept], start[f"{layer}.weight"][kept])


class Split(Transform):
    """It keeps a layer's weight as two halves of different size."""

    id: ClassVar[str] = "split"
    result: ClassVar = "rebuilt"

    def transform(self, module, inputs, name):
        half = nn.Linear(module.in_features, module.out_features, bias=False)
        half.weight.copy_(0.25 * module.weight)
        module.weight.mul_(0.75)
        return Sum(module, half)

    def restore(self, model, state):
        for name, layer in self.select(model).items():
            model = replace_module(
                model, name, Sum(layer, nn.Linear(layer.in_features, layer.out_features, bias=False))
            )
        return super().restore(model, state)


class Sum(nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return self.one(x) + self.other(x)


@pytest.mark.parametrize("methods", [(NaP(), Split()), (Split(), NaP()), (Factorized(rank=4), Split(layers="*.0"))])
def test_a_rebuilt_model_that_is_then_rewritten_is_restored(methods):
    _, _, _, after = trained(*methods)
    name = next(name for name in after if name.endswith("one.weight"))
    assert torch.allclose(after[name], 3 * after[name.replace("one", "other")])


def test_norms_without_projection_stand_beside_an_adapter_of_every_layer():
    _, start, _, after = trained(NaP(project=False), Bone(r=8))
    assert all(not torch.equal(after[f"{layer}.weight"], start[f"{layer}.weight"]) for layer in (FIRST, SECOND, THIRD))
    assert torch.equal(after["blocks.0.norm.weight"], torch.ones(32))


def test_what_one_run_cannot_hold_the_second_transform_does_to_the_restored_model():
    run, _, _, after = trained(BitStack(layers=FIRST, n_iter=2, nsamples=8))
    model = LowRankTrained(layers=SECOND, rank=4, whiten=False).finish(wb.restore(run))
    weight = after[f"{SECOND}.weight"].double()
    left = torch.linalg.svd(weight)[0][:, :4]
    assert torch.allclose(model.get_submodule(SECOND).weight.double(), left @ left.T @ weight, atol=1e-6)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items() if name.startswith(FIRST))


def test_models_adapted_from_one_base_merge_by_what_adapting_changed(tmp_path):
    base = wb.train(TASK, recipe=RECIPE.replace(steps=30), probes=())
    members = {
        f"seed {seed}": wb.train(TASK, Bone(r=8), seed=seed, start=base, recipe=RECIPE, probes=()) for seed in (1, 2)
    }
    run = wb.train(TASK, OPCM(shuffle_order=False), members=members, references={"base": base})
    old, merged = base.tensors(), run.tensors()
    assert all(torch.equal(value, merged[name]) for name, value in wb.restore(run).state_dict().items())
    changes = [{name: value - old[name] for name, value in member.tensors().items()} for member in members.values()]
    moved = {name for change in changes for name, value in change.items() if bool(value.any())}
    assert moved == {f"{layer}.weight" for layer in (FIRST, SECOND, THIRD)}
    assert all(torch.equal(merged[name], value) for name, value in old.items() if name not in moved)

    def length(change):
        return float(torch.cat([change[name].double().flatten() for name in sorted(moved)]).norm())

    result = {name: merged[name] - old[name] for name in moved}
    assert length(result) == pytest.approx(np.mean([length(change) for change in changes]), rel=1e-4)
    divisor = float(run.probe("method.opcm")["divisor"].iloc[-1])
    for name in moved:
        added, first = (divisor * result[name] - changes[0][name]).double(), changes[0][name].double()
        assert abs(float((added * first).sum())) < 1e-3 * float(added.norm() * first.norm())
        plain = float((changes[1][name].double() * first).sum())
        assert abs(plain) > 1e-2 * float(changes[1][name].norm() * first.norm())  # what was taken out was there


class Guess(EstimatorMethod):
    """The most frequent class."""

    id: ClassVar[str] = "guess"

    def estimator(self, ctx=None):
        return DummyClassifier()


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            (GaLore(), FrozenProjection()),
            "galore and frozen_projection cannot be used together: each brings the optimizer",
        ),
        ((GaLore(), QGaLore()), "galore and q_galore cannot be used together: each brings the optimizer"),
        ((GaLore(), GaLore(rank=4)), "galore is given 2 times"),
        (
            (ReSTE(), WeightCompander()),
            "weight_compander: the weight of layer 'blocks.1.linear' is already parametrised",
        ),
        ((WeightCompander(), ReSTE()), "reste: the weight of layer 'blocks.1.linear' is already parametrised"),
        ((WeightCompander(), Bone()), "bone: layer 'blocks.0.linear' is parametrised by another method"),
        ((Bone(), WeightCompander()), "weight of layer 'blocks.0.linear.base' was frozen by bone"),
        (
            (ReSTE(layers=SECOND), LaMDA(layers=FIRST)),
            "lamda freezes .* reste would train nothing in blocks.1.linear; keep",
        ),
        ((LaMDA(), ReSTE()), r"reste changes the architecture, so it must be put on before lamda: \[reste, lamda\]"),
        ((Bone(), NaP()), r"nap changes the architecture, so it must be put on before bone: \[nap, bone\]"),
        (
            (NaP(), Bone()),
            "bone freezes .* nap, which rewrites the weights of blocks.0.linear, .* would do nothing",
        ),
        ((Bone(), LoRA(rank=2)), "lora: layer 'blocks.0.linear.base' is adapted by bone already"),
        ((NaP(), WeightCompander()), "nap excludes parametrization methods"),
        ((WeightCompander(), Factorized()), "factorized: layer 'blocks.0.linear' is parametrised by another method"),
        ((LoRA(rank=2), GaLore(rank=2)), "galore: no trainable linear or convolutional weight"),
        (
            (BitStack(layers=FIRST), LowRankTrained(layers=SECOND)),
            "bitstack and low_rank_trained cannot be used together: each gives the finished model a form of its own",
        ),
        ((OPCM(), GaLore()), "opcm, galore: a population or estimator method stands alone"),
        ((WeightCompander(), Guess()), "weight_compander, guess: a population or estimator method stands alone"),
        ((Guess(), OPCM()), "guess, opcm: a population or estimator method stands alone"),
    ],
    ids=lambda given: "+".join(method.id for method in given) if isinstance(given, tuple) else "",
)
def test_what_makes_no_sense_is_refused_by_name_before_training(methods, message, monkeypatch):
    monkeypatch.setattr("torch.optim.Optimizer.step", never)
    monkeypatch.setattr("torch.Tensor.backward", never)
    members = {"one": TASK.model(0)} if OPCM() in methods else None
    with pytest.raises(WBenchError, match=message):
        wb.train(TASK, methods, recipe=RECIPE, probes=(), members=members)
