"""BatchNorm folded into the linear map before it, and opened again to measure its statistics anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wbench.errors import FitError


def folded(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Return the linear map that does what a linear map and a BatchNorm in evaluation mode do together.

    Args:
        weight: (out, ...).
        bias: (out,), or `None`.
        norm: Over the outputs, with running statistics.

    Returns:
        Weight, bias, and the factor by which each output's weight was multiplied, (out,).

    Raises:
        FitError: If the norm keeps no running statistics.
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise FitError("a BatchNorm without running statistics cannot be folded; leave its layer out")
    factor = (variance + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight.detach()
    shift = -mean if bias is None else bias.detach() - mean
    offset = shift * factor if norm.bias is None else shift * factor + norm.bias.detach()
    return weight.detach() * factor.view(-1, *(1,) * (weight.ndim - 1)), offset, factor


def reopened(norm: _BatchNorm) -> _BatchNorm:
    """Return a BatchNorm to put behind a linear map into which another was folded: an identity until its statistics change.

    In training mode its statistics become the average over all batches seen.

    Args:
        norm: The one that was folded.

    Returns:
        A new one, whose mean is the offset of the folded one and whose variance is the square of its gain.
    """
    count = norm.num_features
    ones = torch.ones(count) if norm.running_var is None else torch.ones_like(norm.running_var)
    gain = ones if norm.weight is None else norm.weight.detach()
    offset = torch.zeros_like(ones) if norm.bias is None else norm.bias.detach()
    new = type(norm)(count, eps=norm.eps, momentum=None).to(ones.device, ones.dtype)
    with torch.no_grad():
        new.running_mean.copy_(offset)  # type: ignore[union-attr]
        new.running_var.copy_(gain.square())  # type: ignore[union-attr]
        new.weight.copy_((gain.square() + norm.eps).sqrt())
        new.bias.copy_(offset)
    return new.eval()


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorms of a model by name.

    Args:
        model: Any model.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
