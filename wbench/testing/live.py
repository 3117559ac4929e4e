"""Knobs that act on a finished model: named rightly, and set without a trace of what was set before."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.method import Method
from wbench.testing.other import other_values
from wbench.testing.subject import Subject, require


def live(subject: Subject) -> None:
    """Check that `live` names fields.

    Args:
        subject: The method.

    Raises:
        ContractError: If it names something else.
    """
    known = subject.cls.knobs()
    unknown = [name for name in subject.cls.live if name not in known]
    require(not unknown, subject, f"live names {unknown}, which are no fields; fields: {', '.join(known)}")
    if subject.cls.live:
        require(subject.cls.overrides("retune"), subject, f"live={subject.cls.live}, but retune is not overridden")


def retuned(subject: Subject) -> None:
    """Check that `retune` with the method's own settings changes nothing, that twice is once, and that the way back is open.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    if not subject.cls.overrides("retune"):
        return
    model, ctx = subject.trained()
    model = subject.method.finish(model, ctx)
    before = _seen(subject, model)
    model = subject.method.retune(model)
    require(_same(before, _seen(subject, model)), subject, "retune with the method's own settings changes the model")
    for changed in _elsewhere(subject):
        try:
            moved = changed.retune(copy.deepcopy(model))
        except WBenchError:  # this value does not fit the model, and is refused by name
            continue
        once = _seen(subject, moved)
        moved = changed.retune(moved)
        require(_same(once, _seen(subject, moved)), subject, f"retune to {changed} twice differs from once")
        moved = subject.method.retune(moved)
        require(
            _same(before, _seen(subject, moved)), subject, f"retune to {changed} and back does not give the model back"
        )


def _elsewhere(subject: Subject) -> Iterator[Method]:
    for name in subject.cls.live:
        yield from other_values(subject.method, name)


def _seen(subject: Subject, model: nn.Module) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {**state, "": subject.output(model)}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
