"""Knobs: one declaration, one error, from Python and from text alike."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

import wbench as wb
from wbench.knobs import Knobs, knob


class Sample(Knobs):
    id: ClassVar[str] = "sample"
    rank: int = knob(4, 1, 64, scale="log", unit="directions", doc="Rank.")
    rate: float | None = knob(None, 0.0, 1.0, scale="log0", doc="Rate; none: automatic.")
    mode: Literal["a", "b"] = knob("a", doc="Mode.")
    parts: tuple[Literal["x", "y", "z"], ...] = knob(("x",), doc="Parts.")
    pair: tuple[float, float] = knob((0.1, 0.9), 0.0, 1.0, doc="Two rates.")
    on: bool = knob(True, doc="Switch.")


def test_description_holds_bounds_scale_unit_and_doc():
    spec = Sample.knobs()["rank"]
    assert (spec.kind, spec.low, spec.high, spec.scale, spec.unit, spec.doc) == (
        "int",
        1,
        64,
        "log",
        "directions",
        "Rank.",
    )
    assert spec.slider == (1, 64)
    assert Sample.knobs()["rate"].optional and Sample.knobs()["mode"].choices == ("a", "b")
    assert Sample.knobs()["parts"].scale == "choices" and Sample.knobs()["pair"].scale == "tuple"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"rank": 65}, ["sample", "rank=65", "an integer from 1 to 64 directions"]),
        ({"rank": 0}, ["rank=0", "from 1 to 64"]),
        ({"rank": "8"}, ["rank='8'", "an integer from 1 to 64"]),
        ({"rank": 2.5}, ["rank=2.5", "an integer"]),
        ({"rate": -0.1}, ["rate=-0.1", "a number from 0 to 1", "or none"]),
        ({"rate": float("nan")}, ["rate=nan", "a number"]),
        ({"mode": "c"}, ["mode='c'", "one of a, b"]),
        ({"parts": ("x", "q")}, ["parts=", "any of x, y, z"]),
        ({"pair": (0.1, 2.0)}, ["pair=(0.1, 2.0)", "from 0 to 1"]),
        ({"on": 1}, ["on=1", "true or false"]),
        ({"rnak": 3}, ["unknown field 'rnak'", "Did you mean rank"]),
    ],
)
def test_what_is_not_allowed_is_refused_by_field_value_and_range(values, parts):
    with pytest.raises(wb.WBenchError) as error:
        Sample(**values)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_numbers_of_numpy_and_torch_and_lists_are_taken():
    made = Sample(rank=np.int64(5), rate=torch.tensor(0.5), pair=[0.2, 0.3])
    assert made.rank == 5 and made.rate == 0.5 and made.pair == (0.2, 0.3)


def test_text_becomes_the_same_object_and_the_same_error():
    made = Sample.from_strings({
        "rank": "8",
        "rate": "none",
        "mode": "b",
        "parts": "x,z",
        "pair": "0.2,0.4",
        "on": "false",
    })
    assert made == Sample(rank=8, rate=None, mode="b", parts=("x", "z"), pair=(0.2, 0.4), on=False)
    for name, text, value in (("rank", "99", 99), ("mode", "c", "c"), ("on", "perhaps", "perhaps")):
        with pytest.raises(wb.WBenchError) as from_text:
            Sample.from_strings({name: text})
        with pytest.raises(wb.WBenchError) as from_python:
            Sample(**{name: value})
        assert str(from_text.value) == str(from_python.value)


def test_text_is_data_never_code(tmp_path):
    text = f"__import__('pathlib').Path({str(tmp_path / 'pwned')!r}).touch()"
    with pytest.raises(wb.WBenchError, match="mode="):
        Sample.from_strings({"mode": text})
    assert not (tmp_path / "pwned").exists()


def test_objects_are_frozen_and_replaced():
    made = Sample()
    with pytest.raises(wb.WBenchError, match=r"use .replace\(rank=3\)"):
        made.rank = 3
    assert made.replace(rank=3).rank == 3 and made.rank == 4
    with pytest.raises(wb.WBenchError, match="rank=99"):
        made.replace(rank=99)


def test_recipe_schedules_agree_with_closed_forms():
    recipe = wb.Recipe(schedule="cosine", warmup=10, final_lr=0.1, steps=110)
    assert recipe.lr_factor(0, 110) == pytest.approx(0.1) and recipe.lr_factor(9, 110) == pytest.approx(1.0)
    assert recipe.lr_factor(60, 110) == pytest.approx(0.55) and recipe.lr_factor(110, 110) == pytest.approx(0.1)
    assert wb.Recipe(schedule="linear").lr_factor(25, 100) == pytest.approx(0.75)
    with pytest.raises(wb.WBenchError, match="warmup=10 must be smaller"):
        wb.Recipe(warmup=10).lr_factor(0, 10)
