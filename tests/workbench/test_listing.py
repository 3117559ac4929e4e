"""The table of runs: which number is shown, what is typed into it, what is deleted."""

import pytest
from recorded_run import record
from shelved import config, shelf_of

from wbench.runs import RunStore
from wbench.runs.marks import Mark, Marks
from wbench.workbench.listing import Listing


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def listing(store):
    for seed in range(3):
        record(store, seed, lr=0.1, value=0.25)
    record(store, 0, lr=0.2, value=0.5)
    made = Listing(shelf_of(store), lambda do: do(), lambda: None)
    made.refresh(None)
    yield made
    made.close()


def shown(listing):
    return {row["name"]: row["value"] for row in listing.table.rows}


def test_the_number_can_be_the_last_the_best_and_that_at_the_cursor(listing):
    slow, fast = "galore rank=8, lr=0.1", "galore rank=8, lr=0.2"
    assert shown(listing) == {slow: 0.5, fast: 1.0}
    listing.reducer.value = "best"
    assert shown(listing) == {slow: 0.5, fast: 1.0}
    assert listing.table.columns[0]["title"] == "test accuracy, best value of the run"
    listing.reducer.value = "cursor"
    listing.refresh(1)
    assert shown(listing) == {slow: 0.25, fast: 0.5}
    assert listing.table.columns[0]["title"] == "test accuracy, at step 1"
    listing.refresh(None)
    assert shown(listing) == {slow: 0.5, fast: 1.0}
    listing.reducer.value = "last"
    assert listing.note.value == ""


def test_rows_are_renamed_pinned_noted_deleted_brought_back_and_removed(listing, store):
    key = next(key for key, entries in listing._shelf.groups.items() if len(entries) == 3)
    for field, value in (("name", "mine"), ("note", "n"), ("pinned", True)):
        listing.table._receive(listing.table, {"kind": "edit", "key": key, "field": field, "value": value}, [])
    assert Marks(store)[key] == Mark(name="mine", note="n", pinned=True)
    assert listing.pinned == [key]
    listing.table._receive(listing.table, {"kind": "edit", "key": key, "field": "name", "value": ""}, [])
    assert "galore rank=8, lr=0.1" in shown(listing)
    listing.select([key])
    assert listing.selected == [key]
    assert Marks(store)[key].colour == 0
    assert listing.purge.layout.display == "none"
    listing.table.delete([key])
    assert (len(listing.table.rows), listing.selected, listing.purge.layout.display) == (1, [], None)
    listing.table.undo()
    assert (len(listing.table.rows), listing.purge.layout.display) == (2, "none")
    listing.table.delete([key])
    again = Listing(shelf_of(store), lambda do: do(), lambda: None)
    again.refresh(None)
    assert (len(again.table.rows), again.purge.layout.display) == (1, None)
    again.purge.click()
    assert "3 run(s) were removed" in again.note.value
    assert (len(store.runs()), again.purge.layout.display) == (1, "none")
    again.close()


def test_more_rows_than_can_be_told_apart_are_not_drawn_and_it_says_so(store):
    keys = [config(record(store, lr=0.01 * (1 + index))) for index in range(13)]
    listing = Listing(shelf_of(store), lambda do: do(), lambda: None)
    listing.refresh(None)
    listing.select(keys)
    assert listing.selected == keys[:12]
    assert "12 configurations are drawn at most" in listing.note.value
    listing.deselect(keys[3:])
    assert listing.table.selected == keys[:3]
    listing.close()


def test_a_name_with_quotes_is_asked_for_as_it_is(listing, store):
    writer = store.writer({"task": {"id": "digits"}, "seed": 9})
    writer.log([{"step": 0, "phase": "train", "split": "test", "name": "it's; DROP", "value": 7.0}])
    writer.commit()
    listing._shelf.refresh()
    listing.refresh(None)
    listing.metric.value = "test.it's; DROP"
    listing.reducer.value = "best"
    assert 7.0 in shown(listing).values()
    assert listing.note.value == ""
