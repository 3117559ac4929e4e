"""The workbench on a user's own model and data, and what it leaves behind: no process, no widget, no memory."""

import gc
import os
import time

import numpy as np
import psutil
import pytest
import torch
from bench_trouble import Broken, knob_of, run, said, small, until
from ipywidgets.widgets.widget import _instances
from small_task import X, Y
from torch.utils.data import DataLoader, TensorDataset

import wbench as wb
from wbench.errors import DataError
from wbench.runs import RunStore


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def hidden(store):
    return [path.name for path in store.root.rglob(".*") if path.name != ".index"] if store.root.exists() else []


# --- a user's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", "held out", "loader", "module"])
def test_a_users_own_model_and_data_have_the_same_panel(store, kind):
    data = {
        "arrays": (X, Y), "held out": {"train": (X[:50], Y[:50]), "test": (X[50:], Y[50:])}, "module": (X, Y),
        "loader": DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=16),
    }[kind]  # fmt: skip
    with wb.Workbench(
        model=small() if kind == "module" else small, data=data, method="galore", scale="smoke", store=store
    ) as bench:
        [made] = run(bench)
        assert (made.status, made.task) == ("finished", "user")
        assert made.methods == ("galore",)
        assert len(bench.board.drawn()) == 4
        assert bench.listing.table.rows[0]["task"] == "your own"
        bench.actions.copy_python()
        assert "# task: your own data and model" in bench.actions.python
        key = bench.board.shown[0].key
        knob_of(bench, "galore", "rank").choose(2)
        assert bench.board.shown == []
        bench.load(key)
        assert bench.board.shown[0].key == key
        assert bench.setup.methods()[0].rank == made.spec["methods"][0]["fields"]["rank"]
        assert bench.setup.task_menu.disabled


def test_a_model_whose_forward_fails_is_one_message_and_the_panel_stays_usable(store):
    with wb.Workbench(model=Broken, data=(X, Y), scale="smoke", store=store) as bench:
        for _ in range(2):
            run(bench)
            assert "failed: mat1 and mat2 &lt;cannot&gt; be multiplied" in said(bench)
            assert "<details><summary>where</summary>" in said(bench)
            assert "in forward" in said(bench)
            assert not bench.frame.run.disabled
            assert bench.frame.stop.disabled
        assert {one.status for one in store.runs()} <= {"failed"}
        assert [row["status"] for row in bench.listing.table.rows] == ["failed"]
        assert hidden(store) == []
        bench.setup.method_menu.value = "galore"
        assert bench.setup.note.value == ""


def test_data_that_is_not_finite_is_refused_by_how_much_of_it(store):
    bad = X.copy()
    bad[3, 2] = np.nan
    before = len(_instances)
    with pytest.raises(DataError, match="1 "):
        wb.Workbench(model=small, data=(bad, Y), store=store)
    assert len(_instances) == before


def test_a_loader_whose_batches_are_not_finite_gives_a_diverged_run_that_says_where(store):
    bad = torch.tensor(X)
    bad[40, 2] = float("nan")
    loader = DataLoader(TensorDataset(bad, torch.tensor(Y)), batch_size=16)
    with wb.Workbench(model=small, data=loader, scale="smoke", store=store) as bench:
        run(bench)
        assert "role='alert'" in said(bench)
        assert "diverged after" in said(bench)
        assert "first in layer &#x27;0&#x27; (input)" in said(bench)
        assert [one.status for one in store.runs()] == ["diverged"]
        assert hidden(store) == []


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_closing_leaves_no_process_and_no_widget_and_keeps_what_trains(store):
    before, me = set(_instances), psutil.Process()
    children = {child.pid for child in me.children(recursive=True)}
    bench = wb.Workbench("digits hidden=16", "galore", scale="smoke", store=store)
    assert len(set(_instances) - before) > 200
    knob_of(bench, "recipe", "steps").choose(100_000)
    bench.setup.task_menu.value = "mnist"
    bench.setup.task_menu.value = "digits"
    bench.setup.method_menu.value = "weight_compander"
    bench.setup._method_box.children[1].children[0].children[1].click()
    knob_of(bench, "recipe", "steps").choose(100_000)
    bench.run()
    until(bench, lambda: bench.board.shown and bench.board.shown[0].runs)
    for _, place in bench.board.tabs.options:
        bench.board.tabs.value = place
    bench.board.tabs.value = 0
    worker = bench.trainer.pid
    assert worker not in children
    bench.close()
    bench.close()
    assert set(_instances) == before
    end = time.monotonic() + 2
    while psutil.pid_exists(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert not psutil.pid_exists(worker)
    assert hidden(store) == []
    assert {one.status for one in store.runs()} <= {"stopped"}


def test_controls_that_come_and_go_leave_no_widget(store, monkeypatch):
    monkeypatch.setattr("wbench.workbench.engine.trainer.Trainer.warm", lambda self: None)
    with wb.Workbench("digits", "galore", scale="smoke", store=store) as bench:
        before = len(_instances)
        for task in ("mnist", "digit_streams", "chars", "quantiles", "digits"):
            bench.setup.task_menu.value = task
        for name in ("q_galore", "lsq", "reste"):
            bench.setup._put_on(wb.methods.get(name)())
            bench.setup._put_off(name)
        bench.setup.put(None, [wb.methods.GaLore()], wb.tasks.find_task("digits").recipe("smoke"), 0)
        assert len(_instances) == before


@pytest.mark.slow
def test_fifty_runs_leave_the_number_of_widgets_and_the_memory_of_the_kernel_as_they_were(store):
    process = psutil.Process(os.getpid())
    with wb.Workbench("digits hidden=8", "galore", scale="smoke", store=store) as bench:
        knob_of(bench, "recipe", "steps").choose(2)

        def train(first, count):
            for number in range(first, first + count):
                knob_of(bench, "recipe", "lr").choose(1e-4 * (1 + number))
                assert len(run(bench)) == 1
            gc.collect()
            return len(_instances), process.memory_info().rss

        train(0, 10)
        widgets, memory = train(10, 10)
        after, grown = train(20, 50)
        assert after == widgets
        assert grown < 1.05 * memory
        assert len(bench.listing.table.rows) == 70
