"""What a probe looks at: a model, weights by name, or a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.checkpoints import count_nonfinite, iter_tensors
from wbench.errors import DataError, KnobError, LayerMatchError, closest
from wbench.globs import Layers, matches

if TYPE_CHECKING:
    import pandas as pd

Source = nn.Module | Mapping[str, Tensor] | str | Path
Named = Iterator[tuple[str, str, Tensor]]


def weights(source: Source, layers: Layers = "*", *, nonfinite: str = "raise", min_dims: int = 0) -> Named:
    """Yield floating parameters one at a time; of a parametrised layer the weight that its forward uses.

    Args:
        source: A model, weights by name, or the path of a checkpoint (streamed).
        layers: Glob over layer names; several: a tuple, or separated by commas; `!` in front excludes.
        nonfinite: What to do with a tensor that holds NaN or inf: refuse it by name (`raise`), or leave it out (`skip`).
        min_dims: Leave out tensors with fewer dimensions, and empty ones.

    Yields:
        Layer name, parameter name, tensor (detached); a tied tensor once, under its first name. A parameter of the model itself
        is a layer of its own, whose parameter is called `weight`.

    Raises:
        LayerMatchError: If nothing matches; lists the closest names.
        DataError: If a tensor of a model or mapping holds values that are not finite.
        CheckpointError: The same of a checkpoint, and if it cannot be read.
        KnobError: If `nonfinite` is neither `raise` nor `skip`.
    """
    if nonfinite not in {"raise", "skip"}:
        raise KnobError(f"nonfinite={nonfinite!r} is not allowed; allowed: raise, skip")
    seen: set[str] = set()
    matched = False
    for layer, parameter, tensor in _all(source, nonfinite):
        seen.add(layer)
        if not _probed(tensor) or not matches(layer, layers):
            continue
        matched = True
        if tensor.ndim < min_dims or (min_dims and not tensor.numel()):
            continue
        bad = 0 if isinstance(source, str | Path) else count_nonfinite(tensor)
        if bad and nonfinite == "raise":
            raise DataError(
                f"layer '{layer}': {parameter} holds {bad} NaN or inf of {tensor.numel()} values; "
                "pass nonfinite='skip' to leave such tensors out"
            )
        if not bad:
            yield layer, parameter, tensor
    if not matched:
        pattern = layers if isinstance(layers, str) else ", ".join(layers)
        raise LayerMatchError(f"layers='{pattern}' matches no layer with weights.{closest(pattern.strip('*.'), seen)}")


def matrices(source: Source, layers: Layers, nonfinite: str) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors of two or more dimensions by label.

    Args:
        source: As in `weights`.
        layers: As in `weights`.
        nonfinite: As in `weights`.

    Yields:
        The layer's name, or `layer.parameter` where the parameter is not called `weight`; tensor in its own shape.
    """
    for layer, parameter, tensor in weights(source, layers, nonfinite=nonfinite, min_dims=2):
        yield label(layer, parameter), tensor


def label(layer: str, parameter: str) -> str:
    """Return how a table names a tensor: the layer alone for its `weight`, so that no two tensors share a name.

    Args:
        layer: Layer name.
        parameter: Parameter name.
    """
    return layer if parameter == "weight" else f"{layer}.{parameter}"


def table(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return frames below each other; an empty table of the same columns where there are none.

    Args:
        frames: With these columns.
        columns: Their order.
    """
    import pandas as pd

    return pd.concat(frames, ignore_index=True)[list(columns)] if frames else pd.DataFrame(columns=list(columns))


def _probed(tensor: Tensor) -> bool:
    # floats packed two to a byte mean nothing without their scales
    return tensor.is_floating_point() and "float4" not in str(tensor.dtype)


def _all(source: Source, nonfinite: str) -> Named:
    if isinstance(source, nn.Module):
        yield from _of_module(source)
        return
    if isinstance(source, str | Path):
        pairs = iter_tensors(source, nonfinite="skip" if nonfinite == "skip" else "raise")
    elif isinstance(source, Mapping):
        pairs = _untied(source)
    else:
        raise DataError(
            f"a probe was given a {type(source).__name__}; allowed: a torch module, tensors by name, or a checkpoint's path"
        )
    for name, tensor in pairs:
        layer, _, parameter = name.rpartition(".")
        yield _owned(layer, parameter, tensor)


def _untied(held: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in held.items():
        if not isinstance(tensor, Tensor):
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and tensor.data_ptr() and key in seen:
            continue
        seen.add(key)
        yield name, tensor


def _of_module(model: nn.Module) -> Named:
    seen: set[int] = set()
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.endswith("parametrizations") or ".parametrizations." in name or name.startswith(inside or ("\0",)):
            continue
        if hasattr(module, "merged_weight"):  # an adapted layer: what the forward uses is the merged weight
            inside += (f"{name}." if name else "",)
            with torch.no_grad():
                yield _owned(name, "weight", module.merged_weight())  # type: ignore[operator]
            continue
        if parametrize.is_parametrized(module):
            for parameter, held in module.parametrizations.items():  # type: ignore[operator,union-attr]
                key = id(getattr(held, "original", held))
                if key not in seen:
                    seen.add(key)
                    with torch.no_grad():
                        yield _owned(name, parameter, getattr(module, parameter))
        for parameter, value in module.named_parameters(recurse=False):
            if id(value) not in seen:
                seen.add(id(value))
                yield _owned(name, parameter, value)


def _owned(owner: str, parameter: str, tensor: Tensor) -> tuple[str, str, Tensor]:
    return (owner, parameter, tensor.detach()) if owner else (parameter, "weight", tensor.detach())
