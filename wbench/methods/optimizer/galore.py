r"""GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection.

Jiawei Zhao, Zhenyu Zhang, Beidi Chen, Zhangyang Wang, Anima Anandkumar, Yuandong Tian, 2024, arXiv:2403.03507.

Adam runs on the gradient projected to a rank-r subspace, which is renewed every T steps from the gradient's leading
singular vectors; the weight itself stays full rank and all of it is trained:

$$ R_t = G_t P^\top, \qquad N_t = \mathrm{Adam}(R_t), \qquad W \leftarrow W - \eta_t\, \alpha\, N_t P $$

$W, G$: $m \times n$; $P$: $r \times n$ where $m \ge n$ (right side), else $R = P^\top G$ with $P$: $m \times r$ (left side).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, OptimizerMethod, Paper, knob, sharers
from wbench.ops.lowrank import project, project_back, projected_side, subspace
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


class GaLoreAdamW(torch.optim.Optimizer):
    """AdamW whose groups with a `rank` keep their moments in a subspace of the gradient.

    Epsilon stands outside the bias correction and decay comes last, with the plain rate, as in the authors' code. A group
    without `rank` is plain AdamW of the same form; `inner="sgd"` replaces Adam by the projected gradient itself.

    Args:
        groups: Parameter groups; a projected one has `rank` (int, or `None` for a quarter of the shorter side),
            `update_proj_gap`, `scale`, `proj_type`, `state_on_switch` and `names`.
        lr: Learning rate.
        betas: Averaging rates of the moments.
        eps: Epsilon.
        weight_decay: Decoupled decay.
        inner: `adam` or `sgd`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        inner: str = "adam",
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "inner": inner})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step.

        Args:
            closure: Re-evaluates the loss, as torch's optimizers allow.

        Returns:
            The closure's loss, or `None`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for index, param in enumerate(group["params"]):
                if param.grad is not None:
                    self._update(param, group, index)
        return loss

    def subspaces(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Yield each layer whose subspace has been chosen: its name, its group, its state."""
        for group in self.param_groups:
            for name, param in zip(group["names"], group["params"], strict=True):
                state = self.state.get(param, {})
                if "refreshes" in state:
                    yield name, group, state

    def _update(self, param: Tensor, group: dict[str, Any], index: int) -> None:
        state, lr = self.state[param], group["lr"]
        state.setdefault("step", 0)
        projected = "rank" in group
        gradient: Tensor = param.grad.flatten(1) if projected else param.grad  # type: ignore[assignment,union-attr]
        if projected:
            if state["step"] % state.get("gap", group["update_proj_gap"]) == 0:
                self._refresh(state, gradient, group, index)
            bases = self._bases(state, gradient)
            gradient = project(gradient, *bases)
        state["step"] += 1
        if group["inner"] == "sgd":
            update, size = gradient, lr
        else:
            update, size = self._adam(state, gradient, group)
        if projected:
            _add_projected(param, update, bases, -size * group["scale"])
        else:
            param.add_(update.to(param.dtype), alpha=-size)
        if group["weight_decay"] > 0:
            param.add_(param, alpha=-lr * group["weight_decay"])

    def _bases(self, state: dict[str, Any], gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return state.get("left"), state.get("right")

    def _keep(self, state: dict[str, Any], left: Tensor | None, right: Tensor | None, group: dict[str, Any]) -> None:
        for key, basis in (("left", left), ("right", right)):
            if basis is not None:
                state[key] = basis

    def _adam(self, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        beta1, beta2 = group["betas"]
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        mean, square, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
        mean.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        size = group["lr"] * math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return mean / square.sqrt().add_(group["eps"]), size

    def _refresh(self, state: dict[str, Any], gradient: Tensor, group: dict[str, Any], index: int) -> None:
        name, first = group["names"][index], "refreshes" not in state
        usable = bool(torch.isfinite(gradient).all())
        if first and not usable:
            raise FitError(f"gradient of '{name}' is not finite; GaLore cannot choose a subspace")
        if not first and not (usable and bool(gradient.any())):
            warnings.warn(
                f"galore: gradient of '{name}' is zero or not finite at a refresh; the old subspace is kept",
                stacklevel=3,
            )
            return
        side = projected_side(tuple(gradient.shape), group["proj_type"])  # type: ignore[arg-type]
        rank = group["rank"] or max(1, min(gradient.shape) // 4)
        left, right, values = subspace(gradient, rank, side)
        energy = values.square()
        total = float(energy.sum()) or 1.0
        state["energy_share"] = float(energy[:rank].sum()) / total
        state["stable_rank"] = total / (float(energy[0]) or 1.0)
        if not first:
            old_left, old_right = self._bases(state, gradient)
            shared = [left.T @ old_left] if left is not None and old_left is not None else []
            shared += [right @ old_right.T] if right is not None and old_right is not None else []
            state["overlap"] = sum(float(part.square().sum()) for part in shared) / (rank * len(shared))
        state["refreshes"] = state.get("refreshes", 0) + 1
        self._keep(state, left, right, group)
        if group["state_on_switch"] == "reset" and not first:
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key].zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; its tensors keep their own dtype, so that a float32 basis of a bf16 weight stays float32.

        Args:
            state_dict: From `state_dict`.
        """
        super().load_state_dict(state_dict)
        order = [param for group in self.param_groups for param in group["params"]]
        saved_order = [index for group in state_dict["param_groups"] for index in group["params"]]
        for param, index in zip(order, saved_order, strict=True):
            if index in state_dict["state"]:
                self.state[param] = _moved(state_dict["state"][index], param.device)


def _add_projected(param: Tensor, step: Tensor, bases: tuple[Tensor | None, Tensor | None], factor: float) -> None:
    """Add a projected step at full size, times a factor, without a copy of that size where dtype and layout allow."""
    left, right = bases
    if left is not None and right is not None:
        step, left = left @ step, None
    one, other = (step, right) if left is None else (left, step)
    if one.dtype == param.dtype and param.is_contiguous() and other is not None:
        param.view(len(param), -1).addmm_(one, other, alpha=factor)
    else:
        param.add_(project_back(step, left, right).view_as(param).to(param.dtype), alpha=factor)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return list(value) if isinstance(value, list) else value


class GaLore(OptimizerMethod):
    """AdamW on projected gradients of linear and convolutional weights (as out x rest matrices); the rest gets plain AdamW.

    Usage:
        `opt = GaLore(rank=8).optimizer(model, wb.Recipe(lr=1e-2))`, then train with `opt` as with any optimizer. The
        effective rate is `scale` times `lr`.
    """

    id: ClassVar[str] = "galore"
    title: ClassVar[str] = "GaLore: gradient low-rank projection"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        "Zhao, Zhang, Chen, Wang, Anandkumar, Tian", 2024, "2403.03507", "ICML 2024",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("low-rank", "optimizer memory", "pre-training")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:subspace"

    layers: str | tuple[str, ...] = knob(("*", "!*head*"), doc="Globs of projected layers; the head gets plain AdamW.")
    rank: int | None = knob(
        None, 1, 65536, scale="log", slider=(1, 512), doc="Rank of the subspace; none: a quarter of the shorter side."
    )
    update_proj_gap: int = knob(
        200, 1, 10**9, scale="log", slider=(10, 1000), unit="steps", doc="Steps between new subspaces."
    )
    scale: float = knob(
        0.25, 1e-4, 100.0, scale="log", slider=(0.05, 4.0), doc="Multiplies the projected step (alpha)."
    )
    proj_type: Literal["std", "reverse_std", "left", "right", "full"] = knob(
        "std", doc="Which side is projected; std: the smaller."
    )
    state_on_switch: Literal["keep", "reset"] = knob(
        "keep", doc="Moments at a new subspace: keep (as the authors) or reset."
    )
    inner: Literal["adam", "sgd"] = knob("adam", doc="Optimizer inside the subspace.")
    eps: float = knob(
        1e-6, 0.0, 1.0, scale="log0", slider=(1e-10, 1e-2), doc="Adam's epsilon, outside the bias correction."
    )

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        context = Context.of(ctx, methods=(self,))
        recipe, chosen = context.recipe, self._matrices(model)
        places = {id(param): name for name, param in chosen.items()}
        special: dict[str, Any] = {"rank": self.rank, "update_proj_gap": self.update_proj_gap, "scale": self.scale}
        special |= {"proj_type": self.proj_type, "state_on_switch": self.state_on_switch}
        groups = self.grouped(context, model, places, special)
        return GaLoreAdamW(groups, recipe.lr, recipe.betas, self.eps, recipe.weight_decay, self.inner)

    @staticmethod
    def grouped(
        context: Context, model: nn.Module, places: dict[int, str], special: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the run's parameter groups, each split into projected and plain parameters.

        Args:
            context: The run.
            model: The prepared model.
            places: `id(parameter)` to layer name of those that are projected.
            special: Options of the projected groups.
        """
        groups: list[dict[str, Any]] = []
        for group in context.groups(model):
            options = {key: value for key, value in group.items() if key not in {"params", "names"}}
            for projected in (True, False):
                params = [param for param in group["params"] if (id(param) in places) is projected]
                if params:
                    names = [places.get(id(param), "") for param in params]
                    groups.append({**options, **(special if projected else {}), "params": params, "names": names})
        return groups

    def _matrices(self, model: nn.Module) -> dict[str, nn.Parameter]:
        places = sharers(model)
        chosen = {
            name: param
            for name, param in self.weights(model).items()
            if not any(isinstance(module, nn.Embedding) for _, module, _ in places.get(id(param), []))
        }
        if not chosen:
            raise FitError(f"{self.id}: no trainable linear or convolutional weight among layers={self.layers!r}")
        for name, param in chosen.items():
            shape = (param.shape[0], param[0].numel())
            if self.rank is not None and self.rank > min(shape):
                raise FitError(
                    f"{self.id}: rank must be between 1 and min(m, n) = {min(shape)} for '{name}' of shape {shape}, got {self.rank}"
                )
        return chosen

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the state of each subspace.

        Columns: layer, overlap (with the one before, share in [0, 1]), energy_share (of the gradient's squared norm kept),
        stable_rank (of the gradient), refreshes.
        """
        import pandas as pd

        if ctx is None or not isinstance(ctx.optimizer, GaLoreAdamW):
            return None
        keys = ("overlap", "energy_share", "stable_rank", "refreshes")
        rows = [
            {"layer": name, **{key: state.get(key, math.nan) for key in keys}}
            for name, _, state in ctx.optimizer.subspaces()
        ]
        return pd.DataFrame(rows) if rows else None
