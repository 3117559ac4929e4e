"""Checks, and values of arms by metric."""

import numpy as np

from wbench.claims.checks import Check


def arms(**values):
    return {name: {"m": np.asarray(value, dtype=float)} for name, value in values.items()}


def check(statistic, threshold, contrast=("a", "b"), **fields):
    return Check("it holds", contrast, statistic, threshold, "m", **fields)
