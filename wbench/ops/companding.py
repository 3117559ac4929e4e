"""Companding: odd, increasing functions that compress large numbers and expand small ones, their inverses and their slopes.

All take a scale a and a bend b: `w = a f(v / b)`. Backward passes are written by hand where that saves passes over the numbers
or keeps a slope finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
