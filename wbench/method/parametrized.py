"""The parametrization stage, and quantised layers on top of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import CompositionError
from wbench.method.base import Stage
from wbench.method.context import Context
from wbench.method.layerwise import LayerwiseMethod
from wbench.method.select import sharers
from wbench.recipe import Recipe


class Parametrization(LayerwiseMethod):
    """Rewrites a weight on every forward: `w = g(v)`, the optimizer trains `v`.

    A subclass gives `reparametrize`; the rest is `torch.nn.utils.parametrize`. A tied weight is parametrised once and all
    of its users see the same `g(v)`.
    """

    stage: ClassVar[Stage] = "parametrization"

    @abstractmethod
    def reparametrize(self, weight: Tensor, name: str) -> nn.Module:
        """Return the module that computes the weight.

        Args:
            weight: The layer's weight as it is, any shape.
            name: The layer's name, for messages.

        Returns:
            A module with `forward(v) -> w` and, unless `v = w` is a valid start, `right_inverse(w) -> v`.
        """

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        context = Context.of(ctx)
        places = sharers(model)
        for name, layer in self.select(model).items():
            if parametrize.is_parametrized(layer, "weight"):
                if any(getattr(part, "wbench_owner", None) == self.id for part in layer.parametrizations["weight"]):  # type: ignore[union-attr,index]
                    continue
                raise CompositionError(
                    f"{self.id}: the weight of layer '{name}' is already parametrised; exclude it: layers=('*', '!{name}')"
                )
            weight = layer.weight
            if not weight.requires_grad:
                who = context.frozen_by(weight)  # type: ignore[arg-type]
                reason = f"was frozen by {who}" if who else "is frozen (requires_grad=False)"
                raise CompositionError(
                    f"{self.id}: the weight of layer '{name}' {reason}, so parametrising it has no effect; "
                    f"exclude it: layers=('*', '!{name}')"
                )
            part = self.reparametrize(weight.detach(), name)
            part.wbench_owner = self.id  # type: ignore[assignment]
            value = weight.detach().clone()
            original: Tensor | None = None
            for _, module, attribute in places[id(weight)]:
                if original is not None:  # torch keeps the parameter object as `original`, which now holds v
                    module.register_parameter(attribute, nn.Parameter(value.clone()))
                parametrize.register_parametrization(module, attribute, part)
                held = module.parametrizations[attribute]
                original = held.original if original is None else original
                held.original = original
        return model

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        baked: dict[int, nn.Parameter] = {}
        for module in list(model.modules()):
            if not parametrize.is_parametrized(module):
                continue
            for attribute in list(module.parametrizations):  # type: ignore[arg-type]
                chain = module.parametrizations[attribute]  # type: ignore[union-attr,index]
                if not any(getattr(part, "wbench_owner", None) == self.id for part in chain):
                    continue
                original = chain.original
                if id(original) not in baked:
                    with torch.no_grad():
                        baked[id(original)] = nn.Parameter(getattr(module, attribute).detach().clone())
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
                setattr(module, attribute, baked[id(original)])
        return model

    def restore_forms(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the parametrising module of each layer this method is on.

        Args:
            model: A prepared model.

        Returns:
            Layer name to the module that `reparametrize` made; a shared one under its first layer only.
        """
        found: dict[str, nn.Module] = {}
        seen: set[int] = set()
        for name, module in model.named_modules():
            if parametrize.is_parametrized(module, "weight"):
                for part in module.parametrizations["weight"]:  # type: ignore[union-attr,index]
                    if getattr(part, "wbench_owner", None) == self.id and id(part) not in seen:
                        seen.add(id(part))
                        found[name] = part
        return found


class QuantizedLayers(Parametrization):
    """Fake quantisation of weights, inputs and outputs: three functions, the last two the identity unless overridden.

    `finish` bakes the quantised weights; quantised inputs and outputs stay, so a method with those is `rebuilt`.
    """

    @abstractmethod
    def quantize_weight(self, weight: Tensor) -> Tensor:
        """Return the weight that the forward uses, differentiable (straight-through).

        Args:
            weight: The float weight.
        """

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return the layer's input as the forward uses it.

        Args:
            x: The input.
        """
        return x

    def quantize_output(self, y: Tensor) -> Tensor:
        """Return the layer's output as the next layer sees it.

        Args:
            y: The output.
        """
        return y

    def reparametrize(self, weight: Tensor, name: str) -> nn.Module:
        return _Apply(self.quantize_weight)

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        return self._hook_activations(super().prepare(model, ctx))

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        return self._hook_activations(super().restore(model, state))

    def _hook_activations(self, model: nn.Module) -> nn.Module:
        for layer in self.select(model).values():
            if type(self).quantize_input is not QuantizedLayers.quantize_input:
                layer.register_forward_pre_hook(_InputHook(self.quantize_input))
            if type(self).quantize_output is not QuantizedLayers.quantize_output:
                layer.register_forward_hook(_OutputHook(self.quantize_output))
        return model


class _Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, v: Tensor) -> Tensor:
        return self.function(v)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


class _InputHook:
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.function(args[0]), *args[1:])


class _OutputHook:
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.function(output)
