"""Models that predict several quantiles at once: linear, nearest neighbours, forest, Gaussian.

Each is a scikit-learn estimator whose `predict` gives (rows, levels); a row need not ascend. What they have learnt is arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_matrix
from scipy.special import ndtri
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted, validate_data

from wbench.errors import DataError, FitError
from wbench.ops.quantiles import checked_levels, even_levels, pinball

LEVELS = even_levels(19)


class QuantileModel(RegressorMixin, BaseEstimator, ABC):
    """Common part: checks data and levels, scores by the pinball loss. A subclass brings `_fit` and `_predict`.

    Args:
        quantiles: Ascending levels.

    Attributes:
        levels_: (m,).
    """

    def __init__(self, quantiles: Sequence[float] = LEVELS) -> None:
        self.quantiles = quantiles

    def fit(self, X: Any, y: Any) -> Self:
        """Fit.

        Args:
            X: Inputs (n, d).
            y: Targets (n,).

        Returns:
            The estimator.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        self.levels_ = np.asarray(checked_levels(self.quantiles))
        self._fit(X, y.astype(np.float64))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the quantiles of each row, (n, m).

        Args:
            X: Inputs (n, d).
        """
        check_is_fitted(self)
        return self._predict(validate_data(self, X, dtype=np.float64, reset=False))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return minus the mean pinball loss over rows and levels: higher is better.

        Args:
            X: Inputs (n, d).
            y: Targets (n,).
            sample_weight: One a row.
        """
        q, target = torch.as_tensor(self.predict(X)), torch.as_tensor(np.asarray(y, dtype=np.float64))
        return -float(np.average(pinball(q, target, torch.as_tensor(self.levels_)).mean(1), weights=sample_weight))

    @abstractmethod
    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        """Learn from (n, d) and (n,)."""

    @abstractmethod
    def _predict(self, X: np.ndarray) -> np.ndarray:
        """Return (n, m) of (n, d)."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # `score` is a loss, at most 0
        return tags


class LinearQuantiles(QuantileModel):
    """Linear quantile regression (Koenker and Bassett, 1978), each level by its dual linear programme.

    Exactly what `sklearn.linear_model.QuantileRegressor(alpha=0)` gives; the dual has d + 1 constraints instead of n, and takes
    a seventh of the time at 800 x 5.

    Args:
        quantiles: Ascending levels.

    Attributes:
        coef_: (m, d).
        intercept_: (m,).
    """

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        design = np.column_stack([X, np.ones(len(X))])
        rows = []
        for tau in self.levels_:
            found = linprog(-y, A_eq=design.T, b_eq=(1.0 - tau) * design.sum(0), bounds=(0, 1), method="highs-ds")
            if not found.success:
                raise FitError(f"linear quantile regression at level {tau:g} found no solution: {found.message}")
            rows.append(-found.eqlin.marginals)
        solution = np.asarray(rows)
        self.coef_, self.intercept_ = solution[:, :-1], solution[:, -1]

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X @ self.coef_.T + self.intercept_)


class NeighborQuantiles(QuantileModel):
    """Empirical quantiles of the nearest neighbours' targets; inputs are standardised.

    Args:
        quantiles: Ascending levels.
        n_neighbors: How many.

    Attributes:
        X_: Standardised training inputs (n, d).
        y_: (n,).
    """

    def __init__(self, quantiles: Sequence[float] = LEVELS, n_neighbors: int = 25) -> None:
        super().__init__(quantiles)
        self.n_neighbors = n_neighbors

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        if not 1 <= self.n_neighbors <= len(X):
            raise FitError(
                f"n_neighbors={self.n_neighbors} is not allowed; allowed: 1 to the {len(X)} rows (n_samples)"
            )
        self.mean_, self.scale_ = moments(X)
        self.X_, self.y_ = (X - self.mean_) / self.scale_, y

    def _predict(self, X: np.ndarray) -> np.ndarray:
        search = NearestNeighbors(n_neighbors=self.n_neighbors).fit(self.X_)
        near = search.kneighbors((X - self.mean_) / self.scale_, return_distance=False)
        return np.asarray(np.quantile(self.y_[near], self.levels_, axis=1).T)


class ForestQuantiles(QuantileModel):
    """Quantile random forest (Meinshausen, 2006): a row's targets are weighted by how often they share its leaf.

    Args:
        quantiles: Ascending levels.
        n_estimators: Trees.
        min_samples_leaf: Fewest rows of a leaf.
        random_state: Seed.

    Attributes:
        feature_: Input that each node splits on, below 0 in a leaf, (trees, nodes).
        threshold_: Rows at most so large go left, (trees, nodes).
        children_: Left and right child, (2, trees, nodes).
        leaf_: Leaf of each training row, (trees, n), rows in the order of `y_`.
        y_: Targets, ascending, (n,).
    """

    def __init__(
        self,
        quantiles: Sequence[float] = LEVELS,
        n_estimators: int = 30,
        min_samples_leaf: int = 10,
        random_state: Any = None,
    ) -> None:
        super().__init__(quantiles)
        self.n_estimators, self.min_samples_leaf, self.random_state = n_estimators, min_samples_leaf, random_state

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        forest = RandomForestRegressor(
            self.n_estimators, min_samples_leaf=self.min_samples_leaf, random_state=self.random_state
        ).fit(X, y)
        trees = [tree.tree_ for tree in forest.estimators_]
        size = max(tree.node_count for tree in trees)
        self.feature_ = np.full((len(trees), size), -1, dtype=np.int32)
        self.threshold_ = np.zeros((len(trees), size))
        self.children_ = np.zeros((2, len(trees), size), dtype=np.int32)
        for index, tree in enumerate(trees):
            self.feature_[index, : tree.node_count] = tree.feature
            self.threshold_[index, : tree.node_count] = tree.threshold
            self.children_[:, index, : tree.node_count] = tree.children_left, tree.children_right
        order = np.argsort(y, kind="stable")
        self.y_, self.leaf_ = y[order], self.apply(X[order]).T.astype(np.int32)

    def apply(self, X: np.ndarray) -> np.ndarray:
        """Return the leaf of each row in each tree, (n, trees).

        Args:
            X: (n, d), float64.
        """
        X = X.astype(np.float32)  # as scikit-learn's trees compare
        rows, trees = np.arange(len(X))[:, None], np.arange(len(self.feature_))[None, :]
        node = np.zeros((len(X), len(self.feature_)), dtype=np.int64)
        while (inner := self.feature_[trees, node] >= 0).any():
            right = X[rows, np.maximum(self.feature_[trees, node], 0)] > self.threshold_[trees, node]
            node = np.where(inner, self.children_[right.astype(int), trees, node], node)
        return node

    def _predict(self, X: np.ndarray) -> np.ndarray:
        own, nodes = self.leaf_.T.astype(np.int64), self.feature_.shape[1]
        own = own + nodes * np.arange(own.shape[1])  # a number of its own for each leaf of each tree
        share = 1.0 / np.bincount(own.ravel())[own]
        members = _rows_to(own, share, nodes * own.shape[1])
        return np.concatenate([self._of(X[start : start + 1000], members) for start in range(0, len(X), 1000)])

    def _of(self, X: np.ndarray, members: csr_matrix) -> np.ndarray:
        found = self.apply(X) + self.feature_.shape[1] * np.arange(len(self.feature_))
        weight = (_rows_to(found, np.full(found.shape, 1.0 / len(self.leaf_)), members.shape[1]) @ members.T).toarray()
        total = weight.cumsum(1)
        # the smallest target whose cumulative weight reaches the level
        place = np.stack([(total < level - 1e-12).sum(1) for level in self.levels_], axis=1)
        return np.asarray(self.y_[np.minimum(place, len(self.y_) - 1)])


def _rows_to(columns: np.ndarray, values: np.ndarray, width: int) -> csr_matrix:
    ends = np.arange(0, columns.size + 1, columns.shape[1])
    return csr_matrix((values.ravel(), columns.ravel(), ends), shape=(len(columns), width))


class GaussianQuantiles(QuantileModel):
    """Normal quantiles around a linear mean, with a log-linear standard deviation, by weighted least squares in two passes.

    Args:
        quantiles: Ascending levels.

    Attributes:
        coef_: Of the mean, the intercept last, (d + 1,).
        log_scale_: Of the logarithm of the standard deviation, the intercept last, (d + 1,).
    """

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        design = np.column_stack([X, np.ones(len(X))])
        tiny = 1e-12 * (float(np.abs(y).max()) or 1.0)
        scale = np.ones(len(X))
        for _ in range(2):
            self.coef_ = np.linalg.lstsq(design / scale[:, None], y / scale, rcond=None)[0]
            residual = np.abs(y - design @ self.coef_) + tiny
            self.log_scale_ = np.linalg.lstsq(design, np.log(residual), rcond=None)[0]
            self.log_scale_[-1] += 0.5 * np.log(np.mean((residual / np.exp(design @ self.log_scale_)) ** 2))
            scale = np.exp(design @ self.log_scale_)

    def _predict(self, X: np.ndarray) -> np.ndarray:
        design = np.column_stack([X, np.ones(len(X))])
        return np.asarray(
            (design @ self.coef_)[:, None] + np.exp(design @ self.log_scale_)[:, None] * ndtri(self.levels_)
        )


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column; 1 where a column is constant.

    Args:
        values: (n, d).

    Returns:
        (d,) and (d,).

    Raises:
        DataError: If a column is too large for its square to be finite.
    """
    spread = values.std(0)
    if not np.isfinite(spread).all():
        raise DataError("the data is too large: its standard deviation is not finite; rescale it")
    return values.mean(0), np.where(spread > 0, spread, 1.0)
