"""Nearest shrunken centroids, as scikit-learn has them."""

from __future__ import annotations

from typing import ClassVar

from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestCentroid

from wbench.method import Context, EstimatorMethod, Paper, knob


class ShrunkenCentroids(EstimatorMethod):
    """Classifies by the nearest of the classes' centroids, pulled towards the mean of all.

    Usage:
        `ShrunkenCentroids(shrink_threshold=0.5).estimator().fit(x, y)`
    """

    id: ClassVar[str] = "shrunken_centroids"
    title: ClassVar[str] = "Nearest shrunken centroids"
    paper: ClassVar[Paper | None] = Paper(
        "Diagnosis of multiple cancer types by shrunken centroids of gene expression", "Tibshirani, Hastie, Narasimhan, Chu", 2002,
        venue="PNAS 99(10)",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("classification",)

    shrink_threshold: float = knob(
        0.2, 0.0, 100.0, slider=(0.0, 2.0), doc="How far centroids are pulled, in deviations."
    )

    def estimator(self, ctx: Context | None = None) -> BaseEstimator:
        """Return the classifier."""
        return NearestCentroid(shrink_threshold=self.shrink_threshold)
