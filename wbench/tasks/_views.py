"""Weak and strong views of images, drawn anew at each step, for training with few labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wbench.splits import Batch, Split, TensorSplit

View = Callable[[Tensor, torch.Generator], Tensor]


def shifted(images: Tensor, rng: torch.Generator, reach: int = 1) -> Tensor:
    """Return each image shifted by up to some pixels either way, zeros moving in.

    Args:
        images: (samples, channels, height, width).
        rng: Decides the shifts.
        reach: Pixels.

    Returns:
        The same shape.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (reach, reach, reach, reach))
    down, right = torch.randint(2 * reach + 1, (2, len(images), 1), generator=rng)
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    place = torch.arange(len(images))[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[place, channel, rows, columns]


def distorted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return strong views: shifted, contrast from 0.5 to 1.5, noise of deviation 0.15, and a square of 3 x 3 pixels blanked.

    Args:
        images: (samples, channels, height, width).
        rng: Decides all of it.

    Returns:
        The same shape.
    """
    moved = shifted(images, rng)
    contrast = 0.5 + torch.rand(len(images), 1, 1, 1, generator=rng)
    changed = contrast * moved + 0.15 * torch.randn(moved.shape, generator=rng)
    height, width = images.shape[-2:]
    top, left = (torch.randint(side - 2, (len(images), 1, 1, 1), generator=rng) for side in (height, width))
    rows, columns = torch.arange(height)[None, None, :, None], torch.arange(width)[None, None, None, :]
    inside = (rows >= top) & (rows < top + 3) & (columns >= left) & (columns < left + 3)
    return changed.masked_fill(inside, 0.0)


class ViewSplit(Split):
    """Samples of which each batch has fresh views.

    Args:
        held: Inputs and whatever belongs to them.
        views: Each makes one view of the input; a batch is the views, then the rest.
    """

    def __init__(self, held: TensorSplit, views: Sequence[View]) -> None:
        self.held, self.views = held, tuple(views)

    def __len__(self) -> int:
        return len(self.held)

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        for inputs, *rest in self.held.batches(batch_size, rng):
            yield (*(view(inputs, rng) for view in self.views), *rest)

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        """Yield every sample once, in order, its views all alike: the sample as it is.

        Args:
            batch_size: Samples per batch.
        """
        for inputs, *rest in self.held.sequential(batch_size):
            yield (*(inputs for _ in self.views), *rest)

    def checksum(self) -> str:
        return self.held.checksum()
