"""Small residual network (He et al., 2016, arXiv:1512.03385, the form for small images)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from wbench.models.mlp import Norm


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the first convolution.
        act: Makes an activation.
        norm: Makes a norm from the number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module], norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.act1 = act()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.act2 = act()
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, outputs, ceil(height / stride), ceil(width / stride)); input (samples, inputs, height, width)."""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stem, stages of basic blocks, mean over space, head. Slots: `blocks[i].conv1`, `.norm1`, `.act1`, ..., `head`.

    Args:
        in_channels: Channels of the image.
        num_classes: Outputs.
        widths: Channels of the stages; all but the first halve the image.
        depth: Blocks a stage.
        act: Makes an activation.
        norm: Makes a norm from the number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64),
        depth: int = 1,
        act: Callable[[], nn.Module] = nn.ReLU,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.norm = norm(widths[0])
        self.act = act()
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for index in range(depth):
                blocks.append(BasicBlock(channels, width, 2 if stage > 0 and index == 0 else 1, act, norm))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            x: (samples, channels, height, width).

        Returns:
            (samples, widths[-1]).
        """
        return self.pool(self.blocks(self.act(self.norm(self.stem(x))))).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, num_classes); input (samples, channels, height, width)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
