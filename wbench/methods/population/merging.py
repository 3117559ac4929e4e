"""What methods share that fold models into one, each seen once and let go of."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, FitError
from wbench.method import Context, Merged, Population
from wbench.ops.taskvector import Vector, matching, parameters

if TYPE_CHECKING:
    import pandas as pd


class Fold(ABC):
    """What is kept of the models that have arrived.

    Attributes:
        count: How many have.
        mean_norm: Of their task vectors.
    """

    count: int = 0
    mean_norm: float = 0.0

    def counted(self, norm: float) -> None:
        """Count a model that has arrived.

        Args:
            norm: Of its task vector.
        """
        self.count += 1
        self.mean_norm += (norm - self.mean_norm) / self.count

    @abstractmethod
    def add(self, vector: Vector) -> dict[str, float]:
        """Take in a model's parameters, and keep no reference to them.

        Args:
            vector: Name to tensor, float32 at least.

        Returns:
            What is to be recorded of this arrival.
        """

    @abstractmethod
    def weights(self) -> Vector:
        """Return the parameters of the merged model."""


class Merging(Population):
    """Models arrive one at a time and are folded into one: a subclass says what is kept between them.

    Class attributes:
        needs_base: Whether it works on differences from the base.
    """

    needs_base: ClassVar[bool] = True
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)

    @abstractmethod
    def fold(self, model: nn.Module, base: Vector) -> Fold:
        """Return what takes the models in.

        Args:
            model: One of the architecture.
            base: The base's parameters; empty where there is none.
        """

    def arrival(self, roles: list[str], ctx: Context) -> list[str]:
        """Return the order in which the models arrive.

        Args:
            roles: In the order given.
            ctx: The run.
        """
        return roles

    def combine(
        self, members: Mapping[str, nn.Module], base: nn.Module | None = None, ctx: Context | None = None
    ) -> Merged:
        """Fold the members into one model; one of them is in memory at a time if the mapping opens them when asked.

        Args:
            members: Models by role; each is asked for once.
            base: What they were fine-tuned from.
            ctx: The run.

        Returns:
            One model on the base's device, with what was recorded of each arrival as `extra["arrivals"]`. Buffers are the first
            member's; running statistics of batch norms are computed anew from the run's training data.

        Raises:
            CompositionError: If there is no member, or no base where one is needed.
        """
        ctx = Context.of(ctx, methods=(self,))
        if not members:
            raise CompositionError(f"{self.id} combines models; pass members={{role: run or model, ...}}")
        if base is None and self.needs_base:
            raise CompositionError(
                f"{self.id} needs the model that its members were fine-tuned from; pass references={{'base': model}}"
            )
        folding = _Folding(self, base, ctx)
        for role in self.arrival(list(members), ctx):
            folding.take(role, members[role])
        model = folding.model()
        if len(folding.rows) > 1:
            _recount(model, self.id, ctx)
        ctx.state[f"{self.id}.arrivals"] = folding.rows
        size = sum(held.numel() * held.element_size() for held in (*model.parameters(), *model.buffers()))
        return Merged([model], size, {"arrivals": folding.rows})

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return what was recorded of each arrival.

        Columns: arrival (1, 2, ...), member, norm (of its task vector), mean_norm (of those so far), divisor (lambda: the merged
        task vector is the sum of what was added, over this), distance (of the merged model from the base); and others of the
        method.
        """
        import pandas as pd

        rows = ctx.state.get(f"{self.id}.arrivals") if ctx is not None else None
        return pd.DataFrame(rows) if rows else None


class _Folding:
    # holds the base, what the fold keeps, and the first member's buffers: nothing that grows with the number of members
    def __init__(self, method: Merging, base: nn.Module | None, ctx: Context) -> None:
        self.method, self.base, self.ctx = method, base, ctx
        self.rows: list[dict[str, Any]] = []
        self.kept: Fold | None = None
        self.shell: nn.Module
        self.buffers: dict[str, Tensor] = {}
        first = next(base.parameters(), None) if base is not None else None
        self.device = first.device if first is not None else ctx.device

    def take(self, role: str, model: nn.Module) -> None:
        own = parameters(model, self.device)
        if self.kept is None:
            self._begin(model, own)
        matching(own, self.like, self.method.id, f"model '{role}'")
        for name, value in own.items():
            if not torch.isfinite(value).all():
                raise FitError(f"{self.method.id}: model '{role}' holds NaN or inf in {name}; leave it out")
        row = self.kept.add(own)  # type: ignore[union-attr]
        self.rows.append({"arrival": len(self.rows) + 1, "member": role, **row})

    def _begin(self, model: nn.Module, own: Vector) -> None:
        known = parameters(self.base, self.device) if self.base is not None else {}
        self.like = {name: value.to("meta") for name, value in (known or own).items()}
        self.shell = self.base if self.base is not None else copy.deepcopy(model).to(self.device)
        self.buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.kept = self.method.fold(self.shell, known)

    @torch.no_grad()
    def model(self) -> nn.Module:
        merged = copy.deepcopy(self.shell)
        weights = self.kept.weights()  # type: ignore[union-attr]
        for name, param in merged.named_parameters():
            if name in weights:
                param.copy_(weights[name])
        for name, buffer in merged.named_buffers():
            own = self.buffers.get(name)
            if own is not None and own.shape == buffer.shape and buffer.is_floating_point():
                buffer.copy_(own)
        return merged


def _recount(model: nn.Module, who: str, ctx: Context) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not any(module.track_running_stats for module in norms):
        return
    if "train" not in ctx.splits:
        warnings.warn(
            f"{who}: the running statistics of batch norms are the first member's; recompute them on your data, "
            "e.g. with torch.optim.swa_utils.update_bn",
            stacklevel=3,
        )
        return
    torch.optim.swa_utils.update_bn(ctx.splits["train"].sequential(256), model, ctx.device)  # type: ignore[no-untyped-call]
