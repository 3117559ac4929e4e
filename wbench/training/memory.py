"""What training a model takes, in bytes: read off the tensors, not off a formula."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wbench.method import Context
from wbench.training.loop import loss_function, objective, phase_data


def measure(model: nn.Module, ctx: Context) -> dict[str, int]:
    """Return what a model that has just been trained takes, from one more forward and backward pass that leaves no trace.

    Args:
        model: The prepared model, on `ctx.device`; its gradients are dropped.
        ctx: Its run, at the end of training.

    Returns:
        Bytes: `parameters`, `buffers`; `gradients` after a backward pass; `optimizer`, all tensors of its state but step
        counters; `activations`, what autograd keeps between the passes, parameters, buffers and the batch left out; what the
        methods say of packed forms, as `packed_...`; on CUDA `peak`, the allocator's. Without training steps the middle three
        are 0.
    """
    named = [*model.parameters(), *model.buffers()]
    trained = ctx.step > 0 and any(param.requires_grad for param in model.parameters())
    gradients, activations = _one_step(model, ctx) if trained else (0, 0)
    found = {
        "parameters": tensor_bytes(model.parameters()),
        "buffers": tensor_bytes(named) - tensor_bytes(model.parameters()),
        "gradients": gradients,
        "optimizer": tensor_bytes(optimizer_tensors(ctx.optimizer)) if trained else 0,
        "activations": activations,
    }
    for method in ctx.methods:
        for name, number in method.packed_bytes(model, ctx).items():
            found[f"packed_{name}"] = int(number)
    if ctx.device.type == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated(ctx.device)
    return found


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors hold, memory that several share counted once.

    Args:
        tensors: Any; a view counts with its own extent, an expanded tensor with what is stored of it.
    """
    held: dict[tuple[int, int], int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        place = (storage.data_ptr(), int(tensor.storage_offset()))
        held[place] = max(held.get(place, 0), min(tensor.numel() * tensor.element_size(), storage.nbytes()))
    return sum(held.values())


def optimizer_tensors(optimizer: torch.optim.Optimizer | None) -> Iterator[Tensor]:
    """Yield every tensor that an optimizer keeps, however deep in its state, but step counters.

    Args:
        optimizer: The optimizer, or `None`.
    """
    if optimizer is not None:
        for state in optimizer.state.values():
            yield from _tensors({key: value for key, value in state.items() if key != "step"})


def saved_bytes(model: nn.Module, loss: Any, batch: Iterable[Tensor]) -> tuple[int, Any]:
    """Return the bytes that autograd keeps for the backward pass of a computation, and what it returned.

    Args:
        model: The model; its parameters and buffers are not counted.
        loss: Called without arguments.
        batch: Tensors that are there anyway; not counted either.

    Returns:
        Bytes of all storages kept, each once; and the result.
    """
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers(), *batch]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss()
    return sum(kept.values()), result


def _one_step(model: nn.Module, ctx: Context) -> tuple[int, int]:
    batch = next(iter(phase_data(ctx).sequential(ctx.recipe.batch_size)))
    batch = tuple(part.to(ctx.device) for part in batch)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    was_training, sink, state = model.training, ctx.sink, dict(ctx.state)
    model.train()
    model.zero_grad(set_to_none=True)
    ctx.sink = None
    devices = [ctx.device] if ctx.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            activations, loss = saved_bytes(model, lambda: objective(model, batch, ctx, loss_function(ctx)), batch)
            loss.backward()
        gradients = tensor_bytes(param.grad for param in model.parameters() if param.grad is not None)
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        model.train(was_training)
        ctx.sink = sink
        ctx.state = state
    return gradients, activations


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
