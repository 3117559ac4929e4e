"""Many runs in one vectorised step.

Runs of one architecture that differ in seed, learning rate and other numbers train together: their tensors are stacked,
`torch.func` computes all losses and gradients at once, and everything else (data order, optimizer state, hooks of methods,
probes, evaluation, record) stays each run's own, as `train` has it. A run's numbers agree with those of `train` to
rounding, and do not depend on who trains beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.machine import keep_freed_memory
from wbench.runs import Run, RunStore
from wbench.splits import Batch
from wbench.training.batches import stacked_batches
from wbench.training.device import derive, seeded, threads
from wbench.training.families import LARGE, cost
from wbench.training.finite import Diverged, check_weights, first_bad_output
from wbench.training.job import Job
from wbench.training.loop import loss_function, phase_data
from wbench.training.optim import make_optimizer
from wbench.training.session import Session
from wbench.training.stack import CannotVectorizeError, Stack, signature
from wbench.training.stacked_optim import MemberOptimizers
from wbench.training.step import StackedStep

GIB = 1 << 30
BUDGET = 2.0
STEP_HOOKS = ("before_step", "after_backward", "after_step")
ENDING = 0.05  # of the time of a run's steps: evaluating and keeping it
OnSteps = Callable[[float, float], None]


@dataclass
class Population:
    """What came of runs that were to train together.

    Attributes:
        runs: Position to run, finished or diverged.
        alone: Position to the reason why this run must train by itself.
    """

    runs: dict[int, Run] = field(default_factory=dict)
    alone: dict[int, str] = field(default_factory=dict)


def train_population(
    jobs: Sequence[Job],
    store: RunStore,
    *,
    budget: float = BUDGET,
    always: bool = False,
    on_step: OnSteps | None = None,
) -> Population:
    """Train runs of one family in vectorised steps and record each.

    Args:
        jobs: From `describe`, of one `family`; a single one is allowed.
        store: Where the runs are kept.
        budget: GiB that the members of one step may take; more members train in chunks, one after another.
        always: Stack models that are so large that a CPU gains nothing by it, too.
        on_step: Called with (steps done, steps in all), counted over all members; keeping a run counts as some steps.

    Returns:
        The runs, and what could not be vectorised.

    Raises:
        MemoryError: If even so the memory does not suffice; likewise torch's errors of that kind.
    """
    found, taken = Population(), 0
    total, done = sum((1.0 + ENDING) * job.recipe.total_steps for job in jobs), 0.0

    def tell(steps: float) -> None:
        nonlocal done
        done += steps
        if on_step is not None:
            on_step(done, total)

    chunk = 1
    keep_freed_memory()
    with ExitStack() as stack:
        if jobs:
            stack.enter_context(seeded(derive(jobs[0].seed, "training"), jobs[0].device))
            stack.enter_context(threads(jobs[0].device))
        while taken < len(jobs):
            members: list[_Member] = []
            for place in range(taken, len(jobs)):
                if members and len(members) >= chunk:
                    break
                member = _assembled(place, jobs[place], store, found)
                if member is not None:
                    members.append(member)
                    chunk = max(1, int(budget * GIB // cost(member.model, member.session.ctx)[0]))
                taken = place + 1
            for group in _grouped(members):
                first = group[0]
                work = cost(first.model, first.session.ctx)[1]
                if work > LARGE and not always and first.session.job.device.type == "cpu":
                    reason = f"stacking gains nothing on a CPU at {work / 1e6:.0f} million operations a forward pass"
                    found.alone.update({member.place: reason for member in group})
                else:
                    _together(group, found, tell)
    return found


@dataclass
class _Member:
    place: int
    session: Session
    model: nn.Module
    rng: Tensor
    seconds: float = 0.0

    def turn(self) -> _Turn:
        """Return a block in which torch's generator is this member's own."""
        return _Turn(self)


class _Turn:
    def __init__(self, member: _Member) -> None:
        self.member = member

    def __enter__(self) -> None:
        torch.set_rng_state(self.member.rng)

    def __exit__(self, *_: object) -> None:
        self.member.rng = torch.get_rng_state()


def _assembled(place: int, job: Job, store: RunStore, found: Population) -> _Member | None:
    session = Session(job, store)
    try:
        with seeded(derive(job.seed, "training"), job.device):
            model = session.assemble()
            return _Member(place, session, model, torch.get_rng_state())
    # hooks raise what they like, and trained alone the run shows it; but where memory runs out the caller has to know
    except (WBenchError, ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError) as error:
        found.alone[place] = str(error) or type(error).__name__
        return None


def _grouped(members: Iterable[_Member]) -> list[list[_Member]]:
    groups: dict[str, list[_Member]] = {}
    for member in members:
        groups.setdefault(signature(member.model), []).append(member)
    return list(groups.values())


def _together(members: list[_Member], found: Population, tell: Callable[[float], None]) -> None:
    begin = time.perf_counter()
    try:
        finished = _Fit(members, found, tell).run()
    except CannotVectorizeError as error:
        found.alone.update({member.place: str(error) for member in members if member.place not in found.runs})
        return
    share = (time.perf_counter() - begin) / len(members)
    for member in finished:
        session = member.session
        session.writer.info["vectorized"] = True
        with member.turn():
            session.finish(member.model)
        found.runs[member.place] = session.commit(seconds=share)
        tell(ENDING * session.job.recipe.total_steps)


class _Fit:
    """The training loop of `loop.fit`, for many members at once."""

    def __init__(self, members: list[_Member], found: Population, tell: Callable[[float], None]) -> None:
        self.members, self.found, self.tell = members, found, tell
        self.active = list(range(len(members)))
        self.contexts = [member.session.ctx for member in members]
        self.recipe = self.contexts[0].recipe
        self.recipes = {id(ctx): ctx.recipe for ctx in self.contexts}
        methods = self.contexts[0].methods
        self.hooks = {hook: [i for i, m in enumerate(methods) if m.overrides(hook)] for hook in STEP_HOOKS}
        self.clips = any(ctx.recipe.clip is not None for ctx in self.contexts)
        self.stack = Stack([member.model for member in members])
        self.compute = StackedStep(self.stack, self.contexts[0], loss_function(self.contexts[0]))
        self.begin = time.perf_counter()

    def run(self) -> list[_Member]:
        # those members come back that came to the end
        optimizers: MemberOptimizers | None = None
        for index, phase in enumerate(self.recipe.plan):
            for ctx in self.contexts:
                ctx.phase = phase.name
            batches = stacked_batches(
                [phase_data(ctx) for ctx in self.contexts], self.recipe.batch_size,
                [member.session.order for member in self.members], self.contexts[0].device,
            )  # fmt: skip
            if optimizers is None or not phase.carry:
                for ctx in self.contexts:
                    ctx.recipe = self.recipes[id(ctx)].in_phase(index)
                optimizers = self._optimizers(self.recipe.horizon(index))
            for member in self.members:
                member.model.train()
            batch: Batch = ()
            for _ in range(phase.steps):
                batch = next(batches)
                self._step(batch, optimizers)
                if not self.active:
                    return []
            optimizers.settle()
            self.compute.verify(batch, self.active)
            self.stack.check()
            for i in self.active:
                self.members[i].session.recorder.after_phase(self.members[i].model, self.contexts[i])
        return [self.members[i] for i in self.active]

    def _optimizers(self, horizon: int) -> MemberOptimizers:
        made = []
        for member, ctx in zip(self.members, self.contexts, strict=True):
            with member.turn():
                ctx.optimizer = make_optimizer(member.model, ctx)
            made.append(ctx.optimizer)
        return MemberOptimizers(made, [ctx.recipe for ctx in self.contexts], self.stack, horizon)

    def _step(self, batch: Batch, optimizers: MemberOptimizers) -> None:
        self._hook("before_step", batch)
        losses, grads = self.compute(batch)
        values = losses.tolist()
        for i in [i for i in self.active if not _finite(values[i])]:
            own = tuple(part[i] for part in batch)
            ctx, where = self.contexts[i], first_bad_output(self.members[i].model, own)
            self._end(
                i, Diverged(f"loss became {values[i]} at step {ctx.step + 1} (phase {ctx.phase}); first in {where}")
            )
        if not optimizers.together or self.clips or self.hooks["after_backward"]:
            grads = self._own_gradients(grads)
        for i in self.active:
            session = self.members[i].session
            session.recorder.before_update(self.members[i].model, optimizers.optimizers[i], self.contexts[i])
        optimizers.step(grads)
        for ctx in self.contexts:
            ctx.step += 1
        self._hook("after_step")
        self._check_weights()
        for i in list(self.active):
            member = self.members[i]
            member.session.recorder.after_update(member.model, optimizers.optimizers[i], self.contexts[i], values[i])
        self.tell(len(self.members))

    def _own_gradients(self, grads: list[Tensor | None]) -> list[Tensor | None]:
        self.stack.member_grads(grads)
        self._hook("after_backward")
        for i in self.active:
            clip = self.contexts[i].recipe.clip
            if clip is not None:
                nn.utils.clip_grad_norm_(self.members[i].model.parameters(), clip)
        return grads

    def _hook(self, hook: str, batch: Batch = ()) -> None:
        if not self.hooks[hook]:
            return
        for i in list(self.active):
            member, ctx = self.members[i], self.contexts[i]
            arguments: tuple[Any, ...] = (tuple(part[i] for part in batch), ctx) if hook == "before_step" else (ctx,)
            try:
                with member.turn():
                    for place in self.hooks[hook]:
                        getattr(ctx.methods[place], hook)(member.model, *arguments)
            except Exception as error:  # this run's own failure; trained alone it shows it
                self.found.alone[member.place] = str(error) or type(error).__name__
                self.active.remove(i)

    def _check_weights(self) -> None:
        floating = [leaf.detach() for leaf in self.stack.leaves if leaf.is_floating_point()]
        total = torch.stack(torch._foreach_norm(floating)).sum() if floating else torch.zeros(())
        if _finite(float(total)):
            return
        for i in list(self.active):
            try:
                check_weights(self.members[i].model, self.contexts[i])
            except Diverged as error:
                self._end(i, error)

    def _end(self, i: int, error: Diverged) -> None:
        member = self.members[i]
        member.session.writer.info["vectorized"] = True
        share = (time.perf_counter() - self.begin) / len(self.members)
        self.found.runs[member.place] = member.session.commit("diverged", str(error), seconds=share)
        self.active.remove(i)


def _finite(value: float) -> bool:
    return value - value == 0.0
