"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from wbench.errors import FitError

Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """act(norm(linear(x))), or norm(act(linear(x))), plus x in a residual block.

    Args:
        inputs: Features in.
        outputs: Features out.
        act: Makes the activation.
        norm: Makes the norm from the number of features; none: an empty slot.
        residual: Add the input.
        bias: Whether the linear layer has one.
        norm_last: Normalise after the activation, as binary networks do: what enters the next layer has both signs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        act: Callable[[], nn.Module],
        norm: Norm | None,
        residual: bool,
        bias: bool,
        norm_last: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.norm = norm(outputs) if norm else nn.Identity()
        self.act = act()
        self.residual, self.norm_last = residual, norm_last

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, outputs); input (samples, inputs)."""
        y = self.linear(x)
        y = self.norm(self.act(y)) if self.norm_last else self.act(self.norm(y))
        return x + y if self.residual else y


class MLP(nn.Module):
    """Linear layers with activations between them. Slots: `blocks[i].linear`, `.norm`, `.act`, and `head`.

    Args:
        sizes: Features from input to output, e.g. (64, 128, 128, 10).
        act: Makes an activation.
        norm: Makes a norm from the number of features.
        residual: Add a block's input to its output where the sizes agree.
        bias: Whether the blocks' linear layers have a bias; the head always has one.
        norm_last: Normalise after the activation instead of before.

    Raises:
        FitError: If there are fewer than two sizes, or one is not positive.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        act: Callable[[], nn.Module] = nn.ReLU,
        norm: Norm | None = None,
        residual: bool = False,
        bias: bool = True,
        norm_last: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise FitError(f"MLP: sizes={tuple(sizes)} is not allowed; allowed: two or more, all positive")
        pairs = zip(sizes[:-2], sizes[1:-1], strict=True)
        self.blocks = nn.Sequential(*(Block(a, b, act, norm, residual and a == b, bias, norm_last) for a, b in pairs))
        self.head = nn.Linear(sizes[-2], sizes[-1])

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            x: (samples, ...), flattened.

        Returns:
            (samples, sizes[-2]).
        """
        return self.blocks(x.flatten(1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, sizes[-1]); input (samples, ...)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
