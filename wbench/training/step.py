"""Loss and gradients of many models in one step: `torch.func.vmap`, recorded once as a flat graph of tensor operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wbench.method import Context
from wbench.splits import Batch
from wbench.training.graph import simplify
from wbench.training.loop import LossFunction, objective
from wbench.training.stack import CannotVectorizeError, Stack

Outcome = tuple[Tensor, list[Tensor | None]]
Function = Callable[[dict[str, Tensor], Batch], Any]


class _Objective(nn.Module):
    """A model's objective as a module, so that its tensors can be exchanged."""

    def __init__(self, model: nn.Module, ctx: Context, loss_of: LossFunction) -> None:
        super().__init__()
        self.model, self.ctx, self.loss_of = model, ctx, loss_of

    def forward(self, *batch: Tensor) -> Tensor:
        return objective(self.model, batch, self.ctx, self.loss_of)


class StackedStep:
    """Losses `(members,)` of a stack of models on a stack of batches, and their gradients.

    The function is recorded at the first call and the recording is run afterwards: there is no Python of the model or of
    torch's function transforms left in it. On CUDA it is captured as a CUDA graph.

    Args:
        stack: The models; the first one's code is what runs.
        ctx: The context of the first.
        loss_of: Their loss.
    """

    def __init__(self, stack: Stack, ctx: Context, loss_of: LossFunction) -> None:
        self.stack = stack
        target = _Objective(stack.models[0], ctx, loss_of)
        single = vmap(lambda tensors, batch: functional_call(target, tensors, batch), randomness="error")
        leaves = stack.trainable

        def function(tensors: dict[str, Tensor], batch: Batch) -> Any:
            losses = single({f"model.{name}": tensor for name, tensor in tensors.items()}, batch)
            if not losses.requires_grad:
                raise CannotVectorizeError("the loss does not depend on any trainable parameter")
            grads = torch.autograd.grad(losses.sum(), [tensors[name] for name in leaves], allow_unused=True)
            return losses.detach(), list(grads)

        self._direct: Function = function
        self._recorded: Function | None = None
        self._shapes: list[torch.Size] = []

    def __call__(self, batch: Batch) -> Outcome:
        """Return losses and gradients.

        Args:
            batch: Each part `(members, samples, ...)`.

        Returns:
            Losses `(members,)` and, in the order of `stack.trainable`, gradients `(members, ...)` or `None`.

        Raises:
            CannotVectorizeError: If the models do what cannot be vectorised; says what.
        """
        shapes = [part.shape for part in batch]
        if self._recorded is None or shapes != self._shapes:
            self._recorded, self._shapes = self._prepare(batch), shapes
        with torch.no_grad():
            losses, grads = self._recorded(self.stack.tensors, batch)
        return losses, _own(grads, batch)

    def verify(self, batch: Batch, members: Sequence[int]) -> None:
        """Compare the recording with the models' own code on a batch; buffers are left as they are.

        Args:
            batch: As in `__call__`.
            members: Which to compare: those that have not diverged.

        Raises:
            CannotVectorizeError: If they differ: the model's Python does something else by now.
        """
        if self._recorded is None or not members:
            return
        chosen, kept = list(members), self._buffers()
        losses, grads = self(batch)
        found = [part[chosen] for part in [losses, *grads] if part is not None]
        self._put_back(kept)
        losses, grads = self._plainly(batch)
        self._put_back(kept)
        for one, part in zip(found, [part for part in [losses, *grads] if part is not None], strict=True):
            other = part[chosen]
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().nan_to_num().max())):
                raise CannotVectorizeError("the model's forward changes from step to step; its recording does not")

    def _plainly(self, batch: Batch) -> Outcome:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                losses, grads = self._direct(self.stack.tensors, batch)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            raise CannotVectorizeError(_reason(error)) from error
        return losses, grads

    def _prepare(self, batch: Batch) -> Function:
        from torch.fx.experimental.proxy_tensor import make_fx

        kept = self._buffers()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recorded = make_fx(self._direct)(self.stack.tensors, batch)
        except Exception:  # what cannot be recorded runs as it is, or says why not even that
            self._put_back(kept)
            self._plainly(batch)
            self._put_back(kept)
            return self._direct_outside_of_no_grad
        self._put_back(kept)
        function: Function = simplify(recorded)
        return Captured(function, self.stack, batch) if batch[0].is_cuda else function

    def _direct_outside_of_no_grad(self, tensors: dict[str, Tensor], batch: Batch) -> Any:
        with torch.enable_grad():
            return self._direct(tensors, batch)

    def _buffers(self) -> dict[str, Tensor]:
        names = set(self.stack.trainable)
        return {name: tensor.detach().clone() for name, tensor in self.stack.tensors.items() if name not in names}

    def _put_back(self, kept: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in kept.items():
                self.stack.tensors[name].copy_(tensor)


class Captured:
    """A recorded step as a CUDA graph: one launch a step.

    Args:
        function: The recorded step.
        stack: Its tensors stay where they are.
        batch: An example; each step's batch is copied over it.
    """

    def __init__(self, function: Function, stack: Stack, batch: Batch) -> None:
        self._batch = tuple(part.clone() for part in batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        kept = {name: tensor.detach().clone() for name, tensor in stack.tensors.items()}
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(3):
                function(stack.tensors, self._batch)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), torch.no_grad():
            self._outcome = function(stack.tensors, self._batch)
        with torch.no_grad():  # warming up and capturing have moved the buffers
            for name, tensor in kept.items():
                stack.tensors[name].copy_(tensor)

    def __call__(self, tensors: dict[str, Tensor], batch: Batch) -> Any:
        """Replay the step.

        Args:
            tensors: The stack's own; where they lie is part of the graph.
            batch: Copied over the example.

        Returns:
            Losses and gradients; the next call writes over them.
        """
        for own, part in zip(self._batch, batch, strict=True):
            own.copy_(part, non_blocking=True)
        self._graph.replay()
        return self._outcome


def _own(grads: Sequence[Tensor | None], batch: Batch) -> list[Tensor | None]:
    """Return gradients as an optimizer expects them.

    Contiguous, as torch's fused optimizers take the memory as it lies; and sharing none of it with each other or the batch, as
    clipping changes them in place.
    """
    taken = {part.data_ptr() for part in batch}
    found: list[Tensor | None] = []
    for grad in grads:
        if grad is not None:
            grad = grad.clone(memory_format=torch.contiguous_format) if grad.data_ptr() in taken else grad.contiguous()
            taken.add(grad.data_ptr())
        found.append(grad)
    return found


def _reason(error: RuntimeError) -> str:
    text = str(error)
    if "randomness" in text:
        return "its forward pass draws random numbers (dropout), which no stacked step draws as each run alone would"
    if "data-dependent" in text or ".item()" in text or "control flow" in text:
        return "its forward pass branches on values of tensors"
    return f"torch.func cannot vectorise it: {text.splitlines()[0]}"
