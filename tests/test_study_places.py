"""Whole studies, by where they run and where their runs lie: a Dask cluster, an S3 address, both, an older format.
Whatever ends a study, what it has finished is whole, and a second start completes it to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from s3_server import needs_s3, serving
from study_trouble import contents

import wbench as wb
from wbench.errors import RunError
from wbench.method import Method, Paper, Stage
from wbench.runs import record
from wbench.study.cluster import connect
from wbench.tasks import find_task

TESTS = Path(__file__).resolve().parent
GATE = "WBENCH_TEST_GATE"  # a file: as long as it is there, the first process that comes to it waits
PATIENCE = 150  # seconds for what takes a few on a machine at rest


class Held(Method):
    """Nothing, but the first run that comes to the gate stays there until it is opened; notes its process beside it."""

    id: ClassVar[str] = "held"
    title: ClassVar[str] = "Held"
    paper: ClassVar[Paper | None] = Paper("Held", "Nobody", 2024)
    stage: ClassVar[Stage] = "pipeline"
    vectorizes: ClassVar[bool] = True

    def after_step(self, model, ctx=None):
        gate = Path(os.environ.get(GATE, "/nonexistent"))
        if ctx.step != 5 or not gate.exists():
            return
        try:
            with open(holder(gate), "x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return
        while gate.exists():
            time.sleep(0.01)


class Lone(Held):
    """The same, run by run."""

    id: ClassVar[str] = "lone"
    vectorizes: ClassVar[bool] = False


def holder(gate):
    return gate.with_suffix(".pid")


RECIPE = {"optimizer": "adam", "steps": 20, "batch_size": 32}
RATES = [1e-3, 3e-3]
TOTAL = 12
FILE = f"""
task = "digits"
seeds = 2
probes = []
recipe = {{ {", ".join(f"{key} = {json.dumps(value)}" for key, value in RECIPE.items())} }}
grid = {{ lr = {RATES} }}
[arms]
plain = {{}}
held = {{ methods = ["held"] }}
lone = {{ methods = ["lone"] }}
"""


def study(store):
    """What the file says: two arms that are vectorised, and one that is not."""
    arms = {"plain": None, "held": Held(), "lone": Lone()}
    recipe = find_task("digits").recipe("cpu").replace(**RECIPE)
    return wb.Study("digits", arms, {"lr": RATES}, seeds=2, recipe=recipe, probes=(), store=store)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The store of the uninterrupted study, in this process."""
    store = wb.RunStore(tmp_path_factory.mktemp("local"))
    outcome = study(store).run(workers=1)
    assert not outcome.failures and len(outcome.runs) == TOTAL
    assert sum("vectorized" in run.info for run in outcome.runs.values()) == 8
    return store


@pytest.fixture(scope="module")
def whole(local):
    """What it holds."""
    return contents(local)


def wait_for(condition, process=None):
    """Wait until a condition holds; not after the process that should bring it about has ended."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "this takes too long"
        assert process is None or process.poll() is None, process.said()
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def server():
    """An S3 server, where one can be started; only tests with `needs_s3` ask it anything."""
    with nullcontext() if needs_s3.args[0] else serving():
        yield


# --- processes --------------------------------------------------------------------------------------------------------


class Command(subprocess.Popen):
    """A Python program in a session of its own, as in a terminal of its own."""

    def __init__(self, folder, *arguments):
        plugin = folder / "plugin" / "wbench_held-1.dist-info"
        plugin.mkdir(parents=True, exist_ok=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: wbench-held\nVersion: 1\n")
        (plugin / "entry_points.txt").write_text(
            "[wbench.methods]\nheld = test_study_places:Held\nlone = test_study_places:Lone\n"
        )
        paths = [str(plugin.parent), str(TESTS.parent), str(TESTS), *filter(None, sys.path)]
        name = uuid.uuid4().hex
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with open(self.out, "w") as out, open(self.err, "w") as err:
            super().__init__(
                [sys.executable, *arguments], stdout=out, stderr=err, start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def __exit__(self, *_):
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def said(self):
        return self.err.read_text()

    def end(self):
        """Return its exit status."""
        return self.wait(PATIENCE)


def command(folder, *options, text=FILE):
    """`wbench study FILE.toml ...`, with the methods above as a plug-in."""
    file = folder / "study.toml"
    file.write_text(text)
    return Command(folder, "-m", "wbench.cli", "study", str(file), "--quiet", *options)


@contextmanager
def network(folder):
    """A scheduler and two workers whose gate lies in the folder."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from test_study_cluster import Network

    found = Network(folder)
    found.gate = folder / "gate"
    try:
        for _ in range(2):
            found.worker("--no-nanny", **{GATE: str(found.gate)})
        with distributed.Client(found.address, timeout=PATIENCE, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
        yield found
    finally:
        found.gate.unlink(missing_ok=True)
        found.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory, server):
    """For the tests that kill none of its processes; its workers know of the server."""
    with network(tmp_path_factory.mktemp("dask")) as found:
        yield found


@pytest.fixture
def mortal(tmp_path):
    """For the tests that do."""
    with network(tmp_path) as found:
        yield found


def begun(network, store, process):
    """Wait until runs are finished and one is held; return the process that has it."""

    def held():
        known = holder(network.gate)
        return known.exists() and known.read_text() and len(store.runs()) >= 3 and int(known.read_text())

    pid = wait_for(held, process)
    assert pid in {worker.pid for worker in network.processes[1:]}
    return pid


def check_part(store, whole):
    """Check that what is finished is whole, and that something is left to do; workers may still be at work."""
    found = contents(store)
    assert len(found) >= 3 and all(whole[name] == found[name] for name in found)
    assert not store.damaged()
    counts = study(store).frame()["status"].value_counts()
    assert set(counts.index) == {"finished", "missing"} and len(found) <= counts["finished"] < TOTAL


# --- a cluster --------------------------------------------------------------------------------------------------------


def test_a_study_on_a_cluster_gives_the_bits_of_this_process(tmp_path, whole, lasting):
    store = wb.RunStore(tmp_path / "runs")
    with command(tmp_path, "--cluster", lasting.address, "--store", str(store)) as process:
        assert process.end() == 0, process.said()
    assert contents(store) == whole and not store.damaged()
    assert sum("vectorized" in run.info for run in store.runs()) == 8
    assert process.out.read_text().count("2 finished") == 6  # both seeds of every setting


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(tmp_path, whole, mortal):
    store = wb.RunStore(tmp_path / "runs")
    mortal.gate.touch()
    with command(tmp_path, "--cluster", mortal.address, "--store", str(store)) as process:
        pid = begun(mortal, store, process)
        check_part(store, whole)
        os.kill(pid, signal.SIGKILL)
        assert process.end() == 0, process.said()
    alive = [worker.pid for worker in mortal.processes[1:] if worker.poll() is None]
    assert len(alive) == 1 and alive != [pid]
    assert contents(store) == whole and not store.damaged() and len(store.runs()) == TOTAL


def test_a_scheduler_that_is_killed_ends_the_study_and_a_second_start_completes_it(tmp_path, whole, mortal, lasting):
    store = wb.RunStore(tmp_path / "runs")
    mortal.gate.touch()
    with command(tmp_path, "--cluster", mortal.address, "--store", str(store)) as process:
        begun(mortal, store, process)
        mortal.scheduler.kill()
        begin = time.monotonic()
        assert process.end() == 1
        assert time.monotonic() - begin < 60
    message = process.said().splitlines()[-1]
    assert message.startswith(f"error: the Dask scheduler at {mortal.address} is lost")
    assert "finished runs are kept: start it, and the study again" in message and "Traceback" not in process.said()
    mortal.close()  # what its workers still write does not count for the second start
    check_part(store, whole)
    copy = wb.RunStore(shutil.copytree(tmp_path / "runs", tmp_path / "copy"))
    assert not study(store).run(lambda: connect(lasting.address)).failures and contents(store) == whole
    assert not study(copy).run(workers=2).failures and contents(copy) == whole


def test_ctrl_c_during_a_study_on_a_cluster_keeps_what_is_finished(tmp_path, whole, lasting):
    store = wb.RunStore(tmp_path / "runs")
    holder(lasting.gate).unlink(missing_ok=True)
    lasting.gate.touch()
    try:
        with command(tmp_path, "--cluster", lasting.address, "--store", str(store)) as process:
            begun(lasting, store, process)
            os.killpg(process.pid, signal.SIGINT)
            assert process.end() == 130
        assert process.said().splitlines()[-1] == "stopped; what was finished is kept"
        assert "Traceback" not in process.said()
        check_part(store, whole)
    finally:
        lasting.gate.unlink()
    assert not study(store).run(lambda: connect(lasting.address)).failures
    assert contents(store) == whole and not store.damaged()


# --- an address -------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(server):
    return wb.RunStore(f"s3://bucket/{uuid.uuid4().hex}/runs")


def check_attempts(store):
    """Check that of each run there is what its record names and nothing else."""
    assert set(store.place.files.attempts()) == {f"{run.id}/{run.attempt}" for run in store.runs()}


@needs_s3
def test_a_study_at_an_address_is_one_of_a_folder(local, whole, s3):
    outcome = study(s3).run(workers=2)
    assert not outcome.failures and contents(s3) == whole
    check_attempts(s3)
    again = study(s3).run(executor=lambda: pytest.fail("nothing was left to train"))
    assert {key: (run.id, run.created) for key, run in again.runs.items()} == {
        key: (run.id, run.created) for key, run in outcome.runs.items()
    }
    assert set(study(s3).frame()["status"]) == {"finished"}
    for query in (
        'SELECT id, seed, "recipe.lr", "metric.test.loss", "metric.test.accuracy" FROM runs ORDER BY id',
        'SELECT methods, "recipe.lr", step, name, avg(value ORDER BY id) AS mean FROM metrics JOIN runs ON run = id '
        "WHERE split = 'test' GROUP BY ALL ORDER BY ALL",
    ):
        answer = wb.runs(query, s3)
        assert len(answer) >= TOTAL and answer.equals(wb.runs(query, local))


AT_ONCE = """
import sys, time
from pathlib import Path
import wbench as wb
from test_study_places import study
here, store = Path(sys.argv[1]), wb.RunStore(sys.argv[2])
here.touch()
while len(list(here.parent.iterdir())) < 2:
    time.sleep(0.001)
outcome = study(store).run(workers=1)
print(len(outcome.runs), len(outcome.failures))
"""


@needs_s3
def test_two_studies_that_write_the_same_runs_at_once_leave_one_whole_run_each(tmp_path, whole, s3):
    (tmp_path / "ready").mkdir()
    with (
        Command(tmp_path, "-c", AT_ONCE, str(tmp_path / "ready" / "a"), s3.url) as first,
        Command(tmp_path, "-c", AT_ONCE, str(tmp_path / "ready" / "b"), s3.url) as second,
    ):
        for process in (first, second):
            assert process.end() == 0, process.said()
            assert process.out.read_text().split() == [str(TOTAL), "0"]
    assert contents(s3) == whole and not s3.damaged()
    check_attempts(s3)


@needs_s3
def test_a_study_on_a_cluster_keeps_its_runs_at_an_address(tmp_path, whole, lasting, s3):
    with command(tmp_path, "--cluster", lasting.address, text=f'store = "{s3.url}"\n{FILE}') as process:
        assert process.end() == 0, process.said()
    assert contents(s3) == whole
    check_attempts(s3)


# --- other formats ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "address"])
def copied(request, local, tmp_path):
    """The finished study, the record of one run of which is rewritten by the test."""
    if request.param == "folder":
        return wb.RunStore(shutil.copytree(local.root, tmp_path / "runs"))
    store = wb.RunStore(f"memory://{uuid.uuid4().hex}/runs")
    assert not study(store).run(workers=1).failures
    return store


def rewrite(store, **changes):
    """Change the record of one run; return its id and its files as they are now."""
    name = min(run.id for run in store.runs())
    fs, base = fsspec.core.url_to_fs(store.url)
    content = json.loads(fs.cat_file(f"{base}/{name}/run.json")) | changes
    fs.pipe_file(f"{base}/{name}/run.json", json.dumps(content).encode())
    return name, files_of(store, name)


def files_of(store, name):
    """Content of every file of a run, asked of the protocol itself."""
    fs, base = fsspec.core.url_to_fs(store.url)
    return {path: fs.cat_file(path) for path in fs.find(f"{base}/{name}")}


def test_runs_of_an_older_format_are_found_and_not_trained_again(copied, whole, monkeypatch):
    monkeypatch.setitem(record.MIGRATIONS, 0, lambda old: {**old, "reason": old["why"]})
    name, files = rewrite(copied, format=0, why="", reason="of another format")
    outcome = study(copied).run(executor=lambda: pytest.fail("nothing was left to train"))
    assert not outcome.failures and name in {run.id for run in outcome.runs.values()}
    assert set(study(copied).frame()["status"]) == {"finished"} and contents(copied) == whole
    assert files_of(copied, name) == files  # never rewritten


@pytest.mark.parametrize("format", [0, record.FORMAT + 1])
def test_runs_of_a_format_that_cannot_be_read_are_refused_and_kept(copied, format):
    name, files = rewrite(copied, format=format)
    for ask in (
        lambda: study(copied).run(executor=lambda: pytest.fail("refused before training")),
        study(copied).frame,
    ):
        with pytest.raises(RunError, match=rf"{name}.*is of format {format}; this version reads {record.FORMAT}"):
            ask()
    with pytest.warns(UserWarning, match=f"of format {format}"):
        assert len(copied.runs()) == TOTAL - 1
    assert files_of(copied, name) == files
