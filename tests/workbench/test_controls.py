"""Controls come from declared knobs alone: every field has one, and nothing that is not allowed gets through."""

import math
from typing import ClassVar, Literal

import ipywidgets as ipw
import pytest
from ipywidgets.widgets.widget import _instances

import wbench as wb
from wbench.errors import KnobError
from wbench.knobs import Knob, Knobs, knob
from wbench.method import Method, Paper, Stage, registry
from wbench.tasks import all as all_tasks
from wbench.workbench.controls.group import KnobGroup
from wbench.workbench.controls.knob import KnobControl
from wbench.workbench.controls.scales import scale_of, text_of
from wbench.workbench.setup import FIRST, REST

RECORDS = {**registry(), "recipe": wb.Recipe, **all_tasks()}
NUMBERS = [
    (name, spec)
    for name, cls in RECORDS.items()
    for spec in cls.knobs().values()
    if spec.kind in {"int", "float"} and not spec.choices
]


class Sample(Method):
    """A method of somebody else's package: every kind of field."""

    id: ClassVar[str] = "sample"
    title: ClassVar[str] = "Sample"
    paper: ClassVar[Paper | None] = Paper("Sample", "Nobody", 2024)
    stage: ClassVar[Stage] = "parametrization"

    layers: str | tuple[str, ...] = knob(("*", "!*head*"), doc="Globs.")
    rank: int = knob(8, 1, 512, scale="log", slider=(1, 64), unit="ranks", doc="Rank.")
    blocks: int = knob(2, 0, 12, unit="blocks", doc="Blocks.")
    rate: float = knob(0.0, 0.0, 10.0, scale="log0", slider=(1e-6, 1.0), doc="Rate.")
    share: float | None = knob(None, 0.0, 1.0, doc="Share; none: automatic.")
    mode: Literal["a", "b"] = knob("a", doc="Mode.")
    bits: Literal[8, 32] | None = knob(32, doc="Bits; none: all.")
    parts: tuple[Literal["x", "y", "z"], ...] = knob(("x",), doc="Parts.")
    pair: tuple[float, float] = knob((0.1, 0.9), 0.0, 1.0, doc="Two rates.")
    sizes: tuple[int, ...] = knob((), 1, 64, doc="Sizes.")
    on: bool = knob(True, doc="Switch.")
    maybe: bool | None = knob(None, doc="Switch; none: automatic.")


@pytest.fixture
def heard():
    return []


@pytest.fixture
def group(heard):
    made = KnobGroup(Sample(), lambda: heard.append(1))
    yield made
    made.close()


def said(widget):
    return "" if widget.layout.display == "none" else widget.value


@pytest.mark.parametrize("name", RECORDS)
def test_every_knob_of_every_method_task_and_recipe_has_a_control_that_names_and_shows_it(name):
    cls = RECORDS[name]
    record = cls()
    names = (FIRST, REST) if cls is wb.Recipe else ()
    group = KnobGroup(record, lambda: None, *names)
    assert set(group.controls) == set(cls.knobs()) - ({"phases"} if cls is wb.Recipe else set())
    assert group.build() == record
    for field, control in group.controls.items():
        spec = cls.knobs()[field]
        assert field in control.field.description
        assert spec.unit in control.field.description
        assert spec.doc in control.field.tooltip
        assert spec.allowed in control.field.tooltip
        if isinstance(control.field, ipw.Text):
            assert control.field.value == text_of(getattr(record, field))
        else:
            assert control.field.value == getattr(record, field)
        assert (control.slider is not None) == (spec.kind in {"int", "float"} and not spec.choices)
    group.close()


@pytest.mark.parametrize(("name", "spec"), NUMBERS, ids=[f"{name}-{spec.name}" for name, spec in NUMBERS])
def test_stops_round_trip_stay_in_range_and_hold_both_ends_and_the_default(name, spec):
    scale = scale_of(spec)
    values = scale.values
    assert [scale.position(value) for value in values] == list(range(len(values)))
    low, high = spec.slider
    assert values[-1] == high
    assert values[0] == (0.0 if spec.scale == "log0" else low)
    assert all(low <= value <= high for value in values if value or spec.scale != "log0")
    assert spec.scale != "log0" or values[:2] == (0.0, min(value for value in values if value))
    if isinstance(spec.default, int | float) and low <= spec.default <= high:
        assert float(spec.default) in values
    assert 2 <= len(values) <= 260
    if spec.kind == "int":
        assert all(value.is_integer() for value in values)
        if high - low <= 200 and spec.scale == "linear":
            assert values == tuple(float(whole) for whole in range(int(low), int(high) + 1))


@pytest.mark.parametrize(("name", "spec"), NUMBERS, ids=[f"{name}-{spec.name}" for name, spec in NUMBERS])
def test_neighbouring_stops_of_a_scale_are_near(name, spec):
    """At most six percent apart on decades (of a very long range more), one percent of a linear range, and the next whole number."""
    values = [value for value in scale_of(spec).values if value or spec.scale == "linear"]
    decades = math.log10(spec.slider[1] / (spec.slider[0] or spec.slider[1] * 1e-6)) if spec.scale != "linear" else 0.0
    for low, high in zip(values, values[1:], strict=False):
        if spec.scale == "linear":
            assert high - low <= max(0.0101 * (spec.slider[1] - spec.slider[0]), spec.kind == "int")
        else:
            assert high <= low * 10 ** (1.2 * max(1 / 40, decades / 200)) + (spec.kind == "int")


def test_a_position_between_stops_is_the_nearest_by_ratio_on_decades_and_by_distance_elsewhere():
    log = scale_of(Knob("x", "float", 1.0, 0.0, 1e9, (1.0, 100.0), "log", (), False, "", ""))
    place = log.values.index(10.0)
    above = log.values[place + 1]
    assert log.position(math.sqrt(10.0 * above) * 0.9999) == place
    assert log.position(math.sqrt(10.0 * above) * 1.0001) == place + 1
    assert (log.position(0.0), log.position(1e9)) == (0, len(log.values) - 1)
    linear = scale_of(Knob("x", "float", 0.5, 0.0, 1.0, (0.0, 1.0), "linear", (), False, "", ""))
    assert linear.values[linear.position(0.5149)] == 0.51
    assert linear.values[linear.position(0.5151)] == 0.52


def test_sliders_give_values_of_the_fields_kind(group, heard):
    group.controls["rank"].slider.value = 5
    group.controls["rate"].slider.value = 1
    assert group.build() == Sample(rank=6, rate=1e-6)
    assert type(group.build().rank) is int
    assert group.controls["rank"].field.value == "6"
    assert group.controls["rank"].spoken == {"label": "sample: rank (ranks)", "valuetext": "6 ranks"}
    group.controls["rate"].slider.value = 0
    assert group.build().rate == 0.0
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rank", "12", 12), ("rank", " 12.0 ", 12), ("rank", "500", 500), ("rate", "1e-3", 1e-3), ("rate", "2", 2.0), ("rate", "0", 0.0),
        ("share", "0.25", 0.25), ("share", "auto", None), ("share", "none", None), ("share", "  ", None),
        ("pair", "0.2, 0.3", (0.2, 0.3)), ("pair", "(0.2,0.3)", (0.2, 0.3)), ("sizes", "64, 32", (64, 32)), ("sizes", "", ()),
        ("layers", "*.attn.*", "*.attn.*"), ("layers", "*, !*head*", ("*", "!*head*")),
    ],
)  # fmt: skip
def test_text_is_read_as_a_person_types_it(group, heard, name, text, value):
    control = group.controls[name]
    control.choose({"rate": 0.5, "share": 0.5, "layers": "x", "sizes": (3,)}.get(name, control.value))
    heard.clear()
    control.field.value = text
    assert getattr(group.build(), name) == value
    assert type(getattr(group.build(), name)) is type(value)
    assert said(control.note) == ""
    assert said(group.note) == ""
    assert heard == [1]
    if control.slider is not None and value is not None:
        assert control.slider.value == scale_of(control.knob).position(value)


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("rank", "0", "an integer from 1 to 512"), ("rank", "513", "512"), ("rank", "2.5", "an integer"), ("rank", "many", "an integer"),
        ("rank", "", "an integer"), ("rank", "__import__('os')", "an integer"), ("rate", "nan", "a number from 0 to 10"),
        ("rate", "-1", "a number"), ("rate", "1e400", "a number"), ("rate", "auto", "a number"), ("rate", "true", "a number"),
        ("share", "1.5", "from 0 to 1, or none"), ("pair", "0.1, 2", "from 0 to 1"), ("pair", "0.1, x", "a tuple of numbers"),
        ("sizes", "0", "from 1 to 64"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_field_value_and_rule_and_what_was_there_stays(group, heard, name, text, rule):
    control = group.controls[name]
    before = group.build()
    control.field.value = text or " "
    assert group.build() == before
    note = said(control.note)
    assert f"{name}=" in note
    assert rule in note
    assert "role='alert'" in note
    assert "__import__" not in text or "__import__" in note
    assert f"{text_of(getattr(before, name))} stays." in note
    assert heard == []
    control.field.value = {"share": "0.5"}.get(name, text_of(control.default))
    assert said(control.note) == ""


@pytest.mark.parametrize("text", ["0.5", "0.5, 0.5, 0.5", ""])
def test_a_pair_takes_two_numbers(group, text):
    group.controls["pair"].field.value = text
    with pytest.raises(KnobError, match="pair="):
        group.build()
    assert "pair=" in said(group.note)
    group.controls["pair"].field.value = "0.5, 0.5"
    assert said(group.note) == ""
    assert group.build().pair == (0.5, 0.5)


def test_text_from_the_page_is_never_html(group):
    group.controls["rank"].field.value = "<img src=x onerror=alert(1)>"
    assert "<img" not in said(group.controls["rank"].note)


def test_choices_switches_and_automatic_are_picked(group):
    controls = group.controls
    assert isinstance(controls["mode"].field, ipw.Dropdown)
    assert [label for label, _ in controls["bits"].field.options] == ["8", "32", "auto"]
    controls["mode"].field.value = "b"
    controls["bits"].field.value = 8
    controls["parts"].field.value = ("x", "z")
    controls["on"].field.value = False
    controls["maybe"].field.value = True
    changed = group.build()
    assert changed == Sample(mode="b", bits=8, parts=("x", "z"), on=False, maybe=True)
    controls["bits"].field.value = controls["maybe"].field.value = None
    assert (group.build().bits, group.build().maybe) == (None, None)


def test_reset_goes_back_to_what_the_record_had_and_is_seen_only_where_there_is_a_way_back(heard):
    group = KnobGroup(Sample(rank=16, share=0.5), lambda: heard.append(1))
    for name, text in (("rank", "3"), ("share", "auto")):
        control = group.controls[name]
        assert control.reset.layout.visibility == "hidden"
        control.field.value = text
        assert control.reset.layout.visibility == "visible"
        control.reset.click()
        assert control.reset.layout.visibility == "hidden"
    assert group.build() == Sample(rank=16, share=0.5)
    assert len(heard) == 4
    group.close()


def test_another_record_is_shown_without_telling(group, heard):
    other = Sample(rank=500, rate=0.5, share=0.1, mode="b", bits=None, parts=("y", "z"), pair=(0.0, 1.0), on=False)
    group.controls["rank"].field.value = "nonsense"
    group.put(other)
    assert group.build() == other
    assert heard == []
    assert said(group.controls["rank"].note) == ""
    assert group.controls["rank"].field.value == "500"
    assert group.controls["rank"].slider.value == group.controls["rank"].slider.max


def test_fields_that_bound_one_another_keep_what_was_chosen_and_say_what_is_wrong(heard):
    group = KnobGroup(registry()["gradnormlorp"](), lambda: heard.append(1))
    group.controls["proj_rank"].field.value = "32"
    assert len(heard) == 1
    with pytest.raises(KnobError, match="proj_rank 32 must be <= rank 8"):
        group.build()
    assert "proj_rank 32 must be &lt;= rank 8" in said(group.note)
    assert group.controls["proj_rank"].field.value == "32"
    group.controls["rank"].field.value = "40"
    assert said(group.note) == ""
    assert (group.build().rank, group.build().proj_rank) == (40, 32)
    group.close()


def test_fields_of_a_recipe_that_lie_under_more_and_phases_are_kept():
    recipe = wb.Recipe(phases=(wb.Phase(name="a", steps=3), wb.Phase(name="b", steps=4)), momentum=0.5)
    group = KnobGroup(recipe, lambda: None, FIRST, REST)
    group.controls["momentum"].field.value = "0.9"
    assert group.build() == recipe.replace(momentum=0.9)
    group.close()


class Nothing(Knobs):
    """A record without fields."""

    id: ClassVar[str] = "nothing"


def test_a_record_without_fields_and_one_whose_range_is_a_point_are_shown():
    group = KnobGroup(Nothing(), lambda: None)
    assert group.build() == Nothing()
    group.close()
    spec = Knob("x", "int", 3, 3, 3, (3, 3), "linear", (), False, "", "Three.")
    control = KnobControl(spec, 3, owner="x", changed=lambda *_: None)
    assert control.slider is None
    control.close()


def test_closing_frees_every_widget():
    before = set(_instances)
    groups = [KnobGroup(Sample(), lambda: None), KnobGroup(wb.Recipe(), lambda: None, FIRST, REST)]
    assert len(set(_instances) - before) > 100
    for group in groups:
        group.close()
    assert set(_instances) == before
