"""Singular values of each weight matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from wbench.errors import KnobError
from wbench.globs import Layers
from wbench.probes._source import Source, matrices, table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "layer", "rows", "cols", "index", "singular_value", "energy", "stable_rank", "effective_rank", "frobenius_norm",
)  # fmt: skip


def spectrum(source: Source, *, layers: Layers = "*", max_values: int = 256, nonfinite: str = "raise") -> pd.DataFrame:
    r"""Return the singular values of each weight as an (out, rest) matrix, largest first.

    They are computed in float32 (float64 for float64 weights): values under about 1e-7 of the largest are rounding.

    Args:
        source: A model, weights by name, or a checkpoint's path.
        layers: Glob over layer names.
        max_values: Rows returned a layer; the ranks are always of all values.
        nonfinite: What to do with a tensor that holds NaN or inf: `raise`, or leave it out (`skip`).

    Returns:
        One row a singular value. Columns: layer, rows, cols, index (from 1), singular_value, energy (share of the squared
        values up to and including this one), stable_rank ($\lVert W \rVert_F^2 / \lVert W \rVert_2^2$), effective_rank
        (exponential of the entropy of the values over their sum; Roy and Vetterli, 2007), frobenius_norm. Of a zero matrix
        both ranks and the energy are 0.

    Raises:
        KnobError: If `max_values` is less than one.
        LayerMatchError: If no layer matches.
        DataError: If a tensor of a model or mapping holds values that are not finite.
        CheckpointError: If a checkpoint cannot be read or holds such values.
    """
    import pandas as pd

    if max_values < 1:
        raise KnobError(f"max_values={max_values} is not allowed; allowed: a positive integer")
    frames = []
    for layer, tensor in matrices(source, layers, nonfinite):
        matrix = (tensor if tensor.dtype is torch.float64 else tensor.float()).cpu().flatten(1)
        values = torch.linalg.svdvals(matrix).double().numpy()
        top, shown = float(values[0]), values[:max_values]
        scaled = values / top if top > 0 else values  # squares of tiny or huge values stay in range
        cumulated = np.cumsum(scaled**2)
        frames.append(pd.DataFrame({
            "layer": layer, "rows": matrix.shape[0], "cols": matrix.shape[1], "index": np.arange(1, len(shown) + 1),
            "singular_value": shown, "energy": (cumulated / max(cumulated[-1], 1.0))[:max_values],
            "stable_rank": float(cumulated[-1]), "effective_rank": _effective_rank(values),
            "frobenius_norm": top * float(np.sqrt(cumulated[-1])),
        }))  # fmt: skip
    return table(frames, COLUMNS)


def _effective_rank(values: np.ndarray) -> float:
    # Roy and Vetterli (2007), section 2
    positive = values[values > 0]
    if not positive.size:
        return 0.0
    shares = positive / positive.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
