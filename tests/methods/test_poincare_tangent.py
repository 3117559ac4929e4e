"""Layers between tangent spaces at the origin against the maps that they leave out."""

import pytest
import torch
from poincare_points import F64, normal
from torch.nn import functional as F

from wbench.methods.layer.poincare_layers import PoincareConv
from wbench.ops import poincare as ball
from wbench.ops.poincare_tangent import connected, normalised


def same(ours, theirs, inputs):
    """Values, and gradients of every input, of a sum with weights."""
    upstream = normal(*ours.shape, seed=9)
    for one, other in zip(
        torch.autograd.grad((ours * upstream).sum(), inputs, retain_graph=True),
        torch.autograd.grad((theirs * upstream).sum(), inputs, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max() + 1))
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.5, 3.0, 30.0])  # from the origin to beyond the rim
@pytest.mark.parametrize("curvature", [0.01, 0.1, 1.5])
def test_a_connected_layer_is_exponential_map_hyperplanes_and_logarithm(scale, curvature):
    t, z = normal(20, 6, scale=scale).requires_grad_(), normal(6, 4, seed=1, scale=0.4).requires_grad_()
    r, c = normal(4, seed=2, scale=0.3).requires_grad_(), torch.tensor(curvature, dtype=F64, requires_grad=True)
    ours = connected(t @ z, t.square().sum(-1, keepdim=True), z, r, c)
    theirs = ball.logmap0(ball.project(ball.fully_connected(ball.expmap0(t, c), z, r, c), c), c)
    same(ours, theirs, (t, z, r, c))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(3, 1, 1, 5), (3, 2, 1, 7), (1, 2, 0, 6), (2, 1, 0, 4)]
)
def test_a_convolution_is_patches_through_a_connected_layer(kernel, stride, padding, side):
    layer = PoincareConv((3, 5), kernel, stride, padding, 0.3, True, "hnn").double()
    t = normal(2, 3, side, side).requires_grad_()
    c, ours = layer.curvature(), layer(t)
    patches = F.unfold(t * layer.ratio, kernel, padding=padding, stride=stride).transpose(1, 2)
    on_ball = ball.project(ball.fully_connected(ball.expmap0(patches, c), layer.weight, layer.offset, c), c)
    theirs = ball.logmap0(on_ball, c).transpose(1, 2).unflatten(2, ours.shape[2:])
    same(ours, theirs, (t, layer.weight, layer.offset, layer.curvature.theta))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_a_norm_is_logarithm_transport_and_exponential_map(scale, given):
    c = torch.tensor(0.2, dtype=F64, requires_grad=True)
    t, m, e = (normal(*shape, seed=seed, scale=by).requires_grad_() for shape, seed, by in (((30, 5), 0, scale), ((5,), 1, 0.4), ((5,), 2, 0.7)))  # fmt: skip
    x, mean, target = (ball.expmap0(part, c) for part in (t, m, e))
    wanted = torch.tensor(0.8, dtype=F64, requires_grad=True)
    variance = torch.tensor(1.3, dtype=F64, requires_grad=True) if given else ball.frechet_variance(x, mean, c)
    ours, used = normalised(x, mean, target, wanted, c, variance if given else None)
    assert torch.allclose(used, variance, rtol=1e-9)
    v = ball.transport(mean, target, ball.logmap(mean, x, c), c) * (wanted / (variance + 1e-6)).sqrt()
    inputs = (t, m, e, c, wanted, variance) if given else (t, m, e, c, wanted)
    leaving = ball.leave(ours, c), ball.logmap0(ball.expmap(target, v, c), c)
    same(*leaving, inputs)


def test_leaving_the_ball_is_the_logarithm_of_projected_points():
    x = (normal(20, 4, scale=0.9)).requires_grad_()
    same(ball.leave(x, 1.0), ball.logmap0(ball.project(x, 1.0), 1.0), (x,))
    length = ball.project(x.detach(), 1.0).norm(dim=-1)
    assert float(length.max()) == pytest.approx(1 - ball.MARGIN[F64], abs=1e-12) and bool((x.norm(dim=-1) > 1).any())
