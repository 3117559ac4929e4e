"""OPCM here and in fusion_bench, side by side in one process: the time that merging takes, and how far the results differ.

Needs an environment of its own, as fusion-bench 0.2.33 imports its OPCM with transformers 4 only; `make peers` makes it:
    .venv/fusion/bin/python benchmarks/peers_opcm.py
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from wbench.methods import OPCM

MODELS = 4
SIZES = {"mlp 64-96-96-96-10": (64, 96, 96, 96, 10), "mlp 256-512-512-512-10": (256, 512, 512, 512, 10), "mlp 768-3072-768": (768, 3072, 768)}  # fmt: skip


def population(sizes: tuple[int, ...]) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return a base and models near it."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    base, members = nn.Sequential(*layers), {}
    for index in range(MODELS):
        members[f"m{index}"] = copy.deepcopy(base)
        for param in members[f"m{index}"].parameters():
            param.data += 0.01 * torch.randn_like(param)
    return base, members


class Pool:
    """What the peer's loop asks of a model pool."""

    def __init__(self, base: nn.Module, members: dict[str, nn.Module]) -> None:
        self.base, self.members, self.model_names = base, members, list(members)

    def load_pretrained_model(self) -> nn.Module:
        """Return the base."""
        return copy.deepcopy(self.base)

    def load_model(self, name: str) -> nn.Module:
        """Return a member."""
        return copy.deepcopy(self.members[name])


def theirs(base: nn.Module, members: dict[str, nn.Module], alpha: float) -> nn.Module:
    """Merge by fusion_bench's whole loop."""
    from fusion_bench.method.opcm import opcm_general

    class Quiet(opcm_general.OPCM):
        log_dir = None

    peer = Quiet(alpha=alpha, shuffle_order=False, save_on_every_step=False)
    peer._fabric = type("Fabric", (), {"device": torch.device("cpu"), "log": staticmethod(lambda *_, **__: None)})()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return peer.run(Pool(base, members))


def ours(base: nn.Module, members: dict[str, nn.Module], alpha: float) -> nn.Module:
    """Merge here, members copied as the peer's pool copies them."""
    copied = {role: copy.deepcopy(model) for role, model in members.items()}
    return OPCM(shuffle_order=False, alpha=alpha).combine(copied, copy.deepcopy(base)).models[0]


def compare(sizes: tuple[int, ...], rounds: int, alpha: float) -> dict[str, Any]:
    """Time both in turn, and compare their weights."""
    base, members = population(sizes)
    seconds: dict[str, list[float]] = {"wbench": [], "fusion_bench": []}
    merged: dict[str, nn.Module] = {}
    for number in range(rounds + 1):
        for name, way in (("wbench", ours), ("fusion_bench", theirs)):
            begin = time.perf_counter()
            merged[name] = way(base, members, alpha)
            if number:
                seconds[name].append(round(time.perf_counter() - begin, 5))
    pairs = zip(merged["wbench"].parameters(), merged["fusion_bench"].parameters(), strict=True)
    apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
    changed = max(
        float((a - b).detach().abs().max())
        for a, b in zip(merged["wbench"].parameters(), base.parameters(), strict=True)
    )
    found = sorted(a / b for a, b in zip(seconds["fusion_bench"], seconds["wbench"], strict=True))
    ratio = {"median": statistics.median(found), "lowest": found[0], "highest": found[-1]}
    return {
        "seconds": seconds,
        "fusion_bench / wbench": {key: round(value, 2) for key, value in ratio.items()},
        "largest difference of a weight": apart,
        "largest change of a weight by merging": changed,
    }


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers_opcm.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = ("torch", "fusion-bench", "transformers")
    found: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "threads": 1},
        "packages": {name: version(name) for name in names},
        "models merged": MODELS,
        "alpha": given.alpha,
    }
    for name, sizes in SIZES.items():
        found[name] = compare(sizes, given.rounds, given.alpha)
        print(name, json.dumps(found[name]), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
