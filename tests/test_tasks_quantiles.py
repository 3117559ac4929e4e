"""The quantile regression task: its generator, its tables, its metrics."""

import pytest
import torch
from sklearn.metrics import mean_pinball_loss
from torch import nn

import wbench as wb
from wbench.errors import DataError
from wbench.ops.quantiles import even_levels
from wbench.tasks.quantiles import Quantiles, generate, table


def test_generated_rows_follow_the_formula():
    x, y = generate(200_000, torch.Generator().manual_seed(0))
    bend = x[:, 2] > 0
    mean = 3 * x[:, 0] + x[:, 1] + 2 * torch.sin(6 * x[:, 0]) * bend
    noise = (y - mean) / (torch.where(bend, 0.3, 1.0) * (1 + 0.8 * x[:, 1]))
    assert x.min() >= -1 and x.max() <= 1 and float(x.mean()) == pytest.approx(0.0, abs=0.01)
    for part, skewness in ((noise[x[:, 3] > 0], 0.0), (noise[x[:, 3] <= 0], 2.0)):
        assert float(part.mean()) == pytest.approx(0.0, abs=0.02) and float(part.std()) == pytest.approx(1.0, abs=0.02)
        assert float(((part - part.mean()) ** 3).mean()) == pytest.approx(skewness, abs=0.2)


def test_fewer_training_rows_leave_the_test_rows_as_they_are():
    small, full = Quantiles(train_size=50).data(3), Quantiles().data(3)
    assert [len(full[name]) for name in ("train", "valid", "test")] == [800, 300, 1500] and len(small["train"]) == 50
    assert small["test"].checksum() == full["test"].checksum() != Quantiles().data(4)["test"].checksum()


@pytest.mark.parametrize(
    ("source", "count", "features"), [("engel", 235, 1), ("abalone", 4177, 10), ("diamonds", 53_940, 9)]
)
def test_tables_are_numbers_and_scaled_by_their_training_rows(source, count, features):
    x, y = table(source)
    assert x.shape == (count, features) and y.shape == (count,) and torch.isfinite(x).all()
    for part in Quantiles(source=source).data(0)["train"].tensors:
        assert torch.allclose(part.mean(0), torch.zeros(()), atol=1e-4)
        assert torch.allclose(part.std(0), torch.ones(()), atol=1e-4)


def test_splits_of_a_table_hold_each_row_once():
    splits = Quantiles(source="engel").data(0)
    held = torch.cat([splits[name].tensors[1] for name in ("train", "valid", "test")]).double()
    y = table("engel")[1].double()
    assert torch.allclose(
        ((held - held.mean()) / held.std()).sort().values, ((y - y.mean()) / y.std()).sort().values, atol=1e-5
    )
    with pytest.raises(DataError, match="train_size=200 of engel, which has 235 rows.*at most 141"):
        Quantiles(source="engel", train_size=200).data(0)


def test_metrics_are_those_of_scikit_learn_and_counts():
    task = Quantiles(levels=4)
    q = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 3.0], [5.0, 6.0, 7.0, 8.0]])
    y = torch.tensor([1.5, 2.5, 0.0])
    scores = task.scores(q, (torch.zeros(3, 5), y))
    expected = sum(mean_pinball_loss(y, q[:, t], alpha=tau) for t, tau in enumerate(even_levels(4))) / 4
    assert float(scores["loss"].mean()) == pytest.approx(expected, abs=1e-6)
    assert scores["coverage"].tolist() == [1.0, 1.0, 0.0] and scores["crossing"].tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(DataError, match=r"levels=4 needs predictions of shape \(rows, 4\), got \(3, 3\)"):
        task.scores(q[:, :3], (torch.zeros(3, 5), y))


def test_its_network_learns_by_any_recipe():
    task = Quantiles(train_size=200, levels=5)
    run = wb.train(task, recipe=wb.Recipe(lr=1e-2, steps=150), probes=())
    untrained = task.metrics(nn.Identity(), task.data(0)["test"], lambda batch: task.model(0)(batch[0]).detach())
    assert run.final("loss") < 0.6 * untrained["loss"] and 0 <= run.final("coverage") <= 1
