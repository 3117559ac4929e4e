"""What is on display: configurations, each with its runs, over one another."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from wbench.runs import Run
from wbench.training import PROBES

if TYPE_CHECKING:
    import pandas as pd


class Readable(Protocol):
    """What panels read of a run, recorded or in the making."""

    @property
    def seed(self) -> int:
        """The seed."""

    @property
    def metrics(self) -> pd.DataFrame:
        """Columns step, phase, split, name, value."""

    @property
    def probes(self) -> list[str]:
        """Names of the tables."""

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by kind; empty while it trains."""

    def probe(self, name: str) -> pd.DataFrame:
        """Return a table.

        Args:
            name: One of `probes`.
        """


@dataclass
class LiveRun:
    """A run in the making: what has been told of it so far.

    Attributes:
        seed: The seed.
        steps: Steps in all.
        step: The last one heard of.
    """

    seed: int
    steps: int = 0
    step: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tables: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    _metrics: pd.DataFrame | None = None
    _joined: dict[str, pd.DataFrame] = field(default_factory=dict)

    def add_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in metric rows.

        Args:
            rows: Each with step, phase, split, name, value.
        """
        self._rows.extend(map(dict, rows))
        if self._rows:
            self.step = max(self.step, int(self._rows[-1]["step"]))

    def add_table(self, name: str, frame: pd.DataFrame) -> None:
        """Take in a record of a probe.

        Args:
            name: The table.
            frame: Its new rows.
        """
        self._tables.setdefault(name, []).append(frame)
        self._joined.pop(name, None)

    def put_table(self, name: str, frame: pd.DataFrame) -> None:
        """Take in a table that replaces the one before.

        Args:
            name: The table.
            frame: All its rows.
        """
        self._tables[name] = [frame]
        self._joined.pop(name, None)

    @property
    def metrics(self) -> pd.DataFrame:
        """Columns step, phase, split, name, value."""
        import pandas as pd

        if self._rows:  # what came since is joined to what was joined before
            new = pd.DataFrame(self._rows, columns=["step", "phase", "split", "name", "value"])
            self._metrics = new if self._metrics is None else pd.concat([self._metrics, new], ignore_index=True)
            self._rows = []
        if self._metrics is None:
            return pd.DataFrame(columns=["step", "phase", "split", "name", "value"])
        return self._metrics

    @property
    def probes(self) -> list[str]:
        """Names of the tables so far."""
        return list(self._tables)

    def probe(self, name: str) -> pd.DataFrame:
        """Return a table as far as it has come.

        Args:
            name: One of `probes`.
        """
        import pandas as pd

        if name not in self._joined:
            self._joined[name] = pd.concat(self._tables[name], ignore_index=True)
            self._tables[name] = [self._joined[name]]
        return self._joined[name]


@dataclass
class Shown:
    """A configuration on display.

    Attributes:
        key: What its runs share; they differ in their seed alone.
        name: As the legend says it.
        colour: Number of its colour, for life.
        runs: One a seed.
        batch_size: Samples a step.
        methods: Ids of its methods.
        live: Whether one of its runs is being trained.
    """

    key: str
    name: str
    colour: int
    runs: list[Readable]
    batch_size: int = 1
    methods: tuple[str, ...] = ()
    live: bool = False


def labels(shown: Iterable[Shown]) -> dict[str, str]:
    """Return what each configuration is called in tables and figures: its name, with spaces where another has the same.

    Args:
        shown: Configurations.

    Returns:
        Key to label.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for item in shown:
        name = item.name
        while name in taken:
            name += " "
        taken.add(name)
        found[item.key] = name
    return found


def table_of(run: Readable, name: str) -> pd.DataFrame:
    """Return a table of a run; of the recorded ones the last few are kept in memory, as a cursor asks for them again and again.

    Args:
        run: The run.
        name: A probe's name, or `metrics`.
    """
    if name == "metrics":
        return run.metrics
    return _kept(run, name) if isinstance(run, Run) and name in PROBES else run.probe(name)


def recorded(run: Readable) -> set[int]:
    """Return the steps at which a run's weights were looked at; those of its evaluations where none were.

    Args:
        run: The run.
    """
    tables = [table_of(run, name) for name in ("histogram", "spectrum") if name in run.probes]
    if not tables:
        metrics = run.metrics
        tables = [metrics[metrics["split"] != "train"]]
    return {int(step) for table in tables for step in table["step"].unique()}


@functools.lru_cache(maxsize=24)
def _kept(run: Run, name: str) -> pd.DataFrame:
    return run.probe(name)


def frame_of(shown: Sequence[Shown], table: str, first: bool = False) -> pd.DataFrame:
    """Return one table of all that is on display, with columns `run` and `seed`; those that lack it are left out.

    Args:
        shown: Configurations.
        table: A probe's name, or `metrics`.
        first: Only the first run of each that has the table.

    Returns:
        The rows; `run` is categorical, so that a configuration keeps its colour whatever is drawn beside it.
    """
    names = labels(shown)
    chosen = tuple((names[item.key], item.colour, tuple(_having(item.runs, table, first))) for item in shown)
    ended = all(isinstance(run, Run) for _, _, runs in chosen for run in runs)
    return _joined(chosen, table) if ended else _joined.__wrapped__(chosen, table)


def _having(runs: Iterable[Readable], table: str, first: bool) -> Iterator[Readable]:
    for run in runs:
        if (table == "metrics" or table in run.probes) and len(table_of(run, table)):
            yield run
            if first:
                return


NAMES = ("phase", "split", "name")  # columns of the metrics


# a cursor that moves asks for the same again; runs in the making grow
@functools.lru_cache(maxsize=6)
def _joined(chosen: tuple[tuple[str, int, tuple[Readable, ...]], ...], table: str) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    runs = [(colour, run) for _, colour, runs in chosen for run in runs]
    if not runs:
        return pd.DataFrame()
    frames = [table_of(run, table) for _, run in runs]
    joined = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0].copy(deep=False)
    known = {colour: name for name, colour, _ in chosen}
    places = [known.get(place, f"\0{place}") for place in range(max(known) + 1)]
    count = [len(frame) for frame in frames]
    colours = np.repeat(np.array([colour for colour, _ in runs]), count)
    joined["run"] = pd.Categorical.from_codes(colours, categories=pd.Index(places))
    joined["seed"] = np.repeat([run.seed for _, run in runs], count)
    # names as numbers: a long table is cut up by them again and again
    return joined.astype(dict.fromkeys(NAMES, "category")) if table == "metrics" else joined
