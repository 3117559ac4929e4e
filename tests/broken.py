"""What the contract's tests break: tiny methods by their parts, and pictures that draw, fail or give nothing."""

from typing import ClassVar

import plotly.graph_objects as go
import pytest

import wbench as wb

CALLS = []  # grows from call to call: what a method must not depend on


class Tiny:
    """What the tiny methods share."""

    title: ClassVar[str] = "Tiny"
    paper: ClassVar = wb.Paper("Paper", "Author", 2026)


def broken(base, **attributes):
    return type("Broken", (base,), {"__doc__": "It breaks one part.", **attributes})


def check_all(cases):
    return pytest.mark.parametrize(("cls", "message"), cases, ids=[message for _, message in cases])


def lines(frame):
    return go.Figure(go.Scatter(x=frame["step"], y=frame["size"]))


def fails(frame):
    return frame["no such column"]


def nothing(frame):
    return None
