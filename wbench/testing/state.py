"""A model with a method on it as an object: saved and loaded, copied, built twice."""

from __future__ import annotations

import copy

import torch

from wbench.testing.subject import Subject, require


def round_trip(subject: Subject) -> None:
    """Check that a state_dict loads into a model prepared anew, and gives the same outputs.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    model, _ = subject.trained()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other, _ = subject.prepared()
    other.load_state_dict(state)
    same = all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    require(same, subject, "a state_dict does not survive a round trip")
    require(
        torch.equal(subject.output(model), subject.output(other)), subject, "a reloaded state_dict gives other outputs"
    )


def deep_copy(subject: Subject) -> None:
    """Check that a deep copy gives the same outputs, shares no parameter and can be finished.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    model, ctx = subject.trained()
    twin = copy.deepcopy(model)
    require(torch.equal(subject.output(model), subject.output(twin)), subject, "a deep copy gives other outputs")
    shared = {id(param) for param in model.parameters()} & {id(param) for param in twin.parameters()}
    require(not shared, subject, "a deep copy shares parameters with the original")
    subject.method.finish(twin, ctx)


def deterministic(subject: Subject) -> None:
    """Check that the same seed gives the same bits.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    (first, _), (second, _) = subject.trained(), subject.trained()
    own, other = first.state_dict(), second.state_dict()
    require(all(torch.equal(own[name], other[name]) for name in own), subject, "the same seed gives other bits")


def owners(subject: Subject) -> None:
    """Check that each parameter has one owner.

    Args:
        subject: The method.

    Raises:
        ContractError: If one has two.
    """
    model, _ = subject.prepared()
    names = [name for name, _ in model.named_parameters()]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    require(len(names) == len(every), subject, f"a tensor has two owners: {sorted(set(every) - set(names))}")
