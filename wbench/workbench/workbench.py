"""`Workbench`: choose a method and a task, move sliders, train, watch, compare, take it away as Python or a report."""

from __future__ import annotations

import html
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import ipywidgets as ipw

from wbench.errors import KnobError, RunError, WBenchError
from wbench.runs import Run, RunStore
from wbench.runs.spec import run_id
from wbench.task import Task
from wbench.tasks import find_task
from wbench.training.job import Job, Methods, as_methods, describe
from wbench.training.restore import methods_of, rebuild, task_of
from wbench.workbench.actions import Actions
from wbench.workbench.board import Board
from wbench.workbench.engine.messages import Ended, Failed, Landscape, Message, Progress, Refused, Rows, Started, Table
from wbench.workbench.engine.trainer import Trainer
from wbench.workbench.listing import Listing
from wbench.workbench.loop import Loop
from wbench.workbench.setup import Setup
from wbench.workbench.shelf import Shelf, short
from wbench.workbench.shown import LiveRun, Shown
from wbench.workbench.static import Still
from wbench.workbench.style import STYLE
from wbench.workbench.trees import close_tree
from wbench.workbench.widgets import Face, PlotlyLibrary

TICK = 0.1  # seconds between updates while something trains
REST = 0.3  # seconds after which a slider has come to rest
_by_cell: weakref.WeakValueDictionary[str, Workbench] = weakref.WeakValueDictionary()


class _Wanted:
    """A run that was asked for and has not ended: its configuration, what it says, and where it stands."""

    def __init__(self, job: Job, config: str, name: str) -> None:
        self.job, self.config, self.name = job, config, name
        self.live = LiveRun(job.seed, job.recipe.total_steps)
        self.begun = False


class Workbench:
    """A panel for JupyterLab: every knob of a method as a slider, training beside the kernel, pictures that follow.

    Usage:
        wb.Workbench("digits", wb.methods.GaLore(rank=8))
        wb.Workbench(model=my_model, data=(x, y))

    Args:
        task: A task or its name, options included; not with `model`.
        method: One or several methods, as `wb.train` takes them; more are added in the panel.
        model: The user's own: a module, or a function that makes one.
        data: Its data: `(x, y)`, or a loader of batches.
        scale: Whose recipe is taken at first: `smoke`, `cpu` or `gpu`.
        store: Where runs are kept; default `$WBENCH_HOME/runs` or `./.wbench/runs`.

    Raises:
        WBenchError: If task, methods, model or data are not allowed.
    """

    def __init__(
        self,
        task: Task | str | None = None,
        method: Methods | None = None,
        *,
        model: Any = None,
        data: Any = None,
        scale: str = "cpu",
        store: RunStore | None = None,
    ) -> None:
        self.store = store or RunStore()
        chosen = _task_of(task, model, data)
        methods = as_methods(method)
        self.trainer = Trainer(self.store)
        self._loop = Loop(self._tick, self._failed)
        self._wanted: dict[int, _Wanted] = {}
        self._count = 0
        self._current = ""  # the configuration that the controls stand for
        self._surfaces: dict[str, LiveRun] = {}
        self._asked: dict[int, str] = {}
        self._resting: float | None = None
        self._grown: set[str] = set()
        self._drawn_for = 0.0
        self.shelf = Shelf(self.store)
        self.face, self.library = Face(), PlotlyLibrary()
        self.board = Board(self._loop.act)
        self.board.opened = self._tab_opened
        self.setup = Setup(chosen, methods, scale, lambda: self._loop.act(self._changed))
        self.setup.members = self._members
        self.listing = Listing(self.shelf, self._loop.act, self._selected)
        self.actions = Actions(self)
        self.still = Still()
        self.run_button = ipw.Button(description="Run", button_style="primary", tooltip="Train what the controls say.", icon="play")
        self.stop_button = ipw.Button(description="Stop", tooltip="Stop; what was trained so far is kept.", icon="stop", disabled=True)
        self.eager = ipw.Checkbox(value=False, description="run when a slider rests", indent=False, layout={"width": "auto"})
        self.run_button.on_click(lambda _: self._loop.act(self.run))
        self.stop_button.on_click(lambda _: self._stop_now())
        self.bar = ipw.FloatProgress(value=0.0, min=0.0, max=1.0, layout={"width": "calc(100% - 8px)", "display": "none"})
        self.status = ipw.HTML()
        self.status.add_class("wbench-status")
        self.box = self._laid_out()
        self.face.names = {**self.setup.spoken(), **_SPOKEN}
        self.face.observe(lambda change: self._loop.act(partial(self._resized, change["new"])), "width")
        self.board.fillers["settings"] = self.actions.parallel
        self.shelf.refresh()
        self._relist()
        self.trainer.warm()
        self._changed()

    def _resized(self, width: int) -> None:
        self.board.width = width
        self.board.redraw()

    def _laid_out(self) -> ipw.Widget:
        buttons = ipw.HBox([self.run_button, self.stop_button], layout={"width": "100%"})
        left = ipw.VBox([buttons, self.eager, self.bar, self.status, self.setup.box], layout={"width": "320px"})
        left.add_class("wbench-left")
        right = ipw.VBox([self.board.box], layout={"flex": "1 1 0%", "min_width": "0"})
        right.add_class("wbench-right")
        top = ipw.HBox([left, right], layout={"width": "100%", "align_items": "flex-start"})
        box = ipw.VBox([ipw.HTML(STYLE), self.face, self.library, top, self.listing.box, self.actions.box], layout={"width": "100%"})
        box.add_class("wbench-workbench")
        return box

    # shown in a notebook

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        shell: Any = get_ipython()
        header = getattr(shell, "parent_header", None) or {} if shell else {}
        cell = str((header.get("metadata") or {}).get("cellId") or "")
        earlier = _by_cell.pop(cell, None) if cell else None
        if earlier is not None and earlier is not self:
            earlier.close()  # the cell was run again: its panel takes the place of the one before
        if cell:
            _by_cell[cell] = self
        display(self.box)
        self.still.place()
        self._loop.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End training (a run in the making is kept as `stopped`) and free all widgets."""
        self._loop.close()
        self.trainer.close()
        self.actions.close()
        self.board.close()
        self.listing.close()
        self.setup.close()
        close_tree(self.box)

    # training

    def run(self) -> None:
        """Train what the controls say; what has finished already is shown at once."""
        self._resting = None
        try:
            given = [self.setup.arguments(seed) for seed in self.setup.seeds]
            jobs = [(arguments, describe(**arguments)) for arguments in given]
        except WBenchError as error:
            self.say(str(error), wrong=True)
            return
        wanted = []
        for arguments, job in jobs:
            config = _config(job)
            if any(other.job.id == job.id for other in self._wanted.values()):
                continue
            self._count += 1
            self._wanted[self._count] = _Wanted(job, config, self._name(job))
            wanted.append((self._count, arguments))
            self._current = config
        self.trainer.landscape(self.board.tab == "landscape")
        self.trainer.start(wanted)
        if wanted:
            self.say("Starting ...")
        self._show()

    def stop(self) -> None:
        """Stop; what was trained so far is kept as `stopped`."""
        self.trainer.stop()

    def _stop_now(self) -> None:
        self.trainer.stop()  # on whatever thread this is: it is safe, and must not wait for a running cell
        self._loop.act(lambda: self.say("Stopping ..."))

    def wait(self, timeout: float = 600.0) -> None:
        """Work until nothing trains any more: for scripts, where no event loop does it.

        Args:
            timeout: Seconds.

        Raises:
            RunError: If it takes longer.
        """
        end = time.monotonic() + timeout
        self._loop.spin()
        while self.trainer.busy or self._wanted:
            if time.monotonic() > end:
                raise RunError(f"training has not ended within {timeout:g} s")
            self.trainer.wait(TICK)
            self._loop.spin()
        self._loop.spin()

    @property
    def current(self) -> list[Run]:
        """The runs that the controls stand for, as far as they have finished."""
        self.shelf.refresh()
        found = (self.shelf.run(entry.id) for entry in self.shelf.groups.get(self._current, ()))
        return [run for run in found if run is not None]

    # the tick

    def _tick(self) -> float | None:
        for message in self.trainer.drain():
            self._hear(message)
        if self._grown:
            grown, self._grown = self._grown, set()
            self._show(grown)
        if self._resting is not None and time.monotonic() >= self._resting:
            self.run()
        self.actions.tick()
        busy = self.trainer.busy
        if self.stop_button.disabled == busy:
            self.stop_button.disabled = not busy
        now = time.perf_counter()
        if self.board.pending and now >= self._drawn_for:
            spent = self.board.draw()
            self._drawn_for = time.perf_counter() + min(spent, 0.5)  # half of the kernel's time is the user's
        if busy or self._wanted or self._asked or self._resting is not None or self.actions.busy or self.board.pending:
            return TICK
        return None

    def _hear(self, message: Message) -> None:
        if isinstance(message, Landscape):
            self._landscape(message)
            return
        wanted = self._wanted.get(message.job)
        if wanted is None:
            return
        live = wanted.live
        if isinstance(message, Started):
            wanted.live = LiveRun(wanted.job.seed, message.steps)
            wanted.begun = True
            self._say_progress()
        elif isinstance(message, Rows):
            live.add_rows(message.rows)
            self._grown.add("metrics")
            self._say_progress()
        elif isinstance(message, Table):
            live.add_table(message.name, message.frame)
            self._grown.add(message.name)
        elif isinstance(message, Progress):
            live.step, live.steps = int(message.done), int(message.total)
            self._say_progress()
        elif isinstance(message, Ended | Refused | Failed):
            self._ended(message, wanted)

    def _ended(self, message: Ended | Refused | Failed, wanted: _Wanted) -> None:
        del self._wanted[message.job]
        if isinstance(message, Ended):
            left = f"; {len(self._wanted)} to go" if self._wanted else ""
            reason = f": {message.reason}" if message.reason and message.status != "stopped" else ""
            self.say(f"{wanted.name}, seed {wanted.job.seed}: {message.status} after {message.seconds:.1f} s{reason}{left}.",
                     wrong=message.status == "diverged")  # fmt: skip
        elif isinstance(message, Refused):
            self.say(message.message, wrong=True)
        else:
            self.say(f"{wanted.name} failed: {message.message}", wrong=True, more=message.traceback)
        self.shelf.refresh()
        if not self._wanted:
            self.bar.layout.display = "none"
            self._refine()
        self._relist()
        self._show()
        if not self._wanted:
            self.still.soon(self)

    def _say_progress(self) -> None:
        total = sum(max(1, wanted.live.steps) for wanted in self._wanted.values())
        done = sum(wanted.live.step for wanted in self._wanted.values())
        self.bar.layout.display = None
        self.bar.value = min(1.0, done / max(1, total))
        first = next(iter(self._wanted.values()), None)
        if first is not None:
            more = f", {len(self._wanted)} runs" if len(self._wanted) > 1 else ""
            self.say(f"Training {first.name}: step {done:,} of {total:,}{more}.")

    # what is on display

    def _changed(self) -> None:
        self.face.names = {**self.setup.spoken(), **_SPOKEN}
        try:
            arguments = self.setup.arguments()
            job = describe(**arguments)
            self.setup.say("")
        except WBenchError as error:
            self.setup.say(str(error))
            return
        self._current = _config(job)
        seeds = {entry.seed for entry in self.shelf.groups.get(self._current, ()) if entry.status in {"finished", "diverged"}}
        there = seeds.issuperset(self.setup.seeds)
        if not self.trainer.busy:
            self.say("Trained before: shown at once." if there else "Not trained yet: press Run.")
        if not there and self.eager.value:
            self._resting = time.monotonic() + REST
        self._show()

    def _selected(self) -> None:
        self._show()
        self.setup.offer_starts(self._startable())

    def _show(self, tables: set[str] | None = None) -> None:
        live: dict[str, list[_Wanted]] = {}
        for wanted in self._wanted.values():
            if wanted.begun:
                live.setdefault(wanted.config, []).append(wanted)
        keys = [*live, *([self._current] if self._current in self.shelf.groups and self._current not in live else []), *self.listing.selected]
        found, gone = self.shelf.shown([key for key in dict.fromkeys(keys) if key in self.shelf.groups])
        by_key = {item.key: item for item in found}
        shown = []
        for key in dict.fromkeys(keys):
            item = by_key.get(key)
            if key in live:
                first = live[key][0]
                made = Shown(key, first.name, self.shelf.marks.colour(key), [], first.job.recipe.batch_size,
                             tuple(method.id for method in first.job.methods), live=True)  # fmt: skip
                ended = [run for run in (item.runs if item else []) if run.seed not in {w.live.seed for w in live[key]}]
                made.runs = [*(wanted.live for wanted in live[key] if wanted.live.step or wanted.live.probes), *ended]
                shown.append(made)
            elif item is not None:
                shown.append(item)
        self._add_surfaces(shown)
        if gone:
            self.listing.deselect(gone)
            self.say(f"{len(gone)} configuration(s) are gone from {self.store}; the list was read again.", wrong=True)
            self.shelf.refresh()
            self._relist()
        self.board.show(shown, tables)

    def _relist(self) -> None:
        self.listing.refresh(self.board.cursor)
        self.setup.offer_starts(self._startable())

    def _startable(self) -> dict[str, tuple[str, Callable[[], Run | None]]]:
        found = {}
        for key in [*self.listing.selected, *self.listing.pinned]:
            entry = next((entry for entry in self.shelf.groups.get(key, ()) if entry.status == "finished"), None)
            if entry is not None:
                found[entry.id] = (f"{self.shelf.name(key)}, seed {entry.seed}", partial(self.shelf.run, entry.id))
        return found

    def _members(self) -> dict[str, Run]:
        found = {}
        for key in self.listing.selected:
            for entry in self.shelf.groups.get(key, ()):
                run = self.shelf.run(entry.id) if entry.status == "finished" else None
                if run is not None:
                    found[f"{self.shelf.name(key)} {entry.seed}"] = run
        return found

    # landscapes

    def _tab_opened(self, panel: str) -> None:
        self.trainer.landscape(panel == "landscape")
        if panel == "landscape" and not self._wanted:
            self._refine()

    def _refine(self) -> None:
        if self.board.tab != "landscape":
            return
        for item in self.board.shown:
            for run in item.runs[:1]:
                if isinstance(run, Run) and run.status == "finished" and "landscape" not in run.probes and run.id not in self._surfaces:
                    try:
                        given = {"task": self._task_of(run), "methods": methods_of(run), "seed": run.seed, "recipe": rebuild(type(describe(**self.setup.arguments()).recipe), run.spec["recipe"])}
                        self._count += 1
                        self._asked[self._count] = run.id
                        self._surfaces[run.id] = LiveRun(run.seed)
                        self.trainer.refine(self._count, run.id, given)
                    except WBenchError as error:
                        self.say(f"The landscape of {item.name} cannot be computed: {error}", wrong=True)

    def _task_of(self, run: Run) -> Task:
        try:
            return task_of(run)
        except RunError:
            return self.setup.task()

    def _landscape(self, message: Landscape) -> None:
        name = self._asked.get(message.job)
        if message.last or not message.points:
            self._asked.pop(message.job, None)
        if message.note and not message.points:
            self.say(f"The landscape cannot be computed: {message.note}", wrong=True)
            return
        wanted = self._wanted.get(message.job)
        target = wanted.live if wanted is not None else self._surfaces.get(name or "")
        if target is None:
            return
        frame = message.frame if message.step is None else message.frame.assign(step=message.step)
        if message.step is None or "landscape" not in target.probes:
            target.put_table("landscape", frame)
        else:
            target.add_table("landscape", frame)
        self._grown.add("landscape")

    def _add_surfaces(self, shown: Sequence[Shown]) -> None:
        for item in shown:
            item.runs = [
                _WithSurface(run, self._surfaces[run.id]) if isinstance(run, Run) and "landscape" not in run.probes and run.id in self._surfaces and self._surfaces[run.id].probes else run
                for run in item.runs
            ]  # fmt: skip

    # words

    def say(self, text: str, *, wrong: bool = False, more: str = "") -> None:
        """Show a message above the controls.

        Args:
            text: The message.
            wrong: Whether something went wrong.
            more: Details, folded away.
        """
        kind, role = ("wbench-error", "alert") if wrong else ("wbench-said", "status")
        details = f"<details><summary>where</summary><pre>{html.escape(more)}</pre></details>" if more else ""
        self.status.value = f"<div class='{kind}' role='{role}'>{html.escape(text)}</div>{details}"

    def _failed(self, error: Exception) -> None:
        self.say(f"{error}" if isinstance(error, WBenchError) else f"{type(error).__name__}: {error}", wrong=True)

    def _name(self, job: Job) -> str:
        known = self.shelf.marks[_config(job)].name
        if known:
            return known
        methods = [{"id": method.id, "fields": method.fields()} for method in job.methods]
        return short(job.task.fingerprint(), methods, job.recipe.fields(), job.task.recipe("cpu"))

    def load(self, key: str) -> None:
        """Put the settings of a configuration on the controls.

        Args:
            key: The configuration.

        Raises:
            RunError: If its runs are gone.
        """
        entries = self.shelf.groups.get(key)
        run = self.shelf.run(entries[0].id) if entries else None
        if run is None:
            raise RunError(f"the runs of {self.shelf.name(key)} are gone")
        try:
            task: Task | None = task_of(run)
        except RunError:
            task = None
        self.setup.put(task, methods_of(run), rebuild(type(self.setup.arguments()["recipe"]), run.spec["recipe"]), run.seed)


class _WithSurface:
    """A recorded run beside a landscape of it that is not finished."""

    def __init__(self, run: Run, surface: LiveRun) -> None:
        self._run, self._surface = run, surface

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    @property
    def probes(self) -> list[str]:
        return [*self._run.probes, "landscape"]

    def probe(self, name: str) -> Any:
        return self._surface.probe(name) if name == "landscape" else self._run.probe(name)


_SPOKEN = {
    "wbench-steps": {"label": "step that all panels show"},
    "wbench-smooth": {"label": "smoothing: weight of the moving average"},
}


def _config(job: Job) -> str:
    return run_id({**job.spec, "seed": None})


def _task_of(task: Task | str | None, model: Any, data: Any) -> Task:
    if model is None and data is None:
        return find_task(task if task is not None else "digits")
    if task is not None:
        raise KnobError("give either task=, or model= and data= of your own, not both")
    if model is None or data is None:
        missing = "data=(x, y) or a loader" if data is None else "model= (a module, or a function that makes one)"
        raise KnobError(f"your own model needs its data and the other way round; missing: {missing}")
    if isinstance(data, tuple | list) and len(data) == 2:
        return Task.from_arrays(data[0], data[1], model=model, name="your own")
    if isinstance(data, Mapping):
        return Task.from_arrays(*data["train"], test=data["test"], model=model, name="your own")
    return Task.from_loader(data, model=model, name="your own")
