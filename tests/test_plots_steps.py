"""Figures of the workbench: smoothing, one state of a stepped figure, steps in one picture, memory, settings against results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from plot_frames import STEPS, recorded

from wbench import plots
from wbench.errors import DataError
from wbench.plots.metrics import smoothed
from wbench.plots.parallel import brushed
from wbench.plots.ridge import OVERLAP


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return recorded()


# --- metrics ----------------------------------------------------------------------------------------------------------


def average(values: np.ndarray, weight: float) -> list[float]:
    held, found = 0.0, []
    for count, value in enumerate(values, 1):
        held = weight * held + (1 - weight) * float(value)
        found.append(held / (1 - weight**count))
    return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.99])
def test_smoothing_is_the_moving_average_without_the_pull_of_its_start(weight: float) -> None:
    values = np.random.default_rng(0).normal(size=3000)
    np.testing.assert_allclose(smoothed(values, weight), average(values, weight), rtol=1e-9)
    np.testing.assert_allclose(smoothed(np.full(50, 7.0), weight), 7.0, rtol=1e-12)
    assert len(smoothed(values[:0], weight)) == 0


def long_run(seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    parts = [
        pd.DataFrame({"step": np.arange(5000), "value": rng.normal(size=5000) + 3 * seed, "seed": seed})
        for seed in range(seeds)
    ]
    return pd.concat(parts).assign(run="a", split="train", name="loss")


def test_a_line_is_smoothed_before_points_are_left_out_and_stays_fainter_as_it_was() -> None:
    frame = long_run()
    raw, smooth = plots.metrics(frame, smooth=0.9).data
    whole = np.array(average(frame["value"].to_numpy(), 0.9))
    assert len(smooth.x) <= 1000
    np.testing.assert_allclose(smooth.y, whole[smooth.x], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(raw.y, frame["value"].to_numpy()[raw.x], rtol=1e-6)
    assert (raw.showlegend, smooth.showlegend, raw.hoverinfo) == (False, True, "skip")
    assert raw.line.color.startswith("rgba(0,114,178,")
    assert "weight 0.9" in smooth.hovertemplate
    assert smooth.line.color == plots.PALETTE[0]


def test_seeds_are_smoothed_each_and_then_averaged() -> None:
    frame = long_run(3)
    band, line = plots.metrics(frame, smooth=0.5).data
    series = [np.array(average(part["value"].to_numpy(), 0.5)) for _, part in frame.groupby("seed")]
    np.testing.assert_allclose(line.y, np.mean(series, axis=0)[line.x], rtol=1e-5, atol=1e-5)
    assert (band.fill, line.name) == ("toself", "a (n = 3)")


def test_seeds_can_be_lines_of_their_own_with_one_name_in_the_legend() -> None:
    frame = long_run(3)
    lines = plots.metrics(frame, seeds="lines").data
    assert [line.name for line in lines] == ["a (n = 3)"] * 3
    assert [line.showlegend for line in lines] == [True, False, False]
    assert len({line.legendgroup for line in lines}) == 1
    for line, (_, part) in zip(lines, frame.groupby("seed"), strict=True):
        np.testing.assert_allclose(line.y, part["value"].to_numpy()[line.x], rtol=1e-6)
    assert len(plots.metrics(frame, seeds="lines", smooth=0.5).data) == 6


def test_another_column_can_be_the_horizontal_axis(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["metrics"].assign(samples=frames["metrics"]["step"] * 256)
    steps, samples = plots.metrics(frame), plots.metrics(frame, x="samples")
    assert samples.layout.xaxis.title.text == "samples"
    for one, other in zip(steps.data, samples.data, strict=True):
        np.testing.assert_array_equal(np.asarray(one.x) * 256, other.x)
        np.testing.assert_array_equal(one.y, other.y)
    with pytest.raises(DataError, match="missing: tokens"):
        plots.metrics(frame, x="tokens")


@pytest.mark.parametrize("smooth", [1.0, -0.1, 2.0, float("nan")])
def test_a_weight_that_is_none_is_refused(smooth: float, frames: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match=r"smooth=.* is not allowed; allowed: a number from 0 to below 1"):
        plots.metrics(frames["metrics"], smooth=smooth)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_panels_stand_side_by_side_as_asked(columns: int, frames: dict[str, pd.DataFrame]) -> None:
    frame = pd.concat([frames["metrics"].assign(name=name) for name in ("loss", "accuracy", "error", "entropy")])
    whole = {"metrics": frame, "histogram": frames["histogram"], "spectrum": frames["spectrum"]}
    for name, table in whole.items():
        figure = getattr(plots, name)(table, columns=columns)
        places = {axis.domain[0] for axis in figure.select_xaxes()}
        assert len(places) == min(columns, len(list(figure.select_xaxes())))


# --- one state of a figure with a slider ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["histogram", "spectrum"])
@pytest.mark.parametrize("asked", [-5, *STEPS, 14, 99])
def test_one_state_is_that_of_the_figure_with_a_slider(name: str, asked: int, frames: dict[str, pd.DataFrame]) -> None:
    moving = getattr(plots, name)(frames[name])
    still = getattr(plots, name)(frames[name], step=asked)
    recorded_at = max((step for step in STEPS if step <= asked), default=STEPS[0])
    state = next(frame for frame in moving.frames if frame.name == str(recorded_at))
    assert (still.frames, still.layout.sliders) == ((), ())
    assert len(still.data) == len(state.data) == len(moving.data)
    for trace, expected, whole in zip(still.data, state.data, moving.data, strict=True):
        np.testing.assert_array_equal(trace.y, expected.y)
        np.testing.assert_array_equal(trace.x, whole.x if expected.x is None else expected.x)
        assert trace.line == whole.line
    for axis in ("xaxis", "xaxis2", *(["yaxis", "yaxis2"] if name == "spectrum" else [])):
        assert still.layout[axis].range == moving.layout[axis].range


def test_a_run_without_a_record_yet_has_an_empty_line(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["spectrum"]
    late = frame[(frame["run"] == "slow") | (frame["layer"] != "3")]
    for name, table in (
        ("spectrum", late),
        ("histogram", frames["histogram"][lambda f: (f["run"] == "slow") | (f["layer"] != "3")]),
    ):
        figure = getattr(plots, name)(table, step=10)
        assert len(figure.data) == 6


# --- steps in one picture ---------------------------------------------------------------------------------------------


def test_ridges_are_densities_on_one_scale_each_at_its_steps_place(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.ridge(frames["ridge"], layer="3")
    ridges = [trace for trace in figure.data if trace.fill == "tonexty"]
    assert len(ridges) == 2 * len(STEPS)
    top = max(float(trace.customdata.max()) for trace in ridges)
    for trace in ridges:
        x, density = trace.x.astype(float), trace.customdata.astype(float)
        assert density.sum() * (x[1] - x[0]) == pytest.approx(1.0, abs=1e-4)
        place = round(float((trace.y - OVERLAP * density / top)[0]))
        np.testing.assert_allclose(trace.y, place + OVERLAP * density / top, atol=1e-5)
        assert trace.hovertemplate.startswith(f"step {STEPS[place]}<br>")
    single = plots.histogram(frames["ridge"], layer="3", step=STEPS[2])
    last = next(trace for trace in ridges if trace.legendgroup == "slow" and "step 20<" in trace.hovertemplate)
    np.testing.assert_allclose(last.customdata, single.data[1].y[::2], rtol=1e-5)
    assert list(figure.layout.yaxis.ticktext) == [f"step {step}" for step in STEPS]
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range


@pytest.mark.parametrize(("cursor", "step"), [(None, None), (-1, None), (0, 0), (14, 10), (30, 30), (99, 30)])
@pytest.mark.parametrize("name", ["ridge", "spectrum_steps"])
def test_the_state_at_the_cursor_is_drawn_in_black(
    name: str, cursor: int | None, step: int | None, frames: dict[str, pd.DataFrame]
) -> None:
    figure = getattr(plots, name)(frames[name], layer="3", cursor=cursor)
    black = {trace.hovertemplate.split("<br>")[0] for trace in figure.data if trace.line.color == "#222222"}
    assert black == (set() if step is None else {f"step {step}"})


def test_newer_steps_are_stronger_in_the_runs_own_colour(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["spectrum_steps"].assign(
        run=pd.Categorical(frames["spectrum_steps"]["run"], categories=["x", "fast", "slow"])
    )
    figure = plots.spectrum_steps(frame, layer="3")
    colours = {run: [trace.line.color for trace in figure.data if trace.legendgroup == run] for run in ("fast", "slow")}
    for run, colour in (("fast", plots.PALETTE[1]), ("slow", plots.PALETTE[2])):
        *rgb, _ = [float(part) for part in colours[run][0].removeprefix("rgba(").rstrip(")").split(",")]
        assert "#" + "".join(f"{int(part):02X}" for part in rgb) == colour
        strengths = [float(shade.rstrip(")").split(",")[-1]) for shade in colours[run]]
        assert strengths == sorted(set(strengths))
        assert strengths[-1] == 1.0


def test_singular_values_over_steps_are_those_of_the_table(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["spectrum_steps"]
    figure = plots.spectrum_steps(frame)
    largest = "0"
    assert len(figure.data) == 2 * len(STEPS)
    for trace in figure.data:
        step = int(trace.hovertemplate.split("<br>")[0].removeprefix("step "))
        part = frame[(frame["layer"] == largest) & (frame["run"] == trace.legendgroup) & (frame["step"] == step)]
        np.testing.assert_allclose(trace.y, part.sort_values("index")["singular_value"], rtol=1e-6)
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize("name", ["ridge", "spectrum_steps"])
def test_of_many_steps_a_dozen_are_drawn_first_and_last_among_them(name: str, frames: dict[str, pd.DataFrame]) -> None:
    one = frames[name][(frames[name]["step"] == 0) & (frames[name]["run"] == "fast")]
    figure = getattr(plots, name)(pd.concat([one.assign(step=step) for step in range(0, 1000, 7)]))
    steps = {trace.hovertemplate.split("<br>")[0] for trace in figure.data if trace.hovertemplate}
    assert {"step 0", "step 994"} <= steps
    assert len(steps) <= 12


@pytest.mark.parametrize("name", ["ridge", "spectrum_steps", "histogram", "spectrum"])
def test_a_layer_that_is_not_there_is_refused_with_the_closest(name: str, frames: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match="layer='33' is not in the table"):
        getattr(plots, name)(frames[name], layer="33")


def test_weights_that_have_diverged_or_vanished_are_drawn(frames: dict[str, pd.DataFrame]) -> None:
    nothing = frames["ridge"].assign(count=0)
    assert np.isfinite(np.concatenate([trace.y for trace in plots.ridge(nothing).data])).all()
    assert plots.spectrum_steps(frames["spectrum_steps"].assign(singular_value=0.0)).data


# --- memory and settings ----------------------------------------------------------------------------------------------


def test_memory_is_stacked_in_one_unit_in_the_order_of_the_table(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.memory(frames["memory"])
    assert [trace.name for trace in figure.data] == ["parameters", "optimizer"]
    assert figure.layout.xaxis.title.text == "memory of a training step (MB)"
    assert figure.layout.barmode == "stack"
    for trace, values in zip(figure.data, ([4.0, 4.0], [8.0, 1.0]), strict=True):
        assert list(trace.y) == ["plain", "low rank"]
        np.testing.assert_allclose(trace.x, values)
        np.testing.assert_array_equal(trace.customdata, np.array(values) * 1e6)


@pytest.mark.parametrize(("size", "unit"), [(0.0, "B"), (999.0, "B"), (1000.0, "kB"), (5e9, "GB"), (5e17, "TB")])
def test_the_unit_fits_the_largest_bar(size: float, unit: str) -> None:
    figure = plots.memory(pd.DataFrame({"run": ["a"], "kind": ["parameters"], "bytes": [size]}))
    assert figure.layout.xaxis.title.text.endswith(f"({unit})")


def dimensions(figure: object) -> dict[str, object]:
    return {axis.label: axis for axis in figure.data[0].dimensions}  # type: ignore[attr-defined]


def test_settings_that_differ_have_an_axis_each_and_the_result_is_last() -> None:
    frame = pd.DataFrame({
        "lr": [1e-4, 1e-2, 1.0], "rank": [2, 4, 8], "same": 1, "norm": ["none", None, "<b>"], "on": [True, False, True],
        "accuracy": [0.1, 0.9, 0.5],
    })  # fmt: skip
    axes = dimensions(plots.parallel(frame, result="accuracy"))
    assert list(axes) == ["lr", "rank", "norm", "on", "accuracy"]
    np.testing.assert_allclose(axes["lr"].values, [-4, -2, 0])
    assert dict(zip(axes["lr"].ticktext, axes["lr"].tickvals, strict=True))["0.01"] == pytest.approx(-2)
    assert list(axes["rank"].values) == [2, 4, 8]
    assert [axes["norm"].ticktext[int(place)] for place in axes["norm"].values] == ["none", "–", "&lt;b&gt;"]
    assert [axes["on"].ticktext[int(place)] for place in axes["on"].values] == ["True", "False", "True"]
    np.testing.assert_allclose(axes["accuracy"].values, [0.1, 0.9, 0.5])


def test_runs_without_a_finite_result_are_left_out_and_more_than_nine_settings_are_told() -> None:
    frame = pd.DataFrame({f"knob{index}": [1, 2, 3, 4] for index in range(12)}).assign(loss=[1.0, np.nan, np.inf, 2.0])
    figure = plots.parallel(frame, result="loss")
    assert len(figure.data[0].dimensions) == 10
    assert list(figure.data[0].dimensions[-1].values) == [1.0, 2.0]
    assert figure.layout.title.text == "9 of 12 settings that differ"
    with pytest.warns(UserWarning, match="empty"):
        assert not plots.parallel(pd.DataFrame({"a": [1, 1], "loss": [1.0, 2.0]}), result="loss").data
    with pytest.raises(DataError, match="missing: accuracy"):
        plots.parallel(frame, result="accuracy")


def test_brushed_runs_lie_within_every_brushed_axis():
    frame = pd.DataFrame({"method": ["a", "b", "a"], "lr": [1e-4, 1e-2, 1.0], "loss": [3.0, 2.0, 1.0]})
    figure = plots.parallel(frame, result="loss")
    assert brushed(figure, {}).tolist() == [True, True, True]
    assert brushed(figure, {"lr": [[-2.5, 0.5]]}).tolist() == [False, True, True]  # the axis is logarithmic
    assert brushed(figure, {"lr": [[-2.5, 0.5]], "method": [[-0.2, 0.2]]}).tolist() == [False, False, True]
    assert brushed(figure, {"loss": [[0.5, 1.5], [2.5, 3.5]]}).tolist() == [True, False, True]
