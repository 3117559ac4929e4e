"""Cells on claims: statement, verdict, checks, every seed's values."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path

from wbench import claims
from wbench.claims import ClaimResult
from wbench.reports.display import Figure, Html, resolve, table
from wbench.runs import RunStore
from wbench.study.pool import Processes


def run_claims(method_ids: Iterable[str], scale: str, *, store: RunStore) -> dict[str, ClaimResult]:
    """Check the claims of methods, in one pool of processes; methods without a claim are left out.

    Args:
        method_ids: Ids.
        scale: `smoke`, `cpu` or `gpu`.
        store: Where runs are kept and found.

    Returns:
        Method id to result.
    """
    known = [name for name in method_ids if name in claims.all()]
    with Processes() as pool:
        return {name: claims.get(name).run(scale, store=store, executor=pool, progress=True) for name in known}


def save_verdicts(results: Mapping[str, ClaimResult], folder: str) -> None:
    """Write each claim's verdict, with every seed's values and intervals, to `verdict-<id>.json`.

    Args:
        results: Method id to result.
        folder: Where to; empty: nowhere.
    """
    for name, result in results.items():
        if folder:
            (Path(folder) / f"verdict-{name}.json").write_text(result.to_json())


def verdict(result: ClaimResult) -> Html:
    """Return a claim's statement and verdict.

    Args:
        result: The result.
    """
    claim, found = result.claim, result.verdict
    kind = found.outcome.replace(" ", "-")
    scope = (
        f"{len(result.seeds)} seeds ({', '.join(map(str, result.seeds))}), scale {result.scale}, {result.seconds:.1f} s"
    )
    control = f"The control ({claim.control}) comes out {found.control_outcome}."
    return Html(
        f"<h3>{html.escape(claim.id)}: the claim</h3><p>{html.escape(claim.statement)}</p>"
        f"<p class='caption'>{html.escape(claim.paper_result)}</p>"
        f"<div class='verdict {kind}'><b>{html.escape(found.outcome)}</b><br>{html.escape(found.reason)}. {html.escape(control)}<br>"
        f"<span class='caption'>{html.escape(scope)}</span></div><p>{html.escape(claim.reads)}</p>"
    )


def checks(result: ClaimResult) -> Html:
    """Return every check with its interval, threshold and resampling unit.

    Args:
        result: The result.
    """
    frame = result.verdict.frame()
    frame["95 % interval"] = [f"{low:.4g} to {high:.4g}" for low, high in zip(frame["low"], frame["high"], strict=True)]
    frame["needed"] = [
        f"{d} {t:g} {u}" for d, t, u in zip(frame["direction"], frame["threshold"], frame["unit"], strict=True)
    ]
    frame["gates"] = frame["gate"].map({True: "yes", False: "reported only"})
    shown = [
        "arm_role",
        "label",
        "estimate",
        "95 % interval",
        "needed",
        "passed",
        "gates",
        "seeds",
        "resampled",
        "note",
    ]
    return table(
        frame[shown].rename(
            columns={"arm_role": "arm", "label": "check", "passed": "holds", "resampled": "resampling unit"}
        )
    )


def per_seed(result: ClaimResult) -> Html:
    """Return every arm's value for every seed, of the metrics that are checked.

    Args:
        result: The result.
    """
    wanted = {check.metric for check in result.claim.checks}
    frame = result.frame()
    frame = frame[frame["metric"].isin(wanted)]
    wide = frame.pivot_table(index=["metric", "arm"], columns="seed", values="value", sort=False)
    wide.columns = [f"seed {seed}" for seed in wide.columns]
    wide.insert(0, "mean", wide.mean(axis=1))
    chosen = {
        arm: ", ".join(f"{key}={value:g}" for key, value in point.items()) for arm, point in result.points.items()
    }
    wide.insert(0, "chosen", [chosen.get(arm, "") for _, arm in wide.index])
    return table(wide.reset_index())


def claim_figures(result: ClaimResult) -> list[Figure]:
    """Return the figure of the checks, and the claim's own where it has one.

    Args:
        result: The result.
    """
    from wbench import plots

    figures = [
        Figure(
            plots.intervals(result.verdict.frame()),
            "Checks",
            "Estimate and 95 % interval of each check; dashed: what is needed.",
        )
    ]
    if result.claim.picture:
        figures.append(Figure(resolve(result.claim.picture)(result.picture_frame()), "The claim's own picture"))
    return figures


def scoreboard(results: Mapping[str, ClaimResult]) -> Html:
    """Return every claim's verdict in one table.

    Args:
        results: Method id to result.
    """
    import pandas as pd

    rows = []
    for name, result in results.items():
        gates = [item for item in result.verdict.checks if item.check.gate]
        shown = "; ".join(
            f"{item.check.name}: {item.estimate:.3g} [{item.low:.3g}, {item.high:.3g}], needed {item.check.direction} {item.check.threshold:g}"
            for item in gates
        )
        rows.append({
            "method": name, "verdict": result.verdict.outcome, "its control": result.verdict.control_outcome,
            "gating checks, estimate [95 %]": shown, "seeds": len(result.seeds), "scale": result.scale,
        })  # fmt: skip
    return table(pd.DataFrame(rows))
