"""OPCM: the paper's invariants, a transcription in NumPy with full bases, and fusion_bench's code where it is installed."""

import numpy as np
import pytest
import torch
from test_merging import flat, models
from torch import nn
from user_model import UserModel

import wbench as wb
from wbench.method import Context
from wbench.methods import OPCM, ScalingOnly, WeightAverage
from wbench.ops.taskvector import project_out, split_rank

ORDERED = OPCM(shuffle_order=False)


def matrix(m, n, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def transcribed(update, merged, alpha, keep_cross=True):
    """Return the projected update by full bases, as the paper writes it."""
    u, s, vt = np.linalg.svd(merged)
    c = int(np.argmax(np.cumsum(s) / s.sum() > alpha))
    p = u.T @ update @ vt.T
    np.fill_diagonal(p, 0)
    if keep_cross:
        p[:c, :c] = 0
    else:
        p[:c, :], p[:, :c] = 0, 0
    return u @ p @ vt


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 4), (4, 1)])
@pytest.mark.parametrize("keep_cross", [True, False])
def test_thin_factors_give_what_full_bases_give(shape, alpha, keep_cross):
    update, merged = matrix(*shape), matrix(*shape, seed=1)
    ours = project_out(update, merged, alpha, keep_cross=keep_cross)
    assert np.allclose(ours, transcribed(update.numpy(), merged.numpy(), alpha, keep_cross), atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("null_diagonal", [True, False])
def test_what_is_added_is_orthogonal_to_the_merged_change_and_no_longer(alpha, null_diagonal):
    update, merged = matrix(40, 30).float(), matrix(40, 30, 1).float()
    kept = project_out(update, merged, alpha, null_diagonal=null_diagonal)
    assert abs(float((kept * merged).sum())) <= 1e-5 * float(update.norm() * merged.norm())
    assert float(kept.norm()) <= float(update.norm())
    assert torch.allclose(project_out(kept, merged, alpha, null_diagonal=null_diagonal), kept, atol=1e-5)


def test_occupied_directions_are_those_within_the_share():
    values = torch.tensor([5.0, 3.0, 1.0, 1.0])
    assert [split_rank(values, alpha) for alpha in (0.0, 0.4, 0.5, 0.79, 0.8, 0.95)] == [0, 0, 1, 1, 2, 3]


def test_without_occupied_directions_only_the_diagonal_goes():
    update, merged = matrix(6, 4), matrix(6, 4, 1)
    u, _, vh = torch.linalg.svd(merged)
    gone = u.T @ (update - project_out(update, merged, 0.0)) @ vh.T
    assert torch.allclose(gone.diagonal(), (u.T @ update @ vh.T).diagonal())
    assert float((gone - torch.nn.functional.pad(torch.diag(gone.diagonal()), (0, 0, 0, 2))).abs().max()) < 1e-13


def test_without_the_diagonal_rule_only_the_block_goes():
    update, merged = matrix(6, 4), torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    merged = torch.nn.functional.pad(merged, (0, 0, 0, 2))
    expected = update.clone()
    expected[:2, :2] = 0  # shares 0.4, 0.7
    assert torch.allclose(project_out(update, merged, 0.7, zero_diagonal=False), expected, atol=1e-14)


def test_keeping_the_null_diagonal_makes_the_result_free_of_the_choice_of_null_vectors():
    merged = matrix(12, 3) @ matrix(3, 12, 1)
    update = matrix(12, 12, 2)
    near = merged + 1e-15 * matrix(12, 12, 3)
    apart = {
        keep: float((project_out(update, merged, 0.5, null_diagonal=keep) - project_out(update, near, 0.5, null_diagonal=keep)).norm())
        for keep in (True, False)
    }  # fmt: skip
    assert apart[True] < 1e-10 and apart[False] > 1e-2


def test_a_zero_merged_change_leaves_the_update():
    update = matrix(4, 3)
    assert torch.equal(project_out(update, torch.zeros(4, 3, dtype=torch.float64), 0.5), update)


def test_one_model_is_that_model_bit_for_bit():
    base, members = models(1, dtype=torch.float32)
    merged = OPCM().combine(members, base).models[0]
    assert torch.equal(flat(merged), flat(members["m0"]))


def test_distance_from_the_base_is_the_mean_of_the_models_own_after_each():
    base, members = models(6, dtype=torch.float32)
    own, roles = [float(flat(model, base).norm()) for model in members.values()], list(members)
    for count in range(1, 7):
        merged = ORDERED.combine({role: members[role] for role in roles[:count]}, base)
        mean = sum(own[:count]) / count
        assert float(flat(merged.models[0], base).norm()) == pytest.approx(mean, rel=1e-5)
        assert merged.extra["arrivals"][-1]["distance"] == pytest.approx(mean, rel=1e-5)
        assert merged.extra["arrivals"][-1]["mean_norm"] == pytest.approx(mean, rel=1e-5)


def linear_only(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 7, bias=False), nn.Linear(7, 5, bias=False))


def test_the_same_model_again_changes_nothing():
    base, members = models(1, make=linear_only)
    twice = {"a": members["m0"], "b": members["m0"]}
    merged = ORDERED.combine(twice, base)
    assert torch.allclose(flat(merged.models[0]), flat(members["m0"]), atol=1e-13)
    assert merged.extra["arrivals"][1]["removed"] == pytest.approx(1.0)


def test_updates_at_right_angles_are_kept_whole_and_divided_by_the_root_of_their_number():
    base = nn.Linear(8, 8, bias=False).double()
    members, gap = {}, torch.linspace(1.0, 1.3, 8, dtype=torch.float64)
    for index in range(4):  # turned diagonals: each is orthogonal to the singular pairs of those before
        members[str(index)] = nn.Linear(8, 8, bias=False).double()
        members[str(index)].weight.data = base.weight.data + torch.diag(gap).roll(index, 1)
    rows = OPCM(shuffle_order=False, alpha=0.0, zero_diagonal=False).combine(members, base).extra["arrivals"]
    assert [row["divisor"] for row in rows] == pytest.approx([1, 2**0.5, 3**0.5, 2.0])
    rows = OPCM(shuffle_order=False, alpha=0.0).combine(dict(list(members.items())[:2]), base).extra["arrivals"]
    assert rows[1]["removed"] == pytest.approx(0.0, abs=1e-12) and rows[1]["divisor"] == pytest.approx(2**0.5)


def test_null_vectors_of_the_merged_change_are_free():
    u, _, vh = torch.linalg.svd(matrix(8, 3) @ matrix(3, 8, 1))
    base = nn.Linear(8, 8, bias=False).double()
    first, second = nn.Linear(8, 8, bias=False).double(), nn.Linear(8, 8, bias=False).double()
    inside = u[:, :3] @ torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ vh[:3]
    outside = u[:, 3:] @ matrix(5, 5, 2) @ vh[3:]
    first.weight.data, second.weight.data = base.weight.data + inside, base.weight.data + outside
    merged = ORDERED.replace(null_diagonal="keep").combine({"a": first, "b": second}, base)
    n1, n2 = float(inside.norm()), float(outside.norm())
    assert merged.extra["arrivals"][1]["divisor"] == pytest.approx((n1**2 + n2**2) ** 0.5 / ((n1 + n2) / 2), rel=1e-6)
    expected = (inside + outside) / merged.extra["arrivals"][1]["divisor"]
    assert torch.allclose(merged.models[0].weight - base.weight, expected, atol=1e-6)


def by_hand(base, members, alpha, linear):
    """Return the merged weights and every divisor: the whole loop on NumPy arrays, with full bases."""
    names = list(base)
    length = lambda vector: np.sqrt(sum((vector[name] ** 2).sum() for name in names))  # noqa: E731
    merged, divisor, own, divisors = None, 1.0, [], [1.0]
    for member in members:
        tau = {name: member[name] - base[name] for name in names}
        own.append(length(tau))
        if merged is None:
            merged = tau
            continue
        for name in names:
            update = transcribed(tau[name], merged[name], alpha) if name in linear else tau[name]
            tau[name] = divisor * merged[name] + update
        divisor = length(tau) / np.mean(own)
        merged = {name: tau[name] / divisor for name in names}
        divisors.append(divisor)
    return {name: base[name] + merged[name] for name in names}, divisors


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_whole_loop_is_the_one_written_by_hand(alpha):
    def make(seed):
        torch.manual_seed(seed)
        return UserModel()

    base, members = models(5, make=make)
    merged = OPCM(shuffle_order=False, alpha=alpha).combine(members, base)
    arrays = [{k: v.detach().numpy() for k, v in model.named_parameters()} for model in (base, *members.values())]
    linear = {"mix.weight", "fc.weight", "embedding.weight"}  # the head's weight is the embedding's
    expected, divisors = by_hand(arrays[0], arrays[1:], alpha, linear)
    for name, param in merged.models[0].named_parameters():
        assert np.allclose(param.detach().numpy(), expected[name], atol=1e-12), name
    assert [row["divisor"] for row in merged.extra["arrivals"]] == pytest.approx(divisors, rel=1e-12)


def test_switches_off_are_the_baselines():
    base, members = models(5)
    null = ORDERED.null().combine(members, base).models[0]
    assert torch.allclose(flat(null), flat(WeightAverage().combine(members, base).models[0]), atol=1e-14)
    scaled = ORDERED.replace(alpha=0.0, zero_diagonal=False).combine(members, base).models[0]
    assert torch.equal(flat(scaled), flat(ScalingOnly().combine(members, base).models[0]))


def test_convolutions_are_projected_only_when_asked():
    def make(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Conv1d(3, 4, 1))

    base, members = models(2, make=make)
    plain, projected = ORDERED.combine(members, base), ORDERED.replace(conv=True).combine(members, base)
    assert plain.extra["arrivals"][1]["removed"] == pytest.approx(0.0, abs=1e-12)
    assert projected.extra["arrivals"][1]["removed"] > 0.01
    sums = [float(flat(made.models[0], base) @ flat(members["m0"], base)) for made in (projected, plain)]
    assert sums[0] != pytest.approx(sums[1])


def test_order_is_drawn_by_the_seed_or_the_run():
    base, members = models(6)

    def order(method, run_seed=0):
        ctx = Context(rng=torch.Generator().manual_seed(run_seed))
        return [row["member"] for row in method.combine(members, base, ctx).extra["arrivals"]]

    assert order(ORDERED) == list(members)
    assert order(OPCM(seed=1)) == order(OPCM(seed=1), run_seed=5) != order(OPCM(seed=2))
    assert order(OPCM(), 3) == order(OPCM(), 3) != order(OPCM(), 4)
    assert sorted(order(OPCM(seed=1))) == sorted(members)


def test_models_without_a_change_are_refused_and_one_of_them_is_not():
    base, members = models(1)
    with pytest.raises(wb.WBenchError, match="opcm: the merged task vector is zero after 2 models"):
        ORDERED.combine({"a": base, "b": base}, base)
    rows = ORDERED.combine({"a": base, "b": members["m0"]}, base).extra["arrivals"]
    assert rows[1]["divisor"] == pytest.approx(2.0)


@pytest.mark.parametrize("alpha", [1.0, -0.1])
def test_alpha_of_one_would_do_the_opposite_and_is_refused(alpha):
    with pytest.raises(wb.WBenchError, match=f"opcm: alpha={alpha} is out of range; allowed: a number from 0 to 0.99"):
        OPCM(alpha=alpha)


def test_what_it_observes_is_drawn():
    base, members = models(4)
    ctx = Context()
    merged = ORDERED.combine(members, base, ctx)
    frame = ORDERED.observe(merged.models[0], ctx)
    assert list(frame["arrival"]) == [1, 2, 3, 4] and list(frame["member"]) == list(members)
    figure = wb.plots.merging(frame)
    drawn = [list(trace.y) for trace in figure.data]
    assert drawn[0] == pytest.approx([1, 2**0.5, 3**0.5, 2]) and drawn[2] == pytest.approx(list(frame["divisor"]))
    assert drawn[3] == pytest.approx([1.0] * 4)
    with pytest.raises(wb.WBenchError, match="plots.merging needs the columns"):
        wb.plots.merging(frame.drop(columns="divisor"))
    with pytest.warns(UserWarning, match="the table is empty"):
        wb.plots.merging(frame[:0])


@pytest.mark.peer
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_fusion_bench(alpha, dtype):
    reason = "fusion-bench and transformers 4 are not installed together; see benchmarks/peers_opcm.py"
    pytest.importorskip("fusion_bench", reason=reason)
    theirs = pytest.importorskip("fusion_bench.method.opcm.opcm_general", reason=reason, exc_type=ImportError).OPCM
    peer = object.__new__(theirs)
    peer._fabric = type("Fabric", (), {"device": torch.device("cpu")})()
    weights = [matrix(24, 17, seed).to(dtype) for seed in range(4)]
    base = nn.Linear(17, 24, bias=False).to(dtype)
    base.weight.data = weights[0]
    members = {}
    for index, weight in enumerate(weights[1:]):
        members[str(index)] = nn.Linear(17, 24, bias=False).to(dtype)
        members[str(index)].weight.data = weights[0] + 0.1 * weight
    merged, divisor, own = members["0"].weight.data, 1.0, [float((0.1 * weights[1]).norm())]
    for index in (1, 2):
        peer.previous_lambda_t, peer.lambda_t = divisor, 1
        _, merged = peer.merge_linear_weights(merged, weights[0], members[str(index)].weight.data, "0.weight", alpha)
        own.append(float((members[str(index)].weight.data - weights[0]).norm()))
        total = float((merged - weights[0]).norm())
        divisor = total / np.mean(own)
        merged = weights[0] + (merged - weights[0]) / divisor
    ours = OPCM(shuffle_order=False, alpha=alpha).combine(members, base)
    assert torch.allclose(ours.models[0].weight, merged, atol=1e-12 if dtype == torch.float64 else 1e-5)
    assert ours.extra["arrivals"][-1]["divisor"] == pytest.approx(divisor, rel=1e-5)
