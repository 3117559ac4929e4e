"""Quantile models side by side, with out-of-fold predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from wbench.errors import FitError
from wbench.estimators.quantile_models import (
    LEVELS,
    ForestQuantiles,
    GaussianQuantiles,
    LinearQuantiles,
    NeighborQuantiles,
    QuantileModel,
)
from wbench.estimators.quantile_network import NetworkQuantiles
from wbench.ops.quantiles import MONOTONE

MODELS: dict[str, type[QuantileModel]] = {
    "linear": LinearQuantiles,
    "neighbors": NeighborQuantiles,
    "forest": ForestQuantiles,
    "network": NetworkQuantiles,
    "gaussian": GaussianQuantiles,
}


class QuantileStack(QuantileModel):
    """Quantile models side by side; predicts their mean or median, and gives out-of-fold predictions for an aggregator.

    Args:
        models: Pairs of name and estimator; `predict` gives (n, m) for the levels of their parameter `quantiles`, which is set.
        quantiles: Ascending levels.
        n_folds: Folds of the out-of-fold predictions; 0: none.
        rule: `mean` or `median` over models.
        monotone: `none`, `sort`, `isotonic` or `mono`: how a predicted row is put in order.
        random_state: Seed of folds and models.
        warm_start: Keep what was learnt from the same rows, also by `take`; otherwise each `fit` starts anew.

    Attributes:
        models_: Fitted on all rows.
        oof_: Out-of-fold predictions (n, p, m), where there are folds.
        digest_: Number that tells the training rows.
    """

    oof_: np.ndarray

    def __init__(
        self,
        models: Sequence[tuple[str, BaseEstimator]] = (
            ("linear", LinearQuantiles()),
            ("gaussian", GaussianQuantiles()),
        ),
        quantiles: Sequence[float] = LEVELS,
        n_folds: int = 0,
        rule: str = "mean",
        monotone: str = "sort",
        random_state: Any = None,
        warm_start: bool = False,
    ) -> None:
        super().__init__(quantiles)
        self.models, self.n_folds, self.rule, self.monotone = models, n_folds, rule, monotone
        self.random_state, self.warm_start = random_state, warm_start

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        if not len(self.models) or self.rule not in {"mean", "median"} or self.monotone not in MONOTONE:
            given = f"{len(self.models)} models, rule={self.rule!r}, monotone={self.monotone!r}"
            raise FitError(
                f"a stack needs models, a rule (mean, median) and an order ({', '.join(MONOTONE)}); got {given}"
            )
        if self.warm_start and getattr(self, "digest_", None) == digest(X, y):
            return
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.models_ = self._fitted(X, y, seed, "all rows")
        self.digest_ = digest(X, y)
        if hasattr(self, "oof_"):  # of an earlier fit
            del self.oof_
        if self.n_folds:
            self.oof_ = np.empty((len(X), len(self.models), len(self.levels_)))
            folds = KFold(self.n_folds, shuffle=True, random_state=seed).split(X)
            for fold, (rest, held) in enumerate(folds):
                models = self._fitted(X[rest], y[rest], seed + 1 + fold, f"fold {fold}")
                self.oof_[held] = self._stacked(models, X[held])

    def _fitted(self, X: np.ndarray, y: np.ndarray, seed: int, where: str) -> list[BaseEstimator]:
        fitted = []
        for name, model in self.models:
            model = clone(model).set_params(quantiles=tuple(self.levels_.tolist()))
            if "random_state" in model.get_params():
                own = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") >> 1
                model.set_params(random_state=own)
            try:
                fitted.append(model.fit(X, y))
            except ValueError as error:
                raise FitError(
                    f"base model '{name}' cannot be fitted on {where} ({X.shape[0]} rows): {error}"
                ) from error
        return fitted

    def _stacked(self, models: Sequence[BaseEstimator], X: np.ndarray) -> np.ndarray:
        found = [np.asarray(model.predict(X)) for model in models]
        for (name, _), q in zip(self.models, found, strict=True):
            if q.shape != (len(X), len(self.levels_)):
                raise FitError(
                    f"base model '{name}' predicts {q.shape}; needed: (rows, levels) = {(len(X), len(self.levels_))}"
                )
            if not np.isfinite(q).all():
                raise FitError(
                    f"base model '{name}' predicts {int((~np.isfinite(q)).sum())} values that are not finite"
                )
        return np.stack(found, axis=1)

    def take(self, fitted: QuantileStack) -> QuantileStack:
        """Take over what another stack has learnt, as far as this one's models are among its models, and start warm.

        Args:
            fitted: A fitted stack of the same levels.

        Returns:
            This stack, fitted.

        Raises:
            FitError: If a model is not among them.
        """
        names = [name for name, _ in fitted.models]
        missing = [name for name, _ in self.models if name not in names]
        if missing:
            raise FitError(f"the fitted stack has no model {', '.join(missing)}; it has {', '.join(names)}")
        places = [names.index(name) for name, _ in self.models]
        self.models_ = [fitted.models_[place] for place in places]
        if hasattr(fitted, "oof_"):
            self.oof_ = fitted.oof_[:, places]
        self.warm_start = True
        for name in ("levels_", "digest_", "n_features_in_"):
            setattr(self, name, getattr(fitted, name))
        return self

    def predict_each(self, X: Any) -> np.ndarray:
        """Return each model's quantiles, not put in order, (n, p, m).

        Args:
            X: Inputs (n, d).
        """
        check_is_fitted(self)
        return self._stacked(self.models_, validate_data(self, X, dtype=np.float64, reset=False))

    def _predict(self, X: np.ndarray) -> np.ndarray:
        each = self._stacked(self.models_, X)
        middle = each.mean(1) if self.rule == "mean" else np.median(each, axis=1)
        return MONOTONE[self.monotone](torch.from_numpy(middle)).numpy()


def digest(X: np.ndarray, y: np.ndarray) -> int:
    """Return a number that tells training rows from others.

    Args:
        X: (n, d), float64.
        y: (n,), float64.
    """
    held = hashlib.sha256(np.ascontiguousarray(X).tobytes() + np.ascontiguousarray(y).tobytes())
    return int.from_bytes(held.digest()[:8], "big") >> 1


def named(kinds: Sequence[str]) -> list[tuple[str, QuantileModel]]:
    """Return unfitted models by name; a kind that stands there more than once gets numbers.

    Args:
        kinds: Keys of `MODELS`.
    """
    numbers = [f"{kind}{kinds[:i].count(kind) + 1}" if kinds.count(kind) > 1 else kind for i, kind in enumerate(kinds)]
    return [(name, MODELS[kind]()) for name, kind in zip(numbers, kinds, strict=True)]
