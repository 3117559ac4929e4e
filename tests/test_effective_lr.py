"""Effective learning rates against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from wbench.errors import DataError, FitError, KnobError
from wbench.probes import effective_lr, snapshot


def test_norms_and_updates_in_closed_form() -> None:
    before = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.ones(2, 2)}
    after = {"a": torch.tensor([[3.0, 4.5]]), "b": torch.ones(2, 2)}
    frame = effective_lr(before, after, lr=0.5, scale_invariant=("a",)).set_index("layer")
    norm = math.hypot(3, 4.5)
    assert frame.loc["a", "weight_norm"] == pytest.approx(norm)
    assert frame.loc["a", "update_norm"] == pytest.approx(0.5)
    assert frame.loc["a", "relative_update"] == pytest.approx(0.1)
    assert frame.loc["a", "effective_lr"] == pytest.approx(0.5 / norm**2)
    assert frame.loc["b", ["update_norm", "angle"]].tolist() == [0.0, 0.0]
    assert frame["scale_invariant"].tolist() == [True, False]
    assert np.isnan(frame.loc["b", "effective_lr"])
    adam = effective_lr(before, after, lr={"a": 0.5, "b": 0.0}, rule="adam", scale_invariant=("a",)).set_index("layer")
    assert adam.loc["a", "effective_lr"] == pytest.approx(0.5 / norm)
    assert adam.loc["b", "lr"] == 0.0


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1e-3, 0.7, math.pi / 2, math.pi - 1e-9])
def test_the_angle_of_a_rotation_is_exact_however_small(angle: float) -> None:
    rng = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(50, 2, generator=rng, dtype=torch.float64))
    before = {"w": q[:, :1].T * 5.0}
    after = {"w": (math.cos(angle) * q[:, :1] + math.sin(angle) * q[:, 1:]).T * 2.0}
    measured = effective_lr(before, after, lr=1.0)["angle"].iloc[0]
    assert measured == pytest.approx(angle, rel=1e-3 if angle < 1e-9 else 1e-7)


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_a_scale_invariant_function_turns_as_its_effective_rate_says(scale: float) -> None:
    """van Laarhoven (2017): a step of rate lr at weight c W turns it as a step of rate lr / c^2 turns W."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 8).double(), torch.randn(64, 6).double()
    start = torch.randn(6, 8).double()

    def step(weight: Tensor, rate: float) -> pd.DataFrame:
        weight = weight.clone().requires_grad_()
        loss = (nn.functional.layer_norm(inputs @ weight.T, (6,), eps=0.0) - targets).square().mean()
        (grad,) = torch.autograd.grad(loss, weight)
        return effective_lr(
            {"w": weight.detach()}, {"w": (weight - rate * grad).detach()}, lr=rate, scale_invariant={"w"}
        )

    one, other = step(start, 0.1), step(scale * start, 0.1 * scale**2)
    assert other["angle"].iloc[0] == pytest.approx(one["angle"].iloc[0], rel=1e-9)
    assert other["effective_lr"].iloc[0] == pytest.approx(one["effective_lr"].iloc[0], rel=1e-9)


def test_zero_weights_give_nan_and_not_a_crash() -> None:
    frame = effective_lr({"w": torch.zeros(2, 2)}, {"w": torch.zeros(2, 2)}, lr=0.1, scale_invariant=("w",))
    assert frame[["relative_update", "angle", "effective_lr"]].isna().all().all()
    assert frame["update_norm"].iloc[0] == 0.0


def test_what_does_not_fit_is_refused() -> None:
    one, two = {"w": torch.ones(2, 2)}, {"w": torch.ones(2, 3)}
    with pytest.raises(FitError, match=r"layer 'w' changed its shape from \(2, 2\) to \(2, 3\)"):
        effective_lr(one, two, lr=0.1)
    with pytest.raises(DataError, match="no layer is in both snapshots; before: w; after: v"):
        effective_lr(one, {"v": torch.ones(2, 2)}, lr=0.1)
    with pytest.raises(KnobError, match="lr has no rate for the layer 'w'"):
        effective_lr(one, one, lr={"v": 0.1})
    with pytest.raises(KnobError, match="allowed: sgd, adam"):
        effective_lr(one, one, lr=0.1, rule="lion")  # type: ignore[arg-type]


def test_a_model_without_matrices_gives_an_empty_table_with_its_columns() -> None:
    kept = snapshot(nn.BatchNorm1d(3))
    assert kept == {}
    assert "relative_update" in effective_lr(kept, kept, lr=0.1).columns


def test_one_step_of_sgd_around_snapshots() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    before = snapshot(model)
    model(torch.randn(7, 6)).square().mean().backward()
    optimizer.step()
    frame = effective_lr(before, snapshot(model), lr=0.3).set_index("layer")
    for index in (0, 1):
        grad = model[index].weight.grad
        assert frame.loc[str(index), "update_norm"] == pytest.approx(0.3 * float(grad.norm()), rel=1e-4)
