"""Every hook and every stage of the contract, each proven by a tiny method; layers, ties and composition."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import wbench as wb
from wbench.method import (
    AdaptedLayer,
    Adapter,
    Context,
    EstimatorMethod,
    Layer,
    Merged,
    Objective,
    OptimizerMethod,
    Parametrization,
    Pipeline,
    Population,
    QuantizedLayers,
    Transform,
    check_composition,
    select,
)
from wbench.splits import Splits, TensorSplit
from wbench.testing import small_batch, small_model

PAPER = wb.Paper("A tiny example", "Nobody", 2026)
RECIPE = wb.Recipe(optimizer="sgd", lr=0.1, steps=8, batch_size=16)


def task(**options):
    x, y = small_batch()
    return wb.Task.from_arrays(x, y, model=small_model, test=(x, y), recipe=RECIPE, **options)


def trained(method, **options):
    return wb.train(task(), method, probes=(), **options)


class Tiny:
    title: ClassVar[str] = "tiny"
    paper: ClassVar = PAPER


class Doubled(Tiny, Parametrization):
    id: ClassVar[str] = "doubled"

    def reparametrize(self, weight, name):
        class Double(nn.Module):
            def forward(self, v):
                return 2 * v

            def right_inverse(self, w):
                return w / 2

        return Double()


def test_parametrization_is_trained_through_and_baked():
    model = Doubled(layers="2").prepare(small_model())
    before = model[2].weight.detach().clone()
    assert torch.equal(model[2].parametrizations.weight.original * 2, before)
    run = trained(Doubled())
    assert set(run.tensors()) == set(small_model().state_dict())
    assert any("original" in name for name in run.tensors("trained"))


class Signed(Tiny, QuantizedLayers):
    id: ClassVar[str] = "signed"
    result: ClassVar = "rebuilt"

    def quantize_weight(self, weight):
        scale = weight.detach().abs().mean()
        return weight + (scale * torch.where(weight >= 0, 1.0, -1.0) - weight).detach()

    def quantize_input(self, x):
        return x + (x.round(decimals=1) - x).detach()


def test_quantized_layers_act_on_weight_and_input_pass_gradients_and_are_restored():
    run = trained(Signed(layers="2"))
    weight = run.tensors()["2.weight"]
    assert len(weight.abs().unique()) == 1
    model = wb.restore(run, task=task(), methods=[Signed(layers="2")])
    x = small_batch()[0]
    hidden = torch.relu(nn.functional.linear(x, model[0].weight, model[0].bias)).round(decimals=1)
    out = torch.relu(nn.functional.linear(hidden, model[2].weight, model[2].bias))
    expected = nn.functional.linear(out, model[4].weight, model[4].bias)
    assert torch.allclose(model(x), expected, atol=1e-6)


class Biased(Tiny, Adapter):
    id: ClassVar[str] = "biased"

    def adapt(self, linear, name):
        class Shift(AdaptedLayer):
            def __init__(self, base):
                super().__init__(base)
                self.shift = nn.Parameter(torch.zeros(base.out_features, 1))

            def merged_weight(self):
                return self.base.weight + self.shift

            def forward(self, x):
                return nn.functional.linear(x, self.merged_weight(), self.base.bias)

        return Shift(linear)


def test_adapter_freezes_all_but_itself_and_what_is_named():
    model = Biased(layers="2", trainable="4").prepare(small_model())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"2.shift", "4.weight", "4.bias"}
    run = trained(Biased(layers="2"))
    start, end = small_model(0).state_dict(), run.tensors()
    assert torch.equal(end["0.weight"], start["0.weight"]) and not torch.equal(end["2.weight"], start["2.weight"])


class SignSGD(Tiny, OptimizerMethod):
    id: ClassVar[str] = "sign_sgd"
    seen: ClassVar[list] = []

    def optimizer(self, model, ctx=None):
        return torch.optim.Rprop(model.parameters(), lr=1e-3)

    def after_backward(self, model, ctx=None):
        self.seen.append(("backward", ctx.step))

    def after_step(self, model, ctx=None):
        self.seen.append(("step", ctx.step))

    def before_step(self, model, batch, ctx=None):
        self.seen.append(("before", ctx.step, len(batch[0])))


def test_optimizer_and_step_hooks_run_in_order_with_the_step_count():
    SignSGD.seen.clear()
    trained(SignSGD())
    assert SignSGD.seen[:6] == [
        ("before", 0, 16),
        ("backward", 0),
        ("step", 1),
        ("before", 1, 16),
        ("backward", 1),
        ("step", 2),
    ]
    assert len(SignSGD.seen) == 24


class Rounded(Tiny, Transform):
    id: ClassVar[str] = "rounded"
    calibrates: ClassVar[bool] = True
    seen: ClassVar[dict] = {}

    def transform(self, module, inputs, name):
        self.seen[name] = inputs
        module.weight.copy_(module.weight.round(decimals=1))
        return module


def test_transform_sees_each_layers_inputs_and_rewrites_it_at_the_end():
    Rounded.seen.clear()
    run = trained(Rounded())
    assert {name: tuple(x.shape) for name, x in Rounded.seen.items()} == {"0": (64, 16), "2": (64, 32), "4": (64, 32)}
    assert (Rounded.seen["2"] >= 0).all()
    assert torch.allclose(run.tensors()["2.weight"] * 10, (run.tensors()["2.weight"] * 10).round(), atol=1e-4)


class Wide(Tiny, Layer):
    id: ClassVar[str] = "wide"

    def substitute(self, module, name):
        return nn.Sequential(nn.Linear(module.in_features, 5), nn.Linear(5, module.out_features))


class Built(Tiny, Layer):
    id: ClassVar[str] = "built"

    def build(self, task, ctx=None):
        return nn.Sequential(nn.Linear(16, 8))


@pytest.mark.parametrize(
    ("method", "keys"), [(Wide(layers="2"), {"2.0.weight"}), (Built(), {"0.weight"})], ids=["replace", "build"]
)
def test_layer_methods_replace_or_build_and_are_restored(method, keys):
    run = trained(method)
    assert keys <= set(run.tensors())
    model = wb.restore(run, task=task(), methods=[method])
    assert all(torch.equal(value, run.tensors()[name]) for name, value in model.state_dict().items())


class Halved(Tiny, Objective):
    id: ClassVar[str] = "halved"

    def loss(self, model, batch, ctx=None):
        return 0.5 * nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def penalty(self, model, ctx=None):
        return 10.0

    def data(self, splits, model, ctx=None):
        x, y = splits["train"].tensors
        return Splits(splits, train=TensorSplit(x[:32], y[:32]), unlabelled=TensorSplit(x[32:]))


def test_objective_rewrites_loss_data_and_adds_its_penalty():
    plain, halved = trained(None), trained(Halved())
    first = [
        float(run.metrics.query("name == 'loss' and split == 'train' and step == 1")["value"].iloc[0])
        for run in (plain, halved)
    ]
    assert 10.0 < first[1] < 10.0 + first[0]


class Everything(Tiny, Pipeline):
    id: ClassVar[str] = "everything"

    def recipe(self, recipe):
        return recipe.replace(steps=3)

    def before_step(self, model, batch, ctx=None):
        ctx.log("progress", ctx.progress)
        ctx.state["draw"] = float(torch.rand(1, generator=ctx.rng))

    def infer(self, model, batch, ctx=None):
        return ctx.reference("teacher")(batch[0])


def test_pipeline_uses_recipe_advice_log_state_and_reference():
    teacher = small_model(7)
    run = trained(Everything(), references={"teacher": teacher})
    assert run.spec["recipe"]["steps"] == 3
    logged = run.metrics[run.metrics["name"] == "progress"]["value"].tolist()
    assert logged == pytest.approx([0.0, 1 / 3, 2 / 3])
    x, y = small_batch()
    assert run.final("accuracy") == pytest.approx(float((teacher(x).argmax(1) == y).float().mean()))


def test_missing_reference_and_data_are_refused_by_name():
    with pytest.raises(wb.WBenchError, match="reference 'teacher' is needed; given: none"):
        trained(Everything())
    with pytest.raises(wb.WBenchError, match="no data named 'unlabelled'; this task has: train, test"):
        Context(splits=task().data(0)).data("unlabelled")


class Averaged(Tiny, Population):
    id: ClassVar[str] = "averaged"

    def combine(self, members, base=None, ctx=None):
        models = list(members.values())
        mean = small_model()
        states = [model.state_dict() for model in models]
        mean.load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
        return Merged([mean], sum(p.numel() * 4 for p in mean.parameters()))


def test_population_combines_members_and_is_evaluated_on_each():
    members = {"a": small_model(1), "b": small_model(2)}
    run = wb.train(task(), Averaged(), members=members)
    expected = (members["a"].state_dict()["0.weight"] + members["b"].state_dict()["0.weight"]) / 2
    assert torch.equal(run.tensors()["0.weight"], expected)
    assert run.final("bytes", "store") == sum(p.numel() * 4 for p in members["a"].parameters())
    with pytest.raises(wb.WBenchError, match="averaged combines models; pass members"):
        wb.train(task(), Averaged())


class Logistic(Tiny, EstimatorMethod):
    id: ClassVar[str] = "logistic"

    def estimator(self, ctx=None):
        return LogisticRegression(max_iter=500)


def test_estimator_is_a_real_one_and_agrees_with_scikit_learn():
    run = wb.train(wb.tasks.Digits(), Logistic())
    splits = wb.tasks.Digits().data(0)
    (x, y), (xt, yt) = splits["train"].tensors, splits["test"].tensors
    expected = (
        LogisticRegression(max_iter=500).fit(x.flatten(1).numpy(), y.numpy()).score(xt.flatten(1).numpy(), yt.numpy())
    )
    assert run.final("accuracy") == pytest.approx(expected, abs=1e-9)


def test_layers_are_chosen_by_glob_with_exclusion():
    model = small_model()
    kinds = (nn.Linear,)
    assert list(select(model, "*", kinds, "x")) == ["0", "2", "4"]
    assert list(select(model, ("*", "!4"), kinds, "x")) == ["0", "2"]
    assert list(select(model, "0, 2", kinds, "x")) == ["0", "2"]
    assert list(select(wb.models.GPT(10, 8, 2, 16, 2), "*.attn.*", kinds, "x")) == [
        f"blocks.{b}.attn.{n}" for b in (0, 1) for n in "qkvo"
    ]
    with pytest.raises(wb.WBenchError, match=r"matches no layer of type Linear.*blocks\.0\.mlp\.fc1"):
        select(wb.models.GPT(10, 8, 2, 16, 2), "blocks.0.mlp.fc9", kinds, "x")
    with pytest.raises(wb.WBenchError, match="has no layer of type Conv2d"):
        select(model, "*", (nn.Conv2d,), "x")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([SignSGD(), wb.methods.GaLore()], "sign_sgd and galore cannot be used together: each brings the optimizer"),
        (
            [Halved(), type("Other", (Halved,), {"id": "other", "__doc__": "x"})()],
            "halved and other .* brings the loss",
        ),
        ([Doubled(), Doubled()], "doubled is given 2 times"),
        ([wb.methods.NaP(), Doubled()], "nap excludes parametrization methods"),
    ],
)
def test_methods_that_cannot_stand_together_are_refused_by_name(methods, message):
    with pytest.raises(wb.WBenchError, match=message):
        check_composition(methods)
    with pytest.raises(wb.WBenchError, match=message):
        trained(methods)


def test_methods_that_can_stand_together_train_together():
    run = wb.train("digits", [wb.methods.WeightCompander(), wb.methods.GaLore(rank=8)], scale="smoke")
    assert run.status == "finished" and {"method.galore", "method.weight_compander"} <= set(run.probes)
    assert set(run.tensors()) == set(wb.tasks.Digits().model(0).state_dict())


def test_two_methods_that_claim_one_parameter_are_refused():
    class Claims(Tiny, Objective):
        id: ClassVar[str] = "claims"

        def param_groups(self, model, ctx=None):
            return [{"params": list(model.parameters()), "lr_scale": 2.0}]

    other = type("Also", (Claims,), {"id": "also", "__doc__": "x"})()
    with pytest.raises(wb.WBenchError, match="also and claims both set the optimizer's options of '0.weight'"):
        trained([Claims(), other])


def test_frozen_weight_is_not_parametrised():
    with pytest.raises(wb.WBenchError, match=r"weight of layer '0' was frozen by trainable='4'"):
        trained(Doubled(), trainable="4")
    model = small_model()
    model[0].weight.requires_grad_(False)
    with pytest.raises(wb.WBenchError, match=r"is frozen \(requires_grad=False\)"):
        Doubled().prepare(model)


def test_registry_finds_ours_by_id_and_every_class_by_name():
    found = wb.methods.all()
    assert {"weight_compander", "nap", "galore", "bone"} <= {
        name for name, cls in found.items() if cls.kind == "method"
    }
    assert {"lora", "pissa", "layernorm", "frozen_projection"} <= {
        name for name, cls in found.items() if cls.kind == "baseline"
    }
    assert all(getattr(wb.methods, cls.__name__) is cls and wb.methods.get(name) is cls for name, cls in found.items())
    with pytest.raises(wb.WBenchError, match="Did you mean galore"):
        wb.methods.get("galor")


def test_folder_of_a_method_is_its_stage():
    for cls in wb.methods.all().values():
        assert cls.__module__.split(".")[-2] == cls.stage


def test_numpy_arrays_and_loaders_are_tasks():
    x, y = (part.numpy() for part in small_batch())
    run = wb.train(wb.Task.from_arrays(x.astype(np.float64), y, model=small_model), recipe=RECIPE, probes=())
    assert run.status == "finished" and 0 <= run.final("accuracy") <= 1
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*small_batch()), batch_size=8)
    assert wb.train(wb.Task.from_loader(loader, model=small_model), recipe=RECIPE, probes=()).status == "finished"
    target = torch.randn(64, 8)
    regression = wb.train(wb.Task.from_arrays(x, target, model=small_model), recipe=RECIPE, probes=())
    assert "test.accuracy" not in regression.summary
