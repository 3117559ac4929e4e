"""Runs without a training loop: a population is combined, an estimator is fitted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, DataError
from wbench.method import Context, Method
from wbench.runs import RunWriter
from wbench.splits import Batch, Split, TensorSplit
from wbench.task import Task
from wbench.training.recorder import MAX_ITEMS


def run_outside(
    task: Task, methods: Sequence[Method], ctx: Context, members: Mapping[str, nn.Module], writer: RunWriter
) -> nn.Module | None:
    """Combine members or fit an estimator, evaluate, and record.

    Args:
        task: The task; its metrics judge the result.
        methods: Exactly one, of the population or the estimator stage.
        ctx: The run.
        members: Models by role, for a population method.
        writer: Where the run is recorded.

    Returns:
        The first combined model, or `None` for an estimator.

    Raises:
        CompositionError: If a population has no members.
    """
    method = methods[0]
    if method.overrides("combine"):
        return _combine(task, method, ctx, members, writer)
    _estimate(task, method, ctx, writer)
    return None


def _combine(
    task: Task, method: Method, ctx: Context, members: Mapping[str, nn.Module], writer: RunWriter
) -> nn.Module:
    # judged on each member's own data where the task has a split of the member's role; last, the mean over members
    if not members:
        raise CompositionError(f"{method.id} combines models; pass members={{role: run or model, ...}}")
    merged = method.combine(members, ctx.references.get("base"), ctx)
    writer.log([{"step": 0, "phase": "end", "split": "store", "name": "bytes", "value": float(merged.nbytes)}])
    found: dict[str, list[float]] = {}
    for index, role in enumerate(members):
        model = merged.model_for(index).to(ctx.device).eval()
        split = ctx.splits[role] if role in ctx.splits else ctx.splits["test"]

        def infer(batch: Batch, model: nn.Module = model) -> Tensor:
            return method.infer(model, tuple(part.to(ctx.device) for part in batch), ctx).cpu()

        with torch.no_grad():
            metrics = task.metrics(model, split, infer)
        for name, value in metrics.items():
            writer.log([{"step": 0, "phase": role, "split": "test", "name": name, "value": value}])
            found.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    writer.log([{"step": 0, "phase": "end", "split": "test", "name": name, "value": v} for name, v in means.items()])
    first = merged.model_for(0)
    frame = method.observe(first, ctx)
    if frame is not None and len(frame):
        writer.table(f"method.{method.id}", frame)
    writer.tensors("weights", {name: value.detach().cpu() for name, value in first.state_dict().items()})
    return first


def _estimate(task: Task, method: Method, ctx: Context, writer: RunWriter) -> None:
    from wbench.estimators.arrays import arrays_of, not_arrays

    estimator: Any = method.estimator(ctx)
    x, y = _arrays(ctx.splits["train"])
    begin = time.perf_counter()
    estimator.fit(x, y)
    fitted = time.perf_counter()

    def infer(batch: Batch) -> Tensor:
        inputs = batch[0].flatten(1).numpy()
        if hasattr(estimator, "predict_proba") and task.kind == "classification":
            return torch.as_tensor(estimator.predict_proba(inputs)).clamp_min(1e-12).log().float()
        return torch.as_tensor(estimator.predict(inputs)).float()

    items: dict[str, Tensor] = {}
    for split in ("train", "valid", "test"):
        if split in ctx.splits:
            metrics = task.metrics(nn.Identity(), ctx.splits[split], infer, items)
            writer.log([_row(split, name, value) for name, value in metrics.items()])
    keep_items(writer, items)
    predicted = time.perf_counter()
    ctx.sink = lambda name, value: writer.log([_row("test", name, value)])
    frame = method.observe(estimator, ctx)
    if frame is not None and len(frame):
        frame.insert(0, "step", 0)
        writer.table(f"method.{method.id}", frame)
    tensors = arrays_of(estimator)
    if tensors:
        writer.tensors("weights", tensors)
    numbers = sum(value.numel() for value in tensors.values())
    writer.log([_row("store", "numbers", numbers)])
    writer.info["estimator"] = {
        "class": f"{type(estimator).__module__}.{type(estimator).__qualname__}", "not_saved": not_arrays(estimator),
        "fit_seconds": fitted - begin, "predict_seconds": predicted - fitted,
        "observe_seconds": time.perf_counter() - predicted,
    }  # fmt: skip


def keep_items(writer: RunWriter, items: Mapping[str, Tensor]) -> None:
    """Record per-sample scores as the table `items`, unless they are too many.

    Args:
        writer: Where the run is recorded.
        items: Score to values, (samples,).
    """
    if 0 < sum(len(values) for values in items.values()) <= MAX_ITEMS:
        import pandas as pd

        frames = [pd.DataFrame({"name": key, "item": range(len(v)), "value": v.numpy()}) for key, v in items.items()]
        writer.table("items", pd.concat(frames, ignore_index=True))


def _row(split: str, name: str, value: float) -> dict[str, Any]:
    return {"step": 0, "phase": "end", "split": split, "name": name, "value": float(value)}


def _arrays(split: Split) -> tuple[Any, Any]:
    if not isinstance(split, TensorSplit):
        raise DataError("an estimator needs data held in memory (TensorSplit)")
    return split.tensors[0].flatten(1).numpy(), split.tensors[1].numpy()
