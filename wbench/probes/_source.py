"""What a probe looks at: a model, weights by name, or a checkpoint on disk."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import LayerMatchError, closest

Source = nn.Module | Mapping[str, Tensor] | str | Path


def weights(source: Source, layers: str = "*", *, nonfinite: str = "raise") -> Iterator[tuple[str, str, Tensor]]:
    """Yield floating parameters one at a time; of a parametrised layer the weight that its forward uses.

    Args:
        source: A model, weights by name, or the path of a checkpoint (streamed).
        layers: Glob over layer names.
        nonfinite: For checkpoints, see `wbench.checkpoints.iter_tensors`.

    Yields:
        Layer name, parameter name, tensor (detached); a tied tensor once, under its first name.

    Raises:
        LayerMatchError: If nothing matches; lists the closest names.
    """
    seen: set[str] = set()
    matched = False
    for layer, parameter, tensor in _all(source, nonfinite):
        seen.add(layer)
        if tensor.is_floating_point() and fnmatch.fnmatchcase(layer, layers):
            matched = True
            yield layer, parameter, tensor
    if not matched:
        raise LayerMatchError(f"layers='{layers}' matches no layer with weights.{closest(layers.strip('*.'), seen)}")


def _all(source: Source, nonfinite: str) -> Iterator[tuple[str, str, Tensor]]:
    if isinstance(source, nn.Module):
        yield from _of_module(source)
        return
    if isinstance(source, Mapping):
        pairs: Iterator[tuple[str, Tensor]] = iter(source.items())
    else:
        from wbench.checkpoints import iter_tensors

        pairs = iter_tensors(source, nonfinite=nonfinite)  # type: ignore[arg-type]
    for name, tensor in pairs:
        layer, _, parameter = name.rpartition(".")
        yield layer or name, parameter if layer else "weight", tensor.detach()


def _of_module(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    seen: set[int] = set()
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if (
            name.endswith("parametrizations")
            or ".parametrizations." in f".{name}."
            or name.startswith(inside or ("\0",))
        ):
            continue
        if hasattr(module, "merged_weight"):  # an adapted layer: what the forward uses is the merged weight
            inside += (f"{name}." if name else "",)
            with torch.no_grad():
                yield name or type(model).__name__, "weight", module.merged_weight().detach()  # type: ignore[operator]
            continue
        if parametrize.is_parametrized(module):
            for parameter, held in module.parametrizations.items():  # type: ignore[operator,union-attr]
                key = id(getattr(held, "original", held))
                if key not in seen:
                    seen.add(key)
                    with torch.no_grad():
                        yield name, parameter, getattr(module, parameter).detach()
        for parameter, value in module.named_parameters(recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield name or type(model).__name__, parameter, value.detach()
