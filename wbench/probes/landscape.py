"""The loss along one or two directions in weight space (Li et al., 2018, arXiv:1712.09913)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wbench.errors import FitError, KnobError

if TYPE_CHECKING:
    import pandas as pd

Direction = Mapping[str, Tensor]


def landscape(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor | float],
    *,
    dims: Literal[1, 2] = 1,
    span: float = 1.0,
    points: int = 21,
    directions: Sequence[Direction] | None = None,
    normalize: Literal["filter", "none"] = "filter",
    seed: int = 0,
) -> pd.DataFrame:
    """Return the loss around a model's weights.

    A direction is normalised filter by filter: each row of a linear weight and each output channel of a convolution gets the
    norm of the weight's own. Parameters of fewer than two dimensions (biases, norms) stay as they are, as in the authors' code.
    Buffers are not moved. Of a parametrised layer the raw parameter is moved: bake it first to see the weight's own space.
    Parameters, buffers and mode are as before afterwards, bit for bit, also when `loss` raises.

    Args:
        model: The model, in the mode in which `loss` shall see it.
        loss: Evaluates the model; called points ** dims times, without gradients.
        dims: 1 or 2.
        span: The coordinates run from -span to span.
        points: Points an axis; odd, so that the model itself is one of them.
        directions: Own directions, parameter name to tensor, one an axis; default: random by `seed`.
        normalize: `filter`, or `none` to take directions as they are.
        seed: Decides random directions.

    Returns:
        One row a point. Columns: alpha, beta (0 in one dimension), loss (not finite where the loss is not).

    Raises:
        KnobError: If `points` is not odd or `dims` not 1 or 2.
        FitError: If a direction does not fit the model.
    """
    import pandas as pd

    if dims not in {1, 2}:
        raise KnobError(f"dims={dims} is not allowed; allowed: 1 or 2")
    if points < 3 or points % 2 == 0:
        raise KnobError(f"points={points} is not allowed; allowed: an odd number of at least 3")
    if directions is not None and len(directions) != dims:
        raise KnobError(f"{len(directions)} directions were given for dims={dims}; give one an axis")
    params = dict(model.named_parameters())
    given = directions if directions is not None else [random_direction(model, seed + axis) for axis in range(dims)]
    axes = [_fitted(direction, params, normalize) for direction in given]
    saved = {name: param.detach().clone() for name, param in params.items()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    grid = np.linspace(-span, span, points)
    rows = []
    try:
        with torch.no_grad():
            for beta in grid if dims == 2 else [0.0]:
                for alpha in grid:
                    _move(params, saved, axes, (float(alpha), float(beta)))
                    rows.append({"alpha": float(alpha), "beta": float(beta), "loss": float(loss(model))})
                    _restore_buffers(model, buffers)
    finally:
        with torch.no_grad():
            for name, param in params.items():
                param.copy_(saved[name])
        _restore_buffers(model, buffers)
        for name, module in model.named_modules():
            module.training = modes[name]
    return pd.DataFrame(rows)


def random_direction(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return a standard normal direction.

    Args:
        model: The model.
        seed: Decides it.

    Returns:
        Parameter name to tensor, of each parameter's shape.
    """
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(param.shape, generator=rng).to(param) for name, param in model.named_parameters()}


def filter_normalized(direction: Tensor, weight: Tensor) -> Tensor:
    """Return a direction whose filters have the norms of the weight's filters; zero for fewer than two dimensions.

    Args:
        direction: (out, ...).
        weight: The same shape.

    Returns:
        The same shape.
    """
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    shape = (-1, *[1] * (weight.ndim - 1))
    own = direction.flatten(1).norm(dim=1).clamp_min(1e-10).view(shape)
    return direction * (weight.flatten(1).norm(dim=1).view(shape) / own)


def _fitted(direction: Direction, params: Mapping[str, Tensor], normalize: str) -> dict[str, Tensor]:
    for name, part in direction.items():
        if name not in params or part.shape != params[name].shape:
            has = tuple(params[name].shape) if name in params else "no such parameter"
            raise FitError(f"direction '{name}' of shape {tuple(part.shape)} does not fit the model, which has {has}")
    if normalize == "none":
        return {name: part.to(params[name]) for name, part in direction.items()}
    return {name: filter_normalized(part.to(params[name]), params[name].detach()) for name, part in direction.items()}


def _move(
    params: Mapping[str, Tensor], saved: Mapping[str, Tensor], axes: list[dict[str, Tensor]], at: tuple[float, float]
) -> None:
    for name, param in params.items():
        moved = saved[name]
        for axis, coordinate in zip(axes, at, strict=False):
            if name in axis and coordinate != 0.0:
                moved = moved + coordinate * axis[name]
        param.copy_(moved)


def _restore_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
