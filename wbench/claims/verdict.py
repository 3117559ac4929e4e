"""From checks to a verdict, with the control judged beside the method."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wbench.claims.checks import RESAMPLES, Check, CheckResult, Values, evaluate
from wbench.errors import ClaimError

if TYPE_CHECKING:
    import pandas as pd

Result = Literal["reproduced", "not reproduced", "inconclusive", "invalid"]


@dataclass(frozen=True)
class Verdict:
    """The judgement on a claim.

    Attributes:
        outcome: `reproduced`, `not reproduced`, `inconclusive`, or `invalid` when the control passes as well.
        reason: In one sentence.
        checks: Results for the method.
        control_checks: Results of the gating checks for the control.
        control_outcome: What the control came out as.
    """

    outcome: Result
    reason: str
    checks: tuple[CheckResult, ...]
    control_checks: tuple[CheckResult, ...]
    control_outcome: Result

    def frame(self) -> pd.DataFrame:
        """Return one row a check and arm under test.

        Returns:
            Columns arm_role (method or control), label, arms, estimate, low, high, threshold, direction, unit, gate, passed
            (yes, no, undecided), seeds (their number), resampled (the unit), note.
        """
        import pandas as pd

        rows = [
            {
                "arm_role": role,
                "label": result.check.name,
                "arms": " vs ".join(result.check.contrast),
                "estimate": result.estimate,
                "low": result.low,
                "high": result.high,
                "threshold": result.check.threshold,
                "direction": result.check.direction,
                "unit": result.check.unit,
                "gate": result.check.gate,
                "passed": result.outcome,
                "seeds": result.seeds,
                "resampled": result.unit_of_resampling,
                "note": result.note,
            }
            for role, results in (("method", self.checks), ("control", self.control_checks))
            for result in results
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """Return the verdict as JSON; `from_json` gives the same verdict back."""
        return json.dumps(_without_nan(dataclasses.asdict(self)), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read a verdict.

        Args:
            text: From `to_json`.

        Returns:
            The verdict.

        Raises:
            ClaimError: If the text is no verdict.
        """
        try:
            record = json.loads(text)
            checks, control = (tuple(map(_result, record.pop(key))) for key in ("checks", "control_checks"))
            return cls(checks=checks, control_checks=control, **record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClaimError(f"this is no verdict as Verdict.to_json writes it: {error!r}") from error


def judge(values: Values, checks: Sequence[Check], *, method: str, control: str, resamples: int = RESAMPLES) -> Verdict:
    """Judge a claim.

    The claim is reproduced if every gating check is met, not reproduced if one is failed, else inconclusive. The control is
    judged by the same gating checks with itself in the method's place; if it comes out reproduced, the checks do not test the
    mechanism and the verdict is invalid, whatever the method did.

    Args:
        values: Arm to metric to (seeds,) or (seeds, items); NaN where a run diverged.
        checks: At least one of them gating, each of those with the method's arm in its contrast.
        method: The arm under test.
        control: The arm with the mechanism off.
        resamples: Of the bootstrap.

    Returns:
        The verdict.

    Raises:
        ClaimError: If no check gates, a gating check leaves the method out, or the control has no values or is the method.
    """
    gates = [check for check in checks if check.gate]
    if not gates:
        raise ClaimError("a claim needs at least one check that gates; leave gate=True on one of them")
    for check in gates:
        if method not in check.contrast:
            raise ClaimError(
                f"check '{check.name}' gates, but leaves out the method's arm '{method}': it would judge the control alike; "
                "put the arm first in its contrast, or set gate=False"
            )
    if control == method:
        raise ClaimError(f"the control must be another arm than the method's, both are '{method}'")
    if control not in values:
        raise ClaimError(f"the control '{control}' has no values; a claim without a control cannot be judged")
    results = tuple(evaluate(check, values, resamples=resamples) for check in checks)
    controls = tuple(evaluate(check.swapped(method, control), values, resamples=resamples) for check in gates)
    outcome, reason = _outcome([result for result in results if result.check.gate])
    control_outcome, _ = _outcome(controls)
    if control_outcome == "reproduced":
        outcome = "invalid"
        reason = f"the control '{control}' passes every gating check too, so they do not test the mechanism"
    elif outcome == "reproduced":
        reason += (
            ", and the control fails" if control_outcome == "not reproduced" else ", and the control does not pass"
        )
    return Verdict(outcome, reason, results, controls, control_outcome)


def _outcome(results: Sequence[CheckResult]) -> tuple[Result, str]:
    failed = [result.check.name for result in results if result.outcome == "no"]
    if failed:
        return "not reproduced", f"fails: {'; '.join(failed)}"
    left = [f"{r.check.name}{f' ({r.note})' if r.note else ''}" for r in results if r.outcome == "undecided"]
    if left:
        return "inconclusive", f"undecided: {'; '.join(left)}"
    return "reproduced", "the gating check holds" if len(results) == 1 else f"all {len(results)} gating checks hold"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _result(record: dict[str, Any]) -> CheckResult:
    numbers = {key: math.nan if record[key] is None else record[key] for key in ("estimate", "low", "high")}
    check = Check(**record["check"])
    return CheckResult(**{**record, **numbers, "check": check, "per_seed": tuple(record["per_seed"])})
