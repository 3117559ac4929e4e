"""Figures: a tidy table in, a plotly figure out."""

from wbench.plots._style import CONFIG, PALETTE
from wbench.plots.sheet import sheet
from wbench.plots.training import effective_lr, intervals, landscape, metrics, plasticity, subspace
from wbench.plots.weights import companding, delta, histogram, rebin, spectrum

__all__ = [
    "CONFIG", "PALETTE", "companding", "delta", "effective_lr", "histogram", "intervals", "landscape", "metrics", "plasticity", "rebin", "sheet",
    "spectrum", "subspace",
]  # fmt: skip
