"""The metrics of many runs in a few files, so that a question does not open thousands.

Only a copy: an entry counts while it carries the checksum that the run's own record has for its metrics. So a run that was
deleted or replaced is never seen in it, two processes may extend it at once, and a damaged file of it is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wbench.runs.files import same

if TYPE_CHECKING:
    import pyarrow as pa

    from wbench.runs.place import Place
    from wbench.runs.run import Run

FORMAT = 1
MANY = 8  # files from which on they are merged
METRICS = "metrics.parquet"


def metrics_table(found: Sequence[Run], place: Place) -> pa.Table:
    """Return all rows of the runs' metrics; those that are new are added to the index.

    Args:
        found: The runs.
        place: Where they lie.

    Returns:
        Columns run, step, phase, split, name, value.
    """
    import pyarrow as pa

    folder = place.cache
    wanted = {run.id: _key(run) for run in found if METRICS in run._files}
    parts, files = _load(folder, wanted)
    known = {run_id for _, ids in parts for run_id in ids}
    new = [run for run in found if run.id in wanted and run.id not in known]
    tables = [table for table, _ in parts]
    if new:
        table, whole = _read(new, place)
        tables.append(table)
        if len(files) < MANY:
            _save(folder, table, {run.id: wanted[run.id] for run in whole})
        else:
            keys = {run_id: wanted[run_id] for run_id in known} | {run.id: wanted[run.id] for run in whole}
            if _save(folder, pa.concat_tables(tables, promote_options="permissive"), keys):
                for file in files:
                    _remove(file)
    return pa.concat_tables(tables, promote_options="permissive") if tables else _empty()


def _key(run: Run) -> str:
    return run._checksums.get(METRICS) or f"{run._files[METRICS]} bytes, {run.created!r}"


def _empty() -> pa.Table:
    import pyarrow as pa

    text, names = pa.string(), ("run", "step", "phase", "split", "name", "value")
    kinds = (text, pa.int64(), text, text, text, pa.float64())
    return pa.schema(list(zip(names, kinds, strict=True))).empty_table()


def _load(folder: Path, wanted: dict[str, str]) -> tuple[list[tuple[pa.Table, set[str]]], list[Path]]:
    # tables of the index with the runs that count in each, and all its files
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    parts: list[tuple[pa.Table, set[str]]] = []
    files, seen = sorted(folder.glob("metrics-*.parquet")), set[str]()
    for file in files:
        try:
            reader = pq.ParquetFile(file, page_checksum_verification=True)
            keys = json.loads((reader.schema_arrow.metadata or {})[b"wbench"])
            if keys.pop("format") != FORMAT:
                continue
            ids = {run_id for run_id, key in keys.items() if wanted.get(run_id) == key} - seen
            if not ids:
                continue
            table = reader.read().replace_schema_metadata(None)
            if len(ids) < len(keys):
                import pyarrow as pa

                table = table.filter(pc.is_in(table["run"], value_set=pa.array(sorted(ids))))
        except FileNotFoundError:  # another process has merged it
            continue
        except Exception:  # pyarrow raises several kinds on damaged files: it is made again from the runs
            _remove(file)
            continue
        seen |= ids
        parts.append((table, ids))
    return parts, files


def _read(new: Sequence[Run], place: Place) -> tuple[pa.Table, list[Run]]:
    import duckdb
    import pyarrow as pa

    paths = place.fetch(new, "metrics")
    whole, damaged, sources = [], [], []
    for run, path in zip(new, paths, strict=True):
        if same(Path(path), run._checksums.get(METRICS)):
            whole.append(run)
            sources.append(path)
        else:
            damaged.append(path)
    if damaged:
        warnings.warn(f"metrics of {len(damaged)} damaged run(s) are left out: {'; '.join(damaged[:5])}", stacklevel=4)
    if not whole:
        return _empty(), whole
    with duckdb.connect(":memory:") as connection:
        connection.register("sources", pa.table({"file": sources, "run": [run.id for run in whole]}))
        rows = connection.sql(
            "SELECT s.run, m.step, m.phase::VARCHAR AS phase, m.split::VARCHAR AS split, m.name::VARCHAR AS name, "
            "m.value::DOUBLE AS value FROM read_parquet($paths, union_by_name = true, filename = 'file') m "
            "JOIN sources s USING (file)",
            params={"paths": sources},
        )
        return rows.to_arrow_table(), whole


def _save(folder: Path, table: pa.Table, keys: dict[str, str]) -> bool:
    # whether it could be kept: a store that can only be read is asked without an index
    import pyarrow.parquet as pq

    temporary = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = table.replace_schema_metadata({"wbench": json.dumps({"format": FORMAT, **keys})})
        pq.write_table(known, temporary, write_page_checksum=True)
        os.replace(temporary, folder / f"metrics-{uuid.uuid4().hex}.parquet")
    except OSError:
        return False
    finally:
        _remove(temporary)
    return True


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
