"""What the tests of the engine train: a tiny task, and a method that gets into trouble at a chosen step."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch

import wbench as wb
from wbench.method import Method, Paper, Stage, knob
from wbench.workbench.engine import Ended, Failed, Refused

RECIPE = wb.Recipe(optimizer="adam", lr=1e-3, steps=40, batch_size=32)
LONG = RECIPE.model_copy(update={"steps": 200_000})
ENDS = (Ended, Refused, Failed)


class Trouble(Method):
    """Nothing, until step five."""

    id: ClassVar[str] = "engine_trouble"
    title: ClassVar[str] = "Trouble"
    paper: ClassVar[Paper | None] = Paper("Trouble", "Nobody", 2024)
    stage: ClassVar[Stage] = "pipeline"
    vectorizes: ClassVar[bool] = True

    what: str = knob("none", doc="What happens.")
    place: str = knob("", doc="Where.")

    def after_step(self, model, ctx=None):
        if ctx.step != 5:
            return
        place = Path(self.place)
        if self.what == "raise":
            raise ValueError("this run has got into trouble")
        if self.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "memory":
            torch.ones(1 << 44)
        if self.what == "hang":
            place.touch()
            time.sleep(600)
        if self.what == "remove":
            shutil.rmtree(place)
        if self.what == "block":  # a file lies where the folder of the store was
            shutil.rmtree(place)
            place.touch()
        if self.what == "nan":
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


class Noisy(Method):
    """Moves weights by random numbers of the run, which a landscape must not take away."""

    id: ClassVar[str] = "engine_noisy"
    title: ClassVar[str] = "Noisy"
    paper: ClassVar[Paper | None] = Paper("Noise", "Nobody", 2024)
    stage: ClassVar[Stage] = "pipeline"

    def after_step(self, model, ctx=None):
        with torch.no_grad():
            for param in model.parameters():
                param += 1e-4 * torch.randn(param.shape) + 1e-4 * torch.randn(param.shape, generator=ctx.rng)


def digits(**more):
    """Arguments of a short run."""
    return {"task": "digits", "recipe": RECIPE, **more}


def trouble(what, place="", **more):
    return digits(methods=[Trouble(what=what, place=str(place))], **more)


def until(trainer, done, seconds=180.0):
    """Drain until a message fulfils a condition; return all of them."""
    found, end = [], time.monotonic() + seconds
    while not any(map(done, found)):
        assert trainer.wait(max(0.0, end - time.monotonic())), f"nothing came any more after {found[-3:]}"
        found += trainer.drain()
    return found


def finished(trainer, *jobs, seconds=180.0):
    """Drain until all these jobs have ended; return all messages."""
    left, found, end = set(jobs), [], time.monotonic() + seconds
    while left:
        assert trainer.wait(max(0.0, end - time.monotonic())), f"jobs {left} did not end after {found[-3:]}"
        new = trainer.drain()
        found += new
        left -= {message.job for message in new if isinstance(message, ENDS)}
    return found


def train(trainer, *arguments, seconds=180.0):
    """Train jobs 0, 1, ... to their end; return all messages."""
    trainer.start(list(enumerate(arguments)))
    return finished(trainer, *range(len(arguments)), seconds=seconds)


def of(kind, messages, job=0):
    return [message for message in messages if isinstance(message, kind) and message.job == job]


def hidden(store):
    """What lies half-written in a store."""
    return [path.name for path in store.root.rglob(".*") if path.name != ".index"]
