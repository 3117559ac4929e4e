"""What post-training quantisers share: layers on learned grids, BatchNorm folded first, one small calibration set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from wbench.errors import FitError
from wbench.method import Context, knob
from wbench.method.base import Stage
from wbench.method.layerwise import LINEAR_AND_CONV, LayerwiseMethod
from wbench.method.select import replace_module, tied_layers
from wbench.methods.transform.quantized_layer import Bits, QuantizedLayer, quantized_layers
from wbench.ops.batchnorm import batch_norms, folded
from wbench.ops.calibrate import layer_inputs
from wbench.ops.fakequant import clipped_weight_range, input_range
from wbench.ops.graph import Consumer, consumers


@dataclass
class Calibration:
    """A float model ready to be quantised, and what is known of it.

    Attributes:
        reference: The model with its BatchNorms folded, in evaluation mode.
        x: Calibration inputs, (samples, ...).
        output: What the reference makes of them.
        layers: Names of the layers to quantise, in the order of their first call.
        norms: Layer name to the BatchNorm that was folded into it.
        rectified: Names of layers whose output goes into a ReLU and nowhere else.
    """

    reference: nn.Module
    x: Tensor
    output: Tensor
    layers: list[str]
    norms: dict[str, _BatchNorm]
    rectified: set[str]

    def divergence(self, model: nn.Module) -> float:
        """Return the mean KL divergence of a model's predictions from the reference's on the calibration set, in nats.

        Args:
            model: The quantised model.
        """
        with torch.no_grad():
            return float(kl(model(self.x), self.output))


def kl(output: Tensor, reference: Tensor) -> Tensor:
    """Return the mean KL divergence of softmax predictions from those of a reference, in nats.

    Args:
        output: Logits, (..., classes).
        reference: Of the same shape.
    """
    ours, theirs = (F.log_softmax(logits.flatten(0, -2), dim=-1) for logits in (output, reference))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class PostTrainingQuantizer(LayerwiseMethod):
    """Quantise a trained model's weights and inputs with a few unlabelled samples: overrides `quantize`.

    The rates of whatever is optimised are those of the run's recipe, whose own `steps` is 0.
    """

    stage: ClassVar[Stage] = "transform"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    topics: ClassVar[tuple[str, ...]] = ("compression", "quantisation", "post-training")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR_AND_CONV

    bits_w: int = knob(4, 2, 16, slider=(2, 8), unit="bits", doc="Bits of weights.")
    bits_a: int = knob(4, 2, 16, slider=(2, 8), unit="bits", doc="Bits of each layer's inputs.")
    calib_size: int = knob(64, 1, 65_536, scale="log", slider=(16, 1000), unit="samples", doc="Calibration samples.")
    keep_ends: bool = knob(False, doc="Keep the first and the last layer at 8 bits.")

    @abstractmethod
    def quantize(self, calibration: Calibration, ctx: Context) -> nn.Module:
        """Return the quantised model.

        Args:
            calibration: The float model and what is known of it.
            ctx: The run.
        """

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        context = Context.of(ctx)
        tied, layers = set(tied_layers(model)), self.select(model)
        for name, layer in layers.items():
            if name in tied:
                raise FitError(f"{self.id}: the weight of layer '{name}' is tied; exclude it: layers=('*', '!{name}')")
            if not bool(torch.isfinite(layer.weight).all()):  # type: ignore[arg-type]
                raise FitError(f"{self.id}: the weight of layer '{name}' is not finite; it has no range")
        x = context.calibration(self.calib_size)[0]
        with torch.enable_grad():
            model = self.quantize(calibrate(model, list(layers), x, self.id), context)
        with torch.no_grad():
            for quantized in quantized_layers(model).values():
                quantized.layer.weight.copy_(quantized.merged_weight())  # type: ignore[operator,union-attr]
        return model

    def precision(self, calibration: Calibration, bits: Bits) -> dict[str, Bits]:
        """Return the bits of each layer: 8 at least for depthwise convolutions, and for both ends where they are kept.

        Args:
            calibration: As in `quantize`.
            bits: Of all others.
        """
        ends = {calibration.layers[0], calibration.layers[-1]} if self.keep_ends else set()
        wide: Bits = (max(8, bits[0]), max(8, bits[1]))
        modules = dict(calibration.reference.named_modules())
        depthwise = {n for n in calibration.layers if 1 < getattr(modules[n], "groups", 1) == modules[n].in_channels}
        return {name: wide if name in ends | depthwise else bits for name in calibration.layers}

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        for name in batch_norms(model):
            if f"{name}.running_mean" not in state:
                model = replace_module(model, name, nn.Identity())
        for name, layer in self.select(model).items():
            if layer.bias is None and f"{name}.layer.bias" in state:
                layer.bias = nn.Parameter(torch.zeros_like(state[f"{name}.layer.bias"]))
            model = replace_module(model, name, QuantizedLayer(layer, (8, 8)))
        return super().restore(model, state)

    def size(self, model: nn.Module) -> float:
        """Return the bytes of a quantised model's weights at their bits, ranges and all other layers left out.

        Args:
            model: As `finish` or `restore` left it.
        """
        found = quantized_layers(model).values()
        return sum(part.layer.weight.numel() * part.precision[0] / 8 for part in found)  # type: ignore[union-attr,operator,misc]


def calibrate(model: nn.Module, layers: list[str], x: Tensor, who: str = "quantisation") -> Calibration:
    """Fold a model's BatchNorms and find out what its layers feed.

    Args:
        model: The trained model; changed in place.
        layers: Names of the layers to quantise.
        x: Calibration inputs.
        who: For messages.

    Returns:
        What a quantiser needs.

    Raises:
        FitError: If calibration never calls a layer, or a BatchNorm is there and the model cannot be traced.
    """
    model.eval()
    follows = _followers(model, who)
    norms = {}
    for name in layers:
        norm = follows[name].name if name in follows and follows[name].kind == "norm" else ""
        module = model.get_submodule(norm) if norm else None
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            layer, norms[name] = model.get_submodule(name), module
            weight, bias, _ = folded(layer.weight, layer.bias, module)  # type: ignore[arg-type]
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            model = replace_module(model, norm, nn.Identity())
    rectified = {name for name, after in _followers(model, who).items() if after.type_name in {"ReLU", "relu", "relu_"}}
    called: dict[str, None] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.setdefault(name))
        for name in layers
    ]
    with torch.no_grad():
        output = model(x)
    for handle in handles:
        handle.remove()
    for name in layers:
        if name not in called:
            raise FitError(f"{who}: calibration never calls layer '{name}'; exclude it: layers=('*', '!{name}')")
    return Calibration(model, x, output, list(called), norms, rectified)


def _followers(model: nn.Module, who: str) -> dict[str, Consumer]:
    try:
        return consumers(model)
    except RuntimeError as error:
        if batch_norms(model):
            raise FitError(f"{who}: BatchNorms are folded first, but {error}") from None
        return {}  # nothing to fold, and outputs are compared as they are


def min_max(calibration: Calibration, bits: Mapping[str, Bits], clip: Literal["none", "mse"] = "none") -> nn.Module:
    """Return a copy of the reference whose layers are quantised over the ranges of their weights and inputs.

    Args:
        calibration: The reference and its data.
        bits: Of weights and inputs, by layer.
        clip: `mse` narrows each channel's range to what leaves the least squared error.
    """
    model = copy.deepcopy(calibration.reference)
    modules = {name: model.get_submodule(name) for name in bits}
    seen = layer_inputs(model, modules, calibration.x)
    for name, layer in modules.items():
        quantized = QuantizedLayer(layer, bits[name], name in calibration.norms)
        quantized.set_range("x", input_range(seen[name]))
        if clip == "mse":
            quantized.set_range("w", clipped_weight_range(layer.weight, bits[name][0]))  # type: ignore[arg-type]
        model = replace_module(model, name, quantized)
    return model.eval()


def distill(
    model: nn.Module,
    calibration: Calibration,
    optimizer: torch.optim.Optimizer,
    steps: int,
    batch_size: int,
    rng: torch.Generator,
) -> None:
    """Train a quantised model end to end to predict what the float model predicts.

    Args:
        model: Changed in place, in evaluation mode.
        calibration: The float model's predictions.
        optimizer: Over the parameters to train.
        steps: Of it.
        batch_size: Samples a step, drawn without replacement.
        rng: Draws them.
    """
    for _ in range(steps):
        part = torch.randperm(len(calibration.x), generator=rng)[:batch_size].to(calibration.x.device)
        optimizer.zero_grad()
        kl(model(calibration.x[part]), calibration.output[part]).backward()
        optimizer.step()
