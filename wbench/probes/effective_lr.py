"""How far one optimizer step moves each weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wbench.errors import DataError, FitError, KnobError
from wbench.globs import Layers
from wbench.probes._source import matrices, table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "layer", "lr", "weight_norm", "update_norm", "relative_update", "angle", "scale_invariant", "effective_lr",
)  # fmt: skip


def snapshot(model: nn.Module, layers: Layers = "*") -> dict[str, Tensor]:
    """Return copies of the weights that the forward uses, of two or more dimensions.

    Args:
        model: The model.
        layers: Glob over layer names.

    Returns:
        Layer name (`layer.parameter` where the parameter is not called `weight`) to tensor.

    Raises:
        LayerMatchError: If no layer matches.
        DataError: If a weight holds values that are not finite.
    """
    return {layer: tensor.clone() for layer, tensor in matrices(model, layers, "raise")}


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
        lr: Learning rate, or one a layer (0 where a layer is not trained).
        rule: How the step depends on the gradient's scale: `sgd`, or `adam` for sign-like steps.
        scale_invariant: Layers that a norm follows; names of layers that were not measured do no harm.

    Returns:
        One row a layer that is in both. Columns: layer, lr, weight_norm (after), update_norm, relative_update (over the norm
        before; NaN where that is 0), angle (radians between before and after; NaN where either is 0), scale_invariant,
        effective_lr (NaN where the layer is not scale-invariant or its norm is 0).

    Raises:
        KnobError: If `rule` is neither, or `lr` lacks a layer.
        DataError: If the two have no layer in common.
        FitError: If a layer's shape changed between the two.
    """
    import pandas as pd

    if rule not in {"sgd", "adam"}:
        raise KnobError(f"rule={rule!r} is not allowed; allowed: sgd, adam")
    common = [layer for layer in before if layer in after]
    if before and not common:
        raise DataError(
            f"no layer is in both snapshots; before: {', '.join(before)}; after: {', '.join(after) or 'none'}"
        )
    rates = dict.fromkeys(common, float(lr)) if isinstance(lr, float | int) else lr
    rows = []
    for layer in common:
        if layer not in rates:
            raise KnobError(f"lr has no rate for the layer '{layer}'; it has: {', '.join(rates) or 'none'}")
        old, new, rate = before[layer], after[layer], float(rates[layer])
        if new.shape != old.shape:
            raise FitError(
                f"layer '{layer}' changed its shape from {tuple(old.shape)} to {tuple(new.shape)} within the step"
            )
        a, b = old.detach().double().flatten(), new.detach().double().flatten()
        norm, norm_after, moved = (float(torch.linalg.vector_norm(part)) for part in (a, b, b - a))
        invariant = layer in scale_invariant
        scale = norm_after**2 if rule == "sgd" else norm_after
        rows.append({
            "layer": layer, "lr": rate, "weight_norm": norm_after, "update_norm": moved,
            "relative_update": moved / norm if norm else np.nan, "angle": _angle(a, b),
            "scale_invariant": invariant, "effective_lr": rate / scale if invariant and scale else np.nan,
        })  # fmt: skip
    return table([pd.DataFrame(rows)] if rows else [], COLUMNS)


def _angle(a: Tensor, b: Tensor) -> float:
    """Return the angle between two vectors, exact for tiny ones (Kahan)."""
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if not (norm_a > 0 and norm_b > 0):
        return float("nan")
    u, v = a / norm_a, b / norm_b
    return float(2.0 * torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v)))
