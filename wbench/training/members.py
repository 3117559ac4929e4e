"""The models that a population method combines: opened when asked for, and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from wbench.runs import Run
from wbench.splits import tensors_checksum
from wbench.training.restore import restore

Given = Mapping[str, Run | nn.Module]


def as_given(members: Given | None) -> Given:
    """Return members so that later changes of a plain mapping do not matter; a mapping that knows its members' identity as it is.

    Args:
        members: Runs or models by role, or nothing.
    """
    if members is None:
        return {}
    return members if hasattr(members, "identity") else dict(members)


def identities(members: Given) -> dict[str, str]:
    """Return what determines each member: a run's id, a checksum of the weights, or what the mapping's `identity(role)` says.

    Args:
        members: Runs or models by role; a mapping with `identity` is not asked for a model.

    Returns:
        Role to identity, in order.
    """
    known = getattr(members, "identity", None)
    return {role: known(role) if known else identity(members[role]) for role in members}


def identity(model: Run | nn.Module) -> str:
    """Return a run's id, or a checksum of a model's weights.

    Args:
        model: The run or model.
    """
    return model.id if isinstance(model, Run) else tensors_checksum(model.state_dict())


class Members(Mapping[str, nn.Module]):
    """Models by role; of runs, each is restored anew when asked for, so that one is in memory only while somebody uses it.

    Args:
        given: Runs or models by role.
    """

    def __init__(self, given: Given) -> None:
        self.given = given

    def __getitem__(self, role: str) -> nn.Module:
        model = self.given[role]
        return restore(model) if isinstance(model, Run) else model

    def __iter__(self) -> Iterator[str]:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)
