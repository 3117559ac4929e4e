"""Many models of one shape as one: stacked tensors, of which each model's own parameters are views."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.knobs import Knobs
from wbench.splits import tensors_checksum

LANES = 16  # numbers that a vector unit takes at once; what is left over at the end may be rounded in another way
HOLDERS = {"_parameters", "_buffers", "_modules", "training", "_non_persistent_buffers_set"}
DEPTH = 6


class CannotVectorizeError(WBenchError):
    """Runs that cannot train in one vectorised step; the message says why. They train one by one instead."""


class Stack:
    """Models whose tensors lie in one stack each: a change of the stack is a change of the models, and the other way round.

    Args:
        models: Of one `signature`, on one device.

    Attributes:
        models: The models; their parameters and buffers are views from now on.
        tensors: Parameter or buffer name to the stack, `(members, ...)`; trainable ones require a gradient.
        trainable: Names of those that do.
        flat: Trainable name to its memory, `(members, numbers)`, each row filled up with zeros to whole vectors, so that an
            optimizer's rounding of a member does not depend on its place.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = list(models)
        self.tensors: dict[str, Tensor] = {}
        self.trainable: list[str] = []
        self.flat: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, param in models[0].named_parameters():
                parts = [model.get_parameter(name) for model in models]
                stacked = self._rows(name, param)
                for own, part in zip(stacked, parts, strict=True):
                    own.copy_(part)
                for part, own in zip(parts, stacked, strict=True):
                    part.data = own
                self.tensors[name] = stacked.requires_grad_(param.requires_grad)
                if param.requires_grad:
                    self.trainable.append(name)
            for name, _ in models[0].named_buffers():
                stacked = torch.stack([model.get_buffer(name) for model in models])
                for model, own in zip(models, stacked, strict=True):
                    owner, _, attribute = name.rpartition(".")
                    model.get_submodule(owner)._buffers[attribute] = own
                self.tensors[name] = stacked

    def _rows(self, name: str, param: Tensor) -> Tensor:
        numbers = param.numel()
        width = -(-numbers // LANES) * LANES if param.requires_grad else numbers
        flat = torch.zeros(len(self.models), width, dtype=param.dtype, device=param.device)
        if param.requires_grad:
            self.flat[name] = flat
        return flat[:, :numbers].unflatten(1, param.shape) if param.ndim else flat[:, 0]

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.models)

    @property
    def leaves(self) -> list[Tensor]:
        """The trainable stacks."""
        return [self.tensors[name] for name in self.trainable]

    def member_grads(self, grads: Sequence[Tensor | None]) -> None:
        """Give each model's parameters their gradient.

        Args:
            grads: One of each trainable stack's shape, or `None` where the loss does not depend on it.
        """
        for name, grad in zip(self.trainable, grads, strict=True):
            parts = grad.unbind(0) if grad is not None else [None] * len(self)
            for model, part in zip(self.models, parts, strict=True):
                param = model.get_parameter(name)
                param.grad = part if param.requires_grad else None

    def check(self) -> None:
        """Look whether the models still are what was stacked.

        Raises:
            CannotVectorizeError: If a tensor was replaced, or a plain attribute differs between the models.
        """
        for name, stacked in self.tensors.items():
            for index, model in enumerate(self.models):
                owner, _, attribute = name.rpartition(".")
                module = model.get_submodule(owner)
                held = module._parameters.get(attribute, module._buffers.get(attribute))
                if held is None or held.data_ptr() != stacked[index].data_ptr():
                    raise CannotVectorizeError(f"'{name}' was replaced while training; the stacked step cannot follow")
        if len({signature(model) for model in self.models}) > 1:
            raise CannotVectorizeError("the models' settings came to differ while training")


def signature(model: nn.Module) -> str:
    """Return a digest of all that must agree for models to run as one: structure, shapes, and every attribute that is no tensor.

    Args:
        model: A prepared model.

    Returns:
        Hex digits; equal for models that differ in the values of parameters and buffers only.
    """
    tokens: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        plain = {key: _values(key, value) for key, value in vars(module).items() if key not in HOLDERS}
        tokens.append((name, _kind(type(module)), _token(plain)))
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        tokens.append((name, tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad))
    places: dict[int, int] = {}
    tokens.append([places.setdefault(id(p), len(places)) for p in _all_parameters(model)])  # which are tied
    return hashlib.sha256(repr(tokens).encode()).hexdigest()


def _values(key: str, value: Any) -> Any:
    # hooks are kept under numbers that torch counts up from model to model
    return list(value.values()) if "_hooks" in key and isinstance(value, dict) else value


def _all_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [param for _, param in model.named_parameters(remove_duplicate=False)]


def _kind(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _token(value: Any, depth: int = 0) -> Any:
    """Return a value in a form that is equal for equal behaviour; for what cannot be looked into, its address."""
    again = depth + 1
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Tensor):
        return tensors_checksum([value])
    if isinstance(value, Knobs):
        return (_kind(type(value)), repr(value.fields()))
    if isinstance(value, type):
        return _kind(value)
    if depth > DEPTH:
        return id(value)
    if isinstance(value, dict):
        return [(_token(key, again), _token(part, again)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [_token(part, again) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_token(part, again)) for part in value)
    if isinstance(value, types.MethodType):
        return ("method", value.__func__.__qualname__, _token(value.__self__, again))
    if isinstance(value, types.FunctionType):
        cells = [_token(cell.cell_contents, again) for cell in value.__closure__ or ()]
        return ("function", value.__module__, value.__qualname__, repr(value.__code__.co_code), cells)
    if isinstance(value, types.BuiltinFunctionType):
        return value.__qualname__
    if isinstance(value, nn.Module):
        return signature(value) if depth < 2 else _kind(type(value))
    if hasattr(value, "__dict__") and not isinstance(value, torch.Generator):
        return (_kind(type(value)), _token(vars(value), again))
    return id(value)
