"""The loop: determinism, phases, clipping, divergence, caching, starts, watching."""

import math
import time

import pytest
import torch
from torch import nn

import wbench as wb
from wbench.testing import small_batch, small_model
from wbench.training.optim import make_optimizer

RECIPE = wb.Recipe(optimizer="sgd", lr=0.1, steps=10, batch_size=16)


def task(model=small_model, **options):
    x, y = small_batch()
    return wb.Task.from_arrays(x, y, model=model, test=(x, y), recipe=RECIPE, **options)


def test_loop_agrees_with_a_hand_written_one():
    run = wb.train(task(), recipe=RECIPE.replace(batch_size=64, momentum=0.9, weight_decay=0.01), probes=())
    model, (x, y) = small_model(), small_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    logged = run.metrics.query("split == 'train' and name == 'loss' and phase != 'end'")["value"].tolist()
    assert logged == pytest.approx(losses, abs=1e-6)
    assert torch.allclose(run.tensors()["0.weight"], model[0].weight, atol=1e-6)


@pytest.mark.parametrize("method", [None, "weight_compander", "nap", "galore", "lora"])
def test_same_command_gives_the_same_bits(method, tmp_path):
    runs = [wb.train("digits", method, seed=3, scale="smoke", store=wb.RunStore(tmp_path / name)) for name in "ab"]
    assert runs[0].id == runs[1].id
    assert runs[0].metrics.equals(runs[1].metrics)
    first, second = (run.tensors() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for probe in runs[0].probes:
        assert runs[0].probe(probe).equals(runs[1].probe(probe))


def test_a_seed_changes_data_weights_and_order():
    first, second = (wb.train("digits", seed=seed, scale="smoke", probes=()) for seed in (0, 1))
    assert first.id != second.id and first.info["data"] != second.info["data"]
    assert not torch.equal(first.tensors()["head.weight"], second.tensors()["head.weight"])


def test_a_finished_configuration_is_loaded_not_trained():
    first = wb.train("digits", "galore", scale="smoke")
    begin = time.perf_counter()
    again = wb.train("digits", "galore", scale="smoke", on_step=lambda *_: pytest.fail("it was trained again"))
    assert time.perf_counter() - begin < 0.1
    assert again.id == first.id and again.path == first.path


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    wb.train("digits", "nap", scale="smoke", probes=())
    assert torch.equal(torch.rand(3), expected)


def test_phases_carry_the_optimizer_or_start_anew():
    x, y = small_batch()
    phases = (
        wb.Phase(name="one", steps=5),
        wb.Phase(name="two", steps=5, carry=True),
        wb.Phase(name="three", steps=5, carry=False),
    )
    made = []

    class Counting(wb.methods.GaLore):
        id = "counting"

        def optimizer(self, model, ctx=None):
            made.append(ctx.step)
            return super().optimizer(model, ctx)

    run = wb.train(task(), Counting(), recipe=RECIPE.replace(phases=phases), probes=())
    assert made == [0, 10]
    assert run.metrics.query("phase != 'end'")["phase"].unique().tolist() == ["one", "two", "three"]


def test_gradients_are_clipped_to_the_global_norm():
    seen = []

    class Spy(wb.method.Objective):
        id = "spy"

        def after_step(self, model, ctx=None):
            seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))

    wb.train(task(), Spy(), recipe=RECIPE.replace(clip=0.01), probes=())
    assert max(seen) <= 0.01 * (1 + 1e-4)


def test_recipe_options_reach_torchs_optimizer():
    model = small_model()
    recipe = wb.Recipe(optimizer="adamw", lr=0.01, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.3)
    optimizer = make_optimizer(model, wb.Context(recipe=recipe))
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.01, (0.8, 0.9), 1e-5, 0.3)
    for param in model.parameters():
        param.requires_grad_(False)
    with pytest.raises(wb.WBenchError, match="no parameter is trainable"):
        make_optimizer(model, wb.Context(recipe=recipe))


class Exploding(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        y = self.first(x)
        return self.second(y / 0.0 if self.training and self.calls > 4 else y)


def test_divergence_keeps_what_there_is_and_names_step_and_layer():
    run = wb.train(task(Exploding), recipe=RECIPE, probes=())
    assert run.status == "diverged"
    assert "step 5" in run.reason and "layer 'second' (input)" in run.reason
    assert run.metrics.query("name == 'loss' and split == 'train'")["step"].tolist() == [1, 2, 3, 4]
    hot = wb.train(task(), recipe=RECIPE.replace(lr=100.0, steps=80, momentum=0.99), probes=())
    assert hot.status == "diverged" and "step" in hot.reason


def test_interrupted_run_is_kept_and_marked_and_trained_anew_later():
    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    store = wb.RunStore()
    with pytest.raises(KeyboardInterrupt):
        wb.train(task(), store=store, on_step=stop)
    (kept,) = store.runs()
    assert kept.status == "stopped" and kept.metrics.query("name == 'loss' and split == 'train'")["step"].max() == 4
    assert wb.train(task(), store=store).status == "finished"
    assert [run.status for run in store.runs()] == ["finished"]


def test_a_method_that_fails_leaves_a_failed_run_and_its_error():
    class Broken(wb.method.Objective):
        id = "broken"

        def after_step(self, model, ctx=None):
            raise ZeroDivisionError("on purpose")

    store = wb.RunStore()
    with pytest.raises(ZeroDivisionError):
        wb.train(task(), Broken(), store=store)
    assert [(run.status, run.reason) for run in store.runs()] == [("failed", "on purpose")]


def test_run_starts_from_another_runs_weights_or_a_checkpoint():
    base = wb.train("digits", scale="smoke", probes=())
    zero = wb.Recipe(optimizer="sgd", lr=0.0, steps=1)
    for start in (base, str(base.path / "weights.safetensors"), wb.restore(base)):
        run = wb.train("digits", recipe=zero, start=start, probes=())
        assert all(torch.equal(value, base.tensors()[name]) for name, value in run.tensors().items())
    with pytest.raises(wb.WBenchError, match="do not fit the model MLP: missing"):
        wb.train("digits", recipe=zero, start={"x": torch.ones(1)})


@pytest.mark.parametrize("method", ["weight_compander", "nap", "galore", "bone", "lora", "pissa", "layernorm"])
def test_restored_model_gives_the_recorded_accuracy(method):
    run = wb.train("digits", method, scale="smoke", probes=())
    model = wb.restore(run)
    x, y = wb.tasks.Digits().data(0)["test"].tensors
    assert float((model(x).argmax(1) == y).float().mean()) == pytest.approx(run.final("accuracy"))


def test_recorded_numbers_of_state_are_adams_two_a_weight():
    run = wb.train(task(), recipe=RECIPE.replace(optimizer="adam"), probes=())
    count = sum(p.numel() for p in small_model().parameters())
    assert run.final("trainable", "store") == count and run.final("optimizer_numbers", "store") == 2 * count
    assert run.final("optimizer_bytes", "store") == 8 * count


def test_device_auto_and_a_device_that_is_not_there():
    assert wb.training.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(wb.WBenchError, match="device='potato' is not usable"):
        wb.train(task(), device="potato")


def test_watch_records_a_loop_that_somebody_else_wrote(user_model, user_batch):
    optimizer = torch.optim.Adam(user_model.parameters(), lr=1e-2)
    with wb.watch(user_model, optimizer, every=5) as live:
        for _ in range(12):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(user_model(user_batch[0]), user_batch[1])
            loss.backward()
            optimizer.step()
            live.log(loss=float(loss.detach()))
        assert sorted(live.probe("spectrum")["step"].unique()) == [0, 1, 5, 10]
    run = live.run
    assert run.status == "finished" and len(run.metrics) == 12
    rates = run.probe("effective_lr")
    assert (rates["lr"] == 1e-2).any() and (rates["relative_update"] > 0).any()
    assert torch.equal(run.tensors()["fc.weight"], user_model.fc.weight)
    step = torch.optim.Adam([nn.Parameter(torch.ones(1))])
    assert not step._optimizer_step_post_hooks and not optimizer._optimizer_step_post_hooks


def test_watch_keeps_a_loop_that_fails_and_stops_one_that_diverges(user_model, user_batch):
    optimizer = torch.optim.SGD(user_model.parameters(), lr=1e-2)
    with pytest.raises(ValueError), wb.watch(user_model, optimizer) as live:
        raise ValueError("mine")
    assert live.run.status == "failed" and live.run.reason == "mine"
    with (
        pytest.raises(wb.Diverged, match="weights became NaN or inf at step 1"),
        wb.watch(user_model, optimizer, probes=()) as live,
    ):
        user_model.fc.weight.grad = torch.full_like(user_model.fc.weight, math.inf)
        optimizer.step()
    assert live.run.status == "diverged"


def test_adapter_and_optimizer_hooks_attach_to_a_users_loop(user_model, user_batch):
    method = wb.methods.NaP()
    model = method.prepare(user_model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    detach = method.attach(model, optimizer)
    nn.functional.cross_entropy(model(user_batch[0]), user_batch[1]).backward()
    optimizer.step()
    held = float(model.fc[0].weight.norm())
    detach()
    optimizer.step()
    assert float(model.fc[0].weight.norm()) != held


def test_number_of_threads_is_fixed_while_training_and_given_back(monkeypatch):
    seen = []
    torch.set_num_threads(2)
    try:
        wb.train(task(), on_step=lambda *_: seen.append(torch.get_num_threads()), probes=())
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    monkeypatch.setenv("WBENCH_THREADS", "many")
    with pytest.raises(wb.WBenchError, match="WBENCH_THREADS='many'"):
        wb.train(task(), seed=1)


def test_a_phase_that_starts_anew_has_its_own_rate_and_decay(tmp_path):
    phases = (wb.Phase(steps=6), wb.Phase(steps=4, carry=False, lr=1e-4, schedule="constant"), wb.Phase(steps=2))
    recipe = wb.Recipe(lr=1e-2, schedule="cosine", phases=phases, batch_size=32)
    rates = []

    class Rates(wb.method.Objective):
        """Notes the rate of each step."""

        id = "rates"

        def after_backward(self, model, ctx=None):
            rates.append(ctx.optimizer.param_groups[0]["lr"])

    wb.train("digits", Rates(), recipe=recipe, probes=(), store=wb.RunStore(tmp_path))
    expected = [recipe.lr * recipe.replace(phases=()).lr_factor(step, 6) for step in range(6)] + [1e-4] * 6
    assert rates == pytest.approx(expected)
    assert recipe.in_phase(2).lr == 1e-4 and recipe.in_phase(0) is recipe


def test_stacked_runs_follow_the_phases_rates_as_well():
    from wbench.training.agreement import disagreement

    phases = (wb.Phase(steps=6), wb.Phase(steps=6, carry=False, lr=1e-4, schedule="constant"))
    recipe = wb.Recipe(lr=1e-2, schedule="cosine", phases=phases, batch_size=32)
    assert disagreement("digits", None, recipe) <= 1e-5
