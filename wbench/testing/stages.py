"""What a stage asks beyond what every trained method keeps: objectives, and transforms of a trained model."""

from __future__ import annotations

import torch
from torch import Tensor

from wbench.testing.subject import Subject, require


def objective(subject: Subject) -> None:
    """Check, where a method brings a loss or a penalty, that they are finite and of an allowed shape, and that their gradient reaches the model.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    if subject.cls.stage != "objective" and not any(map(subject.cls.overrides, ("loss", "penalty"))):
        return
    model, ctx = subject.prepared()
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject.method.before_step(model, subject.batch, ctx)
        loss = subject.loss_of(model, subject.batch, ctx)
        penalty = subject.method.penalty(model, ctx)
    require(isinstance(loss, Tensor), subject, f"loss gives {type(loss).__name__}, not a tensor")
    samples = len(subject.batch[0])
    shape = tuple(loss.shape)
    require(
        shape in {(), (samples,)}, subject, f"the loss has shape {shape}; allowed: () or one a sample, ({samples},)"
    )
    require(bool(torch.isfinite(loss).all()), subject, "the loss is not finite")
    extra = torch.as_tensor(penalty)
    require(extra.ndim == 0, subject, f"the penalty has shape {tuple(extra.shape)}; allowed: a scalar")
    require(bool(torch.isfinite(extra)), subject, "the penalty is not finite")
    total = loss.mean() + extra
    require(
        total.requires_grad, subject, "no gradient of the loss reaches the model: it does not depend on its parameters"
    )
    total.backward()
    gradients = [param.grad for param in model.parameters() if param.grad is not None]
    moved = any(bool(grad.any()) for grad in gradients)
    require(moved, subject, "no gradient of the loss reaches the model: all are zero")
    require(
        all(bool(torch.isfinite(grad).all()) for grad in gradients),
        subject,
        "the loss has gradients that are not finite",
    )


def transformed(subject: Subject) -> None:
    """Check that finishing is decided by the seed alone, spoils neither model nor data, and is restored bit by bit.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    states = []
    for _ in range(2):
        model, ctx = subject.trained()
        given, data = [*model.parameters(), *model.buffers()], ctx.splits.checksums()
        finished = subject.method.finish(model, ctx)
        for held in given:
            spoilt = held.is_floating_point() and not bool(torch.isfinite(held).all())
            require(not spoilt, subject, "finish leaves NaN or inf in the model that it was given")
        require(ctx.splits.checksums() == data, subject, "finish changes the data that it is given")
        states.append({name: value.clone() for name, value in finished.state_dict().items()})
    first, second = states
    same = first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
    require(same, subject, "finish gives other bits with the same seed")
    restored = subject.method.restore(subject.fresh(), first).state_dict()
    equal = restored.keys() == first.keys() and all(torch.equal(value, restored[name]) for name, value in first.items())
    require(equal, subject, "the restored model does not hold the bits that were saved")
