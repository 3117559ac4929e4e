r"""Bone: Block Affine Transformation as Parameter Efficient Fine-tuning (later DiSHA, then MiSS).

Jiale Kang, later with Qingyu Yin, 2024, arXiv:2409.15371.

One zero matrix, shared by all blocks of a frozen weight, is trained. In the block affine form (`bat`, version 1) it is also
multiplied by each block of the weight, which thus guides its own update; in the later form (`miss`) it is added to every
shard of the input dimension.

$$ \text{bat: } W'_{pq} = W_{pq}(I + D_p) + D_p, \qquad \text{miss: } y = Wx + b + D^\top \sum_q x_{[q]} $$

$W$: (O, I) in blocks of r x r, p = 1..O/r, q = 1..I/r. `bat`: D is (O/r, r, r). `miss`: D is (r, O), $x_{[q]}$ the q-th shard
of length r, the last padded with zeros. `mini`: D is (r, k), tiled O/k times along the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import FitError
from wbench.method import AdaptedLayer, Adapter, Context, Paper, knob

if TYPE_CHECKING:
    import pandas as pd

MAX_SHOWN = 64  # rows and columns of a change that the picture shows
MAX_CONDITION = 1e6  # of I + D, beyond which a merge is not undone


def bat_delta(weight: Tensor, d: Tensor) -> Tensor:
    r"""Return the change of a weight, $W_{pq} D_p + D_p$ in every block.

    Args:
        weight: (O, I).
        d: (O/r, r, r).

    Returns:
        (O, I).
    """
    out_features, in_features = weight.shape
    r = d.shape[-1]
    blocks = weight.reshape(out_features // r, r, in_features // r, r).permute(2, 0, 1, 3)
    delta = blocks @ d + d
    return delta.permute(1, 2, 0, 3).reshape(out_features, in_features)


def bat_unmerge(merged: Tensor, d: Tensor, name: str = "weight") -> Tensor:
    r"""Return the weight before the merge, $(W'_{pq} - D_p)(I + D_p)^{-1}$; in float64, as the inverse loses digits.

    Args:
        merged: (O, I).
        d: (O/r, r, r).
        name: The layer's name, for the message.

    Returns:
        (O, I), of the dtype of `merged`.

    Raises:
        FitError: If an I + D_p is singular or nearly so.
    """
    out_features, in_features = merged.shape
    r = d.shape[-1]
    factor = torch.eye(r, dtype=torch.float64, device=d.device) + d.double()
    if not bool((torch.linalg.cond(factor) <= MAX_CONDITION).all()):  # NaN where exactly singular
        raise FitError(
            f"bone: cannot unmerge '{name}': I + D is singular (condition over {MAX_CONDITION:g}); keep the original weight instead"
        )
    blocks = merged.double().reshape(out_features // r, r, in_features // r, r).permute(2, 0, 1, 3)
    original = torch.linalg.solve(factor, blocks - d.double(), left=False)
    return original.permute(1, 2, 0, 3).reshape(out_features, in_features).to(merged.dtype)


def shard_sum(x: Tensor, r: int) -> Tensor:
    """Return the sum of the shards of length r of the last dimension, the last padded with zeros.

    Args:
        x: (..., I).
        r: Shard length.

    Returns:
        (..., r).
    """
    missing = -x.shape[-1] % r
    padded = F.pad(x, (0, missing)) if missing else x  # pad copies even where nothing is missing
    return padded.unflatten(-1, (-1, r)).sum(-2)


def miss_delta(d: Tensor, in_features: int) -> Tensor:
    r"""Return the change of a weight, $D^\top [I_r \ldots I_r]$, the last shard cut off at I.

    Args:
        d: (r, O).
        in_features: I.

    Returns:
        (O, I).
    """
    r = d.shape[0]
    return d.T.repeat(1, -(-in_features // r))[:, :in_features]


class BoneLayer(AdaptedLayer):
    """A frozen linear layer with Bone's matrix beside it.

    Args:
        base: The layer, weight (O, I).
        method: Variant and sizes.
    """

    def __init__(self, base: nn.Linear, method: Bone) -> None:
        super().__init__(base)
        self.variant, self.r = method.variant, method.r
        out_features = base.out_features
        shape = {
            "bat": (out_features // method.r, method.r, method.r),
            "miss": (method.r, out_features),
            "mini": (method.r, method.mini_r),
        }[method.variant]
        self.d = nn.Parameter(torch.zeros(shape, dtype=base.weight.dtype, device=base.weight.device))
        self.dropout = nn.Dropout(method.dropout)

    def full_d(self) -> Tensor:
        """Return D as `miss` uses it, (r, O): that of `mini` is tiled along the output."""
        return self.d.repeat(1, self.out_features // self.d.shape[1]) if self.variant == "mini" else self.d

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == "bat":
            return F.linear(x, self.base.weight + bat_delta(self.base.weight, self.d), self.base.bias)
        return self.base(x) + shard_sum(self.dropout(x), self.r) @ self.full_d()

    def delta(self) -> Tensor:
        """Return the change of the weight, (O, I), computed in at least float32."""
        d = self.d if self.d.dtype == torch.float64 else self.d.float()
        if self.variant == "bat":
            return bat_delta(self.base.weight.to(d.dtype), d)
        return miss_delta(d.repeat(1, self.out_features // d.shape[1]), self.in_features)

    def merged_weight(self) -> Tensor:
        delta = self.delta()
        return (self.base.weight.to(delta.dtype) + delta).to(self.base.weight.dtype)


class Bone(Adapter):
    """Fine-tune one shared block matrix a layer; everything else is frozen.

    Usage:
        `model = Bone(r=8).prepare(model)`, train what requires a gradient, `model = bone.finish(model)`.
    """

    id: ClassVar[str] = "bone"
    title: ClassVar[str] = "Bone: block affine adapters (BAT, MiSS)"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Bone: Block Affine Transformation as Parameter Efficient Fine-tuning Methods for Large Language Models",
        "Kang", 2024, "2409.15371",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "low-rank", "adapter")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:delta"

    r: int = knob(8, 1, 8192, scale="log", slider=(1, 128), doc="Block size, or length of a shard.")
    variant: Literal["bat", "miss", "mini"] = knob(
        "bat", doc="Block affine (version 1), shared shards, or shared shards tiled."
    )
    mini_r: int = knob(
        1, 1, 65536, scale="log", slider=(1, 128), doc="Width of D in mini; divides the layer's outputs."
    )
    dropout: float = knob(0.0, 0.0, 0.9, slider=(0.0, 0.3), doc="Dropout on the adapter's input, in miss and mini.")

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        out_features, in_features = linear.out_features, linear.in_features
        if self.variant == "bat" and (out_features % self.r or in_features % self.r):
            raise FitError(
                f"bone: bat needs r to divide both {out_features} and {in_features} of '{name}', got r={self.r}; "
                f"use another r, variant='miss', or exclude it: layers=('*', '!{name}')"
            )
        if self.r > in_features:
            raise FitError(f"bone: r={self.r} is larger than the {in_features} inputs of '{name}'; use a smaller r")
        if self.variant == "mini" and out_features % self.mini_r:
            raise FitError(
                f"bone: mini needs mini_r to divide the {out_features} outputs of '{name}', got mini_r={self.mini_r}"
            )
        return BoneLayer(linear, self)

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return a corner of the change of the first two adapted weights.

        Columns: layer, row, col, value (of W' - W).
        """
        import pandas as pd

        frames = []
        for name, layer in list(self.adapted(model).items())[:2]:
            if isinstance(layer, BoneLayer):
                corner = layer.delta().detach()[:MAX_SHOWN, :MAX_SHOWN].float().cpu()
                rows, cols = torch.meshgrid(torch.arange(corner.shape[0]), torch.arange(corner.shape[1]), indexing="ij")
                columns = {
                    "row": rows.flatten().numpy(),
                    "col": cols.flatten().numpy(),
                    "value": corner.flatten().numpy(),
                }
                frames.append(pd.DataFrame({"layer": name, **columns}))
        return pd.concat(frames, ignore_index=True) if frames else None
