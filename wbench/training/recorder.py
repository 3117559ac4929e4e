"""Recording a run while it trains: metrics, probes on a schedule, and what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wbench.errors import UnknownNameError, closest
from wbench.method import Context, Method
from wbench.ops.graph import normalized_layers

PROBES = ("histogram", "spectrum", "effective_lr")
MAX_ITEMS = 20_000


class Sink(Protocol):
    """Where rows and frames go: a run writer, or a live run."""

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Append metric rows."""

    def table(self, name: str, frame: Any) -> None:
        """Append a frame to a table."""


class Recorder:
    """Watches a loop and writes what it sees.

    Args:
        sink: Receives metric rows and probe frames.
        probes: Names of probes to record.
        every: Steps between probe records; the first and the last step are always recorded.
        total_steps: Steps of the run, or `None` in a loop of unknown length.
        methods: Their `observe` is recorded beside the probes.
        evaluate: Called every `eval_every` steps and after each phase; returns metric rows.
        eval_every: Steps between evaluations.
        on_step: Called after each step with (step, loss): progress bars.
        on_probe: Called with (model, run) after each record of the probes, before the next step; it must leave both as they are.

    Raises:
        UnknownNameError: For a probe that does not exist.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        probes: tuple[str, ...] = PROBES,
        every: int = 50,
        total_steps: int | None = None,
        methods: tuple[Method, ...] = (),
        evaluate: Callable[[], list[dict[str, Any]]] | None = None,
        eval_every: int | None = None,
        on_step: Callable[[int, float], None] | None = None,
        on_probe: Callable[[nn.Module, Context], None] | None = None,
    ) -> None:
        for name in probes:
            if name not in PROBES:
                raise UnknownNameError(f"'{name}' cannot be recorded during training.{closest(name, PROBES)}")
        self.sink, self.probes, self.every, self.total_steps = sink, probes, max(1, every), total_steps
        self.observers = tuple(method for method in methods if type(method).overrides("observe")) if probes else ()
        self.evaluate, self.eval_every, self.on_step, self.on_probe = evaluate, eval_every, on_step, on_probe
        self.seconds: dict[str, float] = {}
        self._before: dict[str, Tensor] | None = None
        self._invariant: set[str] | None = None
        self._evaluated = -1

    def start(self, model: nn.Module, ctx: Context) -> None:
        """Record the state before the first step.

        Args:
            model: The prepared model.
            ctx: The run.
        """
        ctx.sink = lambda name, value: self.sink.log([_row(ctx, "train", name, value)])
        if self.probes:
            self._probe(model, ctx)
        self._evaluate(ctx)

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> None:
        """Keep the weights, when this step's change will be measured.

        Args:
            model: The model.
            optimizer: Its optimizer.
            ctx: The run.
        """
        if "effective_lr" in self.probes and self._due(ctx.step + 1):
            from wbench.probes import snapshot

            self._before = self._timed("effective_lr", snapshot, model)

    def after_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context, loss: float) -> None:
        """Record one step.

        Args:
            model: The model.
            optimizer: Its optimizer.
            ctx: The run.
            loss: The step's loss.
        """
        self.sink.log([_row(ctx, "train", "loss", loss)])
        if self._before is not None:
            self._effective_lr(model, optimizer, ctx)
        if self.probes and self._due(ctx.step):
            self._probe(model, ctx)
        if self.eval_every and ctx.step % self.eval_every == 0:
            self._evaluate(ctx)
            model.train()
        if self.on_step is not None:
            self.on_step(ctx.step, loss)

    def after_phase(self, model: nn.Module, ctx: Context) -> None:
        """Evaluate at the end of a phase.

        Args:
            model: The model.
            ctx: The run.
        """
        self._evaluate(ctx)
        model.train()

    def finished(self, model: nn.Module, ctx: Context) -> None:
        """Record what methods that act on a trained model have made of it, as one step after the last.

        Args:
            model: The model after `finish`.
            ctx: The run.
        """
        if self.probes and any(type(method).stage == "transform" for method in ctx.methods):
            self._probe(model, ctx, ctx.step + 1)

    def _due(self, step: int) -> bool:
        return step % self.every == 0 or step == 1 or step == self.total_steps

    def _timed(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    def _evaluate(self, ctx: Context) -> None:
        if self.evaluate is not None and self._evaluated != ctx.step:
            self._evaluated = ctx.step
            rows = self._timed("evaluation", self.evaluate)
            self.sink.log([{"step": ctx.step, "phase": ctx.phase, **row} for row in rows])

    def _probe(self, model: nn.Module, ctx: Context, step: int | None = None) -> None:
        from wbench import probes

        step = ctx.step if step is None else step
        for name in self.probes:
            if name != "effective_lr":
                self._keep(name, self._timed(name, getattr(probes, name), model), step)
        for method in self.observers:
            frame = self._timed(method.id, method.observe, model, ctx)
            if frame is not None and len(frame):
                self._keep(f"method.{method.id}", frame, step)
        if self.on_probe is not None and step == ctx.step:
            self.on_probe(model, ctx)

    def _effective_lr(self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> None:
        from wbench.probes import effective_lr, snapshot

        if self._invariant is None:
            self._invariant = normalized_layers(model)
        rule = "sgd" if isinstance(optimizer, torch.optim.SGD) else "adam"
        after = self._timed("effective_lr", snapshot, model)
        frame = self._timed(
            "effective_lr", effective_lr, self._before, after,
            lr=layer_rates(model, optimizer, set(after)), rule=rule, scale_invariant=self._invariant,
        )  # fmt: skip
        self._before = None
        self._keep("effective_lr", frame, ctx.step)

    def _keep(self, name: str, frame: Any, step: int) -> None:
        frame.insert(0, "step", step)
        self.sink.table(name, frame)


def layer_rates(model: nn.Module, optimizer: torch.optim.Optimizer, layers: set[str]) -> dict[str, float]:
    """Return the learning rate with which each layer's weight is being trained; 0 where nothing of it is.

    Args:
        model: The model.
        optimizer: Its optimizer.
        layers: Layer names to answer for.

    Returns:
        Layer name to rate.
    """
    rates = {id(param): float(group["lr"]) for group in optimizer.param_groups for param in group["params"]}
    found = dict.fromkeys(layers, 0.0)
    for name, param in model.named_parameters(remove_duplicate=False):
        rate = rates.get(id(param), 0.0)
        for layer in layers:
            if name == layer or name.startswith(f"{layer}."):
                found[layer] = max(found[layer], rate)
    return found


def _row(ctx: Context, split: str, name: str, value: float) -> dict[str, Any]:
    number = value if math.isfinite(value) else math.nan
    return {"step": ctx.step, "phase": ctx.phase, "split": split, "name": name, "value": number}
