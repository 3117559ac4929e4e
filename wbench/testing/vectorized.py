"""Whether many runs of a method can train in one vectorised step, as it declares."""

from __future__ import annotations

import warnings

from wbench.testing.subject import ContractError, Subject, require
from wbench.training.agreement import disagreement
from wbench.training.stack import CannotVectorizeError

POPULATION_STEPS = 50


def vectorized(subject: Subject) -> None:
    """Check that vectorised steps agree with the plain loop, where the method declares it.

    Args:
        subject: The method.

    Raises:
        ContractError: If they cannot be taken, or disagree.
    """
    if not subject.cls.vectorizes:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            apart = disagreement(
                subject.task, subject.method, subject.recipe.replace(steps=POPULATION_STEPS, batch_size=16)
            )
        except CannotVectorizeError as error:
            raise ContractError(f"{subject.cls.__name__}: vectorizes=True, but {error}") from None
    what = f"vectorizes=True, but the vectorised step is {apart:.1e} apart from the plain loop after {POPULATION_STEPS} steps"
    require(apart <= 1e-5, subject, what)
