"""What a cell shows: escaped HTML, figures with captions, tables. Nothing is a widget."""

from __future__ import annotations

import html
import importlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Html:
    """HTML to display; everything in it was escaped by its maker.

    Args:
        text: The HTML.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


class Figure:
    """A figure with a heading and a sentence: drawn by JupyterLab itself, and as plain HTML in a report.

    Args:
        figure: A plotly figure.
        title: Heading.
        caption: What to see in it, with numbers.
    """

    def __init__(self, figure: go.Figure, title: str, caption: str = "") -> None:
        self.figure, self.title, self.caption = figure, title, caption

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from wbench.plots import CONFIG

        head = f"<h3>{html.escape(self.title)}</h3>"
        note = f'<p class="caption">{html.escape(self.caption)}</p>' if self.caption else ""
        div = self.figure.to_html(
            full_html=False, include_plotlyjs=False, include_mathjax=False, config=CONFIG, auto_play=False
        )
        shown = json.loads(self.figure.to_json())
        return {"text/html": head + div + note, "application/vnd.plotly.v1+json": {**shown, "config": CONFIG}}


def table(frame: pd.DataFrame, *, index: bool = False) -> Html:
    """Return a table.

    Args:
        frame: The table.
        index: Whether to show its index.
    """

    def number(value: float) -> str:
        return f"{value:.4g}"

    return Html(
        f'<div class="wide">{frame.to_html(index=index, escape=True, border=0, float_format=number, na_rep="")}</div>'
    )


def spread(values: Sequence[float] | pd.Series) -> str:
    """Return mean and, of several values, standard deviation in words; nothing where there is no value.

    Args:
        values: One a seed.
    """
    import numpy as np

    if not len(values):
        return ""
    return f"{np.mean(values):.4g}" + (f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else "")


def show(*items: object) -> None:
    """Display several things, one below the other; `None` is left out.

    Args:
        *items: Figures, tables, HTML.
    """
    from IPython.display import display

    for item in items:
        if item is not None:
            display(item)


def resolve(address: str) -> Callable[..., Any]:
    """Return what `module:function` names.

    Args:
        address: As a class attribute of ours or of a plug-in.
    """
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
