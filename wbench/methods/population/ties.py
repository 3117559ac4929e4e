r"""TIES-Merging: Resolving Interference When Merging Models.

Prateek Yadav, Derek Tam, Leshem Choshen, Colin Raffel, Mohit Bansal, 2023, arXiv:2306.01708. Of each task vector only the
largest numbers stay (trim); each parameter takes the sign of the sum of what is left (elect), and the mean of those that
have this sign (disjoint merge):

$$ \theta_0 + \lambda\, \tau, \qquad \tau_p = \operatorname{mean}\{\hat\tau_{t,p} : \operatorname{sign} \hat\tau_{t,p} = \gamma_p\},
   \qquad \gamma_p = \operatorname{sign} \sum_t \hat\tau_{t,p} $$

$\hat\tau_t$: the trimmed $\theta_t - \theta_0$. Sums and counts of positive and of negative numbers decide both the sign and
the mean, so that one pass over the models is enough: six tensors of a model's size, whatever their number.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from wbench.method import Paper, knob
from wbench.methods.population.merging import Fold, Merging
from wbench.ops.taskvector import SignedSums, Vector, difference, distance, largest, norm


class Elected(Fold):
    """Trimmed task vectors, to be merged by elected signs.

    Args:
        base: The base's parameters.
        density: Share of a task vector that stays.
        scaling: The factor of the merged task vector.
    """

    def __init__(self, base: Vector, density: float, scaling: float) -> None:
        self.base, self.density, self.scaling = base, density, scaling
        self.sums = SignedSums()

    def add(self, vector: Vector) -> dict[str, float]:
        """Take in a model's parameters.

        Args:
            vector: Name to tensor.

        Returns:
            norm, mean_norm, divisor (none: NaN), distance, and trimmed: the share of the squared norm that was trimmed away.
        """
        change = difference(vector, self.base)
        own = norm(change)
        change = largest(change, self.density)
        left = norm(change)
        self.sums.add(change)
        self.counted(own)
        away, gone = distance(self.weights(), self.base), 1.0 - (left / own) ** 2 if own else 0.0
        return {"norm": own, "mean_norm": self.mean_norm, "divisor": float("nan"), "distance": away, "trimmed": gone}

    def weights(self) -> Vector:
        """Return the merged parameters."""
        return {name: value + self.scaling * self.sums.elected_mean(name) for name, value in self.base.items()}


class TIES(Merging):
    """Merges what is left of the members' changes after trimming, by the sign that prevails.

    Usage:
        `merged = TIES(density=0.2).combine({"cars": a, "birds": b}, base=pretrained).models[0]`
    """

    id: ClassVar[str] = "ties"
    title: ClassVar[str] = "TIES: trim, elect sign, merge"
    paper: ClassVar[Paper | None] = Paper(
        "TIES-Merging: Resolving Interference When Merging Models", "Yadav, Tam, Choshen, Raffel, Bansal", 2023,
        "2306.01708", "NeurIPS 2023",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("model merging", "task vectors")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    picture: ClassVar[str] = "wbench.plots:merging"

    density: float = knob(0.2, 1e-4, 1.0, scale="log", slider=(0.01, 1.0), doc="Share of each task vector that stays.")
    scaling: float = knob(1.0, 0.0, 10.0, slider=(0.0, 3.0), doc="Factor of the merged task vector (lambda).")

    def fold(self, model: nn.Module, base: Vector) -> Fold:
        return Elected(base, self.density, self.scaling)
