"""What the image tasks share: models by name and size, and splits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbench.errors import KnobError
from wbench.models import MLP, ConvNet, ResNet, ViT
from wbench.splits import Splits, TensorSplit


def image_model(
    kind: str,
    side: int,
    classes: int,
    seed: int,
    hidden: tuple[int, ...],
    large: bool = False,
    norm: str = "none",
    widths: tuple[int, ...] = (),
    transformer: tuple[int, ...] = (),
) -> nn.Module:
    """Return a model for square images of one channel.

    Args:
        kind: `mlp`, `residual_mlp`, `convnet`, `resnet` or `vit`.
        side: Height and width.
        classes: Outputs.
        seed: Decides the initial weights.
        hidden: Hidden sizes of the MLPs.
        large: The size for a GPU.
        norm: `none`, `batch` (before the activation) or `batch_last` (after it), for the MLPs' and the ConvNet's blocks.
        widths: Channels of the ConvNet's blocks or the ResNet's stages; empty: by the size of the image.
        transformer: Blocks, width and heads of the ViT; empty: by `large`.

    Returns:
        The model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind in {"mlp", "residual_mlp"}:
            norm1d = nn.BatchNorm1d if norm != "none" else None
            sizes = (side * side, *hidden, classes)
            return MLP(sizes, norm=norm1d, residual=kind == "residual_mlp", norm_last=norm == "batch_last")
        if kind == "convnet":
            norm2d = nn.BatchNorm2d if norm == "batch" else None
            widths = widths or ((64, 128, 256) if large and side >= 16 else (16, 32))
            return ConvNet(1, side, classes, widths, 512 if large else 64, norm=norm2d)
        if kind == "resnet":
            widths = widths or ((64, 128, 256) if large else (8, 16, 32))
            return ResNet(1, classes, widths, 2 if large else 1)
        patch = 2 if side < 16 else 4
        depth, width, heads = transformer or ((8, 256, 8) if large else (2, 64, 4))
        ratio = 4 if large else 2
        return ViT(1, side, classes, patch, depth, width, heads, ratio)


def split(x: Tensor, y: Tensor, sizes: tuple[int, int], rng: torch.Generator) -> Splits:
    """Split samples at random into train, valid and test (the rest).

    Args:
        x: Inputs.
        y: Classes.
        sizes: Samples of train and valid.
        rng: Decides the order.

    Returns:
        Disjoint splits.

    Raises:
        KnobError: If too few samples are left for the test split.
    """
    if sum(sizes) >= len(x):
        room = len(x) - sizes[1] - 1
        raise KnobError(f"train_size={sizes[0]} is out of range; allowed: up to {room} of these {len(x)} samples")
    order = torch.randperm(len(x), generator=rng)
    parts = torch.tensor_split(order, [sizes[0], sum(sizes)])
    named = zip(("train", "valid", "test"), parts, strict=True)
    return Splits({name: TensorSplit(x[part], y[part]) for name, part in named})


def noisy(labels: Tensor, share: float, classes: Tensor, rng: torch.Generator) -> Tensor:
    """Return labels of which a share was drawn anew, uniformly over the classes; some are drawn as they were.

    Args:
        labels: (samples,).
        share: In [0, 1]; rounded to whole samples.
        classes: The classes to draw from, (number,).
        rng: Decides which and what.

    Returns:
        (samples,).
    """
    changed = torch.randperm(len(labels), generator=rng)[: round(share * len(labels))]
    result = labels.clone()
    result[changed] = classes[torch.randint(len(classes), (len(changed),), generator=rng)]
    return result
