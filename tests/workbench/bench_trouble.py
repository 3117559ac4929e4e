"""What the tests of the workbench train, importable by its worker process, and how they look at it."""

import itertools
import time
from typing import ClassVar

from torch import nn

import wbench as wb
from wbench.method import Method, Paper, Stage, knob

TASK = wb.tasks.find_task("digits hidden=16")
GALORE = wb.methods.GaLore(rank=4)
TINY = wb.tasks.find_task("digits hidden=16").recipe("smoke").replace(steps=20)
numbers = itertools.count()


class Broken(nn.Module):
    """Its forward fails."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        raise RuntimeError("mat1 and mat2 <cannot> be multiplied")


class Mine(Method):
    """A method of a user's notebook: not installed."""

    id: ClassVar[str] = "mine"
    title: ClassVar[str] = "Mine"
    paper: ClassVar[Paper | None] = Paper("Mine", "Nobody", 2026)
    stage: ClassVar[Stage] = "objective"

    weight: float = knob(0.5, 0.0, 1.0, doc="Weight.")

    def penalty(self, model, ctx=None):
        return self.weight * 1e-4 * sum((param**2).sum() for param in model.parameters())


def small():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def said(bench):
    """What the panel says."""
    return bench.frame.status.value


def until(bench, done, seconds=60.0):
    """Work until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, said(bench)
        bench.trainer.wait(0.05)
        bench._loop.spin()


def knob_of(bench, owner, name):
    """The control of a knob."""
    return next(group.controls[name] for group in bench.setup.groups if group.owner == owner)


def fresh(**changes):
    """A recipe of its own, so that no other test has trained with it."""
    return TINY.replace(**{"lr": 0.05 + 1e-4 * next(numbers), **changes})


def put(bench, *methods, task=TASK, recipe=None, seed=0):
    bench.setup.put(task, methods, recipe or fresh(), seed)


def run(bench):
    """Press Run, wait, and return what the controls stand for."""
    bench.run()
    bench.wait(60)
    return bench.current


def key_of(bench, run):
    return next(key for key, entries in bench.shelf.groups.items() if run.id in {entry.id for entry in entries})


def captions(bench):
    return {title: drawn.caption for title, drawn, _ in bench.board.drawn()}


def recorded(store, *methods, **more):
    return wb.train(TASK, methods, store=store, **{"recipe": fresh(), **more})
