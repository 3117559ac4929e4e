"""The method notebook runs at smoke scale for every method that brings a claim, and shows its pictures."""

import pytest

import wbench as wb
from wbench.reports import report

OTHERS = {"weight_compander", "nap", "galore", "bone"}  # in the main job, which the checks run as well
NAMES = [name for name, cls in wb.methods.all().items() if cls.kind == "method" and name not in OTHERS]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_report_of_a_method_runs_at_smoke_scale(name, tmp_path):
    made = report([name], scale="smoke", out=tmp_path / "out", store=wb.RunStore(tmp_path / "runs"), progress=False)
    page = made.html.read_text(encoding="utf-8")
    assert made.verdicts[name].exists() and made.outcomes[name] in {"inconclusive", "not reproduced"}
    assert "Traceback" not in page and wb.methods.get(name).title.split(":")[0] in page
