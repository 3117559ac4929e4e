"""Responses to knobs: the figure shows the table's own numbers, and says what it leaves out."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from wbench import plots
from wbench.errors import DataError


def runs_of(arm, seeds, point, status="finished", chosen=False, **quantities):
    rows = []
    for seed in range(seeds):
        numbers = {name.replace("_", " "): values[seed] for name, values in quantities.items()}
        reason = "" if status == "finished" else f"loss became nan at step {seed} <b>"
        rows.append({
            "arm": arm,
            **point,
            "seed": seed,
            "status": status,
            "reason": reason,
            "chosen": chosen,
            **numbers,
        })
    return rows


@pytest.fixture
def swept():
    """Two ranks and one that diverged, beside a baseline without ranks; four seeds."""
    nothing = [math.nan] * 4
    return pd.DataFrame([
        *runs_of("plain", 4, {}, chosen=True, test_loss=[0.5, 0.6, 0.7, 0.8], rate=[1.0, 2.0, 3.0, 4.0]),
        *runs_of("low rank", 4, {"rank": 2}, test_loss=[0.1, 0.3, 0.2, 0.6], rate=[1e-3, 2e-3, 3e-3, 1e-2]),
        *runs_of("low rank", 4, {"rank": 8}, chosen=True, test_loss=[0.1, 0.1, 0.2, 0.2], rate=[1e-1, 2e-1, 1e-1, 2e-1]),
        *runs_of("low rank", 4, {"rank": 64}, status="diverged", test_loss=[9e9] * 4, rate=nothing),
    ])  # fmt: skip


def lines(figure, kind, arm, place=0):
    """The arm's trace in a panel: traces come as interval, seeds, mean."""
    found = [trace for trace in figure.data if trace.meta == "response" and trace.legendgroup == arm]
    return found[3 * place + ("interval", "seeds", "mean").index(kind)]


def test_points_are_the_seeds_the_line_their_mean_and_the_bar_students_interval(swept):
    figure = plots.response(swept, ["rank"], ["test loss"])
    two, eight = [0.1, 0.3, 0.2, 0.6], [0.1, 0.1, 0.2, 0.2]
    mean, bar = lines(figure, "mean", "low rank"), lines(figure, "interval", "low rank")
    assert mean.y[:2] == pytest.approx((np.mean(two), np.mean(eight)))
    assert mean.y[2] is None  # a gap, not a number of the runs that diverged
    for place, values in enumerate((two, eight)):
        low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        assert bar.y[3 * place + 1] == pytest.approx(high)
        assert bar.y[3 * place] == pytest.approx(max(low, 0.1 / 1000))
    assert sorted(y for y in lines(figure, "seeds", "low rank").y if y is not None) == pytest.approx(
        sorted(two + eight)
    )
    assert "4 seeds" in mean.hovertext[0]
    assert "chosen" in mean.hovertext[1]
    assert mean.marker.line.width == (0, 2, 0)


def test_an_arm_without_the_knob_is_a_level_line_with_its_band(swept):
    figure = plots.response(swept, ["rank"], ["test loss"])
    values = [0.5, 0.6, 0.7, 0.8]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert lines(figure, "mean", "plain").y == pytest.approx((0.65, 0.65))
    band = lines(figure, "interval", "plain")
    assert band.fill == "toself"
    assert band.y == pytest.approx((low, low, high, high))
    first, last = 10 ** np.array(figure.layout.xaxis.range)
    assert band.x == pytest.approx((first, last, last, first))
    assert first < 2 < 64 < last


def test_one_seed_has_no_interval_and_says_so():
    frame = pd.DataFrame(runs_of("a", 1, {"k": 1}, loss=[0.3]) + runs_of("a", 1, {"k": 2}, loss=[0.4]))
    figure = plots.response(frame, ["k"])
    assert set(lines(figure, "interval", "a").y) == {None}
    assert all("no interval" in said for said in lines(figure, "mean", "a").hovertext)


def test_runs_that_did_not_finish_are_crosses_with_their_reason_and_counted_in_the_legend(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    (crosses,) = [trace for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext]
    assert crosses.x == pytest.approx((64.0,))
    assert "4 of 4 runs did not finish" in crosses.hovertext[0]
    assert "loss became nan at step 2 &lt;b&gt;" in crosses.hovertext[0]
    (legend,) = [trace for trace in figure.data if trace.showlegend and trace.legendgroup == "failed"]
    assert legend.name == "4 of 16 runs<br>did not finish"
    edge = figure.layout[f"yaxis{crosses.yaxis[1:]}"]
    assert tuple(edge.range) == (0, 1)
    assert edge.overlaying == "y"
    for button in figure.layout.updatemenus[0].buttons:  # no choice of the menu moves or hides them
        assert list(figure.data).index(crosses) not in button.args[2]
        assert not any(key.startswith("yaxis2.") for key in button.args[1])


def test_a_baseline_that_failed_is_shown_though_it_has_no_place_on_the_axis(swept):
    swept.loc[1, ["status", "reason"]] = "failed", "out of memory"
    figure = plots.response(swept, ["rank"], ["test loss"])
    (crosses,) = [trace for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext]
    assert "plain: 1 of 4 runs did not finish<br>seed 1: failed, out of memory" in crosses.hovertext
    assert lines(figure, "mean", "plain").y[0] == pytest.approx(np.mean([0.5, 0.7, 0.8]))
    assert "1 of 4 runs have no such number" in lines(figure, "mean", "plain").hovertext[0]


def test_a_study_of_which_nothing_finished_is_still_drawn(swept):
    figure = plots.response(swept.assign(status="diverged"), ["rank"], ["test loss"])
    assert sum(len(trace.x) for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext) == 4
    assert {y for trace in figure.data if trace.meta == "response" for y in trace.y} == {None}


def test_each_entry_of_the_menu_sets_what_the_figure_of_that_quantity_alone_draws(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["test loss", "rate"]
    for button in buttons:
        alone = plots.response(swept, ["rank"], [button.label])
        changes, axes, which = button.args
        assert len(which) == len(changes["y"]) == 6
        for index, y, said in zip(which, changes["y"], changes["hovertext"], strict=True):
            assert list(alone.data[index].y) == y
            assert list(alone.data[index].hovertext) == said
        assert axes["yaxis.title.text"] == alone.layout.yaxis.title.text == button.label
        assert list(axes["yaxis.range"]) == list(alone.layout.yaxis.range)
        assert axes["yaxis.type"] == alone.layout.yaxis.type
    assert [button.args[1]["yaxis.type"] for button in buttons] == ["linear", "log"]
    assert buttons[0].args[1]["yaxis.dtick"] is None  # else the ticks of the logarithmic axis would stay
    json.dumps([button.args for button in buttons], allow_nan=False)


def test_the_axis_of_values_holds_all_seeds_of_what_is_shown(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    for button, power in zip(figure.layout.updatemenus[0].buttons, (1, 10), strict=True):
        low, high = button.args[1]["yaxis.range"]
        ends = (low, high) if power == 1 else (10**low, 10**high)
        seen = swept[swept["status"] == "finished"][button.label]
        assert ends[0] <= seen.min() < seen.max() < ends[1] < 10 * seen.max()


@pytest.mark.parametrize(
    ("values", "kind", "places"),
    [
        ([2, 4, 8, 16], "log", [2, 4, 8, 16]),
        ([0.1, 0.2, 0.3], "linear", [0.1, 0.2, 0.3]),
        ([-10.0, 0.0, 10.0], "linear", [-10, 0, 10]),
        ([0.0, 1e-4, 1e-2, 1.0], "linear", [0, 1, 2, 3]),
        (["adam", "sgd"], "linear", [0, 1]),
        ([False, True], "linear", [0, 1]),
        (["none", 0.5, 1.0], "linear", [0, 1, 2]),
        ([(0.9, 0.99), (0.8, 0.9)], "linear", [0, 1]),
    ],
)
def test_an_axis_is_logarithmic_over_a_decade_and_even_for_words(values, kind, places):
    frame = pd.DataFrame([row for value in values for row in runs_of("a", 2, {"k": value}, loss=[1.0, 2.0])])
    figure = plots.response(frame, ["k"])
    assert figure.layout.xaxis.type == kind
    assert lines(figure, "mean", "a").x == pytest.approx(places)
    assert figure.layout.xaxis.tickvals == pytest.approx(places)
    shown = [str(v).lower() if isinstance(v, bool) else v for v in values]
    assert figure.layout.xaxis.ticktext[0] == {(0.9, 0.99): "0.9, 0.99"}.get(shown[0], f"{shown[0]}".removesuffix(".0"))


def test_ticks_that_would_crowd_are_left_to_the_axis():
    frame = pd.DataFrame([row for k in (1.0, 1.01, 1.02, 3.0) for row in runs_of("a", 2, {"k": k}, loss=[1.0, 2.0])])
    assert plots.response(frame, ["k"]).layout.xaxis.tickvals is None


def test_in_the_panel_of_a_knob_the_others_stand_at_the_arms_chosen_point_which_is_named():
    rows = []
    for lr in (0.1, 1.0):
        rows += runs_of("plain", 2, {"lr": lr}, chosen=lr == 1.0, loss=[lr, lr])
        for rank in (2, 8):
            rows += runs_of("low", 2, {"lr": lr, "rank": rank}, chosen=(lr, rank) == (0.1, 8), loss=[lr * rank] * 2)
    figure = plots.response(pd.DataFrame(rows), ["rank", "lr"], ["loss"])
    assert [note.text for note in figure.layout.annotations] == ["plain at lr = 1; low at lr = 0.1", "low at rank = 8"]
    assert lines(figure, "mean", "low", 0).y == pytest.approx((0.2, 0.8))
    assert lines(figure, "mean", "plain", 0).y == pytest.approx((1.0, 1.0))
    assert lines(figure, "mean", "low", 1).y == pytest.approx((0.8, 8.0))
    assert lines(figure, "mean", "plain", 1).y == pytest.approx((0.1, 1.0))
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == ["plain", "low"]
    with pytest.raises(DataError, match="'plain' has several values of lr .*'chosen'"):
        plots.response(pd.DataFrame(rows).drop(columns="chosen"), ["rank", "lr"])


def test_more_knobs_and_quantities_than_fit_are_told():
    knobs = {f"k{i}": 1.0 for i in range(8)}
    frame = pd.DataFrame(runs_of("a", 2, knobs, chosen=True, **{f"q{i}": [1.0, 2.0] for i in range(40)}))
    figure = plots.response(frame, list(knobs))
    assert (
        figure.layout.title.text
        == "6 of 8 knobs; knobs=(...) chooses others; 30 of 40 quantities; quantities=(...) chooses others"
    )
    assert len(figure.layout.updatemenus[0].buttons) == 30


def test_names_are_text_not_markup():
    frame = pd.DataFrame(runs_of("<b>a</b>", 2, {"k": "<i>1</i>"}, **{"<u>q</u>": [1.0, 2.0]}))
    figure = plots.response(frame, ["k"])
    assert figure.layout.yaxis.title.text == "&lt;u&gt;q&lt;/u&gt;"
    words = json.dumps(figure.to_plotly_json(), default=str)
    assert "&lt;b&gt;a" in words
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in words.replace('"legendgroup": "<b>a</b>"', "")


def test_a_long_name_stands_in_two_lines_beside_the_axis_and_whole_in_the_menu():
    name = "effective rank of blocks.11.attention.projection.with.a.long.name.linear"
    frame = pd.DataFrame(runs_of("a", 2, {"k": 1}, loss=[1.0, 2.0])).rename(columns={"loss": name})
    figure = plots.response(frame, ["k"])
    assert figure.layout.updatemenus[0].buttons[0].label == name
    first, second = figure.layout.yaxis.title.text.split("<br>")
    assert first == "effective rank of"
    assert second[0] == "…" and name.endswith(second[1:]) and len(second) == 32


def test_bad_tables_are_refused_by_name():
    frame = pd.DataFrame(runs_of("a", 2, {"k": 1.0}, loss=[1.0, 2.0]))
    with pytest.raises(DataError, match="knobs="):
        plots.response(frame, [])
    with pytest.raises(DataError, match="missing: rank"):
        plots.response(frame, ["rank"])
    with pytest.raises(DataError, match="missing: status"):
        plots.response(frame.drop(columns="status"), ["k"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "nothing was recorded" in plots.response(frame.iloc[:0], ["k"]).layout.annotations[0].text
    assert caught
