"""The other stages: each turns one or two paper-specific functions into the hooks of `Method`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import CompositionError
from wbench.method.base import Method, Stage
from wbench.method.context import Context
from wbench.method.layerwise import LayerwiseMethod
from wbench.method.select import replace_module
from wbench.ops.calibrate import layer_inputs
from wbench.recipe import Recipe


class OptimizerMethod(LayerwiseMethod):
    """Rewrites gradient, state or step: overrides `optimizer`, or `after_backward` and `after_step`."""

    stage: ClassVar[Stage] = "optimizer"


class Transform(LayerwiseMethod):
    """Rewrites a trained model's weights once, in `finish`, with the layer's inputs when it asks for them.

    Class attributes:
        calibrates: Whether `transform` needs the inputs that each layer sees on calibration data.
        calibration_samples: How many samples of it.
    """

    stage: ClassVar[Stage] = "transform"
    calibrates: ClassVar[bool] = False
    calibration_samples: ClassVar[int] = 256

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
                inputs = None
                if self.calibrates:
                    samples = Context.of(ctx).calibration(self.calibration_samples)
                    inputs = layer_inputs(model, {name: layer}, samples[0])[name]
                model = replace_module(model, name, self.transform(layer, inputs, name))
        return model


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
            chosen = self.select(model)
            for name, layer in chosen.items():
                if parametrize.is_parametrized(layer):
                    raise CompositionError(
                        f"{self.id}: layer '{name}' is parametrised by another method, which goes with it when it is replaced; "
                        f"put {self.id} on first, or exclude the layer: layers=('*', '!{name}')"
                    )
            for name, layer in chosen.items():
                model = replace_module(model, name, self.substitute(layer, name))
        return model

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        return super().restore(self.prepare(model), state)


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
