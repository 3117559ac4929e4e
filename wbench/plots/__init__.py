"""Figures: a tidy table in, a plotly figure out; one file each, named as the probe that gives its table where there is one."""

from wbench.plots._style import CONFIG, PALETTE
from wbench.plots.aggregation import aggregation
from wbench.plots.ball import ball
from wbench.plots.blocks import blocks
from wbench.plots.calibration import calibration
from wbench.plots.companding import companding
from wbench.plots.core import core
from wbench.plots.delta import delta
from wbench.plots.effective_lr import effective_lr
from wbench.plots.estimator import equilibrium, estimator
from wbench.plots.histogram import histogram, rebin
from wbench.plots.intervals import intervals
from wbench.plots.landscape import landscape
from wbench.plots.lazy_subspace import lazy_subspace
from wbench.plots.memory import ORDER as MEMORY
from wbench.plots.memory import memory
from wbench.plots.merging import merging
from wbench.plots.metrics import metrics
from wbench.plots.parallel import parallel
from wbench.plots.plasticity import plasticity
from wbench.plots.response import response
from wbench.plots.ridge import ridge
from wbench.plots.rows import rows
from wbench.plots.sharing import sharing
from wbench.plots.sheet import sheet
from wbench.plots.spectrum import spectrum
from wbench.plots.spectrum_steps import spectrum_steps
from wbench.plots.subspace import subspace
from wbench.plots.thresholds import thresholds
from wbench.plots.utilisation import utilisation

__all__ = [
    "CONFIG",
    "MEMORY",
    "PALETTE",
    "aggregation",
    "ball",
    "blocks",
    "calibration",
    "companding",
    "core",
    "delta",
    "effective_lr",
    "equilibrium",
    "estimator",
    "histogram",
    "intervals",
    "landscape",
    "lazy_subspace",
    "memory",
    "merging",
    "metrics",
    "parallel",
    "plasticity",
    "rebin",
    "response",
    "ridge",
    "rows",
    "sharing",
    "sheet",
    "spectrum",
    "spectrum_steps",
    "subspace",
    "thresholds",
    "utilisation",
]
