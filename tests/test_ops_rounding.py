"""Rounding, grids and packing against closed forms, numpy and torch's own fake quantisation."""

import numpy as np
import pytest
import torch

from wbench.ops.rounding import (
    affine_grid,
    pack_bits,
    pack_codes,
    quantize_groups,
    round_ste,
    sign,
    straight_through,
    unpack_bits,
    unpack_codes,
)

SHAPES = [(1,), (7,), (8,), (3, 5), (4, 4, 9)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_sign_of_zero_is_plus_one():
    assert sign(torch.tensor([-2.0, -0.0, 0.0, 3.0])).tolist() == [-1.0, 1.0, 1.0, 1.0]
    assert sign(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_straight_through_is_the_value_bit_for_bit_and_passes_the_gradient_whole():
    x = (1e-8 * normal(50)).requires_grad_()
    value = 1e3 * normal(50, seed=1)
    out = straight_through(value, x)
    assert torch.equal(out, value)
    weights = normal(50, seed=2)
    (out * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_rounding_passes_the_gradient_also_under_vmap():
    x = normal(3, 5)
    grads = torch.func.vmap(torch.func.grad(lambda row: (round_ste(row) * 2).sum()))(x)
    assert torch.equal(grads, torch.full((3, 5), 2.0))
    assert torch.equal(round_ste(torch.tensor([0.5, 1.5, -0.5])), torch.tensor([0.0, 2.0, -0.0]))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_groups_are_torchs_fake_quantisation(bits):
    x = normal(6, 64)
    scale, zero = affine_grid(x.amin(1), x.amax(1), bits)
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero.int(), 0, 0, 2**bits - 1)
    assert torch.allclose(quantize_groups(x, bits, 64).value, theirs, atol=1e-6)


@pytest.mark.parametrize("offset", [-1.0, 0.0, 1.0])
def test_the_nearest_level_is_within_half_a_step_wherever_the_range_lies(offset):
    x = offset + 0.05 * normal(16, 32)
    held = quantize_groups(x, 8, 32)
    assert ((held.value - x).reshape(-1, 32).abs() <= held.scale / 2 + 1e-6).all()


def test_a_constant_or_zero_group_survives():
    for value in (0.0, 0.5, -3.0):
        x = torch.full((2, 16), value)
        assert torch.allclose(quantize_groups(x, 8, 16).value, x, atol=1e-6)


def test_stochastic_rounding_keeps_the_mean():
    x = normal(1, 256)
    rng = torch.Generator().manual_seed(0)
    draws = torch.stack([quantize_groups(x, 8, 256, stochastic=True, generator=rng).value for _ in range(4000)])
    scale = quantize_groups(x, 8, 256).scale
    inside = (x != x.min()) & (x != x.max())
    error = (draws.mean(0) - x)[inside].abs()
    assert (error <= 5 * scale / 2 / 4000**0.5).all()
    assert ((draws - x).abs() <= scale + 1e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bits_are_numpys_and_come_back(shape):
    bits = normal(*shape) > 0
    packed = pack_bits(bits)
    assert np.array_equal(packed.numpy(), np.packbits(bits.numpy(), bitorder="big"))
    assert torch.equal(unpack_bits(packed, bits.numel()).view(shape), bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_codes_take_their_bits_and_come_back(shape, bits):
    codes = torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8 and packed.numel() == -(-codes.numel() * bits // 8)
    assert torch.equal(unpack_codes(packed, bits, codes.numel()).view(shape), codes)
