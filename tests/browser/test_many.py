"""The workbench with much to show: eight runs of 5,000 steps over one another, 2,000 runs in the list, fifty trained in a row."""

import os
from pathlib import Path

import pytest
from lab import GRAPHS, KERNEL, open_notebook
from timing import WATCH, keep, timed

pytestmark = pytest.mark.browser

SLACK = 5  # as in test_use
KEPT = bool(os.environ.get("WBENCH_KEEP_TIMES"))
HERE = Path(__file__).parents[1]
SETUP = f"import sys; sys.path.insert(0, {str(HERE)!r}); import many; import wbench as wb\n"
LISTED = """
async rows => {
  const begin = performance.now();
  const code = "from wbench.runs.catalogue import Catalogue; bench.shelf._catalogue = Catalogue(bench.store); bench.reread()";
  const done = KERNEL.requestExecute({ code }).done;
  const there = () => document.querySelector(".wbench-workbench table[aria-rowcount]")?.getAttribute("aria-rowcount") === rows;
  while (!there()) await new Promise(requestAnimationFrame);
  const took = performance.now() - begin;
  await done;
  return took;
}
""".replace("KERNEL", KERNEL)


def shown(lab, browser, cells, name):
    notebook = open_notebook(lab, browser, cells, name=name, width=1500, height=2600)
    notebook.page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    notebook.run_all()
    notebook.shows_workbench()
    notebook.page.evaluate(WATCH)
    return notebook


def ended(notebook):
    notebook.check()
    notebook.python("bench.close()")
    notebook.page.context.close()


def test_eight_runs_of_5000_steps_are_drawn_over_one_another(lab, browser):
    cells = [SETUP + "store = many.long_runs('long', 8)", "bench = wb.Workbench('digits', store=store)\nbench"]
    notebook = shown(lab, browser, cells, "long")
    boxes = notebook.page.locator(".wbench-workbench tbody input[type=checkbox]")
    for box in boxes.all()[:7]:
        box.check()
    notebook.wait("document.querySelectorAll('.wbench-key').length === 7")
    times, whole = [], f"{GRAPHS}.filter(gd => gd.getBoundingClientRect().width)"
    last = boxes.nth(7)
    for number in range(4):
        notebook.becomes("bench.board.pending", False)
        notebook.wait(f"{whole}.length === 4")
        notebook.page.wait_for_timeout(400)  # the browser draws what was sent last
        done = f"document.querySelectorAll('.wbench-key').length === {7 + (number + 1) % 2}"
        took = timed(notebook.page, last.click, event="click", selector="tbody input", done=done, graphs=whole)
        times += [took] if number % 2 == 0 else []  # eight are drawn, then seven
    lines = f"{GRAPHS}.find(gd => gd.ariaLabel?.startsWith('Loss')).data"
    last.check()
    notebook.wait(f"new Set({lines}.map(t => t.name)).size === 8")
    assert notebook.page.evaluate(f"Math.max(...{lines}.map(t => t.x.length ?? 0))") <= 1000
    assert keep("eight runs of 5,000 steps to all panels", times, 500) < 500 * SLACK
    ended(notebook)


def test_two_thousand_runs_are_listed(lab, browser):
    cells = [SETUP + "store = many.many_runs('many', 2000)", "bench = wb.Workbench('digits', store=store)\nbench"]
    notebook = shown(lab, browser, cells, "many")
    times = []
    for _ in range(3):
        notebook.python("bench.listing.table.set_rows([]); bench.listing._rows = []")
        notebook.wait("document.querySelector('.wbench-workbench table[aria-rowcount]').ariaRowCount === '1'")
        notebook.idle()
        times.append(notebook.page.evaluate(LISTED, "501"))
    assert keep("2,000 runs listed", times, 500) < 500 * SLACK
    ended(notebook)


def test_runs_in_a_row_leave_neither_widgets_nor_memory(lab, browser):
    count = 50 if KEPT else 12
    notebook = shown(
        lab,
        browser,
        [SETUP + "store = wb.RunStore('row')", "bench = wb.Workbench('digits', store=store)\nbench"],
        "row",
    )
    notebook.put("steps (steps)", "10")
    state = "import gc, os, psutil; from ipywidgets.widgets.widget import _instances; gc.collect()"

    def train(first, last):
        for seed in range(first, last):
            notebook.put("seed", str(seed))
            notebook.press("Run")
            notebook.says(f"seed {seed}: finished")
        notebook.python(state)
        in_page = notebook.page.evaluate("document.querySelectorAll('.jupyter-widgets').length")
        return notebook.value("len(_instances)"), in_page, notebook.value("psutil.Process().memory_info().rss")

    train(0, 10)
    models, in_page, memory = train(10, 15)
    after, drawn, grown = train(15, 15 + count)
    assert (after, drawn) == (models, in_page)
    assert grown < 1.05 * memory
    if KEPT:
        keep("memory of the kernel after fifty runs, per cent of before", [100 * grown / memory], 105, "%")
    ended(notebook)
