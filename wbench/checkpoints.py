"""Reading checkpoints one tensor at a time: safetensors, sharded safetensors, and torch files without running code."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from wbench.errors import CheckpointError, KnobError

if TYPE_CHECKING:
    import pandas as pd

TORCH = {".pt", ".pth", ".bin"}
INNER = ("state_dict", "model_state_dict", "model")
# safetensors' names of types: torch's name, bits
TYPES = {
    "BOOL": ("bool", 8), "U8": ("uint8", 8), "I8": ("int8", 8), "U16": ("uint16", 16), "I16": ("int16", 16),
    "U32": ("uint32", 32), "I32": ("int32", 32), "U64": ("uint64", 64), "I64": ("int64", 64), "F16": ("float16", 16),
    "BF16": ("bfloat16", 16), "F32": ("float32", 32), "F64": ("float64", 64), "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E8M0": ("float8_e8m0fnu", 8), "F4": ("float4_e2m1fn_x2", 4),
}  # fmt: skip
NonFinite = Literal["raise", "skip", "keep"]


def iter_tensors(path: str | Path, *, nonfinite: NonFinite = "raise") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint; of safetensors only one is in memory at a time, torch files are mapped, not read.

    A torch file is never allowed to run code: whatever is not plain data is refused. Of a training checkpoint, the tensors under
    `state_dict`, `model_state_dict` or `model` are taken. Integer (quantised) tensors are passed on as they are.

    Args:
        path: A `.safetensors` file, a `.safetensors.index.json`, a folder that holds either, or a `.pt`, `.pth`, `.bin` file.
        nonfinite: What to do with a tensor that holds NaN or inf: refuse it by name, leave it out, or pass it on.

    Yields:
        Name and tensor, on the CPU, dense.

    Raises:
        KnobError: If `nonfinite` is none of the three.
        CheckpointError: If the file is missing, truncated, of an unknown kind, would run code, holds no tensor, or holds values
            that are not finite.
    """
    if nonfinite not in {"raise", "skip", "keep"}:
        raise KnobError(f"nonfinite={nonfinite!r} is not allowed; allowed: raise, skip, keep")
    count = 0
    for name, tensor in _tensors(_located(path)):
        count += 1
        if nonfinite != "keep":
            bad = count_nonfinite(tensor)
            if bad and nonfinite == "raise":
                raise CheckpointError(
                    f"{path}: tensor '{name}' holds {bad} NaN or inf of {tensor.numel()} values; "
                    "pass nonfinite='skip' (command line: --nonfinite skip) to leave such tensors out"
                )
            if bad:
                continue
        yield name, tensor
    if not count:
        raise CheckpointError(f"{path} holds no tensor")


def count_nonfinite(tensor: Tensor) -> int:
    """Return how many values are NaN or infinite.

    Args:
        tensor: Of any type; integers and packed four-bit floats have none.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or "float4" in str(tensor.dtype):
        return 0
    if tensor.element_size() == 1:  # torch has no isfinite for some of the eight-bit types
        tensor = tensor.float()
    return tensor.numel() - int(torch.isfinite(tensor).sum())


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint, without reading values.

    Args:
        path: As in `iter_tensors`.

    Returns:
        Name to shape.

    Raises:
        CheckpointError: As in `iter_tensors`, except for values.
    """
    found = {name: shape for name, _, shape, _ in _headers(_located(path))}
    if not found:
        raise CheckpointError(f"{path} holds no tensor")
    return found


def summary(path: str | Path) -> pd.DataFrame:
    """Return what a checkpoint holds, without reading values.

    Args:
        path: As in `iter_tensors`.

    Returns:
        Columns name, dtype, shape (text, e.g. `128 x 64`), numel, bytes.

    Raises:
        CheckpointError: As in `iter_tensors`, except for values.
    """
    import pandas as pd

    rows = []
    for name, dtype, shape, size in _headers(_located(path)):
        text = " x ".join(map(str, shape)) or "scalar"
        rows.append({"name": name, "dtype": dtype, "shape": text, "numel": math.prod(shape), "bytes": size})
    if not rows:
        raise CheckpointError(f"{path} holds no tensor")
    return pd.DataFrame(rows, columns=["name", "dtype", "shape", "numel", "bytes"])


def _located(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if not path.is_dir():
        return path
    candidates = [*sorted(path.glob("*.safetensors.index.json")), *sorted(path.glob("*.safetensors"))]
    candidates += sorted(child for child in path.iterdir() if child.suffix in TORCH)
    if not candidates:
        raise CheckpointError(
            f"{path} holds no checkpoint; looked for *.safetensors, *.safetensors.index.json, *.pt, *.pth, *.bin"
        )
    plain = [child for child in candidates if child.suffix == ".safetensors"]
    if len(plain) > 1 and candidates[0].suffix != ".json":
        raise CheckpointError(
            f"{path} holds {len(plain)} safetensors files and no index; name one: {', '.join(p.name for p in plain[:5])}"
        )
    return candidates[0]


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix in TORCH:
        yield from _torch(path, "cpu")
        return
    for file in _files(path):
        with _opened(file) as held:
            for name in held.keys():  # noqa: SIM118 - not a mapping
                yield name, held.get_tensor(name)


def _headers(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    if path.suffix in TORCH:
        for name, tensor in _torch(path, "meta"):
            size = tensor.numel() * tensor.element_size()
            yield name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), size
        return
    for file in _files(path):
        with _opened(file) as held:
            for name in held.keys():  # noqa: SIM118 - not a mapping
                header = held.get_slice(name)
                dtype, bits = TYPES.get(header.get_dtype(), (header.get_dtype().lower(), 0))
                shape = tuple(header.get_shape())
                size = math.prod(shape) * bits // 8 if bits else held.get_tensor(name).nbytes
                yield name, dtype, shape, size


def _files(path: Path) -> list[Path]:
    if path.suffix == ".safetensors":
        return [path]
    if path.name.endswith(".safetensors.index.json"):
        return _shards(path)
    raise CheckpointError(
        f"{path}: '{path.suffix}' is not a checkpoint ending; allowed: .safetensors, .safetensors.index.json, .pt, .pth, .bin"
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}; fetch it again") from error


def _shards(index: Path) -> list[Path]:
    try:
        weights = json.loads(index.read_text())["weight_map"]
        wanted: dict[str, set[str]] = {}
        for name, shard in weights.items():
            wanted.setdefault(Path(shard).name, set()).add(
                name
            )  # a shard lies beside its index, wherever the index points
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of a sharded checkpoint: {error!r}") from error
    for shard, names in wanted.items():
        file = index.parent / shard
        if not file.is_file():
            raise CheckpointError(f"{index} names the shard {shard}, which does not exist beside it")
        with _opened(file) as held:
            lacking = sorted(names - set(held.keys()))
        if lacking:
            raise CheckpointError(
                f"{file} lacks {len(lacking)} of the tensors that {index.name} promises, first '{lacking[0]}'"
            )
    return [index.parent / shard for shard in sorted(wanted)]


def _torch(path: Path, device: str) -> list[tuple[str, Tensor]]:
    zipped = zipfile.is_zipfile(path)
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04" and not zipped:
                raise EOFError("the end of its zip archive is missing")
        held = torch.load(path, weights_only=True, map_location=device, mmap=zipped or None)
        return list(_nested(held, ""))
    except pickle.UnpicklingError as error:
        reason = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line),
            "it is no plain list of tensors",
        )
        raise CheckpointError(
            f"{path} was not loaded, as it would run code or is damaged: {reason.strip()}; save it as safetensors"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or damaged: {text}; fetch it again") from error


def _nested(held: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(held, Tensor):
        yield path or "tensor", held if held.layout is torch.strided else held.to_dense()
        return
    if isinstance(held, Mapping):
        inner = next((key for key in INNER if isinstance(held.get(key), Mapping)), None)
        items = (held[inner] if inner and not path else held).items()
    else:
        items = enumerate(held) if isinstance(held, list | tuple) else ()
    for key, value in items:
        yield from _nested(value, f"{path}.{key}" if path else str(key))
