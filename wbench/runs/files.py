"""Files of a run directory: written whole, flushed to disk, checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

SMALL = 1 << 20  # bytes up to which a file's checksum is kept
UNFIT = (ValueError, TypeError, NotImplementedError, OverflowError)  # pandas' own; pyarrow's kinds derive from these
REMEDY = "delete the run and train it again"


def check_name(name: str, what: str) -> str:
    """Return the name of a table or of tensors, if it can be the name of a file.

    Args:
        name: The name.
        what: `table` or `tensors`, for the message.

    Returns:
        The name.

    Raises:
        RunError: If it is no plain file name, or is taken by the metrics.
    """
    if not re.fullmatch(r"\w[\w.\- ]{0,99}", name) or name == "metrics":
        raise RunError(f"{what} cannot be named {name!r}; allowed: letters, digits, '_', '-', '.', not 'metrics'")
    return name


def write_json(path: Path, value: Any) -> None:
    """Write JSON and flush it to disk.

    Args:
        path: File.
        value: Any; numbers that are not finite become null, and what JSON does not know becomes text.
    """
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_jsonable(value), file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def write_frame(path: Path, frame: pd.DataFrame, name: str) -> None:
    """Write a table as Parquet and flush it to disk.

    Args:
        path: File.
        frame: The table; its index is not kept.
        name: The table's name, for the message.

    Raises:
        RunError: If Parquet cannot hold it.
    """
    try:
        frame.to_parquet(path, index=False)
    except UNFIT as error:
        raise RunError(_no_parquet(f"table '{name}'", error)) from error
    sync(path)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as Parquet and flush it to disk; a float column `value` among them.

    Args:
        path: File.
        rows: Each with all columns.
        columns: In order.

    Raises:
        RunError: If Parquet cannot hold them.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        parts = {name: [row[name] for row in rows] for name in columns if name != "value"}
        values = pa.array([row["value"] for row in rows], pa.float64(), from_pandas=False)
        parquet.write_table(pa.table({**parts, "value": values}).select(list(columns)), path)
    except pa.ArrowException as error:
        raise RunError(_no_parquet("metrics", error)) from error
    sync(path)


def _no_parquet(what: str, error: Exception) -> str:
    return f"{what} cannot be kept as Parquet: {str(error).splitlines()[0]}; give each column one type"


def read_frame(path: Path, checksum: str | None = None) -> pd.DataFrame:
    """Read a table.

    Args:
        path: File.
        checksum: What it was written with, where that was kept.

    Returns:
        The table.

    Raises:
        RunError: If the file is not what was written, or cannot be read; names it.
    """
    import pandas as pd

    _verify(path, checksum)
    try:
        return pd.read_parquet(path)
    except Exception as error:  # a damaged file fails anywhere in pandas and pyarrow, which share no kind for it
        raise RunError(f"{path} is damaged: {str(error).splitlines()[0]}; {REMEDY}") from error


Snapshot = tuple[dict[str, "Tensor"], dict[str, str]]


def snapshot(tensors: Mapping[str, Tensor]) -> Snapshot:
    """Copy tensors as they are now: contiguous, on the CPU, those that share memory once.

    Args:
        tensors: Name to tensor.

    Returns:
        Name to copy, and for each further name of a tied tensor the name it is stored under.
    """
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        same = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        first = seen.setdefault(same if tensor.numel() else (name,), name)
        if first == name:
            copy = tensor.detach().to("cpu", copy=True)
            stored[name] = copy.contiguous()
        else:
            aliases[name] = first
    return stored, aliases


def write_tensors(path: Path, kept: Snapshot) -> None:
    """Write tensors as safetensors and flush them; tied tensors are stored once, and their names in the header.

    Args:
        path: File.
        kept: From `snapshot`.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stored, aliases = kept
    try:
        save_file(stored, str(path), metadata={"aliases": json.dumps(aliases)})
    except SafetensorError as error:  # hides the system's error in its text
        number = re.search(r"os error (\d+)", str(error))
        code = int(number.group(1)) if number else 0
        raise OSError(code, os.strerror(code) if code else str(error)) from error
    sync(path)


def read_tensors(path: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """Read tensors.

    Args:
        path: File.
        checksum: What it was written with, where that was kept.

    Returns:
        Name to tensor; tied ones share memory.

    Raises:
        RunError: If the file is not what was written, or cannot be read; names it.
    """
    from safetensors import safe_open

    _verify(path, checksum)
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        return found | {name: found[of] for name, of in aliases.items()}
    except Exception as error:  # a damaged file fails in safetensors, in the JSON of its header, or by a name it lacks
        raise RunError(f"{path} is damaged: {error}; {REMEDY}") from error


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a folder's small files.

    Args:
        folder: The folder.

    Returns:
        File name to 64 hex digits; large files are left out.
    """
    return {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.stat().st_size <= SMALL}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(path: Path, checksum: str | None) -> bool:
    """Return whether a file is what was written.

    Args:
        path: File.
        checksum: What it was written with; `None` where that was not kept.

    Returns:
        Whether it is, as far as is known.
    """
    return checksum is None or _sha256(path) == checksum


def _verify(path: Path, checksum: str | None) -> None:
    try:
        whole = same(path, checksum)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}; {REMEDY}") from error
    if not whole:
        raise RunError(f"{path} is damaged: its content is not what was written; {REMEDY}")


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
