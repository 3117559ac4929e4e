"""A study from a notebook's parameters: what they mean, and which are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

import wbench as wb
from wbench.errors import KnobError, StudyError, UnknownNameError, WBenchError
from wbench.reports import cells

# from parameters to a study and back


def points(study, arm):
    return study.plan()[arm].points()


def test_a_name_is_a_field_of_the_recipe_or_else_a_knob_of_the_method():
    study = cells.sweep(
        "digits", "galore", "{}", '{"lr": [0.01, "0.1"], "rank": [2, 4], "galore.scale": [0.5]}', seeds=2
    )
    assert points(study, "baseline") == [{"lr": 0.01}, {"lr": 0.1}]
    assert len(points(study, "galore")) == 4
    assert points(study, "galore")[0] == {"lr": 0.01, "galore.rank": 2, "galore.scale": 0.5}


def test_settings_stay_fixed_in_recipe_and_method():
    study = cells.sweep("digits", "galore", '{"rank": "4", "steps": 90, "inner": "sgd"}', '{"lr": [0.1]}')
    (method,), recipe = study.plan()["galore"].at({"lr": 0.1}, study.recipe)
    assert (method.rank, method.inner, recipe.steps, recipe.lr) == (4, "sgd", 90, 0.1)


def test_an_adapter_starts_from_the_baseline_which_is_not_swept():
    study = cells.sweep("digits", "lora", "{}", '{"lr": [0.01, 0.1]}', scale="smoke")
    assert points(study, "baseline") == [{}]
    assert study.plan()["lora"].start == "baseline"


@pytest.mark.parametrize("grid", ['{"rank": []}', '{"rank": null}', '"rank"', '["rank"]', "rank", " galore.rank "])
def test_a_knob_alone_takes_about_five_values_over_its_slider_the_present_one_among_them(grid):
    study = cells.sweep("digits", "galore", '{"rank": 7}', grid)
    values = study.grid["galore.rank"]
    low, high = wb.methods.get("galore").knobs()["rank"].slider
    assert values[0] == low and values[-1] == high and len(values) == 5
    assert 7 in values and values == sorted(values)
    assert all(isinstance(value, int) for value in values)


def test_every_knob_of_every_method_and_recipe_gives_values_that_are_allowed_or_is_refused_by_name():
    from wbench.method.registry import registry

    makers = [
        (cls, cls()) for cls in registry().values() if not any(f.is_required() for f in cls.model_fields.values())
    ]
    for cls, made in [*makers, (wb.Recipe, wb.Recipe())]:
        for name, spec in cls.knobs().items():
            try:
                values = cells.values_of(spec, getattr(made, name))
            except StudyError as error:
                assert name in str(error)
                assert spec.kind in {"str", "tuple"} or spec.slider is None
                continue
            assert 1 <= len(values) <= max(6, len(spec.choices))
            assert len(set(values)) == len(values)
            for value in values:
                if spec.choices or spec.kind == "bool":
                    assert value in (spec.choices or (True, False))
                else:
                    assert spec.slider[0] <= value <= spec.slider[1]
            if not spec.choices and spec.kind != "bool":
                assert values == sorted(values)


def test_values_on_a_log_slider_are_even_in_the_exponent():
    spec = wb.methods.get("weight_compander").knobs()["b_mult"]
    steps = np.diff(np.log10(cells.values_of(spec)))
    assert steps == pytest.approx([0.5] * 4, abs=0.02)


HOSTILE = '"]); import os; os.system("touch pwned") #'


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"task": HOSTILE}, UnknownNameError, "unknown task"),
        ({"method": HOSTILE}, UnknownNameError, "unknown method"),
        ({"scale": "huge"}, KnobError, "scale='huge'"),
        ({"settings": HOSTILE}, StudyError, "settings="),
        ({"settings": "[1]"}, StudyError, "settings="),
        ({"settings": '{"rnak": 2}'}, StudyError, "settings: .*'rnak'.*rank"),
        ({"settings": '{"rank": 0}'}, KnobError, "rank=0"),
        ({"settings": '{"rank": [1, 2]}'}, KnobError, "rank="),
        ({"settings": '{"lr": "fast"}'}, KnobError, "lr='fast'"),
        ({"grid": HOSTILE}, StudyError, "grid="),
        ({"grid": "[" * 100_000}, StudyError, "grid="),
        ({"grid": "3"}, StudyError, "grid="),
        ({"grid": "{}"}, StudyError, "sweeps nothing"),
        ({"grid": ""}, StudyError, "sweeps nothing"),
        ({"grid": "bone"}, StudyError, "grid: .*'bone'"),
        ({"grid": '{"rank": 8}'}, StudyError, "rank=8"),
        ({"grid": '{"rank": "8"}'}, StudyError, "rank='8'"),
        ({"grid": '{"rank": [2, 2]}'}, StudyError, "rank.*twice"),
        ({"grid": '{"rank": [2], "rank": [4]}'}, StudyError, "'rank'.*twice"),
        ({"grid": '{"rank": [2], "galore.rank": [4]}'}, StudyError, "each name once"),
        ({"grid": '{"rank": [2.5]}'}, KnobError, "rank=2.5"),
        ({"grid": '{"lr": [NaN]}'}, KnobError, "lr=nan"),
        ({"grid": '{"lr": [1e999]}'}, KnobError, "lr=inf"),
        ({"grid": '{"lr": [{}]}'}, KnobError, "lr="),
        ({"grid": "layers"}, StudyError, "grid: layers"),
        ({"method": "", "grid": '{"rank": [2]}'}, StudyError, "grid: .*'rank'"),
        ({"seeds": 0}, StudyError, "seeds=0"),
        ({"seeds": "8"}, StudyError, "seeds='8'"),
        ({"seeds": True}, StudyError, "seeds=True"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_allowed_is_named(changes, error, named):
    given = {"task": "digits", "method": "galore", "settings": "{}", "grid": '{"rank": [2]}', **changes}
    with pytest.raises(error, match=named) as caught:
        cells.sweep(**given)
    assert isinstance(caught.value, WBenchError)
    assert len(str(caught.value)) < 500 or len(given["grid"]) > 500
