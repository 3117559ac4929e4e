"""`train`: a task, methods and a seed become a recorded run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, WBenchError
from wbench.method import Context, matches
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore, RunWriter
from wbench.splits import Batch, Splits
from wbench.task import Task
from wbench.training.bar import OnStep, StepBar
from wbench.training.device import derive, environment, seeded, threads
from wbench.training.finite import Diverged
from wbench.training.job import Methods, describe, find
from wbench.training.loop import fit
from wbench.training.outside import run_outside
from wbench.training.recorder import MAX_ITEMS, PROBES, Recorder
from wbench.training.restore import Start, load, restore


def train(
    task: Task | str,
    methods: Methods | None = None,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    scale: str = "cpu",
    device: str | torch.device = "auto",
    probes: Sequence[str] = PROBES,
    every: int | None = None,
    start: Start | None = None,
    trainable: str | tuple[str, ...] | None = None,
    references: Mapping[str, Run | nn.Module] | None = None,
    members: Mapping[str, Run | nn.Module] | None = None,
    store: RunStore | None = None,
    progress: bool = False,
    on_step: OnStep | None = None,
) -> Run:
    """Train a task's model with methods on it, and record everything. A configuration already finished is loaded instead.

    Args:
        task: A task or its name.
        methods: Methods, classes or ids, put on in this order and taken off in reverse; none: the baseline.
        seed: Decides data, initial weights and order.
        recipe: How to train; default: the task's at `scale`. Methods may advise on it.
        scale: `smoke`, `cpu` or `gpu`.
        device: `auto` (CUDA when there is one) or a torch device.
        probes: Which of `histogram`, `spectrum`, `effective_lr` to record; none: an empty tuple.
        every: Steps between probe records; default a twentieth of the run.
        start: Weights to start from: a run, a module, a mapping or a checkpoint's path.
        trainable: Globs of modules that stay trainable; everything else is frozen before the methods are put on.
        references: Models that methods ask for by role: base, teacher, ...
        members: Models that a population method combines.
        store: Where runs are kept; default `$WBENCH_HOME/runs` or `./.wbench/runs`.
        progress: Show a progress bar on standard error.
        on_step: Called with (step, loss) after each step.

    Returns:
        The run; its `status` is `finished`, or `diverged` where loss or weights ceased to be finite.

    Raises:
        WBenchError: For input that is not allowed; nothing is trained then.
        KeyboardInterrupt: Passed on after the partial run was kept, marked `stopped`.
    """
    job = describe(
        task, methods, seed=seed, recipe=recipe, scale=scale, device=device, probes=probes, every=every, start=start,
        trainable=trainable, references=references, members=members,
    )  # fmt: skip
    store = store or RunStore()
    found = find(job, store)
    if found is not None:
        return found
    task, chosen, place, recipe = job.task, job.methods, job.device, job.recipe
    splits = task.data(seed)
    writer = store.writer(
        job.spec, {"environment": environment(place), "data": splits.checksums(), "title": task.title}
    )
    ctx = Context(
        recipe=recipe, task=task, methods=chosen, total_steps=recipe.total_steps, device=place, splits=splits,
        rng=torch.Generator().manual_seed(derive(seed, "methods")),
        references={role: _model(model).to(place) for role, model in (references or {}).items()},
    )  # fmt: skip
    begin = time.perf_counter()
    recorder = Recorder(writer, probes=tuple(probes), every=job.every, total_steps=recipe.total_steps, methods=chosen)
    status, reason = "finished", ""
    bar = StepBar(progress, recipe.total_steps, on_step)
    with seeded(derive(seed, "training"), place), threads(place), bar as tell:
        recorder.on_step = tell
        try:
            if any(method.overrides("combine") or method.overrides("estimator") for method in chosen):
                model = run_outside(task, chosen, ctx, {role: _model(m) for role, m in (members or {}).items()}, writer)
            else:
                model = assemble(task, ctx, seed, job.start, trainable)
                _train(model, ctx, recorder, seed)
                model = _finish(model, ctx, writer)
        except (KeyboardInterrupt, Exception) as error:
            status, reason = _status_of(error), str(error) or type(error).__name__
            if isinstance(error, WBenchError) and not isinstance(error, Diverged) and ctx.step == 0:
                writer.abort()
                raise
            run = _commit(writer, recorder, status, reason, begin)
            if not isinstance(error, Diverged):
                raise
            return run
    del model
    writer.info["state"] = {
        key: value for key, value in ctx.state.items() if isinstance(value, int | float | str | bool)
    }
    return _commit(writer, recorder, status, reason, begin)


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


def _train(model: nn.Module, ctx: Context, recorder: Recorder, seed: int) -> None:
    owner = next((method for method in ctx.methods if method.overrides("loss")), None)
    task = ctx.task
    if task is None:
        raise CompositionError("training needs a task")

    def loss_of(model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        return owner.loss(model, batch, ctx) if owner else task.loss(model(batch[0]), batch)

    recorder.evaluate = lambda: evaluate(model, ctx, (ctx.phase,) if ctx.phase != "train" else ("valid",))
    recorder.eval_every = ctx.recipe.eval_every or (
        max(1, ctx.total_steps // 10) if len(ctx.recipe.plan) == 1 else None
    )
    recorder.start(model, ctx)
    fit(model, ctx, loss_of, recorder, torch.Generator().manual_seed(derive(seed, "order")))


def _finish(model: nn.Module, ctx: Context, writer: RunWriter) -> nn.Module:
    trainable = sum(param.numel() for param in model.parameters() if param.requires_grad)
    if ctx.methods:
        writer.tensors("trained", _state(model))
    for method in reversed(ctx.methods):
        model = method.finish(model, ctx)
    items: dict[str, Tensor] = {}
    rows = evaluate(model, ctx, ("train", "valid", "test"), items)
    writer.log([{"step": ctx.step, "phase": "end", **row} for row in rows])
    if 0 < sum(len(values) for values in items.values()) <= MAX_ITEMS:
        import pandas as pd

        frames = [pd.DataFrame({"name": key, "item": range(len(v)), "value": v.numpy()}) for key, v in items.items()]
        writer.table("items", pd.concat(frames, ignore_index=True))
    losses = [row["value"] for row in writer.rows("train", "loss") if row["phase"] != "end"]
    if losses:  # the area under the curve over its length: a measure of speed
        row = {"step": ctx.step, "phase": "end", "split": "train", "name": "mean_loss"}
        writer.log([{**row, "value": sum(losses) / len(losses)}])
    writer.log(_sizes(ctx, trainable))
    writer.tensors("weights", _state(model))
    return model


def _sizes(ctx: Context, trainable: int) -> list[dict[str, Any]]:
    """Return the numbers that were trained, and numbers and bytes that the optimizer kept for them (step counters left out)."""
    states = ctx.optimizer.state.values() if ctx.optimizer is not None else []
    held = [value for state in states for key, value in state.items() if isinstance(value, Tensor) and key != "step"]
    sizes = {
        "trainable": trainable,
        "optimizer_numbers": sum(value.numel() for value in held),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in held),
    }
    return [
        {"step": ctx.step, "phase": "end", "split": "store", "name": key, "value": float(v)} for key, v in sizes.items()
    ]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _commit(writer: RunWriter, recorder: Recorder, status: str, reason: str, begin: float) -> Run:
    timings = {"seconds": time.perf_counter() - begin, "recording": recorder.seconds}
    return writer.commit(status=status, reason=reason, info={"timings": timings})


def _status_of(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    return "stopped" if isinstance(error, KeyboardInterrupt) else "failed"


def _model(model: Run | nn.Module) -> nn.Module:
    return restore(model) if isinstance(model, Run) else model
