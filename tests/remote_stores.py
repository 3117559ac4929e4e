"""Fixtures of stores at URLs, for test modules that name this one in `pytest_plugins`."""

import uuid

import pytest
from s3_server import needs_s3, serving

from wbench.runs import RunStore


@pytest.fixture(scope="module")
def server():
    """The S3 server at `s3://bucket`."""
    with serving() as found:
        yield found


@pytest.fixture(params=["memory", pytest.param("s3", marks=needs_s3)])
def store(request):
    """An empty store in memory, and one on the server."""
    if request.param == "memory":
        return RunStore(f"memory://{uuid.uuid4().hex}/runs")
    request.getfixturevalue("server")
    return RunStore(f"s3://bucket/{uuid.uuid4().hex}")


@pytest.fixture
def s3(server):
    """An empty store on the server."""
    return RunStore(f"s3://bucket/{uuid.uuid4().hex}")
