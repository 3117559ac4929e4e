"""A package of its own brings one method of each stage: listed, trained, reported and checked like ours, without a line of ours changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wbench as wb

PACKAGE = Path(__file__).parent / "plugin"
SET = {  # id: stage, knob, value, slider
    "weight_standardization": ("parametrization", "gain", 2.0, [0.25, 4.0]),
    "gradient_centralization": ("optimizer", "strength", 0.5, [0.0, 1.0]),
    "vera": ("adapter", "rank", 8, [1, 256]),
    "wanda": ("transform", "sparsity", 0.25, [0.0, 0.95]),
    "factorized": ("layer", "rank", 3, [1, 64]),
    "label_smoothing": ("objective", "smoothing", 0.2, [0.0, 0.5]),
    "wise_ft": ("population", "alpha", 0.75, [0.0, 1.0]),
    "shrunken_centroids": ("estimator", "shrink_threshold", 0.5, [0.0, 2.0]),
    "mixup": ("pipeline", "alpha", 0.4, [0.05, 2.0]),
}
TRAIN = """
import json, sys
import wbench as wb
from wbench import cli

store, settings = sys.argv[1], json.loads(sys.argv[2])
found = {}
for name, given in settings.items():
    sys.argv = ["wbench", "train", "digits", name, "--scale", "smoke", "--set", given, "--store", store]
    try:
        cli.main()
    except SystemExit as stop:
        found[name] = stop.code
runs = {run.spec["methods"][0]["id"]: run for run in wb.RunStore(store).runs()}
members = {name: runs[name] for name in ("label_smoothing", "mixup")}
base = wb.tasks.Digits().model(0)
merged = wb.train("digits", wb.methods.get("wise_ft")(alpha=0.75), members=members, references={"base": base})
mean = sum(run.tensors()["head.weight"] for run in members.values()) / 2
expected = base.head.weight + 0.75 * (mean - base.head.weight)
found["merged"] = float((merged.tensors()["head.weight"] - expected).abs().max())
restored = [name for name in runs if name != "shrunken_centroids" and wb.restore(runs[name]) is not None]
print("FOUND", json.dumps({"codes": found, "restored": restored}))
"""
CHECK = """
import json
import wbench as wb

found = {}
for name, cls in wb.methods.all().items():
    if cls.__module__.startswith("tiny_methods"):
        knobs = {knob.name: [knob.kind, knob.slider, knob.doc] for knob in cls.knobs().values()}
        found[name] = {"knobs": knobs, "checked": wb.testing.check_method(cls)}
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def plugged(tmp_path_factory):
    """Install the package into a folder of its own and return a function that runs Python where it is on the path."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(folder),
        str(PACKAGE),
    ]
    subprocess.run([*install, "--quiet", "--disable-pip-version-check"], check=True)
    path = os.pathsep.join([str(folder), str(Path(wb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(*args, cwd):
        env = {**os.environ, "PYTHONPATH": path, "WBENCH_HOME": str(cwd / "home")}
        done = subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=cwd, env=env, check=False)
        assert "plug-in" not in done.stderr
        return done

    return run


def found(done):
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr
    return json.loads(lines[-1].removeprefix("FOUND "))


def test_they_are_listed_with_their_stages(plugged, tmp_path):
    assert not set(SET) & set(wb.methods.all())
    rows = [line.split() for line in plugged("-m", "wbench.cli", "methods", cwd=tmp_path).stdout.splitlines()[1:]]
    listed = {row[0]: row[1] for row in rows}
    assert {name: listed.get(name) for name in SET} == {name: stage for name, (stage, *_) in SET.items()}
    assert set(wb.methods.all()) <= set(listed)


def test_they_train_from_the_command_line_with_their_knobs(plugged, tmp_path):
    store = tmp_path / "runs"
    settings = {name: f"{knob}={value}" for name, (_, knob, value, _) in SET.items()}
    done = plugged("-c", TRAIN, str(store), json.dumps(settings), cwd=tmp_path)
    outcome = found(done)
    assert outcome["codes"].pop("merged") < 1e-6
    assert outcome["codes"] == {name: int(name == "wise_ft") for name in SET}  # its members cannot be given there
    assert "wise_ft combines models; pass members" in done.stderr
    runs = {run.spec["methods"][0]["id"]: run for run in wb.RunStore(store).runs()}
    alone = set(SET) - {"wise_ft"}
    assert alone <= set(runs) and all(runs[name].status == "finished" for name in alone)
    for name in alone:
        _, knob, value, _ = SET[name]
        assert runs[name].spec["methods"][0]["fields"][knob] == value
    assert set(outcome["restored"]) == alone - {"shrunken_centroids"}
    assert runs["factorized"].tensors()["blocks.0.linear.0.weight"].shape[0] == 3
    weight = runs["wanda"].tensors()["blocks.0.linear.weight"]
    assert (weight == 0).sum(1).tolist() == [weight.shape[1] // 4] * len(weight)


def test_their_knobs_have_sliders_and_the_contract_holds(plugged, tmp_path):
    seen = found(plugged("-c", CHECK, cwd=tmp_path))
    assert set(seen) == set(SET)
    for name, (stage, knob, value, slider) in SET.items():
        kind, given, doc = seen[name]["knobs"][knob]
        assert (kind, given) == (type(value).__name__, slider) and doc
        last = {"population": "refusals", "estimator": "parameters"}.get(stage, "vectorized")
        assert seen[name]["checked"][-1] == last


@pytest.mark.slow
def test_one_is_reported_with_its_own_claim_and_picture(plugged, tmp_path):
    args = (
        "report",
        "weight_standardization",
        "--scale",
        "smoke",
        "--task",
        "digits",
        "--set",
        "gain=2",
        "--quiet",
        "--out",
        "out",
    )
    done = plugged("-m", "wbench.cli", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / "out" / "verdict-weight_standardization.json").read_text())
    assert set(verdict["runs"]) == {"standardized", "plain", "twin"}
    assert verdict["verdict"]["outcome"] == "inconclusive"  # two seeds decide nothing
    page = (tmp_path / "out" / "weight_standardization.html").read_text()
    assert "mean norm of an output" in page and "Standardized weights train to a lower loss" in page
