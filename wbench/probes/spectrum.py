"""Singular values of each weight matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from wbench.probes._source import Source, weights

if TYPE_CHECKING:
    import pandas as pd


def spectrum(source: Source, *, layers: str = "*", max_values: int = 256, nonfinite: str = "raise") -> pd.DataFrame:
    r"""Return the singular values of each weight as an (out, rest) matrix, largest first.

    Args:
        source: A model, weights by name, or a checkpoint's path.
        layers: Glob over layer names.
        max_values: Rows returned a layer; the ranks are always of all values.
        nonfinite: For checkpoints: `raise`, `skip` or `keep`.

    Returns:
        One row a singular value. Columns: layer, rows, cols, index (from 1), singular_value, energy (share of the squared
        values up to and including this one), stable_rank ($\lVert W \rVert_F^2 / \lVert W \rVert_2^2$), effective_rank
        (exponential of the entropy of the values over their sum; Roy and Vetterli, 2007), frobenius_norm. Of a zero matrix both
        ranks are 0.

    Raises:
        LayerMatchError: If no layer matches.
    """
    import pandas as pd

    frames = []
    for layer, _, tensor in weights(source, layers, nonfinite=nonfinite):
        if tensor.ndim < 2 or not tensor.numel():
            continue
        matrix = tensor.flatten(1).float().cpu()
        values = torch.linalg.svdvals(matrix).double().numpy()
        squares = values**2
        total = squares.sum()
        shares = values / values.sum() if total > 0 else np.zeros_like(values)
        positive = shares[shares > 0]
        shown = values[:max_values]
        frames.append(pd.DataFrame({
            "layer": layer, "rows": matrix.shape[0], "cols": matrix.shape[1], "index": np.arange(1, len(shown) + 1),
            "singular_value": shown, "energy": (np.cumsum(squares) / total if total > 0 else squares)[:max_values],
            "stable_rank": total / squares[0] if total > 0 else 0.0,
            "effective_rank": float(np.exp(-(positive * np.log(positive)).sum())) if total > 0 else 0.0,
            "frobenius_norm": float(np.sqrt(total)),
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
