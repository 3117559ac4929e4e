r"""ShrinkMatch: Shrinking Class Space for Enhanced Certainty in Semi-Supervised Learning.

Lihe Yang, Zhen Zhao, Lei Qi, Yu Qiao, Yinghuan Shi, Hengshuang Zhao, 2023, arXiv:2308.06777.

Where the weak view's prediction is uncertain, its nearest rivals are dropped from the classes until it is certain among what
remains; the strong view has to agree inside that shrunk class space. With the classes sorted by the weak view's $p$,

$$ \mathrm{conf}(c) = \frac{p_{s_0}}{p_{s_0} + \sum_{j \ge c} p_{s_j}}, \qquad
   \ell = -\log \frac{e^{a_{s_0}}}{e^{a_{s_0}} + \sum_{j \ge c} e^{a_{s_j}}}, \qquad
   L = L_{FixMatch} + \lambda_u\, r\, \frac1{B_u} \sum_{i\ \mathrm{uncertain}} \max_c p_{ic}\, \ell_i $$

$c$: the first from 2 on with $\mathrm{conf}(c) \ge \tau$ (a sample without one counts nothing; the runner-up always goes);
$a$: logits of an auxiliary head on the strong view's features; $r$: running mean of the share of certain samples. $p$: (Bu, C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.methods.objective.fixmatch import STATE, Averages, FixMatch, Views

if TYPE_CHECKING:
    import pandas as pd


class Shrunk(NamedTuple):
    """What came of shrinking the class space.

    Attributes:
        loss: Of each sample inside its shrunk space, (samples,).
        removed: Classes that were dropped, c - 1, (samples,).
        passed: Whether the top class is certain in the shrunk space, (samples,).
        kept: Which classes stayed, (samples, C).
    """

    loss: Tensor
    removed: Tensor
    passed: Tensor
    kept: Tensor


def shrink(weak: Tensor, logits: Tensor, threshold: float) -> Shrunk:
    """Return the cross entropy in the smallest class space without the nearest rivals in which the top class is certain.

    Args:
        weak: Probabilities of the weak views, (samples, C); C at least 3, else the loss is 0.
        logits: Of the strong views, (samples, C).
        threshold: From which the top class is certain.

    Returns:
        Loss and what was dropped, for each sample.
    """
    samples, classes = weak.shape
    if classes < 3:
        none = torch.zeros(samples, dtype=torch.bool, device=weak.device)
        return Shrunk(0.0 * logits.sum(1), none.long(), none, torch.ones_like(weak, dtype=torch.bool))
    ranked, order = weak.sort(1, descending=True)
    tails = ranked.flip(1).cumsum(1).flip(1)
    conf = ranked[:, :1] / (ranked[:, :1] + tails[:, 2:])
    enough = conf >= threshold
    first = torch.where(enough.any(1), enough.int().argmax(1), classes - 3)
    rank = torch.arange(classes, device=weak.device)
    kept_ranks = (rank == 0) | (rank > first[:, None] + 1)
    chosen = logits.gather(1, order).masked_fill(~kept_ranks, -torch.inf)
    kept = torch.zeros_like(kept_ranks).scatter(1, order, kept_ranks)
    passed = conf.gather(1, first[:, None])[:, 0] >= threshold
    return Shrunk(chosen.logsumexp(1) - chosen[:, 0], first + 1, passed, kept)


class ShrinkState(Averages):
    """`Averages` with the auxiliary head and the running share of certain samples.

    Args:
        model: The model.
        classes: Number of classes.
        queue: Batches over which predictions are averaged.
    """

    ratio: Tensor

    def __init__(self, model: nn.Module, classes: int, queue: int) -> None:
        super().__init__(model, classes, queue)
        head: Any = model.get_submodule("head")
        features: int = head.in_features
        hidden = features // 4 or 1
        self.aux = nn.Sequential(
            nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, classes),
        )  # fmt: skip
        self.register_buffer("ratio", torch.full((), -1.0))  # none yet

    @torch.no_grad()
    def note(self, certain: Tensor, decay: float) -> Tensor:
        """Take in a batch's share of certain samples.

        Args:
            certain: (samples,).
            decay: Share of the running mean that stays; it starts at the first batch's.

        Returns:
            The running mean.
        """
        now = certain.to(self.ratio.dtype).mean()
        self.ratio.copy_(torch.where(self.ratio < 0, now, decay * self.ratio + (1.0 - decay) * now))
        return self.ratio


class ShrinkMatch(FixMatch):
    """FixMatch that also learns from uncertain samples, inside the classes that remain without their nearest rivals.

    Usage:
        `wb.train(wb.tasks.Digits(labels_per_class=2, hidden=(128, 64), norm="batch"), ShrinkMatch(ema_model=0.99))`
    """

    id: ClassVar[str] = "shrinkmatch"
    title: ClassVar[str] = "ShrinkMatch: certainty in a shrunk class space"
    paper: ClassVar[Paper | None] = Paper(
        "Shrinking Class Space for Enhanced Certainty in Semi-Supervised Learning", "Yang, Zhao, Qi, Qiao, Shi, Zhao",
        2023, "2308.06777", "ICCV 2023",
    )  # fmt: skip
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    kind: ClassVar[Literal["method", "baseline"]] = "method"
    picture: ClassVar[str] = "wbench.plots:utilisation"

    ema_ratio: float = knob(
        0.999,
        0.0,
        0.999999,
        slider=(0.9, 0.9999),
        doc="Decay of the running share of certain samples; 0.99 for runs under 2,000 steps.",
    )
    use_aux: bool = knob(True, doc="Shrunk losses act on an auxiliary head, not on the main one.")
    reweight1: bool = knob(True, doc="Weight a sample by its largest probability.")
    reweight2: bool = knob(True, doc="Weight all by the running share of certain samples.")

    def _check_classes(self, classes: int) -> None:
        if classes < 3:
            raise FitError(f"shrinkmatch needs at least 3 classes (C={classes} leaves nothing to remove)")
        super()._check_classes(classes)

    def state(self, model: nn.Module, classes: int) -> ShrinkState:
        return ShrinkState(model, classes, self.da_len)

    def extra(self, model: nn.Module, seen: Views, certain: Tensor, ctx: Context) -> Tensor | float:
        state = model.get_submodule(STATE)
        ratio = state.note(certain, self.ema_ratio)
        logits = state.aux(seen.features) if self.use_aux else seen.strong
        shrunk = shrink(seen.weak, logits, self.threshold)
        weight = (~certain & shrunk.passed).to(logits.dtype)
        _record(ctx, shrunk, ~certain, seen)
        if self.reweight1:
            weight = weight * seen.weak.max(1).values
        loss = (weight * shrunk.loss).sum() / len(certain)
        return ratio * loss if self.reweight2 else loss

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return how the unlabelled samples of the last step were used.

        Columns: share (`certain`, `shrunk`, `unused`), value; and `removed`, the mean number of dropped classes, alike in all rows.
        """
        import pandas as pd

        last = ctx.state.get("shrinkmatch.last") if ctx is not None else None
        if not last:
            return None
        unused = 1.0 - last["certain"] - last["shrunk"]
        rows = {"certain": last["certain"], "shrunk": last["shrunk"], "unused": unused}
        return pd.DataFrame({"share": list(rows), "value": list(rows.values()), "removed": last["removed"]})


def _record(ctx: Context, shrunk: Shrunk, uncertain: Tensor, seen: Views) -> None:
    """Log how many samples pass in the shrunk space, and, where the data knows their classes, how good that is."""
    used = uncertain & shrunk.passed
    count = int(used.sum())
    removed = float(shrunk.removed[used].float().mean()) if count else float("nan")
    share = count / len(used)
    ctx.state["shrinkmatch.last"] = {
        "certain": 1.0 - float(uncertain.float().mean()),
        "shrunk": share,
        "removed": removed,
    }
    ctx.log("shrunk", share)
    if seen.truth is not None and count:
        truth = seen.truth[used]
        right = seen.weak[used].argmax(1) == truth
        kept = shrunk.kept[used].gather(1, truth[:, None])[:, 0]
        ctx.log("shrunk_count", count)
        ctx.log("shrunk_right", int(right.sum()))
        ctx.log("shrunk_kept", int(kept.sum()))
