"""Points of a Poincaré ball to test on."""

import torch

from wbench.ops import poincare as ball

F64 = torch.float64
C = 0.1


def normal(*shape, seed=0, scale=1.0, dtype=F64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def points(count=50, width=8, *, scale=1.0, c=C, seed=0, dtype=F64):
    return ball.expmap0(normal(count, width, seed=seed, scale=scale, dtype=dtype), c)
