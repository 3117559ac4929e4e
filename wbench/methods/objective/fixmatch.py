r"""FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence.

Kihyuk Sohn, David Berthelot, Chun-Liang Li, Zizhao Zhang, Nicholas Carlini, Ekin D. Cubuk, Alex Kurakin, Han Zhang, Colin Raffel,
2020, arXiv:2001.07685.

What the model predicts on a weak view of an unlabelled image, where it is certain, the strong view has to predict too:

$$ L = L_x + \lambda_u \frac1{B_u} \sum_i \mathbb 1[\max_c p_{ic} \ge \tau] \Big({-\sum_c p_{ic} \log q_{ic}}\Big), \qquad
   p_i = \mathrm{softmax}\, f(u_i^w), \; q_i = \mathrm{softmax}\, f(u_i^s) $$

$u^w, u^s$: weak and strong view, $B_u$ of them; no gradient reaches $p$. With distribution alignment $p$ is divided by its
mean over the last batches and renormalised. Targets are soft, as in the code of the method that this is the baseline of. A
running average of the weights is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import DataError, FitError
from wbench.method import Context, Objective, Paper, knob
from wbench.recipe import Recipe
from wbench.splits import Batch

STATE = "semi_supervised"


class Averages(nn.Module):
    """What travels with the model: its averaged twin, the last batches' mean predictions, and what a method adds.

    Args:
        model: The model that is averaged.
        classes: Number of classes.
        queue: Batches over which predictions are averaged.
    """

    queue: Tensor
    filled: Tensor

    def __init__(self, model: nn.Module, classes: int, queue: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(queue, classes))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move the averaged weights towards the model's; buffers are copied.

        Args:
            model: The model in training.
            decay: Share of the average that stays.
        """
        own = {name: value for name, value in model.named_parameters() if not name.startswith(f"{STATE}.")}
        for name, value in self.model.named_parameters():
            value.lerp_(own[name], 1.0 - decay)
        held = dict(model.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(held[name])

    @torch.no_grad()
    def aligned(self, probabilities: Tensor) -> Tensor:
        """Return predictions divided by their mean over the last batches, this one included, and renormalised.

        Args:
            probabilities: (samples, classes).

        Returns:
            The same shape.
        """
        place = self.filled % len(self.queue)
        self.queue[place] = probabilities.mean(0)
        self.filled += 1
        mean = self.queue[: int(self.filled.clamp(max=len(self.queue)))].mean(0)
        adjusted = probabilities / mean.clamp_min(1e-8)
        return adjusted / adjusted.sum(1, keepdim=True)


@dataclass(frozen=True)
class Views:
    """The model's view of one step.

    Attributes:
        labelled: Logits of the labelled samples, (Bx, C).
        weak: Probabilities of the weak views after alignment, without gradient, (Bu, C).
        strong: Logits of the strong views, (Bu, C).
        features: What the head saw of the strong views, (Bu, d).
        truth: Classes of the unlabelled samples, where the data has them; only for the record.
    """

    labelled: Tensor
    weak: Tensor
    strong: Tensor
    features: Tensor
    truth: Tensor | None


def certain_loss(weak: Tensor, strong: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of strong views with weak ones where these are certain.

    Args:
        weak: Probabilities, (samples, classes).
        strong: Logits, (samples, classes).
        threshold: Least probability of the largest class.

    Returns:
        Its mean over all samples, and which are certain, (samples,).
    """
    certain = weak.max(1).values >= threshold
    cross = -(weak * F.log_softmax(strong, 1)).sum(1)
    return (cross * certain).mean(), certain


class FixMatch(Objective):
    """Trains on unlabelled images beside few labelled ones; needs a data stream `unlabelled` of (weak view, strong view) pairs.

    Usage:
        `wb.train(wb.tasks.Digits(labels_per_class=2, hidden=(128, 64), norm="batch"), FixMatch())`
    """

    id: ClassVar[str] = "fixmatch"
    title: ClassVar[str] = "FixMatch: consistency on certain predictions"
    paper: ClassVar[Paper | None] = Paper(
        "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence",
        "Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel", 2020, "2001.07685", "NeurIPS 2020",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("semi-supervised", "few labels")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    threshold: float = knob(
        0.95, 0.0, 1.0, slider=(0.7, 0.99), doc="Probability from which a prediction counts as certain (tau)."
    )
    lambda_u: float = knob(
        1.0, 0.0, 1000.0, scale="log0", slider=(0.1, 10.0), doc="Weight of the unlabelled losses; 0: labels alone."
    )
    mu: int = knob(7, 1, 1000, slider=(1, 10), doc="Unlabelled samples a labelled one, in each step.")
    ema_model: float = knob(
        0.999,
        0.0,
        0.999999,
        slider=(0.9, 0.9999),
        doc="Decay of the averaged weights; 0.99 for runs under 1,000 steps.",
    )
    use_da: bool = knob(True, doc="Align the predictions' distribution with that of the last batches.")
    da_len: int = knob(
        32, 1, 100_000, scale="log", slider=(8, 256), unit="batches", doc="Batches that are averaged for it."
    )

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        head = getattr(model, "head", None)
        if not callable(getattr(model, "features", None)) or not isinstance(head, nn.Linear):
            raise FitError(
                f"{self.id}: the model {type(model).__name__} needs a method features(x) and a linear layer named head, so that "
                "labelled and unlabelled samples share one pass"
            )
        classes = head.out_features
        self._check_classes(classes)
        context = Context.of(ctx)
        if context.splits and not len(context.data("unlabelled")):
            raise DataError(f"{self.id}: the split 'unlabelled' is empty")
        model.add_module(STATE, self.state(model, classes))
        return model

    def _check_classes(self, classes: int) -> None:
        if not 1.0 / classes < self.threshold < 1.0:
            raise FitError(
                f"{self.id}: threshold={self.threshold:g} is not allowed with {classes} classes; allowed: above {1 / classes:.3g}, below 1"
            )

    def state(self, model: nn.Module, classes: int) -> Averages:
        """Return what travels with the model.

        Args:
            model: The model.
            classes: Its number of classes.
        """
        return Averages(model, classes, self.da_len)

    def before_step(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> None:
        """Move the averaged weights, before the step as the authors' code does: they lag by one."""
        model.get_submodule(STATE).update(model, self.ema_model)

    def views(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Views:
        """Return the model's outputs for a labelled batch and the next unlabelled one, in one pass.

        Args:
            model: The prepared model.
            batch: Inputs and classes, labelled.
            ctx: The run.
        """
        context = Context.of(ctx)
        weak, strong, *truth = context.stream("unlabelled", self.mu * len(batch[0]))
        features = model.features(torch.cat([batch[0], weak, strong]))
        logits = model.head(features)
        of_labelled, of_weak, of_strong = logits.split([len(batch[0]), len(weak), len(strong)])
        predicted = of_weak.detach().softmax(1)
        if self.use_da:
            predicted = model.get_submodule(STATE).aligned(predicted)
        return Views(of_labelled, predicted, of_strong, features[-len(strong) :], truth[0] if truth else None)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        seen = self.views(model, batch, ctx)
        supervised = F.cross_entropy(seen.labelled, batch[1])
        unlabelled, certain = certain_loss(seen.weak, seen.strong, self.threshold)
        Context.of(ctx).log("certain", certain.float().mean())
        return supervised + self.lambda_u * (unlabelled + self.extra(model, seen, certain, Context.of(ctx)))

    def extra(self, model: nn.Module, seen: Views, certain: Tensor, ctx: Context) -> Tensor | float:
        """Return a further unlabelled loss, a scalar; a method built on this one overrides it.

        Args:
            model: The prepared model.
            seen: Its outputs.
            certain: Which unlabelled samples are certain, (Bu,).
            ctx: The run.
        """
        return 0.0

    def infer(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        averages = getattr(model, STATE, None)
        return averages.model(batch[0]) if averages is not None else model(batch[0])

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        averages = getattr(model, STATE)
        delattr(model, STATE)
        state: Mapping[str, Any] = averages.model.state_dict()
        model.load_state_dict(state)
        return model
