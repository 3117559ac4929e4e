"""What is done with runs: taken away as Python, loaded, compared, swept, reported, held against the paper's claim."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as ipw

from wbench.errors import RunError, WBenchError
from wbench.runs.store import flatten
from wbench.workbench.engine.chore import Chore
from wbench.workbench.panels import Drawn
from wbench.workbench.panels.look import quietly
from wbench.workbench.script import script
from wbench.workbench.shelf import task_short
from wbench.workbench.trees import close_tree

if TYPE_CHECKING:
    from wbench.workbench.workbench import Workbench

BADGES = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "invalid": "!"}


class Actions:
    """The buttons under the list of runs, and what comes of them.

    Args:
        bench: The workbench.

    Attributes:
        box: What is shown.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._chore: Chore | None = None
        self._kind = ""

        def button(text: str, tip: str, do: Any, icon: str = "") -> ipw.Button:
            made = ipw.Button(description=text, tooltip=tip, icon=icon, layout={"width": "auto"})
            made.on_click(lambda _: bench._loop.act(do))
            return made

        self.copy = button("Copy as Python", "A script that trains the first ticked (or the shown) run again, bit for bit.", self.copy_python, "copy")
        self.fill = button("Load settings", "Put the settings of the first ticked row on the controls.", self.load, "sliders")
        self.differ = button("Differences", "In which settings the ticked runs differ.", self.differences, "exchange")
        self.knob = ipw.Dropdown(options=[], layout={"width": "200px"}, tooltip="Knob to sweep")
        self.sweep_button = button("Sweep", "Train over this knob's slider with seeds, and write a page of the responses.", self.sweep, "random")
        self.report_button = button("Report", "Write the interactive report on the methods above.", self.report, "file-text-o")
        self.claim_button = button("Check the claim", "Hold the method against its paper's claim, with a negative control.", self.claim, "balance-scale")
        self.scale = ipw.Dropdown(options=["smoke", "cpu"], value="smoke", layout={"width": "90px"}, tooltip="Scale of report, claim and sweep")
        self.cancel = button("Cancel", "Stop the work in the background.", self.stop)
        self.cancel.layout.display = "none"
        self.progress = ipw.FloatProgress(value=0, min=0, max=1, layout={"width": "160px", "display": "none"})
        self.said = ipw.HTML(layout={"width": "100%"})
        self.shown = ipw.HTML(layout={"width": "100%"})
        self.badge = ipw.HTML()
        row = {"flex_flow": "row wrap", "align_items": "center"}
        self.box = ipw.VBox(
            [
                ipw.HBox([self.copy, self.fill, self.differ, self.knob, self.sweep_button, self.report_button, self.claim_button,
                          self.scale, self.badge], layout=row),
                ipw.HBox([self.progress, self.cancel, self.said], layout={"align_items": "center"}), self.shown,
            ],
            layout={"width": "100%"},
        )  # fmt: skip

    # which run is meant

    def _meant(self) -> str:
        """Return the configuration that a button acts on: the first ticked, else the one shown."""
        for key in [*self._bench.listing.selected, self._bench._current]:
            if key in self._bench.shelf.groups:
                return key
        raise RunError("tick a run in the table, or train one first")

    def copy_python(self) -> None:
        """Put a script on the clipboard and show it."""
        bench = self._bench
        key = self._meant()
        run = bench.shelf.run(bench.shelf.groups[key][0].id)
        if run is None:
            raise RunError(f"the runs of {bench.shelf.name(key)} are gone")
        self.python = script(run, bench.store)
        bench.face.copy(self.python)
        self.said.value = "<span class='wbench-said' role='status'>Copied; here it is, too.</span>"
        self.shown.value = f"<pre class='wbench-code' tabindex='0' aria-label='the run as Python'>{html.escape(self.python)}</pre>"

    python = ""

    def load(self) -> None:
        """Put the settings of a run on the controls."""
        key = self._meant()
        self._bench.load(key)
        self._say(f"The controls have the settings of {self._bench.shelf.name(key)}.")

    def differences(self) -> None:
        """Show the settings in which the ticked configurations differ."""
        bench = self._bench
        keys = [key for key in dict.fromkeys([*bench.listing.selected, bench._current]) if key in bench.shelf.groups]
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

    def parallel(self) -> Drawn:
        """Draw settings against the listed number, for all runs of the task on the controls."""
        import pandas as pd

        from wbench import plots

        bench = self._bench
        metric = bench.listing.metric.value
        task = task_short(bench.setup.task().fingerprint())
        rows = []
        for entries in bench.shelf.groups.values():
            for entry in entries:
                value = entry.summary.get(metric)
                if value is None or task_short(entry.task) != task:
                    continue
                fields = {f"{m['id']}.{name}": v for m in entry.methods for name, v in m["fields"].items()}
                settings = {name: v for name, v in flatten(entry.recipe).items() if not isinstance(v, list)}
                methods = " + ".join(str(m["id"]) for m in entry.methods) or "baseline"
                rows.append({"methods": methods, **settings, **fields, "seed": entry.seed, metric: value})
        if len(rows) < 3:
            return Drawn(None, f"Three runs of {task} or more are needed; there are {len(rows)}.")
        frame = pd.DataFrame(rows)
        frame = frame[[name for name in frame.columns if name == metric or frame[name].map(str).nunique() > 1]]
        order = ["methods", *(name for name in frame.columns if name not in {"methods", "seed", metric})]
        frame = frame[[name for name in [*order, "seed", metric] if name in frame.columns]]
        return Drawn(quietly(plots.parallel, frame, result=metric), f"{len(frame)} runs of {task}; drag along an axis to pick some.", frame)

    # work in the background

    def offer_knobs(self) -> None:
        """Offer the knobs of the methods in view for a sweep."""
        groups = self._bench.setup.groups
        found = [
            (f"{type(group._base).id}.{name}", (type(group._base).id, name))
            for group in groups for name, control in group.controls.items() if control.slider is not None and type(group._base).id != self._bench.setup.task().id
        ]  # fmt: skip
        if list(self.knob.options) != found:
            self.knob.options = found

    def report(self) -> None:
        """Write the report on the methods above, in the background."""
        names = [method.id for method in self._bench.setup.methods()]
        if not names:
            raise RunError("a report is about a method: add one on the left")
        self._start("report", lambda: Chore.report(names, self.scale.value, self._out(), self._bench.store))

    def claim(self) -> None:
        """Hold the first method that has a claim against it, in the background."""
        from wbench import claims

        known = claims.all()
        name = next((method.id for method in self._bench.setup.methods() if method.id in known), None)
        if name is None:
            raise RunError(f"add a method that has a claim; those are: {', '.join(sorted(known))}")
        self._start("claim", lambda: Chore.claim(name, self.scale.value, self._bench.store))

    def sweep(self) -> None:
        """Sweep the chosen knob, in the background."""
        if not self.knob.value:
            raise RunError("choose a knob to sweep")
        owner, name = self.knob.value
        methods = self._bench.setup.methods()
        method = next((item for item in methods if item.id == owner), methods[0] if methods else None)
        changed = {}
        if method is not None:
            fields = type(method).model_fields
            changed = {key: _plain(value) for key, value in method if key != name and value != fields[key].default}
        from wbench.tasks import task_text

        count = 2 if self.scale.value == "smoke" else 8
        task = task_text(self._bench.setup.task())
        self._start("sweep", lambda: Chore.sweep(
            "" if method is None else method.id, name, self._bench.store, task=task, scale=self.scale.value, seeds=count,
            settings=changed, out=str(self._out()),
        ))  # fmt: skip

    def _out(self) -> Path:
        return Path("out")

    def _start(self, kind: str, make: Any) -> None:
        if self._chore is not None:
            raise WBenchError("one thing at a time: wait for the work in the background, or cancel it")
        self._kind = kind
        self._chore = make()
        self.cancel.layout.display = self.progress.layout.display = None
        self.badge.value = ""
        self._say(f"{kind} started ...")
        self._bench._loop.wake()

    @property
    def busy(self) -> bool:
        """Whether something is done in the background."""
        return self._chore is not None

    def stop(self) -> None:
        """Stop what is done in the background."""
        if self._chore is not None:
            self._chore.stop()

    def tick(self) -> None:
        """Look how far the work in the background has come."""
        self.offer_knobs()
        if self._chore is None:
            return
        state = self._chore.poll()
        self.progress.bar_style = "" if state.share is not None else "info"
        self.progress.value = state.share if state.share is not None else 0.0
        if not state.done:
            self._say(f"{self._kind}: {state.text}" if state.text else f"{self._kind} ...")
            return
        self._chore = None
        self.cancel.layout.display = self.progress.layout.display = "none"
        if state.error:
            self._bench.say(f"{self._kind}: {state.error}", wrong=True)
            self._say("")
        elif self._kind == "claim":
            self._verdict(state.result)
        else:
            path = Path(str(state.result))
            self.said.value = f"<span role='status'>{self._kind} written: {_link(path)}</span>"
        self._bench.shelf.refresh()
        self._bench._relist()

    def _verdict(self, result: Any) -> None:
        outcome = str(result.outcome)
        sign = BADGES.get(outcome, "")
        kind = outcome.replace(" ", "-")
        self.badge.value = (
            f"<span class='wbench-badge wbench-{kind}' role='status' title='{html.escape(result['reason'], quote=True)}'>{sign} {html.escape(outcome)}; "
            f"control: {html.escape(str(result['control']))}</span>"
        )
        frame = result.frame
        wanted = [name for name in ("arm_role", "label", "estimate", "low", "high", "direction", "threshold", "gate", "outcome") if name in frame.columns]
        table = frame[wanted].to_html(index=False, border=0, classes="wbench-grid", float_format=lambda value: f"{value:.4g}")
        self.shown.value = f"<details open><summary>Evidence, scale {self.scale.value}: {html.escape(result['reason'])}</summary><div class='wbench-wide'>{table}</div></details>"
        self._say("")

    def _say(self, text: str) -> None:
        self.said.value = f"<span class='wbench-said' role='status'>{html.escape(text)}</span>" if text else ""

    def close(self) -> None:
        """End the work in the background and free every widget."""
        if self._chore is not None:
            self._chore.stop()
        close_tree(self.box)


def _link(path: Path) -> str:
    shown = html.escape(str(path), quote=True)
    return f"<a href='{shown}' target='_blank'>{shown}</a>"


def _plain(value: Any) -> str:
    from wbench.workbench.controls.scales import text_of

    return "none" if value is None else text_of(value).replace(", ", ",")
