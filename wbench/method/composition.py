"""Which methods can be used together in one run."""

from __future__ import annotations

from collections.abc import Sequence

from wbench.errors import CompositionError
from wbench.method.base import Method

SINGLE = {
    "build": "builds the architecture",
    "optimizer": "brings the optimizer",
    "loss": "brings the loss",
    "infer": "brings its own inference",
    "combine": "combines models",
    "estimator": "brings an estimator",
}


def check_composition(methods: Sequence[Method]) -> None:
    """Refuse methods that cannot be used together.

    Args:
        methods: In the order in which they are put on.

    Raises:
        CompositionError: If a method stands there twice, two bring what a run has only one of, one that trains no model has
            another beside it, two give the finished model a form of their own, or one that changes the architecture comes after
            an adapter.
    """
    ids = [method.id for method in methods]
    if len(methods) > 1 and any(method.overrides("combine") or method.overrides("estimator") for method in methods):
        raise CompositionError(f"{', '.join(ids)}: a population or estimator method stands alone in a run")
    for name in ids:
        if ids.count(name) > 1:
            raise CompositionError(f"{name} is given {ids.count(name)} times; a run takes each method once")
    for hook, what in SINGLE.items():
        owners = [method.id for method in methods if method.overrides(hook)]
        if len(owners) > 1:
            raise CompositionError(f"{' and '.join(owners)} cannot be used together: each {what}; a run has one")
    for method in methods:
        for other in methods:
            if other is not method and other.stage in method.excludes:
                raise CompositionError(
                    f"{method.id} and {other.id} cannot be used together: {method.id} excludes {other.stage} methods"
                )
    forms = [method.id for method in methods if method.result == "rebuilt" and method.stage == "transform"]
    if len(forms) > 1:
        raise CompositionError(
            f"{' and '.join(forms)} cannot be used together: each gives the finished model a form of its own, and a run is restored "
            f"to one; put {forms[1]} on the model of a run with {forms[0]}: {forms[1]}.finish(wb.restore(run), ctx)"
        )
    for index, method in enumerate(methods):
        rebuilds = method.result == "rebuilt" and method.stage != "transform"
        for earlier in methods[:index]:
            if rebuilds and earlier.stage == "adapter":  # it is restored from the model without adapters
                raise CompositionError(
                    f"{method.id} changes the architecture, so it must be put on before {earlier.id}: [{method.id}, {earlier.id}]"
                )
