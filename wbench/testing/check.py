"""All checks of the contract, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from wbench.method import Method
from wbench.splits import Batch, Split
from wbench.task import Task
from wbench.testing.declared import TRAINED_STAGES, fields, identity
from wbench.testing.estimator import estimator, parameters
from wbench.testing.live import live, retuned
from wbench.testing.population import in_dtypes, population, refusals
from wbench.testing.reported import observed, packed
from wbench.testing.stages import objective, transformed
from wbench.testing.state import deep_copy, deterministic, owners, round_trip
from wbench.testing.subject import Subject
from wbench.testing.trained import dtypes, null, result
from wbench.testing.vectorized import vectorized

Part = Callable[[Subject], None]

DECLARED: tuple[Part, ...] = (identity, fields, live)
TRAINED: tuple[Part, ...] = (objective, result, dtypes, round_trip, deep_copy, deterministic, owners)
REPORTED: tuple[Part, ...] = (packed, observed, retuned, null, vectorized)
OF_STAGE: dict[str, tuple[Part, ...]] = {
    "transform": (*TRAINED, transformed, *REPORTED),
    "population": (population, in_dtypes, refusals),
    "estimator": (estimator, parameters),
}


def check_method(
    cls: type[Method],
    *,
    model: Callable[[], nn.Module] | None = None,
    batch: Batch | None = None,
    method: Method | None = None,
    task: Task | None = None,
    splits: Mapping[str, Split] | None = None,
) -> list[str]:
    """Check that a method keeps what it declares.

    Args:
        cls: The method's class.
        model: Makes a model that the method fits; default: the task's where one is given, else `small_model`.
        batch: A batch for that model; default: the first 64 samples that the task trains on, else `small_batch`.
        method: The settings to check with; default: the class's defaults.
        task: What is trained on; a method that builds its own architecture builds it for this task.
        splits: Named data that the method asks for (`unlabelled`, ...), beside or in place of what there is: train, valid,
            test and calibration, which hold the batch, or the task's own.

    Returns:
        What was checked, in order.

    Raises:
        ContractError: At the first part that does not hold, naming it.
    """
    subject = Subject(cls, method or cls(), model, batch, task, splits)
    done = []
    for part in (*DECLARED, *OF_STAGE.get(getattr(cls, "stage", ""), (*TRAINED, *REPORTED))):
        part(subject)
        done.append(part.__name__)
    return done


__all__ = ["TRAINED_STAGES", "check_method"]
