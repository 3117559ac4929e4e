"""BitStack against numpy, closed forms, and the bytes of its own tensors; round to nearest."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import CompositionError, DataError, FitError
from wbench.method import Context
from wbench.methods.transform.bitstack import BitStack, BitStackLinear
from wbench.methods.transform.rtn import RTN
from wbench.ops.allocate import level_order
from wbench.ops.calibrate import activation_scale
from wbench.ops.residual_blocks import Blocks, block_rank, decompose
from wbench.ops.rounding import minmax_groups
from wbench.splits import Splits, TensorSplit
from wbench.testing import check_method, small_batch, small_model

F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def setting(model=None, batch=None):
    batch = batch or small_batch()
    task = wb.Task.from_arrays(*batch, model=model or small_model, test=batch)
    return Context(task=task, splits=Splits(calibration=TensorSplit(*batch)))


def finished(**knobs):
    method = BitStack(**{"n_iter": 4, "layers": "*", **knobs})
    return method, method.finish(small_model(), setting())


def residuals(weight, blocks, **options):
    stack = decompose(weight, blocks, dtype=F64, **options)
    return [weight - stack.sum(count, F64) for count in range(blocks + 1)]


@pytest.mark.parametrize("cls", [BitStack, RTN])
def test_contract(cls):
    check_method(cls)


@pytest.mark.parametrize("knobs", [{"avd": False}, {"scale": "none", "residual_of": "float32", "n_iter": 1}])
def test_contract_of_other_settings(knobs):
    check_method(BitStack, method=BitStack(**knobs))


@pytest.mark.parametrize("shape", [(24, 40), (1, 9), (9, 1), (33, 7)])
@pytest.mark.parametrize("k", [1, 3])
def test_each_block_takes_the_leading_singular_values_of_the_absolute_residual(shape, k):
    weight = normal(*shape)
    for before, after in itertools.pairwise(residuals(weight, 4, k=min(k, *shape))):
        leading = np.linalg.svd(np.abs(before.numpy()), compute_uv=False)[:k]
        left = float(before.square().sum()) - float((leading**2).sum())
        assert float(after.square().sum()) == pytest.approx(left, abs=1e-9)


def test_the_stack_is_the_formula_in_numpy():
    weight = normal(24, 40).numpy()
    residual, total = weight.copy(), np.zeros_like(weight)
    for _ in range(3):
        sign = np.where(residual >= 0, 1.0, -1.0)
        u, d, vh = np.linalg.svd(np.abs(residual))
        a, b = (u[:, :2] * np.sqrt(d[:2])).astype("f2"), (np.sqrt(d[:2])[:, None] * vh[:2]).astype("f2")
        block = sign * (a.astype("f8") @ b.astype("f8"))
        residual, total = residual - block, total + block
    stack = decompose(torch.tensor(weight), 3, 2)
    assert stack.a.dtype == stack.b.dtype == torch.float16
    assert np.allclose(
        stack.sum(3, F64).numpy(), total, atol=1e-3
    )  # a factor near the middle of two halves may round apart
    expected = np.packbits((weight >= 0).ravel(), bitorder="big")
    assert np.array_equal(stack.signs[0].numpy(), expected)


def test_special_matrices_need_one_block():
    a, b = normal(8, 1).abs(), normal(1, 11, seed=1).abs()
    signs = torch.where(normal(8, 11, seed=2) >= 0, 1.0, -1.0).to(F64)
    assert torch.allclose(residuals(signs * a * b, 1, k=1)[1], torch.zeros(8, 11, dtype=F64), atol=1e-12)
    assert float(residuals(normal(8, 11), 1, k=8)[1].abs().max()) < 1e-12
    positive = normal(8, 11).abs()
    u, d, vh = torch.linalg.svd(positive)
    assert torch.allclose(positive - residuals(positive, 1, k=1)[1], d[0] * torch.outer(u[:, 0], vh[0]), atol=1e-12)
    zeros = decompose(torch.zeros(3, 5), 1, 1)
    assert zeros.signs.tolist() == [[255, 254]] and not zeros.sum(1).any()


def test_the_first_block_of_normal_weights_leaves_the_share_of_their_spread_around_the_mean_absolute_value():
    norms = [float(part.norm()) for part in residuals(normal(256, 256), 4, k=1)]
    shares = [after / before for before, after in itertools.pairwise(norms)]
    assert shares[0] == pytest.approx(math.sqrt(1 - 2 / math.pi), rel=0.01)
    assert shares == pytest.approx([0.60, 0.60, 0.66, 0.73], abs=0.02)


def test_later_blocks_repair_the_rounding_of_stored_factors():
    weight = normal(64, 64, dtype=torch.float32)
    left = {kind: weight - decompose(weight, 40, 4, residual_of=kind).sum(40) for kind in ("stored", "float32")}
    assert float(left["stored"].norm()) < 0.7 * float(left["float32"].norm())


def test_without_absolute_values_the_blocks_are_the_truncated_svd_of_the_same_memory():
    weight = normal(128, 128)
    rank = block_rank(128, 128, 1, avd=False)
    assert rank == 1 + 128 * 128 // (16 * 256) == 5
    u, d, vh = torch.linalg.svd(weight)
    truncated = (u[:, :10] * d[:10]) @ vh[:10]
    assert torch.allclose(weight - residuals(weight, 2, k=rank, avd=False)[2], truncated, atol=1e-9)
    pair = [Blocks(*decompose(weight, 1, k, avd=avd)) for k, avd in ((1, True), (rank, False))]
    assert len({sum(part.numel() * part.element_size() for part in stack) for stack in pair}) == 1


def test_automatic_rank_is_the_papers_sixteen_at_its_width():
    assert block_rank(4096, 4096, None) == 16 and block_rank(4096, 11008, None) == 16
    assert block_rank(128, 512, None) == block_rank(5, 2000, None) == 1
    assert block_rank(9, 1, 16) == 1


def test_scale_is_the_mean_over_samples_of_the_norm_over_the_sequence():
    x = normal(6, 5, 4)
    expected = np.linalg.norm(x.numpy(), axis=1).mean(0) + 1e-3
    assert np.allclose(activation_scale([x[:2], x[2:]]).numpy(), expected, atol=1e-6)
    assert np.allclose(activation_scale([x[:, 0]]).numpy(), np.abs(x[:, 0].numpy()).mean(0) + 1e-3, atol=1e-6)


def test_scaling_alone_changes_nothing_and_weighs_the_error():
    base, x = small_model(), small_batch()[0]
    _, model = finished(k=32, n_iter=2)
    assert torch.allclose(model(x), base(x), atol=2e-3)
    stack, weight = finished(n_iter=2, k=1)[1][0], base[0].weight.detach()
    scale = stack.scale.float()
    plain = weight - decompose(weight, 2, 1).sum(2)
    assert ((weight - stack.merged_weight()) * scale).norm() < (plain * scale).norm()


def test_loading_is_incremental_and_reversible():
    _, model = finished()
    for stack in (model[0], model[2]):
        blocks = Blocks(stack.signs, stack.a, stack.b)
        total = torch.zeros(stack.out_features, stack.in_features)
        for count in range(1, 5):
            total += blocks.sum(count) - blocks.sum(count - 1)
            stack.load(count)
            assert torch.allclose(stack.merged_weight() * stack.scale.float(), total, atol=1e-6)
        full = stack.merged_weight().clone()
        stack.load(2)
        stack.load(4)
        assert torch.equal(stack.merged_weight(), full)


@pytest.mark.parametrize("avd", [True, False])
@pytest.mark.parametrize("shape", [(16, 24), (5, 7), (9, 1)])
def test_memory_is_the_formula_and_the_bytes_of_the_tensors(avd, shape):
    m, n = shape
    model = nn.Sequential(nn.Linear(n, m), nn.Linear(m, 3))
    batch = normal(10, n, dtype=torch.float32), torch.zeros(10, dtype=torch.int64)
    method = BitStack(n_iter=3, layers="0", avd=avd)
    method.finish(model, setting(lambda: model, batch))
    rank = min(m, n, 1 if avd else 1 + m * n // (16 * (m + n)))
    block = (math.ceil(m * n / 8) if avd else 0) + 2 * rank * (m + n)
    rest = 4 * m + 2 * n + 3 * 4 + 2 + 4 * (3 * m + 3)  # bias, scale, place, two counts; the dense layer
    assert method.memory(model) == 3 * block + rest
    held = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert method.memory(model) == held
    model[0].load(1)
    assert method.memory(model) == block + rest


def test_a_budget_loads_the_longest_beginning_of_the_order():
    method, model = finished()
    order, stacks = method.order(model), method.stacks(model)
    assert len(order) == 3 * 3 and set(order) == {(name, level) for name in "024" for level in (2, 3, 4)}
    assert [level for _, level in order] == sorted(level for _, level in order)
    least = method.memory(model) - sum(3 * stack.block_bytes for stack in stacks.values())
    fits = list(itertools.accumulate((stacks[name].block_bytes for name, _ in order), initial=least))
    for budget in range(least, method.memory(model) + 40, 13):
        method.replace(budget_bytes=budget).retune(model)
        entries = sum(int(stack.n_blocks_loaded) - 1 for stack in stacks.values())
        used = method.memory(model)
        assert used == fits[entries] <= budget
        assert entries == len(order) or fits[entries + 1] > budget
        loaded = {(n, level) for n, stack in stacks.items() for level in range(2, int(stack.n_blocks_loaded) + 1)}
        assert loaded == set(order[:entries])
    with pytest.raises(FitError, match=f"budget_bytes={least - 1} is too small; .* take {least} bytes"):
        method.replace(budget_bytes=least - 1).retune(model)


def test_the_order_is_that_of_the_calibration_loss():
    base, batch = small_model(), small_batch()
    method, model = finished(n_iter=2)
    stacks = method.stacks(model)
    losses = {}
    for name in stacks:
        for other, stack in stacks.items():
            stack.load(2 if other == name else 1)
        losses[name] = float(nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert [name for name, _ in method.order(model)] == sorted(losses, key=losses.get)
    assert not isinstance(base[0], BitStackLinear)


def test_level_order_by_hand():
    nan = math.nan
    assert level_order([[3.0, 1.0, 2.0], [1.0, 1.0, 0.5]]) == [(1, 2), (2, 2), (0, 2), (2, 3), (0, 3), (1, 3)]
    assert level_order([[nan, 1.0, 2.0], [0.1, 1.0, 0.5]])[:3] == [(1, 2), (2, 2), (0, 2)]
    assert level_order([[nan, nan, 2.0], [0.2, 0.1, 0.5]])[:3] == [(2, 2), (1, 2), (0, 2)]
    for scores in ([[1.0, nan]], [[nan, nan], [1.0, 1.0]]):
        with pytest.raises(FitError, match="calibration loss is NaN"):
            level_order(scores)


def test_one_run_serves_every_size():
    task = wb.tasks.Digits(hidden=(32, 32), train_size=200)
    base = wb.train(task, recipe=wb.Recipe(steps=30))
    run = wb.train(task, BitStack(n_iter=3), start=base, recipe=wb.Recipe(steps=0), every=1)
    method, model, again = BitStack(n_iter=3), wb.restore(run), wb.restore(run)
    assert run.memory["weights"] == method.memory(model)
    state = model.state_dict()
    assert {int(v) for k, v in state.items() if "n_blocks" in k} == {3} and state[
        "blocks.0.linear.signs"
    ].dtype == torch.uint8
    budget = method.memory(model) - 1
    assert method.memory(method.replace(budget_bytes=budget).retune(model)) <= budget
    again.load_state_dict(model.state_dict())
    x = task.data(0)["test"].tensors[0]
    assert torch.equal(again(x), model(x))
    frame = run.probe("method.bitstack")
    assert list(frame["step"].unique()) == [1] and list(frame["place"]) == list(range(5))
    assert frame["bytes"].is_monotonic_increasing and frame["bytes"].iloc[-1] == run.memory["weights"]
    assert frame["loss"].iloc[-1] < frame["loss"].iloc[0] and frame["loaded"].all()
    figure = wb.plots.blocks(frame)
    for state, size in zip(figure.frames, frame["bytes"], strict=True):
        fills = [colour for trace in state.data[1:] if trace.marker.color for colour in trace.marker.color]
        assert state.name == str(size) and set(state.data[1].x) == {size}
        assert sum(colour != "white" for colour in fills) <= (frame["bytes"] <= size).sum()
    shown = run.probe("histogram")
    assert {"blocks.0.linear", "layers.1"} & set(shown[shown["step"] == 1]["layer"])


def test_bad_input_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(FitError, match="no layer of type Linear"):
        BitStack().finish(model, setting())
    tied = small_model()
    tied[2].weight = tied[0].weight = nn.Parameter(torch.zeros(32, 16))
    with pytest.raises(FitError, match="weight of layer '0' is tied"):
        BitStack().finish(tied, setting())
    broken = small_model()
    with torch.no_grad():
        broken[2].weight[0, 0] = float("inf")
    with pytest.raises(FitError, match="layer '2' is not finite"):
        BitStack().finish(broken, setting())
    with pytest.raises(FitError, match="layer '2' is not finite"):
        RTN().finish(broken)
    with pytest.raises(DataError, match="'train' is needed"):
        BitStack().finish(small_model())
    without = Context(splits=Splits(train=TensorSplit(*small_batch())))
    with pytest.raises(CompositionError, match="sorts blocks by the task's loss"):
        BitStack().finish(small_model(), without)
    with pytest.raises(FitError, match="5 blocks cannot be loaded; allowed: 1 to 4"):
        finished()[1][0].load(5)
    with pytest.raises(FitError, match=r"group_size=5 does not divide the 16 weights .* '0' \(32, 16\)"):
        RTN(group_size=5).finish(small_model())


def test_round_to_nearest_is_the_nearest_level_of_each_group():
    x = normal(6, 8)
    for bits, size in ((2, 8), (3, 4), (8, 48)):
        got = minmax_groups(x, bits, size).reshape(-1, size)
        for group, rounded in zip(x.reshape(-1, size).numpy(), got.numpy(), strict=True):
            low, step = np.float16(group.min()), np.float16((group.max() - group.min()) / (2**bits - 1))
            levels = float(low) + float(step) * np.arange(2**bits)
            nearest = levels[np.abs(group[:, None] - levels).argmin(1)]
            assert np.allclose(rounded, nearest, atol=1e-12)
    assert torch.equal(minmax_groups(torch.full((4,), 0.5), 2, 4), torch.full((4,), 0.5))


def test_round_to_nearest_counts_its_bytes():
    model = small_model()
    expected = sum(
        layer.weight.numel() * 3 / 8 + 4 * layer.weight.numel() / 8 for layer in (model[0], model[2], model[4])
    )
    assert RTN(bits=3, group_size=8).packed_bytes(model) == {"weights": expected}
