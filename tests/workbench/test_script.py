"""A run as Python: run in a fresh process and an empty store it gives the same run, bit for bit."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_task import arrays

import wbench as wb
from wbench.errors import KnobError
from wbench.method import registry
from wbench.runs import RunStore
from wbench.workbench.script import script
from wbench.workbench.source import literal

ROOT = Path(wb.__file__).parents[1]
GUEST = '''
from typing import ClassVar
import wbench as wb

class Shrink(wb.method.Parametrization):
    """Weights as tenths of what is trained."""
    id: ClassVar[str] = "shrink"
    title: ClassVar[str] = "Shrink"
    paper: ClassVar = wb.Paper("Paper", "Author", 2026)
    by: float = wb.knob(0.5, 0.01, 1.0, doc="Factor.")

    def reparametrize(self, weight, name):
        import torch
        class Times(torch.nn.Module):
            def __init__(self, by): super().__init__(); self.by = by
            def forward(self, weight): return weight * self.by
            def right_inverse(self, weight): return weight / self.by
        return Times(self.by)
'''
RUN_ALL = """
import contextlib, io, os, pathlib, runpy, sys
for place in sys.argv[1:]:
    place = pathlib.Path(place)
    os.environ["WBENCH_HOME"] = str(place.parent / "home")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(place))
    place.with_suffix(".txt").write_text(said.getvalue())
"""


def smoke(**changes):
    return wb.tasks.find_task("digits").recipe("smoke").replace(**{"steps": 12, **changes})


def fine_tuned(store):
    base = wb.train("digits", recipe=smoke(), probes=(), store=store)
    members = {
        f"it's {seed}": wb.train("digits", seed=seed, recipe=smoke(lr=0.05), start=base, probes=(), store=store)
        for seed in (1, 2)
    }
    return base, members


def made(store):
    """Name to a recorded run of every kind."""
    base, members = fine_tuned(store)
    phases = (wb.Phase(name='first "half"', steps=6), wb.Phase(name="it's", steps=6, lr=0.01, schedule="linear"))
    methods = wb.methods
    train = {
        "plain": {"task": "digits", "scale": "smoke"},
        "seed_and_recipe": {"task": "digits", "seed": 3, "recipe": smoke(lr=0.123, schedule="cosine", optimizer="adamw", betas=(0.8, 0.95))},
        "knobs": {"task": "digits", "methods": [methods.GaLore(rank=3, layers=("*", "!head"), scale=0.5)], "recipe": smoke()},
        "none_and_choices": {"task": "digits", "methods": [methods.LSQ(act_bits=None), methods.GaLore(rank=None, inner="sgd", proj_type="left")], "recipe": smoke()},
        "phases": {"task": "digits", "recipe": smoke(phases=phases)},
        "one_phase": {"task": "digits", "recipe": smoke(phases=(wb.Phase(name="train", steps=7),))},
        "probes_off": {"task": "digits", "seed": 5, "recipe": smoke(), "probes": ()},
        "probes_often": {"task": "digits", "recipe": smoke(), "probes": ("spectrum",), "every": 5},
        "start_and_globs": {"task": "digits", "methods": methods.LoRA(rank=2, trainable=("head",)), "recipe": smoke(), "start": base, "trainable": ("head", "blocks.1*")},
        "one_glob": {"task": "digits", "recipe": smoke(), "start": base, "trainable": "head"},
        "merge": {"task": "digits", "methods": "opcm", "members": members, "references": {"base": base}, "recipe": smoke(steps=1)},
        "options": {"task": "digits norm=batch hidden=32,16 train_size=200", "recipe": smoke()},
        "stream": {"task": "digit_streams tasks=2", "scale": "smoke"},
        "estimator": {"task": "quantiles", "methods": wb.methods.QuantileAverage(models=("linear", "neighbors")), "scale": "smoke"},
        "plugged": {"task": "digits", "methods": [registry()["shrink"](by=0.25)], "recipe": smoke()},
    }  # fmt: skip
    return {name: wb.train(**{"store": store, **arguments}) for name, arguments in train.items()}


CASES = ["plain", "seed_and_recipe", "knobs", "none_and_choices", "phases", "one_phase", "probes_off", "probes_often", "start_and_globs",
         "one_glob", "merge", "options", "stream", "estimator", "plugged"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a plug-in package, which is installed as long as these tests run."""
    folder = tmp_path_factory.mktemp("scripts")
    plug, info = folder / "plug", folder / "plug" / "shrinking-1.dist-info"
    info.mkdir(parents=True)
    (plug / "shrinking.py").write_text(GUEST)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shrinking\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wbench.methods]\nshrink = shrinking:Shrink\n")
    sys.path.insert(0, str(plug))
    registry.cache_clear()
    yield folder
    sys.path.remove(str(plug))
    registry.cache_clear()


@pytest.fixture(scope="module")
def runs(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WBENCH_HOME", str(place / "home"))
        return made(RunStore(place / "runs 'of' \"mine\""))


@pytest.fixture(scope="module")
def texts(place, runs):
    store = RunStore(place / "runs 'of' \"mine\"")
    return {name: script(run, store) for name, run in runs.items()}


@pytest.fixture(scope="module")
def again(place, texts):
    """The same runs, made by their scripts, each in an empty store."""
    files = []
    for name, text in texts.items():
        (place / name).mkdir()
        files.append(place / name / "script.py")
        files[-1].write_text(text, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place / "plug")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *map(str, files)], env=env, cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {name: RunStore(place / name / "home" / "runs") for name in texts}


def test_every_kind_of_run_is_tried(runs):
    assert list(runs) == CASES
    assert {run.status for run in runs.values()} == {"finished"}


@pytest.mark.parametrize("name", CASES)
def test_the_script_makes_the_run_again_bit_for_bit(name, runs, again, place):
    run = runs[name]
    [other] = again[name].runs()
    assert other.id == run.id
    assert other.spec == run.spec
    assert other.summary == run.summary
    assert (place / name / "script.txt").read_text() == f"{other.id} {other.summary}\n"
    pd.testing.assert_frame_equal(other.metrics, run.metrics, check_exact=True)
    assert other.probes == run.probes
    for table in run.probes:
        pd.testing.assert_frame_equal(other.probe(table), run.probe(table), check_exact=True)
    assert other._own(".safetensors") == run._own(".safetensors")
    for kind in run._own(".safetensors"):
        tensors = run.tensors(kind)
        assert other.tensors(kind).keys() == tensors.keys()
        for key, tensor in other.tensors(kind).items():
            assert tensor.numpy().tobytes() == tensors[key].numpy().tobytes(), key


def clean(text, *settings):
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", *settings, "--diff", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    return done.stdout + (done.stderr if done.returncode else "")


@pytest.mark.parametrize("preview", [[], ["--preview"]], ids=["stable", "preview"])
@pytest.mark.parametrize("name", CASES)
def test_the_script_is_laid_out_as_a_formatter_would(name, texts, preview):
    assert clean(texts[name], *preview) == ""
    assert all(len(line) <= 120 for line in texts[name].splitlines())


def test_the_script_is_short_and_says_what_is_not_usual(texts):
    assert texts["plain"].splitlines()[1:] == [
        "", "import wbench as wb", "", "run = wb.train(", '    "digits",', "    [],", "    seed=0,", '    scale="smoke",',
        '    device="cpu",', ")", "print(run.id, run.summary)",
    ]  # fmt: skip
    assert '    [wb.methods.GaLore(layers=("*", "!head"), rank=3, scale=0.5)],' in texts["knobs"]
    assert 'wb.train(\n    "digit_streams tasks=2",\n    [],\n    seed=0,\n    scale="smoke",' in texts["stream"]
    assert 'task = wb.tasks.find_task("digits hidden=32,16 norm=batch train_size=200")' in texts["options"]
    assert "recipe=usual.replace(steps=12)" in texts["options"]
    assert 'references={"base": store.get(' in texts["merge"]
    assert "from shrinking import Shrink\nimport wbench as wb\n" in texts["plugged"]
    assert "[Shrink(by=0.25)]" in texts["plugged"]
    for text in texts.values():
        assert "#" not in text.replace('"#', "")


def test_another_torch_another_code_and_a_model_that_is_gone_are_told(tmp_path, runs):
    def differing(**changes):
        store = RunStore(tmp_path / "other")
        return script(store.writer({**runs["knobs"].spec, **changes}).commit(), store)

    assert f"# recorded with torch 1.0; this is {torch.__version__}: the run will have another name" in differing(
        torch="1.0"
    )
    assert "# the code of wbench has changed since" in differing(code="x")
    [entry] = runs["knobs"].spec["methods"]
    assert "# the code of galore has changed since" in differing(methods=[{**entry, "code": "x"}])
    gone = differing(start="0" * 16)
    assert f"# {'0' * 16} is no run of {tmp_path / 'other'}: put the model in its place" in gone
    assert "start=..." in gone
    unknown = differing(methods=[{"id": "elsewhere", "fields": {"rank": 3}, "code": "x"}])
    assert "# method elsewhere is not installed: put it in its place with {'rank': 3}" in unknown
    assert "    [...]," in unknown


def test_a_users_own_task_is_left_to_the_user(tmp_path):
    store = RunStore(tmp_path / "runs")
    task = arrays(recipe=wb.Recipe(optimizer="sgd", lr=0.1, steps=5, batch_size=16))
    run = wb.train(task, "galore", store=store)
    text = script(run, store)
    assert "# task: your own data and model; make it as before with wb.Task.from_arrays(" in text
    assert clean(text) == ""
    names = {"wb": wb, "task": task}
    body = [line for line in text.splitlines() if not line.startswith("task = ")]
    exec("\n".join(body).replace('device="cpu"', 'device="cpu", store=store'), names | {"store": store})
    assert [found.id for found in store.runs()] == [run.id]


@pytest.mark.parametrize(
    "evil", ['"""\nimport os; os.abort()\n"""', "x\nimport os; os.abort()", "\\\nos.abort()", "a\u2028os.abort()\r"]
)
def test_a_record_from_elsewhere_is_text_and_never_code(tmp_path, evil):
    store = RunStore(tmp_path / "runs")
    base = wb.train("digits", recipe=smoke(), probes=(), store=store).spec
    specs = [
        {"task": {"id": evil}}, {"start": evil}, {"references": {evil: evil}}, {"members": [[evil, evil]]}, {"torch": evil},
        {"methods": [{"id": evil, "fields": {evil: evil}, "code": evil}]}, {"device": evil}, {"trainable": [evil]},
        {"probes": {"names": [evil], "every": 1}},
    ]  # fmt: skip
    for changes in specs:
        text = script(store.writer({**base, **changes}).commit(), store)
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
        assert called <= {
            "wb.train",
            "print",
            "wb.tasks.find_task",
            "task.recipe",
            "usual.replace",
            "wb.Recipe",
            "wb.RunStore",
            "store.get",
        }
        assert len(ast.parse(text).body) <= 7


def test_a_recipe_or_method_that_this_version_refuses_is_an_error_with_a_name(tmp_path):
    store = RunStore(tmp_path / "runs")
    base = wb.train("digits", recipe=smoke(), probes=(), store=store).spec
    for changes in (
        {"recipe": {**base["recipe"], "lr": -1.0}},
        {"methods": [{"id": "galore", "fields": {"rank": 0}, "code": ""}]},
    ):
        with pytest.raises(KnobError, match="is out of range; allowed: .*; another version of wbench has recorded it"):
            script(store.writer({**base, **changes}).commit(), store)


@pytest.mark.parametrize(
    "value",
    ["", "it's", 'say "x"', "both ' and \"\"", "\\'", "a\\", "tab\t\n", "\u202e\x7f\ud800", "é€😀", None, True, 1e-300, 0.1, (), (1,), ("a", 2.5),
     [("x",)], -0.0],
)  # fmt: skip
def test_a_value_is_written_so_that_it_reads_back(value):
    from wbench.workbench.source import flat

    text = flat(literal(value))
    assert repr(ast.literal_eval(text)) == repr(value)
    assert text.isprintable()
    assert clean(f"x = {text}\n") == ""
