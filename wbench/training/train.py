"""`train`: a task, methods and a seed become a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from wbench.method import Context
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.training.bar import OnStep, StepBar
from wbench.training.device import derive, seeded, threads
from wbench.training.job import Job, Methods, describe, find
from wbench.training.recorder import PROBES
from wbench.training.restore import Start
from wbench.training.session import Session


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
        members: Models that a population method combines, in order; a mapping that opens them when asked is read one by one.
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
    return find(job, store) or train_job(job, store, progress=progress, on_step=on_step)


def train_job(
    job: Job,
    store: RunStore,
    *,
    progress: bool = False,
    on_step: OnStep | None = None,
    on_probe: Callable[[nn.Module, Context], None] | None = None,
) -> Run:
    """Train a described run and record it, whether or not the store has it already.

    Args:
        job: From `describe`.
        store: Where the run is kept.
        progress: As in `train`.
        on_step: As in `train`.
        on_probe: Called with (model, run) after each record of the probes; it must leave both as they are.

    Returns:
        As `train`.

    Raises:
        WBenchError: As in `train`.
        KeyboardInterrupt: As in `train`.
    """
    session = Session(job, store)
    bar = StepBar(progress, job.recipe.total_steps, on_step)
    with seeded(derive(job.seed, "training"), job.device), threads(job.device), bar as tell:
        session.recorder.on_step, session.recorder.on_probe = tell, on_probe
        try:
            session.run()
        except (KeyboardInterrupt, Exception) as error:
            return session.fail(error)
    return session.commit()
