"""The vectorised step: it gives what the plain loop gives, member by member, whoever trains beside it."""

import re

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.methods import GaLore, LoRA, NaP, WeightCompander
from wbench.runs import RunStore
from wbench.splits import LoaderSplit
from wbench.task import Task
from wbench.testing import small_batch, small_model
from wbench.training.agreement import disagreement
from wbench.training.families import cost, family, obstacle
from wbench.training.job import describe
from wbench.training.population import train_population
from wbench.training.session import Session
from wbench.training.stack import CannotVectorizeError, Stack, signature
from wbench.training.train import train_job

ADAM = wb.Recipe(optimizer="adam", lr=1e-3, steps=50, batch_size=16)
STEEP = wb.Recipe(
    optimizer="sgd",
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-3,
    schedule="cosine",
    warmup=5,
    clip=1.0,
    steps=50,
    batch_size=16,
)


def small_task(model=small_model):
    x, y = small_batch()
    return Task.from_arrays(x, y, model=model, test=(x, y))


@pytest.mark.parametrize("recipe", [ADAM, STEEP, ADAM.replace(optimizer="adamw", weight_decay=0.1)])
def test_population_agrees_with_the_plain_loop_for_every_optimizer_and_schedule(recipe):
    assert disagreement(small_task(), None, recipe) <= 1e-5


@pytest.mark.parametrize("architecture", ["mlp", "residual_mlp", "convnet"])
def test_population_agrees_on_the_models_of_the_tasks(architecture):
    assert disagreement(wb.tasks.Digits(architecture=architecture), None, ADAM) <= 1e-5


def test_attention_agrees_to_what_float32_allows():
    assert disagreement(wb.tasks.Digits(architecture="vit"), None, ADAM.replace(lr=1e-4, steps=20)) <= 5e-5


def test_members_with_other_knobs_and_batch_norm_agree():
    def model():  # without a bias before the norm: its gradient is rounding alone, which Adam makes large
        return nn.Sequential(nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))

    members = [WeightCompander(a_mult=a, lr_scale=s) for a, s in ((2.0, 1.0), (3.0, 0.1), (4.0, 0.5))]
    assert disagreement(small_task(model), None, ADAM, members) <= 1e-5
    assert disagreement(small_task(), None, ADAM, [WeightCompander(fn="power_arctan", p=p) for p in (0.5, 0.7)]) <= 1e-5


@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("methods", [None, NaP()])
def test_phases_with_and_without_carrying_the_optimizer_agree(carry, methods):
    phases = tuple(wb.Phase(name=f"task0{i}", steps=8, carry=carry) for i in range(3))
    recipe = wb.Recipe(optimizer="adam", lr=1e-3, batch_size=16, schedule="linear", phases=phases)
    assert disagreement(wb.tasks.DigitStreams(tasks=3), methods, recipe) <= 1e-5


def jobs_of(count, methods=None, recipe=ADAM, task=None):
    return [
        describe(task or small_task(), methods, seed=i, recipe=recipe.replace(lr=1e-3 * (1 + i % 3)), probes=())
        for i in range(count)
    ]


def bits(run):
    return {name: tensor.clone() for name, tensor in run.tensors("weights").items()}, run.metrics


@pytest.mark.parametrize("methods", [None, WeightCompander(), GaLore(rank=4), LoRA(rank=2)])
def test_a_runs_bits_do_not_depend_on_who_trains_beside_it(tmp_path, methods):
    jobs = jobs_of(7, methods)
    store = RunStore(tmp_path / "all")
    together = train_population(jobs, store)
    assert not together.alone and len(together.runs) == 7
    for chosen in ([3], [5, 1], [6, 4, 2, 0]):
        part = train_population([jobs[i] for i in chosen], RunStore(tmp_path / f"part{len(chosen)}"))
        for place, i in enumerate(chosen):
            (mine, rows), (other, other_rows) = bits(part.runs[place]), bits(together.runs[i])
            assert all(torch.equal(mine[name], other[name]) for name in other)
            assert rows.equals(other_rows)


@pytest.mark.parametrize("methods", [None, WeightCompander(per="channel"), NaP()])
def test_odd_sizes_do_not_bring_in_the_neighbours_either(tmp_path, methods):
    jobs = jobs_of(18, methods, ADAM.replace(steps=12), wb.tasks.Digits(hidden=(20,)))
    whole = train_population(jobs, RunStore(tmp_path / "whole"))
    for chosen in ([17], [1, 2, 3]):
        part = train_population([jobs[i] for i in chosen], RunStore(tmp_path / f"part{len(chosen)}"))
        for place, i in enumerate(chosen):
            mine, other = bits(part.runs[place])[0], bits(whole.runs[i])[0]
            assert all(torch.equal(mine[name], other[name]) for name in other)


def test_members_train_in_chunks_that_fit_the_budget_with_the_same_bits(tmp_path):
    jobs = jobs_of(5)
    session = Session(jobs[0], RunStore(tmp_path / "x"))
    model = session.assemble()
    size, _ = cost(model, session.ctx)
    assert size > 4 * sum(p.numel() * p.element_size() for p in model.parameters())
    whole = train_population(jobs, RunStore(tmp_path / "whole"))
    pieces = train_population(jobs, RunStore(tmp_path / "pieces"), budget=2.5 * size / 2**30)
    for i in range(5):
        assert all(
            torch.equal(a, b)
            for a, b in zip(bits(whole.runs[i])[0].values(), bits(pieces.runs[i])[0].values(), strict=True)
        )


def test_a_diverging_member_is_recorded_and_the_others_go_on_undisturbed(tmp_path):
    hot = ADAM.replace(optimizer="sgd")
    jobs = [
        describe(small_task(), None, seed=i, recipe=hot.replace(lr=lr), probes=())
        for i, lr in enumerate((0.01, 100.0, 0.02))
    ]
    population = train_population(jobs, RunStore(tmp_path / "a"))
    assert [population.runs[i].status for i in range(3)] == ["finished", "diverged", "finished"]
    alone = [train_job(job, RunStore(tmp_path / "b")) for job in jobs]
    assert population.runs[1].reason == alone[1].reason
    for i in (0, 2):
        for name, tensor in alone[i].tensors("weights").items():
            assert torch.allclose(population.runs[i].tensors("weights")[name], tensor, atol=1e-5)


def test_probes_and_evaluations_are_recorded_as_in_the_plain_loop(tmp_path):
    job = describe("digits", WeightCompander(), seed=0, recipe=ADAM, every=25)
    twin = train_job(job, RunStore(tmp_path / "a"))
    run = train_population([job], RunStore(tmp_path / "b")).runs[0]
    assert run.id == twin.id and run.probes == twin.probes and run.info["vectorized"] is True
    assert run.metrics[["step", "phase", "split", "name"]].equals(twin.metrics[["step", "phase", "split", "name"]])
    for name in ("spectrum", "effective_lr", "histogram", "method.weight_compander"):
        mine, other = run.probe(name), twin.probe(name)
        assert list(mine.columns) == list(other.columns) and len(mine) == len(other)
    close = (
        run.probe("spectrum")["value"] - twin.probe("spectrum")["value"] if "value" in run.probe("spectrum") else None
    )
    assert close is None or float(close.abs().max()) < 1e-4
    assert run.summary["store.optimizer_bytes"] == twin.summary["store.optimizer_bytes"] > 0


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        return self.linear(nn.functional.dropout(x, 0.5, self.training))


class Branching(Dropping):
    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


class Counting(Dropping):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * (2.0 if self.calls > 20 else 1.0)


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Dropping, "draws random numbers"), (Branching, "branches on values"), (Counting, "from step to step|settings")],
)
def test_what_cannot_be_vectorised_is_left_to_the_plain_loop_with_the_reason(tmp_path, model, reason):
    population = train_population(jobs_of(2, task=small_task(model)), RunStore(tmp_path))
    assert not population.runs and set(population.alone) == {0, 1}
    assert re.search(reason, population.alone[0])


def test_obstacles_are_seen_before_training():
    class Stubborn(WeightCompander):
        vectorizes = False

    job = describe(small_task(), Stubborn(), recipe=ADAM, probes=())
    assert "weight_compander cannot be vectorised" in obstacle(job)
    x, y = small_batch()
    loader = Task.from_loader([(x, y)], model=small_model)
    assert isinstance(loader.data(0)["train"], LoaderSplit)
    assert "loader" in obstacle(describe(loader, None, recipe=ADAM, probes=()))


def test_families_differ_in_what_the_step_contains_only():
    task = small_task()
    one = describe(task, WeightCompander(), seed=0, recipe=ADAM, probes=())
    for other in (
        describe(task, WeightCompander(a_mult=3.0), seed=4, recipe=ADAM.replace(lr=0.1, weight_decay=0.2), probes=()),
    ):
        assert family(one) == family(other)
    for other in (
        describe(task, None, recipe=ADAM, probes=()),
        describe(task, WeightCompander(), recipe=ADAM.replace(steps=51), probes=()),
        describe(task, WeightCompander(), recipe=ADAM.replace(batch_size=8), probes=()),
        describe(task, WeightCompander(), recipe=ADAM.replace(optimizer="sgd"), probes=()),
    ):
        assert family(one) != family(other)
    decays = [describe(task, NaP(affine_mode="decay", affine_decay=d), recipe=ADAM, probes=()) for d in (1e-3, 1e-2)]
    assert family(decays[0]) != family(decays[1])


def test_signatures_tell_models_apart_by_everything_but_their_values():
    one, two = small_model(0), small_model(1)
    assert signature(one) == signature(two)
    two[2].note = 3
    assert signature(one) != signature(two)
    three = small_model(2)
    three[0].weight.requires_grad_(False)
    assert signature(one) != signature(three)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    free = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert signature(tied) != signature(free)


def test_stack_notices_that_a_tensor_was_replaced():
    models = [small_model(0), small_model(1)]
    stack = Stack(models)
    stack.check()
    with torch.no_grad():
        models[1][0].weight.fill_(2.0)
    assert bool((stack.tensors["0.weight"][1] == 2.0).all()) and not bool((stack.tensors["0.weight"][0] == 2.0).any())
    models[0][0].weight = nn.Parameter(torch.zeros(32, 16))
    with pytest.raises(CannotVectorizeError, match=r"'0.weight' was replaced"):
        stack.check()


def test_method_that_promises_wrongly_is_caught_by_the_contract():
    from wbench.testing import ContractError, check_method

    class Wrong(WeightCompander):
        """A penalty that depends on the run's rate."""

        id = "wrong"

        def penalty(self, model, ctx=None):  # depends on the member through Python, which a stacked step cannot see
            if self.fn == "identity":
                return 0.0
            return float(ctx.recipe.lr) * 1e3 * model[0].weight.square().sum() if hasattr(model[0], "weight") else 0.0

    with pytest.raises(ContractError, match="vectorised step is .* apart"):
        check_method(Wrong)
