"""LaMDA: start, freezing and merging by closed form; PEFT's PiSSA where it is installed."""

import numpy as np
import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.methods.adapter.lamda import LaMDA, LaMDALayer, frozen_columns
from wbench.ops.allocate import leading_energy, proportional, thirds
from wbench.testing import check_method
from wbench.training.memory import saved_bytes

INITS = ["spectral", "spectral_zero", "reference"]
F64 = torch.float64


def draw(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net(out=12, inp=9, dtype=F64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inp, out)).to(dtype)


def adapted(method, base=None):
    model = method.replace(layers="*").prepare(base or net())
    return model, model[0]


def test_contract():
    for settings in ({}, {"freeze_ratio": 0.0}, {"init": "reference"}, {"allocation": "energy"}):
        check_method(LaMDA, method=LaMDA(**settings))


@pytest.mark.parametrize("init", INITS)
def test_start_is_the_frozen_model(init):
    base, x = net(), draw(5, 9, seed=1)
    before = base(x).detach()
    model, layer = adapted(LaMDA(rank=4, init=init, alpha=0.5), base)
    assert torch.allclose(model(x), before, atol=1e-12)
    assert {name for name, param in model.named_parameters() if param.requires_grad} == {"0.s", "0.b"}
    if init == "reference":
        assert not layer.b.any() and layer.s.any()


def test_the_spectral_start_is_the_principal_part_and_leaves_none_of_it_in_the_main_path():
    weight = net()[0].weight.detach().numpy()
    _, layer = adapted(LaMDA(rank=4))
    u, s, vh = np.linalg.svd(weight)
    assert torch.allclose(layer.a @ layer.a.T, torch.eye(4, dtype=F64), atol=1e-12)
    assert torch.allclose(layer.b.T @ layer.b, torch.eye(4, dtype=F64), atol=1e-12)
    assert torch.allclose(layer.s, torch.diag(torch.tensor(s[:4])), atol=1e-12)
    principal = u[:, :4] * s[:4] @ vh[:4]
    assert np.allclose((layer.b @ layer.s @ layer.a).detach().numpy(), principal, atol=1e-12)
    assert float((layer.base.weight @ layer.a.T).detach().abs().max()) < 1e-12


@pytest.mark.parametrize(("steps", "rank"), [(10.0, 4), (7.3, 8), (3.0, 8), (0.0, 5)])
def test_columns_freeze_one_after_another_until_all_are(steps, rank):
    counts = [frozen_columns(step, rank, steps) for step in range(20)]
    assert counts == sorted(counts) and counts[-1] == rank
    assert counts[0] == (rank if steps == 0 else 0)
    assert all(count == min(rank, int(rank * step / steps)) for step, count in enumerate(counts) if steps)
    assert not steps or frozen_columns(int(np.ceil(steps)), rank, steps) == rank


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_frozen_columns_and_the_down_projection_never_move_again(kind):
    method, base = LaMDA(rank=4, freeze_ratio=0.5, layers="*"), net()
    model = method.prepare(base)
    layer, total = model[0], 20
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = (
        torch.optim.AdamW(params, lr=0.05, weight_decay=0.1)
        if kind == "adamw"
        else torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.1)
    )
    detach = method.attach(model, optimizer, wb.Recipe(steps=total))
    down, main, history = layer.a.clone(), layer.base.weight.detach().clone(), []
    x, y = draw(30, 9, seed=2), draw(30, 12, seed=3)
    for _ in range(total):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        history.append(layer.b.detach().clone())
    detach()
    assert torch.equal(layer.a, down) and torch.equal(layer.base.weight, main)
    for step in range(1, total):
        fixed = frozen_columns(step, 4, 10.0)
        assert torch.equal(history[step][:, :fixed], history[step - 1][:, :fixed])
        if fixed < 4:
            assert not torch.equal(history[step][:, fixed:], history[step - 1][:, fixed:])
    assert int(layer.frozen) == 4 and not layer.b.requires_grad
    assert [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]] == [(4, 4)]
    assert sum(v.numel() for state in optimizer.state.values() for k, v in state.items() if k != "step") == (
        32 if kind == "adamw" else 16
    )


def test_the_number_of_trained_entries_falls_from_the_whole_to_the_core():
    task = wb.tasks.Digits(hidden=(32,), train_size=100)
    run = wb.train(task, LaMDA(rank=4, freeze_ratio=0.5, trainable="head"), recipe=wb.Recipe(steps=40))
    moving = run.metrics[run.metrics["name"] == "updated"]["value"].to_numpy()
    assert moving[0] == 16 + 32 * 4 and moving[-1] == 16
    assert moving.mean() == pytest.approx(16 + 32 * 4 * 0.5 * (4 + 1) / (2 * 4), rel=0.05)
    head = 32 * 10 + 10
    assert run.final("trainable", "store") == 16 + head and run.memory["optimizer"] == 2 * 4 * (16 + head)


def test_merging_gives_the_forward_and_changes_rows_within_the_down_projections_span():
    base = net()
    start = base[0].weight.detach().clone()
    method = LaMDA(rank=3, layers="*", alpha=0.7)
    model = method.prepare(base)
    with torch.no_grad():
        model[0].s.add_(draw(3, 3, seed=5))
        model[0].b.add_(draw(12, 3, seed=6))
    x = draw(6, 9, seed=7)
    before, down = model(x).detach(), model[0].a.clone()
    model = method.finish(model)
    assert torch.allclose(model(x), before, atol=1e-12)
    change = model[0].weight.detach() - start
    assert torch.linalg.matrix_rank(change) <= 3
    assert torch.allclose(change @ down.T @ down, change, atol=1e-12)


def test_without_training_b_the_change_is_the_cores_change_between_singular_vectors():
    base = net()
    start = base[0].weight.detach().clone()
    model, layer = adapted(LaMDA(rank=3, freeze_ratio=0.0), base)
    assert not layer.b.requires_grad
    u, sigma, vh = torch.linalg.svd(start)
    with torch.no_grad():
        layer.s.add_(draw(3, 3, seed=8))
    core = u[:, :3].T @ layer.b @ layer.s @ layer.a @ vh[:3].T - torch.diag(sigma[:3])
    expected = start + u[:, :3] @ core @ vh[:3]
    assert torch.allclose(layer.merged_weight(), expected, atol=1e-12)


def test_the_cores_gradient_is_the_formula():
    model, layer = adapted(LaMDA(rank=4, alpha=0.3))
    x, upstream = draw(7, 9, seed=9), draw(7, 12, seed=10)
    model(x).backward(upstream)
    assert torch.allclose(layer.s.grad, 0.3 * layer.b.detach().T @ upstream.T @ (x @ layer.a.T), atol=1e-12)


def test_no_full_width_input_is_kept_once_only_the_core_learns():
    x = draw(64, 200, dtype=torch.float32).requires_grad_()
    layer = LaMDALayer(nn.Linear(200, 100).requires_grad_(False), 4, LaMDA(rank=4))
    layer.b.requires_grad_(False)
    kept, _ = saved_bytes(layer, lambda: layer(x * 1.0), [])
    assert kept == 64 * 4 * 4
    lora = wb.methods.LoRA(rank=4).adapt(nn.Linear(200, 100).requires_grad_(False), "x")
    assert saved_bytes(lora, lambda: lora(x * 1.0), [])[0] >= 64 * 200 * 4


def test_flat_spectra_get_larger_ranks_within_the_budget():
    energies = {"flat": 0.2, "a": 0.5, "b": 0.55, "c": 0.6, "d": 0.65, "steep": 0.95}
    limits = dict.fromkeys(energies, 64)
    ranks = thirds(energies, 8, limits)
    assert ranks == {
        "flat": 15,
        "a": 15,
        "b": 6,
        "c": 6,
        "d": 3,
        "steep": 3,
    }  # 16, 8, 4 taken down in turns to 48 in all
    shares = proportional(energies, 8, limits)
    assert sum(shares.values()) <= 48 and shares["flat"] == max(shares.values()) and min(shares.values()) >= 1
    assert thirds(energies, 8, {**limits, "flat": 10})["flat"] == 10
    with pytest.raises(FitError, match="cannot give each of 6 layers"):
        thirds(energies, 0, limits)


def test_leading_energy_is_the_share_of_squares():
    assert leading_energy(torch.tensor([2.0, 1.0, 1.0]), 1) == pytest.approx(4 / 6)


def test_allocation_follows_the_spectra_of_the_model():
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(3)))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(16))
        model[2].weight.copy_(torch.outer(torch.ones(16), torch.ones(16)) + 1e-3 * torch.eye(16))
    method = LaMDA(rank=4, allocation="energy", layers="*")
    ranks = [layer.s.shape[0] for layer in method.adapted(method.prepare(model)).values()]
    assert ranks[0] > ranks[1] > ranks[2] and sum(ranks) == 12


def test_bad_input_is_refused_by_name():
    with pytest.raises(FitError, match=r"rank 10 exceeds min\(out, in\) = 9 for '0'"):
        adapted(LaMDA(rank=10))
    with pytest.raises(KnobError, match="freeze_ratio=1.5"):
        LaMDA(freeze_ratio=1.5)
    broken = net()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(FitError, match="layer '0' is not finite"):
        adapted(LaMDA(rank=2), broken)


def test_half_precision_starts_close_to_the_model():
    base = net(dtype=torch.bfloat16)
    x = draw(5, 9).to(torch.bfloat16)
    before = base(x).detach()
    model, layer = adapted(LaMDA(rank=4), base)
    assert layer.s.dtype == torch.float32 and model(x).dtype == torch.bfloat16
    assert torch.allclose(model(x), before, rtol=0.05, atol=0.05)


def test_observation_shows_the_core_and_the_staircase():
    task = wb.tasks.Digits(hidden=(32,), train_size=100)
    run = wb.train(task, LaMDA(rank=4, freeze_ratio=0.5), recipe=wb.Recipe(steps=20, lr=1e-2), every=5)
    frame = run.probe("method.lamda")
    first, last = frame[frame["step"] == 0], frame[frame["step"] == 20]
    assert first["angle"].max() < 0.1 and list(first["frozen"].unique()) == [0]
    assert last["angle"].max() > 0.1 and list(last["frozen"].unique()) == [4]
    assert (first[first["row"] != first["col"]]["value"] == 0).all()


@pytest.mark.peer
def test_the_spectral_start_is_pissas_of_peft():
    peft = pytest.importorskip("peft", reason="the peers extra is not installed")
    base = nn.Sequential()
    base.add_module("fc", net(dtype=torch.float32)[0])
    weight = base.fc.weight.detach().clone()
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["fc"], init_lora_weights="pissa", lora_dropout=0.0)
    theirs = peft.get_peft_model(base, config).base_model.model.fc
    ours = nn.Sequential(nn.Linear(9, 12))
    with torch.no_grad():
        ours[0].weight.copy_(weight)
    _, layer = adapted(LaMDA(rank=4), ours)
    product = theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight
    assert torch.allclose(layer.b @ layer.s @ layer.a, product, atol=1e-4)
    assert torch.allclose(layer.base.weight, theirs.base_layer.weight, atol=1e-4)
