"""The contract: `Method`, its stages, knobs, papers and the registry."""

from wbench.globs import matches
from wbench.knobs import Knob, Knobs, knob
from wbench.method.adapters import AdaptedLayer, Adapter
from wbench.method.base import Method, Stage
from wbench.method.composition import check_composition
from wbench.method.context import Context
from wbench.method.layerwise import LayerwiseMethod
from wbench.method.parametrized import Parametrization, QuantizedLayers
from wbench.method.records import Merged, Paper
from wbench.method.registry import get, registry
from wbench.method.select import replace_module, select, sharers, tied_layers
from wbench.method.stages import EstimatorMethod, Layer, Objective, OptimizerMethod, Pipeline, Population, Transform

__all__ = [
    "AdaptedLayer",
    "Adapter",
    "Context",
    "EstimatorMethod",
    "Knob",
    "Knobs",
    "Layer",
    "LayerwiseMethod",
    "Merged",
    "Method",
    "Objective",
    "OptimizerMethod",
    "Paper",
    "Parametrization",
    "Pipeline",
    "Population",
    "QuantizedLayers",
    "Stage",
    "Transform",
    "check_composition",
    "get",
    "knob",
    "matches",
    "registry",
    "replace_module",
    "select",
    "sharers",
    "tied_layers",
]
