"""The notebooks: stripped, parametrised, and run from the first cell to the last. Parameters are data, never code."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest

import wbench as wb
from wbench.errors import KnobError, ReportError
from wbench.reports import execute, notebooks_dir

NOTEBOOKS = sorted(notebooks_dir().glob("*.ipynb"))
HOSTILE = '"]); import os; os.system("touch pwned"); open("pwned", "w") #\n\'\'\'"""\nopen("pwned", "w")\n\\'
IDS = [path.stem for path in NOTEBOOKS]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory of its own, from which the kernel still finds the package."""
    package = str(Path(wb.__file__).resolve().parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tagged(path):
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_the_six_notebooks_are_there():
    assert IDS == ["checkpoint", "compare", "explore", "method", "start_here", "study"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_nothing_of_a_past_execution_is_kept(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert set(cell.metadata) <= {"tags"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_the_parameters_are_typed_and_their_defaults_have_that_type(path):
    body = ast.parse(tagged(path).source).body
    assert body
    for statement in body:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        assert type(ast.literal_eval(statement.value)).__name__ == statement.annotation.id
    assert {"scale", "path"} & {statement.target.id for statement in body}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_a_notebook_is_thin(path):
    """No function or class is defined in a notebook, and no cell is longer than a screen."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Try, ast.While}
            assert len(cell.source.splitlines()) <= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "probes"),
    [
        ("start_here", {"scale": "smoke"}, {"spectrum"}),
        ("checkpoint", {}, {"spectrum"}),
        ("method", {"method": "galore", "task": "digits", "scale": "smoke", "settings": '{"rank": "8"}'},
         {"landscape1d", "landscape2d", "method.galore"}),
        ("compare", {"methods": '["nap", "bone"]', "task": "digits", "scale": "smoke"}, {"landscape1d", "landscape2d", "method.bone"}),
        ("study", {"method": "galore", "grid": '{"rank": [2, 8]}', "seeds": 2, "scale": "smoke"}, {"spectrum", "effective_lr", "method.galore"}),
    ],
)  # fmt: skip
def test_a_notebook_runs_at_smoke_scale_and_every_figure_is_drawn(elsewhere, name, parameters, probes):
    store = str(elsewhere / "runs")
    done = execute(
        notebooks_dir() / f"{name}.ipynb", elsewhere / "done.ipynb", {**parameters, "store": store}, progress=False
    )
    notebook = nbformat.read(done, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    kinds = [set(output.get("data", {})) for output in outputs]
    drawn = [kind for kind in kinds if "application/vnd.plotly.v1+json" in kind]
    assert len(drawn) >= {"start_here": 3, "checkpoint": 2, "method": 8, "compare": 8, "study": 4}[name]
    assert all("text/html" in kind for kind in drawn)
    assert not any("jupyter.widget" in mime for kind in kinds for mime in kind)
    runs = wb.RunStore(store).runs()
    assert {run.status for run in runs} == {"finished"}
    assert probes <= {probe for run in runs for probe in run.probes}
    if name == "method":
        assert 8 in {run.spec["methods"][0]["fields"]["rank"] for run in runs if run.label == "digits + galore"}


@pytest.mark.slow
def test_the_workbench_runs_without_a_person_and_leaves_pictures_of_what_it_shows(elsewhere):
    store = str(elsewhere / "runs")
    given = {"task": "digits hidden=16", "method": "galore", "scale": "smoke", "store": store, "train": True}
    done = execute(notebooks_dir() / "explore.ipynb", elsewhere / "done.ipynb", given, progress=False)
    notebook = nbformat.read(done, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type in {"error", "stream"}]
    shown = [output.data for output in outputs if "data" in output]
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) == 1
    [run] = wb.RunStore(store).runs()
    assert (run.status, run.methods, run.spec["task"]["hidden"]) == ("finished", ("galore",), [16])
    assert f"<Run {run.id} digits + galore seed=0 finished" in shown[-1]["text/plain"]
    pages = [data["text/html"] for data in shown if "Kept pictures" in data.get("text/html", "")]
    assert ["<img src='data:image/png;base64," in page for page in pages] == [True]
    assert "widgets" not in notebook.metadata
    assert done.stat().st_size < 2e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "error"),
    [
        ("method", {"method": HOSTILE}, "UnknownNameError"),
        ("method", {"method": "galore", "settings": json.dumps({"layers": HOSTILE}), "task": "digits", "scale": "smoke"},
         "matches no layer"),
        ("method", {"method": "galore", "settings": json.dumps({HOSTILE: "1"})}, "KnobError"),
        ("compare", {"methods": HOSTILE}, "JSONDecodeError"),
        ("checkpoint", {"path": HOSTILE}, "CheckpointError"),
        ("study", {"grid": HOSTILE}, "StudyError: grid="), ("explore", {"method": HOSTILE}, "UnknownNameError"),
        ("explore", {"task": HOSTILE}, "UnknownNameError"),
    ],
)  # fmt: skip
def test_a_parameter_with_quotes_newlines_and_code_stays_data(elsewhere, name, parameters, error):
    target = elsewhere / "done.ipynb"
    with pytest.raises(ReportError, match=error):
        execute(
            notebooks_dir() / f"{name}.ipynb", target, {**parameters, "store": str(elsewhere / "runs")}, progress=False
        )
    assert not (elsewhere / "pwned").exists()
    injected = [cell for cell in nbformat.read(target, as_version=4).cells
                if "injected-parameters" in cell.metadata.get("tags", [])]  # fmt: skip
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(injected[0].source).body}
    assert values | parameters == values


@pytest.mark.slow
def test_a_refused_knob_reads_the_same_from_a_notebook_parameter_as_from_python(elsewhere):
    with pytest.raises(KnobError) as from_python:
        wb.methods.GaLore(rank=0)
    with pytest.raises(ReportError) as from_notebook:
        execute(
            notebooks_dir() / "method.ipynb", elsewhere / "done.ipynb", {"settings": '{"rank": "0"}'}, progress=False
        )
    assert f"KnobError: {from_python.value}; the partial notebook is " in str(from_notebook.value)
