"""The table in JupyterLab: sort, filter, tick, pin, rename, note, delete and undo, by mouse and by keyboard."""

import re

import pytest
from lab import open_notebook

pytestmark = pytest.mark.browser

SETUP = """
from wbench.workbench.widgets import RunTable
from ipywidgets import VBox

def many(n):
    return [{"key": str(i), "name": f"run {i}", "note": "", "colour": i, "dash": "dash" if i > 5 else "solid", "n": 3, "pinned": False,
             "loss": None if i == 4 else (i * 7 % n) / n, "method": "galore" if i % 2 else "bone", "made": 1.7e9 + 86400 * i}
            for i in range(n)]

columns = [{"key": "loss", "title": "valid loss", "kind": "number", "digits": 3},
           {"key": "method", "title": "method", "kind": "text"}, {"key": "made", "title": "made", "kind": "time"}]
def begin():
    global table, calls
    for old in home.children:
        old.close()
    table, calls = RunTable(columns, height=240), []
    table.on_edit(lambda key, field, value: calls.append([key, field, value]))
    table.on_delete(lambda keys: calls.append(["delete", *keys]))
    table.on_undo(lambda: calls.append(["undo"]))
    table.set_rows(many(60))
    home.children = [table]

home = VBox()
home
"""
ROWS = "[...document.querySelectorAll('.wbench-table tbody tr[data-key]')]"


@pytest.fixture(scope="module")
def opened(lab, browser):
    notebook = open_notebook(lab, browser, [SETUP], width=1024)
    notebook.run_all()
    return notebook


@pytest.fixture
def notebook(opened):
    opened.page.set_default_timeout(10_000)
    opened.python("begin()")
    opened.wait("() => [...document.querySelectorAll('.wbench-table')].filter(e => e.offsetWidth).length === 1")
    opened.page.get_by_role("status").filter(has_text="60 rows, 0 overlaid").wait_for()
    yield opened
    opened.check()


def names(notebook):
    return notebook.page.evaluate(f"{ROWS}.map(row => row.querySelector('[data-field=name]').textContent)")


def row(notebook, name):
    return notebook.page.get_by_role("row").filter(has=notebook.page.get_by_role("cell", name=name, exact=True))


def filtered(notebook, text, status):
    notebook.page.get_by_role("searchbox", name="Filter rows").fill(text)
    notebook.page.get_by_role("status").filter(has_text=status).wait_for()


def test_header_sorts_both_ways_and_missing_values_stay_last(notebook):
    head = notebook.page.get_by_role("columnheader", name="valid loss")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(notebook)[:3] == ["run 0", "run 43", "run 26"]  # 7 i mod 60 is 0, 1, 2
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names(notebook)[0] == "run 17"  # 7 x 17 = 119, 59 of 60
    notebook.page.evaluate("document.querySelector('.wbench-table-scroll').scrollTop = 1e6")
    notebook.wait(f"() => {ROWS}.at(-1).dataset.key === '4'")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"


def test_filter_reads_words_columns_and_comparisons(notebook):
    filtered(notebook, "method:bone loss>=0.9", "of 60 rows")
    expected = {f"run {i}" for i in range(0, 60, 2) if (i * 7 % 60) / 60 >= 0.9 and i != 4}
    assert set(names(notebook)) == expected
    filtered(notebook, "validloss<0.05", "3 of 60 rows")
    filtered(notebook, "made>=2023-11-20 run", f"{60 - 6} of 60 rows")
    filtered(notebook, "<img>", "0 of 60 rows")
    filtered(notebook, "lss>1", "No column “lss”. Columns: name, note, seeds, validloss, method, made.")
    filtered(notebook, "", "60 rows")


def test_ticks_are_the_selection_on_both_sides(notebook):
    notebook.page.get_by_role("checkbox", name="Overlay run 2", exact=True).check()
    notebook.page.get_by_role("checkbox", name="Overlay run 5", exact=True).check()
    notebook.becomes("table.selected", ["2", "5"])
    notebook.python("table.selected = ['5']")
    notebook.wait(f"() => {ROWS}.filter(row => row.ariaSelected === 'true').map(row => row.dataset.key).join() === '5'")
    notebook.page.get_by_role("button", name="Untick all rows").click()
    notebook.becomes("table.selected", [])


def test_pinned_rows_come_first(notebook):
    row(notebook, "run 3").get_by_role("button", name="Pin run 3").click()
    notebook.becomes("calls", [["3", "pinned", True]])
    assert names(notebook)[:2] == ["run 3", "run 0"]
    assert row(notebook, "run 3").get_by_role("button", name="Pin run 3").get_attribute("aria-pressed") == "true"
    assert notebook.value("table.rows[3]['pinned']") is True


def test_name_and_note_are_edited_in_place_and_survive_updates(notebook):
    page = notebook.page
    row(notebook, "run 1").get_by_role("cell", name="run 1", exact=True).dblclick()
    field = page.get_by_role("textbox", name="name of run 1")
    field.fill("<b>best</b>")
    notebook.python("table.update_rows([{'key': str(i), 'loss': 0.5} for i in range(10)])")
    assert field.input_value() == "<b>best</b>"
    field.press("Tab")
    page.get_by_role("textbox", name="note of <b>best</b>").fill("lower rank")
    page.keyboard.press("Enter")
    notebook.becomes("calls", [["1", "name", "<b>best</b>"], ["1", "note", "lower rank"]])
    cell = row(notebook, "<b>best</b>").get_by_role("cell", name="<b>best</b>", exact=True)
    assert cell.get_attribute("title") == "<b>best</b>"
    assert row(notebook, "<b>best</b>").get_by_role("cell", name="0.5", exact=True).count() == 1
    assert notebook.value("[table.rows[1][k] for k in ('name', 'note', 'loss')]") == ["<b>best</b>", "lower rank", 0.5]


def test_keyboard_alone_moves_ticks_and_renames(notebook):
    page = notebook.page
    row(notebook, "run 0").focus()
    for key in ("ArrowDown", "ArrowDown", "Space", "F2"):
        page.keyboard.press(key)
    field = page.get_by_role("textbox", name="name of run 2")
    field.fill("dropped")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.key") == "2"
    assert names(notebook)[2] == "run 2"
    notebook.becomes("[calls, table.selected]", [[], ["2"]])
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.key") == "59"
    page.keyboard.press("Home")
    page.keyboard.press("d")
    page.keyboard.press("d")  # deletes a cell of the notebook, were it not for us
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement.dataset.key") == "0"
    assert len(names(notebook)) > 8


def test_deletion_can_be_undone_and_focus_goes_to_the_neighbour(notebook):
    page = notebook.page
    page.get_by_role("checkbox", name="Overlay run 2", exact=True).check()
    button = row(notebook, "run 2").get_by_role("button", name="Delete run 2")
    button.focus()
    button.press("Enter")
    notebook.becomes("[calls, table.undoable, table.selected, len(table.rows)]", [[["delete", "2"]], ["2"], [], 59])
    notebook.wait("() => document.activeElement.ariaLabel === 'Delete run 3'")
    page.get_by_role("button", name="Undo the deletion").click()
    notebook.becomes("[calls[-1], table.undoable, table.rows[2]['name']]", [["undo"], [], "run 2"])
    notebook.wait(f"() => {ROWS}.map(row => row.dataset.key).slice(0, 4).join() === '0,1,2,3'")
    page.get_by_role("button", name="Undo the deletion").wait_for(state="hidden")


def test_update_sends_and_draws_the_changed_rows_only(notebook):
    page = notebook.page
    page.evaluate(f"window.kept = {ROWS}")
    notebook.python("sent = []; table.observe(lambda c: sent.append(c.name))")
    notebook.python("table.update_rows([{'key': '3', 'loss': float('nan')}, {'key': 'new', 'name': 'run 60'}])")
    notebook.python("table.unobserve_all()")
    notebook.page.get_by_role("status").filter(has_text="61 rows").wait_for()
    assert notebook.value("[sent, len(table.rows), table.rows[3]['loss']]") == [[], 61, None]
    assert page.evaluate(f"{ROWS}.filter((row, i) => row !== window.kept[i]).map(row => row.dataset.key)") == ["3"]
    assert row(notebook, "run 3").get_by_role("cell", name="–", exact=True).count() == 1


def test_two_thousand_rows_are_listed_at_once_and_few_are_drawn(notebook):
    page = notebook.page
    page.evaluate(
        """() => { const status = document.querySelector('.wbench-table-status'); window.listed = new Promise(done =>
        new MutationObserver(() => status.textContent.startsWith('2000') && done(performance.now())).observe(status, {childList: true, characterData: true, subtree: true})) }"""
    )
    notebook.python("rows = many(2000)")
    start = page.evaluate("performance.now()")
    notebook.python("table.set_rows(rows)")
    assert page.evaluate("window.listed") - start < 1500  # 0.1 s where the machine has nothing else to do
    assert page.evaluate(f"{ROWS}.length") < 40
    assert page.get_by_role("table", name="Runs").get_attribute("aria-rowcount") == "2001"
    page.evaluate("document.querySelector('.wbench-table-scroll').scrollTop = 30 * 1000")
    notebook.wait(f"() => {ROWS}.some(row => row.ariaRowIndex === '1002' && row.dataset.key === '1000')")


def test_other_columns_keep_rows_and_order(notebook):
    notebook.python("table.columns = [{'key': 'best', 'title': 'best loss', 'kind': 'number', 'unit': 'nats'}]")
    head = notebook.page.get_by_role("columnheader", name="best loss (nats)")
    head.get_by_role("button").click()
    notebook.python("table.update_rows([{'key': '7', 'best': 0.25}])")
    notebook.wait(f"() => {ROWS}[0].dataset.key === '7'")
    notebook.python("table.columns = columns")
    notebook.page.get_by_role("columnheader", name="valid loss").wait_for()
    assert names(notebook)[:2] == ["run 0", "run 1"]


def test_lines_have_the_palette_of_the_theme(notebook):
    swatch = "document.querySelector('tr[data-key=\"5\"] svg line').getAttribute('stroke')"
    light = notebook.page.evaluate(swatch)
    notebook.theme("dark")
    notebook.wait(f"light => {swatch} !== light", light)
    assert re.fullmatch("#56B4E9", notebook.page.evaluate(swatch))
    notebook.theme("light")
    notebook.wait(f"light => {swatch} === light", light)


def test_it_scrolls_inside_itself_on_a_narrow_page(notebook):
    inside = "(() => { const box = document.querySelector('.wbench-table-scroll'); return [box.scrollWidth > box.clientWidth, "
    inside += "document.querySelector('.jp-OutputArea-output').scrollWidth <= document.querySelector('.jp-OutputArea-output').clientWidth]; })()"
    assert notebook.page.evaluate(inside)[1]
    notebook.page.set_viewport_size({"width": 800, "height": 900})
    notebook.wait(f"() => {inside}.every(Boolean)")
    notebook.page.set_viewport_size({"width": 1024, "height": 900})
