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
    joined |= {"ridge": joined["histogram"], "spectrum_steps": joined["spectrum"]}
    joined["plasticity"] = pd.concat([
        metrics.assign(arm=metrics["run"], table="metrics", name="accuracy", split="task1", phase="task1"),
        joined["effective_lr"].assign(arm=joined["effective_lr"]["run"], table="effective_lr"),
    ])  # fmt: skip
    return joined | of_methods()


def of_methods() -> dict[str, pd.DataFrame]:
    """Small tables of what methods and studies give, with the columns that each figure's docstring names."""
    steps, place, levels = pd.DataFrame({"step": [0, 10, 20]}), np.linspace(-2, 2, 41), (0.1, 0.5, 0.9)
    found: dict[str, pd.DataFrame] = {}
    x = np.linspace(-1.5, 1.5, 50)
    found["estimator"] = steps.merge(pd.DataFrame({"layer": "0", "x": x}), how="cross").assign(
        estimate=lambda f: np.tanh(f["x"] * (1 + f["step"])),
        slope=lambda f: 1 / np.cosh(f["x"] * (1 + f["step"])) ** 2,
        density=lambda f: np.exp(-(f["x"] ** 2)),
    )
    found["thresholds"] = steps.merge(pd.DataFrame({"layer": "0", "place": place}), how="cross").assign(
        share=lambda f: np.exp(-(f["place"] ** 2)) / (10 + f["step"])
    )
    found["rows"] = steps.merge(pd.DataFrame({"layer": ["0"] * 8 + ["1"] * 4, "row": [*range(8), *range(4)]}), how="cross").assign(
        length=lambda f: 1 + f["step"] * f["row"] / 100, turn=lambda f: f["step"] * (1 + f["row"]) / 1000
    )  # fmt: skip
    row, col = (index.ravel() for index in np.indices((4, 4)))
    found["core"] = steps.merge(pd.DataFrame({"layer": "0", "row": row, "col": col}), how="cross").assign(
        value=lambda f: f["step"] * np.sin(f["row"] - f["col"]), angle=lambda f: f["step"] * (1.0 + f["col"]), frozen=2
    )
    found["lazy_subspace"] = steps.merge(pd.DataFrame({"layer": ["0", "1"]}), how="cross").assign(
        cosine=[np.nan, np.nan, 0.4, 0.6, 0.7, 0.9],
        gap=[5, 5, 5, 10, 10, 20],
        refreshes=[1, 1, 3, 2, 4, 3],
        changed=0.1,
    )
    found["utilisation"] = steps.merge(pd.DataFrame({"share": ["certain", "shrunk", "unused"]}), how="cross").assign(
        value=[0.0, 0.2, 0.8, 0.3, 0.3, 0.4, 0.6, 0.3, 0.1], removed=2.5
    )
    found["merging"] = pd.DataFrame({
        "run": ["mean"] * 3 + ["opcm"] * 3, "arrival": [1, 2, 3] * 2, "member": ["a", "b", "c"] * 2, "mean_norm": 2.0,
        "divisor": [1.0, 2.0, 3.0, 1.0, 1.4, 1.7], "distance": [2.0, 1.4, 1.2, 2.0, 2.0, 2.0],
    })  # fmt: skip
    found["calibration"] = pd.DataFrame({
        "layer": ["conv", "head"], "before": [0.4, 0.3], "after": [0.2, 0.1], "bits_w": [2, 8], "bits_a": [4, 8], "bytes": [100, 400],
    })  # fmt: skip
    found["blocks"] = pd.DataFrame({
        "place": range(5), "layer": ["", "0", "1", "0", "1"], "level": [1, 2, 2, 3, 3], "bytes": [100, 150, 190, 240, 280],
        "loss": [3.0, 2.5, 2.4, 2.2, 2.1],
    })  # fmt: skip
    layer, atom = (index.ravel() for index in np.indices((6, 2)))
    found["sharing"] = pd.concat([
        *(pd.DataFrame({"what": "coefficient", "dictionary": kind, "layer": layer, "index": atom, "value": np.cos(layer + 2 * atom)})
          for kind in ("q0", "k0")),
        *(pd.DataFrame({"what": "spectrum", "dictionary": kind, "layer": 0, "index": range(6), "value": fall ** np.arange(6)})
          for kind, fall in (("q", 0.9), ("k", 0.5))),
    ])  # fmt: skip
    angle = np.linspace(0, 6, 12)
    points = pd.DataFrame({
        "what": "sample",
        "sample": range(12),
        "target": [0, 1, 2] * 4,
        "x": np.cos(angle) / 2,
        "y": np.sin(angle) / 3,
    })
    means = pd.DataFrame({
        "what": ["midpoint", "frechet"],
        "sample": -1,
        "target": -1,
        "x": [0.05, 0.06],
        "y": [0.0, 0.01],
    })
    deep = steps.merge(pd.DataFrame({"depth": [0, 1, 2]}), how="cross").merge(pd.concat([points, means]), how="cross")
    found["ball"] = deep.assign(
        radius=lambda f: np.hypot(f["x"], f["y"]), norm=lambda f: np.arctanh(f["radius"]) / (1 + f["depth"])
    )
    blank = {"model": "", "level": np.nan, "feature": -1, "x": np.nan, "stage": ""}
    at = pd.DataFrame({"level": levels})
    models = pd.DataFrame({"model": ["linear", "forest"]})
    found["aggregation"] = pd.concat([
        models.merge(at, how="cross").assign(part="weight", value=[0.2, 0.5, 0.7, 0.8, 0.5, 0.3]),
        models.merge(pd.DataFrame({"feature": [0, 0, 1, 1], "x": [0.0, 1.0, 0.0, 1.0]}), how="cross").assign(
            part="by_input", value=[0.1, 0.9, 0.5, 0.6, 0.9, 0.1, 0.5, 0.4]
        ),
        pd.DataFrame({"stage": ["raw", "final"]}).merge(at, how="cross").assign(part="below", value=[0.2, 0.4, 0.8, *levels]),
        pd.DataFrame({"part": "crossing", "stage": ["raw", "final"], "value": [0.1, 0.0]}),
    ]).fillna(blank)  # fmt: skip
    found["equilibrium"] = pd.concat([
        pd.DataFrame({"arm": ["1", "3"], "name": name, "value": values, "split": split})
        for name, values, split in (
            ("estimating_error", [2.0, 4.0], ""), ("instability", [0.1, 1e-3], ""), ("accuracy", [0.9, 0.8], "test")
        )
    ]).assign(table="metrics", seed=0, step=20)  # fmt: skip
    found["memory"] = pd.DataFrame({
        "run": ["plain"] * 3 + ["low rank"] * 3, "kind": ["parameters", "optimizer", "weights"] * 2,
        "bytes": [4e6, 8e6, 4e6, 4e6, 1e6, 4e6],
    })  # fmt: skip
    found["parallel"] = pd.DataFrame({
        "methods": ["baseline", "galore", "galore"], "lr": [1e-3, 1e-2, 1.0], "rank": [np.nan, 4, 8], "same": 1, "test accuracy": [0.5, 0.7, 0.6],
    })  # fmt: skip
    found["response"] = pd.DataFrame({
        "arm": ["plain"] * 2 + ["low rank"] * 4, "seed": [0, 1] * 3, "status": "finished", "rank": [np.nan] * 2 + [2, 2, 8, 8],
        "test loss": [0.5, 0.6, 0.3, 0.4, 0.1, 0.2],
    })  # fmt: skip
    return found
