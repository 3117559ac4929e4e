"""What is trained next: task, methods, recipe, seeds, as chosen by controls."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from wbench.errors import CompositionError, KnobError, WBenchError
from wbench.method import Method, registry
from wbench.recipe import Recipe
from wbench.runs import Run
from wbench.task import Task
from wbench.tasks import all as all_tasks
from wbench.workbench.controls.cards import card, heading
from wbench.workbench.controls.group import KnobGroup
from wbench.workbench.trees import close_tree

FIRST = ("lr", "steps", "batch_size", "optimizer", "schedule", "weight_decay")
REST = ("warmup", "final_lr", "momentum", "betas", "eps", "clip", "eval_every")


class Setup:
    """The controls of what is trained next.

    Args:
        task: A task; its model and data may be the user's own.
        methods: Put on at first.
        scale: Whose recipe is taken at first.
        changed: Called after each change.

    Attributes:
        box: What is shown.
        seed: The first seed.
        seeds: How many seeds.
    """

    def __init__(self, task: Task, methods: Sequence[Method], scale: str, changed: Callable[[], None]) -> None:
        self._scale, self._changed, self._own = scale, changed, task.id not in all_tasks()
        self._task = task
        self._cards: dict[str, KnobGroup[Method]] = {}
        self._starts: dict[str, Callable[[], Run | None]] = {}
        self.members: Callable[[], dict[str, Run]] = dict
        width = {"width": "100%"}
        style = {"description_width": "80px"}
        names = [(f"{cls.title or name} ({name})", name) for name, cls in all_tasks().items()]
        own = [(f"your own: {getattr(task, 'name', task.id)}", task.id)] if self._own else []
        self.task_menu = ipw.Dropdown(
            options=[*own, *names], value=task.id, description="task", layout=width, style=style, disabled=self._own
        )
        self.task_menu.observe(lambda change: self._take_task(all_tasks()[change["new"]]()), "value")
        self.method_menu = ipw.Dropdown(
            options=self._offers(()), value="", description="add method", layout=width, style=style,
            tooltip="Methods act together on one run; what cannot is refused by name.",
        )  # fmt: skip
        self.method_menu.observe(lambda change: self._add(change["new"]), "value")
        self.seed_field = ipw.BoundedIntText(
            value=0, min=0, max=10**6, description="seed", layout={"width": "50%"}, style={"description_width": "40px"}
        )
        self.seeds_field = ipw.BoundedIntText(
            value=1, min=1, max=32, description="how many", layout={"width": "50%"}, style={"description_width": "72px"},
            tooltip="Seeds from the first one on; several give an interval.",
        )  # fmt: skip
        self.start_menu = ipw.Dropdown(
            options=[("new weights", "")], value="", description="start from", layout=width, style=style,
            tooltip="Train on from the weights of a run (ticked or pinned below); of models that are combined, their base.",
        )  # fmt: skip
        for field in (self.seed_field, self.seeds_field, self.start_menu):
            field.observe(lambda _: self._changed(), "value")
        self.note = ipw.HTML(layout={"display": "none"})
        self.note.add_class("wbench-error")
        self._task_box, self._recipe_box = ipw.VBox(layout=width), ipw.VBox(layout=width)
        self._method_box = ipw.VBox(layout=width)
        self._task_group: KnobGroup[Task] | None = None
        self._recipe_group: KnobGroup[Recipe]
        self.box = ipw.VBox(
            [
                heading("What"), self.task_menu, self._task_box, self.method_menu, self._method_box, self.start_menu,
                heading("How"), self._recipe_box, ipw.HBox([self.seed_field, self.seeds_field], layout=width), self.note,
            ],
            layout=width,
        )  # fmt: skip
        self._quiet = True
        self._take_task(task)
        for method in methods:
            self._put_on(method)
        self._quiet = False

    @property
    def groups(self) -> list[KnobGroup[Any]]:
        """All groups of knobs in view."""
        return [*([self._task_group] if self._task_group else []), *self._cards.values(), self._recipe_group]

    @property
    def seed(self) -> int:
        """The first seed."""
        return int(self.seed_field.value)

    @property
    def seeds(self) -> range:
        """All seeds."""
        return range(self.seed, self.seed + int(self.seeds_field.value))

    def task(self) -> Task:
        """Return the task as chosen.

        Raises:
            KnobError: If its options do not go together.
        """
        return self._task_group.build() if self._task_group is not None else self._task

    def methods(self) -> list[Method]:
        """Return the methods as chosen, in order.

        Raises:
            KnobError: If a method's fields do not go together.
        """
        return [group.build() for group in self._cards.values()]

    @property
    def combines(self) -> bool:
        """Whether a method on the controls combines models."""
        return any(group.kind.overrides("combine") for group in self._cards.values())

    def arguments(self, seed: int | None = None) -> dict[str, Any]:
        """Return the arguments of `train`.

        Args:
            seed: Default the first.

        Returns:
            Keyword to value.

        Raises:
            CompositionError: If there are no two models to combine.
            KnobError: If what is chosen does not go together, or the run to start from is gone.
        """
        methods = self.methods()
        found: dict[str, Any] = {
            "task": self.task(), "methods": methods, "seed": self.seed if seed is None else seed,
            "recipe": self._recipe_group.build(),
        }  # fmt: skip
        start = self._start()
        if any(method.overrides("combine") for method in methods):
            given = {role: run for role, run in self.members().items() if start is None or run.id != start.id}
            if len(given) < 2:
                raise CompositionError(
                    f"{methods[0].id} combines models: tick at least two finished runs in the table below"
                )
            return found | {"members": given} | ({"references": {"base": start}} if start is not None else {})
        return found | ({"start": start} if start is not None else {})

    def _start(self) -> Run | None:
        if not self.start_menu.value:
            return None
        run = self._starts[self.start_menu.value]()
        if run is None:
            raise KnobError("the run to start from is gone; choose another one")
        return run

    def offer_starts(self, runs: dict[str, tuple[str, Callable[[], Run | None]]]) -> None:
        """Set which runs can be started from.

        Args:
            runs: Key to label and a function that opens it.
        """
        self._starts = {key: opened for key, (_, opened) in runs.items()}
        kept = self.start_menu.value if self.start_menu.value in runs else ""
        options = [("new weights", ""), *((label, key) for key, (label, _) in runs.items())]
        if list(self.start_menu.options) != options:
            self.start_menu.options = options
            self.start_menu.value = kept

    def put(self, task: Task | None, methods: Sequence[Method], recipe: Recipe, seed: int) -> None:
        """Show the settings of a run, without telling more than once.

        Args:
            task: Its task; `None`: as it is.
            methods: Its methods.
            recipe: Its recipe.
            seed: Its seed.
        """
        self._quiet = True
        try:
            if task is not None and not self._own:
                self.task_menu.value = task.id
                self._take_task(task)
            for name in list(self._cards):
                self._take_off(name)
            for method in methods:
                self._put_on(method)
            self._recipe_group.put(recipe)
            self.seed_field.value, self.seeds_field.value = seed, 1
        finally:
            self._quiet = False
        self._tell()

    def say(self, text: str) -> None:
        """Say what does not go together.

        Args:
            text: The message; empty: all is well.
        """
        self.note.value = f"<span role='alert'>{html.escape(text)}</span>" if text else ""
        self.note.layout.display = None if text else "none"

    def sliders(self) -> list[tuple[str, str]]:
        """Return the methods' and the recipe's knobs that have a slider: owner and name."""
        groups: list[KnobGroup[Any]] = [*self._cards.values(), self._recipe_group]
        return [
            (group.owner, name)
            for group in groups
            for name, control in group.controls.items()
            if control.slider is not None
        ]

    def spoken(self) -> dict[str, dict[str, str]]:
        """Return accessible names and values of all slider handles, by class."""
        return {c.css: c.spoken for group in self.groups for c in group.controls.values() if c.slider is not None}

    def close(self) -> None:
        """Free every widget."""
        close_tree(self.box)

    def _take_task(self, task: Task) -> None:
        for box in (*self._task_box.children, *self._recipe_box.children):
            close_tree(box)
        self._task = task
        self._task_group = None
        if not self._own and type(task).knobs():
            self._task_group = KnobGroup(task, self._tell)
            fold = ipw.Accordion(
                children=[self._task_group.box], titles=(f"options of {task.id}",), selected_index=None
            )
            fold.add_class("wbench-fold")
            self._task_box.children = (fold,)
        else:
            self._task_box.children = ()
        recipe = task.recipe(self._scale)
        first = [name for name in FIRST if not (name == "steps" and recipe.phases)]  # phases have steps of their own
        self._recipe_group = KnobGroup(recipe, self._tell, first, REST)
        self._recipe_box.children = (self._recipe_group.box,)
        self._tell()

    def _offers(self, taken: Sequence[str]) -> list[tuple[str, str]]:
        known = registry().values()
        found = [
            (f"{cls.stage}: {cls.title}{' (baseline)' if cls.kind != 'method' else ''}", cls.id)
            for cls in known
            if cls.id not in taken
        ]
        return [("choose ...", ""), *found]

    def _add(self, name: str) -> None:
        if not name:
            return
        try:
            self._put_on(registry()[name]())
            self.say("")
        except WBenchError as error:
            self.say(str(error))
        self.method_menu.value = ""
        self._tell()

    def _put_on(self, method: Method) -> None:
        cls = type(method)
        group: KnobGroup[Method] = KnobGroup(method, self._tell)
        self._cards[cls.id] = group
        off = ipw.Button(description="×", tooltip=f"take {cls.id} off", layout={"width": "28px", "padding": "0"})
        off.add_class("wbench-off")
        off.on_click(lambda _: self._put_off(cls.id))
        head = ipw.HTML(card(method), layout={"width": "calc(100% - 34px)"})
        shown = ipw.VBox([ipw.HBox([head, off]), group.box], layout={"width": "100%"})
        shown.add_class("wbench-card")
        self._method_box.children = (*self._method_box.children, shown)
        self._refresh_offers()

    def _take_off(self, name: str) -> None:
        place = list(self._cards).index(name)
        del self._cards[name]
        gone = self._method_box.children[place]
        self._method_box.children = tuple(box for box in self._method_box.children if box is not gone)
        close_tree(gone)
        self._refresh_offers()

    def _put_off(self, name: str) -> None:
        self._take_off(name)
        self._tell()

    def _refresh_offers(self) -> None:
        self.method_menu.options = self._offers(list(self._cards))
        self.method_menu.value = ""

    def _tell(self) -> None:
        if not getattr(self, "_quiet", False):
            self._changed()
