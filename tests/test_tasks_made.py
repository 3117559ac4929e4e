"""Tasks made by formula: domains of digits, streams of tasks, and the linear teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from split_tensors import rows, tensors
from torch import Tensor, nn

import wbench as wb
from wbench.errors import DataError, KnobError
from wbench.splits import TensorSplit
from wbench.tasks import DigitDomains, Digits, DigitStreams, LinearTeacher
from wbench.tasks.digit_domains import change

# digit_domains


def images() -> Tensor:
    return tensors(DigitDomains(domain="identity").data(0)["test"])[0]


def changed(domain: str, strength: float) -> Tensor:
    return change(images(), domain, strength, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_rotation_turns_counter_clockwise_by_any_angle(quarter: int) -> None:
    expected = torch.from_numpy(np.rot90(images().numpy(), quarter, (2, 3)).copy())
    assert torch.equal(changed("rotation", 90.0 * quarter), expected)
    assert torch.allclose(changed("rotation", 90.0 * quarter + 1e-3), expected, atol=1e-3)


def test_the_other_domains_are_their_formulas() -> None:
    x = images()
    shifted = changed("shift", 2.0)
    assert torch.equal(shifted[..., 2:], x[..., :-2]) and not shifted[..., :2].any()
    assert torch.equal(changed("halves", 1.0), torch.cat([x[..., 4:], x[..., :4]], -1))
    assert torch.allclose(changed("fog", 0.6), 0.4 * x + 0.6)
    mean = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(changed("contrast", 0.3) - mean, 0.3 * (x - mean), atol=1e-6)
    partner = (changed("mix", 0.4) - 0.6 * x) / 0.4
    order = torch.cdist(partner.flatten(1), x.flatten(1)).argmin(1)
    assert torch.allclose(partner, x[order], atol=1e-5) and sorted(order.tolist()) == list(range(len(x)))
    assert torch.equal(changed("identity", 0.0), x)


@pytest.mark.parametrize("domain", ["rotation", "shift", "mix", "halves", "fog", "contrast"])
def test_all_domains_hold_the_same_digits_in_the_same_splits(domain: str) -> None:
    base, other = DigitDomains(domain="identity").data(5), DigitDomains(domain=domain).data(5)
    for name in ("train", "valid", "test"):
        assert torch.equal(tensors(base[name])[1], tensors(other[name])[1])
        assert not torch.equal(tensors(base[name])[0], tensors(other[name])[0])
    assert base.checksums() == Digits().data(5).checksums()


@pytest.mark.parametrize(("domain", "strength"), [("mix", 1.1), ("fog", 2.0), ("shift", 1.5), ("shift", 8.0)])
def test_a_strength_that_does_not_fit_its_domain_is_refused(domain: str, strength: float) -> None:
    with pytest.raises(KnobError, match=f"strength={strength} does not fit '{domain}'; allowed"):
        DigitDomains(domain=domain, strength=strength)


# digit_streams


def test_random_label_tasks_share_their_inputs_over_tasks_and_seeds() -> None:
    inputs = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    labels = []
    for seed in (0, 1):
        splits = DigitStreams(tasks=60).data(seed)
        assert len(splits) == 62 and list(splits)[59] == "task59"
        for index in range(60):
            x, y = next(splits[f"task{index:02d}"].sequential(256))
            assert torch.equal(x, inputs)
            labels.append(y)
    assert len({y.numpy().tobytes() for y in labels}) == 120
    counts = torch.stack(labels).flatten().bincount(minlength=10).double()
    expected = 120 * 256 / 10
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_a_stream_trains_one_phase_a_task_on_full_batches_and_carries_the_optimizer() -> None:
    task = DigitStreams(tasks=7)
    recipe = task.recipe("cpu")
    found = [(phase.name, phase.steps, phase.carry) for phase in recipe.plan]
    assert found == [(f"task{index:02d}", 30, True) for index in range(7)]
    assert (recipe.optimizer, recipe.lr, recipe.schedule) == ("adam", 5e-3, "constant")
    batch = next(task.data(0)["task03"].batches(recipe.batch_size, torch.Generator()))
    assert batch[0].shape == (256, 64)


@pytest.mark.parametrize("kind", ["permuted", "classes"])
def test_a_stage_of_digits_is_evaluated_on_what_it_was_not_trained_on(kind: str) -> None:
    splits = DigitStreams(stream_of=kind, tasks=3).data(0)
    for index in range(3):
        stage = splits[f"task{index:02d}"]
        trained = {row.numpy().tobytes() for row in next(stage.batches(10_000, torch.Generator()))[0]}
        held = [row.numpy().tobytes() for batch in stage.sequential(100) for row in batch[0]]
        assert len(held) == len(stage) > 50 and len(trained) > 3 * len(held) and not trained & set(held)
    assert not rows(splits["train"]) & rows(splits["test"])
    assert splits["test"].checksum() == TensorSplit(*next(splits["task02"].sequential(10_000))).checksum()


def test_permuted_stages_differ_in_pixel_order_only() -> None:
    splits = DigitStreams(stream_of="permuted", tasks=2).data(0)
    (x, y), (x2, y2) = (next(splits[name].sequential(1000)) for name in ("task00", "task01"))
    assert torch.equal(y, y2) and not torch.equal(x, x2)
    assert torch.equal(x.sort(1).values, x2.sort(1).values)


def test_class_stages_hold_two_digits_each() -> None:
    splits = DigitStreams(stream_of="classes", tasks=4).data(0)
    pairs = [frozenset(next(splits[f"task{i:02d}"].sequential(1000))[1].tolist()) for i in range(4)]
    assert all(len(pair) == 2 for pair in pairs) and len(set(pairs)) > 1


# linear_teacher


def measured(weight: Tensor, task: LinearTeacher, seed: int = 0) -> dict[str, float]:
    model = task.model(seed)
    with torch.no_grad():
        model.linear.weight.copy_(weight)
        return task.metrics(model, task.data(seed)["test"], lambda batch: model(batch[0]))


def test_excess_and_rank_are_their_closed_forms() -> None:
    task = LinearTeacher()
    teacher, start = task.matrices(0)
    assert measured(start, task)["excess"] == pytest.approx(1.0, rel=1e-6) and measured(start, task)["rank"] == 0
    assert measured(teacher, task)["excess"] < 1e-12 and measured(teacher, task)["rank"] == 48
    assert measured((teacher + start) / 2, task)["excess"] == pytest.approx(0.25, rel=1e-6)
    u, s, v = np.linalg.svd((teacher - start).double().numpy(), full_matrices=False)
    best = torch.from_numpy((u[:, :8] * s[:8]) @ v[:8]).float()
    found = measured(start + best, task)
    assert found["excess"] == pytest.approx((s[8:] ** 2).sum() / (s**2).sum(), rel=1e-5)  # Eckart and Young
    assert found["rank"] == 8


def test_the_loss_is_the_squared_error_of_the_teacher() -> None:
    task = LinearTeacher(inputs=6, outputs=4)
    teacher, start = (matrix.double().numpy() for matrix in task.matrices(3))
    x = next(task.data(3)["test"].sequential(1000))[0].double().numpy()
    expected = ((x @ (start - teacher).T) ** 2).mean()
    assert measured(task.matrices(3)[1], task, 3)["loss"] == pytest.approx(expected, rel=1e-5)


def test_excess_counts_an_adapter_that_is_not_merged() -> None:
    task = LinearTeacher()
    model = wb.methods.LoRA(rank=2).prepare(task.model(0))
    with torch.no_grad():
        model.linear.lora_b.normal_(generator=torch.Generator().manual_seed(0))
        found = task.metrics(model.eval(), task.data(0)["test"], lambda batch: model(batch[0]))
    merged = measured(model.linear.merged_weight().detach(), task)
    assert found["rank"] == 2 and found["excess"] == pytest.approx(merged["excess"], rel=1e-5)


def test_teacher_matrices_have_the_stated_spread_and_batches_are_fresh() -> None:
    task = LinearTeacher(inputs=256, outputs=256)
    for matrix in task.matrices(0):
        assert float(matrix.var()) == pytest.approx(1 / 256, rel=0.05) and abs(float(matrix.mean())) < 1e-3
    stream = task.data(0)["train"].batches(128, torch.Generator().manual_seed(0))
    (x, y), (x2, _) = next(stream), next(stream)
    assert x.shape == (128, 256) and not torch.equal(x, x2)
    assert torch.allclose(y, x @ task.matrices(0)[0].T) and float(x.std()) == pytest.approx(1, rel=0.02)


def test_excess_of_other_data_is_refused() -> None:
    task, other = LinearTeacher(), TensorSplit(torch.zeros(2, 48), torch.zeros(2, 64))
    with pytest.raises(DataError, match="the excess needs the teacher of a TeacherSplit, got TensorSplit"):
        task.metrics(nn.Identity(), other, lambda batch: torch.zeros(len(batch[0]), 64))
