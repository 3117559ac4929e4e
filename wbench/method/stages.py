"""The stages: each turns one or two paper-specific functions into the hooks of `Method`."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import CompositionError, FitError
from wbench.knobs import knob
from wbench.method.base import Method, Stage
from wbench.method.context import Context
from wbench.method.select import matches, replace_module, select, sharers, tied_layers
from wbench.recipe import Recipe

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)
LINEAR_AND_CONV: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerwiseMethod(Method):
    """A method that acts on layers chosen by glob.

    Class attributes:
        layer_types: Module types that it can act on.
    """

    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR_AND_CONV
    layers: str | tuple[str, ...] = knob("*", doc="Glob over module names; several: a tuple; '!' in front excludes.")

    def select(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers the method acts on.

        Args:
            model: The model.

        Raises:
            FitError: If the model has no layer of a fitting type.
            LayerMatchError: If the pattern matches none; lists the closest names.
        """
        return select(model, self.layers, self.layer_types, self.id)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trainable weight of each selected layer; of a parametrised one, what the optimizer trains.

        Args:
            model: The prepared model.

        Returns:
            Layer name to parameter, each parameter once; frozen ones are left out.
        """
        found: dict[str, nn.Parameter] = {}
        for name, layer in self.select(model).items():
            held = layer.parametrizations["weight"].original if parametrize.is_parametrized(layer, "weight") else layer.weight  # type: ignore[union-attr,index]
            if isinstance(held, nn.Parameter) and held.requires_grad and all(held is not other for other in found.values()):
                found[name] = held
        return found


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
                raise CompositionError(f"{self.id}: the weight of layer '{name}' is already parametrised; exclude it: layers=('*', '!{name}')")
            weight = layer.weight
            if not weight.requires_grad:
                who = context.frozen_by(weight)
                reason = f"was frozen by {who}" if who else "is frozen (requires_grad=False)"
                raise CompositionError(
                    f"{self.id}: the weight of layer '{name}' {reason}, so parametrising it has no effect; "
                    f"exclude it: layers=('*', '!{name}')"
                )
            part = self.reparametrize(weight.detach(), name)
            part.wbench_owner = self.id  # type: ignore[assignment]
            original: Tensor | None = None
            for _, module, attribute in places[id(weight)]:
                parametrize.register_parametrization(module, attribute, part)
                held = module.parametrizations[attribute]  # type: ignore[union-attr,index]
                if original is None:
                    original = held.original
                else:
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


class AdaptedLayer(nn.Module):
    """A frozen layer with trainable parameters beside it; base of what `Adapter.adapt` returns.

    Args:
        base: The layer to adapt, with weight `(out_features, in_features)`.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features

    def merged_weight(self) -> Tensor:
        """Return the weight with the adapter merged in, shape `(out_features, in_features)`."""
        return self.base.weight

    @property
    def weight(self) -> Tensor:
        """The merged weight, for code that reads a layer's weight."""
        return self.merged_weight()

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's bias."""
        return self.base.bias


class Adapter(LayerwiseMethod):
    """Adds trainable parameters beside frozen ones: everything else in the model is frozen.

    A subclass gives `adapt`.
    """

    stage: ClassVar[Stage] = "adapter"
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    layers: str | tuple[str, ...] = knob(("*", "!*head*"), doc="Globs of adapted layers; the head is left out by default.")
    trainable: str | tuple[str, ...] = knob((), doc="Globs of modules that stay trainable beside the adapters, e.g. 'head'.")

    @abstractmethod
    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        """Return the adapted layer.

        Args:
            linear: The layer, to be kept inside; weight `(out_features, in_features)`.
            name: Its name, for messages.
        """

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        context = Context.of(ctx)
        chosen = self.select(model)
        tied = set(tied_layers(model))
        for name in [name for name in chosen if name in tied or parametrize.is_parametrized(chosen[name])]:
            why = "shares its weight with another module, which merging would change too"
            if name not in tied:
                why = "is parametrised by another method, whose parameters would be frozen"
            explicit = self.layers != type(self).model_fields["layers"].default
            if explicit or name not in tied:
                raise CompositionError(f"{self.id}: layer '{name}' {why}; exclude it: layers=('*', '!{name}')")
            warnings.warn(f"{self.id}: layer '{name}' {why}; it is left as it is", stacklevel=2)
            del chosen[name]
        if not chosen:
            raise FitError(f"{self.id}: no layer is left to adapt")
        adapted = {name: self.adapt(layer, name) for name, layer in chosen.items()}  # type: ignore[arg-type]
        kept = {
            id(param)
            for name, module in model.named_modules()
            if self.trainable and name and matches(name, self.trainable)
            for param in module.parameters()
        }
        frozen = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in kept}
        for param in frozen.values():
            param.requires_grad_(False)
        context.mark_frozen(frozen.values(), self.id)
        for name, layer in adapted.items():
            layer.wbench_owner, layer.wbench_frozen = self.id, tuple(frozen)  # type: ignore[assignment]
            model = replace_module(model, name, layer)
        return model

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        thawed: set[str] = set()
        for name, module in self.adapted(model).items():
            with torch.no_grad():
                module.base.weight.copy_(module.merged_weight())
            thawed.update(module.wbench_frozen)  # type: ignore[arg-type]
            model = replace_module(model, name, module.base)
        for name, param in model.named_parameters():
            if name in thawed:
                param.requires_grad_(True)
        return model

    def adapted(self, model: nn.Module) -> dict[str, AdaptedLayer]:
        """Return the adapted layers of a prepared model by name.

        Args:
            model: A prepared model.
        """
        return {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, AdaptedLayer) and getattr(module, "wbench_owner", None) == self.id
        }


class OptimizerMethod(LayerwiseMethod):
    """Rewrites gradient, state or step: overrides `optimizer`, or `after_backward` and `after_step`."""

    stage: ClassVar[Stage] = "optimizer"


class Transform(LayerwiseMethod):
    """Rewrites a trained model's weights once, in `finish`, with the layer's inputs when it asks for them.

    Class attributes:
        calibrates: Whether `transform` needs the inputs that each layer sees on calibration data.
    """

    stage: ClassVar[Stage] = "transform"
    calibrates: ClassVar[bool] = False

    @abstractmethod
    def transform(self, module: nn.Module, inputs: Tensor | None, name: str) -> nn.Module:
        """Return the module that takes the layer's place (the same one, changed in place, is fine).

        Args:
            module: The trained layer.
            inputs: What the layer saw on calibration data, `(samples, ...)`, or `None` when `calibrates` is false.
            name: Its name, for messages.
        """

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        with torch.no_grad():
            for name, layer in self.select(model).items():
                inputs = self._inputs(model, layer, Context.of(ctx)) if self.calibrates else None
                model = replace_module(model, name, self.transform(layer, inputs, name))
        return model

    def _inputs(self, model: nn.Module, layer: nn.Module, ctx: Context) -> Tensor:
        seen: list[Tensor] = []
        name = "calibration" if "calibration" in ctx.splits else "train"
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        was_training = model.training
        try:
            model.eval()
            for batch in ctx.data(name).sequential(256):
                model(batch[0].to(ctx.device))
        finally:
            handle.remove()
            model.train(was_training)
        return torch.cat(seen)


class Layer(LayerwiseMethod):
    """Replaces modules by others: overrides `substitute`; a method that builds a whole architecture overrides `build`."""

    stage: ClassVar[Stage] = "layer"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"

    def substitute(self, module: nn.Module, name: str) -> nn.Module:
        """Return the module that takes a layer's place.

        Args:
            module: The layer.
            name: Its name, for messages.
        """
        return module

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        if not type(self).overrides("build"):
            for name, layer in self.select(model).items():
                model = replace_module(model, name, self.substitute(layer, name))
        return model

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        return super().restore(self.prepare(model), state)


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
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, v: Tensor) -> Tensor:
        return self.function(v)  # type: ignore[operator,no-any-return]

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


class _InputHook:
    def __init__(self, function: object) -> None:
        self.function = function

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.function(args[0]), *args[1:])  # type: ignore[operator]


class _OutputHook:
    def __init__(self, function: object) -> None:
        self.function = function

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.function(output)  # type: ignore[operator,no-any-return]


class Objective(Method):
    """Rewrites the loss, the sample weights or the data: overrides `loss`, `penalty` or `data`."""

    stage: ClassVar[Stage] = "objective"


class Population(Method):
    """Works over many models: overrides `combine`."""

    stage: ClassVar[Stage] = "population"


class EstimatorMethod(Method):
    """A statistical procedure fitted outside a network: overrides `estimator`."""

    stage: ClassVar[Stage] = "estimator"


class Pipeline(Method):
    """Several stages at once: overrides whatever hooks it needs."""

    stage: ClassVar[Stage] = "pipeline"
