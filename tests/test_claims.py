"""Claims: arms as a graph of cached runs, grids chosen on validation data, controls, the four claims at smoke scale."""

import json

import numpy as np
import pytest

import wbench as wb
from wbench.claims import Arm, Check, Claim
from wbench.methods import Bone, GaLore, LoRA
from wbench.study import Runner, order_of, run_arms

RECIPE = wb.Recipe(optimizer="adam", lr=1e-2, steps=15, batch_size=64)
TASK = wb.tasks.DigitDomains(domain="rotation")
BASE = Arm(task=wb.tasks.DigitDomains(domain="identity"))


def small_claim(**changes):
    fields = {
        "id": "small", "statement": "s", "paper_result": "p", "task": TASK, "recipes": {"cpu": RECIPE},
        "arms": {"base": BASE, "bone": Arm((Bone(),), start="base"), "lora": Arm((LoRA(),), start="base"), "off": Arm((LoRA(rank=1, alpha=0.0),), start="base")},
        "method": "bone", "control": "off", "checks": (Check("c", ("bone", "off"), "ratio", 0.9, "loss", direction="<="),), "seeds": {"cpu": 8},
    }  # fmt: skip
    return Claim(**{**fields, **changes})


def test_arms_are_ordered_by_what_they_start_from():
    arms = {"c": Arm(start="b"), "b": Arm(start="a"), "a": Arm(), "d": Arm(references={"teacher": "a"})}
    assert order_of(arms) == [["a"], ["b", "d"], ["c"]]
    with pytest.raises(wb.WBenchError, match="arm 'x' needs arm 'y', which does not exist"):
        order_of({"x": Arm(start="y")})
    with pytest.raises(wb.WBenchError, match="in a circle: x, y"):
        order_of({"x": Arm(start="y"), "y": Arm(start="x")})


def test_fine_tunes_share_one_base_a_seed_and_a_second_run_trains_nothing():
    store = wb.RunStore()
    claim = small_claim()
    result = claim.run(seeds=2, store=store, workers=1)
    assert len(store.runs()) == 8
    for arm in ("bone", "lora"):
        for run, base in zip(result.runs[arm], result.runs["base"], strict=True):
            assert run.spec["start"] == base.id
    again = claim.run(seeds=2, store=store, workers=1, executor=lambda: pytest.fail("nothing was left to train"))
    assert again.frame().equals(result.frame())


def test_two_processes_give_the_same_runs_as_one(tmp_path):
    one = small_claim().run(seeds=2, store=wb.RunStore(tmp_path / "one"), workers=1)
    two = small_claim().run(seeds=2, store=wb.RunStore(tmp_path / "two"), workers=2)
    assert one.frame().equals(two.frame())
    assert {arm: [run.id for run in runs] for arm, runs in one.runs.items()} == {
        arm: [run.id for run in runs] for arm, runs in two.runs.items()
    }


def test_grid_point_is_the_best_on_validation_data_for_the_arm_as_a_whole():
    arms = {"base": Arm(grid={"lr": (1e-5, 3e-3)}), "galore": Arm((GaLore(),), grid={"galore.rank": (2, 8)})}
    with Runner(wb.RunStore(), workers=1) as runner:
        found = run_arms(arms, TASK, RECIPE, [0, 1], runner.run)
    runs, chosen = found.at_chosen(), {name: arms[name].points()[index] for name, index in found.chosen.items()}
    assert chosen["base"] == {"lr": 3e-3}
    assert all(run.spec["recipe"]["lr"] == 3e-3 for run in runs["base"])
    losses = []
    for rank in (2, 8):
        every = [wb.train(TASK, GaLore(rank=rank), recipe=RECIPE, seed=seed, probes=()) for seed in (0, 1)]
        losses.append(np.mean([run.final("loss", "valid") for run in every]))
    assert chosen["galore"]["galore.rank"] == (2, 8)[int(np.argmin(losses))]
    with pytest.raises(wb.WBenchError, match="never on 'test'"):
        Arm(grid={"lr": (1.0,)}, select="test")


def test_control_that_passes_makes_the_claim_invalid():
    everything = (Check("always true", ("bone",), "mean", 0.0, "accuracy"),)
    verdict = small_claim(checks=everything).run(store=wb.RunStore(), workers=1).verdict
    assert (
        verdict.outcome == "invalid" and verdict.control_outcome == "reproduced" and "control 'off'" in verdict.reason
    )


def test_mechanism_off_is_told_from_mechanism_on():
    verdict = small_claim().run(store=wb.RunStore(), workers=1).verdict
    assert verdict.outcome == "reproduced" and verdict.control_outcome != "reproduced"


def test_diverged_arm_is_undecided_and_named():
    arms = {
        **small_claim().arms,
        "bone": Arm((Bone(),), start="base", recipe={"lr": 100.0, "optimizer": "sgd", "momentum": 0.999, "steps": 80}),
    }
    result = small_claim(arms=arms).run(seeds=2, store=wb.RunStore(), workers=1)
    assert result.verdict.outcome != "reproduced"
    if any(run.status == "diverged" for run in result.runs["bone"]):
        assert "bone" in result.verdict.checks[0].note


def test_ill_defined_claims_are_refused():
    with pytest.raises(wb.WBenchError, match="control arm 'none' does not exist"):
        small_claim(control="none")
    with pytest.raises(wb.WBenchError, match="the control must be another arm"):
        small_claim(control="bone")
    with pytest.raises(wb.WBenchError, match="scale='huge' is not allowed"):
        small_claim().run("huge")
    with pytest.raises(wb.WBenchError, match=r"seeds=\[1, 1\] is not allowed"):
        small_claim().run(seeds=[1, 1])
    with pytest.raises(wb.WBenchError, match="there is no claim for 'lora'"):
        wb.claims.get("lora")


def test_every_method_has_a_claim_with_gates_that_name_it():
    methods = {name for name, cls in wb.methods.all().items() if cls.kind == "method"}
    assert set(wb.claims.all()) == methods
    for claim in wb.claims.all().values():
        gates = [check for check in claim.checks if check.gate]
        assert gates and claim.statement and claim.paper_result and claim.reads
        assert {check.contrast[0] for check in gates} == {claim.method}
        assert claim.seeds["cpu"] >= 8 and {"smoke", "cpu", "gpu"} <= set(claim.recipes)


@pytest.mark.parametrize("name", ["weight_compander", "nap", "galore", "bone"])
def test_claims_run_at_smoke_scale_and_cannot_be_decided_by_two_seeds(name):
    result = wb.claims.get(name).run("smoke", workers=1)
    assert result.verdict.outcome == "inconclusive" and "2 seeds cannot decide" in result.verdict.reason
    record = json.loads(result.to_json())
    assert record["verdict"]["outcome"] == "inconclusive"
    assert {row["arm"] for row in record["values"]} == set(result.claim.arms)


def test_linear_teachers_floor_is_eckart_and_youngs():
    from wbench.claims.galore import floor

    teacher, start = wb.tasks.LinearTeacher().matrices(0)
    u, s, vh = np.linalg.svd((teacher - start).double().numpy())
    best = (u[:, :8] * s[:8]) @ vh[:8]
    left = np.square((teacher - start).numpy() - best).sum() / np.square((teacher - start).numpy()).sum()
    assert floor(0, 8) == pytest.approx(left, rel=1e-6)
