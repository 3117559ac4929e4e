"""The small models: their formulas, their slots, and that nothing sees what it should not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from wbench.errors import DataError, FitError
from wbench.models import GPT, MLP, Attention, AttentionCore, ConvNet, ResNet, TransformerBlock, ViT
from wbench.ops.graph import consumers

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "mlp": (lambda: MLP((64, 32, 32, 10)), (5, 1, 8, 8), (5, 10)),
    "residual_mlp": (lambda: MLP((64, 32, 32, 10), residual=True, norm=nn.LayerNorm), (5, 64), (5, 10)),
    "no_hidden_layer": (lambda: MLP((12, 3)), (5, 12), (5, 3)),
    "convnet": (lambda: ConvNet(1, 28, 10, norm=nn.BatchNorm2d), (5, 1, 28, 28), (5, 10)),
    "convnet_odd": (lambda: ConvNet(3, 9, 4, widths=(4, 8, 8)), (5, 3, 9, 9), (5, 4)),
    "resnet": (lambda: ResNet(3, 7, widths=(8, 16), depth=2), (5, 3, 15, 15), (5, 7)),
    "vit": (lambda: ViT(1, 8, 10, patch_size=2, width=32), (5, 1, 8, 8), (5, 10)),
    "gpt": (lambda: GPT(11, 16, depth=2, width=32), (5, 12), (5, 12, 11)),
    "tied_gpt": (lambda: GPT(11, 16, depth=2, width=32, tie=True, dropout=0.1), (5, 16), (5, 16, 11)),
}


def made(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name][0]()


def example(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if "gpt" in name:
        return torch.randint(11, MODELS[name][1], generator=generator)
    return torch.randn(MODELS[name][1], generator=generator)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = made(name)
    output = model(example(name))
    assert output.shape == MODELS[name][2] and output.dtype == torch.float32
    output.square().mean().backward()
    for where, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), where
        # softmax ignores what is added to all scores of a query alike: a key's bias has no gradient
        assert parameter.grad.abs().max() > 0 or where.endswith("attn.k.bias"), where


@pytest.mark.parametrize("name", MODELS)
def test_the_head_reads_the_features(name: str) -> None:
    model = made(name).eval()
    x = example(name)
    assert torch.equal(model.head(model.features(x)), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights(name: str) -> None:
    first, same, other = (made(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["mlp", "residual_mlp", "no_hidden_layer", "convnet", "convnet_odd", "resnet"])
def test_a_symbolic_trace_computes_the_same(name: str) -> None:
    model = made(name).eval()
    assert torch.equal(fx.symbolic_trace(model)(example(name)), model(example(name)))


@pytest.mark.parametrize("residual", [False, True])
def test_mlp_is_its_formula(residual: bool) -> None:
    torch.manual_seed(0)
    model = MLP((6, 16, 16, 3), act=nn.Tanh, norm=nn.LayerNorm, residual=residual).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    h = x
    for index, block in enumerate(model.blocks):
        z = h @ block.linear.weight.T + block.linear.bias
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        h = z.tanh() + (h if residual and index == 1 else 0)  # the first block changes the width: no sum there
    assert torch.allclose(model(x), h @ model.head.weight.T + model.head.bias, rtol=0, atol=1e-12)


def test_mlp_without_bias_keeps_that_of_the_head() -> None:
    names = {name for name, _ in MLP((6, 5, 4, 3), bias=False).named_parameters()}
    assert names == {"blocks.0.linear.weight", "blocks.1.linear.weight", "head.weight", "head.bias"}


def test_convnet_is_its_formula() -> None:
    torch.manual_seed(0)
    model = ConvNet(2, 8, 3, widths=(4, 5), hidden=6)
    x = torch.randn(3, 2, 8, 8)
    h = x
    for block in model.blocks:
        h = F.max_pool2d(F.conv2d(h, block.conv.weight, block.conv.bias, padding=1).relu(), 2)
    h = (h.reshape(3, 5 * 2 * 2) @ model.linear.weight.T + model.linear.bias).relu()
    assert torch.allclose(model(x), h @ model.head.weight.T + model.head.bias, atol=1e-6)


def test_resnet_block_with_a_dead_branch_is_its_shortcut() -> None:
    torch.manual_seed(0)
    block = ResNet(1, 10, widths=(4, 8)).eval().blocks[0]
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_core_is_softmax_of_scaled_products(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf)
    found = AttentionCore(causal)(q, k, v)
    assert torch.allclose(found, scores.softmax(-1) @ v, rtol=0, atol=1e-12)
    assert torch.equal(found, F.scaled_dot_product_attention(q, k, v, is_causal=causal))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torch_multihead_attention(causal: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, causal), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.o.state_dict())
    x = torch.randn(2, 5, 12)
    mask = torch.ones(5, 5).triu(1).bool() if causal else None
    assert torch.allclose(ours(x), theirs(x, x, x, attn_mask=mask, need_weights=False)[0], atol=1e-6)


def test_gpt_does_not_see_the_future() -> None:
    model = made("gpt").eval()
    tokens = example("gpt")
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 11
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :8], after[:, :8], rtol=0, atol=1e-6)
    assert (before[:, 8:] - after[:, 8:]).abs().amax((0, 2)).min() > 1e-4


def test_gpt_sees_the_past_at_every_position() -> None:
    model = made("gpt").eval()
    tokens = example("gpt")
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    assert (model(tokens) - model(changed)).abs().amax((0, 2)).min() > 1e-5


def test_gpt_has_the_parameters_of_its_formula() -> None:
    vocabulary, context, depth, width = 11, 16, 2, 32
    block = 4 * (width * width + width) + (4 * width * width + 4 * width) + (4 * width * width + width) + 4 * width
    free = vocabulary * width + context * width + depth * block + 2 * width + vocabulary * width
    assert sum(parameter.numel() for parameter in made("gpt").parameters()) == free
    tied = made("tied_gpt")
    assert sum(parameter.numel() for parameter in tied.parameters()) == free - vocabulary * width
    assert tied.head.weight is tied.embedding.weight


def test_vit_without_positions_ignores_the_order_of_patches() -> None:
    model = made("vit").eval()
    x = example("vit")
    moved = x.roll(2, -1)  # by one patch
    assert not torch.allclose(model(x), model(moved), atol=1e-4)
    nn.init.zeros_(model.position)
    assert torch.allclose(model(x), model(moved), atol=1e-6)


def test_transformers_start_with_weights_in_proportion_to_their_width_and_depth() -> None:
    torch.manual_seed(0)
    model = GPT(50, 8, depth=8, width=100)
    block = model.blocks[0]
    branch = math.sqrt(2 * 8)
    for weight, deviation in (
        (model.embedding.weight, 0.02),
        (block.attn.q.weight, 0.05),
        (block.attn.o.weight, 0.05 / branch),
        (block.mlp.fc1.weight, 0.05),
        (block.mlp.fc2.weight, 0.025 / branch),
    ):
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=0.05)
    assert not block.attn.q.bias.detach().any()


class Recorded(nn.Module):
    """Stands in for a slot and counts its calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(*args)


SLOTS = {
    "mlp": ("blocks.0.linear", "blocks.1.norm", "blocks.1.act", "head"),
    "convnet": ("blocks.0.conv", "blocks.1.norm", "blocks.0.act", "blocks.1.pool", "linear", "norm", "act", "head"),
    "resnet": ("stem", "norm", "act", "blocks.0.conv1", "blocks.2.norm2", "blocks.3.act2", "blocks.2.shortcut", "head"),
    "vit": ("patch", "blocks.0.attn.q", "blocks.1.attn.core", "blocks.0.mlp.act", "norm", "head"),
    "gpt": (
        "embedding", "positions", "blocks.0.norm1", "blocks.0.attn.q", "blocks.0.attn.k", "blocks.1.attn.v",
        "blocks.1.attn.o", "blocks.1.attn.core", "blocks.0.norm2", "blocks.0.mlp.fc1", "blocks.0.mlp.act",
        "blocks.1.mlp.fc2", "norm", "head",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "slot"), [(name, slot) for name, slots in SLOTS.items() for slot in slots])
def test_what_is_put_into_a_slot_is_used(name: str, slot: str) -> None:
    model = made(name).eval()
    expected = model(example(name))
    parent, _, leaf = slot.rpartition(".")
    recorded = Recorded(model.get_submodule(slot))
    setattr(model.get_submodule(parent), leaf, recorded)
    assert torch.equal(model(example(name)), expected) and recorded.calls == 1


def test_a_trace_finds_the_norm_slot_behind_each_hidden_layer() -> None:
    found = consumers(MLP((8, 6, 6, 3)))
    assert [found[f"blocks.{index}.linear"].slot for index in (0, 1)] == ["blocks.0.norm", "blocks.1.norm"]
    assert found["blocks.0.linear"].kind == "activation" and found["head"].kind == "other"
    assert consumers(ConvNet(1, 8, 3))["blocks.1.conv"].slot == "blocks.1.norm"
    assert consumers(ConvNet(1, 8, 3))["linear"].slot == "norm"


def test_dropout_acts_in_training_only() -> None:
    model, x = made("tied_gpt"), example("tied_gpt")
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP((64,)), r"sizes=\(64,\)"),
        (lambda: MLP((64, 0, 10)), r"sizes=\(64, 0, 10\)"),
        (lambda: ConvNet(1, 3, 10, widths=(4, 4)), "2 blocks halve an image of 3 pixels"),
        (lambda: ViT(1, 8, 10, patch_size=3), "patch_size=3 does not divide image_size=8"),
        (lambda: Attention(10, 3), "heads=3 does not divide width=10"),
        (lambda: TransformerBlock(10, 4), "heads=4 does not divide width=10"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(FitError, match=message):
        build()


def test_gpt_refuses_more_than_its_context() -> None:
    with pytest.raises(DataError, match="17 tokens exceed the context of 16"):
        made("gpt")(torch.zeros(1, 17, dtype=torch.long))
