"""Mean or median of quantile models: what learnt aggregation is compared with; with one model, that model alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from wbench.method import Context, EstimatorMethod, Paper, knob
from wbench.methods.estimator.quantile_aggregation import PAPER, Base, stack_of
from wbench.recipe import Recipe

if TYPE_CHECKING:
    from wbench.estimators.quantile_stack import QuantileStack


class QuantileAverage(EstimatorMethod):
    """The mean or median, level by level, of base quantile models; each row is then put in order.

    Usage:
        `QuantileAverage(rule="median").estimator().fit(X, y).predict(X)`, or `QuantileAverage(models=("forest",))`. As the
        reference `stack` of a `QuantileAggregation`'s run its fitted models are used there, not fitted anew.
    """

    id: ClassVar[str] = "quantile_average"
    title: ClassVar[str] = "Mean or median of quantile models"
    paper: ClassVar[Paper | None] = PAPER
    topics: ClassVar[tuple[str, ...]] = ("quantile regression", "ensembles")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    models: tuple[Base, ...] = knob(
        ("linear", "neighbors", "forest", "network", "gaussian"),
        doc="Base models; one named twice is fitted twice, with seeds of its own.",
    )
    levels: int = knob(19, 3, 99, unit="levels", doc="Quantile levels k / (levels + 1).")
    rule: Literal["mean", "median"] = knob("mean", doc="What is taken over the models.")
    monotone: Literal["none", "sort", "isotonic", "mono"] = knob(
        "sort", doc="How the prediction is put in order: sorted, projected (PAVA), or swept from the middle."
    )
    n_folds: int = knob(0, 0, 20, slider=(0, 10), unit="folds", doc="Folds of out-of-fold predictions; 0: none.")

    def estimator(self, ctx: Context | Recipe | None = None) -> QuantileStack:
        return stack_of(self, Context.of(ctx), {"rule": self.rule, "monotone": self.monotone})
