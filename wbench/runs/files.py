"""Files of a run directory: written whole, flushed to disk, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def canonical(value: Any, path: str = "spec") -> str:
    """Return a value as canonical JSON: sorted keys, no spaces, floats as Python prints them.

    Args:
        value: JSON-able.
        path: Where the value stands, for the message.

    Returns:
        Text.

    Raises:
        RunError: If a value cannot be written as JSON; names its place.
    """
    _check(value, path)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise RunError(f"{path} has the key {key!r}; keys must be text")
            _check(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _check(part, f"{path}[{index}]")
    elif isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return
    elif not (value is None or isinstance(value, str | int | bool)):
        raise RunError(
            f"{path}={value!r} cannot be written as JSON; allowed: text, finite numbers, true, false, none, lists, maps"
        )


def run_id(spec: Mapping[str, Any]) -> str:
    """Return the name of a run: the first 16 hex digits of the SHA-256 of what determines it.

    Args:
        spec: JSON-able.

    Returns:
        16 hex digits.

    Raises:
        RunError: If a value cannot be written as JSON.
    """
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write JSON and flush it to disk.

    Args:
        path: File.
        value: JSON-able; NaN becomes null.
    """
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_without_nan(value), file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as Parquet and flush it to disk.

    Args:
        path: File.
        frame: The table.
    """
    frame.to_parquet(path, index=False)
    sync(path)


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table.

    Args:
        path: File.

    Returns:
        The table.

    Raises:
        RunError: If the file cannot be read; names it.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises several kinds on damaged files
        raise RunError(f"{path} is damaged: {str(error).splitlines()[0]}; delete the run and train it again") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors and flush them; tied tensors are stored once and both names kept.

    Args:
        path: File.
        tensors: Name to tensor.
    """
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            stored[name] = tensor.detach().cpu().contiguous().clone()
    save_file(stored, str(path), metadata={"aliases": json.dumps(aliases)})
    sync(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Args:
        path: File.

    Returns:
        Name to tensor; tied ones share memory.

    Raises:
        RunError: If the file cannot be read; names it.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    except Exception as error:  # safetensors raises its own kind
        raise RunError(f"{path} is damaged: {error}; delete the run and train it again") from error
    return found | {name: found[of] for name, of in aliases.items()}


def sync(path: Path) -> None:
    """Flush a file or directory to disk.

    Args:
        path: File or directory.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
