"""What a method's class declares: who it is, and its fields."""

from __future__ import annotations

from typing import Any

from wbench.errors import KnobError
from wbench.knobs import Knob
from wbench.method import check_composition
from wbench.testing.subject import Subject, require

TRAINED_STAGES = {"parametrization", "optimizer", "adapter", "transform", "layer", "objective", "pipeline"}


def identity(subject: Subject) -> None:
    """Check that id, title, paper, stage and docstring are there, and that it can be composed.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that is not.
    """
    cls = subject.cls
    require(
        bool(cls.id) and cls.id.isidentifier() and cls.id == cls.id.lower(), subject, f"id={cls.id!r} is not snake case"
    )
    require(bool(cls.title), subject, "has no title")
    require(cls.paper is not None and bool(cls.paper.title), subject, "names no paper")
    require(
        cls.stage in TRAINED_STAGES | {"population", "estimator"},
        subject,
        f"stage={cls.stage!r} is not one of the contract's",
    )
    require(bool((cls.__doc__ or "").strip()), subject, "has no docstring")
    check_composition([subject.method])


def fields(subject: Subject) -> None:
    """Check that fields are documented and bounded, refuse what is out of bounds, and survive text.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not.
    """
    for name, spec in subject.cls.knobs().items():
        require(bool(spec.doc), subject, f"field '{name}' has no doc")
        if spec.kind in {"int", "float"}:
            bounded = spec.low is not None and spec.high is not None
            require(bounded and spec.slider is not None, subject, f"field '{name}' has no bounds")
            for value in _outside(spec):
                _refused(subject, name, value)
        elif spec.choices:
            _refused(subject, name, "no such choice" if spec.scale == "choice" else ("no such choice",))
    _refused(subject, "no_such_field", 1)
    text = {key: _text(value) for key, value in subject.method.fields().items() if value is not None}
    again = subject.cls.from_strings({key: value for key, value in text.items() if key not in {"layers", "trainable"}})
    same = {k: v for k, v in again.fields().items() if k not in {"layers", "trainable"}}
    require(
        same == {k: v for k, v in subject.method.fields().items() if k in same}, subject, "fields do not survive text"
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _outside(spec: Knob) -> list[float]:
    values = [spec.low - 1, spec.high + 1] if spec.low is not None and spec.high is not None else []
    return [int(value) if spec.kind == "int" else float(value) for value in values]


def _refused(subject: Subject, name: str, value: Any) -> None:
    try:
        subject.cls(**{name: value})
    except KnobError as error:
        require(name in str(error), subject, f"the error for {name}={value!r} does not name the field: {error}")
        return
    require(False, subject, f"{name}={value!r} was accepted")
