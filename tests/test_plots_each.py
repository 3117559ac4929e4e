"""Figures one by one: bins, axes, intervals, and what is left out and said so."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import pytest
import torch
from plot_frames import STEPS, recorded
from scipy import stats

from wbench import plots, probes
from wbench.errors import DataError
from wbench.plots._axes import decimate
from wbench.plots._style import layers_of


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return recorded()


@pytest.mark.parametrize("step", STEPS)
def test_histograms_of_runs_share_bins_and_integrate_to_one(step: int, frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.histogram(frames["histogram"][frames["histogram"]["step"] == step])
    for layer in range(3):
        fast, slow = figure.data[2 * layer : 2 * layer + 2]
        assert np.array_equal(fast.x, slow.x)
        for trace in (fast, slow):
            assert np.trapezoid(trace.y.astype(float), trace.x.astype(float)) == pytest.approx(1.0, abs=1e-4)


def test_rebinning_keeps_the_mass_and_the_part_below_any_old_edge() -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=31))
    count = rng.integers(0, 50, size=30)
    edges = np.unique(np.concatenate([np.linspace(-5, 5, 40), ends]))
    new = plots.rebin(ends[:-1], ends[1:], count, edges)
    assert new.sum() == pytest.approx(count.sum())
    for end, mass in zip(ends[1:], np.cumsum(count), strict=True):
        assert new[edges[1:] <= end].sum() == pytest.approx(mass)
    assert (new >= 0).all()


def test_the_density_can_be_seen_on_a_log_axis_and_back(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.histogram(frames["histogram"])
    linear, log = (button.args[0] for button in figure.layout.updatemenus[0].buttons)
    assert set(linear) == set(log) == {f"yaxis{n}.{key}" for n in ("", "2", "3") for key in ("type", "range")}
    assert log["yaxis.range"][1] == pytest.approx(np.log10(figure.layout.yaxis.range[1]), abs=0.3)
    assert list(linear["yaxis.range"]) == list(figure.layout.yaxis.range)
    for scale, button in (("linear", linear), ("log", log)):  # or once for all, without buttons
        given = plots.histogram(frames["histogram"], scale=scale)
        assert not given.layout.updatemenus
        for axis in ("yaxis", "yaxis2", "yaxis3"):
            assert (given.layout[axis].type, list(given.layout[axis].range)) == (scale, list(button[f"{axis}.range"]))


def test_spectra_are_the_tables_on_a_log_axis_with_the_stable_rank(frames: dict[str, pd.DataFrame]) -> None:
    last = frames["spectrum"][frames["spectrum"]["step"] == STEPS[-1]]
    figure = plots.spectrum(last, layer="3")
    assert [axis.type for axis in figure.select_yaxes()] == ["log"]
    for trace, run in zip(figure.data, ("fast", "slow"), strict=True):
        part = last[(last["layer"] == "3") & (last["run"] == run)]
        np.testing.assert_allclose(trace.y, part["singular_value"], rtol=1e-6)
        assert f"stable rank {part['stable_rank'].iloc[0]:.3g}" in trace.name
        assert f"stable rank {part['stable_rank'].iloc[0]:.3g}" in trace.hovertemplate


def test_a_zero_matrix_can_be_drawn() -> None:
    figure = plots.spectrum(probes.spectrum({"w": torch.zeros(4, 4)}))
    assert np.isfinite(figure.data[0].y).all()


def test_of_many_layers_the_largest_are_drawn_and_the_figure_says_so() -> None:
    source = {f"l{index}": torch.randn(index + 2, 5) for index in range(10)}
    for probe, draw in ((probes.histogram, plots.histogram), (probes.spectrum, plots.spectrum)):
        frame = probe(source)
        assert layers_of(frame, None) == [f"l{index}" for index in range(4, 10)]
        assert draw(frame).layout.title.text.startswith("6 of 10 layers")
        assert len(draw(frame, layer="l0").data) == 1
        with pytest.raises(DataError, match="layer='l11' is not in the table. Did you mean"):
            draw(frame, layer="l11")


def test_a_long_layer_name_keeps_its_end_in_the_title_and_is_whole_on_hover() -> None:
    source = {f"encoder.blocks.{index}.attention.projection": torch.randn(4, 4) for index in range(3)}
    notes = plots.spectrum(probes.spectrum(source)).layout.annotations
    assert [len(note.text) for note in notes] == [26] * 3
    assert len({note.text for note in notes}) == 3
    assert notes[2].hovertext == "layer encoder.blocks.2.attention.projection"


def test_effective_rates_have_a_second_row_only_where_a_norm_follows(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["effective_lr"]
    both = plots.effective_lr(frame)
    assert len(list(both.select_yaxes())) == 2
    below = [trace for trace in both.data if trace.yaxis == "y2"]
    assert {trace.name for trace in below} == {"fast: 0", "slow: 0"}
    expected = frame[(frame["run"] == "fast") & (frame["layer"] == "0")]["effective_lr"]
    np.testing.assert_allclose(next(trace.y for trace in below if trace.name == "fast: 0"), expected, rtol=1e-6)
    assert len(list(plots.effective_lr(frame.assign(effective_lr=np.nan)).select_yaxes())) == 1


def test_seeds_become_a_mean_with_students_interval_and_n_in_the_legend(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["metrics"]
    figure = plots.metrics(frame)
    line = next(trace for trace in figure.data if trace.name == "fast (n = 2)")
    band = next(trace for trace in figure.data if trace.legendgroup == "fast" and trace.fill == "toself")
    values = frame[(frame["run"] == "fast") & (frame["step"] == 20)]["value"].to_numpy()
    assert line.y[list(line.x).index(20)] == pytest.approx(values.mean(), rel=1e-6)
    ends = np.sort(np.asarray(band.y)[np.asarray(band.x) == 20])
    np.testing.assert_allclose(
        ends, stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)), rtol=1e-5
    )
    low, high = figure.layout.yaxis.range
    assert low < frame["value"].min() < frame["value"].max() < high < 2 * frame["value"].max()


def test_there_is_a_panel_for_each_split_and_name() -> None:
    rows = [
        {"step": step, "split": split, "name": name, "value": 1.0 / (step + 1)}
        for step in range(3) for split, name in (("train", "loss"), ("valid", "loss"), ("valid", "accuracy"))
    ]  # fmt: skip
    figure = plots.metrics(pd.DataFrame(rows))
    assert [note.text for note in figure.layout.annotations] == ["train loss", "valid loss", "valid accuracy"]
    only = plots.metrics(pd.DataFrame(rows), names=("valid accuracy",))
    assert [note.text for note in only.layout.annotations] == ["valid accuracy"]


def test_lines_are_thinned_to_a_thousand_points_with_their_extremes() -> None:
    x = np.arange(50_000)
    y = np.sin(x / 500.0)
    y[[1234, 43210]] = 9.0, -7.0
    y[20_000:20_010] = np.nan
    few, values = decimate(x, y)
    assert len(few) <= 1000
    assert (values.max(), values.min()) == (9.0, -7.0)
    assert (few[0], few[-1]) == (0, 49_999)
    assert (np.diff(few) > 0).all()
    frame = pd.DataFrame({"step": x, "split": "train", "name": "loss", "value": y})
    assert max(len(trace.x) for trace in plots.metrics(frame).data) <= 1000


def test_points_of_a_landscape_that_are_not_finite_are_left_blank(frames: dict[str, pd.DataFrame]) -> None:
    for name in ("landscape", "landscape2d"):
        frame = frames[name].copy()
        frame.loc[frame["alpha"] == frame["alpha"].max(), "loss"] = np.inf
        frame.loc[frame["alpha"] == frame["alpha"].min(), "loss"] = np.nan
        figure = plots.landscape(frame)
        drawn = np.asarray(figure.data[0].y if name == "landscape" else figure.data[0].z, dtype=float)
        assert np.isnan(drawn).any()
        assert np.isfinite(drawn).any()
        assert not np.isinf(drawn).any()
        with pytest.warns(UserWarning, match="the table is empty"):
            plots.landscape(frame.assign(loss=np.nan))


def test_losses_that_are_not_positive_are_drawn_on_a_linear_scale(frames: dict[str, pd.DataFrame]) -> None:
    line = frames["landscape"].assign(loss=lambda frame: frame["loss"] - 5.0)
    assert plots.landscape(line).layout.yaxis.type == "linear"
    plane = frames["landscape2d"].assign(loss=lambda frame: frame["loss"] - 5.0)
    figure = plots.landscape(plane)
    np.testing.assert_allclose(np.asarray(figure.data[0].z), np.asarray(figure.data[0].customdata))
    assert plots.landscape(frames["landscape2d"]).data[0].colorscale[0][1] == "#440154"  # Viridis


def test_a_verdict_is_told_by_marker_and_word_as_well_as_by_colour(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["intervals"]
    figure = plots.intervals(frame)
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert len({trace.marker.color for trace in figure.data}) == 3
    words = [note.text for note in figure.layout.annotations]
    for word in ("● holds: -0.03 [-0.05, -0.01]", "◇ undecided: 0 [-0.01, 0.02]", "✕ fails: 1250 [1100, 1400]"):
        assert word in words
    assert [shape.x0 for shape in figure.layout.shapes] == [0.0, 1500.0]
    for axis, part in zip(figure.select_xaxes(), (frame[:2], frame[2:]), strict=True):
        assert axis.range[0] < part[["low", "threshold"]].min().min()
        assert axis.range[1] > part[["high", "threshold"]].max().max()
    assert html.unescape(figure.layout.xaxis.title.text) == "needed: < 0 nats"
    bare = frame.drop(columns=["arm_role", "direction"])
    assert len(plots.intervals(bare).data) == 3
    with pytest.raises(DataError, match="passed='maybe' is not allowed; allowed: yes, no, undecided"):
        plots.intervals(frame.assign(passed="maybe"))


def test_an_interval_without_ends_is_still_drawn(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.intervals(frames["intervals"].assign(low=np.nan, high=np.nan))
    assert [trace.x[0] for trace in figure.data] == [-0.03, 0.0, 1250.0]


def test_a_change_is_drawn_symmetric_about_zero_and_only_its_corner(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.delta(frames["delta"])
    heat = figure.data[0]
    assert heat.zmin == -heat.zmax < 0
    assert np.asarray(heat.z).shape == (128, 20)
    assert "first 128 rows and columns" in figure.layout.annotations[0].text
    assert [colour for _, colour in heat.colorscale] == ["#0072B2", "#F7F7F7", "#D55E00"]
