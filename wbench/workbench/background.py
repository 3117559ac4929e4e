"""Work that takes minutes, beside the training: a sweep, a report, the paper's claim with its control."""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as ipw

from wbench.errors import RunError, WBenchError
from wbench.workbench.controls.scales import text_of
from wbench.workbench.engine.chore import Chore, ClaimOutcome
from wbench.workbench.trees import close_tree

if TYPE_CHECKING:
    from wbench.workbench.workbench import Workbench

SIGNS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "invalid": "!"}
EVIDENCE = ("arm_role", "label", "estimate", "low", "high", "direction", "threshold", "gate", "outcome")
OUT = Path("out")


class Background:
    """The buttons of long work, how far it is, and what came of it.

    Args:
        bench: The workbench.

    Attributes:
        box: What is shown.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._chore: Chore | None = None
        self._kind = ""
        auto = {"width": "auto"}

        def button(text: str, tip: str, do: Callable[[], None], icon: str = "") -> ipw.Button:
            made = ipw.Button(description=text, tooltip=tip, icon=icon, layout=auto)
            made.on_click(lambda _: bench.act(do))
            return made

        self.knob = ipw.Dropdown(options=[], layout={"width": "200px"}, tooltip="Knob that is swept")
        sweep_tip = "Train over the slider of this knob, with several seeds, and write a page of the responses."
        claim_tip = "Hold the method against its paper's claim, with a negative control."
        self.buttons = [
            button("Sweep", sweep_tip, self.sweep, "random"),
            button("Report", "Write the interactive report on the methods above.", self.report, "file-text-o"),
            button("Check the claim", claim_tip, self.claim, "balance-scale"),
        ]
        self.scale = ipw.Dropdown(
            options=["smoke", "cpu"],
            value="smoke",
            layout={"width": "90px"},
            tooltip="Scale of sweep, report and claim",
        )
        self.cancel = button("Cancel", "Stop the work in the background.", self.stop)
        self.bar = ipw.FloatProgress(value=0, min=0, max=1, layout={"width": "160px"})
        self.said, self.evidence = ipw.HTML(), ipw.HTML(layout={"width": "100%"})
        self._how_far = ipw.HBox([self.bar, self.cancel], layout={"display": "none", "align_items": "center"})
        row = {"flex_flow": "row wrap", "align_items": "center"}
        first = ipw.HBox([self.knob, *self.buttons, self.scale, self._how_far, self.said], layout=row)
        self.box = ipw.VBox([first, self.evidence], layout={"width": "100%"})

    def offer_knobs(self) -> None:
        """Offer the sliders in view for a sweep."""
        found = [(f"{owner}.{name}", (owner, name)) for owner, name in self._bench.setup.sliders()]
        if list(self.knob.options) != found:
            kept = self.knob.value
            self.knob.options = found
            offered = [value for _, value in found]
            self.knob.value = kept if kept in offered else next(iter(offered), None)

    def report(self) -> None:
        """Write the report on the methods on the controls.

        Raises:
            RunError: If there is none.
        """
        names = [method.id for method in self._bench.setup.methods()]
        if not names:
            raise RunError("a report is about a method: add one on the left")
        self._start("report", lambda: Chore.report(names, self.scale.value, OUT, self._bench.store))

    def claim(self) -> None:
        """Hold the first method that has a claim against it.

        Raises:
            RunError: If none has.
        """
        from wbench import claims

        known = claims.all()
        name = next((method.id for method in self._bench.setup.methods() if method.id in known), None)
        if name is None:
            raise RunError(f"add a method that has a claim; those are: {', '.join(sorted(known))}")
        self._start("claim", lambda: Chore.claim(name, self.scale.value, self._bench.store))

    def sweep(self) -> None:
        """Sweep the chosen knob of a method, or of the recipe with the first method.

        Raises:
            RunError: If no knob is chosen, or several methods are on: a sweep is about one.
        """
        from wbench.tasks import task_text

        methods = self._bench.setup.methods()
        if not self.knob.value:
            raise RunError("choose a knob to sweep")
        if len(methods) > 1:
            raise RunError(
                f"a sweep is about one method; take off all but one of {', '.join(method.id for method in methods)}"
            )
        _, name = self.knob.value
        changed: dict[str, str] = {}
        for method in methods:
            fields = type(method).model_fields
            changed = {key: _text(value) for key, value in method if key != name and value != fields[key].default}
        options = {
            "task": task_text(self._bench.setup.task()), "scale": self.scale.value, "settings": changed, "out": str(OUT),
            "seeds": 2 if self.scale.value == "smoke" else 8,
        }  # fmt: skip
        owner = methods[0].id if methods else ""
        self._start("sweep", lambda: Chore.sweep(owner, name, self._bench.store, **options))

    def _start(self, kind: str, make: Callable[[], Chore]) -> None:
        if self._chore is not None:
            raise WBenchError(f"the {self._kind} is not done yet: wait for it, or cancel it")
        self._kind, self._chore = kind, make()
        self._how_far.layout.display = None
        self.evidence.value = ""
        self._say(f"{kind}: starting ...")

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self._chore is not None

    def stop(self) -> None:
        """Stop what is being done."""
        if self._chore is not None:
            self._chore.stop()

    def tick(self) -> None:
        """Look how far it has come."""
        self.offer_knobs()
        if self._chore is None:
            return
        state = self._chore.poll()
        self.bar.value = state.share or 0.0
        if not state.done:
            self._say(f"{self._kind}: {state.text}" if state.text else f"{self._kind} ...")
            return
        self._chore = None
        self._how_far.layout.display = "none"
        self._say("")
        if state.error:
            self._bench.say(f"{self._kind}: {state.error}", wrong=True)
        elif isinstance(state.result, ClaimOutcome):
            self._verdict(state.result)
        elif state.result is not None:
            self.said.value = f"<span role='status'>{self._kind}: {_link(state.result)}</span>"
        self._bench.reread()

    def _verdict(self, result: ClaimOutcome) -> None:
        kind = result.outcome.replace(" ", "-")
        badge = f"{SIGNS.get(result.outcome, '')} {result.outcome}; control: {result.control_outcome}"
        frame = result.frame[[name for name in EVIDENCE if name in result.frame.columns]]
        table = frame.to_html(index=False, border=0, classes="wbench-grid", float_format=lambda value: f"{value:.4g}")
        self.evidence.value = (
            f"<details class='wbench-verdict'><summary role='status'><span class='wbench-badge wbench-{kind}'>{html.escape(badge)}</span> "
            f"scale {self.scale.value}: {html.escape(result.reason)}</summary><div class='wbench-wide'>{table}</div></details>"
        )

    def _say(self, text: str) -> None:
        self.said.value = f"<span class='wbench-said' role='status'>{html.escape(text)}</span>" if text else ""

    def close(self) -> None:
        """Stop what is being done and free every widget."""
        self.stop()
        close_tree(self.box)


def _link(path: Path) -> str:
    # from where the notebook lies, if it is there: JupyterLab opens it then
    near = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    shown = html.escape(near, quote=True)
    return f"<a href='{shown}' target='_blank'>{shown}</a>"


def _text(value: Any) -> str:
    return "none" if value is None else text_of(value).replace(", ", ",")
