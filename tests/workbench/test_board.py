"""The board: one cursor, one legend, only what has changed is drawn, and the numbers behind each figure."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from displays import item

from wbench import plots
from wbench.workbench.board import Board
from wbench.workbench.panels import ALONE, OVERVIEW, Look


@pytest.fixture
def board(runs):
    made = Board(lambda do: do())
    made.show([item(runs, "plain", 0), item(runs, "galore", 1)])
    yield made
    made.close()


def view(board, panel):
    return board._views[panel]


def drawn(board):
    while board.pending:
        board.draw()
    return board


def test_one_cursor_moves_all_panels(board, runs):
    steps = sorted(runs["plain"][0].probe("histogram")["step"].unique())
    drawn(board)
    assert board.toolbar.cursor.steps == steps
    assert (board.cursor, board.toolbar.cursor.at) == (None, steps[-1])
    newest = view(board, "histogram").figure
    board.toolbar.cursor.set(steps[2] + 0.4)
    assert (board.cursor, board.toolbar.cursor.newest.value) == (steps[2], False)
    drawn(board)
    assert {view(board, name).cursor for name in ("curves", "histogram", "spectrum", "effective_lr")} == {
        float(steps[2])
    }
    assert view(board, "histogram").figure != newest
    board.toolbar.cursor._back.click()
    assert board.cursor == steps[1]
    board.toolbar.cursor.move(-99)
    assert board.cursor == steps[0]
    board.toolbar.cursor._forth.click()
    assert board.cursor == steps[1]
    board.toolbar.cursor._slider.place = 4  # as the browser does
    assert board.cursor == steps[4]
    board.toolbar.cursor.newest.value = True
    assert board.cursor is None
    assert view(drawn(board), "histogram").figure == newest


def test_the_cursor_stays_while_steps_are_added(runs):
    board = Board(lambda do: do())
    for until in (5, 9):
        board.show([item(runs, "plain", 0, until=until)])
        assert drawn(board).toolbar.cursor.at == until
    board.toolbar.cursor.set(5)
    board.show([item(runs, "plain", 0)])
    assert (board.cursor, board.toolbar.cursor.at) == (5, 5)
    board.close()


def test_the_scale_of_the_densities_stays_when_another_configuration_is_shown(board, runs):
    board.toolbar.over.value = "log"
    for name in ("plain", "galore"):
        board.show([item(runs, name, 0)])
        axes = json.loads(view(drawn(board), "histogram").figure)["layout"]
        assert axes["yaxis"]["type"] == axes["yaxis2"]["type"] == "log"
    board.toolbar.over.value = "cursor"
    assert json.loads(view(drawn(board), "histogram").figure)["layout"]["yaxis"]["type"] == "linear"


def test_what_trains_does_not_stay_in_the_browser_and_what_has_finished_does(board, runs):
    drawn(board)
    assert view(board, "curves").stays
    board.show([item(runs, "plain", 0), item(runs, "galore", 1, until=9)])
    assert not view(drawn(board), "curves").stays


def test_only_panels_whose_tables_have_grown_are_drawn_anew(board, runs):
    drawn(board)
    board.show(board.shown, {"histogram"})
    assert board._dirty & {panel.id for panel in OVERVIEW} == {"histogram"}
    board.show(board.shown, {"method.galore"})
    assert "picture" in board._dirty


def test_the_csv_has_the_line_as_recorded_and_as_smoothed(board):
    board.toolbar.smooth.value = 0.8
    drawn(board)
    table = pd.read_csv(io.StringIO(view(board, "curves")._table()["text"]), keep_default_na=False, na_values=[""])
    assert {"run", "seed", "split", "name", "step", "value", "smoothed"} <= set(table.columns)
    one = table[
        (table["run"] == "galore") & (table["seed"] == 1) & (table["split"] == "train") & (table["name"] == "loss")
    ]
    average, expected = 0.0, []
    for count, value in enumerate(one["value"], 1):
        average = 0.8 * average + 0.2 * value
        expected.append(average / (1 - 0.8**count))
    np.testing.assert_allclose(one["smoothed"], expected, rtol=1e-12)
    assert len(one) == 20
    board.toolbar.smooth.value = 0.0
    drawn(board)
    assert "smoothed" not in view(board, "curves")._table()["text"].splitlines()[0]
    for name in ("histogram", "spectrum", "effective_lr"):
        assert len(view(board, name)._table()["text"].splitlines()) > 2


def without_groups(trace):
    return {
        key: list(value) if isinstance(value, np.ndarray) else value
        for key, value in trace.items()
        if key != "legendgroup"
    }


def test_names_are_text_in_the_legend(runs):
    board = Board(lambda do: do())
    evil = item(runs, "plain", 7)
    evil.name = "<img src=x onerror='alert(1)'>"
    board.show([evil, item(runs, "galore", 1)])
    board.draw()
    assert "<img" not in board.legend.value
    assert "galore (n = 2)" in board.legend.value
    swatches = re.findall(r"--light: (#\w+); --dark: #\w+; border-top-style: (\w+)'", board.legend.value)
    assert swatches == [(plots.PALETTE[1], "dashed"), (plots.PALETTE[1], "solid")]
    for panel in (*OVERVIEW, *ALONE):
        figure = panel.draw([evil], Look()).figure
        if figure is not None:
            shown = {
                **figure.to_plotly_json()["layout"],
                "traces": [without_groups(trace.to_plotly_json()) for trace in figure.data],
            }
            assert "<img" not in repr(shown)
    board.close()


def test_a_picture_that_fails_is_said_and_the_other_panels_are_drawn(runs, monkeypatch):
    def fails(*_args, **_options):
        raise ZeroDivisionError("oh <no>")

    monkeypatch.setattr(plots, "spectrum", fails)
    board = Board(lambda do: do())
    board.show([item(runs, "plain", 0)])
    while board.pending:
        board.draw()
    assert view(board, "spectrum").caption == "This panel cannot be drawn: ZeroDivisionError: oh <no>"
    assert view(board, "spectrum").figure == ""
    assert view(board, "histogram").figure
    board.close()
