"""Quantile aggregation: the invariants against closed forms, scikit-learn, scipy and, where installed, MAPIE."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_pinball_loss

import wbench as wb
from wbench.errors import DataError
from wbench.estimators.quantile_aggregation import QuantileAggregator
from wbench.estimators.quantile_stack import QuantileStack, named
from wbench.methods.estimator.quantile_aggregation import Weights, aggregate
from wbench.ops import quantiles as ops

RESOLUTIONS = ["coarse", "medium", "fine"]
FAST = ("linear", "gaussian", "neighbors")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def stacked(n=40, p=3, m=5, seed=0):
    return torch.randn(n, p, m, generator=rng(seed), dtype=torch.float64)


def rows(n=200, seed=0):
    x, y = wb.tasks.Quantiles().data(seed)["train"].tensors
    return x[:n].double().numpy(), y[:n].double().numpy()


def aggregator(models=FAST, levels=5, **settings):
    stack = QuantileStack(named(models), ops.even_levels(levels), n_folds=3, random_state=0)
    return QuantileAggregator(stack, **{"steps": 60, "validate_every": 20, "random_state": 0, **settings})


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_weights_are_convex(resolution, local):
    torch.manual_seed(0)
    net = Weights(4, 3, 5, resolution, local).double()
    for param in net.parameters():
        torch.nn.init.normal_(param)
    weights = net(torch.randn(7, 4, generator=rng(), dtype=torch.float64))
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-2), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_equal_weights_are_the_mean_and_fine_ones_the_grand_mean(resolution):
    z = stacked()
    x = torch.randn(40, 2, generator=rng(1), dtype=torch.float64)
    free = Weights(2, 3, 5, resolution, local=False).double()
    network = Weights(2, 3, 5, resolution, local=True, from_average=True).double()
    expected = z.mean((1, 2))[:, None].expand(-1, 5) if resolution == "fine" else z.mean(1)
    for weights in (free(x), network(x)):
        assert torch.allclose(aggregate(z, weights), expected, atol=1e-14)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_averages_are_the_sums_of_the_formula(resolution):
    z = stacked(n=3)
    weights = torch.rand(
        {"coarse": (3, 3, 1), "medium": (3, 3, 5), "fine": (3, 15, 5)}[resolution], generator=rng(2)
    ).double()
    expected = np.zeros((3, 5))
    for i in range(3):
        for t in range(5):
            for j in range(3):
                if resolution == "fine":
                    expected[i, t] += sum(float(weights[i, j * 5 + s, t] * z[i, j, s]) for s in range(5))
                else:
                    expected[i, t] += float(weights[i, j, min(t, weights.shape[2] - 1)] * z[i, j, t])
    assert np.allclose(aggregate(z, weights).numpy(), expected, atol=1e-14)
    assert torch.allclose(aggregate(z, weights[0])[0], aggregate(z, weights)[0])


def test_identical_models_are_reproduced_by_any_coarse_or_medium_weights():
    z = stacked(p=1).expand(-1, 3, -1)
    for shape in ((40, 3, 1), (40, 3, 5)):
        weights = torch.randn(shape, generator=rng(3), dtype=torch.float64).softmax(1)
        assert torch.allclose(aggregate(z, weights), z[:, 0], atol=1e-14)


def test_coarse_averages_of_ordered_rows_are_ordered_and_medium_ones_need_not_be():
    z = stacked(n=500).sort(2).values
    logits = 3.0 * torch.randn(500, 3, 5, generator=rng(4), dtype=torch.float64)
    assert not ops.crosses(aggregate(z, logits[:, :, :1].softmax(1))).any()
    assert ops.crosses(aggregate(z, logits.softmax(1))).any()


@pytest.mark.parametrize("kind", ["sort", "isotonic"])
@pytest.mark.parametrize("m", [1, 2, 9, 30])
def test_order_never_costs_pinball_loss(kind, m):
    q = torch.randn(400, m, generator=rng(5), dtype=torch.float64)
    y = 2.0 * torch.randn(400, generator=rng(6), dtype=torch.float64)
    levels = torch.tensor(ops.even_levels(m), dtype=torch.float64)
    ordered = ops.MONOTONE[kind](q)
    assert not ops.crosses(ordered).any()
    assert (ops.pinball(ordered, y, levels).sum(1) <= ops.pinball(q, y, levels).sum(1) + 1e-12).all()
    assert torch.allclose(ops.MONOTONE[kind](ordered), ordered, atol=1e-14)
    risen = q.sort(1).values
    assert torch.equal(ops.MONOTONE[kind](risen), risen)


def test_the_sweep_orders_rows_from_the_middle_and_can_cost_loss():
    q = torch.tensor([[3.0, 0.0, 1.0, 5.0, 2.0], [0.0, 9.0, 1.0, 0.5, 2.0]])
    assert ops.min_max_sweep(q).tolist() == [[0.0, 0.0, 1.0, 5.0, 5.0], [0.0, 1.0, 1.0, 1.0, 2.0]]
    random = torch.randn(300, 9, generator=rng(7), dtype=torch.float64)
    y, levels = torch.zeros(300, dtype=torch.float64), torch.tensor(ops.even_levels(9), dtype=torch.float64)
    swept = ops.min_max_sweep(random)
    assert not ops.crosses(swept).any()
    assert (ops.pinball(swept, y, levels).sum(1) > ops.pinball(random, y, levels).sum(1)).any()


@pytest.mark.parametrize("m", [1, 3, 19])
def test_projection_is_that_of_scikit_learn(m, monkeypatch):
    monkeypatch.setattr(ops, "CHUNK", 7 * m * m)  # more than one chunk
    q = torch.randn(50, m, generator=rng(8), dtype=torch.float64).round(decimals=1)  # with ties
    expected = np.stack([IsotonicRegression().fit_transform(np.arange(m), row) for row in q.numpy()])
    assert np.allclose(ops.isotonic(q).numpy(), expected, atol=1e-12)


def test_gradient_of_the_projection_averages_over_blocks():
    q = torch.tensor([3.0, 1.0, 5.0, 4.0, 3.0, 9.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda row: ops.isotonic(row[None])[0], q)
    blocks = torch.block_diag(torch.full((2, 2), 0.5), torch.full((3, 3), 1 / 3), torch.ones(1, 1)).double()
    assert torch.allclose(jacobian, blocks)
    row = torch.randn(1, 12, generator=rng(9), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.isotonic, row)


def test_pinball_loss_is_that_of_scikit_learn_and_interval_score_its_multiple():
    q = torch.randn(30, 9, generator=rng(10), dtype=torch.float64).sort(1).values
    y = torch.randn(30, generator=rng(11), dtype=torch.float64)
    taus = ops.even_levels(9)
    losses = ops.pinball(q, y, torch.tensor(taus, dtype=torch.float64))
    for t, tau in enumerate(taus):
        assert float(losses[:, t].mean()) == pytest.approx(mean_pinball_loss(y, q[:, t], alpha=tau), abs=1e-14)
    for s in range(4):
        score = ops.interval_score(q[:, s], q[:, -1 - s], y, taus[s])
        assert torch.allclose(taus[s] * score, losses[:, s] + losses[:, -1 - s])
    scores = [ops.interval_score(q[:, s], q[:, -1 - s], y, taus[s]) for s in range(4)]
    assert torch.allclose(ops.weighted_interval_score(q, y, taus), sum(scores) / 4)


@pytest.mark.parametrize("kind", ["none", "single", "vec", "adapt"])
def test_crossing_penalty_is_the_mean_over_pairs_and_nothing_where_gaps_are_kept(kind):
    q = torch.randn(20, 6, generator=rng(12), dtype=torch.float64)
    levels = torch.tensor(ops.even_levels(6), dtype=torch.float64)
    residuals = torch.randn(100, generator=rng(13), dtype=torch.float64)
    gaps = ops.required_gaps(kind, levels, delta=0.3, scale=0.5, residuals=residuals)
    marks = {"vec": 0.01 * levels.numpy(), "adapt": np.quantile(residuals.numpy(), levels.numpy())}.get(kind)
    total, count = 0.0, 0
    for s in range(6):
        for t in range(s + 1, 6):
            delta = {"none": 0.0, "single": 0.3}.get(kind)
            delta = 0.5 * max(marks[t] - marks[s], 0.0) if delta is None else delta
            total += float((q[:, s] - q[:, t] + delta).relu().sum())
            count += 20
    assert float(ops.crossing_penalty(q, gaps)) == pytest.approx(total / count, rel=1e-12)
    apart = (100.0 * torch.arange(6.0).double()).expand(20, 6).clone().requires_grad_()
    penalty = ops.crossing_penalty(apart, gaps)
    penalty.backward()
    assert float(penalty.detach()) == 0.0 and not apart.grad.any()


def test_losses_scale_with_location_and_scale():
    z, y = stacked(), torch.randn(40, generator=rng(14), dtype=torch.float64)
    weights = torch.randn(3, 5, generator=rng(15), dtype=torch.float64).softmax(0)
    levels = torch.tensor(ops.even_levels(5), dtype=torch.float64)
    plain = ops.pinball(aggregate(z, weights), y, levels)
    moved = ops.pinball(aggregate(2.5 * z - 7.0, weights), 2.5 * y - 7.0, levels)
    assert torch.allclose(moved, 2.5 * plain, atol=1e-12)


def test_predictions_follow_location_and_scale_of_the_targets():
    x, y = rows()
    plain, moved = aggregator(models=("linear", "neighbors")), aggregator(models=("linear", "neighbors"))
    assert np.allclose(moved.fit(x, 4.0 * y + 8.0).predict(x), 4.0 * plain.fit(x, y).predict(x) + 8.0, atol=1e-3)


def test_one_global_coarse_level_finds_the_convex_optimum():
    x, y = rows(400)
    stack = QuantileStack(named(FAST), (0.3,), n_folds=3, random_state=0).fit(x, y)
    found = QuantileAggregator(
        stack, resolution="coarse", local=False, margin_type="none", learning_rate=0.02, batch_size=400, steps=1500,
        validate_every=1500, weight_decay=0.0, random_state=0,
    )  # fmt: skip
    found._standardise(x, y)
    found.levels_, found.steps_, found.n_features_in_ = np.array([0.3]), 1500, 5
    z, target = found._standard(stack.oof_), found._standard(y)
    weights, _ = found._learn(found._inputs(x), z, target, torch.arange(400), None)

    # the same as a linear programme: weights, then how far each target lies above and below
    n, tau = len(target), 0.3
    costs = np.concatenate([np.zeros(3), np.full(n, tau / n), np.full(n, (1 - tau) / n)])
    rows_of = np.block([[z[:, :, 0].double().numpy(), np.eye(n), -np.eye(n)], [np.ones((1, 3)), np.zeros((1, 2 * n))]])
    best = linprog(costs, A_eq=rows_of, b_eq=np.append(target.double().numpy(), 1.0), bounds=(0, None))
    own = float(ops.pinball(aggregate(z, weights(torch.zeros(1, 5)).detach()), target, torch.tensor([tau])).mean())
    assert best.fun - 1e-6 <= own <= best.fun + 1e-4


def test_conformal_index_survives_rounding_and_refuses_too_few_rows():
    assert ops.conformal_index(0.09, 149) == 123  # 0.82 * 150 is 123.00000000000001 in floating point
    assert [ops.conformal_index(0.05, n) for n in (9, 19, 99)] == [9, 18, 90]
    with pytest.raises(DataError, match="0.05 needs at least 9 calibration rows, got 8"):
        ops.conformal_index(0.05, 8)


def test_calibrated_intervals_cover_as_often_as_the_theory_says():
    taus, n, draws = (0.1, 0.5, 0.9), 19, 4000
    y = torch.randn(draws, n + 1, generator=rng(16), dtype=torch.float64)
    q = torch.tensor([-0.4, 0.0, 0.1], dtype=torch.float64)  # far too narrow
    hits = 0
    for row in y:
        shift = ops.conformal_correction(q.expand(n, 3), row[:-1], taus)
        low, high = q[0] + shift[0], q[2] + shift[2]
        hits += bool(low <= row[-1] <= high)
    share = ops.conformal_index(0.1, n) / (n + 1)
    assert 0.8 <= share <= 0.8 + 1 / (n + 1)
    assert hits / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


@pytest.mark.peer
def test_conformal_quantile_is_that_of_mapie():
    mapie = pytest.importorskip("mapie.regression", reason="MAPIE is not installed")
    rest, held = rows(150), rows(200, seed=1)
    low, middle, high = (QuantileRegressor(quantile=tau, alpha=0).fit(*rest) for tau in (0.1, 0.5, 0.9))
    peer = mapie.ConformalizedQuantileRegressor([low, high, middle], confidence_level=0.8, prefit=True)
    peer.conformalize(*held)
    _, interval = peer.predict_interval(held[0], symmetric_correction=True)
    q = torch.from_numpy(np.stack([model.predict(held[0]) for model in (low, middle, high)], axis=1))
    ours = q + ops.conformal_correction(q, torch.from_numpy(held[1]), (0.1, 0.5, 0.9))
    assert np.allclose(interval[:, :, 0], ours[:, [0, 2]].numpy(), atol=1e-9)
