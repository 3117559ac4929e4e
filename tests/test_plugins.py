"""Third parties' methods come in through the entry point group; a broken one is named and takes nothing down."""

from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import wbench as wb
from wbench.method import registry as find_all
from wbench.method.registry import GROUP


class Guest(wb.method.Objective):
    """A method from another package."""

    id: ClassVar[str] = "guest"
    title: ClassVar[str] = "Guest"
    paper: ClassVar = wb.Paper("Paper", "Author", 2026)


class Impostor(Guest):
    """It takes an id that exists."""

    id: ClassVar[str] = "galore"


@pytest.fixture
def plugged(monkeypatch):
    import importlib

    room = importlib.import_module("wbench.method.registry")

    def plug(*values):
        points = [EntryPoint(value.rpartition(":")[2].lower(), value, GROUP) for value in values]
        monkeypatch.setattr(room, "entry_points", lambda group: points if group == GROUP else [])
        find_all.cache_clear()

    yield plug
    find_all.cache_clear()


def test_a_plug_in_is_found_trained_and_listed(plugged):
    plugged("test_plugins:Guest")
    assert wb.methods.get("guest") is Guest and "guest" in wb.methods.all()
    run = wb.train("digits", "guest", scale="smoke", probes=())
    assert run.spec["methods"][0]["id"] == "guest" and wb.restore(run) is not None
    assert wb.testing.check_method(Guest)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Guest", "cannot be imported"),
        ("test_plugins:pytest", "is not a wbench Method"),
        ("test_plugins:Impostor", "takes the existing id 'galore'"),
    ],
)
def test_a_broken_plug_in_is_named_and_left_out(plugged, value, message):
    plugged(value)
    with pytest.warns(UserWarning, match=message):
        found = wb.methods.all()
    assert found["galore"] is wb.methods.GaLore and "guest" not in found
