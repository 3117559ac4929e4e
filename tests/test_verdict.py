"""Verdicts: they follow from the checks of method and control."""

import dataclasses
import math

import numpy as np
import pytest
from check_values import arms, check

from wbench.claims.checks import Check
from wbench.claims.verdict import Verdict, judge
from wbench.errors import ClaimError

# --- verdicts -------------------------------------------------------------------------------------------------------------


def claim_values(**shifts):
    rng = np.random.default_rng(17)
    return arms(**{name: shift + 0.1 * rng.normal(size=8) for name, shift in {"base": 0.0, **shifts}.items()})


BETTER = Check("better", ("method", "base"), "difference", 0.5, "m", "points")


@pytest.mark.parametrize(
    ("method", "control", "outcome", "control_outcome"),
    [
        (1.0, 0.0, "reproduced", "not reproduced"),
        (0.0, 0.0, "not reproduced", "not reproduced"),
        (0.5, 0.0, "inconclusive", "not reproduced"),
        (1.0, 1.0, "invalid", "reproduced"),
        (0.0, 1.0, "invalid", "reproduced"),
    ],
)
def test_the_verdict_follows_from_method_and_control(method, control, outcome, control_outcome):
    found = judge(claim_values(method=method, control=control), [BETTER], method="method", control="control")
    assert (found.outcome, found.control_outcome) == (outcome, control_outcome)
    if outcome == "invalid":
        assert "control" in found.reason


def test_the_control_is_judged_as_if_it_were_the_method():
    values = claim_values(method=1.0, control=0.3)
    found = judge(values, [BETTER], method="method", control="control")
    alone = judge(values, [BETTER.swapped("method", "control")], method="control", control="base")
    assert found.control_checks == alone.checks
    assert found.control_outcome == alone.outcome


def test_every_gating_check_must_hold_and_reported_ones_do_not_count():
    values = claim_values(method=1.0, control=0.0)
    harder = dataclasses.replace(BETTER, name="much better", threshold=5.0)
    reported = dataclasses.replace(harder, gate=False)
    assert judge(values, [BETTER, reported], method="method", control="control").outcome == "reproduced"
    found = judge(values, [BETTER, harder], method="method", control="control")
    assert (found.outcome, found.reason) == ("not reproduced", "fails: much better")
    assert len(judge(values, [BETTER, reported], method="method", control="control").control_checks) == 1


@pytest.mark.parametrize("statistic", ["difference", "ratio", "share", "order"])
def test_a_control_among_its_own_baselines_is_not_better_than_itself(statistic):
    values = claim_values(method=3.0, base=1.0)
    contrast = ("base", "method") if statistic == "order" else ("method", "base")
    made = check(statistic, {"difference": 0.0, "ratio": 1.0}.get(statistic, 0.5), contrast)
    found = judge(values, [made], method="method", control="base")
    assert (found.outcome, found.control_outcome) == ("reproduced", "not reproduced")


def test_a_control_that_is_only_not_inferior_to_itself_makes_the_claim_invalid():
    values = claim_values(method=1.0, base=1.0)
    found = judge(values, [check("noninferiority", -0.2, ("method", "base"))], method="method", control="base")
    assert found.outcome == "invalid"


def test_a_control_that_diverged_does_not_pass():
    values = {**claim_values(method=1.0), "control": {}}
    found = judge(values, [BETTER], method="method", control="control")
    assert (found.outcome, found.control_outcome) == ("reproduced", "inconclusive")
    assert found.reason.endswith("and the control does not pass")


@pytest.mark.parametrize(
    ("checks", "control", "words"),
    [
        ([dataclasses.replace(BETTER, gate=False)], "control", "at least one check that gates"),
        ([], "control", "at least one check that gates"),
        ([BETTER.swapped("method", "control")], "control", "leaves out the method's arm"),
        ([BETTER], "nobody", "without a control"),
        ([BETTER], "method", "another arm"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(checks, control, words):
    with pytest.raises(ClaimError, match=words):
        judge(claim_values(method=1.0, control=0.0), checks, method="method", control=control)


def test_a_verdict_survives_json_exactly():
    values = claim_values(method=1.0 / 3, control=0.0)
    values["lost"] = {"m": np.full(8, np.nan)}
    checks = [BETTER, dataclasses.replace(BETTER, contrast=("method", "lost"), gate=False, against="best")]
    found = judge(values, checks, method="method", control="control")
    again = Verdict.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert again.checks[0] == found.checks[0]
    assert math.isnan(again.checks[1].low)
    assert (again.outcome, again.reason, again.control_checks) == (found.outcome, found.reason, found.control_checks)
    for text in ("", "[]", "{}", found.to_json().replace('"low"', '"lo"')):
        with pytest.raises(ClaimError, match="no verdict"):
            Verdict.from_json(text)


def test_the_table_has_a_row_for_every_check_of_either_arm():
    checks = [BETTER, dataclasses.replace(BETTER, name="reported", gate=False)]
    frame = judge(claim_values(method=1.0, control=0.0), checks, method="method", control="control").frame()
    assert list(frame["arm_role"]) == ["method", "method", "control"]
    assert list(frame["passed"]) == ["yes", "yes", "no"]
    assert {"label", "estimate", "low", "high", "threshold", "unit", "gate", "direction", "seeds", "resampled"} <= set(
        frame
    )


def test_the_same_values_give_the_same_verdict():
    values = claim_values(method=1.0, control=0.0)
    first, second = (judge(values, [BETTER], method="method", control="control") for _ in range(2))
    assert first == second
