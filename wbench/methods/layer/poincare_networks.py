"""Networks of Poincaré layers: the residual network of arXiv:2303.14027, and linear layers one after another."""

from __future__ import annotations

from torch import Tensor, nn

from wbench.errors import FitError
from wbench.methods.layer.poincare_layers import (
    WHO,
    Curvature,
    PoincareBlock,
    PoincareConv,
    PoincareLinear,
    PoincareNorm,
)
from wbench.ops.poincare import check_precision


class PoincareMLP(nn.Module):
    """Flatten, linear layers with ReLU of tangent vectors, a linear head; no norm. Slots: `stages[i]`, `head`.

    Args:
        sizes: Features in, of each hidden layer, and out.
        c: Curvature.
        learn_c: Whether each layer's is trained.
        init: As in `PoincareLinear`.
    """

    def __init__(self, sizes: tuple[int, ...], c: float, learn_c: bool, init: str) -> None:
        super().__init__()
        pairs = list(zip(sizes[:-2], sizes[1:-1], strict=True))
        self.stages = nn.ModuleList(PoincareLinear(n, m, c, learn_c, init) for n, m in pairs)
        self.head = PoincareLinear(sizes[-2], sizes[-1], c, learn_c, init)

    def depths(self, x: Tensor) -> list[Tensor]:
        """Return what goes into the first layer and what comes out of each hidden one, (samples, features); input (samples, ...)."""
        found = [check_precision(x, WHO).flatten(1)]
        for stage in self.stages:
            found.append(stage(found[-1]).relu())
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, classes); input (samples, ...)."""
        return self.head(self.depths(x)[-1])  # type: ignore[no-any-return]


class PoincareNet(nn.Module):
    """3 x 3 convolution, groups of blocks with strides 1, 2, 2, mean over the image, linear head. Slots: `conv`, `stages[i]`, `head`.

    Args:
        image: Channels of the image.
        classes: Outputs.
        channels: Of each group.
        blocks: Blocks of a group.
        c: Curvature.
        learn_c: Whether each layer's is trained.
        init: Of the head, as in `PoincareLinear`.
        conv_init: As in `PoincareConv`.
        norm: As in `PoincareBlock`.
        skip: As in `PoincareBlock`.
        running: As in `PoincareBlock`.
    """

    def __init__(
        self,
        image: int,
        classes: int,
        channels: tuple[int, ...],
        blocks: int,
        c: float,
        learn_c: bool,
        init: str,
        conv_init: str,
        norm: str,
        skip: str,
        running: bool,
    ) -> None:
        super().__init__()
        self.conv = PoincareConv((image, channels[0]), 3, 1, 1, c, learn_c, conv_init)
        self.norm, self.norm_curvature = PoincareNorm(channels[0], norm, running), Curvature(c, learn_c)
        self.stages, few = nn.ModuleList(), channels[0]
        for group, many in enumerate(channels):
            for place in range(blocks):
                stride = 2 if group and not place else 1
                self.stages.append(PoincareBlock((few, many), stride, c, learn_c, conv_init, norm, skip, running))
                few = many
        self.head = PoincareLinear(few, classes, c, learn_c, init)

    def depths(self, x: Tensor) -> list[Tensor]:
        """Return what comes out of the first convolution and of each block, (samples, channels, ...); input (samples, image, ...).

        Raises:
            FitError: If the input is no image, or in half precision.
        """
        if x.ndim != 4:
            raise FitError(f"{WHO}: images are needed, (samples, channels, height, width), got {tuple(x.shape)}")
        found = [self.norm(self.conv(check_precision(x, WHO)), self.norm_curvature()).relu()]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, classes); input (samples, image, height, width)."""
        return self.head(self.depths(x)[-1].mean((2, 3)))  # type: ignore[no-any-return]
