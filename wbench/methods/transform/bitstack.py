r"""BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments.

Xinghao Wang, Pengyu Wang, Bo Wang, Dong Zhang, Yunhua Zhou, Xipeng Qiu, ICLR 2025, arXiv:2410.23918.

Each weight becomes a stack of residual blocks of about one bit per entry; all blocks of all layers are put into one order, and
as many are loaded as memory allows: one decomposition, any size. From $R_0 = W \operatorname{diag}(s)$:

$$ S_i = \operatorname{sgn}(R_i), \quad U d V^\top = |R_i|, \quad A_i = U_k \sqrt{d_k}, \; B_i = \sqrt{d_k} V_k^\top, \quad
R_{i+1} = R_i - S_i \odot A_i B_i, \qquad \hat W_b = \sum_{i<b} S_i \odot A_i B_i \operatorname{diag}(s)^{-1} $$

$W$: (out m, in n); $S_i$: m n bits; $A_i$: (m, k) and $B_i$: (k, n), 16-bit; $s$: (n,), $s_j$ the mean over samples of the L2
norm over the sequence of input j. The residual is that of what is stored, so that later blocks repair the rounding, and $s$
stays with its layer instead of moving into the layer before: the same function. The small-width rule for k is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, FitError
from wbench.method import Context, Paper, knob
from wbench.method.layerwise import LINEAR, LayerwiseMethod
from wbench.method.select import replace_module, tied_layers
from wbench.methods.transform.bitstack_layer import BitStackLinear
from wbench.ops.allocate import level_order
from wbench.ops.calibrate import activation_scale, layer_inputs
from wbench.ops.residual_blocks import Blocks, block_rank, decompose
from wbench.splits import Batch

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 32  # samples in one pass over calibration data


class BitStack(LayerwiseMethod):
    """Decompose every linear layer once into blocks of about one bit per weight; load as many as memory allows.

    Usage:
        `run = wb.train(task, BitStack(), start=base, recipe=wb.Recipe(steps=0))`, then, of any size:
        `model = BitStack(budget_bytes=300_000).retune(wb.restore(run))`
    """

    id: ClassVar[str] = "bitstack"
    title: ClassVar[str] = "BitStack: any-size compression by sorted residual blocks"
    paper: ClassVar[Paper | None] = Paper(
        "BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments",
        "Wang, Wang, Wang, Zhang, Zhou, Qiu", 2024, "2410.23918", "ICLR 2025",
    )  # fmt: skip
    stage: ClassVar[Literal["transform"]] = "transform"  # type: ignore[assignment]
    topics: ClassVar[tuple[str, ...]] = ("compression", "quantisation", "low-rank", "post-training", "language models")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    picture: ClassVar[str] = "wbench.plots:blocks"
    live: ClassVar[tuple[str, ...]] = ("budget_bytes",)

    layers: str | tuple[str, ...] = knob(("*", "!*head"), doc="Globs of decomposed layers; the head stays dense.")
    n_iter: int = knob(16, 1, 64, slider=(1, 16), unit="blocks", doc="Blocks of each layer.")
    k: int | None = knob(
        None, 1, 1024, scale="log", slider=(1, 32),
        doc="Singular vectors of each block; none: 16 for width 4096 and in proportion, 1 up to width 256.",
    )  # fmt: skip
    nsamples: int = knob(256, 8, 65_536, scale="log", slider=(8, 256), unit="samples", doc="Calibration for scaling.")
    scale: Literal["activation", "none"] = knob("activation", doc="Weigh inputs by how large they are, or not.")
    avd: bool = knob(True, doc="Decompose |R| and keep its signs; else plain SVD of the same memory.")
    residual_of: Literal["stored", "float32"] = knob(
        "stored",
        doc="What a block leaves to the next: of the factors as stored in 16 bits, or before rounding (the code).",
    )
    sort_samples: int = knob(
        32,
        4,
        65_536,
        scale="log",
        slider=(4, 64),
        unit="samples",
        doc="Calibration for each evaluation of the sorting.",
    )
    budget_bytes: int | None = knob(
        None, 1, 2**50, scale="log", unit="bytes", doc="Memory for all weights of the model; none: load every block."
    )

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        """Decompose, sort the blocks by calibration loss, load what the budget allows.

        Args:
            model: The trained model; changed in place.
            ctx: The run: calibration data and the task's loss.

        Returns:
            The model.

        Raises:
            FitError: If a layer's weight is tied or not finite, or calibration never calls it.
            CompositionError: If there is no task whose loss the blocks could be sorted by.
        """
        context, layers = Context.of(ctx), self.select(model)
        tied = set(tied_layers(model))
        for name, layer in layers.items():
            if name in tied:
                raise FitError(f"bitstack: the weight of layer '{name}' is tied; exclude it: layers=('*', '!{name}')")
            if not bool(torch.isfinite(layer.weight).all()):  # type: ignore[arg-type]
                raise FitError(f"bitstack: the weight of layer '{name}' is not finite; it has no singular vectors")
        with torch.no_grad():
            scales = self._scales(model, layers, context)
            for name, layer in layers.items():
                model = replace_module(model, name, self._stack(layer, scales.get(name), name))  # type: ignore[arg-type]
            self._sort(model, context)
        return self.retune(model)

    def _scales(self, model: nn.Module, layers: Mapping[str, nn.Module], context: Context) -> dict[str, Tensor]:
        if self.scale == "none":
            return {}
        parts = context.calibration(self.nsamples)[0].split(CHUNK)
        seen = [layer_inputs(model, layers, part) for part in parts]
        for name in layers:
            if name not in seen[0]:
                raise FitError(f"bitstack: calibration never calls layer '{name}'; exclude it: layers=('*', '!{name}')")
        return {name: activation_scale([part[name] for part in seen]).to(torch.float16) for name in layers}

    def _stack(self, layer: nn.Linear, scale: Tensor | None, name: str) -> BitStackLinear:
        weight = layer.weight.detach()
        weight = weight if weight.dtype == torch.float64 else weight.float()
        weight = weight if scale is None else weight * scale.to(weight.dtype)
        rank = block_rank(layer.out_features, layer.in_features, self.k, self.avd)
        for dtype in (torch.float16, torch.bfloat16):
            blocks = decompose(weight, self.n_iter, rank, avd=self.avd, residual_of=self.residual_of, dtype=dtype)
            if bool(torch.isfinite(blocks.a).all() and torch.isfinite(blocks.b).all()):
                return BitStackLinear(layer, blocks, scale)
        raise FitError(f"bitstack: the factors of layer '{name}' overflow 16 bits; use scale='none' or exclude it")

    def stacks(self, model: nn.Module) -> dict[str, BitStackLinear]:
        """Return the decomposed layers of a finished model by name.

        Args:
            model: As `finish` or `restore` left it.
        """
        return {name: module for name, module in model.named_modules() if isinstance(module, BitStackLinear)}

    def order(self, model: nn.Module) -> list[tuple[str, int]]:
        """Return the order in which blocks are loaded after the first of every layer.

        Args:
            model: As in `stacks`.

        Returns:
            (layer, blocks it then has), (n_iter - 1) entries a layer.
        """
        stacks = self.stacks(model)
        ranked = [(int(at), name, level) for name, s in stacks.items() for level, at in enumerate(s.place.tolist(), 1)]
        return [(name, level) for _, name, level in sorted(ranked) if level > 1]

    def _sort(self, model: nn.Module, context: Context) -> None:
        stacks = list(self.stacks(model).values())
        if self.n_iter == 1:
            return
        batch, scores = context.calibration(self.sort_samples), []
        for level in range(1, self.n_iter):
            for stack in stacks:
                stack.load(level)
            row = []
            for stack in stacks:
                stack.load(level + 1)
                row.append(_loss(model, batch, context))
                stack.load(level)
            scores.append(row)
        for place, (layer, level) in enumerate(level_order(scores), start=1):
            stacks[layer].place[level - 1] = place

    def memory(self, model: nn.Module) -> int:
        """Return the bytes of a finished model's weights: those of the loaded blocks and of everything else it saves.

        Args:
            model: As in `stacks`.
        """
        return _rest(model) + sum(s.block_bytes * int(s.n_blocks_loaded) for s in self.stacks(model).values())

    def retune(self, model: nn.Module) -> nn.Module:
        """Load the longest beginning of the global order that `budget_bytes` allows.

        Args:
            model: As in `stacks`; changed in place.

        Returns:
            The model.

        Raises:
            FitError: If the first block of every layer does not fit.
        """
        stacks = self.stacks(model)
        used = _rest(model) + sum(stack.block_bytes for stack in stacks.values())
        if self.budget_bytes is not None and self.budget_bytes < used:
            raise FitError(
                f"bitstack: budget_bytes={self.budget_bytes} is too small; one block for each layer and all that is not "
                f"decomposed take {used} bytes"
            )
        counts = dict.fromkeys(stacks, 1)
        for name, level in self.order(model):
            used += stacks[name].block_bytes
            if self.budget_bytes is not None and used > self.budget_bytes:
                break
            counts[name] = level
        for name, stack in stacks.items():
            stack.load(counts[name])
        return model

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        for name, layer in self.select(model).items():
            blocks = Blocks(*(state[f"{name}.{part}"] for part in Blocks._fields))
            stack = BitStackLinear(layer, blocks, state.get(f"{name}.scale"))  # type: ignore[arg-type]
            model = replace_module(model, name, stack)
        return super().restore(model, state)

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the calibration loss of the finished model as blocks are loaded in order.

        Columns: place (0: one block everywhere), layer, level (its blocks then), bytes (of the model), loss, loaded (under the
        budget); nothing before `finish`.
        """
        import pandas as pd

        stacks, context = self.stacks(model), Context.of(ctx)
        if not stacks:
            return None
        before = {name: int(stack.n_blocks_loaded) for name, stack in stacks.items()}
        batch, rows = context.calibration(self.sort_samples), []
        for stack in stacks.values():
            stack.load(1)
        for place, (name, level) in enumerate([("", 1), *self.order(model)]):
            if name:
                stacks[name].load(level)
            loss, loaded = _loss(model, batch, context), not name or level <= before[name]
            rows.append((place, name or "first blocks", level, self.memory(model), loss, loaded))
        for name, stack in stacks.items():
            stack.load(before[name])
        return pd.DataFrame(rows, columns=["place", "layer", "level", "bytes", "loss", "loaded"])


def _loss(model: nn.Module, batch: Batch, context: Context) -> float:
    if context.task is None:
        raise CompositionError(
            "bitstack sorts blocks by the task's loss; outside a run give it: Context(task=..., splits=...)"
        )
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = zip(*(part.split(CHUNK) for part in batch), strict=True)
        losses = torch.cat([context.task.loss(model(part[0]), part).reshape(-1).double() for part in parts])
    model.train(was_training)
    return float(losses.mean())


def _rest(model: nn.Module) -> int:
    """Return the bytes of all that a finished model saves but the blocks; tied tensors once."""
    held = {value.data_ptr(): value.numel() * value.element_size() for value in model.state_dict().values()}
    stacks = (module for module in model.modules() if isinstance(module, BitStackLinear))
    return sum(held.values()) - sum(stack.block_bytes * len(stack.a) for stack in stacks)
