"""The optimizer of GradNormLoRP's repository: its steps written out in numpy, what its length amounts to, and refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import wbench as wb
from wbench.errors import FitError
from wbench.methods import GaLore, LowRankWeightNorm
from wbench.ops.lowrank import subspace
from wbench.testing import check_method

LR, BETAS, EPS = 0.02, (0.9, 0.999), 1e-6


def net(*sizes, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(*layers).to(dtype)


def drawn(param, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(param.shape, generator=rng, dtype=torch.float64).to(param.dtype)


def step_with(optimizer, model, seed):
    for place, param in enumerate(model.parameters()):
        param.grad = drawn(param, 100 * seed + place)
    optimizer.step()


class Adam:
    """Of the older transformers library: epsilon outside the bias correction."""

    def __init__(self):
        self.mean, self.square, self.t = 0.0, 0.0, 0

    def __call__(self, gradient):
        self.t += 1
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient**2
        size = LR * math.sqrt(1 - BETAS[1] ** self.t) / (1 - BETAS[0] ** self.t)
        return size * self.mean / (np.sqrt(self.square) + EPS)


def oriented(basis):
    """Turn each column so that its largest entry is positive: the sign of a singular vector is arbitrary, and moments keep it."""
    return basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0))


def oriented_subspace(gradient, rank, side):
    left, right, values = subspace(gradient, rank, side)
    left = None if left is None else torch.from_numpy(oriented(left.numpy()))
    return left, None if right is None else torch.from_numpy(oriented(right.T.numpy())).T, values


class Transcribed:
    """One parameter, by the card's list of steps; a vector is a matrix of one row that is not projected."""

    def __init__(self, weight, rank, gap, scale, proj_type, decay):
        self.shape, self.v = weight.shape, np.atleast_2d(weight.copy())
        self.rank, self.gap, self.scale, self.decay = rank, gap, scale, decay
        self.proj_type = proj_type
        self.of_v, self.of_g, self.t = Adam(), Adam(), 0

    def bases(self, gradient):
        if self.t % self.gap == 0:
            u, _, vh = np.linalg.svd(gradient, full_matrices=False)
            tall = gradient.shape[0] >= gradient.shape[1]
            right = self.proj_type == "full" or (self.proj_type == "std") is tall
            left = not right or self.proj_type == "full"
            self.left = oriented(u[:, : self.rank]) if left else np.eye(len(gradient))
            self.right = oriented(vh[: self.rank].T).T if right else np.eye(gradient.shape[1])
        return self.left, self.right

    def step(self, gradient):
        gradient = np.atleast_2d(gradient)
        g = np.linalg.norm(self.v, axis=1, keepdims=True)
        unit = self.v / g
        grad_g = (gradient * unit).sum(1, keepdims=True)
        if self.rank is None:
            self.v = self.v - self.of_v(gradient)
        else:
            left, right = self.bases(gradient)
            self.v = self.v - self.scale * left @ self.of_v(left.T @ gradient @ right.T) @ right
        g = g - self.of_g(grad_g)
        self.v, g = self.v * (1 - LR * self.decay), g * (1 - LR * self.decay)
        self.t += 1
        return (g * self.v / np.linalg.norm(self.v, axis=1, keepdims=True)).reshape(self.shape)


@pytest.mark.parametrize("proj_type", ["std", "reverse_std", "full"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_forty_steps_are_those_of_the_list(proj_type, decay, monkeypatch):
    monkeypatch.setattr("wbench.methods.optimizer.galore.subspace", oriented_subspace)
    model = net(9, 14, 6, 3)
    knobs = {"rank": 2, "update_proj_gap": 7, "scale": 0.5, "proj_type": proj_type}
    recipe = wb.Recipe(lr=LR, betas=BETAS, weight_decay=decay)
    optimizer = LowRankWeightNorm(layers=("0", "1"), **knobs).optimizer(model, recipe)
    known = [
        Transcribed(param.detach().numpy(), 2 if name in {"0.weight", "1.weight"} else None, 7, 0.5, proj_type, decay)
        for name, param in model.named_parameters()
    ]
    for seed in range(40):
        step_with(optimizer, model, seed)
        for param, one in zip(model.parameters(), known, strict=True):
            expected = one.step(param.grad.numpy())
            assert np.abs(param.detach().numpy() - expected).max() <= 1e-10 * max(1.0, np.abs(expected).max())


def test_the_directions_path_is_galores_and_a_length_lives_for_one_forward_pass():
    """With the same gradients, whatever the lengths: v is where GaLore is, and w points along v."""
    ours, theirs = net(8, 12), net(8, 12)
    knobs = {"rank": 3, "update_proj_gap": 5, "scale": 1.0, "layers": "0"}
    first = LowRankWeightNorm(**knobs).optimizer(ours, wb.Recipe(lr=LR))
    second = GaLore(**knobs).optimizer(theirs, wb.Recipe(lr=LR))
    for seed in range(30):
        step_with(first, ours, seed)
        step_with(second, theirs, seed)
        held = first.state[ours[0].weight]["v"]
        assert torch.allclose(held, theirs[0].weight.detach(), rtol=1e-12, atol=1e-14)
        cosine = nn.functional.cosine_similarity(held, ours[0].weight.detach(), dim=1)
        assert torch.allclose(cosine.abs(), torch.ones_like(cosine), atol=1e-12)
        apart = ours[0].weight.detach().norm(dim=1) / held.norm(dim=1) - 1
        assert float(apart.abs().max()) > 1e-4  # the length's own step is there,
        assert float(apart.abs().max()) < 30 * LR  # and does not add up


def test_a_vector_of_zeros_gets_plain_adam_and_a_row_of_zeros_is_refused_by_name():
    model, plain = net(5, 4), net(5, 4)
    for one in (model, plain):
        nn.init.zeros_(one[0].bias)
    optimizer = LowRankWeightNorm(rank=2, layers="0").optimizer(model, wb.Recipe(lr=LR))
    other = GaLore(rank=2, layers="0").optimizer(plain, wb.Recipe(lr=LR))
    for seed in range(5):
        step_with(optimizer, model, seed)
        step_with(other, plain, seed)
    assert torch.equal(model[0].bias, plain[0].bias) and bool(model[0].bias.all())
    with torch.no_grad():
        model[0].weight[2] = 0.0
    with pytest.raises(FitError, match=r"low_rank_weight_norm: row 2 of '0.weight' is zero \(1 in all\)"):
        LowRankWeightNorm(rank=2, layers="0").optimizer(model, wb.Recipe())
    model[0].weight.requires_grad_(False)
    with pytest.raises(FitError, match="low_rank_weight_norm: no trainable linear"):
        LowRankWeightNorm(rank=2, layers="0").optimizer(model, wb.Recipe())


def test_a_rank_beyond_the_shorter_side_is_refused_by_layer_and_shape():
    with pytest.raises(
        FitError, match=r"low_rank_weight_norm: rank must be between 1 and .* 4 for '0' of shape \(4, 5\)"
    ):
        LowRankWeightNorm(rank=5, layers="0").optimizer(net(5, 4), wb.Recipe())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(dtype, tmp_path):
    def fresh():
        model = net(9, 6, dtype=dtype)
        return model, LowRankWeightNorm(rank=3, update_proj_gap=4, layers="0").optimizer(model, wb.Recipe(lr=LR))

    whole, optimizer = fresh()
    for seed in range(15):
        step_with(optimizer, whole, seed)
        if seed == 6:
            torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    resumed, optimizer = fresh()
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for seed in range(7, 15):
        step_with(optimizer, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_it_trains_convolutions_and_embeddings_and_keeps_the_contract(user_model, user_batch):
    optimizer = LowRankWeightNorm(rank=4).optimizer(user_model, wb.Recipe(lr=1e-2))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(user_model(user_batch[0]), user_batch[1])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    check_method(LowRankWeightNorm)
