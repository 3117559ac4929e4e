"""Reports on studies: figures show the table's own numbers, bad parameters are named, and the written study is the same study."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import wbench as wb
from wbench import plots
from wbench.errors import DataError, KnobError, ReportError, StudyError, UnknownNameError, WBenchError
from wbench.reports import cells
from wbench.study.file import read_study


def runs_of(arm, seeds, point, status="finished", chosen=False, **quantities):
    rows = []
    for seed in range(seeds):
        numbers = {name.replace("_", " "): values[seed] for name, values in quantities.items()}
        reason = "" if status == "finished" else f"loss became nan at step {seed} <b>"
        rows.append({
            "arm": arm,
            **point,
            "seed": seed,
            "status": status,
            "reason": reason,
            "chosen": chosen,
            **numbers,
        })
    return rows


@pytest.fixture
def swept():
    """Two ranks and one that diverged, beside a baseline without ranks; four seeds."""
    nothing = [math.nan] * 4
    return pd.DataFrame([
        *runs_of("plain", 4, {}, chosen=True, test_loss=[0.5, 0.6, 0.7, 0.8], rate=[1.0, 2.0, 3.0, 4.0]),
        *runs_of("low rank", 4, {"rank": 2}, test_loss=[0.1, 0.3, 0.2, 0.6], rate=[1e-3, 2e-3, 3e-3, 1e-2]),
        *runs_of("low rank", 4, {"rank": 8}, chosen=True, test_loss=[0.1, 0.1, 0.2, 0.2], rate=[1e-1, 2e-1, 1e-1, 2e-1]),
        *runs_of("low rank", 4, {"rank": 64}, status="diverged", test_loss=[9e9] * 4, rate=nothing),
    ])  # fmt: skip


def lines(figure, kind, arm, place=0):
    """The arm's trace in a panel: traces come as interval, seeds, mean."""
    found = [trace for trace in figure.data if trace.meta == "response" and trace.legendgroup == arm]
    return found[3 * place + ("interval", "seeds", "mean").index(kind)]


def test_points_are_the_seeds_the_line_their_mean_and_the_bar_students_interval(swept):
    figure = plots.response(swept, ["rank"], ["test loss"])
    two, eight = [0.1, 0.3, 0.2, 0.6], [0.1, 0.1, 0.2, 0.2]
    mean, bar = lines(figure, "mean", "low rank"), lines(figure, "interval", "low rank")
    assert mean.y[:2] == pytest.approx((np.mean(two), np.mean(eight)))
    assert mean.y[2] is None  # a gap, not a number of the runs that diverged
    for place, values in enumerate((two, eight)):
        low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        assert bar.y[3 * place + 1] == pytest.approx(high)
        assert bar.y[3 * place] == pytest.approx(max(low, 0.1 / 1000))
    assert sorted(y for y in lines(figure, "seeds", "low rank").y if y is not None) == pytest.approx(
        sorted(two + eight)
    )
    assert "4 seeds" in mean.hovertext[0]
    assert "chosen" in mean.hovertext[1]
    assert mean.marker.line.width == (0, 2, 0)


def test_an_arm_without_the_knob_is_a_level_line_with_its_band(swept):
    figure = plots.response(swept, ["rank"], ["test loss"])
    values = [0.5, 0.6, 0.7, 0.8]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert lines(figure, "mean", "plain").y == pytest.approx((0.65, 0.65))
    band = lines(figure, "interval", "plain")
    assert band.fill == "toself"
    assert band.y == pytest.approx((low, low, high, high))
    first, last = 10 ** np.array(figure.layout.xaxis.range)
    assert band.x == pytest.approx((first, last, last, first))
    assert first < 2 < 64 < last


def test_one_seed_has_no_interval_and_says_so():
    frame = pd.DataFrame(runs_of("a", 1, {"k": 1}, loss=[0.3]) + runs_of("a", 1, {"k": 2}, loss=[0.4]))
    figure = plots.response(frame, ["k"])
    assert set(lines(figure, "interval", "a").y) == {None}
    assert all("no interval" in said for said in lines(figure, "mean", "a").hovertext)


def test_runs_that_did_not_finish_are_crosses_with_their_reason_and_counted_in_the_legend(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    (crosses,) = [trace for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext]
    assert crosses.x == pytest.approx((64.0,))
    assert "4 of 4 runs did not finish" in crosses.hovertext[0]
    assert "loss became nan at step 2 &lt;b&gt;" in crosses.hovertext[0]
    (legend,) = [trace for trace in figure.data if trace.showlegend and trace.legendgroup == "failed"]
    assert legend.name == "4 of 16 runs<br>did not finish"
    edge = figure.layout[f"yaxis{crosses.yaxis[1:]}"]
    assert tuple(edge.range) == (0, 1)
    assert edge.overlaying == "y"
    for button in figure.layout.updatemenus[0].buttons:  # no choice of the menu moves or hides them
        assert list(figure.data).index(crosses) not in button.args[2]
        assert not any(key.startswith("yaxis2.") for key in button.args[1])


def test_a_baseline_that_failed_is_shown_though_it_has_no_place_on_the_axis(swept):
    swept.loc[1, ["status", "reason"]] = "failed", "out of memory"
    figure = plots.response(swept, ["rank"], ["test loss"])
    (crosses,) = [trace for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext]
    assert "plain: 1 of 4 runs did not finish<br>seed 1: failed, out of memory" in crosses.hovertext
    assert lines(figure, "mean", "plain").y[0] == pytest.approx(np.mean([0.5, 0.7, 0.8]))
    assert "1 of 4 runs have no such number" in lines(figure, "mean", "plain").hovertext[0]


def test_a_study_of_which_nothing_finished_is_still_drawn(swept):
    figure = plots.response(swept.assign(status="diverged"), ["rank"], ["test loss"])
    assert sum(len(trace.x) for trace in figure.data if trace.marker.symbol == "x" and trace.hovertext) == 4
    assert {y for trace in figure.data if trace.meta == "response" for y in trace.y} == {None}


def test_each_entry_of_the_menu_sets_what_the_figure_of_that_quantity_alone_draws(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["test loss", "rate"]
    for button in buttons:
        alone = plots.response(swept, ["rank"], [button.label])
        changes, axes, which = button.args
        assert len(which) == len(changes["y"]) == 6
        for index, y, said in zip(which, changes["y"], changes["hovertext"], strict=True):
            assert list(alone.data[index].y) == y
            assert list(alone.data[index].hovertext) == said
        assert axes["yaxis.title.text"] == alone.layout.yaxis.title.text == button.label
        assert list(axes["yaxis.range"]) == list(alone.layout.yaxis.range)
        assert axes["yaxis.type"] == alone.layout.yaxis.type
    assert [button.args[1]["yaxis.type"] for button in buttons] == ["linear", "log"]
    assert buttons[0].args[1]["yaxis.dtick"] is None  # else the ticks of the logarithmic axis would stay
    json.dumps([button.args for button in buttons], allow_nan=False)


def test_the_axis_of_values_holds_all_seeds_of_what_is_shown(swept):
    figure = plots.response(swept, ["rank"], ["test loss", "rate"])
    for button, power in zip(figure.layout.updatemenus[0].buttons, (1, 10), strict=True):
        low, high = button.args[1]["yaxis.range"]
        ends = (low, high) if power == 1 else (10**low, 10**high)
        seen = swept[swept["status"] == "finished"][button.label]
        assert ends[0] <= seen.min() < seen.max() < ends[1] < 10 * seen.max()


@pytest.mark.parametrize(
    ("values", "kind", "places"),
    [
        ([2, 4, 8, 16], "log", [2, 4, 8, 16]),
        ([0.1, 0.2, 0.3], "linear", [0.1, 0.2, 0.3]),
        ([-10.0, 0.0, 10.0], "linear", [-10, 0, 10]),
        ([0.0, 1e-4, 1e-2, 1.0], "linear", [0, 1, 2, 3]),
        (["adam", "sgd"], "linear", [0, 1]),
        ([False, True], "linear", [0, 1]),
        (["none", 0.5, 1.0], "linear", [0, 1, 2]),
        ([(0.9, 0.99), (0.8, 0.9)], "linear", [0, 1]),
    ],
)
def test_an_axis_is_logarithmic_over_a_decade_and_even_for_words(values, kind, places):
    frame = pd.DataFrame([row for value in values for row in runs_of("a", 2, {"k": value}, loss=[1.0, 2.0])])
    figure = plots.response(frame, ["k"])
    assert figure.layout.xaxis.type == kind
    assert lines(figure, "mean", "a").x == pytest.approx(places)
    assert figure.layout.xaxis.tickvals == pytest.approx(places)
    shown = [str(v).lower() if isinstance(v, bool) else v for v in values]
    assert figure.layout.xaxis.ticktext[0] == {(0.9, 0.99): "0.9, 0.99"}.get(shown[0], f"{shown[0]}".removesuffix(".0"))


def test_ticks_that_would_crowd_are_left_to_the_axis():
    frame = pd.DataFrame([row for k in (1.0, 1.01, 1.02, 3.0) for row in runs_of("a", 2, {"k": k}, loss=[1.0, 2.0])])
    assert plots.response(frame, ["k"]).layout.xaxis.tickvals is None


def test_in_the_panel_of_a_knob_the_others_stand_at_the_arms_chosen_point_which_is_named():
    rows = []
    for lr in (0.1, 1.0):
        rows += runs_of("plain", 2, {"lr": lr}, chosen=lr == 1.0, loss=[lr, lr])
        for rank in (2, 8):
            rows += runs_of("low", 2, {"lr": lr, "rank": rank}, chosen=(lr, rank) == (0.1, 8), loss=[lr * rank] * 2)
    figure = plots.response(pd.DataFrame(rows), ["rank", "lr"], ["loss"])
    assert [note.text for note in figure.layout.annotations] == ["plain at lr = 1; low at lr = 0.1", "low at rank = 8"]
    assert lines(figure, "mean", "low", 0).y == pytest.approx((0.2, 0.8))
    assert lines(figure, "mean", "plain", 0).y == pytest.approx((1.0, 1.0))
    assert lines(figure, "mean", "low", 1).y == pytest.approx((0.8, 8.0))
    assert lines(figure, "mean", "plain", 1).y == pytest.approx((0.1, 1.0))
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == ["plain", "low"]
    with pytest.raises(DataError, match="'plain' has several values of lr .*'chosen'"):
        plots.response(pd.DataFrame(rows).drop(columns="chosen"), ["rank", "lr"])


def test_more_knobs_and_quantities_than_fit_are_told():
    knobs = {f"k{i}": 1.0 for i in range(8)}
    frame = pd.DataFrame(runs_of("a", 2, knobs, chosen=True, **{f"q{i}": [1.0, 2.0] for i in range(40)}))
    figure = plots.response(frame, list(knobs))
    assert (
        figure.layout.title.text
        == "6 of 8 knobs; knobs=(...) chooses others; 30 of 40 quantities; quantities=(...) chooses others"
    )
    assert len(figure.layout.updatemenus[0].buttons) == 30


def test_names_are_text_not_markup():
    frame = pd.DataFrame(runs_of("<b>a</b>", 2, {"k": "<i>1</i>"}, **{"<u>q</u>": [1.0, 2.0]}))
    figure = plots.response(frame, ["k"])
    assert figure.layout.yaxis.title.text == "&lt;u&gt;q&lt;/u&gt;"
    words = json.dumps(figure.to_plotly_json(), default=str)
    assert "&lt;b&gt;a" in words
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in words.replace('"legendgroup": "<b>a</b>"', "")


def test_a_long_name_stands_in_two_lines_beside_the_axis_and_whole_in_the_menu():
    name = "effective rank of blocks.11.attention.projection.with.a.long.name.linear"
    frame = pd.DataFrame(runs_of("a", 2, {"k": 1}, loss=[1.0, 2.0])).rename(columns={"loss": name})
    figure = plots.response(frame, ["k"])
    assert figure.layout.updatemenus[0].buttons[0].label == name
    first, second = figure.layout.yaxis.title.text.split("<br>")
    assert first == "effective rank of"
    assert second[0] == "…" and name.endswith(second[1:]) and len(second) == 32


def test_bad_tables_are_refused_by_name():
    frame = pd.DataFrame(runs_of("a", 2, {"k": 1.0}, loss=[1.0, 2.0]))
    with pytest.raises(DataError, match="knobs="):
        plots.response(frame, [])
    with pytest.raises(DataError, match="missing: rank"):
        plots.response(frame, ["rank"])
    with pytest.raises(DataError, match="missing: status"):
        plots.response(frame.drop(columns="status"), ["k"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "nothing was recorded" in plots.response(frame.iloc[:0], ["k"]).layout.annotations[0].text
    assert caught


# from parameters to a study and back


def points(study, arm):
    return study.plan()[arm].points()


def test_a_name_is_a_field_of_the_recipe_or_else_a_knob_of_the_method():
    study = cells.sweep(
        "digits", "galore", "{}", '{"lr": [0.01, "0.1"], "rank": [2, 4], "galore.scale": [0.5]}', seeds=2
    )
    assert points(study, "baseline") == [{"lr": 0.01}, {"lr": 0.1}]
    assert len(points(study, "galore")) == 4
    assert points(study, "galore")[0] == {"lr": 0.01, "galore.rank": 2, "galore.scale": 0.5}


def test_settings_stay_fixed_in_recipe_and_method():
    study = cells.sweep("digits", "galore", '{"rank": "4", "steps": 90, "inner": "sgd"}', '{"lr": [0.1]}')
    (method,), recipe = study.plan()["galore"].at({"lr": 0.1}, study.recipe)
    assert (method.rank, method.inner, recipe.steps, recipe.lr) == (4, "sgd", 90, 0.1)


def test_an_adapter_starts_from_the_baseline_which_is_not_swept():
    study = cells.sweep("digits", "lora", "{}", '{"lr": [0.01, 0.1]}', scale="smoke")
    assert points(study, "baseline") == [{}]
    assert study.plan()["lora"].start == "baseline"


@pytest.mark.parametrize("grid", ['{"rank": []}', '{"rank": null}', '"rank"', '["rank"]', "rank", " galore.rank "])
def test_a_knob_alone_takes_about_five_values_over_its_slider_the_present_one_among_them(grid):
    study = cells.sweep("digits", "galore", '{"rank": 7}', grid)
    values = study.grid["galore.rank"]
    low, high = wb.methods.get("galore").knobs()["rank"].slider
    assert values[0] == low and values[-1] == high and len(values) == 5
    assert 7 in values and values == sorted(values)
    assert all(isinstance(value, int) for value in values)


def test_every_knob_of_every_method_and_recipe_gives_values_that_are_allowed_or_is_refused_by_name():
    from wbench.method.registry import registry

    makers = [
        (cls, cls()) for cls in registry().values() if not any(f.is_required() for f in cls.model_fields.values())
    ]
    for cls, made in [*makers, (wb.Recipe, wb.Recipe())]:
        for name, spec in cls.knobs().items():
            try:
                values = cells.values_of(spec, getattr(made, name))
            except StudyError as error:
                assert name in str(error)
                assert spec.kind in {"str", "tuple"} or spec.slider is None
                continue
            assert 1 <= len(values) <= max(6, len(spec.choices))
            assert len(set(values)) == len(values)
            for value in values:
                if spec.choices or spec.kind == "bool":
                    assert value in (spec.choices or (True, False))
                else:
                    assert spec.slider[0] <= value <= spec.slider[1]
            if not spec.choices and spec.kind != "bool":
                assert values == sorted(values)


def test_values_on_a_log_slider_are_even_in_the_exponent():
    spec = wb.methods.get("weight_compander").knobs()["b_mult"]
    steps = np.diff(np.log10(cells.values_of(spec)))
    assert steps == pytest.approx([0.5] * 4, abs=0.02)


HOSTILE = '"]); import os; os.system("touch pwned") #'


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"task": HOSTILE}, UnknownNameError, "unknown task"),
        ({"method": HOSTILE}, UnknownNameError, "unknown method"),
        ({"scale": "huge"}, KnobError, "scale='huge'"),
        ({"settings": HOSTILE}, StudyError, "settings="),
        ({"settings": "[1]"}, StudyError, "settings="),
        ({"settings": '{"rnak": 2}'}, StudyError, "settings: .*'rnak'.*rank"),
        ({"settings": '{"rank": 0}'}, KnobError, "rank=0"),
        ({"settings": '{"rank": [1, 2]}'}, KnobError, "rank="),
        ({"settings": '{"lr": "fast"}'}, KnobError, "lr='fast'"),
        ({"grid": HOSTILE}, StudyError, "grid="),
        ({"grid": "[" * 100_000}, StudyError, "grid="),
        ({"grid": "3"}, StudyError, "grid="),
        ({"grid": "{}"}, StudyError, "sweeps nothing"),
        ({"grid": ""}, StudyError, "sweeps nothing"),
        ({"grid": "bone"}, StudyError, "grid: .*'bone'"),
        ({"grid": '{"rank": 8}'}, StudyError, "rank=8"),
        ({"grid": '{"rank": "8"}'}, StudyError, "rank='8'"),
        ({"grid": '{"rank": [2, 2]}'}, StudyError, "rank.*twice"),
        ({"grid": '{"rank": [2], "rank": [4]}'}, StudyError, "'rank'.*twice"),
        ({"grid": '{"rank": [2], "galore.rank": [4]}'}, StudyError, "each name once"),
        ({"grid": '{"rank": [2.5]}'}, KnobError, "rank=2.5"),
        ({"grid": '{"lr": [NaN]}'}, KnobError, "lr=nan"),
        ({"grid": '{"lr": [1e999]}'}, KnobError, "lr=inf"),
        ({"grid": '{"lr": [{}]}'}, KnobError, "lr="),
        ({"grid": "layers"}, StudyError, "grid: layers"),
        ({"method": "", "grid": '{"rank": [2]}'}, StudyError, "grid: .*'rank'"),
        ({"seeds": 0}, StudyError, "seeds=0"),
        ({"seeds": "8"}, StudyError, "seeds='8'"),
        ({"seeds": True}, StudyError, "seeds=True"),
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_allowed_is_named(changes, error, named):
    given = {"task": "digits", "method": "galore", "settings": "{}", "grid": '{"rank": [2]}', **changes}
    with pytest.raises(error, match=named) as caught:
        cells.sweep(**given)
    assert isinstance(caught.value, WBenchError)
    assert len(str(caught.value)) < 500 or len(given["grid"]) > 500


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
