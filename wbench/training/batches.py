"""The batches of many runs as one stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from wbench.splits import Batch, Split, TensorSplit
from wbench.training.stack import CannotVectorizeError

POOL = 1 << 28  # bytes of data that are kept in one piece, so that one step's batches are one look-up


def stacked_batches(
    splits: Sequence[Split], batch_size: int, orders: Sequence[torch.Generator], device: torch.device
) -> Iterator[Batch]:
    """Yield for ever the members' next batches, each part stacked to `(members, samples, ...)`.

    Args:
        splits: One a member.
        batch_size: Samples per batch.
        orders: One generator a member.
        device: Where the batches go.

    Raises:
        CannotVectorizeError: If the members' batches differ in shape.
    """
    if all(isinstance(split, TensorSplit) and len(split) > batch_size for split in splits):
        yield from _indexed([split for split in splits if isinstance(split, TensorSplit)], batch_size, orders, device)
    streams = [split.batches(batch_size, order) for split, order in zip(splits, orders, strict=True)]
    before: list[Batch] = []
    stacked: Batch = ()
    while True:
        batches = [next(stream) for stream in streams]
        if len({tuple((part.shape, part.dtype) for part in batch) for batch in batches}) > 1:
            raise CannotVectorizeError("its batches differ in shape from those of the runs beside it")
        if not before or any(
            a is not b for old, new in zip(before, batches, strict=True) for a, b in zip(old, new, strict=True)
        ):
            stacked = tuple(torch.stack(parts).to(device) for parts in zip(*batches, strict=True))
        before = batches
        yield stacked


def _indexed(
    splits: Sequence[TensorSplit], batch_size: int, orders: Sequence[torch.Generator], device: torch.device
) -> Iterator[Batch]:
    sources = [split.tensors for split in splits]
    if len({tuple((part.shape[1:], part.dtype) for part in parts) for parts in sources}) > 1:
        raise CannotVectorizeError("its batches differ in shape from those of the runs beside it")
    indices = [split.indices(batch_size, order) for split, order in zip(splits, orders, strict=True)]
    keys = [tuple(map(id, parts)) for parts in sources]
    unique = dict(zip(keys, sources, strict=True))
    if sum(part.nbytes for parts in unique.values() for part in parts) > POOL:
        while True:
            found = [[part[index] for part in parts] for parts, index in zip(sources, map(next, indices), strict=True)]
            yield tuple(torch.stack(parts).to(device, non_blocking=True) for parts in zip(*found, strict=True))
    starts = dict(zip(unique, accumulate([0, *(len(parts[0]) for parts in unique.values())]), strict=False))
    offsets = torch.tensor([[starts[key]] for key in keys])
    pool = [torch.cat(parts).to(device) for parts in zip(*unique.values(), strict=True)]
    while True:
        index = torch.stack([next(order) for order in indices]).add_(offsets).to(device, non_blocking=True)
        yield tuple(part.index_select(0, index.flatten()).unflatten(0, index.shape) for part in pool)
