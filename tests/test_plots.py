"""Figures: what they draw is what the table says, readable, without the network, and the same code for panel and report."""

from __future__ import annotations

import html
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from wbench import plots, probes
from wbench.errors import DataError
from wbench.plots._steps import at_step, steps_of
from wbench.plots._style import DASHES, MARKERS, decimate, layers_of, marker_of, runs_of, style_of

STEPS = (0, 10, 20, 30)


def trained(run: str, lr: float, seed: int = 0) -> dict[str, pd.DataFrame]:
    inputs, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 32, bias=False), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    kept: dict[str, list[pd.DataFrame]] = {name: [] for name in ("histogram", "spectrum", "effective_lr", "metrics")}
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            kept["histogram"].append(probes.histogram(model).assign(step=step))
            kept["spectrum"].append(probes.spectrum(model).assign(step=step))
        loss = nn.functional.cross_entropy(model(x[:256]), y[:256])
        optimizer.zero_grad()
        loss.backward()
        before = probes.snapshot(model)
        optimizer.step()
        frame = probes.effective_lr(before, probes.snapshot(model), lr=lr, scale_invariant=("0",))
        kept["effective_lr"].append(frame.assign(step=step))
        kept["metrics"].append(pd.DataFrame({"step": [step], "split": "train", "name": "loss", "value": loss.item()}))

    def measure(m: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(m(x[:256]), y[:256])

    frames = {name: pd.concat(parts, ignore_index=True).assign(run=run, seed=seed) for name, parts in kept.items()}
    frames["landscape"] = probes.landscape(model, measure, points=5).assign(run=run)
    frames["landscape2d"] = probes.landscape(model, measure, dims=2, points=5).assign(run=run)
    return frames


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    torch.set_num_threads(1)
    runs = [trained("fast", 0.1), trained("slow", 0.01), trained("fast", 0.1, seed=1), trained("slow", 0.01, seed=1)]
    joined = {name: pd.concat([run[name] for run in runs], ignore_index=True) for name in runs[0]}
    for name in ("histogram", "spectrum", "effective_lr", "landscape", "landscape2d"):
        joined[name] = pd.concat([run[name] for run in runs[:2]], ignore_index=True)
    v = np.linspace(-1, 1, 50)
    joined["companding"] = pd.concat(
        pd.DataFrame({
            "layer": "0",
            "v": v,
            "w": np.tanh(k * v),
            "density_v": np.exp(-(v**2)),
            "density_w": 1.0,
            "step": k,
        })
        for k in (1, 2, 3)
    )
    row, col = np.indices((150, 20))
    joined["delta"] = pd.concat(
        pd.DataFrame({
            "layer": "0",
            "row": row.ravel(),
            "col": col.ravel(),
            "value": step * np.sin(row + col).ravel(),
        }).assign(step=step)
        for step in (0, 1)
    )
    joined["subspace"] = pd.DataFrame({
        "step": [0, 5, 10], "layer": "a", "overlap": [np.nan, 0.5, 0.7], "energy_share": [0.9, 0.8, 0.8], "stable_rank": [3.0, 2.0, 2.5],
    })  # fmt: skip
    joined["intervals"] = pd.DataFrame({
        "label": ["loss", "loss", "size"], "arm_role": ["method", "control", "method"], "estimate": [-0.03, 0.0, 1250.0],
        "low": [-0.05, -0.01, 1100.0], "high": [-0.01, 0.02, 1400.0], "threshold": [0.0, 0.0, 1500.0],
        "passed": ["yes", "undecided", "no"], "unit": ["nats", "nats", "weights"], "direction": ["<", "<", ">"],
    })  # fmt: skip
    metrics = joined["metrics"][joined["metrics"]["seed"] == 0]
    joined["plasticity"] = pd.concat([
        metrics.assign(arm=metrics["run"], table="metrics", name="accuracy", split="task1", phase="task1"),
        joined["effective_lr"].assign(arm=joined["effective_lr"]["run"], table="effective_lr"),
    ])  # fmt: skip
    return joined


DRAW: dict[str, Callable[[pd.DataFrame], Any]] = {
    "histogram": plots.histogram, "spectrum": plots.spectrum, "effective_lr": plots.effective_lr, "metrics": plots.metrics,
    "landscape": plots.landscape, "landscape2d": plots.landscape, "companding": plots.companding, "delta": plots.delta,
    "subspace": plots.subspace, "intervals": plots.intervals, "plasticity": plots.plasticity,
}  # fmt: skip


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


def sizes(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "font" and isinstance(part, dict) and "size" in part:
                yield part["size"]
            yield from sizes(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from sizes(part)


def test_the_palette_is_okabe_and_itos_and_then_dashes_and_markers_repeat_it() -> None:
    assert plots.PALETTE == ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    looks = [(style_of(index)["color"], style_of(index)["dash"]) for index in range(24)]
    assert len(set(looks)) == 24
    assert [look[0] for look in looks[:6]] == list(plots.PALETTE)
    assert {look[1] for look in looks[:6]} == {DASHES[0]}
    assert [marker_of(index)["symbol"] for index in (0, 6, 12, 18)] == list(MARKERS)


def test_a_run_keeps_its_colour_when_others_are_left_out(frames: dict[str, pd.DataFrame]) -> None:
    frame = frames["landscape"].assign(run=frames["landscape"]["run"].astype("category"))
    both = {trace.name: trace.line.color for trace in plots.landscape(frame).data}
    alone = plots.landscape(frame[frame["run"] == "slow"]).data[0]
    assert alone.line.color == both["slow"] != both["fast"]
    assert runs_of(frame[frame["run"] == "slow"]) == {"slow": 1}


@pytest.mark.parametrize("name", DRAW)
def test_every_figure_titles_its_axes_is_legible_and_uses_neither_latex_nor_webgl(
    name: str, frames: dict[str, pd.DataFrame]
) -> None:
    figure = DRAW[name](frames[name])
    drawn = figure.to_plotly_json()
    assert len(figure.data) > 0
    assert not any("$" in text for text in texts(drawn["layout"]))
    assert not any(trace.type.endswith("gl") or "3d" in trace.type for trace in figure.data)
    assert min(sizes(drawn["layout"])) >= 12
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "white"
    if name != "intervals":  # whose rows are named, not scaled
        assert any(axis.title.text for axis in figure.select_yaxes())
    bottom = [axis for axis in figure.select_xaxes() if axis.visible is not False and axis.showticklabels is not False]
    assert any(axis.title.text for axis in bottom)
    if figure.layout.showlegend and figure.layout.legend.x is not None:
        assert figure.layout.legend.x > 1.0


@pytest.mark.parametrize("name", DRAW)
def test_an_empty_table_gives_an_empty_figure_and_a_warning(name: str, frames: dict[str, pd.DataFrame]) -> None:
    for frame in (frames[name].head(0), pd.DataFrame()):
        with pytest.warns(UserWarning, match="the table is empty"):
            figure = DRAW[name](frame)
        assert len(figure.data) == 0
        assert figure.layout.annotations[0].text == "nothing was recorded"


@pytest.mark.parametrize("name", DRAW)
def test_a_table_that_lacks_a_column_is_refused_by_name(name: str, frames: dict[str, pd.DataFrame]) -> None:
    needed = (
        "label"
        if name == "intervals"
        else "arm"
        if name == "plasticity"
        else "step"
        if name in {"metrics", "subspace"}
        else None
    )
    column = needed or ("alpha" if name.startswith("landscape") else "layer")
    with pytest.raises(DataError, match=f"missing: {column}; given: "):
        DRAW[name](frames[name].drop(columns=column))


@pytest.mark.parametrize("name", ["histogram", "spectrum", "companding", "delta"])
def test_the_slider_has_a_step_for_each_record_and_its_frames_have_the_tables_values(
    name: str, frames: dict[str, pd.DataFrame]
) -> None:
    figure = DRAW[name](frames[name])
    steps = sorted(frames[name]["step"].unique())
    slider = figure.layout.sliders[0]
    assert (
        [step.label for step in slider.steps]
        == [str(step) for step in steps]
        == [frame.name for frame in figure.frames]
    )
    assert slider.active == len(steps) - 1
    assert all(len(frame.data) == len(figure.data) for frame in figure.frames)
    assert figure.layout.margin.b > 100  # room below the axes
    single = DRAW[name](frames[name][frames[name]["step"] == steps[0]])
    assert len(single.layout.sliders) == 0
    for whole, first, alone in zip(figure.data, figure.frames[0].data, single.data, strict=True):
        if name == "histogram":  # whose bins cover all steps, or one
            assert np.trapezoid(first.y.astype(float), whole.x.astype(float)) == pytest.approx(1.0, abs=1e-4)
            continue
        for key in ("x", "y", "z"):
            if key in first and first[key] is not None:
                np.testing.assert_array_equal(first[key], alone[key])
            elif key in whole:
                assert np.array_equal(whole[key], alone[key])


def test_a_frame_changed_once_is_set_in_every_frame(frames: dict[str, pd.DataFrame]) -> None:
    figure = plots.spectrum(frames["spectrum"])
    for index in range(len(figure.data)):
        keys = [frozenset(frame.data[index].to_plotly_json()) for frame in figure.frames]
        assert len(set(keys)) == 1
        assert "y" in keys[0]
        assert "line" not in keys[0]


def test_a_long_run_has_at_most_so_many_slider_steps_first_and_last_among_them() -> None:
    frame = pd.DataFrame({"step": np.arange(0, 1000, 10)})
    steps = steps_of(frame)
    assert len(steps) == 13
    assert (steps[0], steps[-1]) == (0, 990)
    assert set(at_step(frame, 55)["step"]) == {50}
    assert set(at_step(frame[frame["step"] > 100], 55)["step"]) == {110}


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
        figure = DRAW[name](frame)
        drawn = np.asarray(figure.data[0].y if name == "landscape" else figure.data[0].z, dtype=float)
        assert np.isnan(drawn).any()
        assert np.isfinite(drawn).any()
        assert not np.isinf(drawn).any()
        with pytest.warns(UserWarning, match="the table is empty"):
            DRAW[name](frame.assign(loss=np.nan))


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


def test_names_of_runs_are_text_and_never_html(frames: dict[str, pd.DataFrame]) -> None:
    evil = "<a href='x'>b</a>"
    for name in ("histogram", "spectrum", "effective_lr", "landscape", "landscape2d", "metrics"):
        figure = DRAW[name](frames[name].assign(run=evil, **({"layer": evil} if "layer" in frames[name] else {})).drop_duplicates(
            [column for column in ("step", "layer", "alpha", "beta", "index", "bin_left") if column in frames[name]]
        ))  # fmt: skip
        shown = {**figure.to_plotly_json()["layout"], "names": [trace.name for trace in figure.data]}
        assert not any("<a" in text for text in texts(shown))


@pytest.mark.parametrize("name", ["histogram", "metrics"])
def test_a_saved_page_asks_nothing_of_the_network(name: str, frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    page = tmp_path / "figure.html"
    DRAW[name](frames[name]).write_html(page, include_plotlyjs=True, include_mathjax=False, config=plots.CONFIG)
    text = page.read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?https?:", text)
    assert '"showSendToCloud": false' in text
    assert '"displaylogo": false' in text


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_in_a_browser_without_network_slider_and_buttons_work_and_nothing_can_be_uploaded(
    frames: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    figure = plots.histogram(frames["histogram"])
    page = tmp_path / "figure.html"
    figure.write_html(page, include_plotlyjs=True, include_mathjax=False, config=plots.CONFIG, auto_play=False)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        tab = browser.new_context(offline=True).new_page()
        asked: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.as_uri())
        tab.wait_for_selector(".slider-rail-touch-rect")
        titles = [button.get_attribute("data-title") for button in tab.query_selector_all(".modebar-btn")]
        drawn = "Array.from(document.querySelector('.js-plotly-plot')._fullData[0].y)"
        rail = tab.query_selector(".slider-rail-touch-rect").bounding_box()
        tab.mouse.click(rail["x"] + 2, rail["y"] + rail["height"] / 2)
        tab.wait_for_timeout(500)
        first = tab.evaluate(drawn)
        tab.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
        tab.wait_for_timeout(500)
        last = tab.evaluate(drawn)
        tab.query_selector_all(".updatemenu-button")[1].click()
        tab.wait_for_timeout(300)
        scale = tab.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.yaxis.type")
        browser.close()
    np.testing.assert_allclose(first, np.asarray(figure.frames[0].data[0].y), rtol=1e-6)
    np.testing.assert_allclose(last, np.asarray(figure.frames[-1].data[0].y), rtol=1e-6)
    assert first != last
    assert scale == "log"
    assert titles
    assert not any(re.search("cloud|share|edit", title or "", re.IGNORECASE) for title in titles)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_a_sheet_is_written_from_what_there_is(ending: str, frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    one = {name: frame[frame["run"] == "fast"] for name, frame in frames.items() if "run" in frame.columns}
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    for held in (one, {}) if ending == ".png" else ({"metrics": one["metrics"]},):
        path = plots.sheet(held, tmp_path / f"sheet{ending}", title="cost: $5 < $6")
        assert path.read_bytes().startswith(starts[ending])


def test_a_sheet_of_another_ending_or_table_is_refused(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="allowed: .png, .pdf, .svg"):
        plots.sheet({}, tmp_path / "sheet.docx")
    with pytest.raises(DataError, match="missing: singular_value"):
        plots.sheet({"spectrum": frames["spectrum"].drop(columns="singular_value")}, tmp_path / "sheet.png")


def test_figures_warn_of_nothing(frames: dict[str, pd.DataFrame]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, draw in DRAW.items():
            draw(frames[name])
