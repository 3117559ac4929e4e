"""What a zoo's folder holds: `zoo.json`, and one checkpoint a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wbench.errors import CheckpointError, KnobError

MANIFEST = "zoo.json"
FORMAT = 1
BASE = "base"
ENDINGS = {".safetensors", ".pt", ".pth", ".bin"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Entry:
    """One model of a zoo.

    Attributes:
        file: Checkpoint, relative to the zoo's folder.
        sha256: Of the file; empty where nobody has written it down.
        task: Id and options of the task that it was trained on, or nothing.
        seed: What it was trained with, or `None`.
        methods: Ids of the methods that were used.
        metrics: On its own test data, by name.
        run: Id of the run that trained it, or empty.
    """

    file: str
    sha256: str = ""
    task: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    methods: tuple[str, ...] = ()
    metrics: dict[str, float | None] = field(default_factory=dict)
    run: str = ""


def check_role(role: str) -> str:
    """Return a member's role, if it can be the name of a file and is not the base's.

    Args:
        role: The name.

    Raises:
        KnobError: If not.
    """
    if not NAME.fullmatch(role) or role == BASE:
        raise KnobError(
            f"member '{role}' is not allowed; allowed: letters, digits, '_', '-' and '.', a letter or digit first, not '{BASE}'"
        )
    return role


def write_manifest(folder: Path, base: Entry, members: Mapping[str, Entry]) -> None:
    """Write `zoo.json`.

    Args:
        folder: The zoo's folder.
        base: What the members were fine-tuned from.
        members: By role.
    """
    record = {"format": FORMAT, BASE: asdict(base), "members": {role: asdict(entry) for role, entry in members.items()}}
    (folder / MANIFEST).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> tuple[Entry | None, dict[str, Entry]]:
    """Return the base and the members of a zoo; without `zoo.json`, what checkpoints lie in the folder, in the order of their names.

    Args:
        folder: With `zoo.json`; or with files `ROLE.safetensors` (or .pt, .pth, .bin) or folders `ROLE` that hold a checkpoint each,
            one of them named `base` or none.

    Returns:
        The base, or `None` where there is none, and the members by role.

    Raises:
        CheckpointError: If the folder does not exist, holds no member, or its manifest is damaged, of another format, or names a
            file that is not in the folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; a zoo is a folder of checkpoints")
    if (folder / MANIFEST).is_file():
        base, members = _parsed(folder / MANIFEST)
    else:
        found = {path.stem if path.is_file() else path.name: Entry(path.name) for path in _checkpoints(folder)}
        base, members = found.pop(BASE, None), found
    if not members:
        raise CheckpointError(
            f"{folder} holds no member; looked for {MANIFEST} and for {', '.join(sorted(ENDINGS))} files"
        )
    for entry in [*members.values(), *([base] if base else [])]:
        inside = (folder / entry.file).resolve().is_relative_to(folder.resolve())
        if not inside or not (folder / entry.file).exists():
            raise CheckpointError(f"{folder / MANIFEST} names '{entry.file}', which is not in the folder")
    return base, members


def _checkpoints(folder: Path) -> list[Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        holds = path.is_dir() and any(child.suffix in ENDINGS for child in path.iterdir())
        if not (holds or (path.is_file() and path.suffix in ENDINGS)):
            continue
        role = path.name if holds else path.stem
        if role in files:
            raise CheckpointError(
                f"{folder} holds two checkpoints named '{role}': {files[role].name} and {path.name}; rename one"
            )
        files[role] = path
    return list(files.values())


def _parsed(path: Path) -> tuple[Entry | None, dict[str, Entry]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {record['format']!r}; this version reads format {FORMAT}")
        members = {role: _entry(fields) for role, fields in record["members"].items()}
        return (_entry(record[BASE]) if record.get(BASE) else None), members
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is no manifest of a zoo: {error!r}") from error


def _entry(fields: Mapping[str, Any]) -> Entry:
    entry = Entry(**{**fields, "methods": tuple(fields.get("methods", ()))})
    if not isinstance(entry.file, str) or not isinstance(entry.sha256, str):
        raise TypeError("'file' and 'sha256' must be text")
    return entry


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, of its files' digests in the order of their names.

    Args:
        path: File or folder.
    """
    if path.is_dir():
        parts = [f"{child.name}:{digest(child)}" for child in sorted(path.iterdir()) if child.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
