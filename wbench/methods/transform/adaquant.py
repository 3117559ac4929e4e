r"""AdaQuant: Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming.

Itay Hubara, Yury Nahshan, Yair Hanani, Ron Banner, Daniel Soudry, 2020, arXiv:2006.10518.

With a small unlabelled calibration set, each layer's weight, bias and quantiser ranges are trained to reproduce that layer's own
float output; an integer programme says which layers get which precision; statistics are tuned last:

$$ \min_{W, c, R, z} \lVert Y - (q_w(W) * q_x(X) + c) \rVert^2, \qquad
\min_{I} \sum_{l, o} \Delta L_{l,o} I_{l,o} \;\text{ s.t. } \sum_o I_{l,o} = 1,\; \sum_{l,o} n_l b_o I_{l,o} \le 32 \gamma \sum_l n_l $$

$W$: (out, ...); $c$: (out,); $R, z$: (out,) for the weight, scalars for the input; $q$: `wbench.ops.fakequant`. $X$: the layer's
inputs behind the quantised prefix (sequential) or in the float model (parallel), $Y$ its float output, both after the ReLU
where one follows. $\Delta L$: rise of the KL divergence from the float model when one layer leaves the widest option. Our own: the
best iterate on a held-out quarter is kept, the input range's rate is relative to the range, biases stay float.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.method.select import replace_module
from wbench.methods.transform.quantized import Calibration, PostTrainingQuantizer, distill, min_max
from wbench.methods.transform.quantized_layer import Bits, QuantizedLayer, quantized_layers, rate_groups
from wbench.ops.allocate import cheapest_options
from wbench.ops.batchnorm import folded, reopened
from wbench.ops.calibrate import layer_inputs, layer_outputs

if TYPE_CHECKING:
    import pandas as pd

EVERY = 10  # steps between looks at the held-out part
LEAST_RISE = 1e-6
Option = Literal["w8a8", "w6a6", "w5a5", "w4a8", "w4a4", "w3a8", "w3a3", "w2a8", "w2a4", "w2a2"]


def match_layer(
    layer: QuantizedLayer,
    x: Tensor,
    y: Tensor,
    *,
    iters: int,
    groups: list[dict[str, object]],
    batch_size: int,
    rectified: bool,
    rng: torch.Generator,
) -> tuple[float, float]:
    """Train a quantised layer to reproduce float outputs; the best iterate on the last quarter of the samples is kept.

    Args:
        layer: Changed in place.
        x: Inputs, (samples, ...).
        y: Float outputs, (samples, ...).
        iters: Adam steps.
        groups: Parameters with their rates.
        batch_size: Samples a step, drawn without replacement.
        rectified: Whether outputs are compared after a ReLU.
        rng: Draws them.

    Returns:
        Mean squared error on the held-out quarter before and after.
    """

    def error(part: slice | Tensor) -> Tensor:
        ours, theirs = layer(x[part]), y[part]
        return F.mse_loss(*((ours.relu(), theirs.relu()) if rectified else (ours, theirs)))

    fit = len(x) - max(1, len(x) // 4)
    held = slice(fit, None)
    with torch.no_grad():
        first = least = float(error(held))
    best = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.Adam(groups)
    for step in range(1, iters + 1):
        optimizer.zero_grad()
        error(torch.randperm(fit, generator=rng)[:batch_size].to(x.device)).backward()
        optimizer.step()
        if step % EVERY == 0 or step == iters:
            with torch.no_grad():
                now = float(error(held))
            if now < least:
                least, best = now, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best)
    return first, least


class AdaQuant(PostTrainingQuantizer):
    """Quantise a trained model layer by layer against its own float outputs, with a few unlabelled samples.

    Usage:
        `wb.train(task, AdaQuant(bits_w=4, bits_a=4), start=base, recipe=wb.Recipe(steps=0, lr=1e-3, batch_size=32))`: rate and
        batch of the calibration are the recipe's. Mixed precision: `AdaQuant(gamma=0.15, options=("w8a8", "w4a4"))`.
    """

    id: ClassVar[str] = "adaquant"
    title: ClassVar[str] = "AdaQuant: layer-wise calibration and integer programming"
    paper: ClassVar[Paper | None] = Paper(
        "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming",
        "Hubara, Nahshan, Hanani, Banner, Soudry", 2020, "2006.10518", "ICML 2021",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("compression", "quantisation", "post-training", "mixed precision")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    picture: ClassVar[str] = "wbench.plots:calibration"

    iters: int = knob(120, 0, 100_000, scale="log0", slider=(20, 2000), unit="steps", doc="Adam steps of each layer.")
    rate_b: float = knob(1.0, 0.0, 1e6, scale="log0", slider=(0.1, 1e3), doc="Rate of biases, over the recipe's.")
    rate_qw: float = knob(
        1.0, 0.0, 1e6, scale="log0", slider=(0.1, 1e3), doc="Rate of weight ranges, over the recipe's."
    )
    rate_qx: float = knob(
        10.0, 0.0, 1e6, scale="log0", slider=(0.1, 1e4), doc="Rate of input ranges, over the recipe's and the range."
    )
    mode: Literal["sequential", "parallel"] = knob(
        "sequential", doc="Inputs of a layer: behind the layers already quantised, or of the float model."
    )
    relu_aware: bool = knob(True, doc="Compare outputs after the ReLU where one follows.")
    gamma: float | None = knob(
        None,
        0.03,
        1.0,
        slider=(0.0625, 0.25),
        doc="Size of all weights over 32 bits, for mixed precision; none: one precision.",
    )
    options: tuple[Option, ...] = knob(("w8a8", "w4a4"), doc="Precisions the programme may choose from.")
    bn_tuning: bool = knob(True, doc="Measure the statistics of folded BatchNorms anew on the quantised model.")
    bias_tuning: bool = knob(False, doc="Train biases and ranges end to end on the KL divergence, last.")

    def quantize(self, calibration: Calibration, ctx: Context) -> nn.Module:
        if self.iters and len(calibration.x) < 2:
            raise FitError(
                "adaquant: a quarter of the calibration samples is held out, so two at least are needed; got 1"
            )
        if self.gamma is None:
            model = self.calibrated(calibration, (self.bits_w, self.bits_a), ctx)
        else:
            model = self._mixed(calibration, ctx)
        if self.bn_tuning:
            tune_statistics(model, calibration, ctx.recipe.batch_size)
        if self.bias_tuning:
            last = [p for name, p in model.named_parameters() if name.endswith(("bias", "low", "span"))]
            optimizer = torch.optim.SGD(last, lr=ctx.recipe.lr)
            distill(model, calibration, optimizer, self.iters, ctx.recipe.batch_size, ctx.rng)
        return model

    def calibrated(self, calibration: Calibration, bits: Bits, ctx: Context) -> nn.Module:
        """Return the model quantised at one precision, each layer matched to its float output.

        Args:
            calibration: The float model.
            bits: Of weights and inputs.
            ctx: The run: rate, batch size, generator.
        """
        model = min_max(calibration, self.precision(calibration, bits))
        seeds = {name: int(torch.randint(2**62, (1,), generator=ctx.rng)) for name in sorted(calibration.layers)}
        modules, rows = dict(calibration.reference.named_modules()), []
        for name in calibration.layers:
            layer = quantized_layers(model)[name]
            y = layer_outputs(calibration.reference, {name: modules[name]}, calibration.x)[name]
            source = (model, layer) if self.mode == "sequential" else (calibration.reference, modules[name])
            x = layer_inputs(source[0], {name: source[1]}, calibration.x)[name]
            errors = match_layer(
                layer, x, y, iters=self.iters, batch_size=ctx.recipe.batch_size,
                groups=rate_groups({name: layer}, ctx.recipe.lr, self.rate_b, self.rate_qw, self.rate_qx),
                rectified=self.relu_aware and name in calibration.rectified, rng=torch.Generator().manual_seed(seeds[name]),
            )  # fmt: skip
            level = float((y.relu() if self.relu_aware and name in calibration.rectified else y).square().mean())
            rows.append({
                "layer": name,
                **{k: (e / level) ** 0.5 for k, e in zip(("before", "after"), errors, strict=True)},
            })
        ctx.state[f"adaquant.noise.{bits}"] = rows
        return model

    def _mixed(self, calibration: Calibration, ctx: Context) -> nn.Module:
        pairs = sorted({_bits(option) for option in self.options}, reverse=True)
        models = {bits: self.calibrated(calibration, bits, ctx) for bits in pairs}
        held = {bits: quantized_layers(model) for bits, model in models.items()}
        base = models[pairs[0]]
        start = calibration.divergence(base)
        rises, sizes = [], []
        for name in calibration.layers:
            row = [0.0]
            for bits in pairs[1:]:
                replace_module(base, name, held[bits][name])
                row.append(max(calibration.divergence(base) - start, LEAST_RISE))
            replace_module(base, name, held[pairs[0]][name])
            rises.append(row)
            sizes.append([held[b][name].layer.weight.numel() * held[b][name].precision[0] for b in pairs])  # type: ignore[union-attr,operator]
        numbers = sum(held[pairs[0]][name].layer.weight.numel() for name in calibration.layers)  # type: ignore[union-attr,operator,misc]
        chosen = cheapest_options(rises, sizes, 32 * (self.gamma or 0.0) * numbers)
        for name, option in zip(calibration.layers, chosen, strict=True):
            replace_module(base, name, held[pairs[option]][name])
        ctx.log("predicted_rise", sum(row[option] for row, option in zip(rises, chosen, strict=True)))
        ctx.log("measured_rise", calibration.divergence(base) - start)
        ctx.log("bits_per_weight", sum(row[o] for row, o in zip(sizes, chosen, strict=True)) / numbers)
        return base

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return each layer's precision and noise, the root mean squared error of its output over that output's own.

        Columns: layer, bits_w, bits_a, bytes (of its weight), before and after (the noise on held-out samples with min-max ranges
        and after calibration); nothing before `finish`.
        """
        import pandas as pd

        state, rows = Context.of(ctx).state, []
        noise = {
            (key, row["layer"]): row for key, found in state.items() if key.startswith("adaquant.") for row in found
        }
        for name, layer in quantized_layers(model).items():
            options = [key for key, at in noise if at == name]
            own = noise.get((f"adaquant.noise.{layer.precision}", name)) or (noise[options[0], name] if options else {})
            size = layer.layer.weight.numel() * layer.precision[0] / 8  # type: ignore[union-attr,operator]
            values = {key: own.get(key, float("nan")) for key in ("before", "after")}
            rows.append({
                "layer": name,
                "bits_w": layer.precision[0],
                "bits_a": layer.precision[1],
                "bytes": size,
                **values,
            })
        return pd.DataFrame(rows) if rows else None


def tune_statistics(model: nn.Module, calibration: Calibration, batch_size: int) -> None:
    """Measure the statistics of folded BatchNorms anew behind the quantised layers, and fold them again.

    Args:
        model: The quantised model; changed in place.
        calibration: The folded norms and the data.
        batch_size: Samples in one pass; the statistics are the average over the passes.
    """
    opened: Mapping[str, tuple[QuantizedLayer, nn.modules.batchnorm._BatchNorm]] = {
        name: (quantized_layers(model)[name], reopened(norm)) for name, norm in calibration.norms.items()
    }
    with torch.no_grad():
        for name, (layer, norm) in opened.items():
            replace_module(model, name, nn.Sequential(layer, norm.train()))
        parts = calibration.x.split(batch_size)
        for part in parts if len(parts[-1]) > 1 or len(parts) == 1 else parts[:-1]:
            model(part)
        for name, (layer, norm) in opened.items():
            weight, bias, factor = folded(layer.layer.weight, layer.layer.bias, norm.eval())  # type: ignore[arg-type]
            layer.layer.weight.copy_(weight)  # type: ignore[operator]
            layer.layer.bias.copy_(bias)  # type: ignore[operator]
            shape = layer.w_span.shape
            layer.set_range("w", (layer.w_low * factor.view(shape), layer.w_span * factor.view(shape)))
            replace_module(model, name, layer)


def _bits(option: str) -> Bits:
    weights, _, inputs = option.removeprefix("w").partition("a")
    return int(weights), int(inputs)
