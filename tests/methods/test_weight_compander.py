"""Weight compander: the card's invariants against closed forms."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from user_model import train_steps

import wbench as wb
from wbench.ops.companding import compand, companding_index, expand, slope

FUNCTIONS = ["arctan", "mulaw", "power_arctan"]
A, B = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)


def uniform(*shape, dtype=torch.float64, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 0.5) * 0.4


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_round_trip_gives_the_weight_back(fn, dtype, tolerance):
    w = uniform(40, 30, dtype=dtype)
    a, b = 2 * w.std(), w.std()
    assert float((compand(expand(w, a, b, fn), a, b, fn) - w).abs().max()) <= tolerance * float(w.std())


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_function_is_odd_and_increasing(fn):
    v = torch.linspace(-2, 2, 401, dtype=torch.float64)
    w = compand(v, A, B, fn)
    assert torch.equal(compand(-v, A, B, fn), -w)
    assert (w.diff() > 0).all()


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_values_agree_with_plain_python(fn):
    for v in (-1.3, -0.01, 0.0, 0.2, 5.0):
        u, sign = abs(v) / float(B), math.copysign(1.0, v)
        expected = {
            "arctan": 0.3 * math.atan(v / 0.2),
            "mulaw": 0.3 * sign * math.log(1 + u),
            "power_arctan": 0.3 * sign * math.atan(u**0.5),
        }[fn]
        assert float(compand(torch.tensor(v, dtype=torch.float64), A, B, fn)) == pytest.approx(expected, abs=1e-15)


def test_arctan_is_bounded_by_a_times_half_pi():
    v = torch.tensor([1e3, 1e9, -1e9], dtype=torch.float64)
    assert (compand(v, A, B).abs() < float(A) * math.pi / 2).all()
    single = compand(torch.tensor([1e30]), A.float(), B.float())
    assert float(single) <= float(A.float() * torch.tensor(math.pi / 2)) * (1 + 1e-6)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_gradients_are_the_three_formulas(fn):
    v = uniform(6, 5).requires_grad_()
    alpha, beta = A.log().requires_grad_(), B.log().requires_grad_()
    g = uniform(6, 5, seed=3)
    w = compand(v, alpha.exp(), beta.exp(), fn, max_slope=1e9)
    w.backward(g)
    d = slope(v.detach(), A, B, fn, max_slope=1e9)
    assert torch.allclose(v.grad, d * g, rtol=0, atol=1e-10)
    assert float(alpha.grad) == pytest.approx(float((w.detach() * g).sum()), abs=1e-10)
    assert float(beta.grad) == pytest.approx(-float((v.detach() * d * g).sum()), abs=1e-10)
    assert torch.autograd.gradcheck(lambda x: compand(x, A, B, fn, max_slope=1e9), v.detach().requires_grad_())


def test_power_arctan_moves_a_zero_weight_with_the_clipped_slope():
    v = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    beta = B.log().requires_grad_()
    compand(v, A, beta.exp(), "power_arctan", 0.5, 100.0).sum().backward()
    assert torch.allclose(v.grad, torch.full((3,), float(100 * A / B), dtype=torch.float64))
    assert float(beta.grad) == 0.0


def test_wide_b_is_the_identity_and_narrow_b_is_the_sign():
    v = uniform(100)
    wide = torch.tensor(50.0, dtype=torch.float64)
    relative = ((compand(v, wide, wide) - v) / v).abs()
    assert (relative <= (v / wide).square() / 3 + 1e-15).all()
    binary = compand(v, A, torch.tensor(1e-12, dtype=torch.float64))
    assert torch.allclose(binary, float(A) * math.pi / 2 * v.sign(), atol=1e-9)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_companding_index_is_above_one(fn):
    v = uniform(1000)
    assert companding_index(v, A, B, fn) > 1.0
    assert companding_index(v, A, B, "identity") == pytest.approx(1.0)


def test_wrapped_model_is_the_model_and_finish_bakes_the_weight(user_model, user_batch):
    before = user_model(user_batch[0]).detach()
    wc = wb.methods.WeightCompander(layers=("*", "!head"))
    model = wc.prepare(user_model)
    assert torch.allclose(model(user_batch[0]), before, atol=1e-5)
    layer = model.fc
    psi = layer.weight.detach().clone()
    model = wc.finish(model)
    assert torch.equal(model.fc.weight, psi)
    assert not parametrize.is_parametrized(model)
    assert set(model.state_dict()) == set(type(model)().state_dict())


def test_against_a_four_line_parametrization():
    class Four(nn.Module):
        def forward(self, v):
            return 0.3 * torch.atan(v / 0.2)

    plain = nn.Linear(20, 10)
    other = nn.Linear(20, 10)
    other.load_state_dict(plain.state_dict())
    parametrize.register_parametrization(other, "weight", Four())
    assert torch.allclose(other.weight, compand(plain.weight, A.float(), B.float()), atol=1e-7)


def test_tied_weight_is_companded_once_and_stays_tied(user_model, user_batch):
    wc = wb.methods.WeightCompander(layers="head", preserve="exact")
    before = user_model(user_batch[0]).detach()
    model = wc.prepare(user_model)
    assert torch.allclose(model(user_batch[0]), before, atol=1e-5)
    names = [name for name, _ in model.named_parameters() if "original" in name]
    assert len(names) == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_steps(model, optimizer, user_batch, 3)
    assert torch.equal(model.embedding.weight, model.head.weight)
    model = wc.finish(model)
    assert model.embedding.weight is model.head.weight


def test_a_and_b_have_no_decay_and_their_own_rate(user_model):
    wc = wb.methods.WeightCompander(lr_scale=0.1, preserve="exact")
    model = wc.prepare(user_model)
    groups = wb.Context(methods=(wc,), recipe=wb.Recipe(weight_decay=0.1)).groups(model)
    special = next(group for group in groups if "lr_scale" in group)
    assert special["weight_decay"] == 0.0 and special["lr_scale"] == 0.1
    assert all(name.endswith(("log_a", "log_b")) for name in special["names"])
    assert special["lr"] == pytest.approx(0.1 * groups[0]["lr"]) and groups[0]["weight_decay"] == 0.1
    assert not any("log_" in name for name in groups[0]["names"])


def test_a_is_frozen_where_a_norm_follows():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4))
    model = wb.methods.WeightCompander().prepare(model)
    part = model[0].parametrizations.weight[0]
    assert not part.log_a.requires_grad and part.log_b.requires_grad
    assert model[3].parametrizations.weight[0].log_a.requires_grad


def test_clipping_warns_with_the_count_and_exact_keeps_the_function():
    layer = nn.Sequential(nn.Linear(64, 64))
    nn.init.normal_(layer[0].weight)
    before = layer[0].weight.detach().clone()
    over = int((before.abs() > 1.5 * 2.0 * before.std(correction=0)).sum())
    with pytest.warns(UserWarning, match=f"{over} of 4096 weights"):
        wb.methods.WeightCompander().prepare(layer)
    exact = nn.Sequential(nn.Linear(64, 64))
    exact[0].weight.data.copy_(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wb.methods.WeightCompander(preserve="exact").prepare(exact)
    assert torch.allclose(exact[0].weight, before, atol=1e-5)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_constants_are_one_a_layer_or_one_a_channel(per):
    layer = nn.Sequential(nn.Conv2d(3, 5, 3))
    wb.methods.WeightCompander(per=per, preserve="exact").prepare(layer)
    part = layer[0].parametrizations.weight[0]
    assert part.log_a.numel() == (1 if per == "layer" else 5)


def test_zero_spread_is_refused_by_layer():
    layer = nn.Sequential(nn.Linear(4, 4))
    nn.init.zeros_(layer[0].weight)
    with pytest.raises(wb.WBenchError, match="layer '0' has zero weight spread"):
        wb.methods.WeightCompander().prepare(layer)


def test_picture_has_the_curve_and_both_densities():
    model = wb.methods.WeightCompander().prepare(nn.Sequential(nn.Linear(64, 64)))
    frame = wb.methods.WeightCompander().observe(model)
    a, b = float(frame["a"].iloc[0]), float(frame["b"].iloc[0])
    assert frame["w"].to_numpy() == pytest.approx(
        a * torch.atan(torch.tensor(frame["v"].to_numpy()) / b).numpy(), abs=1e-6
    )
    width = frame["v"].diff().iloc[1]
    assert float(frame["density_v"].sum() * width) == pytest.approx(1.0, abs=0.03)
