r"""Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients.

Zhenyu Zhang, Ajay Jaiswal, Lu Yin, Shiwei Liu, Jiawei Zhao, Yuandong Tian, Zhangyang Wang, 2024, arXiv:2407.08296.

GaLore with the projection in four bits, the weights on grids of 256 levels that stochastic rounding updates without a
finer copy, and subspaces that are renewed half as often once a layer's leading direction stays:

$$ R = G \hat P^\top, \qquad W \leftarrow Q_8^{stoch}\big(W - \eta_t\, \alpha\, \mathrm{Adam}(R) \hat P - \eta_t \lambda W\big), \qquad
   T \leftarrow \gamma T \ \text{ if } \ \tfrac1k \sum |\cos(v_{i-1}, v_i)| \ge \theta $$

$W, G$: $m \times n$, $\hat P$: the dequantised projection as in GaLore, in groups of 256 numbers with one scale and zero
point; $v_i$: the leading singular vector at refresh $i$; $T$: steps between refreshes of this layer. The reference takes the
cosine with its sign, which is arbitrary for singular vectors; here its absolute value, as the paper means it. A weight is kept
as floats that equal its codes; what the codes would take is reported as packed bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.methods.optimizer import eight_bit
from wbench.methods.optimizer.galore import GaLore, GaLoreAdamW
from wbench.ops.rounding import pack_groups, quantize_groups, unpack_groups
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

MEASURE = 10  # steps between measurements of how far a step moves on the grid


def grouped_by(numbers: int, group_size: int | None) -> int:
    """Return how many numbers of a matrix share a scale.

    Args:
        numbers: Of the matrix.
        group_size: As given; `None`: 256, or the largest power of two that divides `numbers`.
    """
    return math.gcd(numbers, 256) if group_size is None else group_size


class QGaLoreAdamW(GaLoreAdamW):
    """GaLoreAdamW whose projected groups keep projection, weights and moments in few bits, and refresh at their own pace.

    Args:
        groups: As in `GaLoreAdamW`, projected ones also with the fields of `QGaLore`.
        rounding: Draws for stochastic rounding; its state is part of the optimizer's.
        **options: As in `GaLoreAdamW`.
    """

    def __init__(self, groups: list[dict[str, Any]], rounding: torch.Generator, **options: Any) -> None:
        self.rounding = rounding
        super().__init__(groups, **options)

    def _update(self, param: Tensor, group: dict[str, Any], index: int) -> None:
        if "rank" not in group or group["weight_bits"] == 16:
            super()._update(param, group, index)
            return
        before, state = param.clone(), self.state[param]
        super()._update(param, group, index)
        measured = state["step"] % MEASURE == 1
        held = quantize_groups(
            param,
            8,
            grouped_by(param.numel(), group["group_size"]),
            stochastic=group["stochastic_round"],
            generator=self.rounding,
        )
        if measured:
            state["move"] = float(((param - before).view_as(held.codes).abs() / held.scale).median())
        param.copy_(held.value.view_as(param))
        if measured:
            state["changed"] = float(((param - before).view_as(held.codes).abs() > held.scale / 2).float().mean())

    def _bases(self, state: dict[str, Any], gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = (
            unpack_groups(held) if isinstance(held, dict) else held for held in (state.get("left"), state.get("right"))
        )
        return left, right

    def _keep(self, state: dict[str, Any], left: Tensor | None, right: Tensor | None, group: dict[str, Any]) -> None:
        leading = (right[0] if right is not None else left[:, 0]).clone()  # type: ignore[index]
        _adapt_gap(state, leading, group)
        if group["proj_bits"] < 16:
            bits, given = group["proj_bits"], group["group_size"]
            held: list[Any] = [left, right]
            sizes = [grouped_by(basis.numel(), given) if basis is not None else 0 for basis in held]
            packed: list[Any] = [pack_groups(x, bits, size) if size else x for x, size in zip(held, sizes, strict=True)]
            left, right = packed
        super()._keep(state, left, right, group)

    def _adam(self, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        small = group.get("state_bits", 32) == 32 or gradient.numel() < eight_bit.WHOLE
        wide = state if small else eight_bit.dequantized(state)
        update, size = super()._adam(wide, gradient, group)
        if not small:
            state.update(eight_bit.quantized(wide))
        if group.get("adam", "galore") == "bnb":  # torch's form: epsilon inside the bias correction, and smaller
            beta1, beta2 = group["betas"]
            root = wide["exp_avg_sq"].sqrt() / math.sqrt(1.0 - beta2 ** state["step"])
            return wide["exp_avg"] / (root + 1e-8), group["lr"] / (1.0 - beta1 ** state["step"])
        return update, size

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with that of the rounding's generator."""
        return {**super().state_dict(), "rounding": self.rounding.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; tensors keep their own dtype, so that codes stay bytes.

        Args:
            state_dict: From `state_dict`.
        """
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "rounding"})
        self.rounding.set_state(state_dict["rounding"])


def _adapt_gap(state: dict[str, Any], leading: Tensor, group: dict[str, Any]) -> None:
    """Note how far the leading direction has turned; double the steps to the next refresh where it stays."""
    past, queue = state.get("past"), state.setdefault("queue", [])
    if past is not None:
        cosine = float(nn.functional.cosine_similarity(past, leading, dim=0))
        state["cosine"] = cosine if group["signed_cos"] else abs(cosine)
        queue.append(state["cosine"])
        del queue[: -group["queue_size"]]
        if len(queue) == group["queue_size"] and sum(queue) / len(queue) >= group["cos_threshold"]:
            gap = int(state.get("gap", group["update_proj_gap"]) * group["gamma_proj"])
            state["gap"] = min(gap, max(group["update_proj_gap"], group["longest_gap"]))
    state["past"] = leading


class QGaLore(GaLore):
    """GaLore in few bits: INT8 weights by stochastic rounding, INT4 projections, refreshes as rare as a layer allows.

    Usage:
        `method = QGaLore(rank=48)`, `model = method.prepare(model)` puts its weights on the grid, then
        `opt = method.optimizer(model, wb.Recipe(lr=4e-3))`.
    """

    id: ClassVar[str] = "q_galore"
    title: ClassVar[str] = "Q-GaLore: GaLore with INT8 weights and INT4 projections"
    vectorizes: ClassVar[bool] = False
    paper: ClassVar[Paper | None] = Paper(
        "Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients",
        "Zhang, Jaiswal, Yin, Liu, Zhao, Tian, Wang", 2024, "2407.08296",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("low-rank", "optimizer memory", "quantization", "stochastic rounding")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    picture: ClassVar[str] = "wbench.plots:lazy_subspace"

    proj_type: Literal["std"] = knob("std", doc="Which side is projected: the smaller; the authors give no other.")
    state_on_switch: Literal["keep"] = knob("keep", doc="Moments at a new subspace are kept.")
    inner: Literal["adam"] = knob("adam", doc="Optimizer inside the subspace.")
    proj_bits: Literal[2, 4, 8, 16] = knob(4, doc="Bits of the projection; 16: not quantised.")
    weight_bits: Literal[8, 16] = knob(8, doc="Bits of the managed weights; 16: not quantised.")
    state_bits: Literal[8, 32] = knob(32, doc="Bits of the moments; 8 needs bitsandbytes.")
    group_size: int | None = knob(
        None,
        2,
        65536,
        scale="log",
        slider=(32, 1024),
        unit="numbers",
        doc="Numbers that share a scale; none: 256, or the largest power of two that divides a matrix.",
    )
    stochastic_round: bool = knob(
        True, doc="Round updated weights up or down at random so that the mean is kept; off: to the nearest."
    )
    cos_threshold: float = knob(0.4, 0.0, 1.0, doc="Mean similarity of leading directions that makes refreshes rarer.")
    gamma_proj: float = knob(2.0, 1.0, 16.0, slider=(1.0, 4.0), doc="Factor on the steps between refreshes; 1: off.")
    queue_size: int = knob(5, 1, 1000, slider=(1, 10), doc="Similarities that are averaged.")
    signed_cos: bool = knob(False, doc="Take the cosine with its (arbitrary) sign, as the authors' code does.")
    adam: Literal["galore", "bnb"] = knob(
        "galore", doc="Adam's form: GaLore's, or torch's with its own epsilon of 1e-8."
    )

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        """Put the managed weights on their grids, to the nearest level.

        Args:
            model: The model, changed in place.
            ctx: The run.

        Returns:
            The model.

        Raises:
            FitError: If a matrix or its projection is no multiple of the group size.
        """
        for name, param in self._matrices(model).items():
            self._check_groups(name, param)
            if self.weight_bits == 8:
                with torch.no_grad():
                    param.copy_(
                        quantize_groups(param, 8, grouped_by(param.numel(), self.group_size)).value.view_as(param)
                    )
        return model

    def _check_groups(self, name: str, param: Tensor) -> None:
        sides = (param.shape[0], param[0].numel())
        rank = self.rank or max(1, min(sides) // 4)
        sizes = {f"'{name}'": param.numel()} if self.weight_bits == 8 else {}
        if self.proj_bits < 16:
            sizes[f"the projection of '{name}'"] = rank * min(sides)
        for what, numbers in sizes.items():
            if numbers % grouped_by(numbers, self.group_size):
                raise FitError(
                    f"q_galore: {what} has {numbers} elements, not a multiple of group_size {self.group_size}; choose a divisor"
                )

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        context = Context.of(ctx, methods=(self,))
        if self.state_bits == 8:
            eight_bit.functional()
        recipe, chosen = context.recipe, self._matrices(model)
        for name, param in chosen.items():
            self._check_groups(name, param)
        fields = ("rank", "update_proj_gap", "scale", "proj_type", "state_on_switch", "proj_bits", "weight_bits", "state_bits",
                  "group_size", "stochastic_round", "cos_threshold", "gamma_proj", "queue_size", "signed_cos", "adam")  # fmt: skip
        special = {**{field: getattr(self, field) for field in fields}, "longest_gap": context.total_steps}
        groups = self.grouped(context, model, {id(param): name for name, param in chosen.items()}, special)
        seed = int(torch.randint(2**62, (1,), generator=context.rng))
        rounding = torch.Generator(next(iter(chosen.values())).device).manual_seed(seed)
        return QGaLoreAdamW(
            groups,
            rounding,
            lr=recipe.lr,
            betas=recipe.betas,
            eps=self.eps,
            weight_decay=recipe.weight_decay,
            inner=self.inner,
        )

    def packed_bytes(self, model: nn.Module, ctx: Context | None = None) -> dict[str, int]:
        """Return the bytes of all parameters with the managed weights in one byte each, and eight for a group's grid."""
        total = sum(param.numel() * param.element_size() for param in model.parameters())
        if self.weight_bits == 8:
            for param in self._matrices(model).values():
                total += (
                    param.numel()
                    + 8 * param.numel() // grouped_by(param.numel(), self.group_size)
                    - param.numel() * param.element_size()
                )
        return {"parameters": total, "weights": total}

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the state of each subspace.

        Columns: layer, cosine (of the leading direction with the one before), gap (steps between refreshes), refreshes, overlap,
        move (median size of an update in steps of the grid), changed (share of weights whose level changed in a step).
        """
        import pandas as pd

        if ctx is None or not isinstance(ctx.optimizer, QGaLoreAdamW):
            return None
        keys, rows = ("cosine", "refreshes", "overlap", "move", "changed"), []
        for name, group, state in ctx.optimizer.subspaces():
            row = {key: state.get(key, math.nan) for key in keys}
            rows.append({"layer": name, "gap": state.get("gap", group["update_proj_gap"]), **row})
        return pd.DataFrame(rows) if rows else None
