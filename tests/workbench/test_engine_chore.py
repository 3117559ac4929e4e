"""Reports and claims in a process beside: progress, result, errors, and nothing left of them."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

import wbench as wb
from wbench import claims
from wbench.runs import RunStore
from wbench.workbench.engine.chore import Chore, ClaimOutcome, Listener

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes and signals as Linux has them")
PLUGIN = Path(__file__).resolve().parents[1] / "plugin"


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package with a method whose claim is quickly tried, for processes that start from now on."""
    told = tmp_path / "site" / "tiny_methods-0.dist-info"
    told.mkdir(parents=True)
    told.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: tiny_methods\nVersion: 0\n")
    told.joinpath("entry_points.txt").write_text(
        "[wbench.methods]\nweight_standardization = tiny_methods.parametrization:WeightStandardization\n"
    )
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(told.parent)
    from tiny_methods.parametrization import claim

    return claim


def watched(chore, done=lambda state: state.done, seconds=180.0):
    """Poll until a condition holds; return the states."""
    states, end = [chore.poll()], time.monotonic() + seconds
    while not done(states[-1]):
        assert time.monotonic() < end, states[-1]
        time.sleep(0.02)
        if chore.poll() != states[-1]:
            states.append(chore.poll())
    return states


def test_a_claim_comes_to_the_verdict_that_it_has_here(store, plugin):
    chore = Chore.claim("weight_standardization", "smoke", store)
    begin = time.monotonic()
    chore.poll()
    assert time.monotonic() - begin < 0.1
    states = watched(chore)
    result = states[-1].result
    assert isinstance(result, ClaimOutcome), states[-1]
    verdict = plugin.run("smoke", store=store, workers=1).verdict
    assert (result.outcome, result.control_outcome, result.reason) == (
        verdict.outcome,
        verdict.control_outcome,
        verdict.reason,
    )
    assert result.frame.astype(str).equals(verdict.frame().astype(str))
    shares = [state.share for state in states if state.share is not None]
    assert shares[-1] == 1.0
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert any("runs" in state.text for state in states)


@pytest.mark.parametrize("kind", ["claim", "report"])
def test_what_is_refused_is_said_in_the_same_words(store, tmp_path, kind):
    chore = Chore.claim("nothing", "smoke", store) if kind == "claim" else Chore.report(["nothing"], "smoke", tmp_path)
    last = watched(chore)[-1]
    with pytest.raises(wb.WBenchError) as error:
        claims.get("nothing") if kind == "claim" else wb.methods.get("nothing")
    assert last.done
    assert last.result is None
    assert last.error == str(error.value)


def test_a_report_needs_a_method(store, tmp_path):
    with pytest.raises(wb.errors.KnobError, match="one id or several"):
        Chore.report([], "smoke", tmp_path, store)


@linux
def test_stop_ends_it_with_all_that_it_has_started(store):
    chore = Chore.claim("galore", "smoke", store)
    watched(chore, lambda state: "runs" in state.text)
    root = psutil.Process(chore._line.pid)
    end = time.monotonic() + 60
    while len(root.children(recursive=True)) < 3 and time.monotonic() < end:  # tracker, server and a worker
        time.sleep(0.05)
    family = [root, *root.children(recursive=True)]
    assert len(family) > 3
    chore.stop()
    chore.stop()
    assert (chore.poll().done, chore.poll().error) == (True, "stopped")
    _, left = psutil.wait_procs(family, timeout=3)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


@linux
def test_a_process_that_is_killed_is_said(store):
    chore = Chore.claim("galore", "smoke", store)
    watched(chore, lambda state: state.text != "starting a process")
    psutil.Process(chore._line.pid).kill()
    assert "SIGKILL" in watched(chore)[-1].error


def test_bars_are_read_as_they_are_drawn():
    said = []
    listener = Listener(lambda **now: said.append((round(now["share"], 3), now["text"])))
    listener.write("claim: 25%|##        | 3 of 12 runs, 0:40 left\r")
    listener.write("Executing:   0%|          | 0/10 [00:00<?, ?cell/s]\n")
    listener.write("Executing:  40%|####      | 4/10 [00:02<00:03,  1.7cell/s]\nsome other text | with a bar\n")
    listener._last = float("-inf")
    listener.write("galore: 50%|#####     | 1 of 2 runs, 0:01 left\n")
    assert said == [
        (0.25, "claim: 3 of 12 runs, 0:40 left"),
        (0.0, "cell 0 of 10"),
        (0.4, "cell 4 of 10"),
        (0.45, "cell 5 of 10: galore 50%, 1 of 2 runs, 0:01 left"),
    ]


@pytest.mark.slow
def test_a_report_comes_to_its_page(store, tmp_path, plugin, monkeypatch):
    # the notebook's kernel takes its path from the environment
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    chore = Chore.report(["weight_standardization"], "smoke", tmp_path / "out", store)
    states = watched(chore)
    assert states[-1].error == ""
    assert isinstance(states[-1].result, Path)
    assert states[-1].result.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert any(state.text.startswith("cell ") for state in states)
