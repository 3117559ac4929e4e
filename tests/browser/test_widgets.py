"""The widgets in JupyterLab: what a user sees, clicks, types and saves."""

from pathlib import Path

import pytest
from lab import open_notebook
from page import GRAPHS, LIBRARY, LOSS, SETUP, WEIGHTS, plot_of, view

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(lab, browser):
    notebook = open_notebook(lab, browser, [SETUP], width=1024, height=2600)
    notebook.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    notebook.run_all()
    notebook.wait(f"{GRAPHS}.length === 3 && {GRAPHS}.every(gd => gd.data)", seconds=30)
    return notebook


@pytest.fixture
def notebook(opened):
    yield opened
    opened.check()


def test_figures_have_a_name_a_sentence_and_their_numbers(notebook):
    page = notebook.page
    assert page.get_by_role("img", name="Loss. It falls to 0.2.").is_visible()
    assert page.get_by_role("heading", name="Weights", level=3).is_visible()
    y = page.evaluate(f"Array.from({LOSS}._fullData[2].y)")
    assert y == [2 + x for x in range(100)]
    assert page.evaluate("typeof window.Plotly") == "undefined"
    assert page.locator(".modebar, [data-title*='Share']").count() == 0


def test_nothing_is_wider_than_a_page_of_1024_pixels(notebook):
    wide = notebook.page.evaluate(
        "[...document.querySelectorAll('.jp-OutputArea-output')].filter(e => e.scrollWidth > e.clientWidth).length"
    )
    assert wide == 0
    assert notebook.page.evaluate(f"{GRAPHS}.every(gd => gd.querySelector('.main-svg').clientWidth <= gd.clientWidth)")


def test_zoom_and_hidden_lines_survive_new_data_and_end_with_the_revision(notebook):
    page = notebook.page
    x, y, width, height = plot_of(notebook, LOSS)
    page.mouse.move(x + 0.2 * width, y + 0.5 * height)
    page.mouse.down()
    page.mouse.move(x + 0.6 * width, y + 0.5 * height, steps=5)
    page.mouse.up()
    view(notebook, "Loss").locator(".legendtoggle").nth(1).click()
    notebook.wait(f"() => {LOSS}._fullData[1].visible === 'legendonly'")
    zoomed = page.evaluate(f"{LOSS}._fullLayout.xaxis.range")
    assert 10 < zoomed[0] < 30 and 50 < zoomed[1] < 70
    notebook.python("loss.show(lines(end=2.0), 'Twice.', 'a')")
    notebook.wait(f"() => {LOSS}._fullData[0].y[1] === 2")
    assert page.evaluate(f"{LOSS}._fullLayout.xaxis.range") == zoomed
    assert page.evaluate(f"{LOSS}._fullData.map(t => t.visible)")[:3] == [True, "legendonly", True]
    notebook.python("loss.show(lines(), 'It falls to 0.2.', 'b')")
    notebook.wait(f"() => {LOSS}._fullLayout.xaxis.range[0] < 1")
    assert page.evaluate(f"{LOSS}._fullData.every(t => t.visible === true)")


def test_a_figure_that_comes_back_is_not_drawn_again(notebook):
    page = notebook.page
    page.evaluate(
        "document.addEventListener('wbench-drawn', ({ target }) => { window.seen ||= target.innerText.startsWith('Loss'); })"
    )

    def seen(act):
        page.evaluate("window.seen = false")
        act()
        notebook.wait("() => window.seen")

    def show(end, graph=None):
        seen(lambda: notebook.python(f"loss.show(lines(end={end}), 'To {end}.', 'kept', stays=True)"))
        notebook.wait(f"() => Math.abs({LOSS}._fullData[0].y[1] - {end}) < 1e-6")
        return page.evaluate_handle(LOSS) if graph is None else page.evaluate(f"graph => graph === {LOSS}", graph)

    one, other = show(1.5), show(2.5)
    page.evaluate("graphs => graphs.forEach(gd => gd.on('plotly_afterplot', () => window.drawings++))", [one, other])
    page.evaluate("window.drawings = 0")
    notebook.python("loss.cursor = 20")
    assert show(1.5, one) and show(2.5, other)
    assert page.evaluate("window.drawings") == 0
    assert page.get_by_role("img", name="Loss. To 2.5.").is_visible()
    notebook.wait(f"() => {LOSS}.parentElement.querySelectorAll('.wbench-view-lines > div').length === 1")
    notebook.python("loss.cursor = None; loss.show(None)")
    notebook.wait(f"() => {GRAPHS}.length === 2")  # with nothing between them
    assert view(notebook, "Loss").locator(".wbench-view-graph").get_attribute("aria-label") == "Loss"
    assert show(1.5, one)
    assert page.evaluate("window.drawings") == 0
    x, y, width, height = plot_of(notebook, LOSS)
    page.mouse.move(x + 0.5 * width, y + 0.5 * height, steps=3)
    notebook.wait(f"() => {LOSS}.querySelector('.hoverlayer .hovertext')")
    show(2.5)
    page.mouse.move(2, 2)
    assert show(1.5, one)
    assert page.evaluate(f"{LOSS}.querySelectorAll('.hoverlayer .hovertext').length") == 0
    seen(lambda: notebook.theme("dark"))
    show(2.5)
    assert page.evaluate(f"{LOSS}._fullLayout.font.color").upper() == "#E6E6E6"
    seen(lambda: notebook.theme("light"))
    graphs = page.evaluate_handle("new Set()")
    for end in range(3, 23):
        show(end)
        page.evaluate(f"graphs => graphs.add({LOSS})", graphs)
    assert page.evaluate("graphs => graphs.size", graphs) == 8  # the oldest is drawn into again


def test_zoom_holds_for_figures_that_come_back_too(notebook):
    page = notebook.page
    for end in (1.0, 2.0):
        notebook.python(f"loss.show(lines(end={end}), 'To {end}.', 'zoomed', stays=True)")
        notebook.wait(f"() => {LOSS}._fullData[0].y[1] === {end}")
    x, y, width, height = plot_of(notebook, LOSS)
    page.mouse.move(x + 0.2 * width, y + 0.5 * height)
    page.mouse.down()
    page.mouse.move(x + 0.6 * width, y + 0.5 * height, steps=5)
    page.mouse.up()
    notebook.wait(f"() => {LOSS}._fullLayout.xaxis.range[0] > 10")
    zoomed = page.evaluate(f"{LOSS}._fullLayout.xaxis.range")
    for revision, expected in (("zoomed", zoomed), ("other", None)):
        for end in (1.0, 2.0, 1.0):
            notebook.python(f"loss.show(lines(end={end}), 'To {end}.', {revision!r}, stays=True)")
            notebook.wait(f"() => {LOSS}._fullData[0].y[1] === {end}")
            notebook.wait("begin => " + f"({LOSS}._fullLayout.xaxis.range[0] > 10) === begin", expected is not None)
            assert expected is None or page.evaluate(f"{LOSS}._fullLayout.xaxis.range") == expected
    notebook.python("loss.show(lines(), 'It falls to 0.2.', 'b')")
    notebook.wait(f"() => {LOSS}._fullData[0].y[1] === 1")


def test_cursor_moves_over_step_axes_without_a_new_drawing(notebook):
    page = notebook.page
    page.evaluate(f"window.drawings = 0; {LOSS}.on('plotly_afterplot', () => window.drawings++)")
    for step in (20, 70):
        notebook.python(f"loss.cursor = {step}")
        notebook.wait(f"() => {LOSS}.parentElement.querySelectorAll('.wbench-view-lines > div').length === 1")
        notebook.wait(
            f"""step => Math.abs(parseFloat({LOSS}.parentElement.querySelector('.wbench-view-lines > div').style.left)
            - {LOSS}._fullLayout.xaxis._offset - {LOSS}._fullLayout.xaxis.d2p(step)) < 0.01""",
            step,
        )
    assert page.evaluate("window.drawings") == 0
    notebook.python("loss.cursor = None")
    notebook.wait(f"() => {LOSS}.parentElement.querySelectorAll('.wbench-view-lines > div').length === 0")


def test_click_on_a_step_axis_picks_the_step(notebook):
    x, y, _, _ = plot_of(notebook, LOSS)
    right, down = notebook.page.evaluate(f"[{LOSS}._fullLayout.xaxis.d2p(40), {LOSS}._fullLayout.yaxis.d2p(40)]")
    place = x + right, y + down
    notebook.page.mouse.move(*place)
    notebook.page.mouse.click(*place)
    notebook.becomes("[abs(step - 40) <= 1 for step in picked]", [True])


def test_brush_on_parallel_coordinates_tells_its_ranges(notebook):
    gd = f"{GRAPHS}.find(gd => gd.ariaLabel.startsWith('Runs'))"
    notebook.page.evaluate(
        f"{LIBRARY}.then(plotly => plotly.restyle({gd}, {{'dimensions[1].constraintrange': [[0.2, 0.5]]}}))"
    )
    notebook.becomes("chosen", [{"loss": [[0.2, 0.5]]}])


def test_picture_and_numbers_are_saved_from_memory(notebook):
    saved = {}
    for kind in ("PNG", "SVG", "CSV"):
        with notebook.page.expect_download() as download:
            notebook.page.get_by_role("button", name=f"Loss: save as {kind}").click()
        assert download.value.suggested_filename == f"loss.{kind.lower()}"
        saved[kind] = Path(download.value.path()).read_bytes()
    assert saved["PNG"].startswith(b"\x89PNG")
    assert saved["SVG"].startswith(b"<svg") and b"step" in saved["SVG"]
    assert saved["CSV"] == b"step,loss\n0,1.5\n"
    assert view(notebook, "Weights").get_by_role("button", name="CSV").count() == 0


def test_csv_that_fails_says_so_in_the_panel(notebook):
    notebook.python("loss.csv = lambda: 1 / 0")
    view(notebook, "Loss").get_by_role("button", name="Loss: save as CSV").click()
    view(notebook, "Loss").get_by_role("alert").filter(has_text="division by zero").wait_for()
    notebook.python("loss.csv = lambda: 'step,loss\\n0,1.5\\n'; loss.show(lines(end=3.0), 'It falls to 0.2.', 'b')")
    view(notebook, "Loss").get_by_role("alert").wait_for(state="hidden")


def test_snapshot_arrives_in_the_kernel(notebook):
    notebook.python("weights.snapshot(scale=1)")
    notebook.becomes("weights.png[:22]", "data:image/png;base64,")


def test_slider_inside_a_figure_shows_its_frames(notebook):
    page = notebook.page
    page.evaluate(f"{LIBRARY}.then(plotly => plotly.animate({WEIGHTS}, ['1'], {{mode: 'immediate'}}))")
    notebook.wait(f"() => Array.from({WEIGHTS}._fullData[0].y).at(-1) === 1")
    notebook.python("weights.show(stepped([1, 2, 3, 4]), 'Their density.', 'a')")
    notebook.wait(f"() => {WEIGHTS}._fullLayout.sliders[0].steps.length === 4")
    active = page.evaluate(f"{WEIGHTS}._fullLayout.sliders[0].active")
    assert page.evaluate(f"Array.from({WEIGHTS}._fullData[0].y).at(-1)") == active + 1


def test_colours_stand_out_in_both_themes_and_runs_keep_theirs(notebook):
    page = notebook.page
    contrast = """([one, other]) => { const light = text => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = text;
      const [r, g, b] = [1, 3, 5].map(i => parseInt(c.fillStyle.slice(i, i + 2), 16) / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const [low, high] = [light(one), light(other)].sort((a, b) => a - b); return (high + 0.05) / (low + 0.05); }"""
    for theme, paper, ink in (("dark", "#111111", "#E6E6E6"), ("light", "#FFFFFF", "#222222")):
        notebook.theme(theme)
        notebook.wait(f"ink => {GRAPHS}.every(gd => gd._fullLayout.font.color.toUpperCase() === ink)", ink)
        colours = page.evaluate(f"{LOSS}._fullData.map(t => t.line.color)")
        assert len(set(colours)) == 6
        assert all(page.evaluate(contrast, [colour, paper]) >= 3 for colour in [*colours, ink])
        assert page.evaluate(f"{LOSS}._fullLayout.paper_bgcolor") == "rgba(0,0,0,0)"
        notebook.becomes("face.theme", theme)


def test_newest_of_many_figures_is_drawn_and_not_all_of_them(notebook):
    page = notebook.page
    page.evaluate(f"window.drawings = 0; {LOSS}.on('plotly_afterplot', () => window.drawings++)")
    notebook.python("texts = [as_json(lines(end=1.0 + k)) for k in range(40)]")
    notebook.python("for text in texts: loss.figure = text")
    notebook.wait(f"() => {LOSS}._fullData[0].y[1] === 40")
    assert 1 <= page.evaluate("window.drawings") < 30


def test_same_figure_again_sends_nothing(notebook):
    notebook.python("sent = []; loss.show(lines(), 'Once.', 'b'); loss.observe(lambda c: sent.append(c.name))")
    notebook.python("loss.show(lines(), 'Once.', 'b'); loss.unobserve_all()")
    assert notebook.value("sent") == []


def test_hidden_view_draws_when_it_is_shown(notebook):
    notebook.python("spare.show(lines(2), 'Two.')")
    assert notebook.value("[loss.visible, spare.visible]") == [True, False]
    assert notebook.page.evaluate(f"{GRAPHS}.length") == 3
    notebook.python("spare_box.layout.display = ''")
    notebook.page.get_by_role("img", name="Spare. Two.").scroll_into_view_if_needed()
    notebook.wait(f"() => {GRAPHS}.length === 4")
    notebook.becomes("spare.visible", True)
    notebook.python("spare.show(None)")
    notebook.wait(f"() => {GRAPHS}.length === 3")
    notebook.python("spare_box.layout.display = 'none'")
    notebook.becomes("spare.visible", False)


def test_a_figure_that_cannot_be_drawn_leaves_a_sentence_and_a_usable_panel(notebook):
    notebook.python("weights.figure = '{\"data\": [{]}'")
    view(notebook, "Weights").get_by_role("alert").filter(has_text="could not be drawn").wait_for()
    notebook.python("weights.show(stepped([1, 2]), 'Again.')")
    view(notebook, "Weights").get_by_role("alert").wait_for(state="hidden")
    notebook.wait(f"() => {WEIGHTS}._fullLayout.sliders[0].steps.length === 2")


def test_models_and_graphs_do_not_grow_over_30_figures_and_closed_views(notebook):
    count = "len(W.widgets.widget._instances)"
    before = notebook.value(count)
    notebook.python("for k in range(30): loss.show(lines(end=float(k)), '', str(k))")
    assert notebook.value(count) == before
    for _ in range(3):
        notebook.python("extra = PlotView('Extra'); extra.show(lines(1)); grid.children += (extra,)")
        notebook.page.get_by_role("img", name="Extra").scroll_into_view_if_needed()
        notebook.wait(f"() => {GRAPHS}.length === 4")
        notebook.python(
            "grid.children = grid.children[:-1]; extra.layout.close(); extra.close(); del extra; import gc; gc.collect()"
        )
        notebook.wait(f"() => {GRAPHS}.length === 3")
    assert notebook.value(count) == before
    alive = "sum(isinstance(o, PlotView) for o in __import__('gc').get_objects())"
    assert notebook.value(alive) == 4


def test_slider_handles_have_names_and_values_in_real_units(notebook):
    handle = notebook.page.get_by_role("slider", name="learning rate")
    assert handle.get_attribute("aria-valuetext") == "0.001"
    notebook.python(
        "rate.observe(lambda c: setattr(face, 'names', {'knob-lr': {'label': 'learning rate', 'valuetext': f'{c.new:.4f}'}}), 'value')"
    )
    handle.focus()
    handle.press("ArrowRight")
    notebook.becomes("rate.value > 0.001", True)
    notebook.wait("() => document.querySelector('.knob-lr .noUi-handle').getAttribute('aria-valuetext') === '0.0013'")


def test_face_copies_saves_and_measures(notebook):
    notebook.python("face.copy('import wbench as wb')")
    notebook.becomes("face.copied", True)
    assert notebook.page.evaluate("navigator.clipboard.readText()") == "import wbench as wb"
    with notebook.page.expect_download() as download:
        notebook.python("face.download('run.py', 'x = 1', 'text/x-python')")
    assert Path(download.value.path()).read_text() == "x = 1"
    width = notebook.page.evaluate("document.querySelector('.wbench-face').offsetWidth")
    notebook.becomes("face.width", width)
    notebook.python("face.busy = True")
    notebook.wait("() => document.querySelector('.wbench-face').ariaBusy === 'true'")
