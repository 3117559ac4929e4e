"""Training beside the notebook: a worker process, what it tells, and who speaks with it. No widgets here."""

from wbench.workbench.engine.chore import Chore, ChoreState, ClaimOutcome
from wbench.workbench.engine.messages import (
    Ended,
    Failed,
    Landscape,
    Message,
    Progress,
    Refused,
    Rows,
    Started,
    Table,
)
from wbench.workbench.engine.trainer import Trainer

__all__ = [
    "Chore", "ChoreState", "ClaimOutcome", "Ended", "Failed", "Landscape", "Message", "Progress", "Refused", "Rows", "Started",
    "Table", "Trainer",
]  # fmt: skip
