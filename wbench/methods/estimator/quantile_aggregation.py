r"""Flexible Model Aggregation for Quantile Regression (deep quantile aggregation).

Rasool Fakoor, Taesup Kim, Jonas Mueller, Alexander J. Smola, Ryan J. Tibshirani, 2023, arXiv:2103.00083.

p models predict m quantiles each; one prediction is made of them by a weighted average whose convex weights may depend on the
model, on the level, and on the input. The weights are learnt on predictions for rows that a model was not fitted on:

$$ q_t(x) = \sum_j w_{jt}(x)\, z_{jt}(x), \qquad
   \min_\theta\; \frac{1}{nm} \sum_{i,t} \rho_{\tau_t}\!\left(y_i - q_t(x_i)\right) + \lambda\, C(q) $$

$z$: base quantiles $n \times p \times m$; $w = \mathrm{softmax}$ of free logits (global) or of a network of x (local), over the p
models, or over all p m sources where `resolution="fine"`; $\rho$: pinball loss; $C$: penalty on quantiles that cross.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError
from wbench.method import Context, EstimatorMethod, Paper, knob
from wbench.ops.quantiles import even_levels
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from wbench.estimators.quantile_aggregation import QuantileAggregator
    from wbench.estimators.quantile_stack import QuantileStack

Resolution = Literal["coarse", "medium", "fine"]
Base = Literal["linear", "neighbors", "forest", "network", "gaussian"]
PAPER = Paper(
    "Flexible Model Aggregation for Quantile Regression", "Fakoor, Kim, Mueller, Smola, Tibshirani", 2023, "2103.00083",
    "JMLR 24",
)  # fmt: skip
RECIPE = Recipe(optimizer="adam", lr=1e-3, weight_decay=1e-7, batch_size=64, steps=3000, eval_every=100)


def aggregate(z: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted averages: $\sum_j w_j z_{jt}$, $\sum_j w_{jt} z_{jt}$ or $\sum_{j,s} W_{(js)t} z_{js}$.

    Args:
        z: Base quantiles (n, p, m).
        weights: (..., p, 1) coarse, (..., p, m) medium or (..., p m, m) fine; with or without the rows in front.

    Returns:
        (n, m).
    """
    if weights.shape[-2] == z.shape[1]:
        return (weights * z).sum(-2)
    return torch.einsum("ns,...st->nt" if weights.ndim == 2 else "ns,nst->nt", z.flatten(1), weights)


class Weights(nn.Module):
    """Aggregation weights: softmax over the models (over all sources when fine) of free logits, or of a network of the input.

    Args:
        inputs: Features d of an input.
        models: Base models p.
        levels: Quantile levels m.
        resolution: `coarse`: a weight a model; `medium`: a model and level; `fine`: any level of any model for each level.
        local: Whether weights depend on the input; otherwise they are one free array, 0 at the start: equal weights.
        hidden: Units of a hidden layer.
        layers: Hidden layers.
        dropout: Share dropped between hidden layers.
        from_average: Start the network's last layer at 0, that is from equal weights.
    """

    def __init__(
        self,
        inputs: int,
        models: int,
        levels: int,
        resolution: Resolution,
        local: bool,
        hidden: int = 64,
        layers: int = 2,
        dropout: float = 0.0,
        from_average: bool = False,
    ) -> None:
        super().__init__()
        self.shape = {"coarse": (models, 1), "medium": (models, levels), "fine": (models * levels, levels)}[resolution]
        outputs = self.shape[0] * self.shape[1]
        if not local:
            self.logits = nn.Parameter(torch.zeros(self.shape))
            self.net = None
            return
        parts: list[nn.Module] = [nn.Linear(inputs, hidden), nn.ELU()]
        for _ in range(layers - 1):
            parts += [nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ELU()]
        last = nn.Linear(hidden, outputs)
        if from_average:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*parts, last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights, (n, *shape), or `shape` where they are global; they sum to 1 over the first axis of `shape`.

        Args:
            x: (n, d).
        """
        logits = self.logits if self.net is None else self.net(x).unflatten(-1, self.shape)
        return logits.softmax(-2)


class QuantileAggregation(EstimatorMethod):
    """A weighted average of base quantile models, with weights that depend on model, level and input.

    Usage:
        `estimator = QuantileAggregation(local=True).estimator()`, then `estimator.fit(X, y).predict(X)`, (n, levels), or
        `wb.train("quantiles", QuantileAggregation())`. Rates and steps are the recipe's: Adam (AMSGrad) whatever its optimizer,
        a constant rate, at most `steps` steps, validation each `eval_every`.
    """

    id: ClassVar[str] = "quantile_aggregation"
    title: ClassVar[str] = "Deep quantile aggregation"
    paper: ClassVar[Paper | None] = PAPER
    topics: ClassVar[tuple[str, ...]] = ("quantile regression", "stacking", "ensembles", "calibration")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    picture: ClassVar[str] = "wbench.plots:aggregation"

    models: tuple[Base, ...] = knob(
        ("linear", "neighbors", "forest", "network", "gaussian"),
        doc="Base models; one named twice is fitted twice, with seeds of its own.",
    )
    levels: int = knob(19, 3, 99, unit="levels", doc="Quantile levels k / (levels + 1).")
    resolution: Resolution = knob(
        "medium", doc="Weights per model (coarse), per model and level (medium), per pair of levels too (fine)."
    )
    local: bool = knob(True, doc="Let weights depend on the input.")
    margin_type: Literal["none", "single", "vec", "adapt"] = knob(
        "adapt",
        doc="Gap that the crossing penalty asks for: none, one constant, by level, by the residuals' quantiles.",
    )
    margin_weight: float = knob(1.0, 0.0, 1000.0, slider=(0.0, 10.0), doc="Weight of the crossing penalty.")
    margin_delta: float = knob(
        0.001, 1e-6, 1.0, scale="log", slider=(1e-4, 1e-2), unit="std of y", doc="The constant gap of `single`."
    )
    margin_scale: float = knob(
        0.01, 1e-6, 1.0, scale="log", slider=(1e-4, 0.1), doc="Multiplies the gaps of `vec` and `adapt`."
    )
    monotone: Literal["none", "sort", "isotonic", "mono"] = knob(
        "sort", doc="How the prediction is put in order: sorted, projected (PAVA), or swept from the middle."
    )
    monotone_in_training: bool = knob(False, doc="Put in order in training too, with gradients through it.")
    hidden: int = knob(64, 1, 4096, scale="log", slider=(32, 128), unit="units", doc="Width of the local network.")
    layers: int = knob(2, 1, 8, slider=(2, 3), doc="Hidden layers of the local network.")
    dropout: float = knob(0.0, 0.0, 0.9, slider=(0.0, 0.2), doc="Dropout of the local network.")
    from_average: bool = knob(False, doc="Start the local network from equal weights.")
    n_folds: int = knob(5, 2, 20, slider=(2, 10), unit="folds", doc="Folds of the out-of-fold base predictions.")
    conformal: Literal["none", "cqr"] = knob("none", doc="Calibrate on rows held out for it: split conformal (CQR).")

    calibration: float = knob(0.25, 0.01, 0.9, slider=(0.1, 0.5), doc="Share of the rows held out to calibrate on.")

    def estimator(self, ctx: Context | Recipe | None = None) -> QuantileAggregator:
        from wbench.estimators.quantile_aggregation import QuantileAggregator

        context = Context.of(ctx)
        recipe = context.recipe if ctx is not None else RECIPE
        stack = stack_of(self, context)
        own = self.fields()
        return QuantileAggregator(
            stack, **{name: own[name] for name in QuantileAggregator.KNOBS},
            learning_rate=recipe.lr, weight_decay=recipe.weight_decay, batch_size=recipe.batch_size, steps=recipe.steps,
            validate_every=recipe.eval_every or 100, random_state=stack.random_state,
        )  # fmt: skip

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return how a fitted estimator weights its models on test rows, and how often a target lies below each level.

        Columns: part (`weight`, `by_input`, `below`, `crossing`), model, level, feature, x (centre of a tenth of the rows by that
        feature), stage (`raw`, `final`), value (share).

        Args:
            model: The estimator.
            ctx: The run; its test split is used.
        """
        from wbench.estimators.quantile_aggregation import describe

        return None if ctx is None else describe(model, *ctx.data("test").tensors)  # type: ignore[arg-type,attr-defined]


def stack_of(method: Any, context: Context, settings: dict[str, Any] | None = None) -> QuantileStack:
    """Return the base models that a method names: from the run's reference `stack` where there is one, else unfitted.

    Args:
        method: Its `models`, `levels` and `n_folds` are read.
        context: The run, before anything else has drawn from its generator: the seed is the same in all arms of a seed.
        settings: Of the stack: rule, monotone.

    Returns:
        The stack.

    Raises:
        CompositionError: If no model is named, the task is no regression, or the reference has other levels or folds.
    """
    from wbench.estimators.quantile_stack import QuantileStack, named

    if not method.models:
        raise CompositionError(f"{method.id}: models=() is not allowed; name at least one base model")
    if context.task is not None and context.task.kind != "regression":
        raise CompositionError(
            f"{method.id} predicts quantiles of a number; task '{context.task.id}' is {context.task.kind}, take a regression"
        )
    seed = int(torch.randint(2**31 - 1, (), generator=context.rng))
    models, levels = named(method.models), even_levels(method.levels)
    stack = QuantileStack(models, levels, method.n_folds, random_state=seed).set_params(**settings or {})
    given: Any = context.references.get("stack")
    if given is None:
        return stack
    wanted = f"{len(levels)} levels" + (f" with {method.n_folds} folds" if method.n_folds else "")
    if not isinstance(given, QuantileStack):
        raise CompositionError(f"{method.id}: the reference 'stack' must be a run of quantile_average at {wanted}")
    if tuple(given.quantiles) != levels or (method.n_folds and given.n_folds != method.n_folds):
        found = f"{len(given.quantiles)} levels with {given.n_folds} folds"
        raise CompositionError(f"{method.id}: the reference 'stack' has {found}; {wanted} are asked for")
    return stack.take(given)
