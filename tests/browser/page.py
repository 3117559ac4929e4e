"""A page with three views, a slider and the face, as the tests of widgets use it."""

SETUP = """
import ipywidgets as W, numpy as np, plotly.graph_objects as go
from wbench.workbench.widgets import Face, PlotlyLibrary, PlotView
from wbench.workbench.widgets.figure import as_json
from wbench.plots._style import colour_of, layout, style_of

def lines(count=6, end=1.0):
    figure = layout(go.Figure(), height=260)
    x = np.arange(100)
    for i in range(count):
        figure.add_trace(go.Scatter(x=x, y=i + end * x, line=style_of(i), name=f"run {i}", fillcolor=colour_of(i, 0.2)))
    return figure.update_layout(meta={"step_axes": ["x"]}, xaxis_title="step")

def stepped(steps):
    x = np.linspace(-1, 1, 9)
    figure = layout(go.Figure(go.Scatter(x=x, y=steps[-1] * x)), height=240)
    figure.frames = [go.Frame(name=str(s), data=[go.Scatter(x=x, y=s * x)]) for s in steps]
    buttons = [{"label": str(s), "method": "animate", "args": [[str(s)], {"mode": "immediate"}]} for s in steps]
    return figure.update_layout(sliders=[{"active": len(steps) - 1, "steps": buttons}])

def brushed():
    rng = np.random.default_rng(0)
    axes = [{"label": name, "values": rng.random(20)} for name in ("rank", "loss")]
    return layout(go.Figure(go.Parcoords(dimensions=axes)), height=240)

library = PlotlyLibrary()
loss, weights, runs, spare = PlotView("Loss"), PlotView("Weights"), PlotView("Runs"), PlotView("Spare")
loss.csv = lambda: "step,loss\\n0,1.5\\n"
loss.show(lines(), "It falls to 0.2.", "a")
weights.show(stepped([1, 2, 3]), "Their density.", "a")
runs.show(brushed(), "Twenty of them.")
picked, chosen = [], []
loss.on_pick(picked.append)
runs.on_select(chosen.append)
face = Face()
rate = W.FloatLogSlider(value=1e-3, min=-5, max=0, description="lr").add_class("knob-lr")
face.names = {"knob-lr": {"label": "learning rate", "valuetext": "0.001"}}
spare_box = W.VBox([spare], layout={"display": "none"})
grid = W.GridBox([loss, weights, runs], layout={"grid_template_columns": "minmax(0,1fr) minmax(0,1fr)"})
display(W.VBox([library, face, rate, grid, spare_box]))
"""
GRAPHS = "[...document.querySelectorAll('.js-plotly-plot')]"
LIBRARY = "globalThis[Symbol.for('wbench.plotly')].ready()"
LOSS = f"{GRAPHS}.find(gd => gd.ariaLabel.startsWith('Loss'))"
WEIGHTS = f"{GRAPHS}.find(gd => gd.ariaLabel.startsWith('Weights'))"


def plot_of(notebook, graph):
    """Return left, top, width and height of a figure's plot, in pixels of the page."""
    return notebook.page.evaluate(
        f"""(() => {{ const gd = {graph}, box = gd.getBoundingClientRect(), {{ xaxis, yaxis }} = gd._fullLayout;
        return [box.x + xaxis._offset, box.y + yaxis._offset, xaxis._length, yaxis._length]; }})()"""
    )


def view(notebook, name):
    """Return the part of the page where a view stands."""
    return notebook.page.locator("section.wbench-view").filter(
        has=notebook.page.get_by_role("heading", name=name, exact=True)
    )
