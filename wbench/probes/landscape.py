"""The loss along one or two directions in weight space (Li et al., 2018, arXiv:1712.09913)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wbench.errors import FitError, KnobError, closest

if TYPE_CHECKING:
    import pandas as pd

Direction = Mapping[str, Tensor]


def landscape(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor | float],
    *,
    directions: Literal["random"] | Direction | Sequence[Direction] = "random",
    dims: Literal[1, 2] = 1,
    span: float = 1.0,
    points: int = 21,
    seed: int = 0,
    normalize: Literal["filter", "none"] = "filter",
    center: Direction | None = None,
) -> pd.DataFrame:
    """Return the loss around a model's weights.

    A direction is normalised filter by filter: each row of a linear weight and each output channel of a convolution gets the
    norm of the weight's own. Parameters of fewer than two dimensions (biases, norms) stay as they are, as in the authors' code.
    Buffers are not moved. Of a parametrised layer the raw parameter is moved (the space in which it is trained, not that of the
    weight): bake it first to see the weight's own space. The model is evaluated in the mode it is in; random numbers that the
    loss draws, as for dropout, are the same at each point. Parameters, buffers, modes and random state are as before
    afterwards, bit for bit, also when `loss` raises.

    Args:
        model: The model, in the mode in which `loss` shall see it.
        loss: Evaluates the model to one number; called points ** dims times, without gradients.
        directions: `random`, or own directions, parameter name to tensor, one an axis (a parameter left out is not moved).
        dims: 1 or 2.
        span: The coordinates run from -span to span.
        points: Points an axis; odd, so that the centre is one of them.
        seed: Decides random directions and what the loss draws.
        normalize: `filter`, or `none` to take directions as they are.
        center: Weights at the origin, parameter name to tensor; default: the model's own.

    Returns:
        One row a point. Columns: alpha, beta (0 in one dimension), loss (NaN or infinite where the loss is).

    Raises:
        KnobError: If `points` is not odd, `span` not positive, or another option is none of those allowed.
        FitError: If a direction or the centre does not fit the model, or `loss` does not return one number.
    """
    import pandas as pd

    _check(dims, span, points, normalize)
    params = {name: param for name, param in model.named_parameters() if param.is_floating_point()}
    origin = {**{name: param.detach().clone() for name, param in params.items()}, **_fitting(center or {}, params)}
    given = _given(directions, dims, origin, seed)
    axes = [
        _normalized(direction, origin) if normalize == "filter" else _fitting(direction, params) for direction in given
    ]
    grid = np.linspace(-span, span, points).tolist()
    rows = []
    with unchanged(model), torch.no_grad():
        for beta in grid if dims == 2 else [0.0]:
            for alpha in grid:
                for name, param in params.items():
                    param.copy_(_moved(origin[name], [axis.get(name) for axis in axes], (alpha, beta)))
                torch.manual_seed(seed)
                with unchanged(model, parameters=False):
                    value = loss(model)
                rows.append({"alpha": alpha, "beta": beta, "loss": _number(value)})
    return pd.DataFrame(rows, columns=["alpha", "beta", "loss"])


@contextmanager
def unchanged(model: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Put buffers, modes and, unless told otherwise, parameters and random state back as they were, whatever happens inside.

    Args:
        model: The model; it holds the same tensor objects again afterwards.
        parameters: Whether parameters and random state are put back too.

    Yields:
        Nothing.
    """
    held: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    for module in model.modules():
        stores: list[dict[str, Any]] = [module._buffers, module._parameters] if parameters else [module._buffers]
        for store in stores:
            held += [(store, name, part, part.detach().clone()) for name, part in store.items() if part is not None]
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device.index for _, _, tensor, _ in held if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=[index for index in devices if index is not None], enabled=parameters):
            yield
    finally:
        with torch.no_grad():
            for store, name, tensor, value in held:
                if not _expanded(tensor):  # which nobody can have written to
                    tensor.copy_(value)
                store[name] = tensor
        for module, training in modes:
            module.training = training


def random_direction(like: nn.Module | Mapping[str, Tensor], seed: int | torch.Generator) -> dict[str, Tensor]:
    """Return a standard normal direction.

    Args:
        like: A model, or tensors by name.
        seed: Decides it.

    Returns:
        Name to tensor, of each floating parameter's shape.
    """
    rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    named = like.named_parameters() if isinstance(like, nn.Module) else like.items()
    return {
        name: torch.randn(param.shape, generator=rng).to(param) for name, param in named if param.is_floating_point()
    }


def filter_normalized(direction: Tensor, weight: Tensor) -> Tensor:
    """Return a direction whose filters have the norms of the weight's filters; zero for fewer than two dimensions.

    Args:
        direction: (out, ...).
        weight: The same shape.

    Returns:
        The same shape; a filter of zeros stays zero.
    """
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    shape = (-1, *[1] * (weight.ndim - 1))
    own = direction.flatten(1).norm(dim=1).view(shape)
    scale = weight.flatten(1).norm(dim=1).view(shape) / own
    return direction * torch.where(own > 0, scale, torch.zeros_like(scale))


def _expanded(tensor: Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _check(dims: int, span: float, points: int, normalize: str) -> None:
    if dims not in {1, 2}:
        raise KnobError(f"dims={dims} is not allowed; allowed: 1 or 2")
    if points < 3 or points % 2 == 0:
        raise KnobError(f"points={points} is not allowed; allowed: an odd number of at least 3")
    if not 0 < span < float("inf"):
        raise KnobError(f"span={span} is not allowed; allowed: a positive number")
    if normalize not in {"filter", "none"}:
        raise KnobError(f"normalize={normalize!r} is not allowed; allowed: filter, none")


def _given(
    directions: str | Direction | Sequence[Direction], dims: int, origin: Direction, seed: int
) -> Sequence[Direction]:
    if isinstance(directions, str):
        if directions != "random":
            raise KnobError(f"directions={directions!r} is not allowed; allowed: random, or tensors by parameter name")
        rng = torch.Generator().manual_seed(seed)
        return [random_direction(origin, rng) for _ in range(dims)]
    several = [directions] if isinstance(directions, Mapping) else directions
    if len(several) != dims:
        raise KnobError(f"{len(several)} directions were given for dims={dims}; give one an axis")
    return several


def _fitting(given: Direction, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, part in given.items():
        if name not in params:
            raise FitError(f"'{name}' is no parameter of the model.{closest(name, params)}")
        if part.shape != params[name].shape:
            raise FitError(f"'{name}' has shape {tuple(part.shape)}; the model's has {tuple(params[name].shape)}")
    return {name: part.detach().to(params[name]) for name, part in given.items()}


def _normalized(direction: Direction, origin: Direction) -> dict[str, Tensor]:
    return {name: filter_normalized(part, origin[name]) for name, part in _fitting(direction, origin).items()}


def _moved(start: Tensor, along: Sequence[Tensor | None], at: tuple[float, float]) -> Tensor:
    for direction, coordinate in zip(along, at, strict=False):
        if direction is not None and coordinate != 0.0:
            start = start + coordinate * direction
    return start


def _number(value: Tensor | float) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise FitError(f"the loss has shape {tuple(value.shape)}; it must be one number, e.g. a mean")
    return float(value)
