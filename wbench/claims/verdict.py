"""From checks to a verdict, with the control judged beside the method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wbench.claims.checks import Check, CheckResult, Values, evaluate, from_dict, to_dict
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
        """Return one row a check: arm_role, label, estimate, low, high, threshold, direction, unit, gate, passed, seeds, resampled, note."""
        import pandas as pd

        rows = []
        for role, results in (("method", self.checks), ("control", self.control_checks)):
            for result in results:
                check = result.check
                rows.append({
                    "arm_role": role, "label": check.name, "arms": " vs ".join(check.contrast), "estimate": result.estimate,
                    "low": result.low, "high": result.high, "threshold": check.threshold, "direction": check.direction,
                    "unit": check.unit, "gate": check.gate, "passed": result.outcome, "seeds": result.seeds,
                    "resampled": result.unit_of_resampling, "note": result.note,
                })  # fmt: skip
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """Return the verdict as JSON."""
        record: dict[str, Any] = {"outcome": self.outcome, "reason": self.reason, "control_outcome": self.control_outcome}
        record["checks"] = [to_dict(result) for result in self.checks]
        record["control_checks"] = [to_dict(result) for result in self.control_checks]
        return json.dumps(record, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read a verdict.

        Args:
            text: From `to_json`.

        Returns:
            The verdict.
        """
        record = json.loads(text)
        checks, control = (tuple(map(from_dict, record[key])) for key in ("checks", "control_checks"))
        return cls(record["outcome"], record["reason"], checks, control, record["control_outcome"])


def judge(values: Values, checks: Sequence[Check], *, method: str, control: str, resamples: int = 10_000) -> Verdict:
    """Judge a claim.

    Args:
        values: Arm to metric to (seeds,) or (seeds, items); NaN where a run diverged.
        checks: At least one of them gating, each with the method's arm in its contrast.
        method: The arm under test.
        control: The arm with the mechanism off; judged by the gating checks with itself in the method's place.
        resamples: Of the bootstrap.

    Returns:
        The verdict.

    Raises:
        ClaimError: If no check gates, a gating check leaves the method out, or the control has no values.
    """
    gates = [check for check in checks if check.gate]
    if not gates:
        raise ClaimError("a claim needs at least one check that gates")
    for check in gates:
        if method not in check.contrast:
            raise ClaimError(f"check '{check.name}' gates, but leaves out the method's arm '{method}'; it would judge the control alike")
    if control not in values:
        raise ClaimError(f"the control '{control}' has no values; a claim without a control cannot be judged")
    results = tuple(evaluate(check, values, resamples=resamples) for check in checks)
    swapped = [check.against(method, control) for check in gates]
    # where the control is one of the arms compared with, it would be compared with itself: no check can pass that way
    controls = tuple(evaluate(check, values, resamples=resamples) for check in swapped)
    outcome, reason = _outcome([result for result in results if result.check.gate])
    control_outcome, _ = _outcome(list(controls))
    if control_outcome == "reproduced":
        return Verdict("invalid", f"the control '{control}' passes every gating check too, so they do not test the mechanism", results, controls, "reproduced")
    return Verdict(outcome, reason, results, controls, control_outcome)


def _outcome(results: Sequence[CheckResult]) -> tuple[Result, str]:
    failed = [result.check.name for result in results if result.outcome == "no"]
    if failed:
        return "not reproduced", f"fails: {'; '.join(failed)}"
    open_checks = [f"{r.check.name}{f' ({r.note})' if r.note else ''}" for r in results if r.outcome == "undecided"]
    if open_checks:
        return "inconclusive", f"undecided: {'; '.join(open_checks)}"
    return "reproduced", f"all {len(results)} gating checks hold, and the control fails"
