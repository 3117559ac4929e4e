"""Trees of widgets."""

from __future__ import annotations

import ipywidgets as ipw


def close_tree(widget: ipw.Widget) -> None:
    """Close a widget, what it holds, and their layouts and styles, which ipywidgets would keep.

    Args:
        widget: The root.
    """
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for part in ("layout", "style"):
        held = getattr(widget, part, None)
        if isinstance(held, ipw.Widget):
            held.close()
    widget.close()
