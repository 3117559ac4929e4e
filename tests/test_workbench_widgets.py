"""The widgets without a browser: colours, figures as text, sources, and what the table keeps in the kernel."""

import base64
import gc
import itertools
import json
import weakref

import numpy as np
import pytest

from wbench.plots._style import PALETTE

pytest.importorskip("anywidget")
go = pytest.importorskip("plotly.graph_objects")

from wbench.workbench.widgets import Face, PlotlyLibrary, PlotView, RunTable  # noqa: E402
from wbench.workbench.widgets._source import colours, script  # noqa: E402
from wbench.workbench.widgets.figure import as_json  # noqa: E402

# What a red-, green- and blue-blind eye sees of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
BLIND = [
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    np.eye(3),
]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    value = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    x, y, z = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_the_palette_stands_out_three_to_one(theme):
    page = colours()[theme]
    assert list(page["map"])[: len(PALETTE)] == list(PALETTE)
    marks = [page["map"][colour] for colour in PALETTE]
    assert min(contrast(colour, page["paper"]) for colour in [*marks, page["axis"]]) >= 3
    assert min(contrast(page[text], page["paper"]) for text in ("ink", "muted")) >= 4.5
    others = [to for colour, to in page["map"].items() if colour not in ("#FFFFFF", "#E5E5E5")]
    assert min(contrast(colour, page["paper"]) for colour in others) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_the_palette_differ_for_every_eye(theme):
    marks = [colours()[theme]["map"][colour] for colour in PALETTE]
    for eye in BLIND:
        seen = [lab(np.asarray(eye) @ linear(colour)) for colour in marks]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def values(spec):
    array = np.frombuffer(base64.b64decode(spec["bdata"]), spec["dtype"])
    return array.reshape([int(n) for n in spec["shape"].split(",")]) if "shape" in spec else array


def test_figure_as_text_keeps_numbers_and_drops_the_template():
    rng = np.random.default_rng(0)
    x, y, z = np.arange(1000), rng.standard_normal(1000), rng.standard_normal((12, 5))
    figure = go.Figure([go.Scatter(x=x, y=y), go.Heatmap(z=z)], frames=[go.Frame(name="1", data=[go.Scatter(y=2 * y)])])
    spec = json.loads(as_json(figure))
    assert "template" not in spec["layout"]
    assert (spec["data"][0]["x"]["dtype"], spec["data"][0]["y"]["dtype"]) == ("u2", "f4")
    np.testing.assert_array_equal(values(spec["data"][0]["x"]), x)
    np.testing.assert_array_equal(values(spec["data"][0]["y"]), y.astype("float32"))
    np.testing.assert_array_equal(values(spec["data"][1]["z"]), z.astype("float32"))
    np.testing.assert_array_equal(values(spec["frames"][0]["data"][0]["y"]), (2 * y).astype("float32"))
    assert figure.data[0].y.dtype == np.float64


@pytest.mark.parametrize(
    "y",
    [1.7e9 + np.arange(20) * 1e-3, 10.0 ** -np.arange(60.0), 10.0 ** np.arange(60.0), 2**40 + np.arange(9.0)],
    ids=["close together", "tiny", "huge", "beyond 24 bits"],
)
def test_values_that_float32_would_move_stay_as_they_are(y):
    np.testing.assert_array_equal(values(json.loads(as_json(go.Figure(go.Scatter(y=y))))["data"][0]["y"]), y)


def test_missing_values_and_dates_are_json():
    import pandas as pd

    figure = go.Figure(go.Scatter(x=pd.date_range("2026-01-01", periods=3), y=[1.0, np.nan, np.inf]))
    figure.add_scatter(y=np.r_[np.nan, np.arange(20.0)], text=np.array(["a", "b"], dtype=object))
    data = json.loads(as_json(figure), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["data"]
    assert data[0]["y"] == [1.0, None, None] and data[0]["x"][1].startswith("2026-01-02")
    assert np.isnan(values(data[1]["y"])[0]) and data[1]["text"] == ["a", "b"]


def test_sources_are_one_module_each_and_reach_nowhere():
    for name in ("view.js", "table.js", "face.js", "library.js"):
        text = script(name)
        assert text.count("\nexport ") == 1 and "\nimport " not in text and not text.startswith("import ")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
        assert "innerHTML" not in text


def test_closed_widgets_are_freed():
    made = [PlotView("a"), RunTable(), Face(), PlotlyLibrary()]
    made[0].show(go.Figure(go.Scatter(y=[1, 2])))
    alive = [weakref.ref(widget) for widget in made]
    for widget in made:
        widget.layout.close()
        widget.close()
    del made, widget
    gc.collect()
    assert [ref() for ref in alive] == [None] * 4


def test_view_answers_the_browser():
    view, sent, picked, chosen = PlotView("loss"), [], [], []
    view.send = lambda content, buffers=None: sent.append(content)
    view.on_pick(picked.append)
    view.on_select(chosen.append)
    view.csv = lambda: "step\n1\n"
    for message in ({"kind": "pick", "x": 3}, {"kind": "select", "selection": ["a"]}, {"kind": "csv", "asked": 7}):
        view._handle_custom_msg(message, [])
    assert (picked, chosen, view.has_csv) == ([3.0], [["a"]], True)
    view.csv = None
    view._handle_custom_msg({"kind": "csv", "asked": 8}, [])
    assert sent[0] == {"kind": "csv", "asked": 7, "text": "step\n1\n"} and "problem" in sent[1]
    assert not view.has_csv


def test_table_brings_deleted_rows_back_to_their_places():
    table, gone = RunTable(), []
    table.set_rows({"key": key, "name": key, "loss": float("nan")} for key in "abcde")
    table.selected = ["b", "c"]
    table.on_delete(gone.append)
    table.delete(["d", "b", "unknown"])
    assert ([row["key"] for row in table.rows], table.selected, table.undoable) == (["a", "c", "e"], ["c"], ["b", "d"])
    table.undo()
    table.undo()
    assert ([row["key"] for row in table.rows], table.undoable, gone) == (list("abcde"), [], [["b", "d"]])
    assert table.rows[0]["loss"] is None
