"""The Poincaré ball of curvature -c: points x with c |x|^2 < 1, their tangent vectors, and maps between balls.

Notation of Ganea, Bécigneul and Hofmann, 2018, arXiv:1805.09112, and, for fully connected maps, of Shimizu, Mukuta and Harada,
2021, arXiv:2006.08210. Every function works along the last axis, broadcasts over the others and is differentiable by autograd;
the curvature c > 0 is a number or a tensor of one element, which may require a gradient. Single or double precision: near the
boundary half precision cannot tell a point from the rim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wbench.errors import FitError

TINY = 1e-15
MARGIN = {torch.float32: 4e-3, torch.float64: 1e-5}
Curve = Tensor | float


def check_curvature(c: float, who: str) -> float:
    """Return the curvature, refusing one that defines no ball.

    Args:
        c: Curvature.
        who: For the message.

    Raises:
        FitError: Unless it is positive and finite.
    """
    if not (math.isfinite(c) and c > 0):
        raise FitError(f"{who}: curvature c must be positive and finite, got {c}; use e.g. 0.1")
    return c


def check_precision(x: Tensor, who: str) -> Tensor:
    """Return a tensor, refusing precisions that cannot hold the ball's boundary.

    Args:
        x: Any shape.
        who: For the message.

    Raises:
        FitError: Unless it is in float32 or float64.
    """
    if x.dtype not in MARGIN:
        raise FitError(
            f"{who}: half precision is not supported (ball boundary underflows), got {x.dtype}; use float32"
            if x.is_floating_point()
            else f"{who}: the input must be floating, got {x.dtype}; use float32"
        )
    return x


def length(x: Tensor, axis: int = -1) -> Tensor:
    """Return Euclidean lengths, at least 1e-15, with a gradient of 0 at 0.

    Args:
        x: Any shape.
        axis: Of the features; kept with size 1.
    """
    return x.square().sum(axis, keepdim=True).clamp_min(TINY**2).sqrt()


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def conformal(x: Tensor, c: Curve) -> Tensor:
    """Return lambda_x = 2 / (1 - c |x|^2), the ball's local unit of length.

    Args:
        x: Points, (..., n).
        c: Curvature.

    Returns:
        (..., 1).
    """
    return 2.0 / (1.0 - c * _inner(x, x)).clamp_min(TINY)


def project(x: Tensor, c: Curve) -> Tensor:
    """Return points pulled back to the radius (1 - margin) / sqrt(c) where they lie beyond it.

    Args:
        x: Points, (..., n), float32 (margin 4e-3) or float64 (1e-5).
        c: Curvature.
    """
    return x * ((1.0 - MARGIN[x.dtype]) / (c**0.5 * length(x))).clamp_max(1.0)


def mobius_add(x: Tensor, y: Tensor, c: Curve) -> Tensor:
    """Return x (+) y.

    Args:
        x: Points, (..., n).
        y: Points, (..., n).
        c: Curvature.
    """
    xx, yy, xy = _inner(x, x), _inner(y, y), _inner(x, y)
    below = (1 + 2 * c * xy + c**2 * xx * yy).clamp_min(TINY)
    return (1 + 2 * c * xy + c * yy) / below * x + (1 - c * xx) / below * y


def expmap0(v: Tensor, c: Curve) -> Tensor:
    """Return the point that a tangent vector at the origin leads to, projected.

    Args:
        v: Tangent vectors, (..., n).
        c: Curvature.
    """
    scaled = c**0.5 * length(v)
    return v * (torch.tanh(scaled).clamp_max(1.0 - MARGIN[v.dtype]) / scaled)


def logmap0(y: Tensor, c: Curve) -> Tensor:
    """Return the tangent vector at the origin that leads to a point.

    Args:
        y: Points, (..., n).
        c: Curvature.
    """
    scaled = c**0.5 * length(y)
    return y * (torch.atanh(scaled) / scaled)


def leave(x: Tensor, c: Curve) -> Tensor:
    """Return log_0 of projected points.

    Args:
        x: Points, (..., n).
        c: Curvature.
    """
    scaled = c**0.5 * length(x)
    return x * (torch.atanh(scaled.clamp_max(1.0 - MARGIN[x.dtype])) / scaled)


def expmap(x: Tensor, v: Tensor, c: Curve) -> Tensor:
    """Return the point that a tangent vector at x leads to, projected.

    Args:
        x: Points, (..., n).
        v: Tangent vectors at x, (..., n).
        c: Curvature.
    """
    scaled = c**0.5 * length(v)
    step = v * (torch.tanh(conformal(x, c) * scaled / 2) / scaled)
    return project(mobius_add(x, step, c), c)


def logmap(x: Tensor, y: Tensor, c: Curve) -> Tensor:
    """Return the tangent vector at x that leads to y.

    Args:
        x: Points, (..., n).
        y: Points, (..., n).
        c: Curvature.
    """
    way = mobius_add(-x, y, c)
    size = length(way)
    inside = (c**0.5 * size).clamp_max(1.0 - torch.finfo(x.dtype).eps)
    return way * (2.0 / (c**0.5 * conformal(x, c)) * torch.atanh(inside) / size)


def distance(x: Tensor, y: Tensor, c: Curve) -> Tensor:
    """Return the geodesic distance, 2 / sqrt(c) arsinh(sqrt(c lambda_x lambda_y) |x - y| / 2).

    Equal to 2 / sqrt(c) artanh(sqrt(c) |-x (+) y|), without its pole.

    Args:
        x: Points, (..., n).
        y: Points, (..., n).
        c: Curvature.

    Returns:
        (...).
    """
    half = (c * conformal(x, c) * conformal(y, c)).sqrt() * (x - y).norm(dim=-1, keepdim=True) / 2
    return (2.0 / c**0.5 * torch.asinh(half)).squeeze(-1)


def gyration(u: Tensor, v: Tensor, w: Tensor, c: Curve) -> Tensor:
    """Return gyr[u, v] w in closed form; the nested form -(u + v) + (u + (v + w)) loses all digits near the boundary.

    Args:
        u: Points, (..., n).
        v: Points, (..., n).
        w: Tangent vectors, (..., n).
        c: Curvature.
    """
    uu, vv, uv, uw, vw = _inner(u, u), _inner(v, v), _inner(u, v), _inner(u, w), _inner(v, w)
    a = -(c**2) * uw * vv + c * vw + 2 * c**2 * uv * vw
    b = -(c**2) * vw * uu - c * uw
    return w + 2 * (a * u + b * v) / (1 + 2 * c * uv + c**2 * uu * vv).clamp_min(TINY)


def transport(x: Tensor, y: Tensor, v: Tensor, c: Curve) -> Tensor:
    """Return a tangent vector at x, carried along the geodesic to y; its Riemannian length lambda |v| stays.

    Args:
        x: Points, (..., n).
        y: Points, (..., n).
        v: Tangent vectors at x, (..., n).
        c: Curvature.
    """
    return conformal(x, c) / conformal(y, c) * gyration(y, -x, v, c)


def fully_connected(x: Tensor, z: Tensor, r: Tensor, c: Curve) -> Tensor:
    """Return F^c(x; Z, r): signed distances to m hyperplanes, read as coordinates of a point. Not projected.

    With Z = I / 2 and r = 0 it is the identity; for c -> 0 it is 2 x Z - 2 |z_k| r_k.

    Args:
        x: Points, (..., n).
        z: Orientations, (n, m).
        r: Offsets, (m,).
        c: Curvature.

    Returns:
        Points, (..., m).
    """
    root, scale = c**0.5, conformal(x, c)
    w = hyperplanes(x @ z, root * scale, scale, length(z, 0)[0], 2 * root * r) / root
    return w / (1 + (1 + c * _inner(w, w)).sqrt())


def hyperplanes(product: Tensor, factor: Tensor, scale: Tensor, columns: Tensor, turn: Tensor) -> Tensor:
    """Return sqrt(c) w of a fully connected map: hyperbolic sines of signed distances to hyperplanes. All broadcast.

    Args:
        product: Of a vector along x with each column of Z.
        factor: What makes sqrt(c) lambda_x <x, z_k> of the product.
        scale: lambda_x.
        columns: Lengths of Z's columns.
        turn: 2 sqrt(c) r.
    """
    v = torch.asinh(torch.cosh(turn) / columns * product * factor - (scale - 1) * torch.sinh(turn))
    return torch.sinh(2 * columns * v)


def midpoint(x: Tensor, c: Curve, weights: Tensor | None = None) -> Tensor:
    """Return the Poincaré midpoint: closed form, the Fréchet mean of two points, close to it for a tight cloud.

    Args:
        x: Points, (N, n).
        c: Curvature.
        weights: (N,), positive; default: equal.

    Returns:
        (n,).
    """
    scale = conformal(x, c)
    share = torch.ones_like(scale) if weights is None else weights.unsqueeze(-1)
    double = (share * scale * x).sum(0) / (share * (scale - 1)).sum(0).clamp_min(TINY)
    return double / (1 + (1 - c * double.square().sum()).clamp_min(0.0).sqrt())


def frechet_mean(x: Tensor, c: Curve, *, tolerance: float | None = None, most: int = 1000) -> Tensor:
    """Return the point with the least sum of squared distances, by majorisation (Lou et al., 2020, arXiv:2003.00335).

    The squared distance is concave in |x - y|^2 / ((1 - c |x|^2)(1 - c |y|^2)), so each step minimises a weighted sum of these,
    in closed form. The gradient is that of the implicit function: one Newton step from the mean, whose matrix is a constant.

    Args:
        x: Points, (N, n).
        c: Curvature.
        tolerance: Steps shorter than this end the iteration; default 1e-6 in float32, 1e-13 in float64.
        most: Iterations, at most.

    Returns:
        (n,).
    """
    small = tolerance if tolerance is not None else 1e-6 if x.dtype == torch.float32 else 1e-13
    points, curve = x.detach(), c.detach() if isinstance(c, Tensor) else c
    mean, inside = midpoint(points, curve), 1 - curve * _inner(points, points)
    for _ in range(most):
        room = inside * (1 - curve * mean.square().sum())
        s = (curve * (points - mean).square().sum(-1, keepdim=True) / room).sqrt().clamp_min(TINY)
        share = torch.asinh(s) / (s * (1 + s.square()).sqrt()) / inside
        a, b = (share * (1 + curve * _inner(points, points))).sum(), (share * points).sum(0)
        new = 2 * b / (a + (a.square() - 4 * curve * b.square().sum()).clamp_min(0.0).sqrt())
        moved, mean = float((new - mean).norm()), new
        if moved <= small / curve**0.5:
            break
    wanted = x.requires_grad or (isinstance(c, Tensor) and c.requires_grad)
    if not (wanted and torch.is_grad_enabled()):
        return mean
    matrix = torch.autograd.functional.jacobian(lambda m: logmap(m, points, curve).mean(0), mean)
    return mean - torch.linalg.solve(matrix, logmap(mean, x, c).mean(0))


def frechet_variance(x: Tensor, mean: Tensor, c: Curve) -> Tensor:
    """Return the mean squared distance to a point.

    Args:
        x: Points, (N, n).
        mean: The point, (n,).
        c: Curvature.

    Returns:
        A scalar.
    """
    return distance(x, mean, c).square().mean()


def beta_ratio(above: int, below: int) -> float:
    """Return B(above / 2, 1 / 2) / B(below / 2, 1 / 2): how a tangent vector shrinks when parts of it are put together.

    Args:
        above: Features after.
        below: Features before.
    """
    logs = [math.lgamma(a / 2) - math.lgamma((a + 1) / 2) for a in (above, below)]
    return math.exp(logs[0] - logs[1])
