"""Runs and workbenches that the tests of this folder share."""

import pytest


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    from displays import record_runs

    from wbench.runs import RunStore

    return record_runs(RunStore(tmp_path_factory.mktemp("panels")))


@pytest.fixture(scope="session")
def bench_store(tmp_path_factory):
    from wbench.runs import RunStore

    return RunStore(tmp_path_factory.mktemp("bench") / "runs")


@pytest.fixture(scope="session")
def used(bench_store):
    """A workbench with its worker process, which tests use one after the other."""
    from bench_trouble import GALORE, TASK

    import wbench as wb

    with wb.Workbench(TASK, GALORE, scale="smoke", store=bench_store) as bench:
        yield bench


@pytest.fixture
def bench(used):
    """It, as if new."""
    from bench_trouble import put

    put(used)
    used.listing.select([])
    used.setup.start_menu.value = ""
    used.board.tabs.value = 0
    yield used
    used.stop()
    used.wait(60)


@pytest.fixture
def still(bench_store, monkeypatch):
    """Make workbenches on the same store that start no worker process."""
    import wbench as wb

    monkeypatch.setattr("wbench.workbench.engine.trainer.Trainer.warm", lambda self: None)
    made = []

    def make(*given, **options):
        made.append(wb.Workbench(*given, **{"scale": "smoke", "store": bench_store, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()
