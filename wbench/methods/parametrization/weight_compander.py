r"""Weight Compander: A Simple Weight Reparameterization for Regularization.

Rinor Cakaj, Jens Mehnert, Bin Yang, 2023, arXiv:2306.16993.

Every weight passes through an odd, increasing function that compresses large values and expands small ones, so that no
single weight dominates and more of them take part; the optimizer trains $v$:

$$ w = \Psi(v) = a \arctan(v / b), \qquad |w| < a \pi / 2, \qquad a = e^\alpha, \; b = e^\beta $$

$v, w$: the weight's shape; $\alpha, \beta$: one scalar a layer, or one an output channel. The paper fixes the properties
of $\Psi$ in its abstract; its expression could not be read. The functions here have those properties and are not the
paper's formula.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, Parametrization, knob
from wbench.ops.companding import LIMIT, compand, expand, slope
from wbench.ops.graph import normalized_layers
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


class Compander(nn.Module):
    """The parametrisation of one weight: `forward` is the function, `right_inverse` its inverse.

    Args:
        a: Initial scale; positive, scalar or one an output channel.
        b: Initial bend; positive, same shape.
        method: Function and constants.
        dtype: Dtype of the weight that the layer sees; `a` and `b` and the function itself are in at least float32.
    """

    def __init__(self, a: Tensor, b: Tensor, method: WeightCompander, dtype: torch.dtype) -> None:
        super().__init__()
        self.fn, self.p, self.max_slope, self.dtype = method.fn, method.p, method.max_slope, dtype
        if self.fn != "identity":
            self.log_a = nn.Parameter(a.log(), requires_grad=method.learn and method.learn_a != "never")
            self.log_b = nn.Parameter(b.log(), requires_grad=method.learn)

    @property
    def a(self) -> Tensor:
        """Scale, positive."""
        return self.log_a.exp()

    @property
    def b(self) -> Tensor:
        """Bend, positive."""
        return self.log_b.exp()

    def forward(self, v: Tensor) -> Tensor:
        if self.fn == "identity":
            return v
        return compand(v.to(self.log_a.dtype), self.a, self.b, self.fn, self.p, self.max_slope).to(self.dtype)

    def right_inverse(self, w: Tensor) -> Tensor:
        if self.fn == "identity":
            return w
        return expand(w.to(self.log_a.dtype), self.a, self.b, self.fn, self.p).to(w.dtype).detach()


class WeightCompander(Parametrization):
    """Train `v` with `w = a arctan(v / b)` in its place.

    Usage:
        `model = WeightCompander().prepare(model)`, train with `param_groups` (no decay on a and b), `model = wc.finish(model)`.
    """

    id: ClassVar[str] = "weight_compander"
    title: ClassVar[str] = "Weight Compander"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Weight Compander: A Simple Weight Reparameterization for Regularization",
        "Cakaj, Mehnert, Yang", 2023, "2306.16993", "IJCNN 2023",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("regularization", "reparameterization", "weight distribution")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "inferred"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:companding"

    fn: Literal["arctan", "mulaw", "power_arctan", "identity"] = knob(
        "arctan", doc="Companding function; identity: off."
    )
    a_mult: float = knob(
        2.0, 0.01, 100.0, scale="log", slider=(1.2, 6.0), doc="a over the initial weights' standard deviation."
    )
    b_mult: float = knob(
        1.0, 0.001, 1000.0, scale="log", slider=(0.1, 10.0), doc="b over the initial weights' standard deviation."
    )
    learn: bool = knob(True, doc="Train a and b with the weights.")
    learn_a: Literal["auto", "always", "never"] = knob(
        "auto", doc="Train a; auto: not where a norm follows, which makes it idle."
    )
    per: Literal["layer", "channel"] = knob("layer", doc="One (a, b) a layer or an output channel.")
    p: float = knob(0.5, 0.3, 1.0, doc="Exponent of power_arctan.")
    max_slope: float = knob(100.0, 10.0, 1000.0, scale="log", unit="a/b", doc="Clip of power_arctan's backward.")
    lr_scale: float = knob(1.0, 0.01, 1.0, scale="log", doc="Learning rate of log a and log b over the recipe's.")
    preserve: Literal["clip", "exact"] = knob(
        "clip", doc="Weights beyond a's range: clip them, or widen a to keep the function."
    )

    def reparametrize(self, weight: Tensor, name: str) -> nn.Module:
        wide = weight.double() if weight.dtype == torch.float64 else weight.float()
        spread = _spread(wide, self.per)
        if self.fn != "identity" and not bool((spread > 0).all()):
            raise FitError(
                f"weight_compander: layer '{name}' has zero weight spread; exclude it: layers=('*', '!{name}')"
            )
        a, b = self.a_mult * spread, self.b_mult * spread
        if self.fn in {"arctan", "power_arctan"}:
            if self.preserve == "exact":
                a = torch.maximum(a, _largest(wide, self.per) / LIMIT)
            clipped = int((wide.abs() > LIMIT * a * (1 + 1e-6)).sum())
            if clipped:
                warnings.warn(
                    f"weight_compander: {clipped} of {wide.numel()} weights of layer '{name}' exceed the range of "
                    f"a={float(a.mean()):.3g}; clipped (use preserve='exact' to keep the model's function)",
                    stacklevel=4,
                )
        return Compander(a, b, self, weight.dtype)

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        idle = normalized_layers(model) if self.learn_a == "auto" else set()
        model = super().prepare(model, ctx)
        for name, part in self.restore_forms(model).items():
            if name in idle and hasattr(part, "log_a"):
                part.log_a.requires_grad_(False)
        return model

    def param_groups(self, model: nn.Module, ctx: Context | None = None) -> list[dict[str, Any]]:
        params = [param for part in self.restore_forms(model).values() for param in part.parameters()]
        return [{"params": params, "weight_decay": 0.0, "lr_scale": self.lr_scale}] if params else []

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the curve of each layer with the density of v and of w along it.

        Columns: layer, v, w, density_v, density_w, a, b, step_factor (the square of the slope: a step of w over the same
        step of a plain weight under SGD).
        """
        import pandas as pd

        frames = []
        for name, part in self.restore_forms(model).items():
            if not isinstance(part, Compander) or part.fn == "identity":
                continue
            v = model.get_submodule(name).parametrizations["weight"].original.detach()  # type: ignore[union-attr,index,operator]
            frames.append(_curve(name, v.float().cpu(), part))
        return pd.concat(frames, ignore_index=True) if frames else None

    def null(self) -> Self | None:
        return self.replace(fn="identity")


def _spread(weight: Tensor, per: str) -> Tensor:
    if per == "layer":
        return weight.std(correction=0)
    return weight.flatten(1).std(1, correction=0).view(-1, *[1] * (weight.ndim - 1))


def _largest(weight: Tensor, per: str) -> Tensor:
    if per == "layer":
        return weight.abs().max()
    return weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1))


def _curve(name: str, v: Tensor, part: Compander, points: int = 97) -> pd.DataFrame:
    import pandas as pd

    a, b = part.a.detach().mean().float().cpu(), part.b.detach().mean().float().cpu()
    span = float(torch.quantile(v.abs().flatten()[:100_000], 0.995)) or 1.0
    at = torch.linspace(-span, span, points)
    w = compand(v, part.a.detach().float().cpu(), part.b.detach().float().cpu(), part.fn, part.p, part.max_slope)
    curve = compand(at, a, b, part.fn, part.p, part.max_slope)
    return pd.DataFrame({
        "layer": name, "v": at.numpy(), "w": curve.numpy(), "density_v": _density(v, at), "density_w": _density(w, curve),
        "a": float(a), "b": float(b), "step_factor": slope(at, a, b, part.fn, part.p, part.max_slope).square().numpy(),
    })  # fmt: skip


def _density(values: Tensor, at: Tensor) -> Any:
    """Return the share of the values per unit length in the cells around increasing points."""
    edges = torch.cat([at[:1] - (at[1] - at[0]) / 2, (at[1:] + at[:-1]) / 2, at[-1:] + (at[-1] - at[-2]) / 2])
    counts = torch.bucketize(values.flatten(), edges)
    inside = torch.bincount(counts, minlength=len(edges) + 1)[1 : len(edges)]
    return (inside / values.numel() / edges.diff()).numpy()
