"""Watching a loop that somebody else wrote, through the optimizer's own hooks."""

from __future__ import annotations

import time
from typing import Any, Self

import torch
from torch import nn

from wbench.method import Context, Method
from wbench.runs import Run, RunStore, RunWriter
from wbench.training.device import environment
from wbench.training.finite import Diverged, check_weights
from wbench.training.recorder import PROBES, Recorder


class Watched:
    """A run in the making. Use as a context manager; made by `watch`.

    Attributes:
        step: Optimizer steps seen so far.
        run: The recorded run, once the block has ended.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, recorder: Recorder, writer: RunWriter, ctx: Context
    ) -> None:
        self._model, self._optimizer, self._recorder, self._writer, self._ctx = model, optimizer, recorder, writer, ctx
        self._handles: list[Any] = []
        self._begin = 0.0
        self._warned = False
        self.run: Run | None = None

    def __enter__(self) -> Self:
        self._begin = time.perf_counter()
        self._recorder.start(self._model, self._ctx)
        self._handles = [
            self._optimizer.register_step_pre_hook(lambda *_: self._before()),
            self._optimizer.register_step_post_hook(lambda *_: self._after()),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        for handle in self._handles:
            handle.remove()
        status = "finished" if kind is None else "stopped" if kind is KeyboardInterrupt else "failed"
        if isinstance(error, Diverged):
            status = "diverged"
        self._writer.tensors("weights", {k: v.detach().cpu() for k, v in self._model.state_dict().items()})
        timings = {"seconds": time.perf_counter() - self._begin, "recording": self._recorder.seconds}
        self.run = self._writer.commit(status=status, reason=str(error or ""), info={"timings": timings})

    @property
    def step(self) -> int:
        """Optimizer steps seen so far."""
        return self._ctx.step

    @property
    def metrics(self) -> Any:
        """DataFrame of what was logged: step, phase, split, name, value."""
        return self.run.metrics if self.run is not None else self._writer.metrics

    def log(self, split: str = "train", **values: float) -> None:
        """Record numbers of the loop's own at the current step.

        Args:
            split: What they were measured on.
            **values: Name to number.
        """
        rows = [
            {"step": self.step, "phase": "train", "split": split, "name": k, "value": float(v)}
            for k, v in values.items()
        ]
        self._writer.log(rows)

    def probe(self, name: str) -> Any:
        """Return what a probe has recorded so far.

        Args:
            name: `histogram`, `spectrum` or `effective_lr`.

        Returns:
            A tidy DataFrame with a `step` column.

        Raises:
            RunError: If it was not recorded.
        """
        return self.run.probe(name) if self.run is not None else self._writer.probe(name)

    def _before(self) -> None:
        self._recorder.before_update(self._model, self._optimizer, self._ctx)

    def _after(self) -> None:
        self._ctx.step += 1
        check_weights(self._model, self._ctx)
        self._recorder.after_update(self._model, self._optimizer, self._ctx, float("nan"))


class _WatchSink:
    """Passes rows on, less the loss, which a watched loop keeps to itself unless it logs it."""

    def __init__(self, writer: RunWriter) -> None:
        self.writer = writer

    def log(self, rows: list[dict[str, Any]]) -> None:
        self.writer.log([row for row in rows if row["value"] == row["value"]])

    def table(self, name: str, frame: Any) -> None:
        self.writer.table(name, frame)


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    every: int = 50,
    probes: tuple[str, ...] = PROBES,
    methods: tuple[Method, ...] | list[Method] = (),
    name: str = "watched",
    store: RunStore | None = None,
) -> Watched:
    """Record a user's own training loop: probes every few optimizer steps, whatever framework runs the loop.

    Usage:
        `with wb.watch(model, opt, every=50) as run: ...` and then `run.probe("spectrum")`.

    Args:
        model: The model that the loop trains.
        optimizer: The optimizer whose `step` the loop (or its framework) calls.
        every: Steps between records.
        probes: Which of `histogram`, `spectrum`, `effective_lr` to record.
        methods: Their own measurements (`observe`) are recorded too; their step hooks are not run, see `Method.attach`.
        name: Shown in the list of runs.
        store: Where the run is kept.

    Returns:
        A context manager; inside, a live run.

    Raises:
        Diverged: From inside the loop's `step`, when a weight has become NaN or infinite.
    """
    device = next((param.device for param in model.parameters()), torch.device("cpu"))
    spec = {
        "task": {"id": "watched", "name": name},
        "methods": [{"id": method.id, "fields": method.fields()} for method in methods],
        "seed": 0,
        "model": type(model).__name__,
        "optimizer": type(optimizer).__name__,
        "started": time.time_ns(),
    }
    writer = (store or RunStore()).writer(spec, {"environment": environment(device), "title": name})
    ctx = Context(methods=tuple(methods), device=device, total_steps=2**31)
    recorder = Recorder(_WatchSink(writer), probes=tuple(probes), every=every, methods=tuple(methods))
    return Watched(model, optimizer, recorder, writer, ctx)
