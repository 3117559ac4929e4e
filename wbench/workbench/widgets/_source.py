"""JavaScript and style sheets as text.

A widget whose source is a file keeps a callback for each instance and is never freed, and a browser cannot import one widget's file
from another's: so a module and what it imports are joined into one text.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

_FOLDER = files(__package__) / "js"
_IMPORT = re.compile(r'^import (?P<names>.+) from "\./(?P<file>[\w.]+)"(?: with \{ type: "json" \})?;\n', re.MULTILINE)


@cache
def script(name: str) -> str:
    """Return a module with the modules and JSON files that it imports, each once.

    Args:
        name: A file in `js/`.
    """
    return _joined(name, set())


@cache
def style(*names: str) -> str:
    """Return style sheets as one text.

    Args:
        *names: Files in `js/`.
    """
    return "\n".join((_FOLDER / name).read_text("utf-8") for name in names)


@cache
def colours() -> dict[str, Any]:
    """Return the colours of both themes, as the browser reads them.

    Returns:
        Theme (`light`, `dark`) to its page's colours (`paper`, `ink`, `muted`, `grid`, `axis`) and to `map`, what to draw instead of
        a colour of `wbench.plots`.
    """
    return json.loads((_FOLDER / "colours.json").read_text("utf-8"))


def _joined(name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    text = (_FOLDER / name).read_text("utf-8")
    if name.endswith(".json"):
        return f"const {name.removesuffix('.json')} = {text.strip()};\n"
    before = "".join(_joined(found["file"], seen) for found in _IMPORT.finditer(text))
    body = _IMPORT.sub("", text)
    return before + (re.sub(r"^export (?!default)", "", body, flags=re.MULTILINE))
