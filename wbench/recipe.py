"""How a model is trained: optimizer, learning rate, schedule, batch size, steps, phases.

These are the recipe's, never a method's: two methods compared on one task share one recipe.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from wbench.errors import KnobError
from wbench.knobs import Knobs, knob


class Phase(Knobs):
    """One stretch of training on one data stream.

    Usage:
        `Phase(name="task00", steps=30, carry=True)`
    """

    id: ClassVar[str] = "phase"
    name: str = knob("train", doc="Name of the phase; the split of that name is trained on, else `train`.")
    steps: int = knob(100, 1, 10_000_000, scale="log", unit="steps", doc="Optimizer steps in this phase.")
    carry: bool = knob(True, doc="Keep optimizer state and schedule from the phase before; otherwise start them anew.")
    lr: float | None = knob(
        None, 0.0, 100.0, scale="log0", slider=(1e-5, 1.0),
        doc="Peak learning rate from here on, where the schedule starts anew; none: the recipe's.",
    )  # fmt: skip
    schedule: Literal["constant", "cosine", "linear"] | None = knob(
        None, doc="Decay from here on, where it starts anew; none: the recipe's."
    )


class Recipe(Knobs):
    """Optimizer, schedule and budget of one training run.

    Usage:
        `Recipe(optimizer="adamw", lr=1e-3, schedule="cosine", steps=500)`
    """

    id: ClassVar[str] = "recipe"
    optimizer: Literal["sgd", "adam", "adamw"] = knob("adamw", doc="Optimizer, as torch.optim names it.")
    lr: float = knob(1e-3, 0.0, 100.0, slider=(1e-5, 1.0), scale="log0", doc="Peak learning rate.")
    schedule: Literal["constant", "cosine", "linear"] = knob("constant", doc="Decay from the peak to `final_lr`.")
    warmup: int = knob(0, 0, 1_000_000, slider=(0, 1000), unit="steps", doc="Linear warm-up steps from 0 to the peak.")
    final_lr: float = knob(0.0, 0.0, 1.0, doc="Share of the peak that is left at the end of the decay.")
    momentum: float = knob(0.0, 0.0, 0.9999, doc="Momentum of SGD.")
    betas: tuple[float, float] = knob((0.9, 0.999), 0.0, 0.999999, doc="Averaging rates of Adam's two moments.")
    eps: float = knob(1e-8, 0.0, 1.0, scale="log0", slider=(1e-12, 1e-2), doc="Adam's epsilon.")
    weight_decay: float = knob(
        0.0, 0.0, 10.0, scale="log0", slider=(1e-6, 1.0), doc="Weight decay; L2 for sgd and adam."
    )
    clip: float | None = knob(
        None, 0.0, 1e9, scale="log", slider=(0.01, 10), doc="Largest global gradient norm; none: no clipping."
    )
    steps: int = knob(
        100, 0, 10_000_000, scale="log0", slider=(1, 10_000), unit="steps",
        doc="Optimizer steps, when `phases` is empty; 0: no training, for methods that act on a trained model.",
    )  # fmt: skip
    batch_size: int = knob(
        64,
        1,
        1_000_000,
        scale="log",
        slider=(1, 1024),
        unit="samples",
        doc="Samples per step; more than there are: all.",
    )
    eval_every: int | None = knob(
        None,
        1,
        10_000_000,
        scale="log",
        slider=(1, 1000),
        unit="steps",
        doc="Steps between evaluations; none: 10 per run.",
    )
    phases: tuple[Phase, ...] = knob((), doc="Stretches of training one after another; empty: one of `steps` steps.")

    @property
    def plan(self) -> tuple[Phase, ...]:
        """The phases that are run, one of `steps` steps when none is given; none at all for 0 steps."""
        return self.phases or ((Phase(name="train", steps=self.steps),) if self.steps else ())

    @property
    def total_steps(self) -> int:
        """Optimizer steps over all phases."""
        return sum(phase.steps for phase in self.plan)

    def in_phase(self, index: int) -> Recipe:
        """Return the recipe with the rate and the decay of the phase that has last started anew.

        Args:
            index: Position of the phase in the plan.
        """
        start = max((place for place in range(index + 1) if place == 0 or not self.plan[place].carry), default=0)
        phase = self.plan[start]
        changes = {key: value for key, value in (("lr", phase.lr), ("schedule", phase.schedule)) if value is not None}
        return self.replace(**changes) if changes else self

    def horizon(self, index: int) -> int:
        """Return the steps of the schedule that starts with a phase: until the next phase that starts anew.

        Args:
            index: Position of the phase in the plan.
        """
        total = 0
        for place, phase in enumerate(self.plan[index:]):
            if place and not phase.carry:
                break
            total += phase.steps
        return total

    def lr_factor(self, step: int, total: int) -> float:
        """Return the learning rate at a step as a share of the peak.

        Args:
            step: Optimizer steps taken so far, from 0.
            total: Steps over which the schedule runs.

        Returns:
            A factor in [0, 1].

        Raises:
            KnobError: If the warm-up is not shorter than the run.
        """
        if self.warmup >= total and self.warmup > 0:
            raise KnobError(f"recipe: warmup={self.warmup} must be smaller than the {total} steps it is part of")
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        left = 1.0 - min(1.0, (step - self.warmup) / max(1, total - self.warmup))
        shape = 0.5 * (1.0 - math.cos(math.pi * left)) if self.schedule == "cosine" else left
        return self.final_lr + (1.0 - self.final_lr) * shape
