r"""Normalize-and-Project: Normalization and effective learning rates in reinforcement learning.

Clare Lyle, Zeyu Zheng, Khimya Khetarpal, James Martens, Hado van Hasselt, Razvan Pascanu, Will Dabney, 2024,
arXiv:2407.01800.

With a norm before every nonlinearity the function does not depend on the scale of a weight, but the effective learning
rate does, and it decays as the weight grows. NaP inserts the norms and, after each step, rescales each weight to the norm
it started with, so that the learning rate means what it says:

$$ h_l = \phi(\gamma_l \odot \mathrm{N}(W_l h_{l-1}) + \beta_l), \qquad W_l \leftarrow \rho_l W_l / \lVert W_l \rVert_F $$

$W_l$: $(d_l, d_{l-1})$; $\gamma_l, \beta_l$: $(d_l)$; $\rho_l = \lVert W_l^{(0)} \rVert_F$. The head is neither normalised nor projected.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wbench.errors import FitError
from wbench.method import Context, Method, OptimizerMethod, Paper, Stage, knob, replace_module
from wbench.methods.optimizer.nap_norms import make_norm
from wbench.ops.graph import BATCH_NORMS, Consumer, consumers, followers
from wbench.ops.norms import frobenius
from wbench.recipe import Recipe


@torch.no_grad()
def project_weight(weight: Tensor, radius: Tensor) -> bool:
    """Rescale a weight in place to its radius.

    Args:
        weight: (out, ...).
        radius: Scalar, or (out, 1, ...) for rows.

    Returns:
        Whether it was rescaled; a weight (or row) of norm zero is left as it is.
    """
    norm = frobenius(weight, "tensor" if radius.ndim == 0 else "row")
    factor = torch.where(norm > 0, radius / norm, torch.ones_like(norm))
    weight.mul_(factor.to(weight.dtype))
    return bool((norm > 0).all())


@torch.no_grad()
def project_affine(scale: Tensor, offset: Tensor | None) -> Tensor:
    r"""Rescale scale and offset of a norm together, so that $\lVert\gamma\rVert^2 + \lVert\beta\rVert^2 = d$.

    Args:
        scale: (d), changed in place.
        offset: (d) or `None`, changed in place.

    Returns:
        The factor c.
    """
    total = scale.square().sum() + (offset.square().sum() if offset is not None else 0.0)
    factor = torch.where(total > 0, (scale.numel() / total).sqrt(), torch.ones_like(total))
    scale.mul_(factor)
    if offset is not None:
        offset.mul_(factor)
    return factor


class NaP(OptimizerMethod):
    """Norm before every nonlinearity, and each normalised weight back to its first norm after every step.

    Usage:
        `model = nap.prepare(model)`, make an optimizer, `nap.attach(model, optimizer)`, train as before.
    """

    id: ClassVar[str] = "nap"
    title: ClassVar[str] = "Normalize-and-Project (NaP)"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Normalization and effective learning rates in reinforcement learning",
        "Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu, Dabney", 2024, "2407.01800", "NeurIPS 2024",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("effective learning rate", "plasticity", "continual learning", "normalization")
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    excludes: ClassVar[tuple[Stage, ...]] = ("parametrization",)

    norm: Literal["layernorm", "rmsnorm", "none"] = knob(
        "layernorm", doc="Norm inserted before nonlinearities; none: use the model's own."
    )
    project: bool = knob(True, doc="Rescale the weights; off: norms alone.")
    every: int = knob(
        1, 1, 1_000_000, scale="log", slider=(1, 1000), unit="steps", doc="Optimizer steps between projections."
    )
    target: Literal["init", "sqrt_fan_out"] = knob(
        "init", doc="Radius: norm at the start, or the root of the layer's width."
    )
    affine_mode: Literal["auto", "joint", "decay", "none", "fixed"] = knob(
        "auto",
        doc="Norms' scale and offset: projected jointly, pulled to their start, free, or not learned; auto: joint for ReLU.",
    )
    affine_decay: float = knob(1e-3, 0.0, 10.0, scale="log0", slider=(1e-5, 1e-1), doc="Pull of affine_mode decay.")
    granularity: Literal["tensor", "row"] = knob(
        "tensor", doc="One norm a weight, or one an output row (changes the function)."
    )
    match_implicit_schedule: bool = knob(
        False, doc="Replay the decay of the effective rate that plain SGD has without projection."
    )
    allow_non_invariant: bool = knob(
        False, doc="Project weights that no norm follows, too, which changes the function."
    )

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        recipe = Context.of(ctx).recipe
        if self.null_like:
            return model
        if recipe.weight_decay > 0 and self.project:
            warnings.warn(f"nap: weight_decay={recipe.weight_decay:g} has no effect on projected weights", stacklevel=2)
        if self.match_implicit_schedule and ctx is not None and (recipe.optimizer != "sgd" or recipe.momentum > 0):
            raise FitError(
                "nap: match_implicit_schedule=True is exact for plain SGD only; use optimizer='sgd', momentum=0"
            )
        if self.project and self.granularity == "row":
            warnings.warn("nap: granularity='row' changes the function, as layer norms mix the rows", stacklevel=2)
        trunk = self._trunk(model)
        if self.project and not any(model.get_submodule(name).weight.requires_grad for name in trunk):
            raise FitError(
                f"nap: every weight that it would project is frozen ({', '.join(trunk)}), so that it would do nothing; leave one "
                "trainable, or put norms alone: project=False"
            )
        for name, consumer in trunk.items():
            model = self._normalize(model, name, consumer)
        return model

    @property
    def null_like(self) -> bool:
        """Whether both halves of the method are off."""
        return self.norm == "none" and not self.project

    def _trunk(self, model: nn.Module) -> dict[str, Consumer]:
        """Return the selected layers and what follows each.

        Raises:
            FitError: If a named layer is not followed by a norm or nonlinearity, or none is.
        """
        try:
            found = consumers(model)
        except RuntimeError as error:
            if not self.allow_non_invariant:
                raise FitError(
                    f"nap: {error}; name normalised layers with layers= and pass allow_non_invariant=True"
                ) from None
            found = {}
        trunk = {}
        for name, layer in self.select(model).items():
            if parametrize.is_parametrized(layer, "weight"):
                raise FitError(
                    f"nap: the weight of layer '{name}' is parametrised; its trained values are not scale-free"
                )
            consumer = found.get(name, Consumer("other"))
            ready = consumer.kind == "norm" or (consumer.kind == "activation" and self.norm != "none")
            if ready or self.allow_non_invariant:
                trunk[name] = consumer
            elif self.layers != "*":
                raise FitError(
                    f"nap: weight '{name}' is not followed by a normalization layer before its nonlinearity; projecting it "
                    "would change the function (pass allow_non_invariant=True to override)"
                )
        if not trunk:
            raise FitError(f"nap: no layer of {type(model).__name__} is followed by a nonlinearity or a norm")
        return trunk

    def _normalize(self, model: nn.Module, name: str, consumer: Consumer) -> nn.Module:
        layer = model.get_submodule(name)
        norm: nn.Module | None = (
            model.get_submodule(consumer.name) if consumer.kind == "norm" and consumer.name else None
        )
        follower = consumer
        if norm is None and self.norm != "none" and consumer.kind == "activation":
            norm = make_norm(self.norm, layer, affine=self.affine_mode != "fixed").to(layer.weight)  # type: ignore[arg-type]
            if consumer.slot:
                model = replace_module(model, consumer.slot, norm)
            else:
                model = replace_module(model, name, nn.Sequential(layer, norm))
        elif norm is not None:
            follower = followers(model).get(consumer.name, Consumer("other"))
        if norm is not None and not isinstance(norm, BATCH_NORMS) and getattr(layer, "bias", None) is not None:
            layer.register_parameter("bias", None)
        if self.project:
            fan_out = math.sqrt(layer.weight.shape[0])  # type: ignore[index,union-attr,arg-type]
            radius = frobenius(layer.weight, self.granularity)  # type: ignore[arg-type]
            layer.wbench_rewriter = self.id  # type: ignore[assignment]
            layer.register_buffer("nap_radius", radius if self.target == "init" else torch.full_like(radius, fan_out))
            if self.match_implicit_schedule:
                layer.register_buffer("nap_virtual_norm", frobenius(layer.weight))  # type: ignore[arg-type]
            if norm is not None:
                norm.nap_affine = self._affine(follower, norm)  # type: ignore[assignment]
        return model

    def _affine(self, follower: Consumer, norm: nn.Module) -> str:
        if getattr(norm, "weight", None) is None:
            return "fixed"
        if self.affine_mode == "auto":
            return "joint" if follower.kind == "activation" and follower.homogeneous else "decay"
        if self.affine_mode == "joint" and not (follower.kind == "activation" and follower.homogeneous):
            what = follower.type_name or "none that could be found"
            raise FitError(
                f"nap: affine_mode='joint' needs a positively homogeneous activation; got {what}, use 'decay'"
            )
        return self.affine_mode

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        if not self.match_implicit_schedule or not self.project:
            return
        rate = ctx.optimizer.param_groups[0]["lr"] if ctx is not None and ctx.optimizer is not None else None
        for layer in _projected(model):
            if layer.weight.grad is None:  # type: ignore[union-attr]
                continue
            gradient: Tensor = layer.weight.grad  # type: ignore[assignment,union-attr]
            radius, virtual = layer._buffers["nap_radius"], layer._buffers["nap_virtual_norm"]
            if radius is None or virtual is None:
                continue
            lr = rate if rate is not None else Context.of(ctx).recipe.lr
            unprojected = gradient.norm() * radius / virtual
            gradient.mul_((radius / virtual).square())
            virtual.copy_((virtual.square() + (lr * unprojected).square()).sqrt())

    def after_step(self, model: nn.Module, ctx: Context | None = None) -> None:
        if not self.project or (ctx is not None and ctx.step % self.every):
            return
        for layer in _projected(model):
            weight: Tensor = layer.weight  # type: ignore[assignment]
            if weight.requires_grad and not project_weight(weight, layer.nap_radius):  # type: ignore[arg-type]
                warnings.warn("nap: a weight has norm zero; it is left as it is", stacklevel=2)
        for norm in model.modules():
            if getattr(norm, "nap_affine", "") == "joint":
                project_affine(norm.weight, norm.bias)  # type: ignore[arg-type]

    def penalty(self, model: nn.Module, ctx: Context | None = None) -> Tensor | float:
        if self.affine_mode not in {"auto", "decay"}:
            return 0.0
        pulled = [norm for norm in model.modules() if getattr(norm, "nap_affine", "") == "decay"]
        terms: list[Tensor] = [(norm.weight - 1.0).square().sum() for norm in pulled]
        terms += [norm.bias.square().sum() for norm in pulled if getattr(norm, "bias", None) is not None]
        return self.affine_decay * torch.stack(terms).sum() if terms else 0.0

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        for module in model.modules():
            for name in ("nap_radius", "nap_virtual_norm"):
                if name in module._buffers:
                    delattr(module, name)
            for name in ("nap_affine", "wbench_rewriter"):
                if hasattr(module, name):
                    delattr(module, name)
        return model

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        return Method.restore(self, self.finish(self.prepare(model)), state)

    def null(self) -> Self | None:
        return self.replace(norm="none", project=False)


def _projected(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if "nap_radius" in module._buffers]
