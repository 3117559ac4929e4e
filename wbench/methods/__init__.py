"""The methods, one file per paper, filed by where they act; this file is the list of their classes."""

from wbench.method.base import Method
from wbench.method.registry import get, registry
from wbench.methods.adapter.bone import Bone
from wbench.methods.adapter.dora import DoRA
from wbench.methods.adapter.gradnormlorp import GradNormLoRP
from wbench.methods.adapter.lamda import LaMDA
from wbench.methods.adapter.lora import LoRA
from wbench.methods.adapter.pissa import PiSSA
from wbench.methods.estimator.quantile_aggregation import QuantileAggregation
from wbench.methods.estimator.quantile_average import QuantileAverage
from wbench.methods.estimator.shuffled_aggregation import ShuffledAggregation
from wbench.methods.layer.layernorm import LayerNormOnly
from wbench.methods.layer.low_rank import LowRank
from wbench.methods.layer.masa import MASA
from wbench.methods.layer.poincare_resnet import PoincareResNet
from wbench.methods.objective.fixmatch import FixMatch
from wbench.methods.objective.shrinkmatch import ShrinkMatch
from wbench.methods.optimizer.frozen_projection import FrozenProjection
from wbench.methods.optimizer.galore import GaLore
from wbench.methods.optimizer.low_rank_weight_norm import LowRankWeightNorm
from wbench.methods.optimizer.nap import NaP
from wbench.methods.optimizer.q_galore import QGaLore
from wbench.methods.parametrization.lsq import LSQ
from wbench.methods.parametrization.ofq import OFQ
from wbench.methods.parametrization.reste import ReSTE
from wbench.methods.parametrization.weight_compander import WeightCompander
from wbench.methods.population.opcm import OPCM
from wbench.methods.population.scaling_only import ScalingOnly
from wbench.methods.population.task_arithmetic import TaskArithmetic
from wbench.methods.population.ties import TIES
from wbench.methods.population.weight_average import WeightAverage
from wbench.methods.transform.adaquant import AdaQuant
from wbench.methods.transform.bitstack import BitStack
from wbench.methods.transform.distilled import Distilled
from wbench.methods.transform.low_rank_trained import LowRankTrained
from wbench.methods.transform.masa_trained import MASATrained
from wbench.methods.transform.minmax import MinMax
from wbench.methods.transform.rtn import RTN


def all() -> dict[str, type[Method]]:
    """Return every method class by id: ours, baselines and plug-ins'."""
    return dict(registry())


__all__ = [
    "AdaQuant",
    "BitStack",
    "Bone",
    "Distilled",
    "DoRA",
    "FixMatch",
    "FrozenProjection",
    "GaLore",
    "GradNormLoRP",
    "LaMDA",
    "LayerNormOnly",
    "LoRA",
    "LowRank",
    "LowRankTrained",
    "LowRankWeightNorm",
    "LSQ",
    "MASA",
    "MASATrained",
    "MinMax",
    "NaP",
    "OFQ",
    "OPCM",
    "PiSSA",
    "PoincareResNet",
    "QGaLore",
    "QuantileAggregation",
    "QuantileAverage",
    "ReSTE",
    "RTN",
    "ScalingOnly",
    "ShrinkMatch",
    "ShuffledAggregation",
    "TaskArithmetic",
    "TIES",
    "WeightAverage",
    "WeightCompander",
    "all",
    "get",
]
