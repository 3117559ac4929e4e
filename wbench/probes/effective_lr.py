"""How far one optimizer step moves each weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.probes._source import weights

if TYPE_CHECKING:
    import pandas as pd


def snapshot(model: nn.Module, layers: str = "*") -> dict[str, Tensor]:
    """Return copies of the weights that the forward uses, of two or more dimensions.

    Args:
        model: The model.
        layers: Glob over layer names.

    Returns:
        Layer name to tensor.
    """
    return {layer: tensor.clone() for layer, _, tensor in weights(model, layers) if tensor.ndim > 1}


def effective_lr(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    lr: float | Mapping[str, float],
    rule: Literal["sgd", "adam"] = "sgd",
    scale_invariant: Collection[str] = (),
) -> pd.DataFrame:
    r"""Measure one optimizer step, layer by layer.

    Where a norm follows a weight $W$, the function depends on its direction only; a step of rate $\eta$ then turns it as a step
    of rate $\eta / \lVert W \rVert^2$ (SGD) or $\eta / \lVert W \rVert$ (Adam) turns a unit vector (van Laarhoven, 2017; Lyle et
    al., 2024, arXiv:2407.01800).

    Args:
        before: Layer name to weight before the step; see `snapshot`.
        after: The same after it.
        lr: Learning rate, or one a layer.
        rule: How the step depends on the gradient's scale: `sgd`, or `adam` for sign-like steps.
        scale_invariant: Layers that a norm follows.

    Returns:
        One row a layer. Columns: layer, lr, weight_norm (after), update_norm, relative_update (over the norm before), angle
        (radians between before and after), scale_invariant, effective_lr (NaN where the layer is not scale-invariant).

    Raises:
        FitError: If a layer's shape changed between the two.
    """
    import pandas as pd

    rows = []
    for layer, old in before.items():
        if layer not in after:
            continue
        new = after[layer]
        if new.shape != old.shape:
            raise FitError(
                f"layer '{layer}' changed its shape from {tuple(old.shape)} to {tuple(new.shape)} within the step"
            )
        a, b = old.detach().double().flatten(), new.detach().double().flatten()
        norm, norm_after, moved = (float(torch.linalg.vector_norm(part)) for part in (a, b, b - a))
        rate = lr if isinstance(lr, float | int) else float(lr.get(layer, 0.0))
        invariant = layer in scale_invariant
        scale = norm_after**2 if rule == "sgd" else norm_after
        rows.append({
            "layer": layer, "lr": rate, "weight_norm": norm_after, "update_norm": moved,
            "relative_update": moved / norm if norm else np.nan, "angle": _angle(a, b),
            "scale_invariant": invariant, "effective_lr": rate / scale if invariant and scale else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _angle(a: Tensor, b: Tensor) -> float:
    """Return the angle between two vectors, exact for tiny ones (Kahan)."""
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if not (norm_a > 0 and norm_b > 0):
        return float("nan")
    u, v = a / norm_a, b / norm_b
    return float(2.0 * torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v)))
