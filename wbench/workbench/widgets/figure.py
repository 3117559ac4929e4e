"""A figure as the text that a browser draws."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._grid import Values

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHORT = {
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "f4": "float32",
    "f8": "float64",
}
FEW = 8  # so short an array is a list: plotly.js refuses a typed one for a range or a domain
LOSS = 1e-4  # of the values' span; so much float32 may move a point


def as_json(figure: go.Figure | Values) -> str:
    """Return a figure as plotly's JSON: arrays typed and in base64, real numbers as float32, no template.

    Args:
        figure: With or without frames; it is not changed.
    """
    from plotly.utils import PlotlyJSONEncoder

    # part by part: as a whole it would come with float64 packed already; the page's theme takes the template's place
    if isinstance(figure, Values):
        data, layout = figure.data, figure.layout
    else:
        data, layout = [trace.to_plotly_json() for trace in figure.data], figure.layout.to_plotly_json()
    spec: dict[str, Any] = {"data": data, "layout": {key: value for key, value in layout.items() if key != "template"}}
    if figure.frames:
        spec["frames"] = [frame.to_plotly_json() for frame in figure.frames]
    return json.dumps(_packed(spec), default=PlotlyJSONEncoder().default, separators=(",", ":"), allow_nan=False)


def _packed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _packed(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_packed(value) for value in node]
    if isinstance(node, np.ndarray):
        return _typed(node)
    return None if isinstance(node, (float, np.floating)) and not np.isfinite(node) else node


def _typed(values: np.ndarray) -> Any:
    narrow = _narrow(values) if values.size > FEW and values.dtype.kind in "iuf" else values
    kind = next((short for short, name in SHORT.items() if narrow.dtype == name), None)
    if values.size <= FEW or kind is None:
        return _packed(values.tolist())
    values = narrow
    packed = {"dtype": kind, "bdata": base64.b64encode(values.tobytes()).decode("ascii")}
    return packed if values.ndim == 1 else {**packed, "shape": ", ".join(map(str, values.shape))}


def _narrow(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        small = np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high))
        return values.astype(small)
    if values.dtype == np.float32:
        return values
    if values.dtype == np.float16:
        return values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        short = values.astype(np.float32)
    finite = values[np.isfinite(values)]
    kept = short[np.isfinite(values)]
    if not finite.size:
        return short
    moved = float(np.abs(kept - finite).max()) if np.isfinite(kept).all() else np.inf
    span = float(np.ptp(finite)) or float(np.abs(finite).max()) * 1e-3
    vanished = bool(((kept == 0) & (finite != 0)).any())
    return values if vanished or moved > LOSS * span else short
