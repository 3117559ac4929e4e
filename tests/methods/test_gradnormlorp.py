"""GradNormLoRP and DoRA: torch's own weight norm, closed forms, and PEFT with galore-torch where they are installed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.method import Context
from wbench.methods import DoRA, GradNormLoRP, LoRA
from wbench.methods.adapter.dora import normalized_rows
from wbench.ops.lowrank import subspace
from wbench.testing import check_method

F64 = torch.float64
SHAPES = [(12, 9), (9, 12), (16, 16)]


def draw(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net(out=12, inp=9, dtype=F64, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inp, out, bias=bias)).to(dtype)


def prepared(method, base=None, move=True):
    model = method.replace(layers="*").prepare(base or net())
    if move:  # off the zero start
        with torch.no_grad():
            model[0].lora_b.copy_(0.3 * draw(*model[0].lora_b.shape, seed=3))
    return model, model[0]


def test_contract():
    check_method(DoRA)
    check_method(GradNormLoRP)
    check_method(GradNormLoRP, method=GradNormLoRP(normalize=False, proj_type="full", detach_norm=True))


@pytest.mark.parametrize("method", [DoRA(rank=4), GradNormLoRP(rank=4, proj_rank=2)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_start_is_the_frozen_model_and_rows_always_have_the_trained_length(method, shape):
    base, x = net(*shape), draw(5, shape[1], seed=1)
    before = base(x).detach()
    model, layer = prepared(method, base, move=False)
    assert torch.allclose(model(x), before, atol=1e-12)
    _, layer = prepared(method, net(*shape))
    assert torch.allclose(layer.weight.norm(dim=1, keepdim=True), layer.magnitude, rtol=1e-12)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"0.lora_a", "0.lora_b", "0.magnitude"}


def test_scaling_the_direction_changes_nothing_so_its_gradient_is_tangential():
    direction, magnitude = draw(6, 5).requires_grad_(), draw(6, 1, seed=1).abs()
    out = normalized_rows(magnitude, direction, detach_norm=False)
    assert torch.allclose(normalized_rows(magnitude, 3.0 * direction, detach_norm=False), out)
    (out * draw(6, 5, seed=2)).sum().backward()
    inner = (direction.grad * direction.detach()).sum(1)
    assert float(inner.abs().max()) < 1e-12 * float(direction.grad.norm())


def test_gradients_are_those_of_torchs_weight_norm():
    method = GradNormLoRP(rank=4, proj_rank=2)
    model, layer = prepared(method)
    x, upstream = draw(7, 9, seed=4), draw(7, 12, seed=5)
    model(x).backward(upstream)
    theirs = weight_norm(nn.Linear(9, 12).double(), dim=0)
    factor_a, factor_b = (p.detach().clone().requires_grad_() for p in (layer.lora_a, layer.lora_b))
    direction = layer.base.weight.detach() + 2.0 * factor_b @ factor_a
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(layer.magnitude)
        theirs.parametrizations.weight.original1.copy_(direction)
        theirs.bias.copy_(layer.bias)
    theirs(x).backward(upstream)
    direction.backward(theirs.parametrizations.weight.original1.grad)
    assert torch.allclose(layer.magnitude.grad, theirs.parametrizations.weight.original0.grad, atol=1e-12)
    assert torch.allclose(layer.lora_a.grad, factor_a.grad, atol=1e-12)
    assert torch.allclose(layer.lora_b.grad, factor_b.grad, atol=1e-12)


@pytest.mark.parametrize("method", [DoRA(rank=4), GradNormLoRP(rank=4, proj_rank=2)], ids=str)
def test_merging_gives_the_forward(method):
    model, _ = prepared(method)
    x = draw(6, 9, seed=6)
    before = model(x).detach()
    assert torch.allclose(method.replace(layers="*").finish(model)(x), before, atol=1e-12)


def test_dropout_acts_on_the_low_rank_path_alone():
    model, layer = prepared(GradNormLoRP(rank=4, proj_rank=2, dropout=0.9))
    with torch.no_grad():
        layer.lora_b.copy_(draw(12, 4, seed=5))
    x = draw(50, 9, seed=7)
    torch.manual_seed(0)
    found = layer.train()(x)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(x, 0.9)
    direction = layer.base.weight + layer.scaling * layer.lora_b @ layer.lora_a
    factor = layer.magnitude.squeeze(1) / direction.norm(dim=1)
    expected = factor * (x @ layer.base.weight.T + layer.scaling * dropped @ layer.lora_a.T @ layer.lora_b.T)
    assert torch.allclose(found, expected + layer.base.bias, atol=1e-12)
    assert not torch.allclose(found, layer.eval()(x))
    assert torch.allclose(model.eval()(x), nn.functional.linear(x, layer.weight, layer.bias), atol=1e-12)


def steps(method, gradients, base, lr=1e-2, total=40):
    model, layer = prepared(method, base)
    optimizer = method.replace(layers="*").optimizer(model, wb.Recipe(lr=lr, steps=total))
    history = [layer.lora_b.detach().clone()]
    for da, db, dm in gradients:
        layer.lora_a.grad, layer.lora_b.grad, layer.magnitude.grad = da.clone(), db.clone(), dm.clone()
        optimizer.step()
        history.append(layer.lora_b.detach().clone())
    return layer, optimizer, history


def gradients(count, seed=0):
    shapes = ((4, 9), (12, 4), (12, 1))
    return [tuple(draw(*shape, seed=seed + 10 * step + i) for i, shape in enumerate(shapes)) for step in range(count)]


def test_the_optimizer_keeps_as_many_numbers_as_the_formula_says():
    method = GradNormLoRP(rank=4, proj_rank=2)
    layer, optimizer, _ = steps(method, gradients(3), net())
    held = {
        name: sum(v.numel() for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor) and k != "past")
        for name, p in layer.named_parameters()
        if p in optimizer.state
    }
    assert held == {"lora_b": 2 * 12 * 2 + 2 * 4, "lora_a": 2 * 9 * 2 + 4 * 2, "magnitude": 2 * 12}


def test_a_step_between_refreshes_has_at_most_the_projections_rank():
    _, _, history = steps(GradNormLoRP(rank=4, proj_rank=2, update_proj_gap=10), gradients(8), net())
    for before, after in zip(history, history[1:], strict=False):
        assert torch.linalg.matrix_rank(after - before, tol=1e-10) <= 2
    assert torch.linalg.matrix_rank(history[-1] - history[0], tol=1e-10) <= 2


def test_with_the_full_rank_and_one_gradient_the_projection_is_a_rotation():
    gradient = draw(12, 4)
    _, right, _ = subspace(gradient, 4, "right")
    assert torch.allclose(gradient @ right.T @ right, gradient, atol=1e-12)


def test_the_first_subspace_of_a_zero_gradient_is_that_of_unit_vectors():
    method = GradNormLoRP(rank=4, proj_rank=2, update_proj_gap=100)
    model, layer = prepared(method, move=False)
    start = layer.lora_a.detach().clone()
    optimizer = method.replace(layers="*").optimizer(model, wb.Recipe(lr=1e-2, steps=40))
    x, y = draw(30, 9, seed=8), draw(30, 12, seed=9)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    moved = (layer.lora_a.detach() - start).abs().sum(1)
    assert (moved[:2] > 0).all() and (moved[2:] == 0).all()
    left, right, values = subspace(torch.zeros(3, 7), 2, "full")
    assert torch.equal(left, torch.eye(3)[:, :2]) and torch.equal(right, torch.eye(7)[:2]) and not values.any()


def test_weight_decay_spares_the_lengths():
    method = GradNormLoRP(rank=4, proj_rank=2, layers="*")
    model = method.prepare(net())
    ctx = Context(recipe=wb.Recipe(lr=1e-2, weight_decay=0.5), methods=(method,))
    decays = {name: group["weight_decay"] for group in ctx.groups(model) for name in group["names"]}
    assert decays == {"0.magnitude": 0.0, "0.lora_a": 0.5, "0.lora_b": 0.5}


def test_a_run_shows_rows_that_change_length_and_direction():
    task = wb.tasks.Digits(hidden=(32,), train_size=100)
    run = wb.train(task, GradNormLoRP(trainable="head"), recipe=wb.Recipe(steps=20, lr=1e-2))
    frame = run.probe("method.gradnormlorp")
    last = frame[frame["step"] == 20]
    assert len(last) == 32 and last["turn"].max() > 1e-4 and (last["length"] - 1).abs().max() > 1e-3
    assert frame[frame["step"] == 0]["turn"].max() < 1e-6


def test_bad_input_is_refused_by_name():
    with pytest.raises(KnobError, match="proj_rank 9 must be <= rank 8"):
        GradNormLoRP(proj_rank=9)
    broken = net()
    nn.init.zeros_(broken[0].weight[3])
    for method in (GradNormLoRP(rank=4, proj_rank=2, layers="*"), DoRA(rank=4, layers="*")):
        with pytest.raises(FitError, match="row 3 of '0' is zero"):
            method.prepare(copy.deepcopy(broken))
    with pytest.raises(FitError, match="rank must be between 1 and 9 for '0'"):
        GradNormLoRP(rank=10, layers="*").prepare(net())
    assert type(prepared(GradNormLoRP(rank=4, normalize=False))[1]) is type(prepared(LoRA(rank=4))[1])


def peer_layer(shape, bias, rank=4):
    peft = pytest.importorskip("peft", reason="the peers extra is not installed")
    base = nn.Sequential()
    base.add_module("fc", net(*shape, bias=bias)[0])
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["fc"], use_dora=True, lora_dropout=0.0)
    model = peft.get_peft_model(base, config)
    return model, model.base_model.model.fc


@pytest.mark.peer
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_pefts_doras(shape, bias):
    _, theirs = peer_layer(shape, bias)
    model, layer = prepared(GradNormLoRP(rank=4, proj_rank=2, detach_norm=True), net(*shape, bias=bias))
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(layer.lora_a)
        theirs.lora_B["default"].weight.copy_(layer.lora_b)
        theirs.lora_magnitude_vector["default"].weight.copy_(layer.magnitude.flatten())
    theirs = theirs.double()
    x, upstream = draw(7, shape[1], seed=4), draw(7, shape[0], seed=5)
    ours, other = model(x), theirs(x)
    assert torch.allclose(ours, other, atol=1e-5)
    ours.backward(upstream)
    other.backward(upstream)
    assert torch.allclose(layer.lora_a.grad, theirs.lora_A["default"].weight.grad, atol=1e-5)
    assert torch.allclose(layer.lora_b.grad, theirs.lora_B["default"].weight.grad, atol=1e-5)
    length = theirs.lora_magnitude_vector["default"].weight.grad
    assert torch.allclose(layer.magnitude.grad.flatten(), length, atol=1e-5)


@pytest.mark.peer
def test_twenty_steps_are_those_of_galore_torch_on_the_same_gradients():
    peer = pytest.importorskip("galore_torch", reason="the peers extra is not installed")
    method = GradNormLoRP(rank=4, proj_rank=2, update_proj_gap=7)
    model, layer = prepared(method, net(dtype=torch.float32))
    factors = [nn.Parameter(p.detach().clone()) for p in (layer.lora_a, layer.lora_b)]
    length = nn.Parameter(layer.magnitude.detach().clone())
    special = {"rank": 2, "update_proj_gap": 7, "scale": 1.0, "proj_type": "std"}
    groups = [{"params": factors, **special}, {"params": [length]}]
    theirs = peer.GaLoreAdamW(groups, lr=1e-2)
    ours = method.replace(layers="*").optimizer(model, wb.Recipe(lr=1e-2, steps=40))
    for da, db, dm in gradients(20):
        for p, q, g in zip(
            (layer.lora_a, layer.lora_b, layer.magnitude), (*factors, length), (da, db, dm), strict=True
        ):
            p.grad, q.grad = g.float().clone(), g.float().clone()
        ours.step()
        theirs.step()
    for p, q in zip((layer.lora_a, layer.lora_b, layer.magnitude), (*factors, length), strict=True):
        assert torch.allclose(p, q, atol=1e-5)
