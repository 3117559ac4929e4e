"""A recorded step that was made cheaper gives what the recorded function gives, and leaves its inputs alone."""

import random

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from wbench.training.graph import simplify

aten = torch.ops.aten


def arguments():
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 4, generator=rng) for _ in range(3)]


def check(function):
    inputs = arguments()
    recorded = simplify(make_fx(function)(*inputs))
    for values in (inputs, [2.0 * part + 1.0 for part in inputs]):
        kept = [part.clone() for part in values]
        found, expected = recorded(*values), function(*kept)
        assert all(torch.equal(part, before) for part, before in zip(values, kept, strict=True))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    return [node.target for node in recorded.graph.nodes if node.op == "call_function"]


def test_elementwise_results_overwrite_what_nobody_reads_afterwards():
    targets = check(lambda x, y, z: (torch.relu(torch.tanh(x * y) + z),))
    assert targets == [aten.mul.Tensor, aten.tanh_.default, aten.add_.Tensor, aten.relu_.default]


def test_what_is_read_later_through_a_view_is_not_overwritten():
    def function(x, y, z):
        a = x * y
        turned = a.transpose(1, 2)
        b = torch.exp(a)
        return b, turned @ z

    assert aten.exp_.default not in check(function)


def test_a_product_of_a_tensor_with_a_view_of_itself_is_not_made_in_place():
    def function(x, y, z):
        a = x * y
        return (a * a.transpose(1, 2),)

    assert aten.mul_.Tensor not in check(function)


def test_outputs_and_inputs_are_not_overwritten():
    def function(x, y, z):
        a = x * y
        return a, torch.tanh(a), torch.tanh(z)

    assert not {aten.tanh_.default} & set(check(function))


def test_memory_is_not_overwritten_with_another_shape_or_dtype():
    def function(x, y, z):
        a = x.sum(1, keepdim=True)
        return a * y, (x * y).double() + 1.0, (z * y) > 0

    targets = check(function)
    assert targets.count(aten.mul_.Tensor) == 0


def test_a_bias_is_added_by_the_product_unless_the_product_is_read_elsewhere():
    assert aten.baddbmm.default in check(lambda x, y, z: (torch.bmm(x, y) + z[:, :1],))
    assert aten.baddbmm.default in check(lambda x, y, z: (z[:, :1] + torch.bmm(x, y),))
    assert aten.baddbmm.default not in check(lambda x, y, z: (torch.bmm(x, y) + z,))

    def twice(x, y, z):
        a = torch.bmm(x, y)
        return a + z[:, :1], a

    assert aten.baddbmm.default not in check(twice)


def test_what_no_input_decides_is_computed_once():
    def function(x, y, z):
        share = torch.ones_like(x).sum() / 7.0
        return (x * (torch.zeros(4) + share) + torch.full((4,), 2.0),)

    targets = check(function)
    assert len(targets) == 2, targets


def test_equal_expressions_are_computed_once():
    assert check(lambda x, y, z: ((x / y).exp() + (x / y).cos(),)).count(aten.div.Tensor) == 1


def test_random_numbers_are_neither_shared_nor_frozen():
    def function(x, y, z):
        return x + torch.rand(4), x + torch.rand(4)

    recorded = simplify(make_fx(function)(*arguments()))
    one, other = recorded(*arguments())
    again, _ = recorded(*arguments())
    assert not torch.equal(one, other) and not torch.equal(one, again)


def test_a_graph_that_writes_to_its_inputs_is_left_as_it_is():
    def function(x, y, z):
        z.add_(1.0)
        return (x * y + z,)

    recorded = make_fx(function)(*arguments())
    before = recorded.code
    assert simplify(recorded).code == before


@pytest.mark.parametrize("seed", range(30))
def test_random_expressions_keep_their_values(seed):
    """Elementwise operations, products, views and sums in any order over shared parts."""
    choices = random.Random(seed)
    one = [torch.tanh, torch.relu, torch.neg, lambda a: a * 1.5, lambda a: a + 1, lambda a: a.transpose(1, 2), lambda a: a.reshape(3, 4, 4),
           lambda a: a.sum(1, keepdim=True).expand(3, 4, 4), lambda a: a.detach(), torch.ones_like, lambda a: a[:, :1] + a]  # fmt: skip
    two = [torch.add, torch.mul, torch.sub, torch.bmm, torch.maximum, lambda a, b: torch.bmm(a, b) + b[:, :1]]
    plan = [
        (choices.random() < 0.5, choices.randrange(100), choices.randrange(100), choices.randrange(100))
        for _ in range(25)
    ]
    kept = sorted(choices.sample(range(25), 4))

    def function(x, y, z):
        values = [x, y, z]
        for single, which, first, second in plan:
            a, b = values[first % len(values)], values[second % len(values)]
            found = one[which % len(one)](a) if single else two[which % len(two)](a, b)
            values.append(torch.clamp(found, -3.0, 3.0) if len(values) % 3 == 0 else found / 2)
        return tuple(values[3 + index] for index in kept)

    check(function)
