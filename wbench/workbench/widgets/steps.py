"""A slider over steps that lie unevenly and grow in number."""

from __future__ import annotations

import anywidget
import traitlets

from wbench.workbench.widgets._source import script, style


class StepSlider(anywidget.AnyWidget):
    """A slider with one stop a step; the steps may change at any time.

    The sliders of ipywidgets send a value to the kernel also when the kernel has changed their range: one that was given new steps while
    it trains would be moved by its own answer.

        slider = StepSlider(steps=[0, 10, 50], place=2, name="step", hint="step that all panels show")
        slider.observe(lambda change: print(slider.steps[change["new"]]), "place")
    """

    _esm = script("steps.js")
    _css = style("steps.css")

    steps = traitlets.List(traitlets.Int(), [0], minlen=1, help="Ascending.").tag(sync=True)
    place = traitlets.Int(0, min=0, help="Index of the step it stands on; a place beyond the last is the last.").tag(
        sync=True
    )
    name = traitlets.Unicode(help="Written before it.").tag(sync=True)
    hint = traitlets.Unicode(help="Accessible name and tooltip.").tag(sync=True)
