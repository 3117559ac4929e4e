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
from wbench.ops.graph import normalized_layers
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 1.5  # largest |w / a| in radians that is inverted; arctan's own bound is pi / 2


def compand(v: Tensor, a: Tensor, b: Tensor, fn: str = "arctan", p: float = 0.5, max_slope: float = 100.0) -> Tensor:
    r"""Return $w = \Psi(v)$.

    Args:
        v: Any shape.
        a: Positive, broadcastable to `v`.
        b: Positive, broadcastable to `v`.
        fn: `arctan`: $a\arctan(v/b)$; `mulaw`: $a\,\mathrm{sgn}(v)\ln(1+|v|/b)$; `power_arctan`:
            $a\,\mathrm{sgn}(v)\arctan((|v|/b)^p)$; `identity`.
        p: Exponent of `power_arctan`.
        max_slope: Clip of `power_arctan`'s backward, in units of $a/b$.

    Returns:
        Shape of `v`.
    """
    if fn == "arctan":
        return _Arctan.apply(v, a, b)  # type: ignore[no-untyped-call,no-any-return]
    if fn == "mulaw":
        return a * torch.sign(v) * torch.log1p(v.abs() / b)
    if fn == "power_arctan":
        return _PowerArctan.apply(v, a, b, p, max_slope)  # type: ignore[no-untyped-call,no-any-return]
    return v


def expand(w: Tensor, a: Tensor, b: Tensor, fn: str = "arctan", p: float = 0.5) -> Tensor:
    r"""Return $v = \Psi^{-1}(w)$; entries with $|w/a| > 1.5$ are clipped, except for `mulaw`.

    Args:
        w: Any shape.
        a: As in `compand`.
        b: As in `compand`.
        fn: As in `compand`.
        p: As in `compand`.

    Returns:
        Shape of `w`.
    """
    if fn == "identity":
        return w
    if fn == "mulaw":
        return b * torch.sign(w) * torch.expm1(w.abs() / a)
    ratio = (w / a).clamp(-LIMIT, LIMIT)
    if fn == "arctan":
        return b * torch.tan(ratio)
    return b * torch.sign(w) * torch.tan(ratio.abs()) ** (1.0 / p)


def slope(v: Tensor, a: Tensor, b: Tensor, fn: str = "arctan", p: float = 0.5, max_slope: float = 100.0) -> Tensor:
    r"""Return $\Psi'(v)$; that of `power_arctan` is clipped at `max_slope` times $a/b$, as its backward is.

    Args:
        v: Any shape.
        a: As in `compand`.
        b: As in `compand`.
        fn: As in `compand`.
        p: As in `compand`.
        max_slope: As in `compand`.

    Returns:
        Shape of `v`; never negative.
    """
    u = v.abs() / b
    if fn == "arctan":
        return (a / b) / (1.0 + u * u)
    if fn == "mulaw":
        return a / (b + v.abs())
    if fn == "power_arctan":
        return torch.minimum(a * p / b * u ** (p - 1.0) / (1.0 + u ** (2.0 * p)), max_slope * a / b)
    return torch.ones_like(v)


def companding_index(
    v: Tensor, a: Tensor, b: Tensor, fn: str = "arctan", p: float = 0.5, max_slope: float = 100.0
) -> float:
    r"""Return $\chi = \Psi'(0) / (\Psi(q)/q)$ at $q$, the 99th percentile of $|v|$: above 1 for a compander, 1 for the identity.

    Args:
        v: Any shape.
        a: Scalar.
        b: Scalar.
        fn: As in `compand`.
        p: As in `compand`.
        max_slope: As in `compand`.

    Returns:
        The index.
    """
    q = torch.quantile(v.abs().flatten(), 0.99)
    return float(slope(torch.zeros_like(q), a, b, fn, p, max_slope) / (compand(q, a, b, fn, p, max_slope) / q))


class _Arctan(torch.autograd.Function):
    """Its backward in half the passes over the weights that autograd takes: from the output, not from the function's parts."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a * torch.atan(v / b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, a, b, w = ctx.saved_tensors
        u = v / b
        grad_v = grad * (a / b) / (1.0 + u * u)
        grad_a = (grad * w).sum_to_size(a.shape) / a if ctx.needs_input_grad[1] else None
        grad_b = (grad_v * v).sum_to_size(b.shape) / -b if ctx.needs_input_grad[2] else None
        return grad_v, grad_a, grad_b


class _PowerArctan(torch.autograd.Function):
    """Its slope is infinite at zero: clipped towards v, exact towards a and b, where v times slope is 0 at v = 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, a: Tensor, b: Tensor, p: float, max_slope: float) -> Tensor:
        return a * torch.sign(v) * torch.atan((v.abs() / b) ** p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, a, b, ctx.p, ctx.max_slope = inputs
        ctx.save_for_backward(v, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, a, b = ctx.saved_tensors
        u = (v.abs() / b) ** ctx.p
        grad_v = grad * slope(v, a, b, "power_arctan", ctx.p, ctx.max_slope)
        grad_a = grad * torch.sign(v) * torch.atan(u)
        grad_b = -grad * a / b * ctx.p * torch.sign(v) * u / (1.0 + u * u)
        return grad_v, grad_a.sum_to_size(a.shape), grad_b.sum_to_size(b.shape), None, None


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
