"""One knob: a field in real units, a slider over its range, a way back to the default, and room for what is wrong."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from wbench.knobs import Knob
from wbench.workbench.controls.scales import scale_of, text_of

_numbers = itertools.count()
AUTO = "auto"


class KnobControl:
    """Widgets of one knob.

    Args:
        knob: What is known of the field.
        value: Its value at first.
        owner: Whose it is, for accessible names.
        changed: Called with (name, value) when the user has chosen a value that the knob allows.

    Attributes:
        box: What is shown.
        value: The chosen value.
        css: Class of the slider, by which its handle gets an accessible name.
    """

    def __init__(self, knob: Knob, value: Any, *, owner: str, changed: Callable[[str, Any], None]) -> None:
        self.knob, self.owner, self._changed = knob, owner, changed
        self.default, self.value = value, value
        self.css = f"wbench-knob-{next(_numbers)}"
        self._quiet = False
        self._scale = scale_of(knob)
        self.field = self._field()
        self.slider = self._slider()
        self.reset = ipw.Button(
            description="↺", tooltip=f"{knob.name}: back to {text_of(value)}", layout={"width": "30px", "padding": "0"}
        )
        self.reset.add_class("wbench-reset")
        self.reset.on_click(lambda _: self.choose(self.default))
        self.note = ipw.HTML(layout={"display": "none"})
        self.note.add_class("wbench-error")
        top = ipw.HBox([self.field, self.reset], layout={"width": "100%", "align_items": "center"})
        rows: list[ipw.Widget] = [top, *([self.slider] if self.slider is not None else []), self.note]
        self.box = ipw.VBox(rows, layout={"width": "100%", "margin": "0 0 6px 0"})
        self.box.add_class("wbench-knob")
        self._show(value)

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.knob.name} ({self.knob.unit})" if self.knob.unit else self.knob.name

    @property
    def hint(self) -> str:
        """What it does and what is allowed."""
        return f"{self.knob.doc} Allowed: {self.knob.allowed}."

    @property
    def spoken(self) -> dict[str, str]:
        """Accessible name and value of the slider's handle."""
        unit = f" {self.knob.unit}" if self.knob.unit else ""
        return {"label": f"{self.owner}: {self.label}", "valuetext": f"{text_of(self.value)}{unit}"}

    def _field(self) -> ipw.Widget:
        knob = self.knob
        common = {"description": self.label, "tooltip": self.hint}
        style, layout = {"description_width": "50%"}, {"width": "calc(100% - 36px)"}
        if knob.kind == "bool" and not knob.optional:
            box = ipw.Checkbox(value=bool(self.value), indent=False, layout=layout, **common)
            box.observe(lambda change: self._picked(change["new"]), "value")
            return box
        if knob.scale == "choices":
            several = ipw.SelectMultiple(
                options=[(str(choice), choice) for choice in knob.choices], value=tuple(self.value or ()),
                rows=min(5, len(knob.choices)), style=style, layout=layout, **common,
            )  # fmt: skip
            several.observe(lambda change: self._picked(tuple(change["new"])), "value")
            return several
        if knob.choices or knob.kind == "bool":
            options = [(text_of(choice), choice) for choice in (knob.choices or (True, False))]
            options += [(AUTO, None)] if knob.optional else []
            menu = ipw.Dropdown(options=options, value=self.value, style=style, layout=layout, **common)
            menu.observe(lambda change: self._picked(change["new"]), "value")
            return menu
        text = ipw.Text(
            value=text_of(self.value), continuous_update=False, style=style, layout=layout, placeholder=AUTO if knob.optional else "",
            **common,
        )  # fmt: skip
        text.observe(lambda change: self._typed(change["new"]), "value")
        return text

    def _slider(self) -> ipw.Widget | None:
        if self._scale is None or len(self._scale.values) < 2:
            return None
        slider = ipw.IntSlider(
            value=0, min=0, max=len(self._scale.values) - 1, readout=False, layout={"width": "100%", "margin": "-4px 0 0 0"}
        )  # fmt: skip
        slider.add_class(self.css)
        slider.observe(lambda change: self._slid(change["new"]), "value")
        return slider

    def _picked(self, value: Any) -> None:
        if not self._quiet:
            self.choose(value)

    def _slid(self, position: int) -> None:
        if self._quiet or self._scale is None:
            return
        value: float | int = self._scale.values[position]
        self.choose(int(value) if self.knob.kind == "int" else value)

    def _typed(self, text: str) -> None:
        if self._quiet:
            return
        blank = not text.strip() and self.knob.optional
        value = None if blank else self.knob.parse(text)
        if text.strip() == text_of(self.default):  # several globs are a tuple, which text alone would not give
            value = self.default
        problem = self._problem(value)
        if problem:
            self.say(
                f"{self.knob.name}={text!r} is not allowed; allowed: {self.knob.allowed}. {text_of(self.value)} stays."
            )
        else:
            self.choose(value)

    def _problem(self, value: Any) -> bool:
        knob = self.knob
        if value is None:
            return not knob.optional
        parts = value if isinstance(value, tuple) else (value,)
        if knob.kind in {"int", "float", "tuple"}:
            wanted = int if knob.kind == "int" else (int, float)
            if not all(isinstance(part, wanted) and not isinstance(part, bool) for part in parts):
                return True
            return any(
                (knob.low is not None and p < knob.low) or (knob.high is not None and p > knob.high) for p in parts
            )
        return False

    def choose(self, value: Any) -> None:
        """Take a value that the knob allows, show it, and tell.

        Args:
            value: The value.
        """
        self.value = float(value) if self.knob.kind == "float" and isinstance(value, int) else value
        self.say("")
        self._show(self.value)
        self._changed(self.knob.name, self.value)

    def put(self, value: Any) -> None:
        """Show a value that was chosen elsewhere, without telling.

        Args:
            value: The value.
        """
        self.value = value
        self.say("")
        self._show(value)

    def say(self, text: str) -> None:
        """Say what is wrong under the knob; nothing: an empty text.

        Args:
            text: The message.
        """
        self.note.value = f"<span role='alert'>{html.escape(text)}</span>" if text else ""
        self.note.layout.display = None if text else "none"

    def _show(self, value: Any) -> None:
        self._quiet = True
        try:
            if isinstance(self.field, ipw.Text):
                self.field.value = text_of(value)
            elif isinstance(self.field, ipw.SelectMultiple):
                self.field.value = tuple(value or ())
            else:
                self.field.value = value
            if self.slider is not None and self._scale is not None and value is not None:
                self.slider.value = self._scale.position(value)
        finally:
            self._quiet = False
        self.reset.layout.visibility = "hidden" if value == self.default else "visible"

    def close(self) -> None:
        """Free every widget."""
        from wbench.workbench.trees import close_tree

        close_tree(self.box)
