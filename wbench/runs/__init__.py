"""Runs on disk: one directory a run, written whole or not at all, named by what determines it."""

from wbench.runs.run import Run
from wbench.runs.spec import run_id
from wbench.runs.store import RunStore
from wbench.runs.writer import RunWriter

__all__ = ["Run", "RunStore", "RunWriter", "run_id"]
