r"""OFQ: Oscillation-free Quantization for Low-bit Vision Transformers.

Shih-Yang Liu, Zechun Liu, Kwang-Ting Cheng, 2023, arXiv:2302.02210.

In quantisation-aware training weights near a threshold keep flipping between two levels. Three parts, each with a switch:
a scale from the weights' statistics instead of a learned one (StatsQ), a last phase in which only weights close to a
threshold may move (CGA), and attention that quantises the product of query and key projections instead of each (QKR):

$$ W_q = \alpha \frac{\lfloor W n / \alpha \rfloor + 1/2}{n}, \quad \alpha = 2\, \mathrm{mean}_j |W_{ij}|, \quad n = 2^{b-1}; \qquad
   M_h = W_Q^{h\top} W_K^h, \quad \mathrm{logits} = x\, Q(M_h)\, x^\top / \sqrt{d_h} $$

$W$: (O, I), a scale a row, without gradient; the gradient of $W_q$ passes to $W$ whole. $M_h$: (D, D) for each head, the rows
of all heads each with a scale. CGA: before each step a weight is free if it is within `boundary_range` steps of a threshold;
the others are put back after it. Query and key biases are dropped by QKR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob, replace_module
from wbench.methods.parametrization.joint_attention import JointAttention
from wbench.methods.parametrization.learned_activations import LearnedActivation, LearnedActivations
from wbench.methods.parametrization.lsq import LearnedWeight
from wbench.ops.lattice import note_flips, stats_codes, stats_quantize, stats_scale, threshold_distance
from wbench.recipe import Recipe
from wbench.splits import Batch

if TYPE_CHECKING:
    import pandas as pd

WINDOW = 100  # last steps over which repeated oscillations are counted
OFTEN = 0.005  # running frequency from which a weight counts as oscillating


class Watch(nn.Module):
    """Counts flips of a weight's code.

    Args:
        codes: At the start.
    """

    before: Tensor
    direction: Tensor
    frequency: Tensor
    count: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("before", codes.clone())
        for name in ("direction", "frequency", "count"):
            self.register_buffer(name, torch.zeros_like(codes))

    def note(self, codes: Tensor, momentum: float) -> Tensor:
        """Take in the codes after a step.

        Args:
            codes: Whole numbers.
            momentum: Of the running frequency of oscillations.

        Returns:
            Share of weights that changed their code.
        """
        flips, oscillations = note_flips(codes, self.before, self.direction)
        self.frequency.lerp_(oscillations.to(self.frequency.dtype), momentum)
        self.count += oscillations
        return flips.to(codes.dtype).mean()


class StatsWeight(nn.Module):
    """The parametrisation of one weight by StatsQ.

    Args:
        bits: Of a code.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, v: Tensor) -> Tensor:
        """Return the weight on its levels; input the latent weight."""
        return stats_quantize(v, self.bits)

    def codes(self, v: Tensor) -> Tensor:
        """Return the whole numbers that stand for a weight.

        Args:
            v: The latent weight.
        """
        return stats_codes(v, stats_scale(v), self.bits)


class OFQ(LearnedActivations):
    """Quantisation-aware training of transformers without oscillating weights: StatsQ, CGA and QKR, each with a switch.

    Usage:
        `wb.train(wb.tasks.Digits(architecture="vit"), OFQ(bits=2), start=float_run, recipe=...)`
    """

    id: ClassVar[str] = "ofq"
    title: ClassVar[str] = "OFQ: oscillation-free quantisation"
    paper: ClassVar[Paper | None] = Paper(
        "Oscillation-free Quantization for Low-bit Vision Transformers",
        "Liu, Liu, Cheng",
        2023,
        "2302.02210",
        "ICML 2023",
    )
    topics: ClassVar[tuple[str, ...]] = ("quantization-aware training", "few bits", "transformers", "oscillation")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    picture: ClassVar[str] = "wbench.plots:thresholds"

    weight_quant: Literal["statsq", "lsq"] = knob(
        "statsq", doc="Scale of the weights: from their statistics, or learned."
    )
    qkr: bool = knob(True, doc="Quantise the product of query and key projections, where the model has such attention.")
    boundary_range: float = knob(
        0.005,
        0.0,
        0.5,
        scale="log0",
        slider=(0.001, 0.1),
        unit="steps",
        doc="Distance from a threshold within which CGA lets weights move.",
    )
    cga_steps: int | None = knob(
        None,
        0,
        10_000_000,
        scale="log0",
        slider=(1, 1000),
        unit="steps",
        doc="Last steps under CGA; none: a tenth of the run, 0: off.",
    )
    cga_qk: Literal["free", "entry"] = knob(
        "free",
        doc="In CGA the product's weights stay free (as in the code), or entries away from a threshold pass no gradient.",
    )
    osc_momentum: float = knob(
        0.01, 1e-4, 1.0, scale="log", slider=(0.001, 0.1), doc="Of the running frequency of oscillations."
    )

    def weight_quantizer(self, weight: Tensor, name: str) -> nn.Module:
        return StatsWeight(self.bits) if self.weight_quant == "statsq" else LearnedWeight(weight, self.bits)

    def _quantize_activations(self, model: nn.Module) -> nn.Module:
        model = super()._quantize_activations(model)
        for name, layer in model.named_modules():
            if isinstance(layer, JointAttention) and self.act_bits is not None:
                self._core(layer, name, self.act_bits, layer.width, layer.causal, joint=layer.width)
                layer.inputs = LearnedActivation(
                    f"{self.id}: the input of '{name}'", self.act_bits, (layer.width,), self.act_scale
                )
                layer.inputs.wbench_owner = self.id  # type: ignore[assignment]
        return model

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        if self.cga_steps and self.weight_quant != "statsq":
            raise FitError("ofq: cga_steps needs StatsQ's thresholds: weight_quant='statsq', or cga_steps=0")
        model = super().prepare(model, ctx)
        for part, latent in self._quantised(model):
            part.add_module("watch", Watch(part.codes(latent.detach())))
        for layer in _joint(model):
            layer.add_module("watch", Watch(self._product_codes(layer)))
        return model

    def arranged(self, model: nn.Module) -> nn.Module:
        chosen = self.select(model)
        for name, module in list(model.named_modules()):
            if not self.qkr or not all(f"{name}.{part}" in chosen for part in ("q", "k", "v")):
                continue
            weights: list[Any] = [chosen[f"{name}.{part}"].weight for part in ("q", "k")]
            shapes = {tuple(weight.shape) for weight in weights}
            if len(shapes) > 1 or not hasattr(module, "heads") or not hasattr(getattr(module, "core", None), "causal"):
                raise FitError(
                    f"ofq: qkr needs attention with q and k of one shape, heads and a core; '{name}' has {sorted(shapes)}; set qkr=False"
                )
            model = replace_module(model, name, JointAttention(module, self.bits, self.boundary_range))
        return model

    def _product_codes(self, layer: JointAttention) -> Tensor:
        rows = layer.rows().detach()
        return stats_codes(rows, stats_scale(rows), self.bits)

    def _quantised(self, model: nn.Module) -> list[tuple[Any, Tensor]]:
        forms = self.restore_forms(model).items()
        return [(part, model.get_submodule(name).parametrizations["weight"].original) for name, part in forms]

    def _annealing(self, ctx: Context) -> bool:
        if self.weight_quant != "statsq":
            return False
        steps = ctx.total_steps // 10 if self.cga_steps is None else self.cga_steps
        return ctx.step >= ctx.total_steps - steps

    def before_step(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> None:
        """Start counting anew for the last steps; tell joint attention when its entries freeze."""
        context = Context.of(ctx)
        if context.step == max(0, context.total_steps - WINDOW):
            for watch in _watches(model):
                watch.count.zero_()
        if self.cga_qk == "entry" and self._annealing(context):
            for layer in _joint(model):
                layer.annealing.fill_(True)

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Under CGA keep the weights that may not move, and take their gradients away."""
        if not self._annealing(Context.of(ctx)):
            return
        for part, latent in self._quantised(model):
            frozen = threshold_distance(latent, self.bits) > self.boundary_range
            if latent.grad is not None:
                latent.grad.masked_fill_(frozen, 0.0)
            part.kept = (frozen, latent.detach().clone())

    def after_step(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Put frozen weights back, which decay and momentum have moved; count flips and log them."""
        context = Context.of(ctx)
        flips = []
        with torch.no_grad():
            for part, latent in self._quantised(model):
                if getattr(part, "kept", None) is not None:
                    frozen, values = part.kept
                    latent.copy_(torch.where(frozen, values, latent))
                    part.kept = None
                flips.append(part.watch.note(part.codes(latent), self.osc_momentum))
            for layer in _joint(model):
                flips.append(layer.get_submodule("watch").note(self._product_codes(layer), self.osc_momentum))  # type: ignore[operator]
        if context.sink is not None:
            sizes = [watch.before.numel() for watch in _watches(model)]
            context.log("flips", sum(float(f) * n for f, n in zip(flips, sizes, strict=True)) / sum(sizes))
            if context.step == context.total_steps:
                repeated = sum(int((watch.count >= 2).sum()) for watch in _watches(model))
                context.log("oscillating", repeated / sum(sizes))

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        for layer in _joint(model):
            layer.bake()
            del layer.watch, layer._buffers["annealing"]
        return super().finish(model, ctx)

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        model = self.arranged(model)
        for layer in _joint(model):
            layer.bake(torch.zeros(layer.heads, layer.width, layer.width))
            del layer._buffers["annealing"]
        return super().restore(model, state)

    def packed_bytes(self, model: nn.Module, ctx: Context | None = None) -> dict[str, int]:
        """Return the weights' bytes with `bits` a code and one float32 a row; everything else as it is."""
        total: int = sum(param.numel() * param.element_size() for param in model.parameters())
        held = [latent for _, latent in self._quantised(model)]
        for latent in held:
            total += -(-latent.numel() * self.bits // 8) + 4 * len(latent) - latent.numel() * latent.element_size()
        for layer in _joint(model):
            rows = layer.heads * layer.width
            total += -(-rows * layer.width * self.bits // 8) + 4 * rows
            total -= sum(part.numel() * part.element_size() for part in layer.factors())
        return {"weights": total}

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return where the weights lie between thresholds.

        Columns: layer, place (weight in steps, thresholds at whole numbers), share (of the layer's weights, per bin), near (share
        within the boundary range of a threshold), oscillating (share whose running frequency exceeds 0.005).
        """
        import pandas as pd

        frames, half = [], 2 ** (self.bits - 1)
        forms = self.restore_forms(model)
        for name, (part, latent) in zip(forms, self._quantised(model), strict=True):
            place = (latent.detach() / stats_scale(latent) * half).flatten().float().cpu()
            reach = 1.6 * half
            counts = torch.histc(place, 160, -reach, reach) / place.numel()
            centres = torch.linspace(-reach, reach, 161)
            frames.append(pd.DataFrame({
                "layer": name, "place": ((centres[1:] + centres[:-1]) / 2).numpy(), "share": counts.numpy(),
                "near": float((threshold_distance(latent, self.bits) <= self.boundary_range).float().mean()),
                "oscillating": float((part.watch.frequency > OFTEN).float().mean()),
            }))  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else None


def _joint(model: nn.Module) -> list[JointAttention]:
    return [module for module in model.modules() if isinstance(module, JointAttention)]


def _watches(model: nn.Module) -> list[Watch]:
    return [module for module in model.modules() if isinstance(module, Watch)]
