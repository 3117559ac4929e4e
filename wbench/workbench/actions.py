"""What is done with runs: taken away as Python, put on the controls, compared."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as ipw

from wbench.errors import RunError
from wbench.workbench.background import Background
from wbench.workbench.script import script
from wbench.workbench.trees import close_tree

if TYPE_CHECKING:
    from wbench.workbench.workbench import Workbench


class Actions:
    """The buttons under the list of runs, and what comes of them.

    Args:
        bench: The workbench.

    Attributes:
        box: What is shown.
        background: Work that takes minutes.
        python: The script that was copied last.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.background = Background(bench)
        self.python = ""

        def button(text: str, tip: str, do: Callable[[], None], icon: str) -> ipw.Button:
            made = ipw.Button(description=text, tooltip=tip, icon=icon, layout={"width": "auto"})
            made.on_click(lambda _: bench.act(do))
            return made

        python_tip = "A script that trains the first ticked (else the shown) run again, bit for bit."
        buttons = [
            button("Copy as Python", python_tip, self.copy_python, "copy"),
            button("Load settings", "Put the settings of the first ticked row on the controls.", self.load, "sliders"),
            button("Differences", "In which settings the ticked runs differ.", self.differences, "exchange"),
        ]
        self.said, self.shown = ipw.HTML(), ipw.HTML(layout={"width": "100%"})
        first = ipw.HBox([*buttons, self.said], layout={"flex_flow": "row wrap", "align_items": "center"})
        self.box = ipw.VBox([first, self.shown, self.background.box], layout={"width": "100%"})

    def _meant(self) -> str:
        # the configuration that a button acts on: the first ticked, else the one on the controls
        for key in [*self._bench.listing.selected, self._bench.shown_key]:
            if key in self._bench.shelf.groups:
                return key
        raise RunError("tick a run in the table, or train one first")

    def copy_python(self) -> None:
        """Put a script on the clipboard and show it.

        Raises:
            RunError: If there is no run, or it is gone.
        """
        bench = self._bench
        key = self._meant()
        run = bench.shelf.run(bench.shelf.groups[key][0].id)
        if run is None:
            raise RunError(f"the runs of {bench.shelf.name(key)} are gone")
        self.python = script(run, bench.store)
        bench.frame.face.copy(self.python)
        self.said.value = "<span class='wbench-said' role='status'>Copied; here it is, too.</span>"
        self.shown.value = (
            f"<pre class='wbench-code' tabindex='0' aria-label='the run as Python'>{html.escape(self.python)}</pre>"
        )

    def load(self) -> None:
        """Put the settings of a run on the controls."""
        key = self._meant()
        self._bench.load(key)
        self._say(f"The controls have the settings of {self._bench.shelf.name(key)}.")

    def differences(self) -> None:
        """Show the settings in which the ticked configurations differ.

        Raises:
            RunError: If there are not two.
        """
        bench = self._bench
        keys = [key for key in dict.fromkeys([*bench.listing.selected, bench.shown_key]) if key in bench.shelf.groups]
        if len(keys) < 2:
            raise RunError("tick two runs or more to see in what they differ")
        frame = bench.shelf.compared(keys)
        if frame.empty:
            self.shown.value = "<p>They differ in nothing but their seeds or the version of the code.</p>"
            return
        head = "".join(f"<th scope='col'>{html.escape(str(name))}</th>" for name in frame.columns)
        rows = "".join(
            f"<tr><th scope='row'><code>{html.escape(str(name))}</code></th>"
            + "".join(f"<td>{html.escape('' if value is None else str(value))}</td>" for value in row) + "</tr>"
            for name, row in zip(frame.index, frame.to_numpy(), strict=True)
        )  # fmt: skip
        self.shown.value = f"<div class='wbench-wide'><table class='wbench-grid'><caption>Settings that differ</caption><tr><th></th>{head}</tr>{rows}</table></div>"

    def _say(self, text: str) -> None:
        self.said.value = f"<span class='wbench-said' role='status'>{html.escape(text)}</span>" if text else ""

    def close(self) -> None:
        """End the work in the background and free every widget."""
        self.background.close()
        close_tree(self.box)
