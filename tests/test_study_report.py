"""Reports on studies: tables hold the runs' own numbers, and the written study is the same study."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import wbench as wb
from wbench.errors import ReportError, StudyError
from wbench.reports import cells
from wbench.study.file import read_study

SMALL = {"seeds": 2, "scale": "smoke"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = wb.RunStore(tmp_path_factory.mktemp("runs"))
    study = cells.sweep(
        "digits", "galore", '{"steps": 12}', '{"lr": [0.01, 90.0], "rank": [2, 8]}', store=store, **SMALL
    )
    return study, study.run(workers=1), cells.responses(study)


def test_the_table_has_a_row_a_run_with_the_runs_own_numbers(trained):
    study, outcome, found = trained
    assert len(found.frame) == 12
    assert found.knobs == ["lr", "galore.rank"]
    row = found.frame[(found.frame["arm"] == "galore") & (found.frame["lr"] == 0.01) & (found.frame["seed"] == 1)].iloc[
        0
    ]
    run = outcome.runs["galore", 0, 1]
    assert row["galore.rank"] == 2
    assert row["test accuracy"] == run.final("accuracy")
    weights = run.tensors("weights")["blocks.0.linear.weight"].double().numpy()
    singular = np.linalg.svd(weights, compute_uv=False)
    assert row["spectral norm of blocks.0.linear"] == pytest.approx(singular[0], rel=1e-5)
    assert row["stable rank of blocks.0.linear"] == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
    layers = [name for name in found.quantities["spectrum"] if name.startswith("stable rank of")]
    assert row["stable rank, mean over layers"] == pytest.approx(np.mean([row[name] for name in layers]))
    probe = run.probe("effective_lr").query("layer == 'head' and step > 1")
    assert len(probe) >= 3
    assert row["relative update of head"] == pytest.approx(probe["relative_update"].mean())


def test_the_baseline_that_diverges_at_a_high_rate_is_shown_and_not_counted(trained):
    _, outcome, found = trained
    lost = found.frame["status"] != "finished"
    assert lost.sum() == sum(run.status == "diverged" for run in outcome.runs.values()) > 0
    assert found.frame.loc[lost, found.quantities["metrics"]].isna().all().all()
    assert "diverged" in cells.failures(found).text
    assert "diverged" in cells.how_trained(outcome).text
    shown = cells.response(found, "metrics").figure
    assert any(f"{lost.sum()} of 12 runs<br>did not finish" in (trace.name or "") for trace in shown.data)


def test_the_chosen_point_is_best_on_validation_data(trained):
    _, _, found = trained
    of_method = found.frame[found.frame["arm"] == "galore"]
    losses = of_method.groupby(["lr", "galore.rank"])["valid loss"].mean()
    chosen = of_method[of_method["chosen"]][["lr", "galore.rank"]].drop_duplicates()
    assert [tuple(point) for point in chosen.to_numpy()] == [losses.idxmin()]
    (picture,) = cells.chosen_pictures(found)
    assert f"lr = {losses.idxmin()[0]}" in picture.caption


def test_a_task_without_validation_data_is_chosen_by_its_training_loss(tmp_path):
    store = wb.RunStore(tmp_path)
    study = cells.sweep("digit_streams", "lora", '{"steps": 3}', '{"rank": [2, 4]}', store=store, **SMALL)
    study.run(workers=1)
    found = cells.responses(study)
    of_method = found.frame[found.frame["arm"] == "lora"]
    losses = of_method.groupby("lora.rank")["train mean loss"].mean()
    assert set(of_method[of_method["chosen"]]["lora.rank"]) == {losses.idxmin()}
    assert "lowest train mean loss" in cells.response(found, "metrics").caption
    (tmp_path / "study.toml").write_text(cells.as_toml(study), encoding="utf-8")
    assert ids(read_study(tmp_path / "study.toml")) == ids(study)


def test_the_table_of_results_has_mean_and_deviation_of_each_point(trained):
    _, _, found = trained
    text = cells.grid_results(found).text
    part = found.frame[
        (found.frame["arm"] == "galore") & (found.frame["lr"] == 0.01) & (found.frame["galore.rank"] == 8)
    ]
    values = part["test accuracy"]
    assert f"{values.mean():.4g} ± {values.std():.2g}" in text
    assert text.count("<tr>") + text.count("<tr ") == 1 + 6
    assert text.count(">chosen<") == 1 + 2


def ids(study):
    return {key: run.id for key, run in study.look().outcome.runs.items()}


def test_the_written_toml_and_python_make_the_same_runs(trained, tmp_path):
    study, outcome, _ = trained
    (tmp_path / "study.toml").write_text(cells.as_toml(study), encoding="utf-8")
    again = read_study(tmp_path / "study.toml")
    names: dict = {}
    told = []
    exec(cells.as_code(study).replace("study.run(progress=True)\n", ""), names)
    for other in (again, names["study"]):
        assert ids(other) == ids(study) == {key: run.id for key, run in outcome.runs.items()}
        other.run(workers=1, told=told.append)
        assert told[-1].done == told[-1].total == 12
        assert {key: run.created for key, run in other.look().outcome.runs.items()} == {
            key: run.created for key, run in outcome.runs.items()
        }


@pytest.mark.parametrize(
    ("method", "settings", "grid"),
    [
        ("weight_compander", '{"fn": "mulaw", "layers": "*, !head", "batch_size": 7}', '{"learn": [], "b_mult": [1e-3, 1000]}'),
        ("lora", '{"momentum": 0.5}', '{"lr": [1e-05, 1.0]}'),
        ("", "{}", '{"betas": [[0.9, 0.99], [0.8, 0.9]], "optimizer": ["adam", "adamw"]}'),
        ("nap", '{"norm": "rmsnorm"}', '{"affine_decay": []}'),
    ],
)  # fmt: skip
def test_any_sweep_is_written_and_read_back(method, settings, grid, tmp_path):
    study = cells.sweep("digits", method, settings, grid, store=wb.RunStore(tmp_path / 'a "quoted" \\ name'), **SMALL)
    (tmp_path / "study.toml").write_text(cells.as_toml(study), encoding="utf-8")
    names: dict = {}
    usual = wb.tasks.find_task("digits").recipe("smoke")
    exec(cells.as_code(study).replace("study.run(progress=True)\nstudy.frame()\n", ""), names)
    for other in (read_study(tmp_path / "study.toml"), names["study"]):
        assert other.store.url == study.store.url
        assert (other.seeds, other.every, tuple(other.probes)) == (study.seeds, study.every, study.probes)
        for arm in study.arms:
            mine, theirs = study.plan()[arm], other.plan()[arm]
            assert (theirs.start, theirs.probes) == (mine.start, mine.probes)
            made, read = (
                [arm.at(point, s.recipe or usual) for point in arm.points()]
                for s, arm in ((study, mine), (other, theirs))
            )
            assert made == read


def test_every_field_of_an_arm_is_written_and_read_back(tmp_path):
    full = wb.Arm(
        (wb.methods.LoRA(rank=2),), start="base", references={"teacher": "base"}, members={"one": "base"},
        recipe={"steps": 9, "betas": (0.8, 0.9)}, at_smoke={"steps": 3}, trainable=("head", "blocks.*"),
        grid={"lr": (0.1, 0.2), "lora.alpha": (1.0, 2.0)}, select="train", select_by=("accuracy", "max"),
        probes=("spectrum",),
    )  # fmt: skip
    usual = wb.Arm()
    named = {spec.name for spec in dataclasses.fields(wb.Arm) if getattr(full, spec.name) != getattr(usual, spec.name)}
    assert named == {spec.name for spec in dataclasses.fields(wb.Arm)} - {"task"}
    study = wb.Study("digits", {"base": usual, "full": full, "plain": None}, seeds=1, scale="smoke")
    (tmp_path / "study.toml").write_text(cells.as_toml(study), encoding="utf-8")
    names: dict = {}
    exec(cells.as_code(study).replace("study.run(progress=True)\nstudy.frame()\n", ""), names)
    again = read_study(tmp_path / "study.toml")
    assert again.plan() == study.plan()
    assert again.plan()["base"].probes == () and again.plan()["plain"].probes == study.probes
    assert cells.as_toml(names["study"]) == cells.as_toml(again) == cells.as_toml(study)


@pytest.mark.parametrize(("scale", "steps"), [("smoke", 3), ("cpu", 9)])
def test_what_an_arm_changes_at_smoke_scale_counts_there_alone(scale, steps, tmp_path):
    (tmp_path / "study.toml").write_text(
        f'task = "digits"\nscale = "{scale}"\n[arms.a]\nrecipe = {{ steps = 9, lr = 0.5 }}\nat_smoke = {{ steps = 3 }}\n'
    )
    study = read_study(tmp_path / "study.toml")
    _, recipe = study.plan()["a"].at({}, wb.tasks.find_task("digits").recipe(scale))
    assert (recipe.steps, recipe.lr) == (steps, 0.5)


def test_a_value_that_toml_has_no_word_for_leaves_the_python():
    study = cells.sweep("digits", "", "{}", '{"clip": [null, 1.0]}', **SMALL)
    with pytest.raises(StudyError, match="clip: TOML"):
        cells.as_toml(study)
    text = cells.written(study).text
    assert "[None, 1.0]" in text
    assert "# clip: TOML has no word" in text


def test_a_study_of_which_nothing_finished_is_refused_with_the_reason(tmp_path):
    study = cells.sweep("digits", "", "{}", '{"lr": [100.0]}', store=wb.RunStore(tmp_path), **SMALL)
    with pytest.raises(ReportError, match="nothing was trained"):
        cells.responses(study)
    study.run(workers=1)
    with pytest.raises(ReportError, match="no run of the study finished.*loss became"):
        cells.responses(study)
