r"""Mixup: trains on $\lambda x_i + (1 - \lambda) x_j$ with the loss mixed alike, $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from wbench.method import Context, Paper, Pipeline, knob
from wbench.splits import Batch


class Mixup(Pipeline):
    """Draws a share each step, and trains on each batch mixed with itself in another order.

    Usage:
        `wb.train("digits", Mixup(alpha=0.2))`
    """

    id: ClassVar[str] = "mixup"
    title: ClassVar[str] = "mixup"
    paper: ClassVar[Paper | None] = Paper(
        "mixup: Beyond Empirical Risk Minimization", "Zhang, Cisse, Dauphin, Lopez-Paz", 2017, "1710.09412", "ICLR 2018"
    )
    topics: ClassVar[tuple[str, ...]] = ("regularization", "augmentation")

    alpha: float = knob(0.2, 0.01, 10.0, scale="log", slider=(0.05, 2.0), doc="Of the Beta distribution of shares.")

    def before_step(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> None:
        """Draw the share and the partners."""
        context = Context.of(ctx)
        gammas = torch._standard_gamma(torch.full((2,), self.alpha), generator=context.rng)
        context.state["mixup.share"] = float((gammas[0] / gammas.sum()).clamp(0.0, 1.0))
        context.state["mixup.seed"] = int(torch.randint(2**31, (1,), generator=context.rng))
        context.log("share", context.state["mixup.share"])

    def loss(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        """Return the loss of each mixed sample."""
        state = Context.of(ctx).state
        share = state.get("mixup.share", 1.0)
        other = torch.randperm(len(batch[0]), generator=torch.Generator().manual_seed(state.get("mixup.seed", 0)))
        other = other.to(batch[0].device)
        output = model(share * batch[0] + (1 - share) * batch[0][other])
        own, theirs = (nn.functional.cross_entropy(output, y, reduction="none") for y in (batch[1], batch[1][other]))
        return share * own + (1 - share) * theirs
