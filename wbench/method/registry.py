"""Finding methods: ours by walking `wbench.methods`, third parties' by the entry point group `wbench.methods`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from importlib.metadata import entry_points

from wbench.errors import UnknownNameError, closest
from wbench.method.base import Method

GROUP = "wbench.methods"


@functools.cache
def registry() -> dict[str, type[Method]]:
    """Return every method class by id, ours and plug-ins', sorted by stage and id.

    A plug-in that cannot be imported, is no `Method` or takes an id that exists is left out with a warning that names it.
    """
    found: dict[str, type[Method]] = {}
    package = importlib.import_module("wbench.methods")
    for info in pkgutil.walk_packages(package.__path__, prefix="wbench.methods."):
        if info.ispkg:
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == info.name and value.id:
                found[value.id] = value
    for point in entry_points(group=GROUP):
        try:
            plugin = point.load()
        except Exception as error:  # a broken plug-in must not take ours down
            warnings.warn(f"plug-in method '{point.name}' ({point.value}) cannot be imported: {error}", stacklevel=2)
            continue
        if not (isinstance(plugin, type) and issubclass(plugin, Method)):
            warnings.warn(
                f"plug-in '{point.name}' ({point.value}) is not a wbench Method; it is left out", stacklevel=2
            )
        elif plugin.id in found:
            warnings.warn(
                f"plug-in '{point.name}' ({point.value}) takes the existing id '{plugin.id}'; it is left out",
                stacklevel=2,
            )
        else:
            found[plugin.id] = plugin
    return dict(sorted(found.items(), key=lambda item: (item[1].kind != "method", item[1].stage, item[0])))


def get(method_id: str) -> type[Method]:
    """Return a method's class.

    Args:
        method_id: Its id, e.g. `galore`.

    Raises:
        UnknownNameError: If there is none; names the closest.
    """
    found = registry()
    if method_id not in found:
        raise UnknownNameError(f"unknown method '{method_id}'.{closest(method_id, found)}")
    return found[method_id]
