"""Probes: a model, weights or a checkpoint in, a tidy table out."""

from wbench.probes.effective_lr import effective_lr, snapshot
from wbench.probes.histogram import histogram
from wbench.probes.landscape import filter_normalized, landscape, random_direction
from wbench.probes.spectrum import spectrum

__all__ = ["effective_lr", "filter_normalized", "histogram", "landscape", "random_direction", "snapshot", "spectrum"]
