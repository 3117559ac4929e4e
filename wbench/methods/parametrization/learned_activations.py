"""Activations by LSQ: step sizes a token or a channel, set by the first batch and trained; inside attention too.

Where they stand is that of OFQ's code (arXiv:2302.02210): inputs of linear layers; in attention queries, keys (or, of joint attention,
inputs times product), values and probabilities. Probabilities and what follows a GELU have no negative codes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import DataError, FitError
from wbench.method import Context, QuantizedLayers, knob
from wbench.method.layerwise import LINEAR
from wbench.ops.lattice import learned_quantize, learned_start
from wbench.recipe import Recipe

By = Literal["token", "channel"]


class LearnedActivation(nn.Module):
    """One tensor of a network, quantised: round(clamp((x + before) / s)) s + after.

    A step size for each token cannot be made before a sequence has been seen: until then the tensor passes as it is. The first batch in
    training sets the values.

    Args:
        who: Where it stands, for messages.
        bits: Of a code.
        channels: Shape of the shifts, broadcast to what is quantised; empty: no shifts.
        by: What has a step size of its own: each `token` (the dimension before the last), or each of the `channels`.
        signed: Whether there are negative codes.
        heads: Whether, by token, each head has its own too (the dimension before the tokens).
    """

    started: Tensor
    scale: nn.Parameter | None

    def __init__(
        self, who: str, bits: int, channels: tuple[int, ...], by: By, *, signed: bool = True, heads: bool = False
    ) -> None:
        super().__init__()
        self.who, self.bits, self.signed, self.heads = who, bits, signed, heads
        self.register_parameter("scale", nn.Parameter(torch.ones(channels or (1,))) if by == "channel" else None)
        for shift in ("before", "after"):
            self.register_parameter(shift, nn.Parameter(torch.zeros(channels)) if channels else None)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantised tensor; (..., tokens, channels).

        Raises:
            FitError: If the number of tokens is not the one that the step sizes were made for.
        """
        if self.scale is None:
            tokens = x.shape[-2] if x.ndim > 2 else 1
            self.scale = nn.Parameter(x.new_ones((x.shape[-3], tokens, 1) if self.heads else (tokens, 1)))
            return x
        sizes = (1,) * (x.ndim - self.scale.ndim) + tuple(self.scale.shape)
        if any(size not in (1, given) for size, given in zip(sizes, x.shape, strict=True)):
            raise FitError(
                f"{self.who}: has step sizes for {sizes[-2]} tokens, got {x.shape[-2]} (shape {tuple(x.shape)}); "
                "train and evaluate with one length, or set act_scale='channel'"
            )
        if not bool(self.started):
            with torch.no_grad():
                alike = tuple(place for place, size in enumerate(sizes) if size == 1)
                self.scale.copy_(learned_start(x, self.bits, alike, signed=self.signed).reshape(self.scale.shape))
                self.started.fill_(True)
        shared = x.numel() // self.scale.numel()
        x = x if self.before is None else x + self.before
        x = learned_quantize(x, self.scale, self.bits, shared, signed=self.signed)
        return x if self.after is None else x + self.after

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}scale")
        if given is not None and self.scale is None:  # a step size a token, of a trained model
            self.scale = nn.Parameter(torch.empty_like(given))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class QuantizedCore(nn.Module):
    """softmax(q k^T / sqrt(d)) v on quantised queries, keys, values and probabilities.

    Args:
        who: Name of the attention, for messages.
        bits: Of the codes.
        by: Step sizes a `token`, or a `channel`; those of values are always a channel, those of probabilities a token (or one for all).
        heads: Number of heads.
        width: Features of a head's values.
        causal: Whether a position sees only itself and those before.
        joint: Features of joint attention's queries, which have a step size a token and head, and whose keys come as they should be.
    """

    def __init__(
        self, who: str, bits: int, by: By, heads: int, width: int, causal: bool = False, joint: int | None = None
    ) -> None:
        super().__init__()
        self.causal, per_head = causal, (heads, 1, joint or width)
        self.q = LearnedActivation(f"queries of '{who}'", bits, per_head, by, heads=joint is not None)
        self.k: nn.Module = nn.Identity() if joint else LearnedActivation(f"keys of '{who}'", bits, per_head, by)
        self.v = LearnedActivation(f"values of '{who}'", bits, (heads, 1, width), "channel")
        self.probabilities = LearnedActivation(f"probabilities of '{who}'", bits, (), by, signed=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        """Return (samples, heads, length, features of v); q, k (samples, heads, length, features), v likewise.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            scale: Of the logits; default 1 / sqrt(features of q).
        """
        q, k, v = self.q(q), self.k(k), self.v(v)
        logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if self.causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
            logits = logits.masked_fill(later, -torch.inf)
        return self.probabilities(logits.softmax(-1)) @ v  # type: ignore[no-any-return]


class LearnedActivations(QuantizedLayers):
    """Quantised linear layers whose activations, where asked for, are quantised by LSQ."""

    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR

    layers: str | tuple[str, ...] = knob(
        ("*", "!*head*"), doc="Globs of quantised layers; the head is left out by default."
    )
    bits: int = knob(2, 1, 8, unit="bits", doc="Bits of a weight.")
    act_bits: int | None = knob(
        None,
        2,
        8,
        unit="bits",
        doc="Bits of activations (LSQ): inputs of the layers, and inside attention; none: as they are.",
    )
    act_scale: By = knob(
        "token",
        doc="Step sizes of activations: one a token (sequences of one length), or one a channel. Values: a channel.",
    )

    def input_quantizer(self, layer: nn.Module, name: str) -> nn.Module | None:
        if self.act_bits is None:
            return None
        shifts: Any = (layer.in_features,)
        return LearnedActivation(
            f"{self.id}: the input of '{name}'", self.act_bits, shifts, self.act_scale, signed=not name.endswith("fc2")
        )

    def arranged(self, model: nn.Module) -> nn.Module:
        """Return the model with the modules that will be quantised, before they are; default: as it is.

        Args:
            model: The model to prepare.
        """
        return model

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        sample = self._sample(Context.of(ctx)) if self.act_bits is not None and self.act_scale == "token" else None
        model = super().prepare(self.arranged(model), ctx)
        if sample is not None:
            training = model.training
            with torch.no_grad():
                model.eval()(sample.to(next(model.parameters()).device))
            model.train(training)
        return model

    def _sample(self, ctx: Context) -> Tensor:
        try:
            return next(iter(ctx.data("train").sequential(2)))[0]
        except DataError as error:
            raise FitError(
                f"{self.id}: act_scale='token' with act_bits={self.act_bits} needs a sequence to see its length: give "
                "ctx=Context(splits=Splits(train=...)), or set act_scale='channel'"
            ) from error

    def _quantize_activations(self, model: nn.Module) -> nn.Module:
        if self.act_bits is not None:
            chosen = self.select(model)
            for name, module in list(model.named_modules()):
                core, parts = getattr(module, "core", None), [f"{name}.{part}" for part in ("q", "k", "v")]
                if hasattr(core, "causal") and hasattr(module, "heads") and all(part in chosen for part in parts):
                    self._core(module, name, self.act_bits, int(module.v.weight.shape[0]), bool(core.causal))  # type: ignore[union-attr,arg-type]
        return super()._quantize_activations(model)

    def _core(
        self, module: nn.Module, name: str, bits: int, values: int, causal: bool, joint: int | None = None
    ) -> None:
        heads, who = int(module.heads), f"{self.id}: {name}"  # type: ignore[arg-type]
        core = QuantizedCore(who, bits, self.act_scale, heads, values // heads, causal, joint)
        for part in core.modules():
            if isinstance(part, LearnedActivation):
                part.wbench_owner = self.id  # type: ignore[assignment]
        module.core = core
