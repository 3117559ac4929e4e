r"""ReSTE: Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural Networks Training.

Xiao-Ming Wu, Dian Zheng, Zu-Hao Liu, Wei-Shi Zheng, 2023, arXiv:2308.06689.

Weights and layer inputs are signs; their gradient is that of a power function which lies between the straight-through
estimator ($o = 1$) and the sign itself ($o \to \infty$). A sharper one is closer to the sign but makes the gradients vary
more, so $o$ is raised slowly to a moderate value:

$$ f_o(x) = \mathrm{sgn}(x) |x|^{1/o}, \qquad
   \frac{\partial L}{\partial x} = g \cdot \begin{cases} m^{1/o} / m & |x| \le m \\ \frac1o |x|^{(1-o)/o} & m < |x| \le t \\ 0 & |x| > t
   \end{cases}, \qquad o = 1 + (1 - \cos \tfrac{\pi e}{2 E}) (o_{end} - 1) $$

A layer computes $y = \mathrm{sgn}(a) * (s\, \mathrm{sgn}(W))$ with $s$ the mean of $|W|$, kept in the graph. $a$: the layer's
input, $W$: its weight, $g$: the gradient of the sign, $e / E$: share of training done. $\mathrm{sgn}(0) = +1$ here, where the
authors' code leaves 0 as it is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from wbench.errors import FitError, KnobError
from wbench.method import Context, Paper, QuantizedLayers, knob
from wbench.ops.rounding import sign
from wbench.recipe import Recipe
from wbench.splits import Batch

if TYPE_CHECKING:
    import pandas as pd

LOG_EVERY = 10  # steps between records of the two indicators


def power(x: Tensor, o: Tensor | float) -> Tensor:
    r"""Return $f_o(x) = \mathrm{sgn}(x)|x|^{1/o}$, the function whose slope the backward pass takes.

    Args:
        x: Any shape.
        o: At least 1; scalar.

    Returns:
        Shape of `x`.
    """
    return sign(x) * x.abs() ** (1.0 / o)


def estimator_slope(x: Tensor, o: Tensor | float, t: float = 1.5, m: float = 0.1) -> Tensor:
    """Return the slope of the estimator: flat up to `m`, that of the power function up to `t`, then 0.

    Args:
        x: Any shape; computed in float32 at least.
        o: Power, at least 1; scalar.
        t: Clip threshold.
        m: Half-width of the plateau, below `t`.

    Returns:
        Shape of `x`.
    """
    wide = (x if x.dtype == torch.float64 else x.float()).abs()
    o = torch.as_tensor(o, dtype=wide.dtype, device=wide.device)
    curve = wide.clamp_min(m) ** ((1.0 - o) / o) / o  # never taken at 0, where it is infinite
    plateau = m ** (1.0 / o - 1.0)
    return torch.where(wide <= m, plateau, torch.where(wide <= t, curve, 0.0)).to(x.dtype)


def binarize(x: Tensor, o: Tensor, t: float = 1.5, m: float = 0.1) -> Tensor:
    """Return signs whose gradient is `estimator_slope`'s.

    Args:
        x: Any shape.
        o: Power, a scalar tensor.
        t: As in `estimator_slope`.
        m: As in `estimator_slope`.

    Returns:
        -1 or +1, shape of `x`.
    """
    return _Sign.apply(x, o, t, m)  # type: ignore[no-untyped-call,no-any-return]


class _Sign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, o: Tensor, t: float, m: float) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, o, ctx.t, ctx.m = inputs
        ctx.save_for_backward(x, o)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, o = ctx.saved_tensors
        return grad * estimator_slope(x, o, ctx.t, ctx.m), None, None, None


class BinaryWeight(nn.Module):
    """The parametrisation of one weight: its signs times their mean absolute value.

    Args:
        method: Constants.
        scaled: `layer_mean_abs`, `channel_mean_abs` or `none`.
    """

    o: Tensor

    def __init__(self, method: ReSTE, scaled: str) -> None:
        super().__init__()
        self.t, self.m, self.scaled = method.t, method.m, scaled
        self.register_buffer("o", torch.ones(()))

    def forward(self, v: Tensor) -> Tensor:
        """Return -s or +s; input the latent weight, any shape."""
        signs = binarize(v, self.o, self.t, self.m)
        if self.scaled == "none":
            return signs
        if self.scaled == "layer_mean_abs":
            return signs * v.abs().mean()
        return signs * v.abs().mean(tuple(range(1, v.ndim)), keepdim=True)


class BinaryInput(nn.Module):
    """The signs of a layer's input.

    Args:
        method: Constants.
    """

    o: Tensor

    def __init__(self, method: ReSTE) -> None:
        super().__init__()
        self.t, self.m = method.t, method.m
        self.register_buffer("o", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return -1 or +1; input any shape."""
        return binarize(x, self.o, self.t, self.m)


class ReSTE(QuantizedLayers):
    """Binary weights, and layer inputs, with the rectified straight-through estimator; the first and last layer stay as they are.

    Usage:
        `wb.train("digits", ReSTE(o_end=3), ...)` on a model with normalised layer inputs, which have both signs.
    """

    id: ClassVar[str] = "reste"
    title: ClassVar[str] = "ReSTE: rectified straight-through estimator"
    paper: ClassVar[Paper | None] = Paper(
        "Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural Networks Training",
        "Wu, Zheng, Liu, Zheng", 2023, "2308.06689", "ICCV 2023",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("binarization", "straight-through estimator", "one bit")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    vectorizes: ClassVar[bool] = True
    spares_ends: ClassVar[bool] = True
    picture: ClassVar[str] = "wbench.plots:estimator"

    layers: str | tuple[str, ...] = knob(
        "*", doc="Globs of binary layers; '*' leaves out the model's first and last, as the paper does."
    )
    o_end: float = knob(3.0, 1.0, 1000.0, scale="log", slider=(1.0, 30.0), doc="Power at the end; 1: plain STE.")
    o_schedule: Literal["cos", "const"] = knob("cos", doc="How the power is reached: raised from 1, or there at once.")
    t: float = knob(1.5, 0.01, 100.0, slider=(0.5, 3.0), doc="Values beyond it get no gradient.")
    m: float = knob(0.1, 1e-6, 10.0, scale="log", slider=(0.01, 0.5), doc="Half-width of the plateau around zero.")
    binarize_act: bool = knob(True, doc="Binarise the layers' inputs too (1/1), or the weights alone (1/32).")
    scale_mode: Literal["layer_mean_abs", "channel_mean_abs", "none"] = knob(
        "layer_mean_abs",
        doc="What multiplies the signs: mean |W| of the layer (as the authors), of each channel, nothing.",
    )

    @model_validator(mode="after")
    def _plateau_inside(self) -> Self:
        if self.m >= self.t:
            raise KnobError(f"reste: m={self.m:g} must be smaller than t={self.t:g}: need 0 < m < t")
        return self

    def power_at(self, progress: float) -> float:
        """Return the power o at a share of training.

        Args:
            progress: From 0 to 1.
        """
        if self.o_schedule == "const":
            return self.o_end
        return 1.0 + (1.0 - math.cos(0.5 * math.pi * progress)) * (self.o_end - 1.0)

    def weight_quantizer(self, weight: Tensor, name: str) -> nn.Module:
        if not weight.is_floating_point() or not weight.numel():
            raise FitError(
                f"reste: layer '{name}' has weights of {weight.dtype}, shape {tuple(weight.shape)}; float ones only"
            )
        if self.scale_mode != "none" and not bool(weight.any()):
            raise FitError(f"reste: layer '{name}' has all-zero weights; mean|W| as a scale would keep it at zero")
        return BinaryWeight(self, self.scale_mode)

    def input_quantizer(self, layer: nn.Module, name: str) -> nn.Module | None:
        return BinaryInput(self) if self.binarize_act else None

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        model = super().prepare(model, ctx)
        self._set_power(model, self.power_at(Context.of(ctx).progress))
        return model

    def before_step(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> None:
        if self.o_schedule == "cos":
            self._set_power(model, self.power_at(Context.of(ctx).progress))

    def _set_power(self, model: nn.Module, o: float) -> None:
        for part in self.quantizers(model).values():
            part.o.fill_(o)

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Log both indicators of the paper every ten steps: `estimating_error` (at the current power) and `instability`."""
        if ctx is None or ctx.sink is None or ctx.step % LOG_EVERY:
            return
        error = variance = 0.0
        for part, latent in self._latents(model):
            error += float((power(latent.detach(), part.o) - sign(latent.detach())).norm())
            if latent.grad is not None:
                variance += float(latent.grad.abs().var())
        ctx.log("estimating_error", error)
        ctx.log("instability", variance)

    def _latents(self, model: nn.Module) -> list[tuple[BinaryWeight, Tensor]]:
        forms = self.restore_forms(model).items()
        return [(part, model.get_submodule(name).parametrizations["weight"].original) for name, part in forms]  # type: ignore[misc]

    def packed_bytes(self, model: nn.Module, ctx: Context | None = None) -> dict[str, int]:
        """Return the weights' bytes with one bit a sign and one float32 a scale; everything else as it is."""
        total = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
        for part, latent in self._latents(model):
            scales = {"none": 0, "layer_mean_abs": 1, "channel_mean_abs": len(latent)}[part.scaled]
            total += -(-latent.numel() // 8) + 4 * scales - latent.numel() * latent.element_size()
        powers = [tensor for part in self.quantizers(model).values() for tensor in part.buffers()]
        return {"weights": total - sum(tensor.element_size() for tensor in powers)}

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the estimator and the latent weights of each binary layer along x.

        Columns: layer, x, estimate (f_o), slope, density (of the latent weights), o.
        """
        import pandas as pd

        at = torch.linspace(-1.2 * self.t, 1.2 * self.t, 121)
        frames = []
        for name, (part, weight) in zip(self.restore_forms(model), self._latents(model), strict=True):
            latent, o = weight.detach().flatten().float().cpu(), part.o.float().cpu()
            counts = torch.histc(latent, len(at), float(at[0]), float(at[-1])) / latent.numel() / float(at[1] - at[0])
            frames.append(pd.DataFrame({
                "layer": name, "x": at.numpy(), "estimate": power(at, o).numpy(),
                "slope": estimator_slope(at, o, self.t, self.m).numpy(), "density": counts.numpy(), "o": float(o),
            }))  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else None
