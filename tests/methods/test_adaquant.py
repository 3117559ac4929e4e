"""AdaQuant against closed forms, torch's own fake quantiser, least squares and brute force; min-max and distillation beside it."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import FitError
from wbench.method import Context
from wbench.methods.transform.adaquant import AdaQuant, match_layer, tune_statistics
from wbench.methods.transform.distilled import Distilled
from wbench.methods.transform.minmax import MinMax
from wbench.methods.transform.quantized import calibrate, kl, min_max
from wbench.methods.transform.quantized_layer import QuantizedLayer, quantized_layers, rate_groups
from wbench.models import ConvNet
from wbench.ops.allocate import cheapest_options
from wbench.ops.batchnorm import folded, reopened
from wbench.ops.fakequant import clipped_weight_range, fake_quantize, input_range, weight_range
from wbench.splits import Splits, TensorSplit
from wbench.testing import check_method, small_batch, small_model

F64 = torch.float64
LAYERS = ["blocks.0.conv", "blocks.1.conv", "linear", "head"]


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(1, 8, 10, (4, 6), 12, norm=nn.BatchNorm2d).to(dtype)
        for norm in (model.blocks[0].norm, model.blocks[1].norm):
            for value in (norm.weight, norm.running_var):
                nn.init.uniform_(value, 0.5, 2.0)
            for value in (norm.bias, norm.running_mean):
                nn.init.normal_(value)
    return model.eval()


def images(count=32, dtype=torch.float32):
    return normal(count, 1, 8, 8, seed=1, dtype=dtype)


def context(x=None, seed=0, **recipe):
    x = images() if x is None else x
    recipe = wb.Recipe(**{"steps": 0, "lr": 1e-3, "batch_size": 16, **recipe})
    splits = Splits(train=TensorSplit(x, torch.zeros(len(x), dtype=torch.int64)))
    return Context(recipe=recipe, splits=splits, rng=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cls", [AdaQuant, MinMax, Distilled])
def test_contract(cls):
    check_method(cls, method=cls(**({"iters": 8} if cls is not MinMax else {})))


def test_contract_with_batch_norm_and_mixed_precision():
    batch = images(64), torch.arange(64) % 10
    for method in (
        AdaQuant(iters=4),
        AdaQuant(iters=2, gamma=0.2, bias_tuning=True),
        MinMax(clip="mse", keep_ends=True),
    ):
        check_method(type(method), method=method, model=net, batch=batch)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_grid_is_torchs_own_and_holds_zero(bits):
    weight = normal(5, 7, dtype=torch.float32)
    low, span = weight_range(weight)
    got = fake_quantize(weight, low, span, bits)
    step = (span / (2**bits - 1)).flatten()
    zero = (-low.flatten() / step).round()
    theirs = torch.fake_quantize_per_channel_affine(weight, step, zero.to(torch.int32), 0, 0, 2**bits - 1)
    assert torch.allclose(got, theirs, atol=1e-6)
    assert torch.equal(fake_quantize(got, low, span, bits), got)
    assert all(len(row.unique()) <= 2**bits for row in got)
    assert not fake_quantize(torch.zeros(5, 1), low, span, bits).any()


@pytest.mark.parametrize(("low", "span"), [(-1.0, 2.3), (0.4, 1.0), (-2.0, 1.0), (-1.0, -3.0)])
def test_gradients_are_the_closed_form(low, span):
    x = normal(200).requires_grad_()
    low, span = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (low, span))
    up, top = normal(200, seed=1), 15
    (fake_quantize(x, low, span, 4) * up).sum().backward()
    s = span.detach().clamp(1e-6, 1e5) / top
    ratio = -low.detach() / s
    k, free = ratio.round().clamp(0, top), 0 <= ratio.round() <= top
    units = x.detach() / s + k
    inside = (units >= 0) & (units <= top)
    assert torch.allclose(x.grad, up * inside)
    codes = units.clamp(0, top).round()
    dk_ds, dk_dz = (-ratio / s, -1 / s) if free else (0.0, 0.0)
    du_ds, du_dz = inside * (-x.detach() / s**2 + dk_ds), inside * dk_dz
    ds = (up * (codes - k + s * (du_ds - dk_ds))).sum()
    dz = (up * s * (du_dz - dk_dz)).sum()
    reaches = 1e-6 <= float(span.detach()) <= 1e5
    assert float(span.grad) == pytest.approx(float(ds) / top if reaches else 0.0, abs=1e-6)
    assert float(low.grad) == pytest.approx(float(dz), abs=1e-6)


def test_ranges():
    low, span = weight_range(torch.tensor([[1.0, 3.0], [-2.0, 1.0], [0.0, 0.0]]))
    assert low.flatten().tolist() == [0, -2, 0] and span.flatten().tolist() == [3, 3, 1]
    x = torch.tensor([[-1.0, 2.0], [-3.0, 6.0]])
    assert [float(v) for v in input_range(x)] == [-2.0, 6.0]
    weight = torch.cat([normal(3, 200), torch.full((3, 1), 9.0, dtype=F64)], 1)
    errors = [(fake_quantize(weight, *bounds, 3) - weight).square().sum(1) for bounds in (
        weight_range(weight), clipped_weight_range(weight, 3),
        *((low * f, span * f) for f in (0.3, 0.6) for low, span in [weight_range(weight)]),
    )]  # fmt: skip
    assert all((errors[1] <= other + 1e-9).all() for other in errors) and (errors[1] < errors[0]).all()


@pytest.mark.parametrize("bias", [True, False])
def test_folding_leaves_the_function_and_reopening_is_the_identity(bias):
    conv, norm, x = nn.Conv2d(3, 5, 3, bias=bias).to(F64), nn.BatchNorm2d(5).to(F64).eval(), normal(4, 3, 6, 6)
    with torch.no_grad():
        norm.weight.copy_(normal(5)), norm.bias.copy_(normal(5, seed=1))
        norm.running_mean.copy_(normal(5, seed=2)), norm.running_var.copy_(normal(5, seed=3).abs())
    weight, offset, _ = folded(conv.weight, conv.bias, norm)
    y = nn.functional.conv2d(x, weight, offset)
    assert torch.allclose(y, norm(conv(x)), atol=1e-12)
    assert torch.allclose(reopened(norm)(y), y, atol=1e-12)
    model, expected = net(), net()(images())
    found = calibrate(model, LAYERS, images())
    assert torch.allclose(found.output, expected, atol=1e-5)
    assert list(found.norms) == LAYERS[:2] and found.rectified == set(LAYERS[:3]) and found.layers == LAYERS


def test_many_bits_are_the_float_model():
    x = images()
    model, expected = MinMax(bits_w=16, bits_a=16).finish(net(), context()), net()(x)
    inside = x.flatten(1).amax(1) <= float(quantized_layers(model)["blocks.0.conv"].x_span.detach())
    assert inside.any()
    layer = quantized_layers(model)["head"]
    y = normal(50, 12, dtype=torch.float32).clamp(0, float(layer.x_span.detach()))
    exact = nn.functional.linear(y, net().head.weight, net().head.bias)
    assert (layer(y) - exact).norm() < 1e-3 * exact.norm()
    assert (model(x) - expected).norm() < 0.2 * expected.norm()  # average ranges clip the extremes


def test_no_iterations_give_the_min_max_model_bit_for_bit():
    plain = MinMax(bits_w=3, bits_a=4).finish(net(), context()).state_dict()
    ours = AdaQuant(bits_w=3, bits_a=4, iters=0, bn_tuning=False).finish(net(), context()).state_dict()
    assert plain.keys() == ours.keys() and all(torch.equal(plain[name], ours[name]) for name in plain)


def fitted(bits=(2, 4), iters=100, rectified=False, noise=0.0):
    x, base = normal(80, 4) @ normal(4, 10, seed=5) + 0.1 * normal(80, 10, seed=6), nn.Linear(10, 6).to(F64)
    with torch.no_grad():
        base.weight.copy_(normal(6, 10, seed=2)), base.bias.copy_(normal(6, seed=7))
        y = base(x) + noise * normal(80, 6, seed=4)
        base.weight.add_(noise * normal(6, 10, seed=3))
    layer = QuantizedLayer(base, bits)
    layer.set_range("x", input_range(x))
    errors = match_layer(
        layer, x, y, iters=iters, batch_size=32, groups=rate_groups({"": layer}, 1e-2, 1.0, 1.0, 1.0), rectified=rectified,
        rng=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return layer, x, y, errors


@pytest.mark.parametrize("rectified", [True, False])
def test_calibration_never_raises_the_held_out_error(rectified):
    layer, x, y, (before, after) = fitted(rectified=rectified)
    ours, theirs = (layer(x[60:]).relu(), y[60:].relu()) if rectified else (layer(x[60:]), y[60:])
    assert after < 0.8 * before
    assert float((ours - theirs).detach().square().mean()) == pytest.approx(after)
    wild = fitted(iters=1, rectified=rectified)[3]
    assert wild[1] <= wild[0] == before


def test_an_unquantised_layer_goes_to_least_squares_and_not_beyond():
    layer, x, y, (before, _) = fitted(bits=(16, 16), iters=400, noise=0.5)
    layer.set_range("x", (x.min(), x.max() - x.min()))
    design = np.hstack([x[:60].numpy(), np.ones((60, 1))])
    solution, *_ = np.linalg.lstsq(design, y[:60].numpy(), rcond=None)
    best = float(np.square(design @ solution - y[:60].numpy()).mean())
    error = float((layer(x[:60]) - y[:60]).detach().square().mean())
    assert best - 1e-3 <= error < 1.6 * best < 0.2 * before


def test_parallel_mode_does_not_depend_on_the_order_of_layers():
    method = AdaQuant(bits_w=2, iters=6, mode="parallel")
    states = []
    for order in (LAYERS, LAYERS[::-1]):
        found = calibrate(net(), LAYERS, images())
        found.layers = list(order)
        states.append(method.calibrated(found, (2, 4), context()).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_sequential_mode_sees_the_quantised_prefix_and_float_targets():
    found = calibrate(net(), LAYERS, images())
    method = AdaQuant(bits_w=2, iters=40)
    both = [method.replace(mode=mode).calibrated(found, (2, 4), context()) for mode in ("sequential", "parallel")]
    first, last = (quantized_layers(model)["blocks.0.conv"].layer.weight for model in both)
    assert torch.equal(first, last)  # no layer before it
    plain = found.divergence(min_max(found, dict.fromkeys(LAYERS, (2, 4))))
    assert found.divergence(both[0]) < found.divergence(both[1]) < plain


def test_statistics_are_those_of_the_float_model_again():
    found = calibrate(net(F64), LAYERS, images(dtype=F64))
    model = min_max(found, dict.fromkeys(LAYERS, (16, 16)))
    for layer in quantized_layers(model).values():
        layer.set_range("x", (torch.tensor(-50.0), torch.tensor(100.0)))
    name, norm = LAYERS[0], found.norms[LAYERS[0]]
    tune_statistics(model, found, 8)
    y = dict(model.named_modules())[name](found.x)
    parts = [found.reference.get_submodule(name)(part) for part in found.x.split(8)]
    mean = torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0)
    variance = torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0)
    scale = ((norm.weight.square() + norm.eps) / (variance + norm.eps)).sqrt()
    expected = scale[:, None, None] * (torch.cat(parts) - mean[:, None, None]) + norm.bias[:, None, None]
    assert torch.allclose(y, expected, atol=0.02)
    assert torch.allclose(y.mean((0, 2, 3)), norm.bias, atol=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_the_programme_is_brute_force(seed):
    rng = np.random.default_rng(seed)
    losses, sizes = rng.exponential(size=(6, 3)) * 1e-4, rng.integers(1, 50, size=(6, 3)).astype(float)
    totals = {
        choice: (sum(losses[i, o] for i, o in enumerate(choice)), sum(sizes[i, o] for i, o in enumerate(choice)))
        for choice in itertools.product(range(3), repeat=6)
    }
    best = np.inf
    for budget in np.linspace(sizes.min(1).sum(), sizes.max(1).sum(), 6):
        expected = min(loss for loss, size in totals.values() if size <= budget)
        loss, size = totals[tuple(cheapest_options(losses, sizes, budget))]
        assert size <= budget and loss == pytest.approx(expected, rel=1e-6) and loss <= best + 1e-12
        best = loss
    with pytest.raises(FitError, match="no allocation fits: the smallest options take"):
        cheapest_options(losses, sizes, sizes.min(1).sum() - 1)


def test_mixed_precision_keeps_the_budget_and_gives_all_to_a_large_one():
    for gamma, expected in ((0.25, {8}), (0.07, {8, 2})):
        ctx, rows = context(), []
        ctx.sink = lambda name, value, rows=rows: rows.append((name, value))
        method = AdaQuant(gamma=gamma, options=("w8a8", "w2a4"), iters=0)
        model = method.finish(net(), ctx)
        numbers = sum(part.layer.weight.numel() for part in quantized_layers(model).values())
        assert {part.precision[0] for part in quantized_layers(model).values()} <= expected
        assert method.size(model) <= 4 * gamma * numbers
        assert method.size(model) == sum(
            p.layer.weight.numel() * int(p.bits[0]) / 8 for p in quantized_layers(model).values()
        )
        assert dict(rows)["bits_per_weight"] == pytest.approx(8 * method.size(model) / numbers)
        if gamma == 0.25:
            assert dict(rows)["predicted_rise"] == dict(rows)["measured_rise"] == 0.0
    with pytest.raises(FitError, match="no allocation fits"):
        AdaQuant(gamma=0.05, options=("w8a8", "w2a4"), iters=0).finish(net(), context())


def test_distillation_lowers_the_divergence_of_predictions():
    logits, other = normal(5, 4), normal(5, 4, seed=1)
    p, q = logits.softmax(1), other.softmax(1)
    assert float(kl(other, logits)) == pytest.approx(float((p * (p / q).log()).sum(1).mean()))
    found = calibrate(net(), LAYERS, images())
    before = found.divergence(MinMax(bits_w=3).finish(net(), context()))
    assert found.divergence(Distilled(bits_w=3, iters=30).finish(net(), context())) < 0.5 * before
    tuned = AdaQuant(bits_w=3, iters=20, bn_tuning=False, bias_tuning=True).finish(net(), context())
    assert found.divergence(tuned) < before


def test_ends_and_depthwise_convolutions_keep_eight_bits():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    held = quantized_layers(MinMax(keep_ends=True, bits_w=3).finish(model, context()))
    assert [part.precision for part in held.values()] == [(8, 8), (8, 8), (3, 4), (8, 8)]


def test_a_run_restores_and_shows_its_layers():
    task = wb.tasks.Digits(architecture="convnet", norm="batch", widths=(4, 6), train_size=150)
    base = wb.train(task, recipe=wb.Recipe(optimizer="adam", lr=1e-2, steps=40))
    recipe = wb.Recipe(steps=0, batch_size=16)
    run = wb.train(task, AdaQuant(bits_w=3, iters=20), start=base, recipe=recipe, every=1)
    model, x = wb.restore(run), task.data(0)["test"].tensors[0]
    assert all(bool(part.folded) == ("conv" in name) for name, part in quantized_layers(model).items())
    accuracy = float((model(x).argmax(1) == task.data(0)["test"].tensors[1]).float().mean())
    assert accuracy == pytest.approx(run.final("accuracy"), abs=1e-6)
    weight = run.tensors()["blocks.1.conv.layer.weight"]
    assert all(len(channel.unique()) <= 8 for channel in weight)
    frame = run.probe("method.adaquant")
    assert list(frame["layer"]) == LAYERS and (frame["after"] <= frame["before"]).all() and set(frame["bits_w"]) == {3}
    bars = wb.plots.calibration(frame).data
    assert [list(bar.y) for bar in bars[:2]] == [list(frame["before"]), list(frame["after"])]
    assert wb.tasks.Digits(architecture="convnet").model(0).blocks[1].conv.out_channels == 32


def test_bad_input_is_refused_by_name():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x) if x.sum() < 1e9 else self.unused(x)

    with pytest.raises(FitError, match="calibration never calls layer 'unused'"):
        MinMax().finish(Branches(), context(normal(8, 4, dtype=torch.float32)))
    model = Branches()
    model.norm = nn.BatchNorm1d(4)
    with pytest.raises(FitError, match="BatchNorms are folded first, but Branches cannot be traced"):
        MinMax().finish(model, context(normal(8, 4, dtype=torch.float32)))
    tied = small_model()
    tied[2].weight = tied[0].weight = nn.Parameter(torch.zeros(32, 16))
    with pytest.raises(FitError, match="weight of layer '0' is tied"):
        MinMax().finish(tied, context())
    with pytest.raises(FitError, match="two at least are needed"):
        AdaQuant(calib_size=1).finish(small_model(), context(small_batch()[0]))
    with pytest.raises(FitError, match="without running statistics"):
        folded(torch.ones(2, 2), None, nn.BatchNorm1d(2, track_running_stats=False))
