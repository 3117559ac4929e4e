"""Histogram of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wbench.errors import KnobError
from wbench.probes._source import Source, weights

if TYPE_CHECKING:
    import pandas as pd

NEAR_ZERO = 0.1


def histogram(
    source: Source,
    *,
    layers: str = "*",
    bins: int | Sequence[float] = 81,
    weights_only: bool = True,
    nonfinite: str = "raise",
) -> pd.DataFrame:
    """Return the histogram of each weight and what it says about small and large values.

    Args:
        source: A model, weights by name, or a checkpoint's path.
        layers: Glob over layer names.
        bins: Number of bins over the weight's range, or increasing edges.
        weights_only: Leave out tensors with fewer than two dimensions (biases, norms).
        nonfinite: For checkpoints: `raise`, `skip` or `keep`.

    Returns:
        One row a bin. Columns: layer, parameter, shape, bin_left, bin_right (weight's unit), count, density (share per unit),
        std, near_zero_share (share of |w| / std under 0.1), max_z (largest |w| / std), kurtosis (fourth moment over squared
        variance; 3 for a normal distribution).

    Raises:
        KnobError: If there is no bin.
        LayerMatchError: If no layer matches.
    """
    import pandas as pd

    if isinstance(bins, int) and bins < 1:
        raise KnobError(f"bins={bins} is not allowed; allowed: a positive number, or increasing edges")
    frames = []
    for layer, parameter, tensor in weights(source, layers, nonfinite=nonfinite):
        if (weights_only and tensor.ndim < 2) or not tensor.numel():
            continue
        values = tensor.float().flatten().cpu().numpy()
        counts, edges = np.histogram(values, bins if isinstance(bins, int) else np.asarray(bins, dtype=float))
        width = np.diff(edges)
        spread = _statistics(values)
        shape = " x ".join(map(str, tensor.shape))
        left, right = edges[:-1], edges[1:]
        columns = {
            "bin_left": left,
            "bin_right": right,
            "count": counts,
            "density": counts / max(1, len(values)) / width,
        }
        frames.append(pd.DataFrame({"layer": layer, "parameter": parameter, "shape": shape, **columns, **spread}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _statistics(values: np.ndarray) -> dict[str, float]:
    wide = values.astype(np.float64)
    std = float(wide.std())
    if std == 0.0:
        return {"std": 0.0, "near_zero_share": float((wide == 0).mean()), "max_z": 0.0, "kurtosis": 0.0}
    centred = wide - wide.mean()
    z = np.abs(wide) / std
    return {
        "std": std,
        "near_zero_share": float((z < NEAR_ZERO).mean()),
        "max_z": float(z.max()),
        "kurtosis": float((centred**4).mean() / std**4),
    }
