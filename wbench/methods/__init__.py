"""The methods, one file per paper, filed by where they act; this file is the list of their classes."""

from wbench.method.base import Method
from wbench.method.registry import get, registry
from wbench.methods.adapter.bone import Bone
from wbench.methods.adapter.lora import LoRA
from wbench.methods.adapter.pissa import PiSSA
from wbench.methods.estimator.quantile_aggregation import QuantileAggregation
from wbench.methods.estimator.quantile_average import QuantileAverage
from wbench.methods.estimator.shuffled_aggregation import ShuffledAggregation
from wbench.methods.layer.layernorm import LayerNormOnly
from wbench.methods.optimizer.frozen_projection import FrozenProjection
from wbench.methods.optimizer.galore import GaLore
from wbench.methods.optimizer.nap import NaP
from wbench.methods.parametrization.weight_compander import WeightCompander


def all() -> dict[str, type[Method]]:
    """Return every method class by id: ours, baselines and plug-ins'."""
    return dict(registry())


__all__ = [
    "Bone",
    "FrozenProjection",
    "GaLore",
    "LayerNormOnly",
    "LoRA",
    "NaP",
    "PiSSA",
    "QuantileAggregation",
    "QuantileAverage",
    "ShuffledAggregation",
    "WeightCompander",
    "all",
    "get",
]
