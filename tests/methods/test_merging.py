"""Merging baselines, and what all merging methods share: order, memory, refusals, buffers."""

import gc
import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from user_model import UserModel

import wbench as wb
from wbench.method import Context
from wbench.methods import OPCM, TIES, ScalingOnly, TaskArithmetic, WeightAverage
from wbench.ops.taskvector import SignedSums, largest, norm
from wbench.splits import Splits, TensorSplit
from wbench.testing import check_method, small_model

ALL = [OPCM, ScalingOnly, TaskArithmetic, TIES, WeightAverage]


def models(count, seed=0, make=small_model, size=0.1, dtype=torch.float64):
    """Return a base and models near it, by role."""
    base = make(seed).to(dtype)
    rng = torch.Generator().manual_seed(seed)
    members = {}
    for index in range(count):
        member = make(seed).to(dtype)
        for param in member.parameters():
            param.data += size * torch.randn(param.shape, generator=rng, dtype=torch.float64).to(dtype)
        members[f"m{index}"] = member
    return base, members


def flat(model, base=None):
    vector = torch.cat([param.detach().flatten() for param in model.parameters()])
    return vector if base is None else vector - flat(base)


@pytest.mark.parametrize("cls", ALL)
def test_contract(cls):
    check_method(cls)


def test_weight_average_is_the_mean_and_needs_no_base():
    _, members = models(5)
    merged = WeightAverage().combine(members).models[0]
    assert torch.allclose(flat(merged), torch.stack([flat(model) for model in members.values()]).mean(0), atol=1e-14)


@pytest.mark.parametrize("scaling", [0.0, 0.3, 1.0])
def test_task_arithmetic_is_the_base_plus_the_scaled_sum(scaling):
    base, members = models(4)
    expected = flat(base) + scaling * sum(flat(model, base) for model in members.values())
    merged = TaskArithmetic(scaling=scaling).combine(members, base).models[0]
    assert torch.allclose(flat(merged), expected, atol=1e-13)


def test_scaling_only_keeps_direction_of_the_sum_and_mean_length():
    base, members = models(4)
    vectors = [flat(model, base) for model in members.values()]
    total, mean = sum(vectors), sum(v.norm() for v in vectors) / 4
    merged = ScalingOnly().combine(members, base)
    assert torch.allclose(flat(merged.models[0], base), total * mean / total.norm(), atol=1e-13)
    assert merged.extra["arrivals"][-1]["divisor"] == pytest.approx(float(total.norm() / mean), rel=1e-12)


def test_ties_on_a_worked_example():
    # three models, five parameters; of each the two largest stay: (5, -4), (-3, 2), (-6, -1)
    changes = [[5.0, -4.0, 1.0, 0.5, 0.0], [0.3, -3.0, 2.0, -0.1, 0.2], [-6.0, 0.1, 0.2, 0.3, -1.0]]
    base = nn.Linear(5, 1, bias=False)
    nn.init.ones_(base.weight)
    members = {}
    for index, change in enumerate(changes):
        members[str(index)] = nn.Linear(5, 1, bias=False)
        members[str(index)].weight.data = 1 + torch.tensor([change])
    merged = TIES(density=0.4, scaling=0.5).combine(members, base).models[0]
    # sums -1, -7, 2, 0, -1: signs -, -, +, +, -; means of those that agree -6, -3.5, 2, none, -1
    assert torch.allclose(merged.weight, 1 + 0.5 * torch.tensor([[-6.0, -3.5, 2.0, 0.0, -1.0]]))


def test_ties_in_one_pass_is_ties_over_all_models_at_once():
    base, members = models(6)
    vectors = torch.stack([flat(model, base) for model in members.values()])
    count = round(0.2 * vectors.shape[1])
    kept = torch.zeros_like(vectors)
    for vector, own in zip(vectors, kept, strict=True):
        index = vector.abs().topk(count).indices
        own[index] = vector[index]
    sign = torch.where(kept.sum(0) >= 0, 1.0, -1.0)
    agree = (kept.sign() == sign) & (kept != 0)
    expected = (kept * agree).sum(0) / agree.sum(0).clamp_min(1)
    merged = TIES().combine(members, base).models[0]
    assert torch.allclose(flat(merged, base), expected, atol=1e-13)


def test_ties_of_one_model_at_full_density_is_that_model():
    base, members = models(1)
    merged = TIES(density=1.0).combine(members, base).models[0]
    assert torch.allclose(flat(merged), flat(members["m0"]), atol=1e-14)


def test_trimming_is_over_all_tensors_together():
    vector = {"a": torch.tensor([[9.0, -8.0], [7.0, 6.0]]), "b": torch.tensor([1.0, -10.0])}
    left = largest(vector, 0.5)
    assert left["a"].tolist() == [[9.0, -8.0], [0.0, 0.0]] and left["b"].tolist() == [0.0, -10.0]
    assert norm(left) == pytest.approx((81 + 64 + 100) ** 0.5)
    assert norm(largest(vector, 1e-4)) == 10.0


def test_signed_sums_count_only_numbers_that_are_there():
    sums = SignedSums()
    for value in (2.0, 4.0, -1.0, 0.0):
        sums.add({"x": torch.tensor([value])})
    assert float(sums.elected_mean("x")) == 3.0


class Lazy(Mapping):
    """Makes a model when asked, and knows how many of them are alive."""

    def __init__(self, count):
        self.count, self.alive, self.most, self.asked = count, weakref.WeakSet(), 0, []

    def __getitem__(self, role):
        self.asked.append(role)
        _, members = models(1, seed=int(role[1:]) + 1, dtype=torch.float32)
        model = members["m0"]
        self.alive.add(model)
        self.most = max(self.most, len(self.alive))
        return model

    def __iter__(self):
        return (f"m{index}" for index in range(self.count))

    def __len__(self):
        return self.count


@pytest.mark.parametrize("cls", ALL)
def test_members_are_asked_for_once_and_let_go(cls):
    lazy = Lazy(6)
    merged = cls().combine(lazy, small_model(0))
    assert sorted(lazy.asked) == sorted(lazy) and lazy.most == 1
    assert not len(lazy.alive) and len(merged.extra["arrivals"]) == 6


def held_bytes():
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("cls", ALL)
def test_memory_does_not_grow_with_the_number_of_members(cls):
    held = {}
    for count in (3, 12):

        class Measured(Lazy):
            def __getitem__(self, role):
                if len(self.asked) == self.count - 1:
                    held[self.count] = held_bytes()
                return super().__getitem__(role)

        cls().combine(Measured(count), small_model(0))
    size = sum(4 * param.numel() for param in small_model(0).parameters())
    assert abs(held[12] - held[3]) < 0.2 * size


@pytest.mark.parametrize("cls", ALL)
def test_members_are_not_changed(cls):
    base, members = models(3)
    before = [flat(model).clone() for model in (base, *members.values())]
    cls().combine(members, base)
    assert all(torch.equal(flat(model), old) for model, old in zip((base, *members.values()), before, strict=True))


@pytest.mark.parametrize("cls", ALL)
def test_what_does_not_fit_is_refused_by_name(cls):
    base, members = models(2)
    with pytest.raises(wb.WBenchError, match=f"{cls.id} combines models; pass members"):
        cls().combine({}, base)
    if cls.needs_base:
        with pytest.raises(wb.WBenchError, match=f"{cls.id} needs the model that its members were fine-tuned from"):
            cls().combine(members)
    members["wide"] = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 8))
    with pytest.raises(
        wb.WBenchError, match=rf"{cls.id}: model 'wide' does not match the base at 0.weight: \(40, 16\)"
    ):
        cls().combine(members, base)
    members["wide"] = nn.Sequential(nn.Linear(16, 32))
    with pytest.raises(wb.WBenchError, match="model 'wide' does not match the base at 2.weight: absent instead of"):
        cls().combine(members, base)
    members["wide"] = nn.Sequential(*small_model(0), nn.Linear(8, 2))
    with pytest.raises(wb.WBenchError, match=r"at 5.weight: \(2, 8\) instead of absent"):
        cls().combine(members, base)
    members["wide"] = small_model(1)
    members["wide"][2].bias.data[3] = float("nan")
    with pytest.raises(wb.WBenchError, match="model 'wide' holds NaN or inf in 2.bias"):
        cls().combine(members, base)


@pytest.mark.parametrize("cls", ALL)
def test_other_layers_tied_weights_and_bfloat16_are_merged(cls):
    def make(seed):
        torch.manual_seed(seed)
        return UserModel()

    base, members = models(3, make=make, size=0.02, dtype=torch.float32)
    merged = cls().combine(members, base).models[0]
    assert merged.head.weight is merged.embedding.weight and not torch.equal(merged.head.weight, base.head.weight)
    half = cls().combine({role: model.bfloat16() for role, model in members.items()}, base.bfloat16()).models[0]
    assert half.conv1.weight.dtype == torch.bfloat16
    assert torch.allclose(half.conv1.weight.float(), merged.conv1.weight, atol=0.03)


def norm_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def test_running_statistics_are_those_of_the_merged_model_on_the_runs_data():
    base, members = models(3, make=norm_model, dtype=torch.float32)
    members["m0"][1].running_mean.fill_(7.0)
    x = torch.randn(400, 6)
    ctx = Context(splits=Splits(train=TensorSplit(x, torch.zeros(400))))
    merged = WeightAverage().combine(members, base, ctx).models[0]
    hidden = merged[0](x).detach()
    assert torch.allclose(merged[1].running_mean, hidden[:256].mean(0) / 2 + hidden[256:].mean(0) / 2, atol=1e-5)
    with pytest.warns(UserWarning, match="running statistics of batch norms are the first member's"):
        alone = OPCM(shuffle_order=False).combine(members, base).models[0]
    assert torch.equal(alone[1].running_mean, members["m0"][1].running_mean)


def test_a_population_method_stands_alone_and_is_evaluated_on_each_member(tmp_path):
    task = wb.tasks.DigitDomains(domain="rotated_pixels", hidden=(8,), domains=2)
    base = task.model(0)
    members = {"domain0": task.model(1), "domain1": task.model(2), "other": task.model(3)}
    run = wb.train(task, TIES(), members=members, references={"base": base})
    rows = run.metrics.query("split == 'test' and name == 'loss'")
    assert list(rows["phase"]) == ["domain0", "domain1", "other", "end"]
    assert run.final("loss") == pytest.approx(rows["value"][:-1].mean())
    assert len(run.probe("method.ties")) == 3
    with pytest.raises(wb.WBenchError, match="ties needs the model that its members"):
        wb.train(task, TIES(), members=members)
