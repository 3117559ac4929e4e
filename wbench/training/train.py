"""`train`: a task, methods and a seed become a recorded run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, KnobError, WBenchError
from wbench.method import Context, Method, check_composition, get
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore, RunWriter, run_id
from wbench.splits import Batch, Splits, tensors_checksum
from wbench.task import Task, find_task
from wbench.training.device import derive, environment, resolve_device, seeded
from wbench.training.finite import Diverged
from wbench.training.identity import run_spec
from wbench.training.loop import fit
from wbench.training.outside import run_outside
from wbench.training.recorder import MAX_ITEMS, PROBES, Recorder
from wbench.training.restore import Start, load, restore, start_weights

Methods = Method | type[Method] | str | Sequence[Method | type[Method] | str]
OnStep = Callable[[int, float], None]


def as_methods(methods: Methods | None) -> tuple[Method, ...]:
    """Return methods as a tuple of objects.

    Args:
        methods: One or several: objects, classes or ids.

    Returns:
        The objects, in order.

    Raises:
        UnknownNameError: For an id that does not exist.
        KnobError: For something that is no method.
    """
    if methods is None:
        return ()
    given = [methods] if isinstance(methods, str | type | Method) else list(methods)
    made: list[Method] = []
    for item in given:
        item = get(item) if isinstance(item, str) else item
        item = item() if isinstance(item, type) and issubclass(item, Method) else item
        if not isinstance(item, Method):
            raise KnobError(f"{item!r} is not a method; allowed: a method, its class or its id")
        made.append(item)
    return tuple(made)


@dataclass(frozen=True)
class Job:
    """A run that is described and checked, but not yet trained.

    Attributes:
        task: What is trained on.
        methods: In order.
        recipe: After the methods' advice.
        device: Where.
        every: Steps between probe records.
        start: Weights to start from, or `None`.
        spec: What determines the run; its hash is the run's name.
    """

    task: Task
    methods: tuple[Method, ...]
    recipe: Recipe
    device: torch.device
    every: int
    start: Mapping[str, Tensor] | None
    spec: dict[str, Any]


def describe(
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
) -> Job:
    """Check what `train` is given and name the run, without training.

    Args:
        task: As in `train`.
        methods: As in `train`.
        seed: As in `train`.
        recipe: As in `train`.
        scale: As in `train`.
        device: As in `train`.
        probes: As in `train`.
        every: As in `train`.
        start: As in `train`.
        trainable: As in `train`.
        references: As in `train`.
        members: As in `train`.

    Returns:
        The job.
    """
    task, chosen, place = find_task(task), as_methods(methods), resolve_device(device)
    check_composition(chosen)
    recipe = recipe or task.recipe(scale)
    for method in chosen:
        recipe = method.recipe(recipe)
    every = every or max(1, recipe.total_steps // 20)
    start_id, weights = start_weights(start) if start is not None else (None, None)
    others = {**(references or {}), **(members or {})}
    spec = run_spec(
        task, chosen, recipe, seed=seed, device=place, probes={"names": list(probes), "every": every if probes else 0},
        start=start_id, references={role: _identity(model) for role, model in others.items()},
    )  # fmt: skip
    spec["trainable"] = trainable
    return Job(task, chosen, recipe, place, every, weights, spec)


def find(job: Job, store: RunStore) -> Run | None:
    """Return the finished (or diverged) run of a job, if the store has it.

    Args:
        job: From `describe`.
        store: Where to look.

    Returns:
        The run, or `None`.
    """
    found = store.find(run_id(job.spec))
    return found if found is not None and found.status in {"finished", "diverged"} else None


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
    writer = store.writer(job.spec, {"environment": environment(place), "data": splits.checksums(), "title": task.title})
    ctx = Context(
        recipe=recipe, task=task, methods=chosen, total_steps=recipe.total_steps, device=place, splits=splits,
        rng=torch.Generator().manual_seed(derive(seed, "methods")),
        references={role: _model(model).to(place) for role, model in (references or {}).items()},
    )  # fmt: skip
    begin = time.perf_counter()
    recorder = Recorder(writer, probes=tuple(probes), every=job.every, total_steps=recipe.total_steps, methods=chosen)
    status, reason = "finished", ""
    with seeded(derive(seed, "training"), place), _bar(progress, recipe.total_steps, on_step) as tell:
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
    return _commit(writer, recorder, status, reason, begin)


def assemble(
    task: Task, ctx: Context, seed: int, start: Mapping[str, Tensor] | None = None, trainable: str | tuple[str, ...] | None = None
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
    from wbench.method import matches

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


def evaluate(model: nn.Module, ctx: Context, splits: Sequence[str], items: dict[str, Tensor] | None = None) -> list[dict[str, Any]]:
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
    recorder.eval_every = ctx.recipe.eval_every or (max(1, ctx.total_steps // 10) if len(ctx.recipe.plan) == 1 else None)
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
    writer.log(_sizes(ctx, trainable))
    writer.tensors("weights", _state(model))
    return model


def _sizes(ctx: Context, trainable: int) -> list[dict[str, Any]]:
    """Numbers that were trained, and numbers and bytes that the optimizer kept for them (step counters left out)."""
    states = ctx.optimizer.state.values() if ctx.optimizer is not None else []
    held = [value for state in states for key, value in state.items() if isinstance(value, Tensor) and key != "step"]
    sizes = {
        "trainable": trainable,
        "optimizer_numbers": sum(value.numel() for value in held),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in held),
    }
    return [{"step": ctx.step, "phase": "end", "split": "store", "name": key, "value": float(v)} for key, v in sizes.items()]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _commit(writer: RunWriter, recorder: Recorder, status: str, reason: str, begin: float) -> Run:
    timings = {"seconds": time.perf_counter() - begin, "recording": recorder.seconds}
    return writer.commit(status=status, reason=reason, info={"timings": timings})


def _status_of(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    return "stopped" if isinstance(error, KeyboardInterrupt) else "failed"


def _identity(model: Run | nn.Module) -> str:
    return model.id if isinstance(model, Run) else tensors_checksum(model.state_dict())


def _model(model: Run | nn.Module) -> nn.Module:
    return restore(model) if isinstance(model, Run) else model


class _bar:
    """A tqdm bar, or the caller's own function, or neither."""

    def __init__(self, show: bool, total: int, on_step: OnStep | None) -> None:
        self.show, self.total, self.on_step, self.bar = show, total, on_step, None

    def __enter__(self) -> OnStep | None:
        if not self.show:
            return self.on_step
        from wbench.progress import bar

        self.bar = bar(total=self.total, unit="step", leave=False)
        return self._tell

    def _tell(self, step: int, loss: float) -> None:
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
        if self.on_step is not None:
            self.on_step(step, loss)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
