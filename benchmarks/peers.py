"""Optimizers, adapters and layers beside their peer packages, in turn in one process: time of a step, bytes of state, results.

make peers                                  # installs the peer packages into .venv
.venv/bin/python benchmarks/peers.py        # figures in benchmarks/results/peers.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

import wbench as wb
from wbench.methods import Bone, DoRA, GaLore, LoRA
from wbench.ops.lowrank import project, project_back, subspace
from wbench.ops.rounding import pack_groups, unpack_groups
from wbench.training.memory import optimizer_tensors, tensor_bytes

WIDTH, DEPTH, RANK, BATCH = 512, 4, 16, 64
Step = Callable[[], Any]


def network() -> nn.Sequential:
    """Return linear layers with ReLU between them, named so that peers can find them."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for index in range(DEPTH):
        net.add_module(f"fc{index}", nn.Linear(WIDTH, WIDTH))
        net.add_module(f"act{index}", nn.ReLU())
    return net


def in_turn(ours: Step, theirs: Step, rounds: int, steps: int) -> dict[str, Any]:
    """Time both in turn; the first round of each is thrown away.

    Args:
        ours: Takes one step here.
        theirs: Takes one step of the peer.
        rounds: How often.
        steps: In each round.
    """
    seconds: dict[str, list[float]] = {"wbench": [], "peer": []}
    for number in range(rounds + 1):
        for name, step in (("wbench", ours), ("peer", theirs)):
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            if number:
                seconds[name].append((time.perf_counter() - begin) / steps)
    ratios = sorted(b / a for a, b in zip(seconds["wbench"], seconds["peer"], strict=True))
    shown = {"median": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
    return {
        "milliseconds a step": {name: round(1e3 * statistics.median(values), 3) for name, values in seconds.items()},
        "peer / wbench": {key: round(value, 2) for key, value in shown.items()},
    }


def galore(rounds: int, steps: int) -> dict[str, Any]:
    """GaLore against galore-torch: the optimizer's step on given gradients, one refresh in ten."""
    from galore_torch import GaLoreAdamW

    gradients = [
        [torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(i + 9 * j)) for i in range(DEPTH)]
        for j in range(8)
    ]
    mine, other = network(), network()
    weights = [[layer.weight for layer in net if isinstance(layer, nn.Linear)] for net in (mine, other)]
    for net in (mine, other):
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.bias.requires_grad_(False)
    ours = GaLore(rank=RANK, update_proj_gap=10, scale=0.25, layers="*").optimizer(mine, wb.Recipe(lr=1e-2))
    group = {"params": weights[1], "rank": RANK, "update_proj_gap": 10, "scale": 0.25, "proj_type": "std"}
    theirs = GaLoreAdamW([group], lr=1e-2)
    counts = [0, 0]

    def step(which: int, optimizer: torch.optim.Optimizer) -> None:
        for weight, gradient in zip(weights[which], gradients[counts[which] % 8], strict=True):
            weight.grad = gradient
        optimizer.step()
        counts[which] += 1

    found = in_turn(lambda: step(0, ours), lambda: step(1, theirs), rounds, steps)
    held = [part for state in theirs.state.values() for part in _tensors(state)]
    projections = [state["projector"].ortho_matrix for state in theirs.state.values()]
    found["bytes of state"] = {
        "wbench": tensor_bytes(optimizer_tensors(ours)),
        "peer": tensor_bytes([*held, *projections]),
    }
    found["largest difference of a weight"] = max(
        float((a - b).detach().abs().max()) for a, b in zip(*weights, strict=True)
    )
    found["steps"] = counts[0]
    return found


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    return [value for key, value in state.items() if isinstance(value, Tensor) and key != "step"]


def q_galore(rounds: int, steps: int) -> dict[str, Any]:
    """Q-GaLore's INT4 projection against q-galore-torch's (on a CPU only its projector runs): there and back, one refresh in ten."""
    from q_galore_torch.q_galore_projector import GaLoreProjector

    gradients = [torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(j)) for j in range(8)]
    peer = GaLoreProjector(RANK, update_proj_gap=10, scale=0.25, quant=True, group_size=256, n_bit=4, gamma_proj=1)
    held: dict[str, Any] = {}
    counts, results = [0, 0], [torch.zeros(()), torch.zeros(())]

    def ours() -> None:
        gradient = gradients[counts[0] % 8]
        if counts[0] % 10 == 0:
            basis = subspace(gradient, RANK, "right")[1]
            held.update(pack_groups(basis, 4, 256))  # type: ignore[arg-type]
        right = unpack_groups(held)
        results[0] = project_back(project(gradient, None, right), None, right) * 0.25
        counts[0] += 1

    def theirs() -> None:
        results[1] = peer.project_back(peer.project(gradients[counts[1] % 8], counts[1]))
        counts[1] += 1

    found = in_turn(ours, theirs, rounds, steps)
    stored = [part for part in held.values() if isinstance(part, Tensor)]
    kept = [peer.ortho_matrix, peer.ortho_matrix_scales, peer.ortho_matrix_zeros]
    found["bytes of the projection"] = {"wbench": tensor_bytes(stored), "peer": tensor_bytes(kept)}
    found["largest difference of a result"] = float((results[0] - results[1]).abs().max())
    return found


def training_step(net: nn.Module) -> tuple[Step, torch.optim.Optimizer]:
    """Return one step of AdamW on what is trainable, on fixed data."""
    x = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    y = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW([param for param in net.parameters() if param.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    return step, optimizer


def adapter(
    method: Any, config: Any, copy_factors: Callable[[nn.Module, nn.Module], None] | None, rounds: int, steps: int
) -> dict[str, Any]:
    """An adapter against PEFT's: forward, backward and AdamW's step on four layers."""
    import peft

    mine = method.replace(layers="*").prepare(network())
    other = peft.get_peft_model(network(), config)
    if copy_factors is not None:
        for index in range(DEPTH):
            copy_factors(mine.get_submodule(f"fc{index}"), other.base_model.model.get_submodule(f"fc{index}"))
    ours, own = training_step(mine)
    theirs, their = training_step(other)
    early = min(10, steps)
    for _ in range(early):  # compared before rounding, which AdamW amplifies, has parted them
        ours(), theirs()
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))
    difference = float((mine(x) - other(x)).detach().abs().max())
    found = in_turn(ours, theirs, rounds, steps)
    found["largest difference of an output"], found["compared after"] = difference, f"{early} steps"
    found["bytes of state"] = {
        "wbench": tensor_bytes(optimizer_tensors(own)),
        "peer": tensor_bytes(optimizer_tensors(their)),
    }
    return found


def lora(rounds: int, steps: int) -> dict[str, Any]:
    """LoRA against PEFT's."""
    import peft

    @torch.no_grad()
    def copied(ours: nn.Module, theirs: nn.Module) -> None:
        theirs.lora_A["default"].weight.copy_(ours.lora_a)
        theirs.lora_B["default"].weight.copy_(ours.lora_b)

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[f"fc{i}" for i in range(DEPTH)], lora_dropout=0.0)
    return adapter(LoRA(rank=RANK), config, copied, rounds, steps)


def dora(rounds: int, steps: int) -> dict[str, Any]:
    """DoRA against PEFT's."""
    import peft

    @torch.no_grad()
    def copied(ours: nn.Module, theirs: nn.Module) -> None:
        theirs.lora_A["default"].weight.copy_(ours.lora_a)
        theirs.lora_B["default"].weight.copy_(ours.lora_b)

    targets = [f"fc{i}" for i in range(DEPTH)]
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, lora_dropout=0.0, use_dora=True)
    return adapter(DoRA(rank=RANK), config, copied, rounds, steps)


def miss(rounds: int, steps: int) -> dict[str, Any]:
    """Bone's later form, MiSS, against PEFT's; both start at zero."""
    import peft

    config = peft.MissConfig(r=RANK, target_modules=[f"fc{i}" for i in range(DEPTH)])
    return adapter(Bone(r=RANK, variant="miss"), config, None, rounds, steps)


def bat(rounds: int, steps: int) -> dict[str, Any]:
    """Bone's first form, bat, against PEFT's; both start at zero."""
    import peft

    config = peft.MissConfig(r=RANK, target_modules=[f"fc{i}" for i in range(DEPTH)], init_weights="bat")
    return adapter(Bone(r=RANK, variant="bat"), config, None, rounds, steps)


def poincare(rounds: int, steps: int) -> dict[str, Any]:
    """The Poincare fully connected layer against hypll's: forward and backward of the same points and weights."""
    from hypll.manifolds.poincare_ball.math.linalg import poincare_fully_connected as peer

    from wbench.ops.poincare import fully_connected

    c, width = torch.tensor(0.1), 64
    z = (torch.randn(width, width, generator=torch.Generator().manual_seed(1)) / width).requires_grad_()
    r = torch.zeros(width, requires_grad=True)
    x = (0.05 * torch.randn(BATCH, width, generator=torch.Generator().manual_seed(2))).requires_grad_()
    outputs: dict[str, Tensor] = {}

    def step(name: str, function: Callable[[], Tensor]) -> None:
        for part in (x, z, r):
            part.grad = None
        outputs[name] = function()
        outputs[name].square().sum().backward()

    found = in_turn(
        lambda: step("wbench", lambda: fully_connected(x, z, r, c)),
        lambda: step("peer", lambda: peer(x, z, r, c)),
        rounds,
        steps,
    )
    found["largest difference of an output"] = float((outputs["wbench"] - outputs["peer"]).detach().abs().max())
    return found


def poincare_block(rounds: int, steps: int) -> dict[str, Any]:
    """A Poincare convolution and its midpoint batch norm against hypll's: forward and backward of the same image and weights."""
    import hypll.nn as peers
    from hypll.manifolds.poincare_ball import Curvature, PoincareBall
    from hypll.tensors import ManifoldTensor

    from wbench.methods.layer.poincare_layers import PoincareConv, PoincareNorm
    from wbench.ops.poincare import expmap0, logmap0

    c, few, many = 0.1, 4, 8
    manifold = PoincareBall(Curvature(c, constraining_strategy=nn.Identity()))
    conv, norm = PoincareConv((few, many), c=c, init="hnn"), PoincareNorm(many)
    other, last = peers.HConvolution2d(few, many, 3, manifold, padding=1), peers.HBatchNorm2d(many, manifold)
    other.weights.tensor.data, other.bias.data = conv.weight.data.clone(), conv.offset.data.clone()
    t = 0.3 * torch.randn(BATCH, few, 8, 8, generator=torch.Generator().manual_seed(2))
    outputs: dict[str, Tensor] = {}

    def step(name: str, function: Callable[[Tensor], Tensor]) -> None:
        given = t.clone().requires_grad_()
        outputs[name] = function(given)
        outputs[name].square().sum().backward()

    def peer(given: Tensor) -> Tensor:
        on_ball = ManifoldTensor(data=expmap0(given.movedim(1, -1), c).movedim(-1, 1), manifold=manifold, man_dim=1)
        return logmap0(last(other(on_ball)).tensor.movedim(1, -1), c).movedim(-1, 1)

    found = in_turn(lambda: step("wbench", lambda x: norm(conv(x), c)), lambda: step("peer", peer), rounds, steps)
    found["largest difference of an output"] = float((outputs["wbench"] - outputs["peer"]).detach().abs().max())
    return found


def processor() -> str:
    """Return the processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


PARTS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "galore / galore-torch": galore, "q_galore's projection / q-galore-torch": q_galore, "lora / peft": lora, "dora / peft": dora,
    "bone miss / peft": miss, "bone bat / peft": bat, "poincare layer / hypll": poincare,
    "poincare convolution and norm / hypll": poincare_block,
}  # fmt: skip


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="", help="a part of a name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = ("torch", "galore-torch", "q-galore-torch", "peft", "hypll")
    found: dict[str, Any] = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(), "threads": 1},
        "packages": {name: version(name) for name in names},
        "command": f"python benchmarks/peers.py --rounds {given.rounds} --steps {given.steps}",
        "width": WIDTH, "layers": DEPTH, "rank": RANK, "batch": BATCH,
    }  # fmt: skip
    for name, part in PARTS.items():
        if given.only in name:
            found[name] = part(given.rounds, given.steps)
            print(name, json.dumps(found[name]), flush=True)
    if not given.only:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
