"""Panels: whatever is on display, each gives a figure that is right at the cursor, or one sentence that says why there is none."""

import json
import warnings

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from displays import item, live_of

from wbench import plots
from wbench.plots._grid import Values, plain
from wbench.workbench.panels import ALONE, OVERVIEW, Look
from wbench.workbench.panels.look import at
from wbench.workbench.panels.other import standing
from wbench.workbench.shown import LiveRun, Shown, frame_of

PANELS = {panel.id: panel for panel in (*OVERVIEW, *ALONE)}
LOOKS = {
    "newest": Look(), "cursor": Look(cursor=7), "before": Look(cursor=-5), "layer": Look(layer="head"),
    "unknown layer": Look(layer="nothing"), "smooth": Look(smooth=0.9), "lines": Look(seeds="lines", smooth=0.5), "samples": Look(x="samples"),
    "steps": Look(over="steps", cursor=6), "log": Look(over="log"), "chosen": Look(metrics=("test accuracy", "train loss", "no such")),
}  # fmt: skip


DISPLAYS = {
    "nothing": lambda runs: [],
    "one": lambda runs: [item(runs, "more steps", 0)],
    "seeds": lambda runs: [item(runs, "plain", 0), item(runs, "galore", 4)],
    "many": lambda runs: [item(runs, name, place) for place, name in enumerate(runs)],
    "live": lambda runs: [item(runs, "galore", 2, until=9)],
    "begun": lambda runs: [Shown("x", "x", 0, [LiveRun(0, 20)], live=True), Shown("y", "y", 1, [], live=True)],
    "first rows": lambda runs: [item(runs, "plain", 1, until=0)],
    "live beside recorded": lambda runs: [item(runs, "galore", 0, until=9, key="live"), item(runs, "plain", 1), item(runs, "galore", 30)],
    "no probes": lambda runs: [item(runs, "no probes", 0)],
    "diverged": lambda runs: [item(runs, "diverged", 0)],
    "estimator": lambda runs: [item(runs, "estimator", 0)],
    "merged": lambda runs: [item(runs, "merged", 7)],
    "without steps": lambda runs: [item(runs, "estimator", 0), item(runs, "merged", 1)],
}  # fmt: skip
BARE = {"landscape", "picture", "settings"}  # may have nothing of any run
UNTRAINED = {"histogram", "spectrum", "effective_lr", "landscape", "memory", "settings"}
EMPTY = {  # what has nothing to show in which panel
    "nothing": set(PANELS), "begun": set(PANELS), "no probes": UNTRAINED - {"memory"} | {"picture"}, "estimator": UNTRAINED,
    "merged": UNTRAINED, "without steps": UNTRAINED,
}  # fmt: skip


CASES = [*((display, "newest") for display in DISPLAYS), *(("seeds", look) for look in LOOKS if look != "newest"),
         *(("live", look) for look in ("cursor", "steps", "smooth")), *(("without steps", look) for look in ("lines", "samples")),
         ("many", "cursor"), ("live beside recorded", "steps"), ("first rows", "steps"), ("diverged", "smooth")]  # fmt: skip


@pytest.mark.parametrize(("display", "look"), CASES)
def test_every_panel_draws_every_display_or_says_why_not(runs, display, look):
    shown = DISPLAYS[display](runs)
    for name, panel in PANELS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn = panel.draw(shown, LOOKS[look])
        assert drawn.caption.strip(), name
        assert "nan" not in drawn.caption or display in {"diverged", "many"}, drawn.caption
        if name in EMPTY.get(display, ()):
            assert drawn.figure is None, name
        if drawn.figure is None:
            assert name in EMPTY.get(display, ()) or name in BARE or display in {"diverged", "live", "first rows"}, name
            continue
        layout = drawn.figure.to_plotly_json()["layout"]
        with plain(), warnings.catch_warnings():
            warnings.simplefilter("error")
            values = panel.draw(shown, LOOKS[look]).figure
        same = go.Figure(values.data, values.layout) if isinstance(values, Values) else values
        assert json.loads(same.to_json()) == json.loads(drawn.figure.to_json())
        assert not drawn.figure.frames
        assert not layout.get("sliders")
        assert {trace.visible for trace in drawn.figure.data} <= {None, True}
        axes = (layout.get("meta") or {}).get("step_axes", [])
        assert all(f"{axis[0]}axis{axis[1:]}" in layout for axis in axes)
        assert axes or name != "effective_lr"
        if drawn.frame is not None and name != "picture":
            assert {"run"} <= set(drawn.frame.columns)


# --- numbers ----------------------------------------------------------------------------------------------------------


def loss_at(run, step):
    rows = run.metrics.query(f"step == {step} and phase != 'end' and split == 'train' and name == 'loss'")
    return float(rows["value"].iloc[0])


def test_the_caption_of_the_curves_has_the_values_at_the_cursor(runs):
    shown = DISPLAYS["seeds"](runs)
    for cursor, step in ((7, 7), (10**6, 20), (None, 20)):
        said = PANELS["curves"].draw(shown, Look(cursor=cursor)).caption
        for name in ("plain", "galore"):
            values = [loss_at(run, step) for run in runs[name]]
            assert f"{name} {np.mean(values):.4g} (n = {len(values)})" in said
        assert said.startswith(
            f"train loss at step {step}{', the nearest record to 1,000,000' if cursor == 10**6 else ''}:"
        )


def test_records_at_the_cursor_are_each_runs_own_nearest_earlier_one():
    frame = pd.DataFrame({
        "run": pd.Categorical(["a", "a", "a", "b", "b"], categories=["unused", "a", "b"]), "step": [0, 10, 20, 5, 15], "value": range(5),
    })  # fmt: skip
    expected = {12: ([1, 3], "step 5 and 10, the nearest record to 12"), 2: ([0, 3], "step 0 and 5, the nearest record to 2"),
                None: ([2, 4], "step 15 and 20"), 99: ([2, 4], "step 15 and 20, the nearest record to 99")}  # fmt: skip
    for cursor, (values, said) in expected.items():
        rows, where = at(frame, cursor)
        assert (rows["value"].tolist(), where) == (values, said)
    assert at(frame[:3], 10)[1] == "step 10"


@pytest.mark.parametrize("panel", ["histogram", "spectrum"])
def test_weights_at_the_cursor_are_those_of_the_report_at_that_step(runs, panel):
    shown = [item(runs, "more steps", 0), item(runs, "galore", 1)]
    frame = frame_of(shown, panel, first=True)
    report = getattr(plots, panel)(frame)
    steps = {run: sorted(part["step"].unique()) for run, part in frame.groupby("run", observed=True)}
    assert (steps["more steps"][:3], steps["galore"][:3]) == ([0, 1, 3], [0, 1, 2])
    state = next(state for state in report.frames if int(state.name) in steps["more steps"][2:])
    step = int(state.name)
    same = getattr(plots, panel)(frame[frame["run"] == "more steps"], step=step)
    drawn = PANELS[panel].draw(shown, Look(cursor=step + 1))
    for figure, traces in ((drawn.figure, drawn.figure.data), (report, state.data), (same, same.data)):
        own = [new for old, new in zip(figure.data, traces, strict=True) if old.legendgroup == "more steps"]
        assert len(own) == 3
        if panel == "spectrum" or figure is not same:  # alone it has bins of its own
            for one, other in zip(own, [t for t in drawn.figure.data if t.legendgroup == "more steps"], strict=True):
                np.testing.assert_array_equal(one.y, other.y)
    assert f"at step {step} and {step + 1}, the nearest record to {step + 1}" in drawn.caption


def test_stable_ranks_in_the_caption_are_those_of_the_layer(runs):
    frame = runs["plain"][0].probe("spectrum")
    ranks = frame[(frame["layer"] == "head") & (frame["step"] == frame["step"].max())]["stable_rank"]
    said = PANELS["spectrum"].draw([item(runs, "plain", 0)], Look(layer="head")).caption
    assert f"stable ranks {ranks.iloc[0]:.3g} to {ranks.iloc[0]:.3g}. First seed of each." in said


def test_a_step_counts_samples_by_each_runs_own_batch_size_also_where_names_are_the_same(runs):
    one, two = item(runs, "plain", 0), item(runs, "more steps", 1)
    two.name = one.name
    frame = PANELS["curves"].draw([one, two], Look(x="samples")).frame
    sizes = (
        (frame["samples"] / frame["step"].where(frame["step"] > 0))
        .groupby(frame["run"].astype(str))
        .agg(["min", "max"])
    )
    assert sizes.loc["plain"].tolist() == [32.0, 32.0]
    assert sizes.loc["plain "].tolist() == [16.0, 16.0]


def test_what_is_not_trained_in_steps_is_drawn_as_its_results(runs):
    drawn = PANELS["curves"].draw(DISPLAYS["without steps"](runs), Look())
    value = runs["merged"][0].summary["test.accuracy"]
    bars = {(trace.name, float(trace.y[0])) for trace in drawn.figure.data}
    assert ("merged", pytest.approx(value, rel=1e-6)) in [bar for bar in bars if bar[1] < 1]
    assert f"merged: test accuracy {value:.4g}" in drawn.caption
    assert "Nothing is trained in steps here" in drawn.caption
    beside = PANELS["curves"].draw([item(runs, "plain", 0), item(runs, "merged", 1)], Look())
    assert "(n = 3). Without steps, and not drawn: merged." in beside.caption
    assert "merged" not in {trace.legendgroup for trace in beside.figure.data}


def test_memory_is_the_mean_over_seeds_of_what_was_measured(runs):
    drawn = PANELS["memory"].draw(DISPLAYS["seeds"](runs), Look())
    kinds = ("parameters", "buffers", "gradients", "optimizer", "activations")
    total = np.mean([sum(run.memory.get(kind, 0) for kind in kinds) for run in runs["galore"]])
    assert f"galore {total / 1e6:.3g} MB" in drawn.caption
    bars = {trace.name: dict(zip(trace.y, trace.customdata, strict=True)) for trace in drawn.figure.data}
    assert sum(bar["galore"] for bar in bars.values()) == int(total)


# --- colours ----------------------------------------------------------------------------------------------------------


def colours(figure, label):
    found = {trace.line.color for trace in figure.data if trace.legendgroup == label and trace.line.color}
    return {colour for colour in found if not colour.startswith("rgba")}


@pytest.mark.parametrize("panel", ["curves", "histogram", "spectrum", "effective_lr"])
def test_a_configuration_keeps_its_colour_when_others_are_left_out(runs, panel):
    all_of = [item(runs, "plain", 0), item(runs, "more steps", 3), item(runs, "galore", 7)]
    for kept, colour in ((1, plots.PALETTE[3]), (2, plots.PALETTE[1])):
        for shown in (all_of, [all_of[kept]], [all_of[kept], all_of[0]]):
            look = Look(layer="head")
            figure = PANELS[panel].draw(shown, look).figure
            if panel != "effective_lr":
                assert colours(figure, all_of[kept].name) == {colour}
            elif len(shown) > 1:  # one run's layers are told by colour
                expected = {plots.PALETTE[one.colour % 6] for one in shown}
                assert {trace.line.color for trace in figure.data} == expected
                assert [trace.name for trace in figure.data if trace.showlegend] == ["head"]


@pytest.mark.parametrize("panel", ["curves", "histogram", "spectrum", "memory"])
def test_two_configurations_of_one_name_stay_two(runs, panel):
    one, two = item(runs, "plain", 4), item(runs, "more steps", 2)
    two.name = one.name
    drawn = PANELS[panel].draw([one, two], Look(layer="head"))
    if panel == "memory":
        assert [len(trace.y) for trace in drawn.figure.data] == [2] * len(drawn.figure.data)
        return
    assert colours(drawn.figure, "plain") == {plots.PALETTE[4]}
    assert colours(drawn.figure, "plain ") == {plots.PALETTE[2]}
    if panel == "curves":
        value = (
            runs["more steps"][0].metrics.query("step == 19 and split == 'train' and name == 'loss'")["value"].iloc[0]
        )
        assert f"plain {value:.4g}" in PANELS[panel].draw([one, two], Look(cursor=19)).caption


# --- live -------------------------------------------------------------------------------------------------------------


def test_a_run_in_the_making_has_the_tables_that_were_told(runs):
    run = runs["galore"][0]
    live = live_of(run, 10**6)
    during = run.metrics[run.metrics["phase"] != "end"].reset_index(drop=True)
    pd.testing.assert_frame_equal(live.metrics, during, check_dtype=False)
    for name in live.probes:
        pd.testing.assert_frame_equal(live.probe(name), run.probe(name), check_dtype=False, check_categorical=False)
    more = pd.DataFrame({"step": [99], "phase": "train", "split": "train", "name": "loss", "value": 1.0})
    live.add_rows(more.to_dict("records"))
    assert (len(live.metrics), live.step) == (len(during) + 1, 99)
    assert live.metrics is live.metrics
    live.put_table("spectrum", run.probe("spectrum")[:3])
    assert len(live.probe("spectrum")) == 3


def test_a_landscape_of_a_finished_run_stays_beside_those_of_one_that_trains():
    grid = pd.DataFrame({"alpha": [-1.0, -1.0, 1.0, 1.0], "beta": [-1.0, 1.0, -1.0, 1.0], "loss": [3.0, 2.0, 1.0, 4.0]})
    finished, live = LiveRun(0), LiveRun(0)
    finished.put_table("landscape", grid)
    for step in (0, 5, 10):
        live.add_table("landscape", grid.assign(loss=grid["loss"] + step, step=step))
    shown = [Shown("a", "done", 0, [finished]), Shown("b", "live", 1, [live], live=True)]
    frame = PANELS["landscape"].draw(shown, Look(cursor=7)).frame
    assert {str(run): part["loss"].tolist() for run, part in frame.groupby("run", observed=True)} == {
        "done": grid["loss"].tolist(), "live": (grid["loss"] + 5).tolist(),
    }  # fmt: skip
    assert "done 2 x 2 points, live 2 x 2 points" in PANELS["landscape"].draw(shown, Look()).caption


# --- a method's own picture -------------------------------------------------------------------------------------------


def test_the_picture_is_the_methods_own_and_names_whom_it_leaves_out(runs):
    one, two = item(runs, "galore", 0), item(runs, "galore", 1, key="other")
    two.name = "other"
    drawn = PANELS["picture"].draw([item(runs, "plain", 3), one, two], Look())
    assert "galore, seed 0." in drawn.caption
    assert "Of other: hide the first to see it." in drawn.caption
    pd.testing.assert_frame_equal(drawn.frame, runs["galore"][0].probe("method.galore"))


@pytest.mark.parametrize(("cursor", "name"), [(None, "30"), (30, "30"), (29, "20"), (10, "10"), (-3, "0"), (999, "30")])
def test_a_figure_with_a_slider_stands_at_the_cursor(cursor, name):
    from plot_frames import recorded

    moving = plots.histogram(recorded()["histogram"])
    state = next(frame for frame in moving.frames if frame.name == name)
    still = standing(plots.histogram(recorded()["histogram"]), cursor)
    assert len(still.data) == len(moving.data)
    for trace, expected, whole in zip(still.data, state.data, moving.data, strict=True):
        np.testing.assert_array_equal(trace.y, expected.y)
        np.testing.assert_array_equal(trace.x, whole.x)
        assert (trace.name, trace.line) == (whole.name, whole.line)
    assert (still.frames, still.layout.sliders) == ((), ())
    assert still.layout.height < moving.layout.height


def test_a_figure_without_a_slider_stays_as_it_is(runs):
    figure = plots.metrics(runs["plain"][0].metrics)
    before = figure.to_json()
    assert standing(figure, 5).to_json() == before
