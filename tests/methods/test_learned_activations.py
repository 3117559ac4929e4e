"""Activations by LSQ: step sizes and their gradients by the formula, where they stand, and what comes back from a run."""

import pytest
import torch
from small_vit import draw, images, vit

import wbench as wb
from wbench.errors import FitError
from wbench.method import Context
from wbench.methods import LSQ, OFQ
from wbench.methods.parametrization.joint_attention import JointAttention
from wbench.methods.parametrization.learned_activations import LearnedActivation, QuantizedCore
from wbench.models import Attention
from wbench.splits import Splits, TensorSplit
from wbench.tasks import Digits

F64 = torch.float64
KINDS = {
    "lsq": LSQ(bits=3, act_bits=3),
    "lsq by channel": LSQ(bits=3, act_bits=3, act_scale="channel"),
    "ofq": OFQ(bits=3, act_bits=3),
    "ofq without qkr": OFQ(bits=3, act_bits=3, qkr=False),
}


def given():
    x, y = images(64)
    return Context(splits=Splits(train=TensorSplit(x, y))), x


@pytest.mark.parametrize("signed", [True, False])
def test_a_step_size_a_token_starts_and_moves_by_the_formula(signed):
    x = draw(6, 5, 4)
    x = (x if signed else x.abs()).requires_grad_()
    part = LearnedActivation("it", 3, (4,), "token", signed=signed).double()
    assert part.scale is None and part(x) is x and part.scale.shape == (5, 1) and not bool(part.started)
    top, low = (3, -4) if signed else (7, 0)
    with torch.no_grad():
        part(x)
        start = (2 if signed else 4) * x.abs().mean((0, 2)) / top**0.5
        assert torch.allclose(part.scale.flatten(), start)
        part.before.copy_(0.1 * draw(4, seed=1))
        part.after.copy_(0.1 * draw(4, seed=2))
        part.scale.mul_(0.2)  # so that some are beyond the codes
    upstream, out = draw(6, 5, 4, seed=3), part(x)
    out.backward(upstream)
    units = ((x + part.before) / part.scale).detach()
    inside = (units >= low) & (units <= top)
    codes = units.clamp(low, top).round()
    assert torch.allclose(out, codes * part.scale + part.after) and bool((~inside).any())
    by_scale = (upstream * torch.where(inside, codes - units, codes)).sum((0, 2)) / (top * 6 * 4) ** 0.5
    assert torch.allclose(part.scale.grad.flatten(), by_scale)
    assert torch.allclose(x.grad, upstream * inside) and torch.allclose(part.after.grad, upstream.sum((0, 1)))
    assert torch.allclose(part.before.grad, (upstream * inside).sum((0, 1)))


def test_a_head_and_token_a_channel_or_all_can_share_a_step_size():
    x = draw(3, 2, 5, 4)
    shapes = {}
    for name, by, channels, heads in (("head and token", "token", (2, 1, 4), True), ("channel", "channel", (2, 1, 4), False),
                                      ("token", "token", (2, 1, 4), False), ("all", "channel", (), False)):  # fmt: skip
        part = LearnedActivation("it", 2, channels, by, heads=heads)
        part(x)
        part(x)
        shapes[name] = tuple(part.scale.shape)
        alone = 2 * x.abs()  # over the root of 1, the highest code
        wanted = {
            "head and token": alone.mean((0, 3)),
            "channel": alone.mean((0, 2)),
            "token": alone.mean((0, 1, 3)),
            "all": alone.mean(),
        }
        assert torch.allclose(part.scale.flatten().to(F64), wanted[name].flatten(), rtol=1e-6)
    assert shapes == {"head and token": (2, 5, 1), "channel": (2, 1, 4), "token": (5, 1), "all": (1,)}


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_many_levels_is_attention(causal):
    torch.manual_seed(0)
    plain, x = Attention(16, 4, causal).double(), draw(8, 7, 16)
    wanted = plain(x)
    method = LSQ(bits=8, act_bits=8, layers="*")
    module = torch.nn.ModuleDict({"attn": plain})
    method._quantize_activations(module)
    core = module["attn"].core
    assert isinstance(core, QuantizedCore) and core.causal == causal
    plain(x)
    with torch.no_grad():
        plain(x)
        for name, part in core.named_children():  # clip nothing
            part.scale.mul_(0.3 if name != "probabilities" else 0.12)
        for layer in (plain.q, plain.k, plain.v, plain.o):
            layer.input_quantizer.scale.mul_(0.3)
        assert torch.allclose(plain(x), wanted, atol=0.03 * float(wanted.abs().max()))
        assert not torch.equal(plain(x), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_every_activation_is_on_its_levels(kind):
    method = KINDS[kind]
    ctx, x = given()
    model = method.prepare(vit(), ctx)
    seen = {}
    parts = {name: part for name, part in method.quantizers(model).items() if isinstance(part, LearnedActivation)}
    for name, part in parts.items():
        part.register_forward_hook(lambda part, _, out, name=name: seen.__setitem__(name, (part, out.detach())))
    model(x)
    assert set(seen) == set(parts) and all(bool(part.started) for part in parts.values())
    names = {name.removeprefix("blocks.0.") for name in parts if name.startswith("blocks.0.")}
    wanted = {"attn.o.input_quantizer", "attn.v.input_quantizer", "mlp.fc1.input_quantizer", "mlp.fc2.input_quantizer",
              "attn.core.q", "attn.core.v", "attn.core.probabilities"}  # fmt: skip
    joint = {"attn.inputs"} if kind == "ofq" else {"attn.core.k", "attn.q.input_quantizer", "attn.k.input_quantizer"}
    assert names == wanted | joint
    for name, (part, out) in seen.items():
        values = out if part.after is None else out - part.after
        codes = (values / part.scale).round(decimals=3)
        assert torch.allclose(codes, codes.round(), atol=1e-2), name
        low, high = int(codes.min()), int(codes.max())
        unsigned = name.endswith(("fc2.input_quantizer", "probabilities"))
        assert (low >= 0 and high <= 7) if unsigned else (low >= -4 and high <= 3), (name, low, high)
        heads = 2 if kind == "ofq" and name.endswith("core.q") else 1
        by_token = method.act_scale == "token" and not name.endswith("core.v")
        assert not by_token or part.scale.numel() == 16 * heads, name


@pytest.mark.parametrize("kind", KINDS)
def test_step_sizes_are_trained_and_come_back(kind, tmp_path):
    task = Digits(architecture="vit", transformer=(1, 16, 2), train_size=100)
    store = wb.RunStore(tmp_path)
    run = wb.train(task, [KINDS[kind]], recipe=task.recipe("smoke").replace(steps=5, lr=0.01), store=store)
    model = wb.restore(run)
    parts = [part for part in model.modules() if isinstance(part, LearnedActivation)]
    assert len(parts) == 8 + 2 * (kind != "ofq") and all(bool(part.started) for part in parts)
    assert all(part.before is None or bool((part.before != 0).any()) for part in parts)
    x, y = task.data(0)["test"].tensors
    with torch.no_grad():
        right = model.eval()(x).argmax(-1) == y
    assert float(right.float().mean()) == pytest.approx(run.final("accuracy"), abs=1e-6)


@pytest.mark.parametrize("kind", ["lsq", "ofq"])
def test_a_step_size_a_token_needs_a_sequence_and_keeps_to_its_length(kind):
    model, before = vit(), None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        FitError, match=rf"{kind}: act_scale='token' with act_bits=3 needs a sequence .*act_scale='channel'"
    ):
        KINDS[kind].prepare(model)
    assert set(model.state_dict()) == set(before) and not any(
        isinstance(part, JointAttention) for part in model.modules()
    )
    model = KINDS[kind].prepare(model, given()[0])
    with pytest.raises(
        FitError, match=r"'blocks\.0\.mlp\.fc1': has step sizes for 16 tokens, got 9 .*act_scale='channel'"
    ):
        model.blocks[0].mlp.fc1(torch.zeros(2, 9, 16))


def test_inputs_without_tokens_have_one_step_size():
    task = Digits(hidden=(16,), train_size=64)
    model = LSQ(act_bits=4).prepare(task.model(0), Context(splits=task.data(0)))
    scales = [part.scale for part in model.modules() if isinstance(part, LearnedActivation)]
    assert [tuple(scale.shape) for scale in scales] == [(1, 1)] * len(scales) and scales
