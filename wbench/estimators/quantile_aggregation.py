"""Aggregation of quantile models by learnt weights, and what there is to see of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from wbench.errors import FitError
from wbench.estimators.quantile_models import QuantileModel, moments
from wbench.estimators.quantile_stack import QuantileStack, digest
from wbench.methods.estimator.quantile_aggregation import Weights, aggregate
from wbench.ops.quantiles import (
    MONOTONE,
    checked_levels,
    conformal_correction,
    crosses,
    crossing_penalty,
    pinball,
    required_gaps,
)

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 5  # validations without improvement before training stops
VALIDATION = 0.2  # of the rows, to choose the number of steps
TENTHS = 10


class QuantileAggregator(QuantileModel):
    """Quantiles averaged over models by weights that are learnt on out-of-fold predictions.

    The number of steps is chosen on a fifth of the rows; then the weights are learnt anew on all rows in as many steps. Inputs,
    targets and base quantiles are standardised for the weights.

    Args:
        stack: The base models, with folds; a stack that is fitted already, on the same rows, is used as it is.
        resolution: This and what follows, down to `calibration`: as the knobs of `QuantileAggregation`.
        local: See there.
        margin_type: See there.
        margin_weight: See there.
        margin_delta: See there.
        margin_scale: See there.
        monotone: See there.
        monotone_in_training: See there.
        hidden: See there.
        layers: See there.
        dropout: See there.
        from_average: See there.
        conformal: See there.
        calibration: See there.
        shuffle: Learn the weights from inputs of other rows: a control.
        learning_rate: Of Adam with AMSGrad.
        weight_decay: L2.
        batch_size: Rows a step.
        steps: At most.
        validate_every: Steps between validations; five without improvement end the search.
        random_state: Seed.

    Attributes:
        models_: Base models, fitted on all rows that are not held out.
        parameters_: Of `Weights`, in its order.
        steps_: Number of steps, the best on validation rows.
        history_: Validation loss at each validation, in standard deviations of y.
        correction_: Conformal correction of each level, (m,); 0 without calibration.
    """

    KNOBS: ClassVar[tuple[str, ...]] = (
        "resolution", "local", "margin_type", "margin_weight", "margin_delta", "margin_scale", "monotone",
        "monotone_in_training", "hidden", "layers", "dropout", "from_average", "conformal", "calibration",
    )  # fmt: skip

    def __init__(
        self, stack: QuantileStack, resolution: str = "medium", local: bool = True, margin_type: str = "adapt",
        margin_weight: float = 1.0, margin_delta: float = 1e-3, margin_scale: float = 0.01, monotone: str = "sort",
        monotone_in_training: bool = False, hidden: int = 64, layers: int = 2, dropout: float = 0.0,
        from_average: bool = False, conformal: str = "none", calibration: float = 0.25, shuffle: bool = False,
        learning_rate: float = 1e-3, weight_decay: float = 1e-7, batch_size: int = 64, steps: int = 3000,
        validate_every: int = 100, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.stack, self.resolution, self.local, self.shuffle = stack, resolution, local, shuffle
        self.margin_type, self.margin_weight = margin_type, margin_weight
        self.margin_delta, self.margin_scale = margin_delta, margin_scale
        self.monotone, self.monotone_in_training = monotone, monotone_in_training
        self.hidden, self.layers, self.dropout, self.from_average = hidden, layers, dropout, from_average
        self.conformal, self.calibration = conformal, calibration
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.steps, self.validate_every, self.random_state = steps, validate_every, random_state

    @property
    def models(self) -> Sequence[tuple[str, BaseEstimator]]:
        """The stack's models: name and unfitted estimator."""
        return self.stack.models

    @property
    def quantiles(self) -> Sequence[float]:  # type: ignore[override]
        """The stack's levels."""
        return self.stack.quantiles

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        calibrates = self.conformal != "none"
        if calibrates:
            checked_levels(self.quantiles, symmetric=True)
            X, X_held, y, y_held = train_test_split(X, y, test_size=self.calibration, random_state=seed)
        stack = self._stack(X, y)
        self.models_ = stack.models_
        self._standardise(X, y)
        x, z, target = self._inputs(X), self._standard(stack.oof_), self._standard(y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.shuffle:
                x = x[torch.randperm(len(x))]
            rows = torch.randperm(len(x))
            cut = len(rows) - max(1, round(VALIDATION * len(rows)))
            history = self._learn(x, z, target, rows[:cut], rows[cut:])[1]
            self.history_ = np.asarray(history)
            self.steps_ = int(np.argmin(history)) * self.validate_every
            weights, _ = self._learn(x, z, target, rows, None)
        self.parameters_ = [value.detach().double().numpy() for value in weights.state_dict().values()]
        self.correction_ = np.zeros(len(self.levels_))
        if calibrates:
            held = torch.from_numpy(self.predict_raw(X_held))
            shift = conformal_correction(MONOTONE[self.monotone](held), torch.from_numpy(y_held), self.quantiles)
            self.correction_ = shift.numpy()

    def _stack(self, X: np.ndarray, y: np.ndarray) -> QuantileStack:
        if not hasattr(self.stack, "models_"):
            folds = self.stack.n_folds or 5
            return clone(self.stack).set_params(n_folds=folds).fit(X, y)
        if not hasattr(self.stack, "oof_"):
            raise FitError("the stack has no out-of-fold predictions; fit it with n_folds=5, or pass it unfitted")
        if self.stack.digest_ != digest(X, y):
            why = "; calibration holds rows out of it" if self.conformal != "none" else ""
            raise FitError(f"the stack was fitted on other rows than the aggregator gets{why}; pass it unfitted")
        return self.stack

    def _standardise(self, X: np.ndarray, y: np.ndarray) -> None:
        self.mean_, self.scale_ = moments(X)
        self.center_, self.spread_ = (float(value[0]) for value in moments(y[:, None]))

    def _inputs(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy((X - self.mean_) / self.scale_).float()

    def _standard(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy((values - self.center_) / self.spread_).float()

    def _weights(self) -> Weights:
        return Weights(
            len(self.mean_), len(self.models), len(self.levels_), self.resolution, self.local, self.hidden, self.layers,  # type: ignore[arg-type]
            self.dropout, self.from_average,
        )  # fmt: skip

    def _learn(
        self, x: Tensor, z: Tensor, y: Tensor, rows: Tensor, valid: Tensor | None
    ) -> tuple[Weights, list[float]]:
        """Learn weights on rows: with validation rows until they stop improving, else for `steps_` steps.

        Args:
            x: (n, d).
            z: (n, p, m).
            y: (n,).
            rows: Which to learn from.
            valid: Which to validate on.

        Returns:
            The weights as they are at the end, and the validation loss every `validate_every` steps, from step 0.
        """
        levels = torch.from_numpy(self.levels_).float()
        median = z[rows][:, :, len(levels) // 2].median(1).values
        gaps = required_gaps(
            self.margin_type, levels, delta=self.margin_delta, scale=self.margin_scale, residuals=y[rows] - median  # type: ignore[arg-type]
        )  # fmt: skip
        weights, order = self._weights(), rows[:0]
        arrange = MONOTONE[self.monotone] if self.monotone_in_training else MONOTONE["none"]
        adam = torch.optim.Adam(
            weights.parameters(), self.learning_rate, weight_decay=self.weight_decay, amsgrad=True, fused=True
        )
        history: list[float] = []
        for step in range(self.steps if valid is not None else self.steps_):
            if valid is not None and step % self.validate_every == 0:
                history.append(self._validate(weights.eval(), x[valid], z[valid], y[valid], levels))
                if len(history) - 1 - int(np.argmin(history)) >= PATIENCE:
                    break
                weights.train()
            if len(order) < min(self.batch_size, len(rows)):
                order = rows[torch.randperm(len(rows))]
            batch, order = order[: self.batch_size], order[self.batch_size :]
            q = aggregate(z[batch], weights(x[batch]))
            loss = pinball(arrange(q), y[batch], levels).mean() + self.margin_weight * crossing_penalty(q, gaps)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return weights, history

    def _validate(self, weights: Weights, x: Tensor, z: Tensor, y: Tensor, levels: Tensor) -> float:
        with torch.no_grad():
            q = MONOTONE[self.monotone](aggregate(z, weights(x)))
            return float(pinball(q, y, levels).mean())

    def predict_raw(self, X: Any) -> np.ndarray:
        """Return the averages before they are put in order and calibrated, (n, m).

        Args:
            X: Inputs (n, d).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        z = torch.from_numpy(np.stack([model.predict(X) for model in self.models_], axis=1))
        return aggregate(z, self._weighting(X)).numpy()

    def weights(self, X: Any) -> np.ndarray:
        """Return the weight of each model at each level, summed over its levels when `fine`, (n, p, m).

        Args:
            X: Inputs (n, d).
        """
        check_is_fitted(self)
        found = self._weighting(validate_data(self, X, dtype=np.float64, reset=False))
        p, m = len(self.models), len(self.levels_)
        found = found.expand(len(X), *found.shape[-2:])
        if self.resolution == "fine":
            return found.unflatten(1, (p, m)).sum(2).numpy()
        return found.expand(len(X), p, m).numpy()

    def _weighting(self, X: np.ndarray) -> Tensor:
        weights = self._weights().double().eval()
        weights.load_state_dict(dict(zip(weights.state_dict(), map(torch.from_numpy, self.parameters_), strict=True)))
        with torch.no_grad():
            return weights(torch.from_numpy((X - self.mean_) / self.scale_))

    def _predict(self, X: np.ndarray) -> np.ndarray:
        arrange: Callable[[Tensor], Tensor] = MONOTONE[self.monotone]
        q = arrange(torch.from_numpy(self.predict_raw(X)))
        if self.conformal == "none":
            return q.numpy()
        return MONOTONE["sort"](q + torch.from_numpy(self.correction_)).numpy()


def describe(estimator: QuantileAggregator, x: Tensor, y: Tensor) -> pd.DataFrame:
    """Return how an aggregator weights its models, and how often targets lie below each level.

    Args:
        estimator: Fitted.
        x: Rows (n, d).
        y: Targets (n,).

    Returns:
        A tidy table, the columns as `QuantileAggregation.observe` says.
    """
    import pandas as pd

    X, names, levels = x.flatten(1).numpy(), [name for name, _ in estimator.models], estimator.levels_.tolist()
    weights = estimator.weights(X)
    rows: list[dict[str, Any]] = [
        {"part": "weight", "model": name, "level": level, "value": weights[:, j, t].mean()}
        for j, name in enumerate(names)
        for t, level in enumerate(levels)
    ]
    for feature in range(X.shape[1]) if estimator.local else ():
        for part in np.array_split(np.argsort(X[:, feature], kind="stable"), min(TENTHS, len(X))):
            where = {"part": "by_input", "feature": feature, "x": X[part, feature].mean()}
            rows += [{**where, "model": name, "value": weights[part, j].mean()} for j, name in enumerate(names)]
    for stage, q in (("raw", estimator.predict_raw(X)), ("final", estimator.predict(X))):
        below = (y.double().numpy()[:, None] <= q).mean(0)
        rows += [{"part": "below", "stage": stage, "level": a, "value": b} for a, b in zip(levels, below, strict=True)]
        share = crosses(torch.from_numpy(q)).double().mean()
        rows.append({"part": "crossing", "stage": stage, "value": float(share)})
    columns = {"part": "", "model": "", "level": np.nan, "feature": np.nan, "x": np.nan, "stage": ""}
    return pd.DataFrame(rows).reindex(columns=[*columns, "value"]).fillna(columns)
