"""What the report notebooks call, in one place."""

from wbench.reports.claim_cells import checks, claim_figures, per_seed, run_claims, save_verdicts, scoreboard, verdict
from wbench.reports.display import Figure, Html, show, table
from wbench.reports.run_cells import (
    first_seed,
    joined,
    landscape,
    landscapes,
    method_card,
    method_picture,
    provenance,
    results,
    train_beside_baseline,
)

__all__ = [
    "Figure",
    "Html",
    "checks",
    "claim_figures",
    "first_seed",
    "joined",
    "landscape",
    "landscapes",
    "method_card",
    "method_picture",
    "per_seed",
    "provenance",
    "results",
    "run_claims",
    "save_verdicts",
    "scoreboard",
    "show",
    "table",
    "train_beside_baseline",
    "verdict",
]
