"""A method that gets into trouble when a file says so: raises, hangs, dies or eats memory, in a chosen run."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar, Literal

import torch

import wbench as wb
from wbench.method import Method, Paper, Stage, knob

VARIABLE = "WBENCH_TEST_TROUBLE"  # file with "<kind> <number>"
RECIPE = wb.Recipe(optimizer="adam", lr=1e-3, steps=20, batch_size=32)


class Trouble(Method):
    """Nothing, unless the file names this number."""

    id: ClassVar[str] = "trouble"
    title: ClassVar[str] = "Trouble"
    paper: ClassVar[Paper | None] = Paper("Trouble", "Nobody", 2024)
    stage: ClassVar[Stage] = "pipeline"
    vectorizes: ClassVar[bool] = True

    number: int = knob(0, 0, 100, doc="Which run this is.")
    mode: Literal["a", "b"] = knob("a", doc="Tells studies apart.")

    def after_step(self, model, ctx=None):
        file = Path(os.environ.get(VARIABLE, "/nonexistent"))
        if ctx.step != 5 or not file.exists():
            return
        kind, number = file.read_text().split()
        if int(number) != self.number:
            return
        if kind == "raise":
            raise ValueError("this run has got into trouble")
        if kind == "hang":
            while True:
                time.sleep(0.01)
        if kind == "die":
            file.unlink()  # once
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "memory":
            hoard = []
            while True:
                hoard.append(torch.ones(16 << 20))
        if kind == "slow":
            time.sleep(60)


def study(store, numbers=6, mode="a"):
    return wb.Study(
        "digits",
        {"t": Trouble(mode=mode)},
        {"trouble.number": list(range(numbers))},
        seeds=1,
        recipe=RECIPE,
        probes=(),
        store=store,
    )


def contents(store):
    """Everything that a run's numbers are, by run."""
    return {
        run.id: ({name: t.numpy().tobytes() for name, t in run.tensors("weights").items()}, run.metrics.to_csv())
        for run in store.runs()
        if run.status == "finished"
    }
