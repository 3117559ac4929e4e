"""Reports: one HTML file that needs neither kernel nor network, a verdict beside it, and nothing computed twice."""

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest

import wbench as wb
from wbench import cli
from wbench.errors import ReportError, WBenchError
from wbench.reports import Figure, execute, report, to_html
from wbench.reports.cells import method_card, provenance, table

ATTACK = "</script><script>alert(1)</script>"
CHROMIUM = Path("/usr/bin/chromium")
LAUNCH = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One report by the command line, then the same again; with the wall time of each and the runs after each."""
    folder = tmp_path_factory.mktemp("report")
    store = wb.RunStore(folder / "runs")
    argv = ["wbench", "report", "weight_compander", "--scale", "smoke", "--task", "digits", "--set", "b_mult=1.5",
            "--store", str(store.root), "--out", str(folder / "out"), "--quiet"]  # fmt: skip
    calls = []
    for _ in range(2):
        begin = time.perf_counter()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", argv)
            cli.main()
        calls.append((time.perf_counter() - begin, stopped.value.code, {run.id: run.created for run in store.runs()}))
    return folder / "out", store, calls


@pytest.fixture(scope="module")
def page(made):
    return (made[0] / "weight_compander.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with attributes, and the visible text of the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in {"script", "style"}:
            self.texts.append(data.strip())

    @property
    def text(self):
        return " ".join(part for part in self.texts if part)


def outside(tags):
    asks = {"src", "href", "srcset", "data", "action", "poster", "formaction"}
    return [
        (tag, name, value)
        for tag, attributes in tags
        for name, value in attributes.items()
        if name in asks and tag != "a" and not (value or "").startswith(("data:", "#"))
    ]


# --- the files


def test_the_report_leaves_notebook_page_and_verdict(made):
    folder, _, calls = made
    assert [status for _, status, _ in calls] == [0, 0]
    assert {path.name for path in folder.iterdir()} == {
        "weight_compander.ipynb", "weight_compander.html", "verdict-weight_compander.json",
    }  # fmt: skip


def test_the_second_call_computes_no_run_again_and_is_quicker(made):
    (first, _, before), (second, _, after) = made[2]
    assert before == after
    assert second < first


def test_the_verdict_holds_outcome_intervals_control_and_every_seeds_values(made):
    folder, store, _ = made
    record = json.loads((folder / "verdict-weight_compander.json").read_text())
    claim = wb.claims.get("weight_compander")
    found = record["verdict"]
    outcomes = {"reproduced", "not reproduced", "inconclusive", "invalid"}
    assert {found["outcome"], found["control_outcome"]} <= outcomes
    assert [item["check"]["name"] for item in found["checks"]] == [check.name for check in claim.checks]
    assert len(found["control_checks"]) == sum(check.gate for check in claim.checks)
    for item in [*found["checks"], *found["control_checks"]]:
        assert item["low"] <= item["estimate"] <= item["high"]
        assert len(item["per_seed"]) == item["seeds"] == len(record["seeds"])
        assert item["unit_of_resampling"]
    assert {(row["arm"], row["seed"]) for row in record["values"]} == {
        (arm, seed) for arm in claim.arms for seed in record["seeds"]
    }
    known = {run.id for run in store.runs()}
    assert {run for runs in record["runs"].values() for run in runs} <= known


def test_a_verdicts_values_are_those_of_the_recorded_runs(made):
    folder, store, _ = made
    record = json.loads((folder / "verdict-weight_compander.json").read_text())
    rows = [row for row in record["values"] if row["metric"] == "accuracy"]
    assert rows
    for row in rows:
        run = store.get(record["runs"][row["arm"]][record["seeds"].index(row["seed"])])
        assert row["value"] == pytest.approx(run.final("accuracy"))


# --- the page


def test_the_page_is_small_and_holds_one_copy_of_plotly(made, page):
    assert (made[0] / "weight_compander.html").stat().st_size <= 8_000_000
    assert len(re.findall(r"plotly\.js v\d+\.\d+\.\d+", page)) == 1
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert sum(len(script) > 1_000_000 for script in scripts) == 1


def test_no_tag_of_the_page_asks_for_an_address(page):
    assert outside(Page(page).tags) == []
    tags = re.findall(
        r"<[a-z][^<>]{0,2000}>", re.sub(r"<script\b.*?</script>|<style\b.*?</style>", "", page, flags=re.DOTALL)
    )
    assert not [tag for tag in tags if re.search(r"https?://|require\.js|mathjax|cdn", tag, flags=re.IGNORECASE)]
    style = "".join(re.findall(r"<style\b[^>]*>(.*?)</style>", page, flags=re.DOTALL))
    assert not re.search(r"@import|url\((?!['\"]?data:)", style)


def test_there_is_no_widget_and_no_button_that_uploads(made, page):
    notebook = (made[0] / "weight_compander.ipynb").read_text(encoding="utf-8")
    for text in (page, notebook):
        assert "application/vnd.jupyter.widget" not in text
        assert not re.search(r'"showSendToCloud\\?":\s*true', text)
        assert "require.js" not in text
    assert "widgets" not in json.loads(notebook)["metadata"]
    assert len(re.findall(r'"showSendToCloud":\s*false', page)) == page.count('class="plotly-graph-div"') >= 8


def test_code_is_folded(page):
    tags = Page(page).tags
    folded = [attributes for tag, attributes in tags if tag == "details"]
    assert len(folded) >= 5
    assert not any("open" in attributes for attributes in folded)


def test_parameters_environment_checksums_seeds_and_wall_time_are_shown(made, page):
    text = Page(page).text
    (run,) = [run for run in made[1].runs() if run.label == "digits" and run.id in text]
    for name in ("method", "task", "scale", "seeds"):
        assert f"parameter {name}" in text
    assert "b_mult=1.5" in text
    for value in run.info["environment"].values():
        assert str(value) in text
    for name, checksum in run.info["data"].items():
        assert f"data {name} (SHA-256) {checksum}" in text
    assert re.search(r"\bseeds 0\b", text)
    assert re.search(r"training time \d+\.\d s in all", text)


def test_the_page_shows_the_verdict_its_control_and_every_check(made, page):
    text = " ".join(Page(page).text.split())
    record = json.loads((made[0] / "verdict-weight_compander.json").read_text())
    claim = wb.claims.get("weight_compander")
    assert f"<b>{record['verdict']['outcome']}</b>" in page
    assert f"The control ({claim.control}) comes out {record['verdict']['control_outcome']}." in text
    for item in record["verdict"]["checks"]:
        assert item["check"]["name"] in text
        assert f"{item['low']:.4g} to {item['high']:.4g}" in text


# --- what others wrote stays text


def notebook_of(outputs, source="pass"):
    cell = nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)
    return nbformat.v4.new_notebook(cells=[cell])


def hostile_page(folder):
    import pandas as pd
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], name=ATTACK, text=[ATTACK, "b"]))
    figure.update_layout(title=ATTACK)
    run = wb.train(
        wb.Task.from_arrays(np.ones((20, 2)), np.zeros(20, dtype=int), model=lambda: __import__("torch").nn.Linear(2, 2),
                            name=ATTACK, recipe=wb.Recipe(steps=1)),
        probes=(), store=wb.RunStore(folder / "runs"),
    )  # fmt: skip
    shown = [
        Figure(figure, ATTACK, ATTACK)._repr_mimebundle_(),
        {"text/html": table(pd.DataFrame({ATTACK: [ATTACK]}))._repr_html_()},
        {"text/html": method_card(wb.methods.GaLore(layers=ATTACK))._repr_html_()},
        {"text/html": provenance({ATTACK: [run]}, {"task": ATTACK})._repr_html_()},
        {"text/html": run._repr_html_()},
        {"text/plain": ATTACK},
    ]
    outputs = [nbformat.v4.new_output("display_data", data=data) for data in shown]
    outputs += [nbformat.v4.new_output("stream", name=name, text=ATTACK) for name in ("stdout", "stderr")]
    outputs.append(nbformat.v4.new_output("error", ename="ValueError", evalue=ATTACK, traceback=[ATTACK]))
    nbformat.write(notebook_of(outputs, source=f"task = {ATTACK!r}"), folder / "hostile.ipynb")
    return to_html(folder / "hostile.ipynb", folder / "hostile.html", title=ATTACK)


def test_titles_names_parameters_and_messages_are_escaped(tmp_path):
    text = hostile_page(tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 9
    assert "alert(1)" in Page(text).text
    assert outside(Page(text).tags) == []


# --- failures


def failing(folder):
    cells = [nbformat.v4.new_code_cell('name: str = "x"', metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("print('reached', name)"), nbformat.v4.new_code_cell("raise ValueError('no ' + name)"),
             nbformat.v4.new_code_cell("print('never')")]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "failing.ipynb")
    return folder / "failing.ipynb"


@pytest.mark.slow
def test_a_sweep_on_the_command_line_leaves_one_page_and_is_quiet_when_asked(tmp_path):
    """In a process of its own, as what must stay quiet is what its kernel writes."""
    argv = ["sweep", "baseline", "lr=0.01,0.1", "batch_size=16,64", "--scale", "smoke", "--seeds", "2", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "wbench.cli", *argv], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    page = tmp_path / "out" / "study-baseline.html"
    assert done.stderr == "" and done.stdout.startswith("out/study-baseline.html (")
    text = page.read_text()
    assert text.count('class="plotly-graph-div"') >= 3 and "8 runs, 8 of them trained in vectorised steps" in text
    assert "% |" not in text and "runs, ? left" not in text


def test_a_failing_cell_is_a_report_error_and_the_partial_notebook_is_kept(tmp_path):
    target = tmp_path / "partial.ipynb"
    with pytest.raises(ReportError, match="ValueError: no luck") as raised:
        execute(failing(tmp_path), target, {"name": "luck"}, progress=False)
    assert str(target) in str(raised.value)
    outputs = [output for cell in nbformat.read(target, as_version=4).cells for output in cell.get("outputs", [])]
    assert "reached luck\n" in [output.get("text") for output in outputs]
    assert "ValueError" in [output.get("ename") for output in outputs]
    assert "never\n" not in [output.get("text") for output in outputs]
    assert "WBENCH_PROGRESS" not in os.environ


def test_a_failing_cell_ends_the_command_with_status_1_and_the_message(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    failing(tmp_path / "notebooks").rename(tmp_path / "notebooks" / "method.ipynb")
    monkeypatch.setattr("wbench.reports.build.notebooks_dir", lambda: tmp_path / "notebooks")
    monkeypatch.setattr(sys, "argv", ["wbench", "report", "nap", "--task", "digits", "--scale", "smoke", "--quiet",
                                      "--store", str(tmp_path / "s"), "--out", str(tmp_path / "out")])  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (1, "")
    assert "error: method.ipynb failed in cell" in err
    assert "ValueError: no x" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["nap.ipynb"]


@pytest.mark.parametrize("what", ["out", "store"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(tmp_path, what):
    (tmp_path / "file").write_text("in the way")
    places = {"out": tmp_path / "out", "store": tmp_path / "runs"} | {what: tmp_path / "file" / "below"}
    with pytest.raises(WBenchError, match=re.escape(str(tmp_path / "file" / "below"))):
        report(
            ["nap"], task="digits", scale="smoke", out=places["out"], store=wb.RunStore(places["store"]), progress=False
        )
    assert not list(tmp_path.rglob("run.json"))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    "options",
    [{"methods": ["nop"]}, {"task": "mnits"}, {"scale": "huge"}, {"settings": {"lrr": "1"}}],
    ids=["method", "task", "scale", "knob"],
)
def test_what_is_not_allowed_is_refused_before_anything_is_written(tmp_path, options):
    given = {"methods": ["nap"], "task": "digits", "scale": "smoke"} | options
    with pytest.raises(WBenchError):
        report(**given, out=tmp_path / "out", store=wb.RunStore(tmp_path / "s"), progress=False)
    assert not (tmp_path / "out").exists()


# --- in a browser, with the network off


@pytest.fixture
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed"
    else:
        missing = "" if CHROMIUM.exists() else f"{CHROMIUM} does not exist"
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=LAUNCH)
        yield chromium
        chromium.close()


def opened(browser, path):
    """Open a file with the network off; return the page, the requests that leave it, its errors and its dialogs."""
    tab = browser.new_context(offline=True, viewport={"width": 1120, "height": 900}).new_page()
    requests, errors, dialogs = [], [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tab.goto(f"file://{path}")
    tab.wait_for_function(
        "document.querySelectorAll('.plotly-graph-div').length === document.querySelectorAll('.js-plotly-plot .main-svg:first-child').length",
        timeout=30_000,
    )
    tab.wait_for_timeout(300)
    asked = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    return tab, asked, errors, dialogs


@pytest.mark.browser
def test_the_page_draws_and_answers_offline(made, browser):
    tab, asked, errors, _ = opened(browser, made[0] / "weight_compander.html")
    assert tab.evaluate("document.querySelectorAll('.js-plotly-plot').length") >= 8

    index = tab.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].findIndex(d => d.layout.sliders && d.layout.sliders[0].steps.length > 1)"
    )
    assert index >= 0
    plot = tab.locator(".js-plotly-plot").nth(index)
    read = "d => ({active: d.layout.sliders[0].active || 0, steps: d.layout.sliders[0].steps.length, y: d._fullData.map(t => Array.from(t.y))})"
    before = plot.evaluate(read)
    plot.scroll_into_view_if_needed()
    box = plot.locator(".slider-rail-touch-rect").first.bounding_box()
    at_end = before["active"] > before["steps"] / 2
    tab.mouse.click(box["x"] + box["width"] * (0.02 if at_end else 0.98), box["y"] + box["height"] / 2)
    tab.wait_for_timeout(600)
    after = plot.evaluate(read)
    assert after["active"] != before["active"]
    assert len(after["y"]) == len(before["y"]) > 0
    assert after["y"] != before["y"]

    index = tab.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].findIndex(d => d.querySelectorAll('.legendtoggle').length > 1)"
    )
    plot = tab.locator(".js-plotly-plot").nth(index)
    visible = "d => d._fullData.filter(t => t.visible === true).length"
    shown = plot.evaluate(visible)
    plot.locator(".legendtoggle").first.click()
    tab.wait_for_timeout(600)
    assert plot.evaluate(visible) < shown

    assert asked == []
    assert errors == []


@pytest.mark.browser
def test_nothing_that_others_wrote_is_executed(tmp_path, browser):
    tab, asked, errors, dialogs = opened(browser, hostile_page(tmp_path))
    assert (asked, errors, dialogs) == ([], [], [])
    assert tab.title() == ATTACK
    assert tab.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 1
