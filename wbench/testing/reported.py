"""What a method says of itself while it works: its measurement, its picture, its packed bytes."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from wbench.method import Context
from wbench.testing.subject import Subject, require

PACKED = {"parameters", "optimizer", "weights"}


def observed(subject: Subject) -> None:
    """Check that `observe` gives nothing or a tidy frame at every time it is asked, and that the picture draws it.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    if not subject.cls.overrides("observe"):
        require(
            not subject.cls.picture, subject, f"picture={subject.cls.picture!r}, but there is no observe to feed it"
        )
        return
    model, ctx = subject.prepared()
    frames = [_measured(subject, model, ctx)]
    model, ctx = subject.trained()
    frames.append(_measured(subject, model, ctx))
    if subject.cls.stage == "transform":
        frames.append(_measured(subject, subject.method.finish(model, ctx), ctx))
    found = [(step, frame) for step, frame in enumerate(frames) if frame is not None]
    require(bool(found), subject, "observe gives nothing, neither before training nor after")
    columns = [list(frame.columns) for _, frame in found]
    require(all(own == columns[0] for own in columns), subject, f"observe gives other columns later: {columns}")
    if subject.cls.picture:
        import pandas as pd

        for step, frame in found:
            frame.insert(0, "step", step)
        draw(subject, pd.concat([frame for _, frame in found], ignore_index=True))


def packed(subject: Subject) -> None:
    """Check that `packed_bytes` gives whole, non-negative numbers under the names that are known.

    Args:
        subject: The method.

    Raises:
        ContractError: If it does not.
    """
    if subject.cls.overrides("packed_bytes"):
        model, ctx = subject.trained()
        numbers(subject, model, ctx)


def numbers(subject: Subject, model: nn.Module, ctx: Context) -> None:
    """Check what `packed_bytes` gives for one model.

    Args:
        subject: The method.
        model: The model.
        ctx: Its run.

    Raises:
        ContractError: If a name is not known, or a value is not a whole number of bytes.
    """
    found = dict(subject.method.packed_bytes(model, ctx))
    unknown = set(found) - PACKED
    require(not unknown, subject, f"packed_bytes names {sorted(unknown)}; known: {', '.join(sorted(PACKED))}")
    for name, value in found.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        require(whole, subject, f"packed_bytes gives {name}={value!r}, not a whole number of bytes")


def tidy(subject: Subject, frame: Any) -> None:
    """Check that a measurement is a tidy frame.

    Args:
        subject: The method.
        frame: What `observe` gave.

    Raises:
        ContractError: If it is empty, has a column `step`, which the record adds, or cells that are no numbers or text.
    """
    import pandas as pd

    require(isinstance(frame, pd.DataFrame), subject, f"observe gives {type(frame).__name__}, not a DataFrame or None")
    require(len(frame) > 0, subject, "observe gives an empty frame; give None where there is nothing to see")
    require("step" not in frame.columns, subject, "observe gives a column 'step', which the record of the run adds")
    names = list(frame.columns)
    plain = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    require(plain, subject, f"observe gives columns {names}; each needs a name of its own")
    for name in names:
        bad = [cell for cell in frame[name] if not (cell is None or pd.api.types.is_scalar(cell))]
        require(not bad, subject, f"observe gives {bad[:1]} in column '{name}'; a cell is one number or text")


def draw(subject: Subject, frame: Any) -> None:
    """Check that the method's picture can be imported and draws a frame.

    Args:
        subject: The method.
        frame: As a run records it.

    Raises:
        ContractError: If it is not there, or fails.
    """
    import plotly.graph_objects as go

    address = subject.cls.picture
    module, _, name = address.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        require(False, subject, f"picture={address!r} cannot be imported: {error}")
    try:
        figure = function(frame)
    except Exception as error:  # whatever a picture raises, it does not draw what observe gives
        require(
            False, subject, f"picture={address!r} does not draw what observe gives: {type(error).__name__}: {error}"
        )
    require(
        isinstance(figure, go.Figure), subject, f"picture={address!r} gives {type(figure).__name__}, no plotly figure"
    )


def _measured(subject: Subject, model: nn.Module, ctx: Context) -> Any:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frame = subject.method.observe(model, ctx)
    after = model.state_dict()
    same = all(value.equal(after[name]) for name, value in before.items())
    require(same, subject, "observe changes the model that it looks at")
    if frame is not None:
        tidy(subject, frame)
    return frame
