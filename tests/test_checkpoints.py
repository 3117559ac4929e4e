"""Checkpoints: streamed, never executed, and refused with a reason when they are damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wbench.checkpoints import iter_tensors, summary
from wbench.errors import CheckpointError, KnobError


def tensors() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(6, 4, generator=rng),
        "a.bias": torch.randn(6, generator=rng).half(),
        "b.codes": torch.randint(-8, 8, (5, 3), generator=rng, dtype=torch.int8),
        "b.scale": torch.tensor(0.25, dtype=torch.bfloat16),
    }


def save_sharded(folder: Path, held: dict[str, Tensor]) -> Path:
    folder.mkdir()
    names = sorted(held)
    shards = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    for shard, part in shards.items():
        save_file({name: held[name] for name in part}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, part in shards.items() for name in part}}))
    return index


def written(kind: str, folder: Path, held: dict[str, Tensor]) -> Path:
    if kind == "safetensors":
        save_file(held, folder / "m.safetensors")
        return folder / "m.safetensors"
    if kind in {"index", "folder"}:
        index = save_sharded(folder / "sharded", held)
        return index if kind == "index" else index.parent
    path = folder / f"m.{kind.split('-')[0]}"
    wrapped = {"epoch": 3, "state_dict": held} if kind == "pth-nested" else held
    torch.save(wrapped, path, _use_new_zipfile_serialization=kind != "bin-old")
    return path


KINDS = ("safetensors", "index", "folder", "pt", "pth-nested", "bin-old")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_tensors_and_the_same_summary(kind: str, tmp_path: Path) -> None:
    held = tensors()
    path = written(kind, tmp_path, held)
    read = dict(iter_tensors(str(path)))
    assert set(read) == set(held)
    assert all(read[name].dtype == held[name].dtype and torch.equal(read[name], held[name]) for name in held)
    rows = summary(path).set_index("name")
    for name, tensor in held.items():
        assert rows.loc[name, "dtype"] == str(tensor.dtype).removeprefix("torch.")
        assert rows.loc[name, "numel"] == tensor.numel()
        assert rows.loc[name, "bytes"] == tensor.nbytes
    assert rows.loc["a.weight", "shape"] == "6 x 4"
    assert rows.loc["b.scale", "shape"] == "scalar"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.float64, torch.bool])
def test_summary_knows_the_types_of_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.ones(2, 8).to(dtype)
    save_file({"w": tensor}, tmp_path / "m.safetensors")
    assert summary(tmp_path / "m.safetensors")[["dtype", "bytes"]].to_numpy().tolist() == [
        [str(dtype).removeprefix("torch."), tensor.nbytes]
    ]
    assert torch.equal(dict(iter_tensors(tmp_path / "m.safetensors"))["w"], tensor)


def test_safetensors_are_streamed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors

    path, opened = written("safetensors", tmp_path, tensors()), []
    real = safetensors.safe_open

    class Spy:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.inner = real(*args, **kwargs)  # type: ignore[arg-type]

        def __enter__(self) -> Spy:
            self.file = self.inner.__enter__()
            return self

        def __exit__(self, *args: object) -> None:
            self.inner.__exit__(*args)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_slice(self, name: str) -> object:
            return self.file.get_slice(name)

        def get_tensor(self, name: str) -> Tensor:
            opened.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    for count, _ in enumerate(iter_tensors(path), start=1):
        assert len(opened) == count
    opened.clear()
    summary(path)
    assert opened == []


class Writes:
    """Would create a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.target), "w")


@pytest.mark.parametrize("save", ["torch", "torch-old", "pickle"])
@pytest.mark.parametrize("read", [lambda path: list(iter_tensors(path)), summary], ids=["iter_tensors", "summary"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(save: str, read: object, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "m.pt"
    held = {"w": torch.ones(2), "evil": Writes(target)}
    if save == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=save == "torch")
    target.unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="would run code"):
        read(path)  # type: ignore[operator]
    assert not target.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pt", "bin-old"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_a_truncated_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = written(kind, tmp_path, {"w": torch.randn(64, 64)})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(CheckpointError, match="damaged"):
        list(iter_tensors(path))


def test_bytes_flipped_anywhere_give_tensors_or_a_checkpoint_error(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    for kind in ("safetensors", "pt", "bin-old"):
        path = written(kind, tmp_path, {"w": torch.zeros(4), "x": torch.zeros(2, 2)})
        raw = bytearray(path.read_bytes())
        for _ in range(60):
            hurt = bytearray(raw)
            for place in torch.randint(len(raw), (8,), generator=rng).tolist():
                hurt[place] ^= 0x5A
            path.write_bytes(bytes(hurt))
            try:
                assert all(isinstance(tensor, Tensor) for _, tensor in iter_tensors(path, nonfinite="keep"))
            except CheckpointError:
                continue


def test_missing_empty_and_unknown_paths_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        list(iter_tensors(tmp_path / "none.pt"))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        summary(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"'.onnx' is not a checkpoint ending; allowed: .safetensors"):
        list(iter_tensors(tmp_path / "m.onnx"))
    torch.save({"epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="holds no tensor"):
        list(iter_tensors(tmp_path / "m.pt"))


def test_a_folder_with_several_files_and_no_index_must_be_told_which(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        CheckpointError, match="2 safetensors files and no index; name one: a.safetensors, b.safetensors"
    ):
        list(iter_tensors(tmp_path))


def test_an_index_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    index = save_sharded(tmp_path / "m", tensors())
    text = index.read_text()
    index.write_text(text.replace("a.bias", "c.bias"))
    with pytest.raises(CheckpointError, match="lacks 1 of the tensors .* first 'c.bias'"):
        list(iter_tensors(index))
    index.write_text(text.replace("model-2", "model-3"))
    with pytest.raises(CheckpointError, match="model-3.safetensors, which does not exist"):
        list(iter_tensors(index))
    for broken in ("[]", "{", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        index.write_text(broken)
        with pytest.raises(CheckpointError, match="is no index"):
            list(iter_tensors(index))


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "secret.safetensors")
    inner = tmp_path / "m"
    inner.mkdir()
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="does not exist beside it"):
        list(iter_tensors(inner))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
)
def test_values_that_are_not_finite_are_named_counted_skipped_or_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    bad = torch.ones(3, 4)
    bad[0, :2] = float("nan")
    save_file({"good": torch.ones(2).to(dtype), "layer.bad": bad.to(dtype)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="'layer.bad' holds 2 NaN or inf of 12 values"):
        list(iter_tensors(tmp_path / "m.safetensors"))
    assert [name for name, _ in iter_tensors(tmp_path / "m.safetensors", nonfinite="skip")] == ["good"]
    kept = dict(iter_tensors(tmp_path / "m.safetensors", nonfinite="keep"))
    assert int(kept["layer.bad"].to(torch.complex64).isnan().sum()) == 2
    with pytest.raises(KnobError, match="allowed: raise, skip, keep"):
        list(iter_tensors(tmp_path / "m.safetensors", nonfinite="ignore"))  # type: ignore[arg-type]


def test_sparse_tied_and_listed_tensors_of_a_torch_file(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(3, 3))
    held = {"s": torch.eye(3).to_sparse(), "one": weight, "two": weight, "layers": [torch.ones(2), torch.zeros(1)]}
    torch.save(held, tmp_path / "m.pt")
    read = dict(iter_tensors(tmp_path / "m.pt"))
    assert torch.equal(read["s"], torch.eye(3))
    assert torch.equal(read["two"], weight)
    assert set(read) == {"s", "one", "two", "layers.0", "layers.1"}
