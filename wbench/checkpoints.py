"""Reading checkpoints one tensor at a time: safetensors, sharded safetensors, and torch files without running code."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from wbench.errors import CheckpointError

if TYPE_CHECKING:
    import pandas as pd

TORCH = {".pt", ".pth", ".bin"}
NonFinite = Literal["raise", "skip", "keep"]


def iter_tensors(path: str | Path, *, nonfinite: NonFinite = "raise") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint; of safetensors only one is in memory at a time.

    Args:
        path: A `.safetensors` file, a `.safetensors.index.json`, a folder that holds either, or a `.pt`, `.pth`, `.bin` file.
        nonfinite: What to do with a tensor that holds NaN or inf: refuse it by name, leave it out, or pass it on.

    Yields:
        Name and tensor, on the CPU.

    Raises:
        CheckpointError: If the file is missing, truncated, of an unknown kind, would run code, holds no tensor, or holds values
            that are not finite.
    """
    count = 0
    for name, tensor in _tensors(_located(path)):
        count += 1
        if nonfinite != "keep" and (tensor.is_floating_point() or tensor.is_complex()):
            bad = int((~torch.isfinite(tensor)).sum())
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


def summary(path: str | Path) -> pd.DataFrame:
    """Return what a checkpoint holds, without reading values where the format allows it.

    Args:
        path: As in `iter_tensors`.

    Returns:
        Columns name, dtype, shape (text, e.g. `128 x 64`), numel, bytes.

    Raises:
        CheckpointError: As in `iter_tensors`, except for values.
    """
    import pandas as pd

    rows = []
    for name, tensor in _tensors(_located(path)):
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        size = tensor.numel() * tensor.element_size()
        rows.append({
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": shape,
            "numel": tensor.numel(),
            "bytes": size,
        })
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
    if path.suffix == ".safetensors":
        yield from _safetensors(path)
    elif path.name.endswith(".safetensors.index.json"):
        yield from _sharded(path)
    elif path.suffix in TORCH:
        yield from _torch(path)
    else:
        raise CheckpointError(
            f"{path}: '{path.suffix}' is not a checkpoint ending; allowed: .safetensors, .safetensors.index.json, .pt, .pth, .bin"
        )


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}; fetch it again") from error


def _sharded(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        weights: dict[str, str] = json.loads(path.read_text())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no index of a sharded checkpoint: {error!r}") from error
    for shard in sorted(set(weights.values())):
        file = path.parent / Path(shard).name
        if not file.exists():
            raise CheckpointError(f"{path} names the shard {shard}, which does not exist beside it")
        yield from _safetensors(file)


def _torch(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        held = torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        reason = next(
            (line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line),
            "it is no plain list of tensors",
        )
        raise CheckpointError(
            f"{path} was not loaded, as it would run code or is damaged: {reason.strip()}; save it as safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged: {str(error).splitlines()[0]}; fetch it again"
        ) from error
    yield from _nested(held, "")


def _nested(held: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(held, Tensor):
        yield path or "tensor", held
    elif isinstance(held, Mapping):
        inner = next(
            (key for key in ("state_dict", "model_state_dict", "model") if isinstance(held.get(key), Mapping)), None
        )
        for key, value in (held[inner] if inner and not path else held).items():
            yield from _nested(value, f"{path}.{key}" if path else str(key))
