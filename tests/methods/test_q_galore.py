"""Q-GaLore: rounding that keeps the mean, refreshes at each layer's pace, GaLore's own bits with everything off, and the peer's projector."""

import copy
import math

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.method import Context
from wbench.methods import GaLore
from wbench.methods.optimizer.q_galore import QGaLore, grouped_by
from wbench.ops.lowrank import subspace
from wbench.ops.rounding import pack_groups, quantize_groups, unpack_groups
from wbench.testing import check_method

RECIPE = wb.Recipe(lr=1e-2, steps=40)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(out=32, inp=16, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inp, out, bias=False))


def run(method, gradients, model=None, recipe=RECIPE):
    model = method.prepare(model or layer())
    optimizer = method.optimizer(model, recipe)
    for gradient in gradients:
        model[0].weight.grad = gradient.clone()
        optimizer.step()
    return model, optimizer


def state_of(model, optimizer):
    return optimizer.state[model[0].weight]


def tiny(**knobs):
    return QGaLore(**{"rank": 8, "layers": "*", "group_size": 64, "update_proj_gap": 5, **knobs})


def test_contract():
    check_method(QGaLore, method=QGaLore(group_size=16))
    check_method(QGaLore, method=QGaLore(proj_bits=2, stochastic_round=False, group_size=16, update_proj_gap=3))


def test_with_everything_off_it_is_galore_to_the_last_bit():
    gradients = [draw(32, 16, seed=step) for step in range(12)]
    off = tiny(proj_bits=16, weight_bits=16, gamma_proj=1.0)
    ours, _ = run(off, gradients)
    theirs, _ = run(GaLore(rank=8, layers="*", update_proj_gap=5), gradients)
    assert torch.equal(ours[0].weight, theirs[0].weight)


def test_weights_lie_on_grids_of_256_levels_at_any_time():
    model, optimizer = run(tiny(), [draw(32, 16, seed=step) for step in range(7)])
    groups = model[0].weight.detach().reshape(-1, 64)
    for row in groups.double():
        levels = row.unique()
        step = float(levels.diff().min())
        assert len(levels) <= 256 and float(((levels / step) - (levels / step).round()).abs().max()) < 0.02


def test_nearest_rounding_loses_what_stochastic_rounding_keeps():
    scale = 0.01
    start = scale * torch.arange(256.0).sub(128.0)  # the extremes are pinned on the grid
    inside = (start > start.min()) & (start < start.max())
    moved = {}
    for stochastic in (False, True):
        weights, rng = start.clone(), torch.Generator().manual_seed(1)
        for _ in range(100):
            update = torch.where(inside, 0.01 * scale, 0.0)
            weights = quantize_groups(weights + update, 8, 256, stochastic=stochastic, generator=rng).value.flatten()
        moved[stochastic] = (weights - start)[inside] / scale
    assert float(moved[False].abs().max()) < 1e-3
    error = float(moved[True].std()) / math.sqrt(int(inside.sum()))
    assert abs(float(moved[True].mean()) - 1.0) <= 3 * error


def test_the_packed_projection_is_close_to_orthonormal_and_takes_a_nibble_a_number():
    right = subspace(draw(192, 128), 48, "right")[1]
    for bits, bound in ((4, 0.25), (8, 0.02)):
        held = pack_groups(right, bits, 256)
        basis = unpack_groups(held)
        assert float(torch.linalg.matrix_norm(basis @ basis.T - torch.eye(48), 2)) < bound
        stored = sum(part.numel() * part.element_size() for part in held.values() if isinstance(part, torch.Tensor))
        assert stored == 48 * 128 * bits // 8 + 8 * 48 * 128 // 256
    left = subspace(draw(192, 128).relu(), 1, "right")[1]  # one sign throughout: a range without zero would saturate
    assert torch.allclose(unpack_groups(pack_groups(left, 8, 128)), left, atol=2e-3)


def test_a_stable_direction_doubles_the_gap_at_the_sixth_refresh_and_at_each_one_after():
    gradient = draw(32, 16)
    method = tiny(update_proj_gap=2, weight_bits=16)
    model = method.prepare(layer())
    optimizer = method.optimizer(model, wb.Recipe(lr=1e-3, steps=400))
    gaps, refreshed = [], []
    for step in range(100):
        model[0].weight.grad = gradient.clone()
        before = state_of(model, optimizer).get("refreshes", 0)
        optimizer.step()
        state = state_of(model, optimizer)
        if state["refreshes"] > before:
            refreshed.append(step)
            gaps.append(state.get("gap", 2))
    assert refreshed[:6] == [0, 2, 4, 6, 8, 10]
    assert gaps[:5] == [2] * 5 and gaps[5] == 4 and gaps[6] == 8
    assert refreshed[6] == 12 and refreshed[7] == 16 and refreshed[8] == 32  # the next multiple of the new gap


def test_independent_gradients_never_change_the_gap_and_it_never_exceeds_the_run():
    model, optimizer = run(tiny(update_proj_gap=1), [draw(256, 128, seed=step) for step in range(20)], layer(256, 128))
    assert "gap" not in state_of(model, optimizer)
    gradient = draw(32, 16)
    model, optimizer = run(tiny(update_proj_gap=1), [gradient] * 30, recipe=wb.Recipe(steps=6))
    assert state_of(model, optimizer)["gap"] == 6


def test_state_survives_a_round_trip_with_its_dtypes_and_goes_on_with_the_same_bits():
    method, model = tiny(), layer()
    model = method.prepare(model)
    optimizer = method.optimizer(model, RECIPE)
    gradients = [draw(32, 16, seed=step) for step in range(14)]
    for gradient in gradients[:7]:
        model[0].weight.grad = gradient.clone()
        optimizer.step()
    saved, twin = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model)
    other = method.optimizer(twin, RECIPE)
    other.load_state_dict(saved)
    for gradient in gradients[7:]:
        for net, opt in ((model, optimizer), (twin, other)):
            net[0].weight.grad = gradient.clone()
            opt.step()
    assert torch.equal(model[0].weight, twin[0].weight)
    held = other.state[twin[0].weight]["right"]
    assert held["codes"].dtype == torch.uint8 and held["scale"].dtype == torch.float32


def test_a_run_reports_packed_bytes_and_the_optimizers_own():
    task = wb.tasks.Digits(hidden=(64, 64), train_size=200)
    method = QGaLore(rank=16, layers="blocks.*", group_size=256, update_proj_gap=5)
    run = wb.train(task, method, recipe=wb.Recipe(steps=12, lr=1e-2))
    managed, rest = 2 * 64 * 64, 64 + 64 + 64 * 10 + 10
    assert run.memory["parameters"] == 4 * (managed + rest)
    assert run.memory["packed_weights"] == managed + 8 * managed // 256 + 4 * rest
    moments = 2 * 4 * (2 * 64 * 16 + rest)
    projection = 2 * (16 * 64 // 2 + 8 * 16 * 64 // 256)
    past = 2 * 64 * 4
    assert run.memory["optimizer"] == moments + projection + past
    frame = run.probe("method.q_galore")
    assert set(frame["layer"]) == {"blocks.0.linear", "blocks.1.linear"} and frame["changed"].max() > 0


def test_eight_bit_moments_move_the_weights_almost_alike_and_take_a_quarter():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    gradients = [draw(128, 96, seed=step) for step in range(10)]
    options = {"rank": 64, "weight_bits": 16, "proj_bits": 16}
    wide, one = run(tiny(**options), gradients, layer(128, 96))
    narrow, other = run(tiny(state_bits=8, **options), gradients, layer(128, 96))
    start = layer(128, 96)[0].weight
    moved = float((wide[0].weight - start).norm().detach())
    assert float((narrow[0].weight - wide[0].weight).norm().detach()) < 0.1 * moved
    held = state_of(narrow, other)["exp_avg"]
    assert held["codes"].dtype == torch.uint8 and held["codes"].numel() == state_of(wide, one)["exp_avg"].numel()


def test_torchs_form_of_adam_is_torchs():
    gradients = [1e-4 * draw(32, 16, seed=step) for step in range(6)]
    method = tiny(rank=16, proj_bits=16, weight_bits=16, adam="bnb", scale=1.0, update_proj_gap=100)
    start = layer()
    ours, optimizer = run(method, gradients, copy.deepcopy(start))
    basis = state_of(ours, optimizer)["right"]
    small = nn.Parameter(start[0].weight.detach() @ basis.T)
    adam = torch.optim.Adam([small], lr=1e-2)
    for gradient in gradients:
        small.grad = gradient @ basis.T
        adam.step()
    assert torch.allclose(ours[0].weight @ basis.T, small, atol=1e-5)


def test_bad_input_is_refused_by_name():
    with pytest.raises(FitError, match="'0' has 512 elements, not a multiple of group_size 96"):
        tiny(group_size=96).prepare(layer())
    with pytest.raises(FitError, match="the projection of '0' has 128 elements, not a multiple of group_size 256"):
        tiny(group_size=256).prepare(layer())
    with pytest.raises(KnobError, match="proj_type"):
        QGaLore(proj_type="right")
    with pytest.raises(KnobError, match="weight_bits=4"):
        QGaLore(weight_bits=4)


def test_without_a_group_size_the_largest_power_of_two_that_divides_is_taken():
    model = QGaLore(rank=4, layers="*").prepare(nn.Sequential(nn.Linear(9, 16, bias=False)))
    groups = model[0].weight.detach().view(-1, 16)
    assert all(len(row.unique()) <= 16 for row in groups)
    assert [grouped_by(n, None) for n in (144, 512, 77)] == [16, 256, 1] and grouped_by(144, 48) == 48


def test_knobs_that_are_numbers_of_bits_are_read_from_text():
    assert QGaLore.from_strings({"proj_bits": "2", "weight_bits": "16"}) == QGaLore(proj_bits=2, weight_bits=16)


def test_the_context_decides_the_rounding():
    method = tiny()
    grads = [draw(32, 16, seed=step) for step in range(3)]

    def weights(seed):
        model = method.prepare(layer())
        ctx = Context(recipe=RECIPE, methods=(method,), rng=torch.Generator().manual_seed(seed))
        optimizer = method.optimizer(model, ctx)
        for gradient in grads:
            model[0].weight.grad = gradient.clone()
            optimizer.step()
        return model[0].weight.detach()

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (64, 64)])
@pytest.mark.parametrize("kind", ["drifting", "fixed", "independent"])
def test_projection_gap_and_refreshes_are_the_peers(shape, kind):
    reason = "q-galore-torch is not installed"
    pytest.importorskip("bitsandbytes", reason=reason)
    module = pytest.importorskip("q_galore_torch.q_galore_projector", reason=reason)
    theirs = module.GaLoreProjector(
        8,
        update_proj_gap=3,
        scale=0.25,
        quant=True,
        group_size=64,
        n_bit=4,
        cos_threshold=0.4,
        gamma_proj=2,
        queue_size=5,
    )
    method = tiny(update_proj_gap=3, signed_cos=True, weight_bits=16)
    model = method.prepare(layer(*shape))
    optimizer = method.optimizer(model, wb.Recipe(lr=1e-3, steps=1000))
    fixed = draw(*shape)
    for step in range(40):
        noise = draw(*shape, seed=step + 1)
        gradient = {"drifting": fixed + 0.02 * step * noise, "fixed": fixed, "independent": noise}[kind]
        projected = theirs.project(gradient, step)
        model[0].weight.grad = gradient.clone()
        optimizer.step()
        state = state_of(model, optimizer)
        left, right = optimizer._bases(state, gradient)
        ours = gradient @ right.T if right is not None else left.T @ gradient
        assert torch.allclose(ours, projected, atol=1e-5)
        assert (state.get("gap", 3), state["refreshes"]) == (theirs.update_proj_gap, theirs.svd_count)
