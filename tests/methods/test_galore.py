"""GaLore: the card's invariants against closed forms, and galore-torch where it is installed."""

import copy
import math

import pytest
import torch
from torch import nn
from user_model import train_steps

import wbench as wb
from wbench.methods import FrozenProjection, GaLore
from wbench.methods.optimizer.galore import GaLoreAdamW, project, project_back, projected_side, subspace

TYPES = ["std", "reverse_std", "left", "right", "full"]


def matrix(m, n, seed=0, dtype=torch.float64):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_weight(m, n, seed=0, dtype=torch.float64):
    model = nn.Sequential(nn.Linear(n, m, bias=False)).to(dtype)
    model[0].weight.data.copy_(matrix(m, n, seed, dtype))
    return model


def step_with(optimizer, weight, gradient):
    weight.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize(("shape", "side"), [((6, 4), "right"), ((4, 4), "right"), ((3, 4), "left")])
def test_standard_rule_projects_the_smaller_side(shape, side):
    assert projected_side(shape, "std") == side
    assert projected_side(shape, "reverse_std") == {"left": "right", "right": "left"}[side]


@pytest.mark.parametrize("side", ["left", "right", "full"])
def test_bases_are_orthonormal_and_keep_the_leading_energy(side):
    g = matrix(12, 9)
    left, right, _ = subspace(g, 4, side)
    eye = torch.eye(4, dtype=torch.float64)
    if left is not None:
        assert torch.allclose(left.T @ left, eye, atol=1e-12)
    if right is not None:
        assert torch.allclose(right @ right.T, eye, atol=1e-12)
    kept = project(g, left, right).square().sum()
    assert torch.allclose(kept, torch.linalg.svdvals(g)[:4].square().sum())


def test_full_rank_sgd_is_plain_sgd_but_full_rank_adam_is_not_adam():
    for inner, same in (("sgd", True), ("adam", False)):
        model, plain = one_weight(8, 6), one_weight(8, 6)
        ours = GaLore(rank=6, scale=1.0, inner=inner).optimizer(model, wb.Recipe(lr=0.1))
        kind = torch.optim.SGD if inner == "sgd" else torch.optim.Adam
        theirs = kind(plain.parameters(), lr=0.1)
        g = matrix(8, 6, 5)
        step_with(ours, model[0].weight, g)
        step_with(theirs, plain[0].weight, g)
        assert torch.allclose(model[0].weight, plain[0].weight, rtol=1e-5) is same


@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
def test_steps_between_refreshes_stay_in_the_subspace(shape):
    model = one_weight(*shape)
    before = model[0].weight.detach().clone()
    optimizer = GaLore(rank=3, update_proj_gap=100).optimizer(model, wb.Recipe(lr=0.05))
    for index in range(6):
        step_with(optimizer, model[0].weight, matrix(*shape, seed=index))
    moved = model[0].weight.detach() - before
    state = optimizer.state[model[0].weight]
    left, right = state.get("left"), state.get("right")
    assert torch.allclose(project_back(project(moved, left, right), left, right), moved, atol=1e-10)
    assert torch.linalg.matrix_rank(moved, rtol=1e-8) == 3


def test_plain_sgd_inside_is_the_projected_gradient():
    model = one_weight(7, 5)
    before, g = model[0].weight.detach().clone(), matrix(7, 5, 2)
    step_with(GaLore(rank=2, scale=0.25, inner="sgd").optimizer(model, wb.Recipe(lr=0.1)), model[0].weight, g)
    p = torch.linalg.svd(g, full_matrices=False)[2][:2]
    assert torch.allclose(model[0].weight.detach(), before - 0.1 * 0.25 * g @ p.T @ p)


def test_one_adam_step_is_the_formula_of_the_authors():
    model = one_weight(6, 4)
    before, g = model[0].weight.detach().clone(), matrix(6, 4, 3)
    recipe = wb.Recipe(lr=0.1, weight_decay=0.01)
    step_with(GaLore(rank=2, scale=0.5, eps=1e-6).optimizer(model, recipe), model[0].weight, g)
    p = torch.linalg.svd(g, full_matrices=False)[2][:2]
    r = g @ p.T
    n = 0.1 * r / ((0.001 * r * r).sqrt() + 1e-6)
    size = 0.1 * math.sqrt(1 - 0.999) / (1 - 0.9)
    expected = before - size * 0.5 * n @ p
    assert torch.allclose(model[0].weight.detach(), expected * (1 - 0.1 * 0.01), atol=1e-12)


@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("shape", [(10, 6), (6, 10), (5, 5)])
def test_state_has_exactly_the_stated_size(proj_type, shape):
    m, n, r = *shape, 3
    model = one_weight(m, n)
    optimizer = GaLore(rank=r, proj_type=proj_type).optimizer(model, wb.Recipe(lr=0.1))
    step_with(optimizer, model[0].weight, matrix(m, n, 1))
    held = sum(v.numel() for v in optimizer.state[model[0].weight].values() if isinstance(v, torch.Tensor))
    side = projected_side(shape, proj_type)
    expected = {"right": 2 * m * r + r * n, "left": 2 * n * r + m * r, "full": 2 * r * r + (m + n) * r}[side]
    assert held == expected


@pytest.mark.parametrize(("steps", "gap"), [(10, 3), (9, 3), (1, 5)])
def test_subspaces_are_renewed_every_gap_steps(steps, gap):
    model = one_weight(6, 5)
    optimizer = GaLore(rank=2, update_proj_gap=gap).optimizer(model, wb.Recipe(lr=0.1))
    for index in range(steps):
        step_with(optimizer, model[0].weight, matrix(6, 5, index))
    assert optimizer.state[model[0].weight]["refreshes"] == math.ceil(steps / gap)


def test_signs_of_singular_vectors_do_not_matter(monkeypatch):
    import wbench.methods.optimizer.galore as room

    results = []
    for flip in (False, True):

        def signed(g, rank, side, flip=flip, original=subspace):
            left, right, s = original(g, rank, side)
            d = torch.tensor([-1.0, 1.0, -1.0], dtype=g.dtype) if flip else torch.ones(3, dtype=g.dtype)
            return left, d[:, None] * right, s

        monkeypatch.setattr(room, "subspace", signed)
        model = one_weight(8, 5)
        optimizer = GaLore(rank=3).optimizer(model, wb.Recipe(lr=0.1))
        for index in range(4):
            step_with(optimizer, model[0].weight, matrix(8, 5, index))
        results.append(model[0].weight.detach())
    assert torch.allclose(*results, atol=1e-12)


@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(proj_type, dtype, tmp_path):
    def fresh():
        model = one_weight(9, 6, dtype=dtype)
        return model, GaLore(rank=3, update_proj_gap=10, proj_type=proj_type).optimizer(model, wb.Recipe(lr=0.05))

    whole, optimizer = fresh()
    for index in range(25):
        step_with(optimizer, whole[0].weight, matrix(9, 6, index).to(dtype))
        if index == 13:
            torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    resumed, optimizer = fresh()
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for index in range(14, 25):
        step_with(optimizer, resumed[0].weight, matrix(9, 6, index).to(dtype))
    assert torch.equal(whole[0].weight, resumed[0].weight)


def test_reset_forgets_the_moments_at_a_new_subspace():
    model = one_weight(6, 4)
    optimizer = GaLore(rank=2, update_proj_gap=2, state_on_switch="reset").optimizer(model, wb.Recipe(lr=0.0))
    for index in range(3):
        step_with(optimizer, model[0].weight, matrix(6, 4, index))
    state = optimizer.state[model[0].weight]
    r = project(matrix(6, 4, 2), state.get("left"), state.get("right"))
    assert torch.allclose(state["exp_avg"], 0.1 * r)


def test_zero_and_bad_gradients():
    model = one_weight(6, 4)
    optimizer = GaLore(rank=2, update_proj_gap=1).optimizer(model, wb.Recipe(lr=0.1))
    with pytest.raises(wb.WBenchError, match="gradient of '0' is not finite"):
        step_with(optimizer, model[0].weight, torch.full((6, 4), math.nan, dtype=torch.float64))
    step_with(optimizer, model[0].weight, torch.zeros(6, 4, dtype=torch.float64))
    kept = optimizer.state[model[0].weight]["right"].clone()
    with pytest.warns(UserWarning, match="the old subspace is kept"):
        step_with(optimizer, model[0].weight, torch.zeros(6, 4, dtype=torch.float64))
    assert torch.equal(optimizer.state[model[0].weight]["right"], kept)


def test_rank_beyond_the_shorter_side_is_refused_by_layer_and_shape():
    with pytest.raises(wb.WBenchError, match=r"between 1 and min\(m, n\) = 4 for '0' of shape \(6, 4\), got 5"):
        GaLore(rank=5).optimizer(one_weight(6, 4), wb.Recipe())


def test_on_a_users_model_embeddings_norms_biases_and_head_are_not_projected(user_model, user_batch):
    optimizer = GaLore(rank=4, layers="*").optimizer(user_model, wb.Recipe(lr=1e-2))
    names = {name for group in optimizer.param_groups if "rank" in group for name in group["names"]}
    assert names == {"conv1", "conv2", "mix", "fc"}
    losses = train_steps(user_model, optimizer, user_batch)
    assert losses[-1] < losses[0]


def test_many_subspaces_train_all_of_a_weight_and_one_does_not():
    results = {}
    for cls in (GaLore, FrozenProjection):
        method = cls(rank=4) if cls is FrozenProjection else cls(rank=4, update_proj_gap=10)
        recipe = wb.Recipe(optimizer="adam", lr=0.05, schedule="cosine", batch_size=64, steps=800)
        results[cls.id] = wb.train(wb.tasks.LinearTeacher(inputs=16, outputs=20), method, recipe=recipe, probes=())
    assert results["galore"].final("excess") < 0.05 and results["galore"].final("rank") == 16
    assert results["frozen_projection"].final("excess") > 0.3 and results["frozen_projection"].final("rank") == 4


def test_observation_holds_overlap_energy_and_refreshes():
    run = wb.train("digits", GaLore(rank=4, update_proj_gap=5), scale="smoke")
    frame = run.probe("method.galore")
    assert {"layer", "overlap", "energy_share", "stable_rank", "refreshes"} <= set(frame.columns)
    assert frame["energy_share"].between(0, 1 + 1e-6).all() and frame["overlap"].dropna().between(0, 1 + 1e-6).all()
    assert frame["refreshes"].max() == 12


@pytest.mark.peer
@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_weights_agree_with_galore_torch(proj_type, decay):
    galore_torch = pytest.importorskip("galore_torch", reason="galore-torch is not installed: make peers")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 9))
    theirs = copy.deepcopy(ours)
    gap, rank, scale = 10, 4, 0.25
    first = GaLore(rank=rank, update_proj_gap=gap, scale=scale, proj_type=proj_type).optimizer(
        ours, wb.Recipe(lr=1e-2, weight_decay=decay)
    )
    special = {"rank": rank, "update_proj_gap": gap, "scale": scale, "proj_type": proj_type}
    groups = [{"params": [theirs[0].bias, theirs[2].bias]}, {"params": [theirs[0].weight, theirs[2].weight], **special}]
    second = galore_torch.GaLoreAdamW(groups, lr=1e-2, weight_decay=decay, no_deprecation_warning=True)
    rng = torch.Generator().manual_seed(4)
    for _ in range(50):
        x, y = torch.randn(64, 12, generator=rng), torch.randn(64, 9, generator=rng)
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((a - b).detach().norm() / b.detach().norm()) < 1e-5


def test_optimizer_is_a_torch_optimizer_with_a_closure():
    model = one_weight(6, 4, dtype=torch.float32)
    optimizer = GaLore(rank=2).optimizer(model, wb.Recipe(lr=1e-2))
    assert isinstance(optimizer, GaLoreAdamW)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) > 0
