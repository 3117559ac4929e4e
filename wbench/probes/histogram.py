"""Histogram of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wbench.errors import KnobError
from wbench.globs import Layers
from wbench.probes._source import Source, label, table, weights

if TYPE_CHECKING:
    import pandas as pd

NEAR_ZERO = 0.1
COLUMNS = (
    "layer", "parameter", "shape", "bin_left", "bin_right", "count", "density", "std", "near_zero_share", "max_z", "kurtosis",
)  # fmt: skip


def histogram(
    source: Source,
    *,
    layers: Layers = "*",
    bins: int | Sequence[float] = 101,
    weights_only: bool = True,
    nonfinite: str = "raise",
) -> pd.DataFrame:
    """Return the histogram of each weight and what it says about small and large values.

    Args:
        source: A model, weights by name, or a checkpoint's path.
        layers: Glob over layer names.
        bins: Number of bins over the weight's range, or increasing edges; values outside given edges are in no bin.
        weights_only: Leave out tensors with fewer than two dimensions (biases, norms).
        nonfinite: What to do with a tensor that holds NaN or inf: `raise`, or leave it out (`skip`).

    Returns:
        One row a bin. Columns: layer (`layer.parameter` where the parameter is not called `weight`), parameter, shape,
        bin_left, bin_right (weight's unit), count, density (share of all values per unit), and of the whole tensor std,
        near_zero_share (share of |w| / std under 0.1), max_z (largest |w| / std), kurtosis (fourth central moment over the
        squared variance; 3 for a normal distribution). The last three are NaN where all values are equal.

    Raises:
        KnobError: If `bins` gives no bin.
        LayerMatchError: If no layer matches.
        DataError: If a tensor of a model or mapping holds values that are not finite.
        CheckpointError: If a checkpoint cannot be read or holds such values.
    """
    import pandas as pd

    edges = bins if isinstance(bins, int) else np.asarray(bins, dtype=float)
    few = edges < 1 if isinstance(edges, int) else edges.size < 2 or not (np.diff(edges) > 0).all()
    if few:
        raise KnobError(f"bins={bins} is not allowed; allowed: a positive number, or at least two increasing edges")
    frames = []
    for layer, parameter, tensor in weights(source, layers, nonfinite=nonfinite, min_dims=2 if weights_only else 1):
        values = tensor.double().cpu().flatten().numpy()
        counts, ends = np.histogram(values, edges, _range(values, edges) if isinstance(edges, int) else None)
        columns = {
            "layer": label(layer, parameter), "parameter": parameter, "shape": " x ".join(map(str, tensor.shape)),
            "bin_left": ends[:-1], "bin_right": ends[1:], "count": counts, "density": counts / len(values) / np.diff(ends),
        }  # fmt: skip
        frames.append(pd.DataFrame({**columns, **_statistics(values)}))
    return table(frames, COLUMNS)


def _range(values: np.ndarray, bins: int) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if (np.diff(np.linspace(low, high, bins + 1)) > 0).all():
        return low, high
    # so narrow a range that bins in it would have no width
    return low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)


def _statistics(values: np.ndarray) -> dict[str, float]:
    std = float(values.std())
    if values.min() == values.max():  # rounding leaves a std above zero
        return {"std": 0.0, "near_zero_share": np.nan, "max_z": np.nan, "kurtosis": np.nan}
    z, centred = np.abs(values) / std, (values - values.mean()) / std
    return {
        "std": std,
        "near_zero_share": float((z < NEAR_ZERO).mean()),
        "max_z": float(z.max()),
        "kurtosis": float((centred**4).mean()),
    }
