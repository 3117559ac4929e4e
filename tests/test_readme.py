"""The README's code runs as printed, and its table is the registry's."""

import re
from pathlib import Path

import wbench as wb
from wbench.listing import markdown_table

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_ten_lines_run_as_printed(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(import torch.*?)```", README, re.S).group(1)
    exec(compile(code, "README.md", "exec"), {})
    assert "stable_rank" in capsys.readouterr().out


def test_study_runs_as_printed_but_shorter(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBENCH_HOME", raising=False)
    code = re.search(r"```python\n(study = .*?)```", README, re.S).group(1)
    space = {"wb": wb}
    exec(compile(code.replace("seeds=8", 'seeds=2, scale="smoke"'), "README.md", "exec"), space)
    frame = space["study"].frame()
    assert len(frame) == 12 and set(frame["status"]) == {"finished"}
    assert len(wb.runs(space["query"])) == 6


def test_example_of_a_method_keeps_the_contract():
    from typing import ClassVar

    import torch

    class Scaled(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, v):
            return self.factor * v

        def right_inverse(self, w):
            return w / self.factor

    code = re.search(r"```python\n(class Halve.*?)```", README, re.S).group(1)
    space = {"wb": wb, "ClassVar": ClassVar, "Scaled": Scaled}
    exec(compile(code, "README.md", "exec"), space)
    wb.testing.check_method(space["Halve"])


def test_table_is_the_registrys():
    written = README.partition("<!-- methods -->")[2].partition("<!-- /methods -->")[0].strip()
    assert written == markdown_table()
