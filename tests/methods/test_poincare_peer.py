"""Poincaré layers against hypll, whose first author is the paper's."""

import pytest
import torch
from poincare_points import F64, C, normal, points

from wbench.methods.layer.poincare_layers import PoincareConv, PoincareNorm
from wbench.ops import poincare as ball


@pytest.mark.peer
def test_the_ball_is_hypllss():
    math_ = pytest.importorskip("hypll.manifolds.poincare_ball.math", reason="hypll is not installed")
    from hypll.manifolds.poincare_ball.math import diffgeom, linalg, stats

    assert math_ is not None
    c = torch.tensor(0.3, dtype=F64)
    x, y, v = points(30, 6, c=c), points(30, 6, c=c, seed=1), normal(30, 6, seed=2)
    z, r = normal(6, 4, seed=3), 0.3 * normal(4, seed=4)
    pairs = [
        (ball.mobius_add(x, y, c), diffgeom.mobius_add(x, y, c)),
        (ball.expmap0(v, c), diffgeom.expmap0(v, c)),
        (ball.logmap0(x, c), diffgeom.logmap0(x, c)),
        (ball.expmap(x, v, c), diffgeom.expmap(x, v, c)),
        (ball.logmap(x, y, c), diffgeom.logmap(x, y, c)),
        (ball.distance(x, y, c), diffgeom.dist(x, y, c)),
        (ball.transport(x, y, v, c), diffgeom.transp(x, y, v, c)),
        (ball.fully_connected(x, z, r, c), linalg.poincare_fully_connected(x, z, r, c)),
        (ball.midpoint(x, c), stats.midpoint(x, c)),
        (ball.frechet_mean(x, c), stats.frechet_mean(x, c)),
        (ball.frechet_variance(x, y[0], c), stats.frechet_variance(x, c, mu=y[0])),
    ]
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.peer
def test_convolution_and_batch_norm_are_hyplls():
    nn_ = pytest.importorskip("hypll.nn", reason="hypll is not installed")
    from hypll.manifolds.poincare_ball import Curvature as Theirs
    from hypll.manifolds.poincare_ball import PoincareBall
    from hypll.tensors import ManifoldTensor

    manifold = PoincareBall(Theirs(C, constraining_strategy=torch.nn.Identity()))
    t = 0.5 * normal(2, 3, 7, 7)
    on_ball = ManifoldTensor(data=ball.expmap0(t.movedim(1, -1), C).movedim(-1, 1), manifold=manifold, man_dim=1)
    own = PoincareConv((3, 5), 3, 2, 1, C, init="hnn").double()
    peer = nn_.HConvolution2d(3, 5, 3, manifold, stride=2, padding=1)
    with torch.no_grad():
        own.offset.copy_(0.2 * normal(5, seed=1))
        peer.weights.tensor.data = own.weight.data
        peer.bias.data = own.offset.data
    theirs = ball.logmap0(peer(on_ball).tensor.movedim(1, -1), C).movedim(-1, 1)
    assert torch.allclose(own(t), theirs, atol=1e-10)
    norm, other = PoincareNorm(3).double(), nn_.HBatchNorm2d(3, manifold, use_midpoint=True).double()
    with torch.no_grad():
        norm.mean.copy_(0.2 * normal(3, seed=2))
        norm.variance.fill_(1.7)
        other.norm.bias.data.copy_(norm.mean)
        other.norm.weight.data.copy_(norm.variance)
    theirs = ball.logmap0(other(on_ball).tensor.movedim(1, -1), C).movedim(-1, 1)
    assert torch.allclose(norm(t, C), theirs, atol=1e-8)
