"""The knobs of one record: a method, a recipe or a task."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import ipywidgets as ipw

from wbench.errors import KnobError
from wbench.knobs import Knobs
from wbench.workbench.controls.knob import KnobControl
from wbench.workbench.trees import close_tree

R = TypeVar("R", bound=Knobs)


class KnobGroup(Generic[R]):
    """The controls of a record's fields, grouped under its title.

    What is chosen is kept even while it is refused as a whole (one field's bound may depend on another): `build` then raises, and
    the refusal stands under the title.

    Args:
        record: The record; its values are what a reset goes back to.
        changed: Called after each change.
        names: Which fields, in order; default all.
        more: Fields that are folded away under "more".

    Attributes:
        box: What is shown.
        controls: Field name to its control.
    """

    def __init__(
        self, record: R, changed: Callable[[], None], names: Sequence[str] | None = None, more: Sequence[str] = ()
    ) -> None:
        self._base, self._values, self._told = record, dict(record), changed
        knobs = type(record).knobs()
        shown = [name for name in (names or knobs) if name in knobs and _offered(knobs[name])]
        self.controls = {
            name: KnobControl(knobs[name], self._values[name], owner=type(record).id or type(record).__name__, changed=self._set)
            for name in dict.fromkeys([*shown, *(name for name in more if _offered(knobs[name]))])
        }  # fmt: skip
        self.note = ipw.HTML(layout={"display": "none"})
        self.note.add_class("wbench-error")
        first = [self.controls[name].box for name in shown if name not in more]
        rest = [self.controls[name].box for name in more if name in self.controls]
        folded = []
        if rest:
            fold = ipw.Accordion(children=[ipw.VBox(rest)], titles=("more",), selected_index=None)
            fold.add_class("wbench-fold")
            folded = [fold]
        self.box = ipw.VBox([*first, *folded, self.note], layout={"width": "100%"})

    @property
    def kind(self) -> type[R]:
        """The record's class."""
        return type(self._base)

    @property
    def owner(self) -> str:
        """Id of the record's kind."""
        return type(self._base).id or type(self._base).__name__

    def _set(self, name: str, value: Any) -> None:
        self._values[name] = value
        self._check()
        self._told()

    def _check(self) -> None:
        try:
            self.build()
            message = ""
        except KnobError as error:
            message = str(error)
        self.note.value = f"<span role='alert'>{html.escape(message)}</span>" if message else ""
        self.note.layout.display = None if message else "none"

    def build(self) -> R:
        """Return the record with the chosen values.

        Raises:
            KnobError: If they do not go together; names field, value and rule.
        """
        return type(self._base)(**self._values) if self._values != dict(self._base) else self._base

    def put(self, record: Knobs) -> None:
        """Show the values of another record of the kind, without telling.

        Args:
            record: The record.
        """
        self._values = dict(record)
        for name, control in self.controls.items():
            control.put(self._values[name])
        self._check()

    def close(self) -> None:
        """Free every widget."""
        close_tree(self.box)


def _offered(knob: Any) -> bool:
    return not (knob.kind == "tuple" and knob.choices == () and knob.default == () and knob.low is None)
