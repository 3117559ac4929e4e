"""Choosing layers of a model by glob over module names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from wbench.errors import FitError, LayerMatchError, closest
from wbench.globs import Layers, matches


def select(model: nn.Module, layers: Layers, types: tuple[type[nn.Module], ...], who: str) -> dict[str, nn.Module]:
    """Return the layers of given types whose names match.

    Args:
        model: The model.
        layers: Glob or globs over module names; `!` in front excludes.
        types: Module types that the method can act on.
        who: The method's id, for messages.

    Returns:
        Module name to module, in the model's order; a module used twice appears once.

    Raises:
        FitError: If the model has no layer of these types at all.
        LayerMatchError: If the pattern matches none of them; lists the closest names.
    """
    candidates = {name: module for name, module in model.named_modules() if isinstance(module, types)}
    kinds = ", ".join(kind.__name__ for kind in types)
    if not candidates:
        raise FitError(f"{who}: the model {type(model).__name__} has no layer of type {kinds}")
    chosen = {name: module for name, module in candidates.items() if matches(name, layers)}
    if not chosen:
        pattern = layers if isinstance(layers, str) else ", ".join(layers)
        hint = closest(pattern.strip("*."), candidates)
        raise LayerMatchError(f"{who}: layers='{pattern}' matches no layer of type {kinds}.{hint}")
    return chosen


def sharers(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Return, for each parameter, every place that holds it.

    Args:
        model: The model.

    Returns:
        `id(parameter)` to a list of (module name, module, attribute name); more than one entry means it is tied.
    """
    places: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for attribute, param in module._parameters.items():
            if param is not None:
                places.setdefault(id(param), []).append((name, module, attribute))
    return places


def replace_module(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put a module in another's place.

    Args:
        model: The model.
        name: Dotted name of the module to replace; empty for the model itself.
        new: What to put there.

    Returns:
        The model, or `new` when `name` is empty.
    """
    if not name:
        return new
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    return model


def tied_layers(model: nn.Module) -> Iterator[str]:
    """Yield the names of modules that share a parameter with another module.

    Args:
        model: The model.
    """
    for places in sharers(model).values():
        if len(places) > 1:
            yield from (name for name, _, _ in places)
