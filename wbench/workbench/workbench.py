"""`Workbench`: choose a method and a task, move sliders, train, watch, compare, take it away as Python or a report."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Self

from wbench.errors import RunError, WBenchError
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.training.job import Methods, as_methods, describe
from wbench.workbench.actions import Actions
from wbench.workbench.board import Board
from wbench.workbench.cell import take_place
from wbench.workbench.display import members, on_display, settings_of, startable
from wbench.workbench.engine.messages import Landscape, Message
from wbench.workbench.engine.trainer import Trainer
from wbench.workbench.frame import Frame
from wbench.workbench.jobs import Jobs
from wbench.workbench.listing import Listing
from wbench.workbench.loop import Loop
from wbench.workbench.own import chosen_task
from wbench.workbench.parallel import Parallel
from wbench.workbench.rest import Rest
from wbench.workbench.setup import Setup
from wbench.workbench.shelf import Shelf
from wbench.workbench.static import Still
from wbench.workbench.surfaces import Surfaces
from wbench.workbench.trees import close_tree

TICK = 0.1  # seconds between updates while something trains
HASTE = 0.01  # while a run stops, which the user waits for
SOON = 0.001  # seconds in which the kernel hears what the user does, between panels
BUDGET = 0.25  # seconds of drawing in one update


class Workbench:
    """A panel for JupyterLab: every knob of a method as a slider, training beside the kernel, pictures that follow.

    Usage:
        wb.Workbench("digits", wb.methods.GaLore(rank=8))
        wb.Workbench(model=my_model, data=(x, y))

    Args:
        task: A task or its name, options included; not with `model`.
        method: One or several methods, as `wb.train` takes them; more are added in the panel.
        model: The user's own: a module, or a function that makes one.
        data: Its data: `(x, y)`, `{"train": (x, y), "test": (x, y)}`, or a loader of batches.
        scale: Whose recipe is taken at first: `smoke`, `cpu` or `gpu`.
        store: Where runs are kept; default `$WBENCH_HOME/runs` or `./.wbench/runs`.

    Attributes:
        box: The panel.
        act: Does something soon, on the kernel's own thread; what goes wrong is said in the panel.
        say: Shows a message above the controls.

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
        chosen, methods = chosen_task(task, model, data), as_methods(method)
        chosen.recipe(scale)
        self._loop = Loop(self._tick, self._failed)
        self.act = self._loop.act
        self._current = ""  # the configuration that the controls stand for
        self._eager, self._followed = Rest(self.run), Rest(self._relist)  # a slider; the cursor, which the list follows
        self._grown: set[str] = set()
        self._not_before, self._unkept = 0.0, False
        self.trainer = Trainer(self.store)
        self._jobs, self.shelf = Jobs(self.trainer), Shelf(self.store)
        self.board = Board(self._loop.act)
        self.setup = Setup(chosen, methods, scale, lambda: self._loop.act(self._changed))
        self.listing = Listing(self.shelf, self._loop.act, self._selected)
        self._surfaces = Surfaces(self.trainer, self._jobs, self.setup.task)
        self.actions, self.still = Actions(self), Still()
        self.frame = Frame(self.setup.box, self.board.box, self.listing.box, self.actions.box)
        self.box, self.say = self.frame.box, self.frame.say
        self.frame.run.on_click(lambda _: self._loop.act(self.run))
        self.frame.stop.on_click(lambda _: self.stop())
        self.frame.face.observe(lambda change: self._loop.act(partial(self._resized, change["new"])), "width")
        self.board.scrubbed = self._scrubbed
        self.board.opened, self.setup.members = self._tab_opened, lambda: members(self.shelf, self.listing.selected)
        self.parallel = Parallel(self.shelf, self.listing, self.setup.task)
        self.board.fillers["settings"], self.board.picked = self.parallel.draw, self.parallel.picked
        self.reread()
        self.trainer.warm()
        self._changed()

    # shown in a notebook

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.display import display

        take_place(self)
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
        self._eager.cancel()
        try:
            given = [self.setup.arguments(seed) for seed in self.setup.seeds]
            jobs = [(arguments, describe(**arguments)) for arguments in given]
        except WBenchError as error:
            self.say(str(error), wrong=True)
            return
        self._current = jobs[0][1].config
        if self.shelf.marks[self._current].deleted:
            self.shelf.undo([self._current])
            self._relist()
        self.trainer.landscape(self.board.tab == "landscape")
        if self._jobs.start([(arguments, job, self.shelf.called(job)) for arguments, job in jobs]):
            self.say("Starting ...")
        self._show()

    def stop(self) -> None:
        """Stop; what was trained so far is kept as `stopped`. Any thread may call it."""
        self.trainer.stop()  # not queued: it must not wait for a running cell
        self._loop.act(lambda: self.say("Stopping ...") if self._jobs else None)

    def wait(self, timeout: float = 600.0) -> None:
        """Work until nothing trains any more and all is drawn: for scripts, where no event loop does it.

        Args:
            timeout: Seconds.

        Raises:
            RunError: If it takes longer.
        """
        end = time.monotonic() + timeout
        self._loop.spin()
        while self.trainer.busy or self._jobs or self.board.pending or self._eager.waiting:
            if time.monotonic() > end:
                raise RunError(f"training has not ended within {timeout:g} s")
            self.trainer.wait(TICK)
            self._loop.spin()

    @property
    def current(self) -> list[Run]:
        """The runs that the controls stand for, as far as they have finished."""
        self.shelf.refresh()
        return self.shelf.runs(self._current)

    # the tick

    def _tick(self) -> float | None:
        for message in self.trainer.drain():
            self._hear(message)
        if self._grown:
            grown, self._grown = self._grown, set()
            self._show(grown)
        self._eager.tick()
        self._followed.tick()
        self.actions.background.tick()
        busy, stopping = self.trainer.busy, self.trainer.stopping
        self.frame.stop.disabled = not busy
        live = busy or bool(self._jobs)
        if self.board.pending and not stopping and time.perf_counter() >= self._not_before:
            # at rest panel by panel: the browser draws one while the next is made
            spent = self.board.draw(BUDGET if live else 0.0)
            # while it trains, half of the kernel's time is the user's
            self._not_before = time.perf_counter() + (min(spent, 0.5) if live else 0.0)
        if self.board.pending and not live:
            return SOON
        if self._unkept and not live:
            self._unkept = False
            self.still.soon(self)
        resting = self._eager.waiting or self._followed.waiting
        waiting = resting or self._surfaces.busy or self.actions.background.busy or self.board.pending
        return HASTE if stopping else TICK if live or waiting else None

    def _hear(self, message: Message) -> None:
        heard = self._surfaces.hear(message) if isinstance(message, Landscape) else self._jobs.hear(message)
        self._grown |= heard.grown
        if heard.said:
            self.say(heard.said, wrong=heard.wrong, more=heard.more)
        self.frame.progress(self._jobs.share() if self._jobs else None)
        if heard.ended:
            self.reread()
            self._show()
            self._refine()
            self._unkept = True

    # what is on display

    @property
    def shown_key(self) -> str:
        """The configuration that the controls stand for."""
        return self._current

    def reread(self) -> None:
        """Look at what the store has now, and list it."""
        self.shelf.refresh()
        self._relist()

    def _changed(self) -> None:
        self.frame.name_sliders(self.setup.spoken())
        try:
            job = describe(**self.setup.arguments())
            self.setup.say("")
        except WBenchError as error:
            self.setup.say(str(error))
            return
        self._current = job.config
        there = self.shelf.trained(self._current, self.setup.seeds)
        if not self.trainer.busy:
            self.say("Trained before: shown at once." if there else "Not trained yet: press Run.")
        if not there and self.frame.eager.value:
            self._eager.begin()
        self._show()

    def _selected(self) -> None:
        self._show()
        self._offer_starts()
        if self.setup.combines:  # what is ticked
            self._changed()

    def _show(self, tables: set[str] | None = None) -> None:
        shown, gone = on_display(self.shelf, self._jobs.training(), [self._current, *self.listing.selected])
        self._surfaces.add(shown)
        if gone:
            self.listing.deselect(gone)
            text = f"The runs of {len(gone)} configuration(s) are gone from {self.store}; the list was read again."
            self.say(text, wrong=True)
            self.reread()
        self.board.show(shown, tables)

    def _relist(self) -> None:
        self._followed.cancel()
        self.listing.refresh(self.board.cursor)
        self._offer_starts()

    def _offer_starts(self) -> None:
        self.setup.offer_starts(startable(self.shelf, [*self.listing.selected, *self.listing.pinned]))

    def _scrubbed(self) -> None:
        if self.listing.at_cursor:
            self._followed.begin()

    def _tab_opened(self, panel: str) -> None:
        self.trainer.landscape(panel == "landscape")
        self._refine()

    def _refine(self) -> None:
        if self.board.tab == "landscape" and not self._jobs:
            problem = self._surfaces.ask(self.board.shown)
            if problem:
                self.say(problem, wrong=True)

    def _resized(self, width: int) -> None:
        self.board.toolbar.width = width
        self.board.redraw()

    def load(self, key: str) -> None:
        """Put the settings of a configuration on the controls.

        Args:
            key: The configuration.

        Raises:
            RunError: If its runs are gone.
        """
        self.setup.put(*settings_of(self.shelf, key))

    # words

    def _failed(self, error: Exception) -> None:
        self.say(str(error) if isinstance(error, WBenchError) else f"{type(error).__name__}: {error}", wrong=True)
