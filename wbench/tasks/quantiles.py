"""Regression of several quantiles, where noise differs from place to place: generated, and three real tables."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.datasets import load_table
from wbench.errors import DataError
from wbench.knobs import knob
from wbench.models import MLP
from wbench.ops.quantiles import crosses, even_levels, pinball
from wbench.recipe import Recipe
from wbench.splits import Batch, Splits, TensorSplit
from wbench.task import Task

_BASE = Recipe(optimizer="adam", lr=1e-3, weight_decay=1e-7, batch_size=64, steps=3000, eval_every=100)
SIZES = {
    "generated": (800, 300, 1500),
    "engel": (141, 35, 59),
    "abalone": (2000, 500, 1677),
    "diamonds": (2000, 500, 2000),
}
ORDERED = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
TARGET = {"engel": "foodexp", "abalone": "rings", "diamonds": "price"}


def generate(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Draw rows on which no base model is right everywhere.

    $y = 3 x_1 + x_2 + 2 \sin(6 x_1) 1[x_3 > 0] + s(x)\, \epsilon$ with $s = (0.3$ where $x_3 > 0$, else $1) (1 + 0.8 x_2)$;
    $\epsilon$ is normal where $x_4 > 0$, else exponential less its mean; $x$ is uniform on $(-1, 1)^5$.

    Args:
        count: Rows n.
        rng: Decides them.

    Returns:
        x (n, 5) and y (n,).
    """
    x = 2.0 * torch.rand(count, 5, generator=rng) - 1.0
    normal, uniform = torch.randn(count, generator=rng), torch.rand(count, generator=rng)
    noise = torch.where(x[:, 3] > 0, normal, -torch.log1p(-uniform) - 1.0)
    bend = x[:, 2] > 0
    spread = torch.where(bend, 0.3, 1.0) * (1.0 + 0.8 * x[:, 1])
    return x, 3.0 * x[:, 0] + x[:, 1] + 2.0 * torch.sin(6.0 * x[:, 0]) * bend + spread * noise


class Quantiles(Task):
    """Predict quantiles at levels k / (levels + 1), shape (rows, levels).

    The seed draws generated rows, or splits a table. Tables: food expenditure on income (`engel`), rings of abalones from their
    measures (`abalone`), price of diamonds (`diamonds`); inputs and target in standard deviations of the training rows.

    Metrics: `loss`, the mean pinball loss; `coverage`, share of targets between the outermost levels (0.9 is right for 19);
    `crossing`, share of rows with a quantile below that of a lower level.

    Usage:
        `wb.train("quantiles", wb.methods.QuantileAggregation())`, `wb.train(wb.tasks.Quantiles(source="engel"))`
    """

    id: ClassVar[str] = "quantiles"
    title: ClassVar[str] = "Quantile regression with uneven noise"
    kind: ClassVar[Literal["classification", "regression", "tokens"]] = "regression"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=200, eval_every=50),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=10_000),
    }

    source: Literal["generated", "engel", "abalone", "diamonds"] = knob("generated", doc="Where rows come from.")
    train_size: int | None = knob(
        None, 20, 50_000, scale="log", slider=(100, 5000), unit="rows",
        doc="Training rows; none: 800 generated, 141 of engel, 2000 of abalone and of diamonds.",
    )  # fmt: skip
    levels: int = knob(19, 3, 99, unit="levels", doc="Quantile levels k / (levels + 1).")

    def data(self, seed: int) -> Splits:
        """Return train, valid and test: inputs (rows, features), targets (rows,).

        Raises:
            DataError: If a table has too few rows for `train_size`.
        """
        rng = torch.Generator().manual_seed(seed)
        train, valid, test = SIZES[self.source]
        train = self.train_size or train
        if self.source == "generated":
            names = {
                "test": test,
                "valid": valid,
                "train": train,
            }  # training rows last: test rows stay with `train_size`
            drawn = {name: TensorSplit(*generate(count, rng)) for name, count in names.items()}
            return Splits({name: drawn[name] for name in ("train", "valid", "test")})
        x, y = table(self.source)
        if train + valid + test > len(x):
            raise DataError(
                f"quantiles: train_size={train} of {self.source}, which has {len(x)} rows, {valid + test} of them for validation "
                f"and test; allowed: at most {len(x) - valid - test}"
            )
        order = torch.randperm(len(x), generator=rng)
        parts = {"test": order[:test], "valid": order[test : test + valid], "train": order[test + valid :][:train]}
        return Splits({
            name: TensorSplit(_standard(x, parts["train"])[rows], _standard(y, parts["train"])[rows])
            for name, rows in ((name, parts[name]) for name in ("train", "valid", "test"))
        })

    def model(self, seed: int) -> nn.Module:
        """Return a multilayer perceptron with one output a level: (rows, features) -> (rows, levels)."""
        inputs = 5 if self.source == "generated" else table(self.source)[0].shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP((inputs, 64, 64, self.levels))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the pinball loss of each row, the mean over levels, (rows,).

        Raises:
            DataError: If there is not one output a level.
        """
        if output.ndim != 2 or output.shape[1] != self.levels:
            raise DataError(
                f"quantiles: levels={self.levels} needs predictions of shape (rows, {self.levels}), got {tuple(output.shape)}; "
                "give task and method the same number of levels"
            )
        levels = torch.tensor(even_levels(self.levels), device=output.device, dtype=output.dtype)
        return pinball(output, batch[1].to(output.dtype), levels).mean(1)

    def scores(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        inside = (batch[1] >= output.min(1).values) & (batch[1] <= output.max(1).values)
        return {"loss": self.loss(output, batch), "coverage": inside.float(), "crossing": crosses(output).float()}


def table(source: str) -> tuple[Tensor, Tensor]:
    """Return a table as numbers: ordered text by its place, other text as one column a value.

    Args:
        source: `engel`, `abalone` or `diamonds`.

    Returns:
        x (rows, features) and y (rows,), float32.
    """
    import pandas as pd

    frame = load_table(source)  # type: ignore[arg-type]
    for name in ORDERED.keys() & set(frame.columns):
        frame[name] = frame[name].map({value: place for place, value in enumerate(ORDERED[name])})
    y = torch.tensor(frame.pop(TARGET[source]).to_numpy(), dtype=torch.float32)
    return torch.tensor(pd.get_dummies(frame).to_numpy(dtype="float32")), y


def _standard(values: Tensor, rows: Tensor) -> Tensor:
    spread = values[rows].std(0)
    return (values - values[rows].mean(0)) / torch.where(spread > 0, spread, math.inf)
