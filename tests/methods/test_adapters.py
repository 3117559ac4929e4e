"""Bone, LoRA and PiSSA: the cards' invariants against double loops and closed forms, and PEFT where it is installed."""

import copy

import pytest
import torch
from torch import nn
from user_model import train_steps

import wbench as wb
from wbench.methods import Bone, LoRA, PiSSA
from wbench.methods.adapter.bone import bat_delta, bat_unmerge, miss_delta, shard_sum
from wbench.methods.adapter.pissa import principal_factors

ADAPTERS = [Bone(r=4), Bone(r=4, variant="miss"), Bone(r=4, variant="mini", mini_r=2), LoRA(rank=3), PiSSA(rank=3)]


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(out=12, inp=8, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inp, out)).to(dtype)


@pytest.mark.parametrize("method", ADAPTERS, ids=str)
def test_start_is_the_frozen_model(method):
    base = layer()
    x = draw(5, 8)
    before = base(x).detach()
    model = method.replace(layers="*").prepare(base)
    tolerance = 1e-12 if isinstance(method, PiSSA) else 0.0
    assert float((model(x) - before).abs().max().detach()) <= tolerance


@pytest.mark.parametrize("method", ADAPTERS, ids=str)
def test_merged_model_is_the_adapted_one_and_all_else_stayed_frozen(method, user_model, user_batch):
    method = method.replace(layers=("mix", "fc"), **({"r": 8, "variant": "bat"} if str(method) == "bone(r=4)" else {}))
    frozen = {name: value.clone() for name, value in user_model.state_dict().items()}
    model = method.prepare(user_model)
    trainable = [name for name, param in model.named_parameters() if param.requires_grad]
    assert all(name.endswith((".d", ".lora_a", ".lora_b")) for name in trainable)
    optimizer = torch.optim.Adam([param for param in model.parameters() if param.requires_grad], lr=1e-2)
    losses = train_steps(model, optimizer, user_batch)
    assert losses[-1] < losses[0]
    before = model(user_batch[0]).detach()
    model = method.finish(model)
    assert torch.allclose(model(user_batch[0]), before, atol=1e-5)
    state = model.state_dict()
    assert set(state) == set(frozen)
    changed = {name for name in state if not torch.equal(state[name], frozen[name])}
    assert changed == {"mix.weight", "fc.weight"}
    assert all(param.requires_grad for param in model.parameters())


def test_bat_is_the_double_loop_over_blocks():
    w, d, r = draw(12, 8), draw(3, 4, 4, seed=1), 4
    expected = torch.empty_like(w)
    for p in range(3):
        for q in range(2):
            block = w[p * r : (p + 1) * r, q * r : (q + 1) * r]
            expected[p * r : (p + 1) * r, q * r : (q + 1) * r] = block @ d[p] + d[p]
    assert torch.allclose(bat_delta(w, d), expected, atol=1e-12)


def test_bat_of_block_size_one_is_an_affine_map_a_row():
    w, d = draw(5, 3), draw(5, 1, 1, seed=1)
    assert torch.allclose(w + bat_delta(w, d), w * (1 + d.view(5, 1)) + d.view(5, 1))


def test_bat_merge_is_undone_and_a_singular_factor_is_refused():
    w, d = draw(12, 8), draw(3, 4, 4, seed=1, scale=0.1)
    assert torch.allclose(bat_unmerge(w + bat_delta(w, d), d), w, atol=1e-10)
    d[1] = -torch.eye(4, dtype=torch.float64)
    with pytest.raises(wb.WBenchError, match=r"cannot unmerge 'fc': I \+ D is singular"):
        bat_unmerge(w, d, "fc")


def test_miss_repeats_its_shard_and_has_rank_at_most_r():
    d = draw(3, 10, seed=1)
    delta = miss_delta(d, 8)
    assert torch.equal(delta[:, :3], delta[:, 3:6]) and torch.equal(delta[:, :2], delta[:, 6:8])
    assert torch.linalg.matrix_rank(delta) <= 3
    x = draw(6, 8, seed=2)
    assert torch.allclose(shard_sum(x, 3) @ d, x @ delta.T, atol=1e-12)


def test_miss_ignores_inputs_whose_shards_cancel():
    x = torch.cat([draw(4, 3), -draw(4, 3)], dim=1)
    assert not shard_sum(x, 3).any()


def test_mini_with_all_outputs_is_miss_and_otherwise_periodic():
    model = Bone(r=4, variant="mini", mini_r=12, layers="*").prepare(layer())
    other = Bone(r=4, variant="miss", layers="*").prepare(layer())
    with torch.no_grad():
        for part in (model[0], other[0]):
            part.d.copy_(draw(4, 12, seed=3))
    assert torch.equal(model(draw(2, 8)), other(draw(2, 8)))
    small = Bone(r=4, variant="mini", mini_r=3, layers="*").prepare(layer())
    with torch.no_grad():
        small[0].d.copy_(draw(4, 3, seed=3))
    delta = small[0].delta().detach()
    assert torch.equal(delta[:3], delta[3:6])


@pytest.mark.parametrize(
    ("method", "count"),
    [(Bone(r=4), 48), (Bone(r=4, variant="miss"), 48), (Bone(r=4, variant="mini", mini_r=3), 12), (LoRA(rank=3), 60)],
    ids=str,
)
def test_trained_numbers_are_the_formula(method, count):
    model = method.replace(layers="*").prepare(layer())
    assert sum(param.numel() for param in model.parameters() if param.requires_grad) == count


@pytest.mark.parametrize("variant", ["bat", "miss"])
def test_gradients_are_the_closed_forms(variant):
    model = Bone(r=4, variant=variant, layers="*").prepare(layer())
    with torch.no_grad():
        model[0].d.copy_(draw(*model[0].d.shape, seed=5, scale=0.1))
    x, g = draw(7, 8, seed=1), draw(7, 12, seed=2)
    model(x).backward(g)
    if variant == "miss":
        expected = shard_sum(x, 4).T @ g
    else:
        full = (g.T @ x).reshape(3, 4, 2, 4).permute(0, 2, 1, 3)
        blocks = model[0].base.weight.detach().reshape(3, 4, 2, 4).permute(0, 2, 1, 3)
        expected = ((blocks.transpose(-1, -2) + torch.eye(4, dtype=torch.float64)) @ full).sum(1)
    assert torch.allclose(model[0].d.grad, expected, atol=1e-10)


def test_bat_changes_all_directions_and_with_a_zero_weight_is_one_block_repeated():
    d = draw(3, 4, 4, seed=1)
    assert torch.linalg.matrix_rank(bat_delta(draw(12, 8), d)) > 4
    flat = bat_delta(torch.zeros(12, 8, dtype=torch.float64), d)
    assert torch.equal(flat[:4, :4], d[0]) and torch.equal(flat[:, :4], flat[:, 4:])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Bone(r=5), "bat needs r to divide both 12 and 8 of '0'"),
        (Bone(r=9, variant="miss"), "r=9 is larger than the 8 inputs of '0'"),
        (Bone(r=4, variant="mini", mini_r=5), "mini needs mini_r to divide the 12 outputs of '0'"),
        (LoRA(rank=9), r"rank must be between 1 and 8 for '0' of shape \(12, 8\), got 9"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_layer(method, message):
    with pytest.raises(wb.WBenchError, match=message):
        method.replace(layers="*").prepare(layer())


def test_pissa_takes_the_principal_part_out_of_the_base():
    base = layer()
    w = base[0].weight.detach().clone()
    model = PiSSA(rank=3, alpha=6.0, layers="*").prepare(base)
    u, s, vh = torch.linalg.svd(w)
    principal = (u[:, :3] * s[:3]) @ vh[:3]
    assert torch.allclose(model[0].base.weight, w - principal, atol=1e-12)
    a, b = principal_factors(w, 3)
    assert torch.allclose(b @ a, principal, atol=1e-12)
    assert torch.allclose(model[0].merged_weight(), w, atol=1e-12)


def test_random_factor_of_lora_can_be_kept_fixed():
    model = LoRA(rank=2, train_a=False, layers="*").prepare(layer())
    assert not model[0].lora_a.requires_grad and model[0].lora_b.requires_grad


def test_a_tied_layer_is_refused_when_named(user_model):
    with pytest.raises(wb.WBenchError, match="layer 'head' shares its weight with another module"):
        LoRA(rank=2, layers="head").prepare(user_model)


def test_a_companded_layer_cannot_be_adapted_and_an_adapted_one_not_companded():
    for methods, who in ((["weight_compander", "lora"], "lora"), (["lora", "weight_compander"], "was frozen by lora")):
        with pytest.raises(wb.WBenchError, match=who):
            wb.train("digits", methods, scale="smoke")


@pytest.mark.peer
@pytest.mark.parametrize(("init", "variant"), [("bat", "bat"), (True, "miss"), ("mini", "mini")])
@pytest.mark.parametrize("shape", [(16, 8), (8, 24), (24, 24)])
def test_outputs_gradients_and_merged_weights_agree_with_peft(init, variant, shape):
    peft = pytest.importorskip("peft", reason="peft is not installed: make peers")
    out, inp = shape
    base = layer(out, inp)
    ours = Bone(r=8, variant=variant, mini_r=4, layers="*").prepare(copy.deepcopy(base))
    config = peft.MissConfig(r=8, target_modules=["0"], init_weights=init, mini_r=4)
    theirs = peft.get_peft_model(copy.deepcopy(base), config).double()
    block = next(param for name, param in theirs.named_parameters() if "miss_block" in name)
    with torch.no_grad():
        block.copy_(draw(*block.shape, seed=3, scale=0.1))
        ours[0].d.copy_(block)
    x, g = draw(5, inp, seed=1), draw(5, out, seed=2)
    a, b = ours(x), theirs(x)
    assert torch.allclose(a, b, atol=1e-10)
    a.backward(g)
    b.backward(g)
    assert torch.allclose(ours[0].d.grad, block.grad, atol=1e-10)
    merged = theirs.merge_and_unload()
    assert torch.allclose(ours[0].merged_weight(), merged[0].weight, atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("init", [True, "pissa"])
def test_lora_and_pissa_agree_with_peft(init):
    peft = pytest.importorskip("peft", reason="peft is not installed: make peers")
    base = layer(12, 8, torch.float32)
    method = LoRA(rank=3, alpha=6.0, layers="*") if init is True else PiSSA(rank=3, alpha=6.0, layers="*")
    ours = method.prepare(copy.deepcopy(base))
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights=init)
    )
    peer = theirs.base_model.model[0]
    if init == "pissa":
        assert torch.allclose(ours[0].base.weight, peer.base_layer.weight, atol=1e-5)
    with torch.no_grad():
        ours[0].lora_a.copy_(peer.lora_A["default"].weight)
        peer.lora_B["default"].weight.add_(0.1)
        ours[0].lora_b.copy_(peer.lora_B["default"].weight)
    x = draw(5, 8, dtype=torch.float32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
