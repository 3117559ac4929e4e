"""ReSTE against its closed forms, autograd through the function it approximates, and a network written by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.methods.parametrization.reste import ReSTE, binarize, estimator_slope, power
from wbench.testing import check_method, small_batch, small_model

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def of(values):
    return torch.tensor(values, dtype=F64)


def test_contract():
    assert "vectorized" in check_method(ReSTE)
    check_method(ReSTE, method=ReSTE(binarize_act=False, scale_mode="channel_mean_abs", o_schedule="const"))


def test_power_one_is_the_clipped_straight_through_estimator():
    x = torch.linspace(-3, 3, 1001, dtype=F64)
    assert torch.equal(estimator_slope(x, 1.0), (x.abs() <= 1.5).to(F64))


def test_the_slope_is_even_and_the_forward_odd():
    x = normal(500)
    assert torch.equal(estimator_slope(x, 3.0), estimator_slope(-x, 3.0))
    assert torch.equal(binarize(x, of(3.0)), -binarize(-x, of(3.0)))
    assert float(binarize(torch.zeros(1, dtype=F64), of(3.0))) == 1.0


@pytest.mark.parametrize("o", [1.0, 1.5, 3.0, 10.0, 30.0])
def test_the_area_under_the_slope_is_the_functions_own_value_at_the_clip(o):
    def area(low, high):
        at = np.linspace(low, high, 200_001)[1:-1]  # off the jumps
        values = estimator_slope(of(at), o).numpy()
        return integrate.trapezoid(values, at) + (values[0] + values[-1]) * (at[0] - low)

    assert area(0, 0.1) == pytest.approx(0.1 ** (1 / o), rel=1e-6)
    assert area(0, 0.1) + area(0.1, 1.5) == pytest.approx(1.5 ** (1 / o), rel=1e-6)


def test_the_table_of_slopes():
    x = of([0.05, 0.1, 0.2, 1.0, 1.5, 1.5001])
    expected = [4.641589, 4.641589, 0.974673, 0.333333, 0.254381, 0.0]
    assert estimator_slope(x, 3.0).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("o", [1.0, 3.0, 10.0])
def test_the_estimating_error_of_uniform_weights_has_a_closed_form(o):
    x = torch.linspace(-1, 1, 2_000_001, dtype=F64)
    error = float((power(x, o) - torch.sign(x)).square().mean())
    assert error == pytest.approx(2 / ((o + 1) * (o + 2)), rel=1e-4)


@pytest.mark.parametrize("o", [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
def test_the_slopes_variance_of_uniform_inputs_has_a_closed_form_and_rises(o):
    m, x = 0.1, torch.linspace(-1, 1, 2_000_001, dtype=F64)
    slope = estimator_slope(x, o, t=1.5, m=m)
    exponent = 2 / o - 1
    tail = math.log(1 / m) if exponent == 0 else (1 - m**exponent) / exponent
    expected = m**exponent + tail / o**2 - 1
    assert float(slope.mean()) == pytest.approx(1.0, abs=1e-4)
    assert float(slope.var()) == pytest.approx(expected, abs=2e-3)
    table = {1.0: 0.0, 1.5: 0.1786, 2.0: 0.5756, 3.0: 1.5392, 5.0: 3.1798, 10.0: 5.3759, 30.0: 7.5860}
    assert expected == pytest.approx(table[o], abs=1e-4)


def test_the_backward_is_that_of_the_power_function_between_plateau_and_clip():
    x = of(np.linspace(0.1001, 1.4999, 400)) * torch.where(normal(400) > 0, 1.0, -1.0)
    for o in (1.0, 2.0, 3.0, 10.0):
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        upstream = normal(400, seed=1)
        binarize(one, of(o)).backward(upstream)
        power(other, o).backward(upstream)
        assert torch.allclose(one.grad, other.grad, atol=1e-12)


def test_zeros_and_half_precision_give_finite_gradients():
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.zeros(8, dtype=dtype, requires_grad=True)
        binarize(x, torch.tensor(30.0)).sum().backward()
        assert torch.isfinite(x.grad).all() and x.grad.dtype == dtype


def layer_of(scale_mode="layer_mean_abs"):
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 7), nn.Linear(7, 3)).double()
    return net, ReSTE(scale_mode=scale_mode, o_end=3.0, o_schedule="const").prepare(net)[1]


@pytest.mark.parametrize("mode", ["layer_mean_abs", "channel_mean_abs", "none"])
def test_a_layers_weight_is_two_valued_and_its_gradient_has_the_scales_part(mode):
    _, layer = layer_of(mode)
    latent = layer.parametrizations.weight.original
    weight = layer.weight
    scale = {"layer_mean_abs": latent.abs().mean(), "none": of(1.0)}.get(mode, latent.abs().mean(1, keepdim=True))
    signs = torch.where(latent >= 0, 1.0, -1.0).to(F64)
    assert torch.equal(weight, signs * scale)
    grad = normal(*latent.shape, seed=3)
    weight.backward(grad)
    parts = (grad * signs).sum() if mode == "layer_mean_abs" else (grad * signs).sum(1, keepdim=True)
    count = latent.numel() if mode == "layer_mean_abs" else latent.shape[1]
    extra = 0.0 if mode == "none" else parts / count * torch.sign(latent.detach())
    expected = (scale * estimator_slope(latent.detach(), 3.0) * grad + extra).detach()
    assert torch.allclose(latent.grad, expected, atol=1e-12)


def test_inputs_are_signs_and_get_the_estimators_gradient():
    net, layer = layer_of()
    x = (0.7 * normal(9, 5, seed=4)).requires_grad_()
    out = layer(x)
    by_hand = nn.functional.linear(torch.where(x >= 0, 1.0, -1.0).to(F64), layer.weight, layer.bias)
    assert torch.equal(out, by_hand)
    upstream = normal(*out.shape, seed=5)
    out.backward(upstream)
    expected = (upstream @ layer.weight.detach()) * estimator_slope(x.detach(), 3.0)
    assert torch.allclose(x.grad, expected, atol=1e-12)


def test_a_convolution_pads_after_its_input_is_binary():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 1, 1)).double()
    layer = ReSTE().prepare(net)[1]
    x = normal(2, 2, 7, 7)
    signs = torch.where(x >= 0, 1.0, -1.0).to(F64)
    expected = nn.functional.conv2d(nn.functional.pad(signs, (1, 1, 1, 1)), layer.weight, layer.bias, stride=2)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_the_schedule_starts_at_one_rises_and_reaches_the_end():
    method = ReSTE(o_end=3.0)
    values = [method.power_at(share) for share in np.linspace(0, 1, 101)]
    assert values[0] == 1.0 and values[-1] == pytest.approx(3.0) and values[50] == pytest.approx(1.585786, abs=1e-6)
    assert (np.diff(values) > 0).all()
    assert ReSTE(o_schedule="const").power_at(0.0) == 3.0


def test_the_power_never_changes_what_the_model_computes():
    model = ReSTE().prepare(small_model())
    x = small_batch()[0]
    before = model(x)
    for part in ReSTE().quantizers(model).values():
        part.o.fill_(17.0)
    assert torch.equal(model(x), before)


def test_first_and_last_layer_stay_and_a_named_layer_is_taken():
    assert list(ReSTE().select(small_model())) == ["2"]
    assert list(ReSTE(layers="0").select(small_model())) == ["0"]


def test_training_raises_the_power_and_logs_both_indicators(tmp_path):
    task = wb.tasks.Digits(architecture="residual_mlp", norm="batch_last", hidden=(32, 32, 32), train_size=200)
    run = wb.train(task, ReSTE(o_end=5.0), recipe=wb.Recipe(optimizer="sgd", lr=0.05, steps=30, batch_size=50))
    trained = run.tensors("trained")
    powers = [value for name, value in trained.items() if name.endswith(".o")]
    assert len(powers) == 4 and all(float(o) == pytest.approx(ReSTE(o_end=5.0).power_at(29 / 30)) for o in powers)
    logged = run.metrics[run.metrics["name"] == "estimating_error"]["value"].to_numpy()
    assert len(logged) == 3 and logged[-1] < logged[0]
    assert (run.metrics[run.metrics["name"] == "instability"]["value"] > 0).all()
    weight = run.tensors()["blocks.1.linear.weight"]
    assert len(weight.unique()) == 2
    frame = run.probe("method.reste")
    assert set(frame["layer"]) == {"blocks.1.linear", "blocks.2.linear"}
    state = {name: value for name, value in run.tensors().items() if "quantizer" not in name}
    everything = sum(value.numel() * value.element_size() for value in state.values())
    assert run.memory["packed_weights"] == everything - 2 * 32 * 32 * 4 + 2 * (32 * 32 // 8 + 4)


def test_a_zero_weight_a_bad_plateau_and_a_small_model_are_refused():
    net = small_model()
    nn.init.zeros_(net[2].weight)
    with pytest.raises(FitError, match="layer '2' has all-zero weights"):
        ReSTE().prepare(net)
    ReSTE(scale_mode="none").prepare(net)
    with pytest.raises(KnobError, match="need 0 < m < t"):
        ReSTE(m=1.0, t=0.5)
    with pytest.raises(KnobError, match="o_end=0.5"):
        ReSTE(o_end=0.5)
    with pytest.raises(FitError, match="the first and the last layer stay"):
        ReSTE().prepare(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
