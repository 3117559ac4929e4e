"""What follows each layer of a model, read from a symbolic trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU, nn.Mish,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softsign,
)  # fmt: skip
HOMOGENEOUS = ("ReLU", "LeakyReLU", "PReLU", "relu", "relu_", "leaky_relu", "prelu")
ACTIVATION_FUNCTIONS = {
    F.relu, F.leaky_relu, F.gelu, F.silu, F.elu, F.selu, F.softplus, F.relu6, F.mish, F.hardswish, F.sigmoid, F.tanh,
    torch.relu, torch.tanh, torch.sigmoid,
}  # fmt: skip
ACTIVATION_METHODS = {"relu", "relu_", "tanh", "sigmoid"}


@dataclass(frozen=True)
class Consumer:
    """What a layer's output goes into.

    Attributes:
        kind: `norm`, `activation`, or `other` (the model's output, a sum, several consumers, ...).
        name: Module name of the norm or activation, or the function's name; empty for `other`.
        type_name: Class or function name of it, e.g. `GELU`.
        slot: Name of an `nn.Identity` passed on the way, where a norm can be put; empty when there is none.
    """

    kind: Literal["norm", "activation", "other"]
    name: str = ""
    type_name: str = ""
    slot: str = ""

    @property
    def homogeneous(self) -> bool:
        """Whether the activation is positively homogeneous (ReLU and its leaky kin)."""
        return self.type_name in HOMOGENEOUS


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, LAYERS + NORMS + ACTIVATIONS + (nn.Identity,)) or hasattr(m, "merged_weight")
        return leaf or not list(m.children()) or super().is_leaf_module(m, module_qualified_name)


def consumers(model: nn.Module) -> dict[str, Consumer]:
    """Return, for each linear and convolutional layer, what its output goes into.

    Args:
        model: A model that `torch.fx` can trace.

    Returns:
        Layer name to its consumer; `nn.Identity` and dropout on the way are passed through. A layer used more than once
        has the consumer of its first use if all uses agree in kind, else `other`.

    Raises:
        RuntimeError: If the model cannot be traced symbolically.
    """
    modules = dict(model.named_modules())
    layers = {
        name for name, module in modules.items() if isinstance(module, LAYERS) or hasattr(module, "merged_weight")
    }
    return followers(model, layers)


def followers(model: nn.Module, names: set[str] | None = None) -> dict[str, Consumer]:
    """Return what the output of each named module goes into.

    Args:
        model: A model that `torch.fx` can trace.
        names: Module names; default: all leaf modules.

    Returns:
        As `consumers`.

    Raises:
        RuntimeError: If the model cannot be traced symbolically.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # torch.fx raises many kinds on control flow that depends on data
        raise RuntimeError(f"{type(model).__name__} cannot be traced symbolically: {error}") from error
    modules = dict(model.named_modules())
    found: dict[str, Consumer] = {}
    for node in graph.nodes:
        if node.op != "call_module" or (names is not None and str(node.target) not in names):
            continue
        new, name = _follow(node, modules), str(node.target)
        old = found.get(name, new)
        found[name] = old if old.kind == new.kind else Consumer("other")
    return found


def _follow(node: fx.Node, modules: dict[str, nn.Module], slot: str = "") -> Consumer:
    users = list(node.users)
    if len(users) != 1:
        return Consumer("other", slot=slot)
    user = users[0]
    target: Any = user.target
    if user.op == "call_module":
        module = modules[str(target)]
        kind = type(module).__name__
        if isinstance(module, NORMS):
            return Consumer("norm", str(target), kind, slot)
        if isinstance(module, ACTIVATIONS):
            return Consumer("activation", str(target), kind, slot)
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            return _follow(user, modules, slot or (str(target) if isinstance(module, nn.Identity) else ""))
        return Consumer("other", slot=slot)
    if user.op == "call_function" and target in ACTIVATION_FUNCTIONS:
        return Consumer("activation", "", target.__name__, slot)
    if user.op == "call_function" and target in {F.layer_norm, F.batch_norm, F.group_norm, F.rms_norm}:
        return Consumer("norm", "", target.__name__, slot)
    if user.op == "call_method" and target in ACTIVATION_METHODS:
        return Consumer("activation", "", str(target), slot)
    return Consumer("other", slot=slot)


def normalized_layers(model: nn.Module) -> set[str]:
    """Return the layers whose weight can be rescaled without changing the function: a norm follows at once.

    With a layer norm the layer must have no bias (a bias does not scale along); a batch norm removes it.

    Args:
        model: Any model.

    Returns:
        Layer names; empty where the model cannot be traced symbolically.
    """
    try:
        found = consumers(model)
    except RuntimeError:
        return set()
    modules = dict(model.named_modules())
    invariant = set()
    for name, consumer in found.items():
        if consumer.kind != "norm":
            continue
        centred = consumer.name and isinstance(modules[consumer.name], BATCH_NORMS)
        if centred or getattr(modules[name], "bias", None) is None:
            invariant.add(name)
    return invariant
