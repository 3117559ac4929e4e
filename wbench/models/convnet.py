"""Plain convolutional network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from wbench.errors import FitError
from wbench.models.mlp import Norm


class ConvBlock(nn.Module):
    """pool(act(norm(conv(x)))): 3 x 3, same size, then halved.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        act: Makes the activation.
        norm: Makes the norm from the number of channels; none: an empty slot.
    """

    def __init__(self, inputs: int, outputs: int, act: Callable[[], nn.Module], norm: Norm | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = norm(outputs) if norm else nn.Identity()
        self.act = act()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, outputs, height // 2, width // 2); input (samples, inputs, height, width)."""
        return self.pool(self.act(self.norm(self.conv(x))))  # type: ignore[no-any-return]


class ConvNet(nn.Module):
    """Convolutions, one hidden linear layer, head.

    Slots: `blocks[i].conv`, `.norm`, `.act`, `.pool`; `linear`, `norm`, `act` (the hidden layer's), `head`.

    Args:
        in_channels: Channels of the image.
        image_size: Height and width; halved by every block.
        num_classes: Outputs.
        widths: Channels of the blocks.
        hidden: Features of the linear layer.
        act: Makes an activation.
        norm: Makes a norm from the number of channels, for the blocks; the hidden layer's slot starts empty.

    Raises:
        FitError: If the blocks halve the image to nothing.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_classes: int,
        widths: Sequence[int] = (16, 32),
        hidden: int = 64,
        act: Callable[[], nn.Module] = nn.ReLU,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        side = image_size // 2 ** len(widths)
        if side < 1:
            raise FitError(f"ConvNet: {len(widths)} blocks halve an image of {image_size} pixels to nothing; use fewer")
        channels = [in_channels, *widths]
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.blocks = nn.Sequential(*(ConvBlock(a, b, act, norm) for a, b in pairs))
        self.linear = nn.Linear(channels[-1] * side * side, hidden)
        self.norm = nn.Identity()
        self.act = act()
        self.head = nn.Linear(hidden, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            x: (samples, channels, height, width).

        Returns:
            (samples, hidden).
        """
        return self.act(self.norm(self.linear(self.blocks(x).flatten(1))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, num_classes); input (samples, channels, height, width)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
