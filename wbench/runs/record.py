"""The record of a run, `run.json`: read, checked, and brought up from older formats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wbench.errors import RunError
from wbench.runs.spec import loaded_id

FORMAT = 1
STATUSES = ("finished", "diverged", "stopped", "failed")
KEPT = STATUSES[:2]  # never replaced by a later run of the same name
FIELDS = {
    "format": int, "id": str, "spec": dict, "info": dict, "status": str, "reason": str, "summary": dict, "files": dict,
    "created": float,
}  # fmt: skip
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # format to what makes the next one of it


class OtherFormat(RunError):
    """A run of a format that this version does not read; it may be whole, so it is not replaced."""


def read_record(folder: Path | str) -> dict[str, Any]:
    """Return the record of a run directory whose files are all there, each of the recorded size.

    Args:
        folder: The directory.

    Returns:
        The record, in the present format.

    Raises:
        RunError: If the directory is not a whole run; says what is wrong.
    """
    file = os.path.join(folder, "run.json")
    try:
        with open(file, "rb") as opened:
            text = opened.read()
    except FileNotFoundError:
        raise RunError(f"{folder} is no run: run.json is missing") from None
    except OSError as error:
        raise RunError(f"{file} is damaged: {error}") from error
    record = parse(text, file)
    sizes = {}
    for name in record["files"]:
        try:
            sizes[name] = os.stat(f"{folder}{os.sep}{name}").st_size
        except (OSError, ValueError):
            continue
    check_sizes(record, sizes, str(folder))
    return record


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Return the record that a `run.json` holds.

    Args:
        text: Content of the file.
        where: The file, for messages.

    Returns:
        The record, in the present format.

    Raises:
        OtherFormat: If it is of a format that this version does not know.
        RunError: If it is no record, or was changed.
    """
    try:
        record = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is damaged: {error}") from error
    if isinstance(record, dict) and isinstance(record.get("format"), int):
        record = _migrated(record, where)
    if not isinstance(record, dict) or not FIELDS.keys() <= record.keys():
        lacking = FIELDS.keys() - set(record) if isinstance(record, dict) else FIELDS
        raise RunError(f"{where} is damaged: it lacks {', '.join(sorted(lacking))}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record[name], kind)]
    if wrong:
        raise RunError(f"{where} is damaged: {', '.join(wrong)} cannot be read")
    odd = [name for name, size in record["files"].items() if not _plain_name(name) or not isinstance(size, int)]
    if odd or not isinstance(record.get("sha256", {}), dict):
        raise RunError(f"{where} was changed: its list of files cannot be read{f' at {odd[0]!r}' if odd else ''}")
    if record["status"] not in STATUSES:
        raise RunError(f"{where} was changed: status={record['status']!r} is none of {', '.join(STATUSES)}")
    if loaded_id(record["spec"]) != record["id"]:
        raise RunError(f"{where} was changed: its id does not match what it says determines it")
    return record


def _plain_name(name: str) -> bool:
    return bool(name) and name[0] != "." and "/" not in name and "\\" not in name and "\0" not in name


def _migrated(record: dict[str, Any], where: str) -> dict[str, Any]:
    given = record["format"]
    oldest = min([FORMAT, *MIGRATIONS])
    if not oldest <= given <= FORMAT:
        formats = str(FORMAT) if oldest == FORMAT else f"{oldest} to {FORMAT}"
        remedy = "; a newer wbench wrote it: update" if given > FORMAT else ""
        raise OtherFormat(f"{where} is of format {given}; this version reads {formats}{remedy}")
    for format in range(given, FORMAT):
        try:
            record = {**MIGRATIONS[format](record), "format": format + 1}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(f"{where} is damaged: it is no record of format {format} ({error!r})") from error
    return record


def check_sizes(record: Mapping[str, Any], sizes: Mapping[str, int], where: str) -> None:
    """Compare the files that are there with those of the record.

    Args:
        record: The record.
        sizes: File name to bytes, of those that are there.
        where: The run, for messages.

    Raises:
        RunError: If one is missing or of another size.
    """
    for name, size in record["files"].items():
        if name not in sizes:
            raise RunError(f"{where} is damaged: {name} is missing")
        if sizes[name] != size:
            raise RunError(f"{where} is damaged: {name} has {sizes[name]} bytes instead of {size}")
