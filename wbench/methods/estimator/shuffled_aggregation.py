"""Aggregation weights learnt from the inputs of other rows: the control of `quantile_aggregation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from wbench.method import Context
from wbench.methods.estimator.quantile_aggregation import QuantileAggregation
from wbench.recipe import Recipe

if TYPE_CHECKING:
    from wbench.estimators.quantile_aggregation import QuantileAggregator


class ShuffledAggregation(QuantileAggregation):
    """`QuantileAggregation` in all but one thing: the weights see inputs that belong to other rows, and learn nothing of where.

    Usage:
        `wb.train("quantiles", ShuffledAggregation())`
    """

    id: ClassVar[str] = "shuffled_aggregation"
    title: ClassVar[str] = "Quantile aggregation with shuffled inputs"
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    def estimator(self, ctx: Context | Recipe | None = None) -> QuantileAggregator:
        return super().estimator(ctx).set_params(shuffle=True)
