"""Normalize-and-Project: the card's invariants in float64, against torch's own normalisation and closed forms."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import wbench as wb
from wbench.methods import LayerNormOnly, NaP
from wbench.methods.optimizer.nap import project_affine, project_weight
from wbench.methods.optimizer.nap_norms import OffsetRMSNorm
from wbench.ops.norms import frobenius


def trunk(seed=0, act=nn.ReLU, bias=True, head_bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 16, bias), act(), nn.Linear(16, 16, bias), act(), nn.Linear(16, 5, head_bias)
    ).double()


def tiny_eps(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.eps = 1e-12
    return model


def prepared(norm="layernorm", **knobs):
    method = NaP(norm=norm, **knobs)
    return method, tiny_eps(method.prepare(trunk()))


X = torch.randn(32, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(5, (32,), generator=torch.Generator().manual_seed(2))


def loss_of(model):
    return nn.functional.cross_entropy(model(X), Y)


def hidden(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][:2]


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms_stand_before_nonlinearities_and_biases_and_head_are_as_they_should_be(norm):
    plain = trunk()
    model = NaP(norm=norm).prepare(copy.deepcopy(plain))
    kinds = [type(m).__name__ for m in model.modules() if not list(m.children())]
    inserted = {"layernorm": "LayerNorm", "rmsnorm": "OffsetRMSNorm"}[norm]
    assert kinds == ["Linear", inserted, "ReLU", "Linear", inserted, "ReLU", "Linear"]
    assert all(layer.bias is None for layer in hidden(model))
    assert torch.equal(model[4].weight, plain[4].weight) and torch.equal(model[4].bias, plain[4].bias)


def test_weights_that_are_all_frozen_are_refused_and_norms_alone_are_not():
    model = trunk()
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    with pytest.raises(wb.errors.FitError, match=r"every weight that it would project is frozen \(0, 2\)"):
        NaP().prepare(copy.deepcopy(model))
    assert isinstance(NaP(project=False).prepare(copy.deepcopy(model))[0][1], nn.LayerNorm)
    model[2].requires_grad_(True)
    method, prepared = NaP(), NaP().prepare(model)
    assert not any(hasattr(module, "wbench_rewriter") for module in method.finish(prepared).modules())


def test_norms_after_each_step_are_those_of_the_start_and_the_head_is_free():
    method, model = prepared(affine_mode="none")
    model = model.float()
    start = [float(layer.weight.norm()) for layer in hidden(model)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    method.attach(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X.float()), Y).backward()
        head = model[4].weight.detach().clone()
        optimizer.step()
        moved = model[4].weight.detach()
        assert not torch.equal(head, moved)
        method.after_step(model)
        assert torch.equal(moved, model[4].weight)
        for layer, norm in zip(hidden(model), start, strict=True):
            assert abs(float(layer.weight.norm()) / norm - 1) <= 1e-6


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_projection_does_not_change_the_function_and_is_idempotent(norm):
    method, model = prepared(norm, affine_mode="none")
    with torch.no_grad():
        for layer in hidden(model):
            layer.weight.mul_(2.7)
    before = model(X).detach()
    method.after_step(model)
    once = [layer.weight.detach().clone() for layer in hidden(model)]
    assert torch.allclose(model(X), before, atol=1e-9)
    method.after_step(model)
    assert all(torch.allclose(a, layer.weight, rtol=1e-12) for a, layer in zip(once, hidden(model), strict=True))


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_gradient_is_orthogonal_to_the_weight_and_scales_inversely(norm):
    _, model = prepared(norm)
    loss_of(model).backward()
    first = [layer.weight.grad.clone() for layer in hidden(model)]
    for layer, g in zip(hidden(model), first, strict=True):
        assert abs(float((layer.weight * g).sum())) <= 1e-10 * float(layer.weight.norm() * g.norm())
    model.zero_grad()
    with torch.no_grad():
        hidden(model)[0].weight.mul_(3.0)
    loss_of(model).backward()
    assert torch.allclose(hidden(model)[0].weight.grad, first[0] / 3.0, atol=1e-10)


def test_sgd_step_obeys_pythagoras():
    _, model = prepared()
    loss_of(model).backward()
    for layer in hidden(model):
        w, g = layer.weight.detach(), layer.weight.grad
        grown = (w - 0.3 * g).square().sum()
        assert abs(float(grown - w.square().sum() - (0.3 * g).square().sum())) < 1e-9


def test_implicit_schedule_replayed_gives_the_unprojected_directions():
    free = tiny_eps(LayerNormOnly(affine_mode="fixed").prepare(trunk()))
    method = NaP(affine_mode="fixed", match_implicit_schedule=True)
    bound = tiny_eps(method.prepare(trunk()))
    plain = tiny_eps(NaP(affine_mode="fixed").prepare(trunk()))
    recipe = wb.Recipe(optimizer="sgd", lr=0.5)
    for model, ours in ((free, None), (bound, method), (plain, NaP(affine_mode="fixed"))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        if ours:
            ctx = wb.Context(recipe=recipe, methods=(ours,), optimizer=optimizer)
            ours.attach(model, optimizer, ctx)
        for _ in range(50):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    cosine = nn.CosineSimilarity(dim=0)
    for a, b, c in zip(hidden(free), hidden(bound), hidden(plain), strict=True):
        assert abs(float(cosine(a.weight.flatten(), b.weight.flatten())) - 1) < 1e-9
        assert abs(float(cosine(a.weight.flatten(), c.weight.flatten())) - 1) > 1e-6
    assert torch.allclose(free(X), bound(X), atol=1e-8)


def test_joint_projection_is_the_identity_at_the_start_and_scales_the_logits_by_its_factor():
    scale, offset = torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    assert float(project_affine(scale, offset)) == pytest.approx(1.0)
    model = tiny_eps(NaP(affine_mode="joint").prepare(trunk(head_bias=False)))
    with torch.no_grad():
        model[2][1].weight.mul_(1.7)
        model[2][1].bias.add_(0.3)
    before, inner = model(X).detach(), model[:2](X).detach()
    factor = project_affine(model[2][1].weight.data, model[2][1].bias.data)
    assert torch.allclose(model[:2](X), inner)
    assert torch.allclose(model(X), float(factor) * before, atol=1e-9)
    total = model[2][1].weight.square().sum() + model[2][1].bias.square().sum()
    assert float(total.detach()) == pytest.approx(16.0)


def test_radius_travels_with_the_state_and_leaves_with_finish():
    method, model = prepared()
    state = model.state_dict()
    assert sum("nap_radius" in name for name in state) == 2
    other = NaP().prepare(trunk(seed=9))
    other.load_state_dict(state)
    method.after_step(model)
    NaP().after_step(other)
    assert torch.equal(model(X), tiny_eps(other)(X))
    assert not any("nap" in name for name in method.finish(model).state_dict())


def test_weight_part_is_torchs_weight_norm_with_a_frozen_magnitude():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias=False)
    radius = frobenius(linear.weight).clone()
    reference = parametrizations.weight_norm(nn.Linear(6, 4, bias=False), dim=None)
    moved = torch.randn(4, 6)
    with torch.no_grad():
        linear.weight.copy_(moved)
        reference.parametrizations.weight.original0.fill_(float(radius))
        reference.parametrizations.weight.original1.copy_(moved)
    assert project_weight(linear.weight, radius)
    assert torch.allclose(linear.weight, reference.weight, atol=1e-6)


def test_rows_and_fan_out_targets():
    with pytest.warns(UserWarning, match="changes the function"):
        model = NaP(granularity="row", target="sqrt_fan_out").prepare(trunk())
    NaP(granularity="row").after_step(model)
    assert torch.allclose(hidden(model)[0].weight.norm(dim=1), torch.full((16,), 4.0, dtype=torch.float64))


def test_offset_rms_norm_is_torchs_rms_norm_and_normalises_space_of_a_convolution():
    x = torch.randn(4, 8)
    assert torch.allclose(OffsetRMSNorm(8, False, True)(x), nn.RMSNorm(8, eps=1e-5)(x), atol=1e-6)
    image = torch.randn(4, 8, 5, 5)
    y = OffsetRMSNorm(8, True, False)(image)
    assert torch.allclose(y.square().mean((1, 2, 3)), torch.ones(4), atol=1e-3)


def test_decay_pulls_scale_and_offset_of_a_smooth_activation_to_their_start():
    method = NaP(affine_decay=0.5)
    model = method.prepare(trunk(act=nn.GELU))
    with torch.no_grad():
        model[0][1].weight.fill_(3.0)
        model[0][1].bias.fill_(1.0)
    assert float(method.penalty(model).detach()) == pytest.approx(0.5 * (16 * 4 + 16))
    with pytest.raises(wb.WBenchError, match="positively homogeneous activation; got GELU, use 'decay'"):
        NaP(affine_mode="joint").prepare(trunk(act=nn.GELU))


def test_layers_that_no_norm_can_follow_are_refused_by_name():
    with pytest.raises(wb.WBenchError, match="weight '4' is not followed by a normalization layer"):
        NaP(layers="4").prepare(trunk())
    model = NaP(layers="4", allow_non_invariant=True).prepare(trunk())
    assert "nap_radius" in dict(model[4].named_buffers())


def test_decay_of_projected_weights_warns_and_parametrisations_are_refused():
    with pytest.warns(UserWarning, match="weight_decay=0.1 has no effect"):
        NaP().prepare(trunk(), wb.Recipe(weight_decay=0.1))
    with pytest.raises(wb.WBenchError, match="nap and weight_compander cannot be used together"):
        wb.train("digits", ["nap", "weight_compander"], scale="smoke")


def test_zero_weight_is_left_as_it_is_with_a_warning():
    method, model = prepared()
    nn.init.zeros_(hidden(model)[0].weight)
    with pytest.warns(UserWarning, match="norm zero"):
        method.after_step(model)
    assert not hidden(model)[0].weight.any()


def test_on_a_users_model_with_functional_activations(user_model, user_batch):
    method = NaP()
    model = method.prepare(user_model)
    assert isinstance(model.conv1, nn.Sequential) and isinstance(model.conv1[1], nn.GroupNorm)
    assert isinstance(model.mix[1], nn.LayerNorm) and isinstance(model.head, nn.Linear)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    method.attach(model, optimizer)
    start = float(model.mix[0].weight.norm())
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(user_batch[0]), user_batch[1]).backward()
        optimizer.step()
    assert float(model.mix[0].weight.norm()) == pytest.approx(start, rel=1e-5)
    assert math.isfinite(float(model(user_batch[0]).sum()))


def test_projection_every_few_steps_and_projection_off():
    method, model = prepared(every=3, affine_mode="none")
    ctx = wb.Context(methods=(method,))
    with torch.no_grad():
        hidden(model)[0].weight.mul_(2)
    ctx.step = 2
    method.after_step(model, ctx)
    assert float(hidden(model)[0].weight.norm()) > 1.5 * float(hidden(model)[0].nap_radius)
    ctx.step = 3
    method.after_step(model, ctx)
    assert float(hidden(model)[0].weight.norm()) == pytest.approx(float(hidden(model)[0].nap_radius))


def test_effective_rate_is_flat_with_projection_and_decays_without():
    recipe = wb.Recipe(optimizer="adam", lr=1e-2, steps=100, batch_size=64)
    rates = {}
    for method in (NaP(), LayerNormOnly()):
        frame = wb.train("digits", method, recipe=recipe).probe("effective_lr")
        first = frame[(frame["layer"] == "blocks.0.linear") & (frame["step"] > 0)].sort_values("step")["effective_lr"]
        rates[method.id] = float(first.iloc[-1] / first.iloc[0])
    assert rates["nap"] == pytest.approx(1.0, rel=1e-5)
    assert rates["layernorm"] < 0.9
