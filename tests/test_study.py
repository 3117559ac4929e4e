"""Studies: arms, grids and seeds become runs, found again, stacked where they can be, and listed."""

import dataclasses
import sys

import pytest
from study_trouble import RECIPE, Trouble

import wbench as wb
from wbench.cli import app
from wbench.errors import KnobError, StudyError
from wbench.methods import GaLore, LoRA, WeightCompander
from wbench.study import Progress
from wbench.study.file import read_study
from wbench.study.show import clock


def small(tmp_path, **changes):
    fields = {
        "task": "digits", "arms": {"plain": None, "wc": WeightCompander()}, "grid": {"lr": [1e-3, 3e-3], "weight_compander.a_mult": [2.0, 3.0]},
        "seeds": 2, "recipe": RECIPE, "probes": (), "store": wb.RunStore(tmp_path / "runs"),
    }  # fmt: skip
    return wb.Study(**{**fields, **changes})


def test_grid_is_swept_by_the_arms_it_concerns_and_agrees_with_single_runs(tmp_path):
    study = small(tmp_path)
    assert set(study.frame()["status"]) == {"missing"}
    outcome = study.run(workers=1)
    assert not outcome.failures and len(outcome.runs) == 2 * 2 + 4 * 2
    frame = study.frame()
    assert list(frame.columns[:7]) == ["arm", "lr", "weight_compander.a_mult", "seed", "status", "reason", "run"]
    assert frame.groupby("arm").size().to_dict() == {"plain": 4, "wc": 8}
    assert frame.loc[frame["arm"] == "plain", "weight_compander.a_mult"].isna().all()
    for _, row in frame.iterrows():
        methods = WeightCompander(a_mult=row["weight_compander.a_mult"]) if row["arm"] == "wc" else None
        alone = wb.train(
            "digits",
            methods,
            seed=row["seed"],
            recipe=RECIPE.replace(lr=row["lr"]),
            probes=(),
            every=20,
            store=wb.RunStore(tmp_path / "alone"),
        )
        assert alone.id == row["run"] and row["status"] == "finished"
        assert row["metric.test.loss"] == pytest.approx(alone.final("loss"), abs=1e-5)


def test_second_start_trains_nothing_and_a_larger_grid_only_what_is_new(tmp_path, monkeypatch):
    study = small(tmp_path)
    study.run(workers=1)
    store = wb.RunStore(tmp_path / "runs")
    before = {run.id: run.created for run in store.runs()}
    again = study.run(executor=lambda: pytest.fail("nothing was left to train"))
    assert {run.id for run in again.runs.values()} == set(before)
    more = dataclasses.replace(study, seeds=3)
    assert (more.frame()["status"] == "missing").sum() == 6
    more.run(workers=1)
    assert all(run.created == before[run.id] for run in store.runs() if run.id in before) and len(store.runs()) == 18


def test_one_process_two_processes_and_any_executor_give_the_same_bits(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from study_trouble import contents

    found = []
    with ThreadPoolExecutor(1) as threads:
        for name, options in {"one": {"workers": 1}, "two": {"workers": 2}, "any": {"executor": threads}}.items():
            store = wb.RunStore(tmp_path / name)
            outcome = small(tmp_path, store=store).run(**options)
            assert not outcome.failures
            found.append(contents(store))
    assert found[0] == found[1] == found[2] and len(found[0]) == 12


def test_arms_may_start_from_arms_which_are_not_swept(tmp_path):
    tuned = {"base": wb.Arm(), "lora": wb.Arm((LoRA(),), start="base"), "galore": wb.Arm((GaLore(),), start="base")}
    study = small(tmp_path, arms=tuned, grid={"lr": [1e-3, 1e-2], "lora.rank": [2, 4]})
    outcome = study.run(workers=1)
    frame = study.frame()
    assert not outcome.failures and frame.groupby("arm").size().to_dict() == {"base": 2, "galore": 4, "lora": 8}
    bases = {run.seed: run.id for (arm, _, _), run in outcome.runs.items() if arm == "base"}
    assert all(run.spec["start"] == bases[run.seed] for (arm, _, _), run in outcome.runs.items() if arm != "base")


def test_tables_of_probes_are_joined_with_the_settings(tmp_path):
    study = small(tmp_path, probes=("spectrum", "effective_lr"))
    study.run(workers=1)
    spectrum = study.table("spectrum")
    assert {"arm", "lr", "seed", "run", "step", "layer"} <= set(spectrum.columns)
    assert spectrum["run"].nunique() == 12 and set(spectrum["step"]) == {0, 1, 20}
    assert study.table("metrics")["run"].nunique() == 12
    assert study.table("nothing").empty


def test_large_models_and_methods_that_cannot_are_left_to_single_runs_and_it_says_so(tmp_path):
    class Stubborn(Trouble):
        vectorizes = False

    told: list[Progress] = []
    study = small(tmp_path, arms={"a": Stubborn()}, grid={"trouble.number": [0, 1]}, seeds=1)
    outcome = study.run(workers=1, told=told.append)
    assert outcome.notes == ["digits + trouble trains run by run: trouble cannot be vectorised (vectorizes = False)"]
    assert outcome.notes[0] in [progress.note for progress in told]
    assert not any("vectorized" in run.info for run in outcome.runs.values())
    wide = small(
        tmp_path, task=wb.tasks.Digits(hidden=(1024, 1024)), arms={"a": None}, grid={"lr": [1e-3, 2e-3]}, seeds=1
    )
    notes = wide.run(workers=1).notes
    assert len(notes) == 1 and "gains nothing on a CPU" in notes[0]
    assert all(run.info["vectorized"] for run in small(tmp_path).run(workers=1).runs.values())
    assert not any(
        "vectorized" in run.info for run in small(tmp_path, seeds=[7]).run(workers=1, vectorize="never").runs.values()
    )


def test_progress_counts_runs_and_steps_and_estimates_what_is_left(tmp_path):
    told: list[Progress] = []
    small(tmp_path).run(workers=1, told=told.append)
    assert told[0].done == 0 and told[0].total == 12 and told[0].seconds_left is None
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert told[-1].done == 12 and told[-1].share == 1.0 and told[-1].seconds_left == pytest.approx(0.0)
    assert clock(None) == "?" and clock(64.6) == "1:05" and clock(3725) == "1:02:05"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "at least one arm"),
        ({"seeds": 0}, "seeds=0 is not allowed"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]"),
        ({"grid": {"lr": []}}, "one or more values"),
        ({"grid": {"lr": [1.0, 1.0]}}, "names a value twice"),
        ({"grid": {"learning_rate": [1.0]}}, "no arm has 'learning_rate'"),
        ({"grid": {"weight_compander.a": [1.0]}}, "no arm has 'weight_compander.a'"),
        ({"grid": {"weight_compander.a_mult": [1e9]}}, "a_mult=1000000000.0 is out of range"),
        ({"task": "digit"}, "unknown task 'digit'"),
    ],
)
def test_ill_defined_studies_are_refused_by_name_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(wb.WBenchError, match=message):
        small(tmp_path, **changes)
    assert not (tmp_path / "runs").exists()


def test_ill_defined_ways_of_running_are_refused(tmp_path):
    with pytest.raises(StudyError, match="vectorize='sometimes'"):
        small(tmp_path).run(vectorize="sometimes")
    with pytest.raises(StudyError, match="must be positive"):
        small(tmp_path).run(time_limit=-1.0)


FILE = """
task = {{ id = "digits", hidden = [32] }}
seeds = [0, 3]
probes = []
store = "{store}"
[recipe]
optimizer = "adam"
lr = 1e-3
steps = 10
[grid]
"weight_compander.a_mult" = [2, 3.0]
[arms.plain]
[arms.wc]
methods = ["weight_compander"]
recipe = {{ weight_decay = 0.1 }}
[[arms.both.methods]]
id = "weight_compander"
fn = "mulaw"
[[arms.both.methods]]
id = "galore"
rank = 4
"""


def test_toml_file_is_the_study(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(FILE.format(store=tmp_path / "runs"))
    study = read_study(file)
    arms = study.plan()
    assert study.task.hidden == (32,) and study.numbers == [0, 3] and study.recipe.steps == 10
    assert arms["both"].methods == (WeightCompander(fn="mulaw"), GaLore(rank=4))
    assert [len(arm.points()) for arm in arms.values()] == [1, 2, 2]
    assert arms["wc"].at(arms["wc"].points()[1], study.recipe)[1].weight_decay == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = ", "is no TOML"),
        ("seeds = 3", "the key 'task' is missing"),
        ('task = "digits"\nseed = 3', "'seed' is not allowed. Did you mean seeds"),
        (
            'task = "digits"\n[arms.a]\nmethod = ["galore"]',
            "arms.a: the key 'method' is not allowed. Did you mean methods",
        ),
        ('task = "digits"\n[arms.a]\nmethods = ["galor"]', "galore"),
        ('task = "digits"\n[[arms.a.methods]]\nid = "galore"\nranks = 3', "rank"),
        ('task = "digits"\n[grid]\nlr = 3', "grid.lr=3 is not allowed; allowed: a list"),
        ('task = "digits"\n[recipe]\nlr = -1', "lr=-1"),
    ],
)
def test_ill_formed_files_are_refused_with_the_files_name(tmp_path, text, message):
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(wb.WBenchError, match=f"(?s){file}.*{message}"):
        read_study(file)
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path / "none.toml")


def test_command_line_trains_shows_and_goes_on(tmp_path, capsys):
    file = tmp_path / "study.toml"
    file.write_text(FILE.format(store=tmp_path / "runs"))
    app(["study", str(file), "--show"], standalone_mode=False)
    assert "2 missing" in capsys.readouterr().out
    out = tmp_path / "runs.csv"
    app(["study", str(file), "--workers", "1", "--quiet", "--out", str(out)], standalone_mode=False)
    text = capsys.readouterr().out
    assert "2 finished" in text and "missing" not in text and "standard deviation" in text
    assert len(out.read_text().splitlines()) == 1 + 10
    with pytest.raises(KnobError, match=r"allowed endings: \.parquet, \.csv"):
        app(["study", str(file), "--show", "--out", "x.txt"], standalone_mode=False)
    assert "wbench.study" in sys.modules


def test_what_a_table_has_in_common_with_the_grid_is_told_apart(tmp_path):
    """`effective_lr` records the rate in use as `lr`; a grid over `lr` has the peak under that name."""
    recipe = RECIPE.replace(schedule="linear")
    study = wb.Study(
        "digits", {"plain": None}, {"lr": [1e-3, 1e-2]}, seeds=1, recipe=recipe, store=wb.RunStore(tmp_path)
    )
    study.run(workers=1)
    table = study.table("effective_lr")
    assert set(table["lr"]) == {1e-3, 1e-2} and table["effective_lr.lr"].nunique() > 2
    assert not table.columns.duplicated().any()


def test_without_the_metric_that_chooses_no_point_is_chosen_and_the_study_says_so(tmp_path):
    """`digit_streams` has no validation data."""
    recipe = wb.tasks.get("digit_streams")().recipe("smoke")
    study = wb.Study(
        "digit_streams",
        {"plain": None},
        {"lr": [0.01, 0.02]},
        seeds=1,
        recipe=recipe,
        probes=(),
        store=wb.RunStore(tmp_path),
    )
    outcome = study.run(workers=1)
    assert len(outcome.runs) == 2 and not outcome.failures
    assert any("no point of arm 'plain' is chosen" in note and "valid.loss" in note for note in outcome.notes)
    started = dataclasses.replace(
        study, arms={"plain": wb.Arm(grid={"lr": (0.01, 0.02)}), "next": wb.Arm(start="plain")}, grid={}
    )
    assert "next" in {arm for arm, _, _ in started.run(workers=1).failures}
