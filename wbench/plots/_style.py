"""What all figures share: colours, layout, panels, decimation."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.errors import DataError, closest

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# Okabe and Ito's colours in the order that keeps 3 : 1 contrast on white longest; then dashes and markers tell repeats apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "diamond", "x")
SIGNED = ((0.0, "#0072B2"), (0.5, "#F7F7F7"), (1.0, "#D55E00"))
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d"],
}
MAX_PANELS = 6
TITLE = {1: 100, 2: 42, 3: 26}  # characters that fit over a panel, by panels side by side
GRID, INK, GREY = "#E5E5E5", "#222222", "#666666"
AXIS = {
    "gridcolor": GRID, "zeroline": False, "linecolor": "#888888", "ticks": "outside", "tickcolor": "#888888", "automargin": True,
}  # fmt: skip
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


def require(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> None:
    """Refuse a table that lacks what a figure draws.

    Args:
        frame: The table; one without any columns is let through as empty.
        columns: Needed columns.
        figure: The figure's name.

    Raises:
        DataError: If a column is missing; names it and those there are.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing and len(frame.columns):
        raise DataError(
            f"plots.{figure} needs the columns {', '.join(columns)}; missing: {', '.join(missing)}; "
            f"given: {', '.join(map(str, frame.columns))}"
        )


def empty(figure: str) -> go.Figure:
    """Return a figure that says that there is nothing to draw, and warn.

    Args:
        figure: The figure's name.
    """
    import plotly.graph_objects as go

    warnings.warn(f"plots.{figure}: the table is empty, so is the figure", stacklevel=3)
    blank = go.Figure()
    centre: dict[str, Any] = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    blank.add_annotation(text="nothing was recorded", font={"size": 16}, **centre)
    blank.update_xaxes(visible=False).update_yaxes(visible=False)
    return layout(blank, height=240)


def layout(figure: go.Figure, *, height: int = 420, title: str = "", legend: bool = True) -> go.Figure:
    """Give a figure the common look.

    Args:
        figure: Changed in place.
        height: Pixels.
        title: Shown above.
        legend: Whether it has one; it stands to the right, off the data.

    Returns:
        The figure.
    """
    figure.update_layout(look(height, title, legend))
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS, title_standoff=8)
    return figure


def look(height: int, title: str, legend: bool) -> dict[str, Any]:
    """Return the layout that all figures have, less the axes.

    Args:
        height: Pixels.
        title: Shown above.
        legend: Whether it has one.
    """
    found: dict[str, Any] = {
        "template": "none", "height": height, "autosize": True, "showlegend": legend, "paper_bgcolor": "white",
        "plot_bgcolor": "white", "font": {"family": FONT, "size": 13, "color": INK}, "hoverlabel": {"namelength": -1},
        "margin": {"l": 80, "r": 30, "t": 75 if title else 45, "b": 60},
        "legend": {"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"},
    }  # fmt: skip
    if title:
        found["title"] = {"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 14}}
    return found


def style_of(index: int) -> dict[str, Any]:
    """Return colour and dash of the index-th run or layer; after the colours the dash changes.

    Args:
        index: From 0.
    """
    return {"color": colour_of(index), "dash": DASHES[(index // len(PALETTE)) % len(DASHES)], "width": 2}


def marker_of(index: int) -> dict[str, Any]:
    """Return colour and symbol of the index-th run or layer; after the colours the symbol changes.

    Args:
        index: From 0.
    """
    return {"color": colour_of(index), "symbol": MARKERS[(index // len(PALETTE)) % len(MARKERS)], "size": 5}


def colour_of(index: int, opacity: float = 1.0) -> str:
    """Return the colour of the index-th run or layer.

    Args:
        index: From 0.
        opacity: From 0 to 1.
    """
    colour = PALETTE[index % len(PALETTE)]
    if opacity == 1.0:
        return colour
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def text(name: object) -> str:
    """Return a name as text for a figure, whose labels would else be read as HTML.

    Args:
        name: Of a run, layer, metric, ...
    """
    return html.escape(str(name), quote=False)


def layers_of(frame: pd.DataFrame, layer: str | None) -> list[str]:
    """Return which layers to draw: the named one, else the largest few in the model's order.

    Args:
        frame: With a `layer` column; sizes are read from `rows` and `cols`, or `shape`.
        layer: A name, or `None`.

    Returns:
        At most `MAX_PANELS` names.

    Raises:
        DataError: If the named layer is not in the table.
    """
    names = frame["layer"].unique().tolist()
    if layer is not None:
        if layer not in names:
            raise DataError(f"layer='{layer}' is not in the table.{closest(layer, map(str, names))}")
        return [layer]
    codes, known = codes_of(frame["layer"])
    present, first = np.unique(codes, return_index=True)
    if {"rows", "cols"} <= set(frame.columns):
        of = (frame["rows"].to_numpy()[first] * frame["cols"].to_numpy()[first]).tolist()
    elif "shape" in frame.columns:
        of = [math.prod(map(int, shape.split(" x "))) for shape in frame["shape"].to_numpy()[first]]
    else:
        of = [0] * len(first)
    sizes = {known[code]: size for code, size in zip(present, of, strict=True)}
    largest = set(sorted(names, key=lambda name: -sizes[str(name)])[:MAX_PANELS])
    return [name for name in names if name in largest]


def omitted(frame: pd.DataFrame, layers: Sequence[str], layer: str | None) -> str:
    """Return a title that says when not all layers are shown, else nothing.

    Args:
        frame: With a `layer` column.
        layers: Those shown.
        layer: The one asked for, if one was.
    """
    count = frame["layer"].nunique()
    return (
        f"{len(layers)} of {count} layers; layer='...' shows another" if layer is None and len(layers) < count else ""
    )


def runs_of(frame: pd.DataFrame) -> dict[str, int]:
    """Return the runs of a table and the number that decides each one's colour.

    A categorical `run` column gives a run the place of its category, which stays when other runs are left out.

    Args:
        frame: The table.

    Returns:
        Name to number; one nameless run without a `run` column.
    """
    if "run" not in frame.columns:
        return {"": 0}
    names = [str(name) for name in frame["run"].unique()]
    known = [str(name) for name in frame["run"].cat.categories] if frame["run"].dtype == "category" else names
    return {name: known.index(name) for name in names}


def of_run(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    """Return the rows of a run.

    Args:
        frame: The table.
        run: From `runs_of`.
    """
    if "run" not in frame.columns:
        return frame
    if frame["run"].dtype == "category":
        known = [str(name) for name in frame["run"].cat.categories]
        return frame[frame["run"].cat.codes == (known.index(run) if run in known else -2)]
    return frame[frame["run"].astype(str) == run]


def parts_of(
    frame: pd.DataFrame, layers: Iterable[str], runs: Iterable[str], columns: Sequence[str]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Return the rows of each layer and run as arrays, in one pass over the table: many small tables would cost more than the figure.

    Args:
        frame: With a `layer` column, and `run` where there are several.
        layers: Names.
        runs: From `runs_of`.
        columns: Which are needed; those that the table lacks are left out.

    Returns:
        (layer, run) to column to values.
    """
    layer_codes, layer_names = codes_of(frame["layer"])
    run_codes, run_names = codes_of(frame["run"]) if "run" in frame.columns else (None, [])
    numbers = {name: frame[name].to_numpy() for name in columns if name in frame.columns}
    found = {}
    for layer in layers:
        of_layer = layer_codes == layer_names.index(layer)
        for run in runs:
            rows = of_layer if run_codes is None else of_layer & (run_codes == run_names.index(run))
            found[layer, run] = {name: values[rows] for name, values in numbers.items()}
    return found


def codes_of(names: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return a column of names as numbers.

    Args:
        names: Categorical or not.

    Returns:
        A number a row, and the name of each number.
    """
    import pandas as pd

    if names.dtype == "category":
        return names.cat.codes.to_numpy(), [str(name) for name in names.cat.categories]
    codes, known = pd.factorize(names)
    return codes, [str(name) for name in known]


def panels(titles: Sequence[str], *, columns: int = 3, **options: Any) -> tuple[go.Figure, list[tuple[int, int]], int]:
    """Return a grid of small panels.

    Args:
        titles: One a panel.
        columns: At most so many side by side.
        **options: For plotly's `make_subplots`.

    Returns:
        The figure, each panel's (row, column), and the number of rows.
    """
    from plotly.subplots import make_subplots

    width, rows = shape_of(len(titles), columns)
    across, down = spaces(width, rows)
    space = {"horizontal_spacing": across, "vertical_spacing": down}
    named = [text(tail(str(title), TITLE[width])) for title in titles]
    figure = make_subplots(rows=rows, cols=width, subplot_titles=named, **{**space, **options})
    for note, title in zip(figure.layout.annotations, titles, strict=False):
        note.update(font_size=13, hovertext=text(title))
    return figure, [(index // width + 1, index % width + 1) for index in range(len(titles))], rows


def shape_of(count: int, columns: int) -> tuple[int, int]:
    """Return panels side by side and rows of panels.

    Args:
        count: Panels.
        columns: At most so many side by side.
    """
    width = min(columns, count)
    return width, -(-count // width)


def spaces(width: int, rows: int) -> tuple[float, float]:
    """Return the space between panels side by side and between rows, as shares of the figure.

    Args:
        width: Panels side by side.
        rows: Rows of panels.
    """
    return 0.27 / width if width > 1 else 0.1, 0.36 / rows if rows > 1 else 0.1


def tail(title: str, room: int) -> str:
    """Return the end of a title that is too long: of a module's path it tells more than the beginning.

    Args:
        title: The title.
        room: Characters.
    """
    return title if len(title) <= room else f"…{title[1 - room :]}"


def axes_of(place: int) -> dict[str, str]:
    """Return the axes of the index-th panel, for a trace made outside the figure.

    Args:
        place: From 0.
    """
    return {"xaxis": f"x{place + 1 if place else ''}", "yaxis": f"y{place + 1 if place else ''}"}
