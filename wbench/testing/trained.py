"""What comes of training: a finished model that loads, in each dtype, and the baseline where the method is off."""

from __future__ import annotations

import torch

from wbench.method import Method
from wbench.testing.subject import ContractError, Subject, close, require
from wbench.training.finite import Diverged


def result(subject: Subject) -> None:
    """Check that finishing keeps the function, and that the result loads as `result` says.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    model, ctx = subject.trained()
    before = subject.output(model)
    finished = subject.method.finish(model, ctx)
    state = {name: value.clone() for name, value in finished.state_dict().items()}
    require(
        all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point()),
        subject,
        "weights after finish are not finite",
    )
    after = subject.output(finished)
    if subject.cls.stage != "transform" and not hasattr(subject.method, "quantize_weight"):
        require(close(before, after, 1e-4), subject, "finish changed the function of the trained model")
    fresh = subject.fresh()
    if subject.cls.result == "plain":
        own = fresh.state_dict()
        fits = own.keys() == state.keys() and all(own[name].shape == value.shape for name, value in state.items())
        require(fits, subject, "result='plain', but the weights after finish do not load into the untouched model")
        fresh.load_state_dict(state)
    else:
        fresh = subject.method.restore(fresh, state)
    require(close(subject.output(fresh), after, 1e-5), subject, "the restored model differs from the finished one")


def dtypes(subject: Subject) -> None:
    """Check that training in each of `dtypes` stays finite.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    for dtype in subject.cls.dtypes:
        try:
            model, _ = subject.trained(dtype)
        except Diverged as error:
            raise ContractError(f"{subject.cls.__name__}: training in {dtype} is not finite: {error}") from None
        require(bool(torch.isfinite(subject.output(model, dtype)).all()), subject, f"forward in {dtype} is not finite")
        for name, param in model.named_parameters():
            bad = param.grad is not None and not bool(torch.isfinite(param.grad).all())
            require(not bad, subject, f"gradient of '{name}' in {dtype} is not finite")


def null(subject: Subject) -> None:
    """Check that `null()`, where there is one, trains exactly the baseline.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    off = subject.method.null()
    if off is None:
        return
    model, ctx = subject.trained(method=off)
    state = off.finish(model, ctx).state_dict()
    plain, _ = subject.trained(method=_Baseline())
    baseline = plain.state_dict()
    same = state.keys() == baseline.keys() and all(torch.equal(state[name], baseline[name]) for name in baseline)
    require(same, subject, "null() does not give exactly the baseline")


class _Baseline(Method):
    """No method at all."""

    id = "baseline"
    stage = "pipeline"
