"""Runs kept: one directory a run, written whole or not at all, named by what determines it.

The room can be called: `wb.runs("SELECT ...")` asks all runs of a store at once, as `wbench.runs.query.runs`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from wbench.runs.run import Run
from wbench.runs.spec import run_id
from wbench.runs.store import RunStore
from wbench.runs.writer import RunWriter

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "RunStore", "RunWriter", "run_id"]


class _Room(ModuleType):
    def __call__(self, query: str | None = None, store: RunStore | None = None) -> pd.DataFrame:
        from wbench.runs.query import runs

        return runs(query, store)


sys.modules[__name__].__class__ = _Room
