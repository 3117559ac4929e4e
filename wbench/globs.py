"""Globs over layer names, the same wherever layers are chosen."""

from __future__ import annotations

import fnmatch

Layers = str | tuple[str, ...]


def matches(name: str, layers: Layers) -> bool:
    """Return whether a module's name matches a pattern or any of several.

    Args:
        name: Dotted module name.
        layers: Glob, e.g. `*.attn.*`; several as a tuple or separated by commas; one that starts with `!` excludes.
    """
    patterns = [part.strip() for part in layers.split(",")] if isinstance(layers, str) else list(layers)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    barred = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    hit = any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    return hit and not any(fnmatch.fnmatchcase(name, pattern) for pattern in barred)
