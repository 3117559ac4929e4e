"""All checks of the contract, in order."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from wbench.method import Method
from wbench.splits import Batch
from wbench.testing.declared import TRAINED_STAGES, fields, identity
from wbench.testing.state import deep_copy, deterministic, owners, round_trip
from wbench.testing.subject import Subject, small_batch, small_model
from wbench.testing.trained import dtypes, null, result
from wbench.testing.vectorized import vectorized


def check_method(
    cls: type[Method],
    *,
    model: Callable[[], nn.Module] | None = None,
    batch: Batch | None = None,
    method: Method | None = None,
) -> list[str]:
    """Check that a method keeps what it declares.

    Args:
        cls: The method's class.
        model: Makes a model that the method fits; default `small_model`.
        batch: A batch for that model; default `small_batch`.
        method: The settings to check with; default: the class's defaults.

    Returns:
        What was checked, in order.

    Raises:
        ContractError: At the first part that does not hold, naming it.
    """
    subject = Subject(cls, method or cls(), model or small_model, batch or small_batch())
    parts = [identity, fields]
    if cls.stage in TRAINED_STAGES:
        parts += [result, dtypes, round_trip, deep_copy, deterministic, owners, null, vectorized]
    done = []
    for part in parts:
        part(subject)
        done.append(part.__name__)
    return done
