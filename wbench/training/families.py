"""Which runs can train together, and what they take."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from wbench.method import Context
from wbench.splits import TensorSplit
from wbench.training.job import Job
from wbench.training.loop import loss_function, phase_data
from wbench.training.memory import saved_bytes

LARGE = 20e6  # floating-point operations of a forward pass above which a CPU gains nothing by stacking (measured: 1.1 times)
FREE = {"lr", "weight_decay", "momentum", "betas", "eps", "clip", "warmup", "final_lr"}


def obstacle(job: Job) -> str:
    """Return why a run cannot train in a vectorised step, as far as that shows before it starts; empty where it can.

    Args:
        job: From `describe`.
    """
    if job.outside:
        return "it needs no training loop"
    if not job.recipe.total_steps:
        return "it takes no training step"
    if job.task.id == "user" and not isinstance(job.task.data(job.seed)["train"], TensorSplit):
        return "its loader decides the batches"
    unable = [method.id for method in job.methods if not method.vectorizes]
    return f"{', '.join(unable)} cannot be vectorised (vectorizes = False)" if unable else ""


def family(job: Job) -> str:
    """Return what runs must have in common to train together: equal text for runs that may.

    Runs differ in seed, start, the recipe's rates and the methods' knobs; knobs that enter the step itself (of methods that
    bring a loss or a penalty) must agree.

    Args:
        job: From `describe`.
    """
    methods: list[Any] = []
    for method in job.methods:
        inside = any(method.overrides(hook) for hook in ("loss", "penalty"))
        fields = {key: value for key, value in method.fields().items() if inside or not isinstance(value, int | float)}
        methods.append((method.id, fields if inside else sorted(method.fields()), type(method).__qualname__))
    recipe = {key: value for key, value in job.recipe.fields().items() if key not in FREE}
    common = {key: job.spec[key] for key in ("task", "device", "probes", "trainable", "torch", "code")}
    roles = [sorted(job.references), job.start is None]
    return json.dumps([methods, recipe, common, roles], sort_keys=True, default=str)


def cost(model: nn.Module, ctx: Context) -> tuple[int, int]:
    """Return what one member of a population takes.

    Args:
        model: The prepared model.
        ctx: Its run.

    Returns:
        Bytes (weights, gradients, two moments, data, and twice what a step keeps for backward), and the floating-point operations
        of the forward pass on one batch.
    """
    from torch.utils.flop_counter import FlopCounterMode

    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    held = [part for split in ctx.splits.values() for part in getattr(split, "tensors", ())]
    data = sum({part.data_ptr(): part.numel() * part.element_size() for part in held}.values())
    source = phase_data(ctx).sequential(ctx.recipe.batch_size)
    batch = tuple(part.to(ctx.device) for part in next(iter(source)))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        kept, _ = saved_bytes(model, lambda: loss_function(ctx)(model, batch, ctx), batch)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return 4 * weights + data + 2 * kept, counter.get_total_flops()
