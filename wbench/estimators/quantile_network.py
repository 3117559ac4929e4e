"""A network that predicts several quantiles at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from wbench.estimators.quantile_models import LEVELS, QuantileModel, moments
from wbench.ops.quantiles import pinball


class NetworkQuantiles(QuantileModel):
    """A multilayer perceptron with one output a level, trained on the summed pinball loss by Adam.

    Args:
        quantiles: Ascending levels.
        hidden: Units of each of two hidden layers.
        steps: Adam steps.
        learning_rate: Decays to 0 along a cosine.
        batch_size: Rows a step.
        random_state: Seed.

    Attributes:
        coefs_: Weight of each layer, (inputs, outputs).
        intercepts_: Bias of each layer.
    """

    def __init__(
        self,
        quantiles: Sequence[float] = LEVELS,
        hidden: int = 64,
        steps: int = 300,
        learning_rate: float = 2e-2,
        batch_size: int = 64,
        random_state: Any = None,
    ) -> None:
        super().__init__(quantiles)
        self.hidden, self.steps, self.learning_rate, self.batch_size = hidden, steps, learning_rate, batch_size
        self.random_state = random_state

    def _fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.mean_, self.scale_ = moments(X)
        self.center_, self.spread_ = (float(value[0]) for value in moments(y[:, None]))
        x = torch.from_numpy((X - self.mean_) / self.scale_).float()
        target = torch.from_numpy((y - self.center_) / self.spread_).float()
        levels = torch.from_numpy(self.levels_).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))
            net = nn.Sequential(
                nn.Linear(X.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.hidden), nn.ReLU(),
                nn.Linear(self.hidden, len(levels)),
            )  # fmt: skip
            adam = torch.optim.Adam(net.parameters(), lr=self.learning_rate, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
            order = torch.empty(0, dtype=torch.long)
            for _ in range(self.steps):
                if len(order) < min(self.batch_size, len(x)):
                    order = torch.randperm(len(x))
                rows, order = order[: self.batch_size], order[self.batch_size :]
                adam.zero_grad()
                pinball(net(x[rows]), target[rows], levels).sum(1).mean().backward()
                adam.step()
                schedule.step()
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        self.coefs_ = [layer.weight.detach().double().numpy().T.copy() for layer in layers]
        self.intercepts_ = [layer.bias.detach().double().numpy() for layer in layers]

    def _predict(self, X: np.ndarray) -> np.ndarray:
        values = (X - self.mean_) / self.scale_
        for coef, intercept in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = np.maximum(values @ coef + intercept, 0.0)
        return np.asarray((values @ self.coefs_[-1] + self.intercepts_[-1]) * self.spread_ + self.center_)
