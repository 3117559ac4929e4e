"""The adapter stage."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import CompositionError, FitError
from wbench.globs import matches
from wbench.knobs import knob
from wbench.method.base import Stage
from wbench.method.context import Context
from wbench.method.layerwise import LINEAR, LayerwiseMethod
from wbench.method.select import replace_module, tied_layers
from wbench.recipe import Recipe


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
    """Adds trainable parameters beside frozen ones: everything else in the model is frozen, but for other adapters' parameters.

    A subclass gives `adapt`.
    """

    stage: ClassVar[Stage] = "adapter"
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    layers: str | tuple[str, ...] = knob(
        ("*", "!*head*"), doc="Globs of adapted layers; the head is left out by default."
    )
    trainable: str | tuple[str, ...] = knob(
        (), doc="Globs of modules that stay trainable beside the adapters, e.g. 'head'."
    )

    @abstractmethod
    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        """Return the adapted layer.

        Args:
            linear: The layer, to be kept inside; weight `(out_features, in_features)`.
            name: Its name, for messages.
        """

    def adapt_all(self, layers: Mapping[str, nn.Linear]) -> dict[str, AdaptedLayer]:
        """Return the adapted layers; overridden where one layer's form depends on the others, as a rank under a common budget.

        Args:
            layers: All that will be adapted, by name.
        """
        return {name: self.adapt(layer, name) for name, layer in layers.items()}

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        context = Context.of(ctx)
        chosen = self.select(model)
        tied = set(tied_layers(model))
        for name, layer in list(chosen.items()):
            holder = model.get_submodule(name.rpartition(".")[0])
            if isinstance(holder, AdaptedLayer):
                why = f"is adapted by {getattr(holder, 'wbench_owner', 'another method')} already"
            elif name in tied:
                why = "shares its weight with another module, which merging would change too"
            elif parametrize.is_parametrized(layer):
                why = "is parametrised by another method, whose parameters would be frozen"
            else:
                continue
            explicit = self.layers != type(self).model_fields["layers"].default
            if explicit or name not in tied:
                raise CompositionError(f"{self.id}: layer '{name}' {why}; exclude it: layers=('*', '!{name}')")
            warnings.warn(f"{self.id}: layer '{name}' {why}; it is left as it is", stacklevel=2)
            del chosen[name]
        if not chosen:
            raise FitError(f"{self.id}: no layer is left to adapt")
        frozen = self._to_freeze(model)
        adapted = self.adapt_all(chosen)  # type: ignore[arg-type]
        for param in frozen.values():
            param.requires_grad_(False)
        context.mark_frozen(frozen.values(), self.id)
        for name, layer in adapted.items():
            layer.wbench_owner, layer.wbench_frozen = self.id, tuple(frozen)  # type: ignore[assignment]
            model = replace_module(model, name, layer)
        return model

    def _to_freeze(self, model: nn.Module) -> dict[str, nn.Parameter]:
        # all but what `trainable` names and what other adapters train; other methods' weights are not frozen behind their back
        kept: set[int] = set()
        for name, module in model.named_modules():
            if self.trainable and name and matches(name, self.trainable):
                kept.update(map(id, module.parameters()))
            if isinstance(module, AdaptedLayer):
                kept.update({id(param) for param in module.parameters()} - {id(p) for p in module.base.parameters()})
        frozen = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in kept}
        ids = set(map(id, frozen.values()))
        idle: dict[str, str] = {}
        for name, module in model.named_modules():
            for chain in module.parametrizations.children() if parametrize.is_parametrized(module) else ():
                owners = [part.wbench_owner for part in chain.children() if hasattr(part, "wbench_owner")]
                if owners and any(id(param) in ids for param in chain.parameters()):
                    idle[name] = str(owners[0])
        if idle:
            raise CompositionError(
                f"{self.id} freezes all but its adapters, so that {', '.join(dict.fromkeys(idle.values()))} would train nothing "
                f"in {', '.join(idle)}; keep these: trainable={tuple(idle)}"
            )
        self._check_rewritten(model, ids)
        return frozen

    def _check_rewritten(self, model: nn.Module, frozen: set[int]) -> None:
        # a method that rewrites weights after each step marks their layers with its id, as `wbench_rewriter`
        rewritten: dict[str, dict[str, nn.Parameter]] = {}
        for name, module in model.named_modules():
            if rewriter := getattr(module, "wbench_rewriter", None):
                rewritten.setdefault(str(rewriter), {})[name] = module.weight  # type: ignore[assignment]
        for rewriter, weights in rewritten.items():
            if all(id(weight) in frozen or not weight.requires_grad for weight in weights.values()):
                raise CompositionError(
                    f"{self.id} freezes all but its adapters, so that {rewriter}, which rewrites the weights of {', '.join(weights)} "
                    f"after each step, would do nothing; leave it a layer, by layers= and trainable= of {self.id}"
                )

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
