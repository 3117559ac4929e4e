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

INPUT, OUTPUT = "input_quantizer", "output_quantizer"


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
    """Fake quantisation of weights, inputs and outputs.

    A subclass gives functions (`quantize_weight`, and `quantize_input` or `quantize_output` where it has them), or, for
    quantisers with state (a schedule, learned scales), modules (`weight_quantizer`, `input_quantizer`, `output_quantizer`).
    Those of inputs and outputs are submodules of the layer, so that they are trained, moved and saved with it.
    `finish` bakes the quantised weights; quantised inputs and outputs stay, so a method with those is `rebuilt`.
    """

    def quantize_weight(self, weight: Tensor) -> Tensor:
        """Return the weight that the forward uses, differentiable (straight-through).

        Args:
            weight: The float weight.

        Raises:
            CompositionError: Unless this or `weight_quantizer` is overridden.
        """
        raise CompositionError(f"{self.id} gives neither quantize_weight nor weight_quantizer")

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

    def weight_quantizer(self, weight: Tensor, name: str) -> nn.Module:
        """Return the module that computes the weight; default: one that calls `quantize_weight`.

        Args:
            weight: The layer's weight as it is.
            name: The layer's name, for messages.
        """
        return _Apply(self.quantize_weight)

    def input_quantizer(self, layer: nn.Module, name: str) -> nn.Module | None:
        """Return the module that computes the layer's input, or `None` to leave it; default: calls `quantize_input`, if given.

        Args:
            layer: The layer.
            name: Its name, for messages.
        """
        given = type(self).quantize_input is not QuantizedLayers.quantize_input
        return _Apply(self.quantize_input) if given else None

    def output_quantizer(self, layer: nn.Module, name: str) -> nn.Module | None:
        """Return the module that computes the layer's output, or `None` to leave it; default: calls `quantize_output`, if given.

        Args:
            layer: The layer.
            name: Its name, for messages.
        """
        given = type(self).quantize_output is not QuantizedLayers.quantize_output
        return _Apply(self.quantize_output) if given else None

    def reparametrize(self, weight: Tensor, name: str) -> nn.Module:
        return self.weight_quantizer(weight, name)

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        return self._quantize_activations(super().prepare(model, ctx))

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        return super().restore(self._quantize_activations(model), state)

    def _quantize_activations(self, model: nn.Module) -> nn.Module:
        for name, layer in self.select(model).items():
            for place, made in ((INPUT, self.input_quantizer), (OUTPUT, self.output_quantizer)):
                quantizer = made(layer, name)
                if quantizer is None:
                    continue
                if hasattr(layer, place):
                    raise CompositionError(
                        f"{self.id}: layer '{name}' has an {place} already; exclude it: layers=('*', '!{name}')"
                    )
                quantizer.wbench_owner = self.id  # type: ignore[assignment]
                layer.add_module(place, quantizer)
                if place == INPUT:
                    layer.register_forward_pre_hook(_quantized_input)
                else:
                    layer.register_forward_hook(_quantized_output)
        return model

    def quantizers(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return every quantiser of this method in a model, of weights, inputs and outputs.

        Args:
            model: A prepared or finished model.

        Returns:
            Module name to module; a shared one once.
        """
        return {name: part for name, part in model.named_modules() if getattr(part, "wbench_owner", None) == self.id}


class _Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, v: Tensor) -> Tensor:
        return self.function(v)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


def _quantized_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.get_submodule(INPUT)(args[0]), *args[1:])


def _quantized_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.get_submodule(OUTPUT)(output)  # type: ignore[no-any-return]
