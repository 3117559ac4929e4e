"""OFQ and LSQ: levels, shares and gradients by closed form, freezing bit for bit, joint attention against plain attention."""

import math

import pytest
import torch
from small_vit import draw, images, vit
from torch import nn

import wbench as wb
from wbench.errors import FitError, KnobError
from wbench.method import Context
from wbench.methods import LSQ, OFQ
from wbench.methods.parametrization.joint_attention import JointAttention
from wbench.models import Attention
from wbench.ops.lattice import (
    learned_quantize,
    learned_start,
    note_flips,
    stats_codes,
    stats_quantize,
    stats_scale,
    threshold_distance,
)
from wbench.testing import check_method

F64 = torch.float64


def test_contract():
    check_method(LSQ)
    check_method(OFQ, method=OFQ(cga_steps=3))
    check_method(OFQ, model=vit, batch=images(), method=OFQ(cga_steps=3, cga_qk="entry"))
    check_method(OFQ, model=vit, batch=images(), method=OFQ(weight_quant="lsq", qkr=False, bits=3))
    check_method(OFQ, model=vit, batch=images(), method=OFQ(cga_steps=3, act_bits=4))
    check_method(LSQ, model=vit, batch=images(), method=LSQ(act_bits=4))


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_levels_are_odd_multiples_of_half_a_step(bits):
    weight = draw(7, 200)
    scale, half = stats_scale(weight), 2 ** (bits - 1)
    assert torch.allclose(scale[:, 0], 2 * weight.abs().mean(1))
    places = stats_quantize(weight, bits) / scale * half - 0.5
    assert torch.allclose(places, places.round(), atol=1e-9)
    assert int(places.round().min()) >= -half and int(places.round().max()) == half - 1
    assert all(len(row.round(decimals=6).unique()) <= 2**bits for row in places)


def test_the_lattice_is_torchs_affine_one_shifted_by_half_a_step():
    weight, bits = draw(5, 64, dtype=torch.float32), 3
    step = (stats_scale(weight) / 4).flatten()
    theirs = torch.fake_quantize_per_channel_affine(weight - step[:, None] / 2, step, torch.zeros(5), 0, -4, 3)
    inside = threshold_distance(weight, bits) > 1e-4
    assert torch.allclose((theirs + step[:, None] / 2)[inside], stats_quantize(weight, bits)[inside], atol=1e-6)


def test_the_scale_follows_the_weights_and_signs_are_alike():
    weight = draw(4, 100)
    assert torch.allclose(stats_quantize(3.7 * weight, 2), 3.7 * stats_quantize(weight, 2))
    assert torch.allclose(stats_quantize(-weight, 2), -stats_quantize(weight, 2))


def test_two_bits_give_bell_shaped_rows_four_levels_of_like_size():
    normal = draw(1, 1_000_000)
    tails = 0.5 * math.erfc(math.sqrt(2 / math.pi) / math.sqrt(2))
    shares = stats_codes(normal, stats_scale(normal), 2).unique(return_counts=True)[1] / 1e6
    assert shares.tolist() == pytest.approx([tails, 0.5 - tails, 0.5 - tails, tails], abs=0.002)
    assert tails == pytest.approx(0.2125, abs=1e-3)
    laplace = torch.distributions.Laplace(0.0, 1.0)
    torch.manual_seed(0)
    rows = laplace.sample((1, 1_000_000))
    shares = stats_codes(rows, stats_scale(rows), 2).unique(return_counts=True)[1] / 1e6
    assert shares.tolist() == pytest.approx([0.184, 0.316, 0.316, 0.184], abs=0.002)


def test_the_gradient_passes_whole_and_none_reaches_the_scale():
    weight = (3 * draw(4, 30)).requires_grad_()
    upstream = draw(4, 30, seed=1)
    stats_quantize(weight, 2).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_a_row_of_zeros_stays_near_zero():
    weight = torch.zeros(2, 8)
    assert torch.isfinite(stats_quantize(weight, 2)).all() and float(stats_quantize(weight, 2).abs().max()) < 1e-11


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_lsqs_gradients_are_the_formula(bits, signed):
    if bits == 1 and not signed:
        return
    x, scale = draw(200).requires_grad_(), torch.tensor([0.3], dtype=F64, requires_grad=True)
    out = learned_quantize(x, scale, bits, 200, signed=signed)
    upstream = draw(200, seed=1)
    out.backward(upstream)
    units = (x / scale).detach()
    top = max(1, 2 ** (bits - 1) - 1) if signed else 2**bits - 1
    low = -(2 ** (bits - 1)) if signed else 0
    factor = (top * 200) ** -0.5
    if bits == 1:
        codes = torch.where(units >= 0, 1.0, -1.0).to(F64)
        inside = units.abs() <= 1
        by_scale = torch.where(inside, codes - units, codes)
    else:
        codes = units.clamp(low, top).round()
        inside = (units >= low) & (units <= top)
        by_scale = torch.where(inside, codes - units, codes)
    assert torch.allclose(out, codes * scale.detach())
    assert torch.allclose(x.grad, upstream * inside)
    assert float(scale.grad) == pytest.approx(float((upstream * by_scale).sum()) * factor, rel=1e-9)


def test_lsq_starts_at_twice_the_mean_over_the_root_of_the_top_code():
    weight = draw(3, 50)
    assert torch.allclose(learned_start(weight, 3, (1,)), 2 * weight.abs().mean(1, keepdim=True) / 3**0.5)
    assert torch.allclose(
        learned_start(weight.abs(), 2, (1,), signed=False), 4 * weight.abs().mean(1, keepdim=True) / 3**0.5
    )


def test_quantised_inputs_start_at_the_first_batch_and_are_saved():
    model = LSQ(act_bits=3, layers="blocks.*", act_scale="channel").prepare(vit())
    x = images()[0]
    model(x)
    part = model.blocks[0].mlp.fc2.input_quantizer
    assert bool(part.started) and not part.signed and bool((part.scale > 0).all()) and part.scale.std() > 0
    twin = LSQ(act_bits=3, layers="blocks.*", act_scale="channel").prepare(vit())
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(x), twin(x))


def test_joint_attention_without_quantisation_is_attention_without_query_and_key_bias():
    torch.manual_seed(0)
    for causal in (False, True):
        plain = Attention(16, 4, causal).double()
        nn.init.zeros_(plain.q.bias)
        nn.init.zeros_(plain.k.bias)
        joint = JointAttention(plain, None, 0.0)
        x = draw(3, 7, 16)
        assert torch.allclose(joint(x), plain(x), atol=1e-12)
        joint(x).square().sum().backward()
        assert float(joint.q.grad.abs().sum()) > 0 and float(joint.k.grad.abs().sum()) > 0
        joint.bake()
        assert torch.allclose(joint(x), plain(x), atol=1e-12) and {"product"} == set(
            dict(joint.named_parameters(recurse=False))
        )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_under_annealing_only_weights_near_a_threshold_move(kind):
    method = OFQ(bits=2, qkr=False, cga_steps=5, boundary_range=0.05, layers="*")
    torch.manual_seed(0)
    model = method.prepare(nn.Sequential(nn.Linear(40, 30)).double())
    latent = model[0].parametrizations.weight.original
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)}[kind]  # fmt: skip
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    ctx = Context(methods=(method,), total_steps=8)
    x, y = draw(20, 40, seed=1), draw(20, 30, seed=2)
    for step in range(8):
        ctx.step = step
        method.before_step(model, (x, y), ctx)
        before, free = latent.detach().clone(), threshold_distance(latent, 2) <= 0.05
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        method.after_backward(model, ctx)
        optimizer.step()
        ctx.step = step + 1
        method.after_step(model, ctx)
        if step < 3:
            assert not torch.equal(latent[~free], before[~free])
        else:
            assert torch.equal(latent[~free], before[~free]) and not torch.equal(latent[free], before[free])


def test_the_free_share_of_normal_rows_and_the_ends_of_the_boundary_range():
    weight = draw(1, 1_000_000)
    distance = threshold_distance(weight, 2)
    assert float((distance <= 0.005).float().mean()) == pytest.approx(0.008, abs=0.001)
    place = weight / stats_scale(weight) * 2
    assert torch.equal(distance <= 0.5, place.abs() <= 1.5)
    assert float((distance <= 0).float().mean()) < 1e-4


def test_oscillations_of_a_hand_made_sequence():
    before, direction, seen = torch.zeros(1), torch.zeros(1), []
    for step, code in enumerate([0, 1, 0, 1, 1, 0]):
        _, oscillation = note_flips(torch.tensor([float(code)]), before, direction)
        if bool(oscillation):
            seen.append(step)
    assert seen == [2, 3, 5]


def test_entries_of_the_product_away_from_a_threshold_pass_no_gradient_while_annealing():
    torch.manual_seed(0)
    joint = JointAttention(Attention(16, 2).double(), 2, 0.0)
    x = draw(3, 5, 16)
    joint(x).sum().backward()
    assert float(joint.q.grad.abs().sum()) > 0
    joint.zero_grad()
    joint.annealing.fill_(True)
    joint(x).sum().backward()
    assert joint.q.grad is None or float(joint.q.grad.abs().sum()) == 0


def test_a_run_quantises_watches_and_comes_back():
    task = wb.tasks.Digits(architecture="vit", transformer=(1, 16, 2), train_size=100)
    method = OFQ(bits=2, cga_steps=4)
    run = wb.train(task, method, recipe=wb.Recipe(optimizer="adamw", lr=2e-3, steps=12, batch_size=50))
    flips = run.metrics[run.metrics["name"] == "flips"]["value"].to_numpy()
    assert len(flips) == 12 and flips[:8].mean() > flips[9:].mean()
    assert "oscillating" in set(run.metrics["name"])
    weight = run.tensors()["blocks.0.attn.v.weight"]
    assert all(len(row.unique()) <= 4 for row in weight)
    assert run.tensors()["blocks.0.attn.product"].shape == (2, 16, 16) and "blocks.0.attn.q" not in run.tensors()
    model, (x, y) = wb.restore(run), task.data(0)["test"].tensors
    assert run.final("accuracy") == pytest.approx(float((model(x).argmax(1) == y).float().mean()))
    codes = (4 * 16 * 16 + 2 * 16 * 16) * 2 // 8 + 2 * 16 * 16 * 2 // 8 + 4 * (16 + 16 + 32 + 16 + 2 * 16)
    dense = sum(
        v.numel() for n, v in run.tensors().items() if v.ndim < 2 or n.startswith(("patch", "position", "head"))
    )
    assert run.memory["packed_weights"] == codes + 4 * dense
    frame = run.probe("method.ofq")
    assert frame.groupby(["step", "layer"])["share"].sum().max() <= 1 + 1e-6


def test_bad_input_is_refused_by_name():
    with pytest.raises(FitError, match="needs StatsQ's thresholds"):
        OFQ(weight_quant="lsq", cga_steps=5, qkr=False).prepare(vit())
    with pytest.raises(KnobError, match="bits=0"):
        OFQ(bits=0)
    model = vit()
    model.blocks[0].attn.k = nn.Linear(16, 8)
    with pytest.raises(FitError, match=r"'blocks.0.attn' has .*set qkr=False"):
        OFQ().prepare(model)
    with pytest.raises(KnobError, match="heads, which divide the width"):
        wb.tasks.Digits(transformer=(2, 30, 4))
