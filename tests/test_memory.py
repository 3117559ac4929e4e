"""The memory of a run is that of its tensors: counted by hand, and the same for a run that trained among others."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.method import Context, Objective, Transform
from wbench.runs import RunStore
from wbench.splits import Splits, TensorSplit
from wbench.training.job import describe
from wbench.training.memory import saved_bytes, tensor_bytes
from wbench.training.population import train_population

PAPER = wb.Paper("A tiny example", "Nobody", 2026)
SIZES = (64, 32, 10)
TASK = wb.tasks.Digits(hidden=(32,), train_size=100)
RECIPE = wb.Recipe(optimizer="adam", lr=1e-3, steps=4, batch_size=50)
NUMBERS = 64 * 32 + 32 + 32 * 10 + 10


def test_parameters_gradients_and_adams_moments_are_counted_to_the_byte():
    memory = wb.train(TASK, recipe=RECIPE, probes=()).memory
    assert memory["parameters"] == memory["gradients"] == memory["weights"] == 4 * NUMBERS
    assert memory["optimizer"] == 2 * 4 * NUMBERS and memory["buffers"] == 0


def test_activations_are_what_autograd_keeps():
    memory = wb.train(TASK, recipe=RECIPE, probes=()).memory
    hidden, logits = 50 * 32 * 4, 50 * 10 * 4
    kept = (
        hidden + logits
    )  # relu's result serves as the head's input; log-softmax's result; the batch and weights are not counted
    assert memory["activations"] in range(kept, kept + 8 * 50 + 64)  # and the targets' or the sums' few numbers


def test_frozen_weights_need_neither_gradient_nor_state():
    memory = wb.train(TASK, recipe=RECIPE, probes=(), trainable="head").memory
    head = 4 * (32 * 10 + 10)
    assert (memory["gradients"], memory["optimizer"]) == (head, 2 * head)
    assert memory["parameters"] == 4 * NUMBERS


def test_a_vectorised_run_reports_the_same_memory(tmp_path):
    jobs = [describe(TASK, None, seed=seed, recipe=RECIPE, probes=()) for seed in range(3)]
    together = train_population(jobs, RunStore(tmp_path), always=True)
    alone = wb.train(TASK, recipe=RECIPE, probes=()).memory
    assert len(together.runs) == 3 and all(run.memory == alone for run in together.runs.values())


def test_measuring_leaves_weights_buffers_and_random_state_as_they_are():
    class Doubled(Objective):
        id: ClassVar[str] = "doubled"
        title: ClassVar[str] = "d"
        paper: ClassVar = PAPER
        calls: ClassVar[list] = []

        def loss(self, model, batch, ctx=None):
            self.calls.append(model.training)
            return ctx.task.loss(model(batch[0]), batch)

    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    task = wb.Task.from_arrays(x, y, model=net, recipe=RECIPE)
    run = wb.train(task, Doubled(), probes=())
    assert Doubled.calls == [True] * 5
    assert int(run.tensors()["1.num_batches_tracked"]) == 4
    assert run.memory["buffers"] == 8 + 2 * 4 * 8


def test_views_and_shared_memory_count_once():
    whole = torch.zeros(10, 10)
    assert tensor_bytes([whole, whole]) == 400
    assert tensor_bytes([whole[0], whole[1]]) == 80
    assert tensor_bytes([torch.zeros(1).expand(1000)]) == 4


def test_saved_bytes_are_those_of_a_product_that_needs_its_input():
    x, layer = torch.randn(7, 5), nn.Linear(5, 3)
    hidden = x.clone().requires_grad_()
    kept, _ = saved_bytes(layer, lambda: layer(hidden * 1.0), [])
    assert kept == 7 * 5 * 4
    assert saved_bytes(layer, lambda: layer(x), [x])[0] == 0


class Halved(Transform):
    """Halves weights, after the fact by any factor."""

    id: ClassVar[str] = "halved"
    title: ClassVar[str] = "h"
    paper: ClassVar = PAPER
    live: ClassVar = ("factor",)
    factor: float = wb.knob(0.5, 0.0, 1.0, doc="Factor.")

    def transform(self, module, inputs, name):
        module.weight.mul_(self.factor)
        return module

    def packed_bytes(self, model, ctx=None):
        return {"weights": 7}


def test_a_run_of_no_steps_applies_a_transform_to_its_start():
    base = wb.train(TASK, recipe=RECIPE, probes=())
    run = wb.train(TASK, Halved(), recipe=RECIPE.replace(steps=0), start=base)
    for name, value in run.tensors().items():
        factor = 0.5 if name.endswith("weight") else 1.0
        assert torch.equal(value, factor * base.tensors()[name])
    assert run.memory["optimizer"] == run.memory["activations"] == 0 and run.memory["packed_weights"] == 7
    spectra = run.probe("spectrum")
    before, after = (spectra[spectra["step"] == step]["singular_value"].to_numpy() for step in (0, 1))
    assert after == pytest.approx(before / 2, rel=1e-5)


def test_a_stream_goes_on_where_it_stopped_and_is_decided_by_the_seed():
    data = TensorSplit(torch.arange(12.0)[:, None])

    def draws():
        ctx = Context(splits=Splits(train=data, unlabelled=data), rng=torch.Generator().manual_seed(3))
        return [ctx.stream("unlabelled", 4)[0].flatten().tolist() for _ in range(3)]

    one = draws()
    assert one == draws() and sorted(sum(one, [])) == list(range(12))


def test_calibration_takes_its_own_split_where_there_is_one():
    own, train = TensorSplit(torch.ones(5, 1)), TensorSplit(torch.zeros(50, 1))
    assert Context(splits=Splits(train=train, calibration=own)).calibration(4)[0].tolist() == [[1.0]] * 4
    assert Context(splits=Splits(train=train)).calibration(60)[0].shape == (50, 1)
