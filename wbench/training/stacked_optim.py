"""Optimizers of many models: torch's own, on slices of the stack where members agree in all settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wbench.recipe import Recipe
from wbench.training.stack import Stack

STACKABLE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


class MemberOptimizers:
    """One optimizer a member, stepped together where that is the same arithmetic.

    Torch's fused optimizers change each number by itself, so members that agree in rate, decay, averaging, ... are stepped as
    one slice of the stack; `optimizers[i]` shows each member's rates and, after `settle`, its state. Optimizers that methods
    bring are stepped one by one.

    Args:
        optimizers: One a member, over the members' parameters; not stepped yet.
        recipes: One a member: its schedule.
        stack: The models.
        steps: Length of the schedule.
    """

    def __init__(
        self, optimizers: Sequence[torch.optim.Optimizer], recipes: Sequence[Recipe], stack: Stack, steps: int
    ) -> None:
        self.optimizers, self._recipes, self._steps = list(optimizers), list(recipes), steps
        self._taken = 0
        self._peaks = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]
        self._constant = all(recipe.schedule == "constant" and recipe.warmup == 0 for recipe in recipes)
        self._slices = self._stacked(stack)
        self._set_rates()

    @property
    def together(self) -> bool:
        """Whether members are stepped together, so that they need no gradients of their own."""
        return bool(self._slices)

    def step(self, grads: Sequence[Tensor | None]) -> None:
        """Take one step for all members, and move their schedules on.

        Args:
            grads: Stacked gradients in the order of `stack.trainable`; members stepped one by one have theirs already.
        """
        for piece in self._slices:
            piece.step(grads)
        if not self._slices:
            for optimizer in self.optimizers:
                optimizer.step()
        self._taken += 1
        if not self._constant:
            self._set_rates()

    def settle(self) -> None:
        """Show each member's optimizer the state that was kept for it."""
        for piece in self._slices:
            piece.settle(self.optimizers)

    def _set_rates(self) -> None:
        for optimizer, recipe, peaks in zip(self.optimizers, self._recipes, self._peaks, strict=True):
            factor = recipe.lr_factor(self._taken, self._steps)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        for piece in self._slices:
            piece.copy_rates(self.optimizers[piece.start])

    def _stacked(self, stack: Stack) -> list[_Slice]:
        first = self.optimizers[0]
        if type(first) not in STACKABLE or any(type(optimizer) is not type(first) for optimizer in self.optimizers):
            return []
        names = [_names(model, optimizer) for model, optimizer in zip(stack.models, self.optimizers, strict=True)]
        if any(other != names[0] for other in names) or None in [name for group in names[0] for name in group]:
            return []
        settings = [self._settings(index) for index in range(len(stack))]
        bounds = [0, *(i for i in range(1, len(stack)) if settings[i] != settings[i - 1]), len(stack)]
        return [
            _Slice(first, a, b, stack, names[0], self.optimizers[a]) for a, b in zip(bounds, bounds[1:], strict=False)
        ]

    def _settings(self, index: int) -> Any:
        recipe = self._recipes[index]
        groups = [_plain(group) for group in self.optimizers[index].param_groups]
        return groups, recipe.schedule, recipe.warmup, recipe.final_lr


class _Slice:
    """Members `start` to `stop`, which agree in all settings, as one torch optimizer over that part of the stack."""

    def __init__(
        self,
        kind: torch.optim.Optimizer,
        start: int,
        stop: int,
        stack: Stack,
        names: list[list[str | None]],
        like: torch.optim.Optimizer,
    ) -> None:
        self.start, self.stop = start, stop
        place = {name: index for index, name in enumerate(stack.trainable)}
        self._params: list[tuple[int, Tensor, Tensor | None]] = []
        groups: list[dict[str, Any]] = []
        for group, own in zip(like.param_groups, names, strict=True):
            params = []
            for name in own:
                flat, shape = stack.flat[str(name)][start:stop], stack.tensors[str(name)].shape[1:]
                exact = flat.shape[1] == shape.numel()
                params.append(flat.detach().requires_grad_())
                self._params.append((place[str(name)], params[-1], None if exact else torch.zeros_like(flat)))
            groups.append({**_plain(group), "params": params})
        make: Any = type(kind)
        self._optimizer = make(groups)

    def copy_rates(self, like: torch.optim.Optimizer) -> None:
        for group, own in zip(self._optimizer.param_groups, like.param_groups, strict=True):
            group["lr"] = own["lr"]

    def step(self, grads: Sequence[Tensor | None]) -> None:
        for place, param, wide in self._params:
            grad = grads[place]
            if grad is None:
                param.grad = None
                continue
            rows = grad[self.start : self.stop].reshape(len(param), -1)
            if wide is not None:
                wide[:, : rows.shape[1]] = rows
            param.grad = rows if wide is None else wide
        self._optimizer.step()

    def settle(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        flat = [[param for group in optimizer.param_groups for param in group["params"]] for optimizer in optimizers]
        for position, (_, param, _) in enumerate(self._params):
            for index in range(self.start, self.stop):
                own = flat[index][position]
                optimizers[index].state[own] = {
                    key: value[index - self.start, : own.numel()].view_as(own)
                    if isinstance(value, Tensor) and value.shape == param.shape
                    else value
                    for key, value in self._optimizer.state.get(param, {}).items()
                }


def _names(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str | None]]:
    known = {id(param): name for name, param in model.named_parameters()}
    return [[known.get(id(param)) for param in group["params"]] for group in optimizer.param_groups]


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in {"params", "names", "param_names"}}
