"""Runs that the tests of panels, board and figures share."""

import pytest


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    from displays import record_runs

    from wbench.runs import RunStore

    return record_runs(RunStore(tmp_path_factory.mktemp("panels")))
