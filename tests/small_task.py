"""A task of arrays that a tiny network learns in an instant."""

import numpy as np
import pytest
from torch import nn

import wbench as wb

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
RECIPE = wb.Recipe(optimizer="sgd", lr=0.1, steps=12, batch_size=16)


def never(*_):
    pytest.fail("training began")


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def arrays(x=X, y=Y, model=small, recipe=RECIPE, **options):
    return wb.Task.from_arrays(x, y, model=model, recipe=recipe, **options)
