"""What layers see on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

CHUNK = 256


def layer_inputs(model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Return the inputs of some layers in one pass of a model over data.

    Args:
        model: The model; run in evaluation mode without gradients, its own mode is restored.
        layers: Name to layer, each a module of the model.
        x: The model's input, (samples, ...).

    Returns:
        Name to first argument of the layer's forward, (samples, ...); a layer that is called several times has all calls one
        after another, one that is never called is left out.
    """
    return _record(model, layers, x, lambda args, output: args[0])


def layer_outputs(model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Return the outputs of some layers in one pass of a model over data.

    Args:
        model: As in `layer_inputs`.
        layers: As in `layer_inputs`.
        x: As in `layer_inputs`.

    Returns:
        As `layer_inputs`, of the outputs.
    """
    return _record(model, layers, x, lambda args, output: output)


def activation_scale(inputs: Sequence[Tensor]) -> Tensor:
    """Return s (n,): for each input of a layer the L2 norm over the sequence, averaged over samples, plus 0.001.

    Args:
        inputs: What the layer saw, in parts of (samples, ..., n); all dimensions between are the sequence.
    """
    total = sum(
        part.flatten(1, -2).float().norm(dim=1).sum(0) for part in (p[:, None] if p.ndim == 2 else p for p in inputs)
    )
    return total / sum(len(part) for part in inputs) + 1e-3


Take = Callable[[tuple[Tensor, ...], Tensor], Tensor]


def _record(model: nn.Module, layers: Mapping[str, nn.Module], x: Tensor, take: Take) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keeper(kept: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, args, output: kept.append(take(args, output).detach().clone())

    handles = [layer.register_forward_hook(keeper(seen[name])) for name, layer in layers.items()]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            for part in x.split(CHUNK):
                model(part)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return {name: torch.cat(parts) for name, parts in seen.items() if parts}
