"""Data as named splits: what a task hands to the training loop.

A split gives endless shuffled batches for training and one ordered pass for evaluation. A batch is a tuple of tensors
whose first dimension is the sample; the first element is the model's input, the second (if any) the target.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from wbench.errors import DataError

Batch = tuple[Tensor, ...]


class Split(ABC):
    """One named part of a task's data."""

    @abstractmethod
    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled batches for ever.

        Args:
            batch_size: Samples per batch; when there are fewer, all of them.
            rng: CPU generator that decides the order.
        """

    @abstractmethod
    def sequential(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order.

        Args:
            batch_size: Samples per batch; the last may be smaller.
        """

    @abstractmethod
    def checksum(self) -> str:
        """Return a SHA-256 of what the split holds (first 16 hex digits)."""

    def __len__(self) -> int:
        """Return the number of samples; 0 when unknown."""
        return 0


class TensorSplit(Split):
    """Samples held in memory.

    Args:
        *tensors: Inputs, targets and whatever else, each of shape `(samples, ...)`.

    Raises:
        DataError: If there is no sample, the lengths differ, or a floating tensor is not finite.
    """

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors or len(tensors[0]) == 0:
            raise DataError("the data set is empty: at least one sample is needed")
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise DataError(f"inputs and targets differ in length: {lengths}; they must have one entry a sample")
        for index, tensor in enumerate(tensors):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise DataError(
                    f"tensor {index} of the data holds {bad} NaN or inf of {tensor.numel()} values; clean it first"
                )
        self.tensors: Batch = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        count = len(self)
        if batch_size >= count:
            while True:
                yield self.tensors
        for index in self.indices(batch_size, rng):
            yield tuple(tensor[index] for tensor in self.tensors)

    def indices(self, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield for ever which samples `batches` takes: each epoch in a new order, the incomplete last batch left out.

        Args:
            batch_size: Samples per batch; at most as many as there are.
            rng: CPU generator that decides the order.
        """
        count = len(self)
        while True:
            order = torch.randperm(count, generator=rng)
            for start in range(0, count - batch_size + 1, batch_size):
                yield order[start : start + batch_size]

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(self), batch_size):
            yield tuple(tensor[start : start + batch_size] for tensor in self.tensors)

    def checksum(self) -> str:
        return tensors_checksum(self.tensors)


class WindowSplit(Split):
    """Windows of a long token sequence; the target is the input shifted by one.

    Args:
        tokens: Shape `(length,)`, int64.
        context: Tokens per window.

    Raises:
        DataError: If the sequence is shorter than one window and its target.
    """

    def __init__(self, tokens: Tensor, context: int) -> None:
        if len(tokens) <= context:
            raise DataError(f"the text has {len(tokens)} tokens; a context of {context} needs at least {context + 1}")
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        span = torch.arange(self.context + 1)
        while True:
            starts = torch.randint(len(self.tokens) - self.context, (batch_size, 1), generator=rng)
            window = self.tokens[starts + span]
            yield window[:, :-1], window[:, 1:]

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        used = len(self) * self.context
        inputs = self.tokens[:used].view(-1, self.context)
        targets = self.tokens[1 : used + 1].view(-1, self.context)
        for start in range(0, len(self), batch_size):
            yield inputs[start : start + batch_size], targets[start : start + batch_size]

    def checksum(self) -> str:
        return tensors_checksum((self.tokens, torch.tensor(self.context)))


class GeneratedSplit(Split):
    """Fresh samples at each step from a function, and a fixed sample for evaluation.

    Args:
        sample: `(batch_size, rng) -> batch`.
        fixed: Batch used by `sequential` and the checksum.
    """

    def __init__(self, sample: Callable[[int, torch.Generator], Batch], fixed: Batch) -> None:
        self.sample, self.fixed = sample, TensorSplit(*fixed)

    def __len__(self) -> int:
        return len(self.fixed)

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        while True:
            yield self.sample(batch_size, rng)

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        yield from self.fixed.sequential(batch_size)

    def checksum(self) -> str:
        return self.fixed.checksum()


class LoaderSplit(Split):
    """Batches of a user's own iterable, e.g. a `torch.utils.data.DataLoader`; it decides order and batch size.

    Args:
        loader: Re-iterable of `(input, target, ...)` tuples.

    Raises:
        DataError: If it yields nothing.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        if next(iter(loader), None) is None:
            raise DataError("the loader yields no batch: the data set is empty")

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        while True:
            yield from self.sequential(batch_size)

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        for batch in self.loader:
            yield tuple(batch) if isinstance(batch, list | tuple) else (batch,)

    def checksum(self) -> str:
        return tensors_checksum(next(iter(self.sequential(0))))


class Splits(dict[str, Split]):
    """Named splits of one task; `train` and `test` always, `valid` and others where there are."""

    def __missing__(self, name: str) -> Split:
        raise DataError(f"there is no data named '{name}'; this task has: {', '.join(self)}")

    def checksums(self) -> dict[str, str]:
        """Return each split's checksum."""
        return {name: split.checksum() for name, split in self.items()}


def tensors_checksum(tensors: Iterable[Tensor] | Mapping[str, Tensor]) -> str:
    """Return the first 16 hex digits of the SHA-256 of tensors: dtype, shape and bytes of each.

    Args:
        tensors: Tensors, or names to tensors.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256()
    items = tensors.items() if isinstance(tensors, Mapping) else enumerate(tensors)
    for name, tensor in items:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()[:16]
