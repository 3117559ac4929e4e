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
from wbench.reports.study_cells import (
    Responses,
    chosen_pictures,
    failures,
    grid_results,
    how_trained,
    planned,
    response,
    responses,
    written,
)
from wbench.reports.study_plan import sweep, values_of
from wbench.study.written import as_code, as_toml

__all__ = [
    "Figure",
    "Html",
    "Responses",
    "as_code",
    "as_toml",
    "checks",
    "chosen_pictures",
    "claim_figures",
    "failures",
    "first_seed",
    "grid_results",
    "how_trained",
    "joined",
    "landscape",
    "landscapes",
    "method_card",
    "method_picture",
    "per_seed",
    "planned",
    "provenance",
    "response",
    "responses",
    "results",
    "run_claims",
    "save_verdicts",
    "scoreboard",
    "show",
    "sweep",
    "table",
    "train_beside_baseline",
    "values_of",
    "verdict",
    "written",
]
