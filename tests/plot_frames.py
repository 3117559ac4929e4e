"""Tables for figures, made once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

from wbench import probes

STEPS = (0, 10, 20, 30)


def trained(run: str, lr: float, seed: int = 0) -> dict[str, pd.DataFrame]:
    inputs, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 32, bias=False), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    kept: dict[str, list[pd.DataFrame]] = {name: [] for name in ("histogram", "spectrum", "effective_lr", "metrics")}
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            kept["histogram"].append(probes.histogram(model).assign(step=step))
            kept["spectrum"].append(probes.spectrum(model).assign(step=step))
        loss = nn.functional.cross_entropy(model(x[:256]), y[:256])
        optimizer.zero_grad()
        loss.backward()
        before = probes.snapshot(model)
        optimizer.step()
        frame = probes.effective_lr(before, probes.snapshot(model), lr=lr, scale_invariant=("0",))
        kept["effective_lr"].append(frame.assign(step=step))
        kept["metrics"].append(pd.DataFrame({"step": [step], "split": "train", "name": "loss", "value": loss.item()}))

    def measure(m: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(m(x[:256]), y[:256])

    frames = {name: pd.concat(parts, ignore_index=True).assign(run=run, seed=seed) for name, parts in kept.items()}
    frames["landscape"] = probes.landscape(model, measure, points=5).assign(run=run)
    frames["landscape2d"] = probes.landscape(model, measure, dims=2, points=5).assign(run=run)
    return frames


@cache
def recorded() -> dict[str, pd.DataFrame]:
    """Tables of every kind: two short trainings with two seeds, and what no training gives."""
    torch.set_num_threads(1)
    runs = [trained("fast", 0.1), trained("slow", 0.01), trained("fast", 0.1, seed=1), trained("slow", 0.01, seed=1)]
    joined = {name: pd.concat([run[name] for run in runs], ignore_index=True) for name in runs[0]}
    for name in ("histogram", "spectrum", "effective_lr", "landscape", "landscape2d"):
        joined[name] = pd.concat([run[name] for run in runs[:2]], ignore_index=True)
    v = np.linspace(-1, 1, 50)
    joined["companding"] = pd.concat(
        pd.DataFrame({
            "layer": "0",
            "v": v,
            "w": np.tanh(k * v),
            "density_v": np.exp(-(v**2)),
            "density_w": 1.0,
            "step": k,
        })
        for k in (1, 2, 3)
    )
    row, col = np.indices((150, 20))
    joined["delta"] = pd.concat(
        pd.DataFrame({
            "layer": "0",
            "row": row.ravel(),
            "col": col.ravel(),
            "value": step * np.sin(row + col).ravel(),
        }).assign(step=step)
        for step in (0, 1)
    )
    joined["subspace"] = pd.DataFrame({
        "step": [0, 5, 10], "layer": "a", "overlap": [np.nan, 0.5, 0.7], "energy_share": [0.9, 0.8, 0.8], "stable_rank": [3.0, 2.0, 2.5],
    })  # fmt: skip
    joined["intervals"] = pd.DataFrame({
        "label": ["loss", "loss", "size"], "arm_role": ["method", "control", "method"], "estimate": [-0.03, 0.0, 1250.0],
        "low": [-0.05, -0.01, 1100.0], "high": [-0.01, 0.02, 1400.0], "threshold": [0.0, 0.0, 1500.0],
        "passed": ["yes", "undecided", "no"], "unit": ["nats", "nats", "weights"], "direction": ["<", "<", ">"],
    })  # fmt: skip
    metrics = joined["metrics"][joined["metrics"]["seed"] == 0]
    joined["plasticity"] = pd.concat([
        metrics.assign(arm=metrics["run"], table="metrics", name="accuracy", split="task1", phase="task1"),
        joined["effective_lr"].assign(arm=joined["effective_lr"]["run"], table="effective_lr"),
    ])  # fmt: skip
    return joined
