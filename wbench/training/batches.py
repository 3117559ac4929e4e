"""The batches of many runs as one stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from wbench.splits import Batch, Split, TensorSplit
from wbench.training.stack import CannotVectorizeError


def stacked_batches(
    splits: Sequence[Split], batch_size: int, orders: Sequence[torch.Generator], device: torch.device
) -> Iterator[Batch]:
    """Yield for ever the members' next batches, each part stacked to `(members, samples, ...)`; the buffers are reused.

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
    buffers = tuple(torch.empty(len(splits), batch_size, *part.shape[1:], dtype=part.dtype) for part in sources[0])
    indices = [split.indices(batch_size, order) for split, order in zip(splits, orders, strict=True)]
    while True:
        for i, parts in enumerate(sources):
            index = next(indices[i])
            for buffer, part in zip(buffers, parts, strict=True):
                torch.index_select(part, 0, index, out=buffer[i])
        yield tuple(buffer.to(device, non_blocking=True) for buffer in buffers)
