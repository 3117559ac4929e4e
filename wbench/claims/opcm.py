"""OPCM: does merging by projection and rescaling beat averaging, whatever the order in which models arrive?

Two distances of the domains from the base, angles of 3.0 and 1.5. At 1.5 the threshold of 2 points, from a prototype of one
seed (73.6 against 70.1), does not transfer: on pilot seeds 100 to 107 OPCM is 1.6 points above averaging (from -2.1 to 4.4 by
seed), at 2.0 it is 4.7 and at 3.0 10.1 points (prototype: 10.8). Both gate by
that threshold, which the card names for both, so that the claim is expected to fail at 1.5. Over scaling without projection it was 0.0, -0.5 and 1.4 points there (prototype: 0.3 and 0.7).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured
from wbench.method import Method
from wbench.methods import OPCM, TIES, ScalingOnly, TaskArithmetic, WeightAverage
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import DigitDomains

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from wbench.runs import Run

DOMAINS = 8
SHAPE = (96, 96, 96)
_BASE = {"lr": 2e-3, "batch_size": 256, "steps": 177}  # five epochs of the digits and six other domains
_RECIPE = Recipe(optimizer="adam", lr=1e-3, batch_size=128, steps=204)  # twenty epochs of one domain
_ORDERS = (1, 2, 3)


def _arms(strength: float, mark: str, merged: Mapping[str, Method]) -> dict[str, Arm]:
    # base, a fine-tune per domain with the head frozen, and what is made of them
    def task(**options: Any) -> DigitDomains:
        return DigitDomains(strength=strength, hidden=SHAPE, **options)

    arms = {
        f"base{mark}": Arm(task=task(domain="identity", extra_domains=6), recipe=_BASE, at_smoke={"steps": 40}),
    }
    for index in range(DOMAINS):
        arms[f"domain{index}{mark}"] = Arm(
            task=task(domain="rotated_pixels", index=index), start=f"base{mark}", trainable=("*", "!head")
        )
    whole = task(domain="rotated_pixels", domains=DOMAINS)
    members = {f"domain{index}": f"domain{index}{mark}" for index in range(DOMAINS)}
    for name, method in merged.items():
        arms[f"{name}{mark}"] = Arm((method,), task=whole, members=members, references={"base": f"base{mark}"})
    return arms


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test accuracy in points; of a merged model the mean over the eight domains, with what its order does to it.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        `accuracy`; of merged models also `individual` (of the fine-tunes, each on its own domain), `divisor` (lambda after the
        last), where other orders were run, `spread` (standard deviation over the orders), and where it was run on the nearer domains,
        `near_gain` over weight averaging there.
    """
    values = {"accuracy": 100 * run.final("accuracy")}
    if not run.spec.get("members"):
        return values
    near = "_near" if arm.endswith("_near") else ""
    values["individual"] = statistics.fmean(100 * runs[f"domain{i}{near}"].final("accuracy") for i in range(DOMAINS))
    values["divisor"] = float(run.probe(f"method.{run.methods[0]}")["divisor"].iloc[-1])
    if f"{arm}_near" in runs:
        gain = runs[f"{arm}_near"].final("accuracy") - runs["weight_average_near"].final("accuracy")
        values["near_gain"] = 100 * gain
    orders = [run, *(runs[f"{arm}_order{order}"] for order in _ORDERS[1:] if f"{arm}_order{order}" in runs)]
    if len(orders) > 1:
        values["spread"] = statistics.stdev(100 * one.final("accuracy") for one in orders)
    return values


def picture(frame: pd.DataFrame) -> go.Figure:
    """Draw divisor and distance of the merging methods, the mean over seeds.

    Args:
        frame: From `ClaimResult.picture_frame`.

    Returns:
        A figure.
    """
    from wbench.plots import merging

    shown = ["opcm", "scaling_only", "projection_only", "weight_average", "task_arithmetic", "opcm_near"]
    part = frame[frame["arm"].isin(shown) & frame["arrival"].notna()]
    mean = part.groupby(["arm", "arrival"])[["divisor", "distance", "mean_norm"]].mean().reset_index()
    return merging(mean.rename(columns={"arm": "run"}))


def _merged() -> dict[str, Method]:
    found: dict[str, Method] = {
        "weight_average": WeightAverage(), "task_arithmetic": TaskArithmetic(scaling=0.3), "ties": TIES(),
        "scaling_only": ScalingOnly(), "unmerged_base": TaskArithmetic(scaling=0.0),
    }  # fmt: skip
    for name, norm_rule in (("opcm", True), ("projection_only", False)):
        for order in _ORDERS:
            mark = f"_order{order}" if order != _ORDERS[0] else ""
            found[f"{name}{mark}"] = OPCM(seed=order, norm_rule=norm_rule)
    return found


_FAR = _merged()
_NEAR = {
    name: _FAR[name]
    for name in ("opcm", "weight_average", "task_arithmetic", "scaling_only", "unmerged_base", "projection_only")
}

claim = Claim(
    id="opcm",
    statement="Models that arrive one at a time are merged better by adding what is orthogonal to the merged model and rescaling to the "
    "length of one model's change than by averaging weights, and the order of arrival matters little.",
    paper_result="arXiv:2501.09522: CLIP-ViT on 8, 14 and 20 image tasks, 5 to 8 points of average accuracy above continual weight "
    "averaging, task arithmetic and TIES; stable across orders.",
    task=DigitDomains(domain="rotated_pixels", hidden=SHAPE, domains=DOMAINS),
    recipes={"smoke": _RECIPE.replace(steps=20), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=1600)},
    arms={**_arms(3.0, "", _FAR), **_arms(1.5, "_near", _NEAR)},
    method="opcm",
    control="projection_only",
    checks=(
        Check("accuracy over weight averaging", ("opcm", "weight_average"), "difference", 2.0, "accuracy", "points"),
        Check("standard deviation over three orders", ("opcm",), "mean", 1.5, "spread", "points", direction="<="),
        Check("over the rescaled sum, without projection", ("opcm", "scaling_only"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("over task arithmetic at 0.3", ("opcm", "task_arithmetic"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("over TIES", ("opcm", "ties"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("nearer domains: over weight averaging", ("opcm",), "mean", 2.0, "near_gain", "points"),
        Check("nearer domains: over the rescaled sum", ("opcm_near", "scaling_only_near"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("nearer domains: over task arithmetic", ("opcm_near", "task_arithmetic_near"), "difference", 0.5, "accuracy", "points", gate=False),
    ),
    measure=measure,
    reads="Averaging shortens the sum of changes to far less than the length of one; OPCM keeps that length, and the control, which projects but "
    "averages, shows that the gain over averaging needs it. Whether the projection adds to it is the row on the rescaled sum: where that is "
    "not passed, the gain is the norm rule's. Task arithmetic's 0.3 is near one over the root of eight, the length that OPCM finds by itself: "
    "a tie with it says little, as 0.3 was tuned for eight tasks by others. All merged models stay far below the fine-tunes.",
    picture="wbench.claims.opcm:picture",
)  # fmt: skip
