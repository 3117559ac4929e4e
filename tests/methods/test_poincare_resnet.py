"""Poincaré networks against closed forms, torch's own convolution in the flat limit, and hypll."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from poincare_points import F64, C, normal, points
from scipy import optimize
from torch.nn import functional as F

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.methods.layer.poincare_layers import Curvature, PoincareBlock, PoincareConv, PoincareLinear, PoincareNorm
from wbench.methods.layer.poincare_resnet import PoincareResNet, norm_ratios
from wbench.ops import poincare as ball
from wbench.task import Task


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0, torch.tensor(0.7, dtype=F64)])
def test_exponential_and_logarithm_are_inverse_and_sums_cancel(c):
    scale = 0.4 / float(c) ** 0.5
    x, y = points(c=c, scale=scale), points(c=c, scale=scale, seed=1)
    assert torch.allclose(ball.expmap0(ball.logmap0(x, c), c), x, atol=1e-12, rtol=0)
    assert torch.allclose(ball.mobius_add(-x, ball.mobius_add(x, y, c), c), y, atol=1e-10, rtol=0)
    assert torch.allclose(ball.expmap(x, ball.logmap(x, y, c), c), y, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_transport_keeps_lengths_up_to_near_the_rim(scale):
    x, y, v = points(scale=scale), points(scale=scale, seed=1), normal(50, 8, seed=2)
    before = ball.conformal(x, C) * v.norm(dim=-1, keepdim=True)
    after = ball.conformal(y, C) * ball.transport(x, y, v, C).norm(dim=-1, keepdim=True)
    assert torch.allclose(after, before, rtol=1e-10, atol=0)


def test_distance_is_the_length_of_the_logarithm_and_that_of_moebius_addition():
    x, y = points(scale=2.0), points(scale=2.0, seed=1)
    length = (ball.conformal(x, C) * ball.logmap(x, y, C).norm(dim=-1, keepdim=True)).squeeze(-1)
    artanh = 2 / C**0.5 * torch.atanh(C**0.5 * ball.mobius_add(-x, y, C).norm(dim=-1))
    found = ball.distance(x, y, C)
    assert torch.allclose(found, length, rtol=1e-9) and torch.allclose(found, artanh, rtol=1e-9)
    assert torch.equal(ball.distance(x, x, C), torch.zeros(50, dtype=F64))


def test_half_of_the_identity_is_the_identity_and_keeps_norms_over_twenty_layers():
    x = points(scale=3.0)
    assert torch.allclose(
        ball.fully_connected(x, torch.eye(8, dtype=F64) / 2, torch.zeros(8, dtype=F64), C), x, atol=1e-12
    )
    ratios = norm_ratios(20, 16, C, "eye", torch.Generator().manual_seed(0))
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-10


def test_a_normal_start_collapses():
    for seed in range(3):
        assert norm_ratios(10, 16, C, "hnn", torch.Generator().manual_seed(seed))[-1] < 1e-3


def test_without_curvature_a_layer_is_linear_with_twice_the_weight():
    x, z, r = normal(20, 6), normal(6, 4, seed=1), normal(4, seed=2)
    flat = 2 * x @ z - 2 * z.norm(dim=0) * r
    assert torch.allclose(ball.fully_connected(x, z, r, 1e-9), flat, atol=1e-6)
    assert torch.allclose(ball.mobius_add(x, normal(20, 6, seed=3), 1e-12), x + normal(20, 6, seed=3), atol=1e-9)


@pytest.mark.parametrize(("side", "stride"), [(7, 2), (8, 2), (7, 1)])
def test_without_curvature_a_convolution_is_torchs(side, stride):
    layer = PoincareConv((3, 5), 3, stride, 1, c=1e-9, init="hnn").double()
    x = normal(2, 3, side, side)
    kernel = 2 * layer.ratio * layer.weight.T.view(5, 3, 3, 3)
    assert torch.allclose(layer(x), F.conv2d(x, kernel, stride=stride, padding=1), atol=1e-6)


def test_a_convolution_that_starts_at_the_centre_is_the_identity_away_from_the_rim():
    layer = PoincareConv((4, 4), c=1e-9, init="center").double()
    x = normal(2, 4, 6, 6)
    assert torch.allclose(layer(x), x, atol=1e-6)


def test_the_midpoint_of_two_points_is_their_frechet_mean_and_halves_their_distance():
    pair = points(2, scale=2.0)
    middle, mean = ball.midpoint(pair, C), ball.frechet_mean(pair, C)
    assert torch.allclose(middle, mean, atol=1e-8)
    half = ball.distance(pair[0], pair[1], C) / 2
    assert torch.allclose(ball.distance(pair, middle, C), half.expand(2), atol=1e-8)


@pytest.mark.parametrize(("scale", "most"), [(0.2, 1e-3), (1.0, 0.05), (2.0, 0.2)])
def test_the_midpoint_is_near_the_frechet_mean(scale, most):
    cloud = points(256, 16, scale=scale)
    mean = ball.frechet_mean(cloud, C)
    gap = ball.distance(ball.midpoint(cloud, C), mean, C) / ball.frechet_variance(cloud, mean, C).sqrt()
    assert float(gap) < most
    assert ball.logmap(mean, cloud, C).mean(0).norm() < 1e-10  # where the sum of squares is flat


def test_weights_of_the_midpoint_count_points():
    cloud = points(3)
    assert torch.allclose(
        ball.midpoint(cloud, C, torch.tensor([1.0, 2.0, 1.0], dtype=F64)),
        ball.midpoint(cloud[[0, 1, 1, 2]], C),
        atol=1e-14,
    )


def test_gradients_of_the_frechet_mean_are_those_of_finite_differences():
    cloud = points(7, 3, scale=1.5, c=0.3).requires_grad_()
    c = torch.tensor(0.3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c: ball.frechet_mean(x, c), (cloud, c), eps=1e-6, atol=1e-6)


def test_batch_norm_sets_the_variance_about_its_mean():
    layer = PoincareNorm(4).double()
    x = normal(6, 4, 5, 5)
    out = ball.expmap0(layer(x, C).movedim(1, -1).reshape(-1, 4), C)
    assert ball.frechet_variance(out, torch.zeros(4, dtype=F64), C).item() == pytest.approx(1.0, abs=1e-4)
    with torch.no_grad():  # factor 1: the midpoint goes to the origin exactly
        flat = ball.expmap0(x.movedim(1, -1).reshape(-1, 4), C)
        layer.variance.fill_(ball.frechet_variance(flat, ball.midpoint(flat, C), C) + 1e-6)
    out = ball.expmap0(layer(x, C).movedim(1, -1).reshape(-1, 4), C)
    assert ball.midpoint(out, C).norm() < 1e-10


def test_running_statistics_follow_the_batches_and_are_used_in_evaluation():
    layer = PoincareNorm(3).double()
    x = normal(20, 3, 4, 4) + 1.0
    for _ in range(200):
        batch = layer(x, C)
    assert torch.allclose(layer.eval()(x, C), batch, atol=1e-6)
    assert not torch.allclose(layer(x[:1], C), batch[:1] + 1.0)
    layer.running = False
    assert not torch.allclose(layer(x[:1], C), batch[:1], atol=1e-2)


@pytest.mark.parametrize("how", ["midpoint", "frechet"])
def test_degenerate_batches_give_finite_gradients(how):
    for x in (torch.zeros(4, 3, 2, 2), torch.ones(1, 3, 1, 1), torch.ones(5, 3, 2, 2)):
        layer, x = PoincareNorm(3, how), x.clone().requires_grad_()
        layer(x, C).square().sum().backward()
        assert torch.isfinite(x.grad).all() and all(torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_activations_stay_inside_the_ball_and_gradients_are_finite_at_the_rim(dtype):
    layer = PoincareBlock((3, 6), 2, C, True, "eye", "midpoint", "fr", True).to(dtype)
    x = normal(4, 3, 7, 7, scale=1e3, dtype=dtype).requires_grad_()
    out = layer(x)
    out.sum().backward()
    radius = C**0.5 * ball.expmap0(out.detach().movedim(1, -1), C).norm(dim=-1)
    assert float(radius.max()) <= 1 - ball.MARGIN[dtype] + 1e-6
    assert out.shape == (4, 6, 4, 4) and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_the_skip_adds_along_the_channels_in_the_order_asked_for():
    layer = PoincareBlock((3, 3), 1, C, False, "hnn", "midpoint", "fr", True).double()
    x = normal(2, 3, 4, 5)
    branch = layer.norm2(layer.conv2(layer.norm1(layer.conv1(x), C).relu()), C)
    for order in ("fr", "rf"):
        layer.skip = order
        one, other = (branch, x) if order == "fr" else (x, branch)
        pixel = [ball.expmap0(part[1, :, 2, 3], C) for part in (one, other)]
        assert torch.allclose(layer(x)[1, :, 2, 3], ball.logmap0(ball.mobius_add(*pixel, C), C).relu(), atol=1e-12)


def test_a_learned_curvature_starts_where_it_is_told_to_and_gets_a_gradient():
    assert Curvature(0.1, True)().item() == pytest.approx(0.1, abs=1e-7)
    layer = PoincareLinear(4, 4, learn_c=True, init="hnn")
    layer(normal(5, 4, dtype=torch.float32)).sum().backward()
    assert layer.curvature.theta.grad.abs() > 0


def test_a_built_network_trains_and_is_restored():
    task = wb.tasks.Digits(train_size=64)
    method = PoincareResNet(depth=8, channels=(2, 3, 4), learn_c=True)
    run = wb.train(task, [method], recipe=task.recipe("smoke").replace(steps=2), seed=0)
    model = wb.restore(run)
    assert len(model.stages) == 3 and model.head.weight.shape == (4, 10)
    inputs = task.data(0)["test"].tensors
    assert float((model(inputs[0]).argmax(-1) == inputs[1]).float().mean()) == pytest.approx(
        run.final("accuracy"), abs=1e-6
    )
    frame = run.probe("method.poincare_resnet")
    assert set(frame["depth"]) == {0, 1, 2, 3} and (frame["radius"] < 1).all()
    assert np.allclose(frame["radius"], np.tanh(C**0.5 * frame["norm"]), atol=1e-5)
    figure = wb.plots.ball(frame)
    last = frame[(frame["step"] == frame["step"].max()) & (frame["depth"] == 3)].set_index("what")
    for what, name in (("midpoint", "midpoint"), ("frechet", "Fréchet mean")):
        *_, trace = discs = [trace for trace in figure.data if trace.name == name]
        assert len(discs) == 3  # depths 0, 2 (of 1 and 2) and 3
        assert (trace.x[0], trace.y[0]) == pytest.approx(last.loc[what, ["x", "y"]].astype(float).tolist(), abs=1e-6)


def test_both_starts_are_drawn_side_by_side_and_the_normal_one_dies():
    task, frames = wb.tasks.Digits(train_size=64), []
    for init in ("eye", "hnn"):
        run = wb.train(
            task, PoincareResNet(architecture="mlp", depth=6, init=init), recipe=task.recipe("smoke").replace(steps=1)
        )
        frames.append(run.probe("method.poincare_resnet").assign(run=init))
    figure = wb.plots.ball(pd.concat(frames, ignore_index=True))
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [
        f"{init}: {what}" for init in ("eye", "hnn") for what in ("mean norm", "depth 0", "depth 4", "depth 7")
    ]
    eye, hnn = (next(t for t in figure.data if t.name == "step 0" and t.xaxis == axis).y for axis in ("x", "x5"))
    assert np.allclose(eye[1:], eye[1], rtol=1e-4)
    assert hnn[-1] < 1e-2 * hnn[0]


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_the_means_that_are_shown_are_those_of_the_points_where_the_plane_is_the_whole_ball(c):
    """Two features: the disc is the ball, so its points give the midpoint by formula, the Fréchet mean by search."""
    task = wb.tasks.Digits(train_size=64)
    method = PoincareResNet(architecture="mlp", depth=1, width=2, c=c)
    model = method.build(task)
    with torch.no_grad():
        model.stages[0].weight.copy_(normal(64, 2, scale=0.1))
    frame = method.observe(model, wb.method.Context(splits=task.data(0)))
    frame = frame[frame["depth"] == 1]
    x = frame.loc[frame["what"] == "sample", ["x", "y"]].to_numpy()
    midpoint, mean = (frame.loc[frame["what"] == what, ["x", "y"]].to_numpy()[0] for what in ("midpoint", "frechet"))
    scale = 2 / (1 - (x**2).sum(1))
    double = (scale[:, None] * x).sum(0) / (scale - 1).sum()
    assert np.allclose(midpoint, double / (1 + np.sqrt(1 - (double**2).sum())), atol=1e-12)

    def spread(m):
        if (room := 1 - (m**2).sum()) <= 0:
            return np.inf
        return float((np.arccosh(1 + 2 * ((x - m) ** 2).sum(1) / ((1 - (x**2).sum(1)) * room)) ** 2).sum())

    found = optimize.minimize(spread, np.zeros(2), method="Nelder-Mead", tol=1e-12)
    assert np.allclose(mean, found.x, atol=1e-5) and x.std(0).min() > 0.02
    assert np.linalg.norm(mean - midpoint) > 1e-4  # the two are told apart
    for row, at in (("midpoint", midpoint), ("frechet", mean)):
        norm = float(frame.loc[frame["what"] == row, "norm"].iloc[0])
        assert norm == pytest.approx(np.arctanh(np.linalg.norm(at)) / c**0.5, rel=1e-9)


def test_the_network_takes_its_shapes_from_the_task():
    flat = Task.from_arrays(normal(40, 5), torch.arange(40) % 3, model=lambda: torch.nn.Linear(5, 3))
    model = PoincareResNet(architecture="mlp", depth=2, width=7).build(flat)
    assert [tuple(layer.weight.shape) for layer in (*model.stages, model.head)] == [(5, 7), (7, 7), (7, 7), (7, 3)]
    assert model(torch.zeros(1, 5)).shape == (1, 3)


def test_what_does_not_fit_is_refused():
    task = wb.tasks.Digits(train_size=64)
    with pytest.raises(KnobError, match="depth=9 is no sum .* 8, 14, 20"):
        PoincareResNet(depth=9).build(task)
    flat = Task.from_arrays(normal(40, 5), torch.arange(40) % 3, model=lambda: torch.nn.Linear(5, 3))
    with pytest.raises(FitError, match="needs images"):
        PoincareResNet(depth=8).build(flat)
    with pytest.raises(FitError, match="must be floating"):
        PoincareResNet().build(wb.tasks.Chars(size="tiny"))
    for architecture in ("mlp", "resnet"):
        half = PoincareResNet(architecture=architecture, depth=8, width=4).build(task).bfloat16()
        with pytest.raises(FitError, match="half precision is not supported .*bfloat16"):
            half(torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16))
    assert torch.bfloat16 not in PoincareResNet.dtypes
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(FitError, match="curvature c must be positive and finite"):
            PoincareLinear(2, 2, bad)
