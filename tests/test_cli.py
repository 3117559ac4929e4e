"""The command line: what it prints, what it keeps, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import wbench as wb
from wbench import cli


@pytest.fixture
def wbench(monkeypatch, capsys):
    """Run the command line in this process and return exit status, standard output and standard error."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["wbench", *args])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_answers_within_half_a_second():
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "wbench.cli", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5
    for command in ("methods", "train", "probe", "claim", "study", "report", "sweep", "app", "runs", "init"):
        assert f" {command} " in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['wbench', '--help']\nfrom wbench import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('LOADED', [name for name in ('torch', 'numpy', 'pandas', 'plotly', 'papermill') if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "LOADED []"


def test_import_wbench_loads_no_plotting_table_or_notebook_package():
    heavy = (
        "plotly",
        "pandas",
        "matplotlib",
        "sklearn",
        "papermill",
        "nbconvert",
        "ipywidgets",
        "IPython",
        "jupyterlab",
    )
    code = f"import sys, wbench\nprint([name for name in {heavy!r} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_methods_lists_every_registered_method(wbench):
    status, out, _ = wbench("methods")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert status == 0
    assert {(row[0], row[1], row[2]) for row in rows} == {
        (cls.id, cls.stage, cls.kind) for cls in wb.methods.all().values()
    }


def test_methods_filters_by_stage_and_topic(wbench):
    by_stage = [line.split()[0] for line in wbench("methods", "--stage", "adapter")[1].splitlines()[1:]]
    assert sorted(by_stage) == sorted(cls.id for cls in wb.methods.all().values() if cls.stage == "adapter")
    by_topic = [line.split()[0] for line in wbench("methods", "--topic", "plasticity")[1].splitlines()[1:]]
    assert sorted(by_topic) == sorted(cls.id for cls in wb.methods.all().values() if "plasticity" in cls.topics)
    assert by_topic
    status, out, err = wbench("methods", "--topic", "no such topic")
    assert (status, out) == (1, "")
    assert err.startswith("error: no method has topic='no such topic'")
    assert "plasticity" in err


def test_methods_as_markdown_is_one_table_with_a_row_a_method(wbench):
    lines = wbench("methods", "--markdown")[1].splitlines()
    assert len(lines) == 2 + len(wb.methods.all())
    assert len({line.count("|") for line in lines}) == 1
    assert all(f"`{name}`" in row for name, row in zip(wb.methods.all(), lines[2:], strict=True))


def test_train_records_the_run_that_was_asked_for_and_finds_it_again(wbench, tmp_path):
    args = ("train", "digits", "galore", "--scale", "smoke", "--set", "rank=8", "--task-set", "hidden=32,32",
            "--seed", "3", "--store", str(tmp_path))  # fmt: skip
    status, out, _ = wbench(*args)
    (run,) = wb.RunStore(tmp_path).runs()
    assert status == 0
    assert (run.status, run.seed) == ("finished", 3)
    assert run.spec["methods"][0]["fields"]["rank"] == 8
    assert run.spec["task"]["hidden"] == [32, 32]
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["run"] == run.id
    assert float(shown["test.accuracy"]) == pytest.approx(run.final("accuracy"), rel=1e-4)
    assert wbench(*args)[1] == out
    assert len(wb.RunStore(tmp_path).runs()) == 1


def test_knobs_of_several_methods_are_told_apart_by_name(wbench, tmp_path):
    status, _, _ = wbench(
        "train", "digits", "galore", "weight_compander", "--scale", "smoke", "--task-set", "hidden=16",
        "--set", "galore.rank=4", "--set", "weight_compander.b_mult=1.5", "--store", str(tmp_path),
    )  # fmt: skip
    (run,) = wb.RunStore(tmp_path).runs()
    fields = {entry["id"]: entry["fields"] for entry in run.spec["methods"]}
    assert status == 0
    assert (fields["galore"]["rank"], fields["weight_compander"]["b_mult"]) == (4, 1.5)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["galore", "--set", "gallore.rank=8"], ["gallore", "galore"]),
        (["galore", "nap", "--set", "rank=8"], ["--set method.knob=value"]),
        (["--set", "rank=8"], ["--set needs a method", "--task-set"]),
        (["galore", "--set", "rank"], ["'rank'", "name=value"]),
        (["galore", "--task-set", "=3"], ["'=3'", "name=value"]),
        (["--scale", "huge"], ["'huge'", "smoke, cpu, gpu"]),
        (["--device", "toaster"], ["'toaster'", "auto"]),
        (["--task-set", "train_size=3"], ["train_size=3", "from 10 to 1496"]),
    ],
)
def test_a_setting_that_would_be_ignored_or_is_not_allowed_is_refused_before_training(wbench, tmp_path, args, words):
    status, out, err = wbench("train", "digits", *args, "--store", str(tmp_path / "s"))
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert all(word in err for word in words)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (("train", "digits", "gallore"), "galore"),
        (("train", "digist"), "digits"),
        (("claim", "bonne"), "bone"),
        (("report", "wait_compander"), "weight_compander"),
        (("report", "nap", "--task", "mnits"), "mnist"),
        (("sweep", "nap", "lrr"), "lr"),
        (("sweep", "galor", "rank"), "galore"),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(wbench, tmp_path, monkeypatch, args, near):
    monkeypatch.chdir(tmp_path)
    status, out, err = wbench(*args)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert near in err.split("Did you mean")[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"), [("rank=0", {"rank": 0}), ("rank=many", {"rank": "many"}), ("rnk=8", {"rnk": "8"})]
)
def test_a_refused_knob_reads_the_same_from_python_and_the_command_line(wbench, text, value):
    with pytest.raises(wb.errors.KnobError) as raised:
        wb.methods.GaLore(**value)
    for command in (("train", "digits", "galore"), ("report", "galore")):
        status, _, err = wbench(*command, "--set", text)
        assert (status, err) == (1, f"error: {raised.value}\n")
    name, given = next(iter(value.items()))
    assert name in err
    assert str(given) in err
    assert ("from 1 to 65536" in err) == (name == "rank")


@pytest.mark.parametrize(
    "args",
    [
        ("train",), ("train", "digits", "--nosuch"), ("train", "digits", "--seed", "-1"), ("train", "digits", "--seed", "x"),
        ("nosuch",), ("runs", "compare"), ("report",),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_status_2(wbench, args):
    status, out, err = wbench(*args)
    assert (status, out) == (2, "")
    assert "Usage:" in err
    assert "Error:" in err


def test_a_fault_of_the_program_is_not_dressed_up_as_the_users(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("wbench.listing.plain_table", broken)
    monkeypatch.setattr(sys, "argv", ["wbench", "methods"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.fixture
def checkpoint(tmp_path):
    rng = torch.Generator().manual_seed(0)
    tensors = {"a.weight": torch.randn(12, 8, generator=rng), "b.weight": torch.randn(5, 7, generator=rng)}
    tensors["a.bias"] = torch.zeros(12)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", tensors


def test_probe_prints_what_numpy_computes(wbench, checkpoint):
    path, tensors = checkpoint
    status, out, _ = wbench("probe", str(path))
    head, *rows = [line.split() for line in out.splitlines()]
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert status == 0
    for layer in ("a", "b"):
        singular = np.linalg.svd(tensors[f"{layer}.weight"].double().numpy(), compute_uv=False)
        row = found.get(layer) or found[f"{layer}.weight"]
        assert float(row["stable_rank"]) == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-3)
        assert float(row["frobenius_norm"]) == pytest.approx(np.sqrt((singular**2).sum()), rel=1e-3)


@pytest.mark.parametrize(("suffix", "read"), [(".csv", pd.read_csv), (".parquet", pd.read_parquet)])
def test_probe_writes_the_whole_table(wbench, checkpoint, tmp_path, suffix, read):
    out = tmp_path / f"table{suffix}"
    assert wbench("probe", str(checkpoint[0]), "--layers", "a*", "--out", str(out))[0] == 0
    expected = wb.probes.spectrum(checkpoint[0], layers="a*")
    pd.testing.assert_frame_equal(read(out), expected, check_dtype=False, check_categorical=False)


def test_probe_summary_and_histogram_name_the_tensors(wbench, checkpoint):
    assert "a.bias" in wbench("probe", str(checkpoint[0]), "--probe", "summary")[1]
    assert "near_zero_share" in wbench("probe", str(checkpoint[0]), "--probe", "histogram")[1]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--probe", "spectra", "spectrum, histogram, summary"),
        ("--nonfinite", "keep", "raise, skip"),
        ("--out", "table.xlsx", ".parquet, .csv"),
        ("--layers", "c*", "a"),
    ],
)
def test_probe_refuses_by_name_what_it_does_not_know(wbench, checkpoint, option, value, allowed):
    status, out, err = wbench("probe", str(checkpoint[0]), option, value)
    assert (status, out) == (1, "")
    assert value in err
    assert allowed in err


def test_probe_names_the_file_that_cannot_be_written(wbench, checkpoint, tmp_path):
    for target in (tmp_path / "absent" / "table.csv", checkpoint[0] / "table.parquet"):
        status, _, err = wbench("probe", str(checkpoint[0]), "--out", str(target))
        assert status == 1
        assert err.startswith("error: --out")
        assert str(target) in err


def test_claim_prints_verdict_control_and_intervals_and_writes_the_same_as_json(wbench, tmp_path):
    file = tmp_path / "verdict.json"
    status, out, _ = wbench("claim", "bone", "--scale", "smoke", "--workers", "1", "--store", str(tmp_path / "s"),
                            "--out", str(file))  # fmt: skip
    record = json.loads(file.read_text())
    found = record["verdict"]
    assert status == 0
    assert out.startswith(f"bone: {found['outcome']} (")
    assert f"control '{wb.claims.get('bone').control}': {found['control_outcome']}" in out
    for role, checks in (("method", found["checks"]), ("control", found["control_checks"])):
        for item in checks:
            shown = f"{item['estimate']:.4g} [{item['low']:.4g}, {item['high']:.4g}]"
            assert any(
                line.startswith(role) and item["check"]["name"] in line and shown in line for line in out.splitlines()
            )
    assert f"resampled: {found['checks'][0]['unit_of_resampling']}" in out
    assert {row["seed"] for row in record["values"]} == set(record["seeds"])

    status, _, err = wbench("claim", "bone", "--scale", "smoke", "--workers", "1", "--store", str(tmp_path / "s"),
                            "--out", str(tmp_path / "absent" / "v.json"))  # fmt: skip
    assert (status, err.count(str(tmp_path / "absent" / "v.json"))) == (1, 1)


def test_runs_are_listed_shown_compared_and_deleted(wbench, tmp_path):
    store = wb.RunStore(tmp_path)
    task = wb.tasks.Digits(hidden=(8,))
    one, two = (wb.train(task, wb.methods.GaLore(rank=rank), scale="smoke", probes=(), store=store) for rank in (2, 4))
    place = ("--store", str(tmp_path))
    listed = wbench("runs", "list", *place)[1].splitlines()
    assert [line.split()[0] for line in listed[1:]] == [run.id for run in store.runs()]
    assert f"accuracy={one.final('accuracy'):.4g}" in "\n".join(listed)

    status, shown, _ = wbench("runs", "show", one.id[:8], *place)
    assert status == 0
    assert one.id in shown
    assert "rank=2" in shown

    compared = wbench("runs", "compare", one.id, two.id, *place)[1]
    (rank,) = [line.split() for line in compared.splitlines() if "rank" in line]
    assert rank[-2:] == ["2", "4"]
    assert "batch_size" not in compared

    assert wbench("runs", "delete", one.id[:8], *place)[:2] == (0, f"deleted {one.id}\n")
    assert [run.id for run in store.runs()] == [two.id]
    for command in ("show", "compare", "delete"):
        status, out, err = wbench("runs", command, one.id, *place)
        assert (status, out) == (1, "")
        assert f"error: no run '{one.id}'" in err
    assert "no runs in" in wbench("runs", "list", "--store", str(tmp_path / "empty"))[1]


def test_list_names_a_damaged_run_and_shows_the_others(wbench, tmp_path):
    store, task = wb.RunStore(tmp_path), wb.tasks.Digits(hidden=(8,))
    good, bad = (wb.train(task, scale="smoke", seed=seed, probes=(), store=store) for seed in (0, 1))
    (bad.path / "metrics.parquet").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, out, _ = wbench("runs", "list", "--store", str(tmp_path))
    assert (status, good.id in out, bad.id in out) == (0, True, False)
    assert any(bad.id in str(item.message) and "metrics.parquet is missing" in str(item.message) for item in caught)


def test_init_copies_the_notebooks_and_overwrites_nothing(wbench, tmp_path):
    target = tmp_path / "mine"
    status, out, _ = wbench("init", str(target))
    names = {path.name for path in target.iterdir()}
    assert status == 0
    assert names == {
        "start_here.ipynb",
        "method.ipynb",
        "compare.ipynb",
        "checkpoint.ipynb",
        "study.ipynb",
        "explore.ipynb",
    }
    assert {line.rpartition(os.sep)[2] for line in out.splitlines()} == names
    (target / "method.ipynb").write_text("mine")
    (target / "compare.ipynb").unlink()
    assert wbench("init", str(target))[1].split() == [str(target / "compare.ipynb")]
    assert (target / "method.ipynb").read_text() == "mine"
    (tmp_path / "file").write_text("")
    status, _, err = wbench("init", str(tmp_path / "file" / "below"))
    assert (status, err.startswith("error: ")) == (1, True)
    assert str(tmp_path / "file" / "below") in err


def test_a_run_that_diverges_is_shown_and_ends_with_status_1(wbench, tmp_path, monkeypatch):
    recipe = wb.tasks.Digits.recipes["smoke"].replace(lr=100.0)
    monkeypatch.setitem(wb.tasks.Digits.recipes, "smoke", recipe)
    status, out, err = wbench("train", "digits", "--scale", "smoke", "--store", str(tmp_path))
    (run,) = wb.RunStore(tmp_path).runs()
    assert (status, run.status) == (1, "diverged")
    assert run.id in out
    assert f"diverged: {run.reason}" in err


def test_ctrl_c_keeps_the_partial_run_and_ends_with_130(tmp_path):
    code = "import signal, wbench.cli; signal.signal(signal.SIGINT, signal.default_int_handler); wbench.cli.main()"
    args = ["train", "digits", "--scale", "gpu", "--store", str(tmp_path), "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = b""
    while b"loss=" not in shown:
        part = process.stderr.read1(256)
        assert part, shown.decode()
        shown += part
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == b""
    assert b"stopped; what was finished is kept" in err
    assert b"Traceback" not in err
    (run,) = wb.RunStore(tmp_path).runs()
    assert run.status == "stopped"
    steps = run.metrics.query("split == 'train' and name == 'loss'")
    assert 0 < steps["step"].max() < 5000
    assert np.isfinite(steps["value"]).all()
