"""All figures: readable, without the network, colours and sliders alike, and the same code for panel and report."""

from __future__ import annotations

import inspect
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plot_frames import recorded

from wbench import plots
from wbench.errors import DataError
from wbench.plots._steps import at_step, steps_of
from wbench.plots._style import DASHES, MARKERS, marker_of, runs_of, style_of


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return recorded()


DRAW: dict[str, Callable[[pd.DataFrame], Any]] = {
    "aggregation": plots.aggregation, "ball": plots.ball, "blocks": plots.blocks, "calibration": plots.calibration,
    "companding": plots.companding, "core": plots.core, "delta": plots.delta, "effective_lr": plots.effective_lr,
    "equilibrium": plots.equilibrium, "estimator": plots.estimator, "histogram": plots.histogram, "intervals": plots.intervals,
    "landscape": plots.landscape, "landscape2d": plots.landscape, "lazy_subspace": plots.lazy_subspace, "memory": plots.memory,
    "merging": plots.merging, "metrics": plots.metrics, "parallel": partial(plots.parallel, result="test accuracy"),
    "plasticity": plots.plasticity, "response": partial(plots.response, knobs=["rank"]), "ridge": plots.ridge, "rows": plots.rows,
    "sharing": plots.sharing, "spectrum": plots.spectrum, "spectrum_steps": plots.spectrum_steps, "subspace": plots.subspace,
    "thresholds": plots.thresholds, "utilisation": plots.utilisation,
}  # fmt: skip
LACKING = {  # a column that the figure needs; the others need `layer`
    "aggregation": "part", "ball": "depth", "blocks": "place", "equilibrium": "arm", "intervals": "label", "landscape": "alpha",
    "landscape2d": "alpha", "memory": "kind", "merging": "arrival", "metrics": "step", "parallel": "test accuracy", "plasticity": "arm",
    "response": "rank", "sharing": "what", "subspace": "step", "utilisation": "share",
}  # fmt: skip
SLIDERS = ["histogram", "spectrum", "companding", "delta", "core", "estimator", "rows", "thresholds"]


def test_every_figure_that_is_offered_is_drawn_here_and_its_table_is_there(frames: dict[str, pd.DataFrame]) -> None:
    offered = {name for name in plots.__all__ if callable(getattr(plots, name))}
    figures = {name for name in offered if inspect.signature(getattr(plots, name)).return_annotation == "go.Figure"}
    assert offered - figures == {"rebin", "sheet"}
    assert figures - set(DRAW) == set()
    assert set(DRAW) == set(frames)


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
    if name == "parallel":  # whose axes are its own
        assert all(axis.label for axis in figure.data[0].dimensions)
        return
    if name not in {"intervals", "memory", "ridge"}:  # whose rows are named, not scaled
        assert any(axis.title.text for axis in figure.select_yaxes())
    bottom = [axis for axis in figure.select_xaxes() if axis.visible is not False and axis.showticklabels is not False]
    assert any(axis.title.text for axis in bottom)
    if figure.layout.showlegend and figure.layout.legend.x is not None:
        assert figure.layout.legend.x > 1.0 or figure.layout.legend.y > 1.0


@pytest.mark.parametrize("name", DRAW)
def test_an_empty_table_gives_an_empty_figure_and_a_warning(name: str, frames: dict[str, pd.DataFrame]) -> None:
    for frame in (frames[name].head(0), pd.DataFrame()):
        with pytest.warns(UserWarning, match="the table is empty"):
            figure = DRAW[name](frame)
        assert len(figure.data) == 0
        assert figure.layout.annotations[0].text == "nothing was recorded"


@pytest.mark.parametrize("name", DRAW)
def test_a_table_that_lacks_a_column_is_refused_by_name(name: str, frames: dict[str, pd.DataFrame]) -> None:
    column = LACKING.get(name, "layer")
    with pytest.raises(DataError, match=f"missing: {column}; given: "):
        DRAW[name](frames[name].drop(columns=column))


@pytest.mark.parametrize("name", SLIDERS)
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


def test_names_of_runs_are_text_and_never_html(frames: dict[str, pd.DataFrame]) -> None:
    evil = "<a href='x'>b</a>"
    for name in ("histogram", "spectrum", "effective_lr", "landscape", "landscape2d", "metrics"):
        figure = DRAW[name](frames[name].assign(run=evil, **({"layer": evil} if "layer" in frames[name] else {})).drop_duplicates(
            [column for column in ("step", "layer", "alpha", "beta", "index", "bin_left") if column in frames[name]]
        ))  # fmt: skip
        shown = {**figure.to_plotly_json()["layout"], "names": [trace.name for trace in figure.data]}
        assert not any("<a" in text for text in texts(shown))


@pytest.mark.parametrize("name", DRAW)
def test_names_in_a_table_are_text_in_axes_legend_and_hover(name: str, frames: dict[str, pd.DataFrame]) -> None:
    frame = frames[name].copy()
    for column in {"run", "layer", "arm", "model", "dictionary", "member", "label"} & set(frame.columns):
        if frame[column].map(lambda value: isinstance(value, str)).all():
            frame[column] = "<a href='x'>" + frame[column] + "</a>"
    drawn = DRAW[name](frame).to_plotly_json()
    keys = ("name", "text", "hovertext", "hovertemplate", "x", "y")
    shown = [
        list(trace[key]) if isinstance(trace.get(key), np.ndarray) else trace.get(key)
        for trace in drawn["data"]
        for key in keys
    ]
    assert not any("<a" in text for text in [*texts(drawn["layout"]), *texts(shown)])


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
