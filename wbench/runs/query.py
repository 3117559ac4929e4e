"""Questions to all runs of a store at once, in SQL, through DuckDB over their Parquet files."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError
from wbench.runs.index import metrics_table
from wbench.runs.store import RunStore, flatten

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

    from wbench.runs.run import Run

ALLOWED = "allowed: one SELECT (or FROM, WITH, VALUES) statement"
SETTING = re.compile(r"methods\.(.+?)\.fields\.(.+)")
FILE = "wbench_file"


def runs(query: str | None = None, store: RunStore | None = None) -> pd.DataFrame:
    """Return an answer about all runs of a store as one frame.

    Usage:
        wb.runs()
        wb.runs('SELECT "recipe.lr", avg("metric.test.accuracy") AS accuracy FROM runs GROUP BY ALL')
        wb.runs("SELECT step, avg(value) FROM metrics JOIN runs ON run = id WHERE name = 'loss' GROUP BY step")

    Tables in the SQL, DuckDB's dialect:

    - `runs`: one row a run, newest first: id, created (UTC), task, methods, seed, status, reason, seconds, each setting in
      which the runs differ (`recipe.lr`, `galore.rank`; lists as JSON text), final metrics (`metric.test.accuracy`). Names
      with a dot stand in double quotes.
    - `metrics`: run, step, phase, split, name, value.
    - each recorded table under its own name (`spectrum`, ...), with a column `run`; read when the query names it.

    The statement can read these alone: no other files, no network, no settings. Damaged runs are named in one warning and
    left out. What was read of `metrics` is kept in a hidden folder beside the runs, so that the next question is fast.

    Args:
        query: The SQL; `None` for the whole table `runs`.
        store: Where the runs lie; the default store if `None`.

    Returns:
        The rows of the answer.

    Raises:
        RunError: If the query is not one reading statement, or DuckDB refuses it; gives its reason and the known tables.
    """
    import duckdb

    store = store or RunStore()
    found = store.runs()
    own = dict.fromkeys(
        file.removesuffix(".parquet") for run in found for file in run._files if file.endswith(".parquet")
    )
    tables = sorted({*own, *store.place.later(found)} - {"metrics", "runs"})
    query = query or "FROM runs"
    with duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "parquet_metadata_cache": "true"}
    ) as connection:
        try:
            _check_statement(connection, query)
            connection.register("runs", runs_table(found if _names(query, "runs") else []))
            if _names(query, "metrics"):
                connection.register("metrics", metrics_table(found, store.place))
            _views(connection, found, [table for table in tables if _names(query, table)], store)
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            return connection.execute(query).df()
        except duckdb.Error as error:
            known = ", ".join(["runs", "metrics", *tables])
            raise RunError(f"the query cannot be answered: {error}\n{ALLOWED}; tables: {known}") from error


def _check_statement(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    kinds = [statement.type.name for statement in connection.extract_statements(query)]
    if kinds != ["SELECT"]:
        given = f"{len(kinds)} statements" if len(kinds) != 1 else f"a statement of kind {kinds[0]}"
        raise RunError(f"the query is {given}; {ALLOWED}")


def _names(query: str, table: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(table)}(?!\w)", query, re.IGNORECASE) is not None


def _views(connection: duckdb.DuckDBPyConnection, found: Sequence[Run], tables: Sequence[str], store: RunStore) -> None:
    # tables that differ only in their case are one in SQL
    merged: dict[str, list[str]] = {}
    for table in tables:
        merged.setdefault(table.lower(), []).extend(store.place.fetch(found, table))
    connection.execute(f"SET allowed_paths = {_text_list(path for paths in merged.values() for path in paths)}")
    for table, paths in merged.items():
        source = f"read_parquet({_text_list(paths)}, union_by_name = true, filename = '{FILE}')"
        columns = [row[0] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()]
        own = ", ".join(_quoted(name) for name in columns if name != FILE and name.lower() != "run")
        run = f"regexp_extract({FILE}, '([0-9a-f]{{16}})(/[0-9a-f]{{32}})?(/derived)?/[^/]*$', 1) AS run"
        connection.execute(
            f"CREATE VIEW {_quoted(table)} AS SELECT {', '.join(filter(None, [run, own]))} FROM {source}"
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text_list(values: Iterable[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def runs_table(found: Sequence[Run]) -> pa.Table:
    """Return one row a run, as the table `runs` of a query.

    Args:
        found: The runs.

    Returns:
        Columns id, created, task, methods, seed, status, reason, seconds, what differs, and final metrics.
    """
    import pyarrow as pa

    settings = [_settings(run.spec) for run in found]
    keys = dict.fromkeys(key for setting in settings for key in setting)
    values = {key: [setting.get(key) for setting in settings] for key in keys}
    metrics = dict.fromkeys(key for run in found for key in run.summary)
    columns: dict[str, pa.Array] = {
        "id": pa.array([run.id for run in found], pa.string()),
        "created": pa.array([_microseconds(run.created) for run in found], pa.timestamp("us")),
        "task": pa.array([run.task for run in found], pa.string()),
        "methods": pa.array([" + ".join(run.methods) or "baseline" for run in found], pa.string()),
        "seed": _column([run.seed for run in found]),
        "status": pa.array([run.status for run in found], pa.string()),
        "reason": pa.array([run.reason for run in found], pa.string()),
        "seconds": pa.array([_seconds(run.info) for run in found], pa.float64()),
    }
    differing = {key: column for key, column in values.items() if len(set(map(repr, column))) > 1}
    for key, column in [
        *differing.items(),
        *((f"metric.{key}", [run.summary.get(key) for run in found]) for key in metrics),
    ]:
        columns[_free(key, columns)] = _column(column)
    return pa.table(columns)


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for key, value in flatten(spec).items() if (name := _setting(key))}


@functools.lru_cache(maxsize=4096)
def _setting(key: str) -> str:
    # `methods.galore.fields.rank` is `galore.rank`; what other columns say is left out
    if key in {"task.id", "seed"} or (key.startswith("methods.") and key.endswith(".id")):
        return ""
    match = SETTING.fullmatch(key)
    return f"{match[1]}.{match[2]}" if match else key.removeprefix("methods.")


def _free(name: str, taken: Mapping[str, Any]) -> str:
    # SQL does not tell upper from lower case
    lower, count = {key.lower() for key in taken}, 2
    free = name
    while free.lower() in lower:
        free, count = f"{name}_{count}", count + 1
    return free


def _column(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) <= 1 and kinds <= {str, bool, int}:
        try:
            return pa.array(values, pa.float64() if not kinds else None)
        except OverflowError:
            pass_through = [None if value is None else str(value) for value in values]
            return pa.array(pass_through, pa.string())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())


def _seconds(info: Mapping[str, Any]) -> float | None:
    timings = info.get("timings")
    seconds = timings.get("seconds") if isinstance(timings, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _microseconds(created: float) -> int | None:
    return round(created * 1e6) if abs(created) < 2**63 / 1e6 else None
