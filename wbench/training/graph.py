"""A recorded step made cheaper: what is computed twice, for nothing or into new memory is not."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.expand.default)
LIKE = {
    aten.ones_like.default: 1.0,
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
}
COMMUTE = (aten.mul.Tensor, aten.add.Tensor)


def simplify(recorded: GraphModule) -> GraphModule:
    """Return a recorded step that gives the same to rounding, in fewer passes. Graphs that write in place are left as they are.

    What changes nothing goes, what is constant is computed now, what is computed twice is computed once; weight gradients are
    computed in the layout of their weight, `(X^T G)^T = G^T X`, as elementwise work on mixed layouts is slow; a bias is added
    by the product; and elementwise results overwrite what nobody reads afterwards.

    Args:
        recorded: From `make_fx`, a function of tensors of fixed shapes; changed in place.
    """
    graph = recorded.graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if any(getattr(node.target, "_schema", None) is None or node.target._schema.is_mutable for node in calls):
        return recorded
    _drop_idle(graph)
    _fold_constants(recorded)
    _share(graph)
    _transpose_products(graph)
    _add_in_products(graph)
    _overwrite(graph)
    graph.eliminate_dead_code()
    graph.lint()
    recorded.recompile()
    return recorded


def _calls(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _drop_idle(graph: Graph) -> None:
    for node in _calls(graph):
        same = node.target in VIEWS and _shape(node) is not None and _shape(node) == _shape(node.args[0])
        one = node.target is aten.mul.Scalar and type(node.args[1]) is int and node.args[1] == 1
        if same or one or node.target is aten.detach.default:
            node.replace_all_uses_with(cast(Node, node.args[0]))
    graph.eliminate_dead_code()


def _fold_constants(recorded: GraphModule) -> None:
    # values that no input decides: computed here, kept as attributes
    graph, values = recorded.graph, dict[Node, Tensor]()
    for node in _calls(graph):
        like = node.meta.get("val")
        if node.target in LIKE and isinstance(like, Tensor):
            values[node] = torch.full(tuple(like.shape), LIKE[node.target], dtype=like.dtype, device=like.device)
        elif set(node.all_input_nodes) <= values.keys() and isinstance(like, Tensor) and not _draws(node):
            function = cast(Callable[..., Tensor], node.target)
            given = cast(tuple[Any, ...], torch.fx.map_arg(node.args, values.__getitem__))
            named = cast(dict[str, Any], torch.fx.map_arg(node.kwargs, values.__getitem__))
            values[node] = function(*given, **named)
    for number, (node, value) in enumerate(values.items()):
        if any(user not in values for user in node.users):
            name = f"constant{number}"
            recorded.register_buffer(name, value)
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(name), delete_user_cb=lambda user: user not in values)
    graph.eliminate_dead_code()


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]


def _share(graph: Graph) -> None:
    seen: dict[str, Node] = {}
    for node in _calls(graph):
        key = repr((str(node.target), node.args, sorted(node.kwargs.items())))
        first = seen.setdefault(key, node)
        if first is not node and not _draws(node):
            node.replace_all_uses_with(first)
    graph.eliminate_dead_code()


def _transpose_products(graph: Graph) -> None:
    for node in [node for node in graph.nodes if _is_transpose(node)]:
        product = node.args[0]
        if product.target is aten.bmm.default and len(product.users) == 1:
            left, right = product.args
            with graph.inserting_before(node):
                swapped = graph.call_function(aten.bmm.default, (_turned(graph, right), _turned(graph, left)))
            swapped.meta = node.meta
            node.replace_all_uses_with(swapped)
    for node in _calls(graph):  # products have changed their layout
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    graph.eliminate_dead_code()


def _is_transpose(node: Any) -> bool:
    return node.op == "call_function" and node.target is aten.transpose.int and tuple(node.args[1:]) == (1, 2)


def _turned(graph: Graph, node: Node) -> Any:
    return node.args[0] if _is_transpose(node) else graph.call_function(aten.transpose.int, (node, 1, 2))


def _add_in_products(graph: Graph) -> None:
    for node in _calls(graph):
        if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
            continue
        for bias, product in (node.args, node.args[::-1]):
            if (
                isinstance(product, Node) and product.target is aten.bmm.default and len(product.users) == 1
                and isinstance(bias, Node) and _shape(node) == _shape(product) and _dtype(bias) == _dtype(product)
                and len(_shape(bias) or ()) == 3 and (_shape(bias) or (0, 0))[1] == 1
            ):  # fmt: skip
                node.target, node.args = aten.baddbmm.default, (bias, *product.args)
                break
    graph.eliminate_dead_code()


def _overwrite(graph: Graph) -> None:
    # in place, where the memory is the step's own, is read by nobody later, and holds exactly as many numbers
    nodes = list(graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    memory: dict[Node, Node] = {}  # node to the node that made the memory in which it lies
    last: dict[Node, int] = {}  # that node to where its memory is read last
    whole: set[Node] = set()  # nodes that are all of their memory, made by this step
    for node in nodes:
        memory[node] = memory[node.args[0]] if _is_view(node) else node
        if memory[node] is node and node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            whole.add(node)
        for used in node.all_input_nodes:
            last[memory[used]] = place[node]
    for node in nodes:
        for target, args in _candidates(node):
            own = memory[target]
            if (
                target in whole and last[own] == place[node]
                and (_shape(target), _dtype(target)) == (_shape(node), _dtype(node))
                and all(part is target or memory[part] is not own for part in args if isinstance(part, Node))
            ):  # fmt: skip
                _write_to(node, target, args)
                last[own] = last.get(node, place[node])
                memory.update({other: own for other, made in memory.items() if made is node})
                break


def _candidates(node: Node) -> Iterator[tuple[Node, tuple[Any, ...]]]:
    if node.op != "call_function" or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return
    if node.target is not aten.threshold_backward.default and _in_place(node) is None:
        return
    for args in (node.args, node.args[::-1]) if node.target in COMMUTE and len(node.args) == 2 else (node.args,):
        if isinstance(args[0], Node):
            yield args[0], args


def _write_to(node: Node, target: Node, args: tuple[Any, ...]) -> None:
    if node.target is aten.threshold_backward.default:
        node.target, node.kwargs = aten.threshold_backward.grad_input, {"grad_input": target}
    else:
        node.target, node.args = _in_place(node), args


def _is_view(node: Node) -> bool:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    if node.target is operator.getitem:
        return True
    return any(part.alias_info is not None for part in node.target._schema.returns)  # type: ignore[union-attr]


def _in_place(node: Node) -> Any:
    schema = node.target._schema  # type: ignore[union-attr]
    return getattr(getattr(aten, f"{schema.name.partition('::')[2]}_", None), schema.overload_name or "default", None)


def _shape(node: Any) -> Sequence[int] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if hasattr(value, "shape") else None


def _dtype(node: Any) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)
