"""Tensors of a split, and its inputs as a set."""

from __future__ import annotations

from torch import Tensor

from wbench.splits import Split, TensorSplit


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    assert isinstance(split, TensorSplit)
    return split.tensors[0], split.tensors[1]


def rows(split: Split) -> set[bytes]:
    return {row.numpy().tobytes() for row in tensors(split)[0].flatten(1)}
