"""What can be wrong with a store under training: disks that are full or cannot be written, runs damaged by hand."""

import errno
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_task import arrays, never

import wbench as wb
from wbench import cli
from wbench.errors import RunError

# --- disks


def test_a_full_disk_leaves_nothing_half_written_and_the_writer_can_commit_elsewhere(tmp_path, monkeypatch):
    full, other = wb.RunStore(tmp_path / "full"), wb.RunStore(tmp_path / "other")
    writer = full.writer({"seed": 0, "task": {"id": "own"}})
    writer.log([{"step": 1, "phase": "train", "split": "train", "name": "loss", "value": 0.5}])
    writer.tensors("weights", {"w": torch.arange(6.0)})
    real = os.fsync

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as raised:
        writer.commit()
    assert str(full.root) in str(raised.value)
    assert os.strerror(errno.ENOSPC) in str(raised.value)
    assert "free space" in str(raised.value)
    assert list(full.root.iterdir()) == []

    monkeypatch.setattr(os, "fsync", real)
    run = writer.commit(to=other)
    assert run.path.parent == other.root
    assert run.metrics["value"].tolist() == [0.5]
    assert torch.equal(run.tensors()["w"], torch.arange(6.0))
    assert list(full.root.iterdir()) == []


def test_a_disk_that_fills_during_training_is_an_error_of_ours_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="free space"):
        wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path / "s"))
    assert list((tmp_path / "s").iterdir()) == []


def test_a_store_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="choose a writable folder") as raised:
        wb.train(arrays(), store=wb.RunStore(tmp_path / "file" / "runs"), on_step=never)
    assert str(tmp_path / "file" / "runs") in str(raised.value)
    assert (tmp_path / "file").read_text() == "in the way"

    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(RunError, match="Read-only file system; choose a writable folder"):
        wb.train(arrays(), store=wb.RunStore(tmp_path / "runs"), on_step=never)


def test_the_command_line_names_the_store_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(
        sys, "argv", ["wbench", "train", "digits", "--scale", "smoke", "--store", str(tmp_path / "file" / "s")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    err = capsys.readouterr().err
    assert stopped.value.code == 1
    assert err.startswith("error: ")
    assert str(tmp_path / "file" / "s") in err


# --- run directories damaged by hand


def _edit(**changes):
    def damage(run):
        file = run.path / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def _cut(name):
    def damage(run):
        (run.path / name).write_bytes((run.path / name).read_bytes()[:50])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run.path / "metrics.parquet").unlink(),
        lambda run: (run.path / "run.json").unlink(),
        lambda run: (run.path / "run.json").write_text("{"),
        lambda run: (run.path / "run.json").write_text("[]"),
        lambda run: (run.path / "run.json").write_bytes(b"\xff\xfe"),
        _cut("metrics.parquet"),
        _cut("weights.safetensors"),
        _edit(spec={"seed": 99}),
        _edit(spec=None),
        _edit(files=[]),
        _edit(summary=None),
        _edit(info=[]),
        _edit(created="yesterday"),
    ],
    ids=["metrics gone", "record gone", "record cut", "record a list", "record no text", "metrics cut", "weights cut",
         "spec changed", "spec gone", "files a list", "summary gone", "info a list", "created text"],
)  # fmt: skip
def test_a_damaged_run_is_named_and_left_out_while_the_others_load(tmp_path, damage):
    store = wb.RunStore(tmp_path)
    runs = [wb.train(arrays(), seed=seed, probes=(), store=store) for seed in range(3)]
    expected = runs[1].metrics
    damage(runs[1])
    with pytest.warns(UserWarning, match=runs[1].id):
        found = store.runs()
    assert {run.id for run in found} == {runs[0].id, runs[2].id}
    assert all(len(run.metrics) and run.tensors() for run in found)
    ((path, reason),) = store.damaged()
    assert path == runs[1].path
    assert runs[1].id in reason
    with pytest.raises(RunError, match=runs[1].id):
        store.get(runs[1].id)
    again = wb.train(arrays(), seed=1, probes=(), store=store)
    assert again.metrics.equals(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(store.runs()) == 3


def test_a_run_of_a_format_that_cannot_be_read_is_named_and_neither_trained_again_nor_replaced(tmp_path):
    store = wb.RunStore(tmp_path)
    runs = [wb.train(arrays(), seed=seed, probes=(), store=store) for seed in range(2)]
    _edit(format=999)(runs[1])
    before = (runs[1].path / "run.json").read_bytes()
    with pytest.warns(UserWarning, match=runs[1].id):
        assert [run.id for run in store.runs()] == [runs[0].id]
    with pytest.raises(RunError, match=rf"{runs[1].id}.*of format 999.*a newer wbench wrote it: update"):
        wb.train(arrays(), seed=1, probes=(), store=store)
    assert (runs[1].path / "run.json").read_bytes() == before


def test_a_table_damaged_inside_is_named_when_it_is_read(tmp_path):
    run = wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path))
    for name in ("metrics.parquet", "weights.safetensors"):
        data = (run.path / name).read_bytes()
        (run.path / name).write_bytes(b"\0" * len(data))
    damaged = wb.RunStore(tmp_path).get(run.id)
    with pytest.raises(RunError, match=r"metrics\.parquet is damaged"):
        damaged.metrics  # noqa: B018
    with pytest.raises(RunError, match=r"weights\.safetensors"):
        damaged.tensors()


def test_a_foreign_folder_in_the_store_is_no_run_and_harms_none(tmp_path):
    run = wb.train(arrays(), probes=(), store=wb.RunStore(tmp_path))
    (tmp_path / "my notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.warns(UserWarning, match="my notes"):
        assert [found.id for found in wb.RunStore(tmp_path).runs()] == [run.id]


def test_a_full_disk_at_the_end_of_training_loses_nothing(monkeypatch, tmp_path):
    import errno

    from wbench.runs import writer as room

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "write_frame", full)
        with pytest.raises(wb.WBenchError, match="free space and commit again") as error:
            wb.train("digits", scale="smoke", probes=())
    run = error.value.writer.commit(to=wb.RunStore(tmp_path / "other"))
    assert run.status == "finished" and run.final("accuracy") > 0.5


def test_a_status_that_does_not_exist_is_damage(tmp_path):
    import json

    store = wb.RunStore(tmp_path)
    run = wb.train("digits", scale="smoke", probes=(), store=store)
    record = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**record, "status": "triumphant"}))
    assert "status='triumphant'" in store.damaged()[0][1]
