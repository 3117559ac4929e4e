"""One run in the making, from assembling the model to committing the record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, WBenchError
from wbench.method import Context, matches
from wbench.runs import Run, RunStore
from wbench.splits import Batch, Splits
from wbench.task import Task
from wbench.training.device import derive, environment, seeded
from wbench.training.finite import Diverged
from wbench.training.job import Job
from wbench.training.loop import fit, loss_function
from wbench.training.members import Members
from wbench.training.memory import measure, optimizer_tensors, tensor_bytes
from wbench.training.outside import keep_items, run_outside
from wbench.training.recorder import Recorder
from wbench.training.restore import estimator_method, load, restore, restore_estimator


class Session:
    """A run in the making.

    Args:
        job: What is trained.
        store: Where it will be kept.

    Attributes:
        ctx: The state that the methods see.
        writer: Collects the record.
        recorder: Watches the training loop.
        order: Decides the data order.

    Raises:
        RunError: If the store cannot be written, before any time is spent on training.
    """

    def __init__(self, job: Job, store: RunStore) -> None:
        splits = job.task.data(job.seed)
        info = {"environment": environment(job.device), "data": splits.checksums(), "title": job.task.title}
        self.job, self.writer = job, store.writer(job.spec, info)
        total = job.recipe.total_steps
        self.ctx = Context(
            recipe=job.recipe, task=job.task, methods=job.methods, total_steps=total, device=job.device, splits=splits,
            rng=torch.Generator().manual_seed(derive(job.seed, "methods")),
            references={role: _reference(model, job.device) for role, model in job.references.items()},
        )  # fmt: skip
        self.order = torch.Generator().manual_seed(derive(job.seed, "order"))
        self._begin = time.perf_counter()
        self.recorder = Recorder(
            self.writer, probes=job.probes, every=job.every, total_steps=total, methods=job.methods
        )

    def run(self) -> None:
        """Do everything but commit: assemble and train the model and take the methods off, or combine, or fit."""
        if self.job.outside:
            run_outside(self.job.task, self.job.methods, self.ctx, Members(self.job.members), self.writer)
            return
        model = self.assemble()
        fit(model, self.ctx, loss_function(self.ctx), self.recorder, self.order)
        self.finish(model)

    def assemble(self) -> nn.Module:
        """Return the prepared model, with its state before the first step recorded."""
        job = self.job
        model = assemble(job.task, self.ctx, job.seed, job.start, job.trainable)
        ctx, recorder = self.ctx, self.recorder
        recorder.evaluate = lambda: evaluate(model, ctx, (ctx.phase,) if ctx.phase != "train" else ("valid",))
        single = len(job.recipe.plan) == 1
        recorder.eval_every = job.recipe.eval_every or (max(1, ctx.total_steps // 10) if single else None)
        recorder.start(model, ctx)
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Take the methods off a trained model, evaluate it and keep its weights.

        The method put on last comes off first; transforms then act, in the order given, on the plain model that is left.

        Args:
            model: The prepared, trained model.

        Returns:
            The model as the methods leave it.
        """
        ctx, writer = self.ctx, self.writer
        trainable = sum(param.numel() for param in model.parameters() if param.requires_grad)
        memory = measure(model, ctx)
        if ctx.methods:
            writer.tensors("trained", _state(model))
        transforms = [method for method in ctx.methods if method.stage == "transform"]
        for method in [*(other for other in reversed(ctx.methods) if other.stage != "transform"), *transforms]:
            model = method.finish(model, ctx)
        self.recorder.finished(model, ctx)
        items: dict[str, Tensor] = {}
        rows = evaluate(model, ctx, ("train", "valid", "test"), items)
        writer.log([{"step": ctx.step, "phase": "end", **row} for row in rows])
        keep_items(writer, items)
        losses = [row["value"] for row in writer.rows("train", "loss") if row["phase"] != "end"]
        if losses:  # the area under the curve over its length: a measure of speed
            row = {"step": ctx.step, "phase": "end", "split": "train", "name": "mean_loss"}
            writer.log([{**row, "value": sum(losses) / len(losses)}])
        state = _state(model)
        memory["weights"] = tensor_bytes(state.values())
        writer.log(_end(ctx, "store", _sizes(ctx, trainable)))
        writer.log(_end(ctx, "memory", memory))
        writer.tensors("weights", state)
        return model

    def commit(self, status: str = "finished", reason: str = "", seconds: float | None = None) -> Run:
        """Write the run.

        Args:
            status: As in `RunWriter.commit`.
            reason: Why, where it did not finish.
            seconds: Time spent on it; default: since the session began.

        Returns:
            The run.
        """
        if status == "finished":
            state = self.ctx.state.items()
            self.writer.info["state"] = {key: v for key, v in state if isinstance(v, int | float | str | bool)}
        spent = time.perf_counter() - self._begin if seconds is None else seconds
        timings = {"seconds": spent, "recording": self.recorder.seconds}
        return self.writer.commit(status=status, reason=reason, info={"timings": timings})

    def fail(self, error: BaseException) -> Run:
        """Keep what there is of a run that an exception has ended.

        Args:
            error: What ended it; called from its handler.

        Returns:
            The run, where training has diverged: that is an outcome.

        Raises:
            BaseException: The error itself otherwise, after the partial run was kept as `stopped` or `failed`; input that was
                refused before the first step leaves no run.
        """
        refused = isinstance(error, WBenchError) and not isinstance(error, Diverged) and self.ctx.step == 0
        if refused:
            self.writer.abort()
            raise error
        run = self.commit(_status_of(error), str(error) or type(error).__name__)
        if not isinstance(error, Diverged):
            raise error
        return run


def assemble(
    task: Task,
    ctx: Context,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
    trainable: str | tuple[str, ...] | None = None,
) -> nn.Module:
    """Build the model and put the methods of the context on it.

    Args:
        task: The task.
        ctx: The run; its splits become what the methods make of them.
        seed: Decides the initial weights.
        start: Weights to load before the methods are put on.
        trainable: Globs of modules that stay trainable; the rest is frozen first.

    Returns:
        The prepared model on the context's device.

    Raises:
        WBenchError: If a method does not fit; names method, layer and rule.
    """
    builders = [method for method in ctx.methods if method.overrides("build")]
    with seeded(derive(seed, "build"), ctx.device):
        model = builders[0].build(task, ctx) if builders else task.model(seed)
    if start is not None:
        load(model, start, "the start")
    model = model.to(ctx.device)
    if trainable is not None:
        kept = {id(p) for name, m in model.named_modules() if name and matches(name, trainable) for p in m.parameters()}
        frozen = [param for param in model.parameters() if id(param) not in kept]
        for param in frozen:
            param.requires_grad_(False)
        ctx.mark_frozen(frozen, f"trainable={trainable!r}")
    for method in ctx.methods:
        ctx.splits = Splits(method.data(ctx.splits, model, ctx))
        model = method.prepare(model, ctx).to(ctx.device)
    return model


def evaluate(
    model: nn.Module, ctx: Context, splits: Sequence[str], items: dict[str, Tensor] | None = None
) -> list[dict[str, Any]]:
    """Return metric rows of a model on some of the run's splits.

    Args:
        model: The model; its mode is restored.
        ctx: The run.
        splits: Names; those that the run does not have are left out.
        items: When given, is filled with per-sample scores of the last split.

    Returns:
        Rows with `split`, `name`, `value`.

    Raises:
        CompositionError: If the run has no task.
    """
    if ctx.task is None:
        raise CompositionError("evaluation needs a task; outside a run evaluate the model yourself")
    owner = next((method for method in ctx.methods if method.overrides("infer")), None)

    def infer(batch: Batch) -> Tensor:
        batch = tuple(part.to(ctx.device) for part in batch)
        return (owner.infer(model, batch, ctx) if owner else model(batch[0])).cpu()

    was_training = model.training
    model.eval()
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name in splits:
            if name in ctx.splits:
                metrics = ctx.task.metrics(model, ctx.splits[name], infer, items)
                rows += [{"split": name, "name": key, "value": value} for key, value in metrics.items()]
    model.train(was_training)
    return rows


def _sizes(ctx: Context, trainable: int) -> dict[str, int]:
    """Return the numbers that were trained, and numbers and bytes that the optimizer kept for them (step counters left out)."""
    held = list(optimizer_tensors(ctx.optimizer))
    return {
        "trainable": trainable,
        "optimizer_numbers": sum(value.numel() for value in held),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in held),
    }


def _end(ctx: Context, split: str, values: Mapping[str, int]) -> list[dict[str, Any]]:
    row = {"step": ctx.step, "phase": "end", "split": split}
    return [{**row, "name": name, "value": float(value)} for name, value in values.items()]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _status_of(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    return "stopped" if isinstance(error, KeyboardInterrupt) else "failed"


def _reference(model: Run | nn.Module, device: torch.device) -> Any:
    if isinstance(model, Run) and (method := estimator_method(model)):
        return restore_estimator(model, method)
    return _model(model).to(device)


def _model(model: Run | nn.Module) -> nn.Module:
    return restore(model) if isinstance(model, Run) else model
