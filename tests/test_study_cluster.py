"""A Dask cluster as an executor, with a real scheduler and real worker processes, some of which are killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import as_completed, wait
from pathlib import Path

import psutil
import pytest

from wbench.errors import KnobError, WBenchError
from wbench.study import cluster as module
from wbench.study import cluster_worker
from wbench.study.cluster import ClusterLostError, connect
from wbench.study.pool import TimeLimitError, WorkerDiedError

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
ROOT = Path(__file__).resolve().parents[1]


def slow_square(x, seconds=0.1):
    time.sleep(seconds)
    return x * x


def fail():
    raise KeyError("plain")


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("the handle is broken")
        self.handle = lambda: None


def fail_unpicklable():
    raise Unpicklable


def note_and_fail(folder):
    """Leave a file for each try."""
    (Path(folder) / str(time.monotonic_ns())).touch()
    raise ValueError("as always")


def visible_gpu():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


class Network:
    """A scheduler and workers on this machine."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = self.start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def start(self, name, *arguments, **env):
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, sys.path)])
        env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder)} | env
        with open(self.folder / f"{name}{len(self.processes)}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{name}", *arguments],
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process

    def worker(self, *arguments, threads=1, **env):
        options = [
            "--host",
            "127.0.0.1",
            "--nthreads",
            str(threads),
            "--no-dashboard",
            "--local-directory",
            str(self.folder),
        ]
        return self.start("dask_worker", self.address, *options, *arguments, **env)

    def connect(self, workers=2):
        import distributed

        with distributed.Client(self.address, timeout=20, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=20)
        return connect(self.address)

    def close(self):
        family = [child for process in self.processes if process.poll() is None for child in _children(process.pid)]
        for process in self.processes:
            process.kill()
            process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        psutil.wait_procs(family, timeout=5)


def _children(pid):
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def network(tmp_path):
    network = Network(tmp_path)
    yield network
    network.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers that may start processes, for the tests that kill none of them."""
    network = Network(tmp_path_factory.mktemp("dask"))
    network.worker("--no-nanny")
    network.worker("--no-nanny")
    with network.connect() as cluster:
        yield cluster
    network.close()


def test_calls_come_back_as_futures_of_the_standard_library(cluster):
    assert cluster.workers == 2
    futures = {cluster.submit(slow_square, x): x * x for x in range(12)}
    assert all(futures[future] == future.result(0) for future in as_completed(futures, timeout=90))
    assert list(cluster.map(slow_square, range(4))) == [0, 1, 4, 9]


def test_functions_that_workers_cannot_import_are_sent(cluster):
    assert cluster.submit(lambda x: x + 1, 2).result(90) == 3


def test_an_exception_arrives_even_when_it_cannot_be_pickled(cluster):
    with pytest.raises(KeyError, match="plain") as caught:
        cluster.submit(fail).result(90)
    assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="Unpicklable: the handle is broken"):
        cluster.submit(fail_unpicklable).result(90)


def test_a_call_that_raises_is_not_tried_again(cluster, tmp_path):
    with pytest.raises(ValueError, match="as always"):
        cluster.submit(note_and_fail, str(tmp_path)).result(90)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_call_over_its_limit_is_stopped_and_the_others_go_on(cluster):
    bad = cluster.submit_limited(0.5, time.sleep, 600)
    others = [cluster.submit_limited(90, slow_square, x) for x in range(4)]
    with pytest.raises(TimeLimitError, match=r"limit of 0\.5 s"):
        bad.result(90)
    assert [future.result(90) for future in others] == [0, 1, 4, 9]


def test_a_limited_call_whose_process_dies_says_so_and_its_worker_lives(cluster):
    with pytest.raises(WorkerDiedError, match="exit code 3"):
        cluster.submit_limited(90, os._exit, 3).result(30)
    assert cluster.submit_limited(90, slow_square, 3).result(90) == 9


def test_a_cancelled_call_is_done_for_those_who_wait(cluster):
    futures = [cluster.submit(slow_square, x, 0.5) for x in range(6)]
    assert futures[-1].cancel()
    assert wait(futures, timeout=20).not_done == set()
    assert [future.result(0) for future in futures[:-1]] == [0, 1, 4, 9, 16]


def test_a_killed_worker_costs_no_call(network):
    victim, _ = network.worker("--no-nanny"), network.worker("--no-nanny")
    with network.connect() as cluster:
        futures = [cluster.submit(slow_square, x, 0.3) for x in range(10)]
        next(as_completed(futures, timeout=90))
        os.kill(victim.pid, signal.SIGKILL)
        assert [future.result(60) for future in futures] == [x * x for x in range(10)]


def test_a_killed_scheduler_ends_every_future_and_shutdown_does_not_hang(network):
    network.worker("--no-nanny")
    cluster = network.connect(1)
    futures = [cluster.submit(slow_square, x, 0.5) for x in range(8)]
    assert futures[0].result(90) == 0
    network.scheduler.kill()
    begin = time.monotonic()
    done, left = wait(futures, timeout=15)
    assert left == set()
    assert time.monotonic() - begin < 10
    lost = [future for future in done if future.exception() is not None]
    assert lost
    for future in lost:
        with pytest.raises(ClusterLostError, match=f"{network.address} is lost.*finished runs are kept"):
            future.result()
    with pytest.raises(ClusterLostError):
        cluster.submit(slow_square, 1)
    cluster.shutdown()
    assert time.monotonic() - begin < 15
    with pytest.raises(RuntimeError, match="after shutdown"):
        cluster.submit(slow_square, 1)


def test_an_address_without_scheduler_is_named_before_any_work(monkeypatch):
    assert module.PATIENCE <= 10
    monkeypatch.setattr(module, "PATIENCE", 2.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ClusterLostError, match=address):
            connect(address)
        assert time.monotonic() - begin < 4
    with pytest.raises(ClusterLostError, match="nonsense:"):
        connect("nonsense:")
    with pytest.raises(KnobError, match="retries=-1"):
        connect(address, retries=-1)


def test_other_versions_are_refused_by_name(cluster, monkeypatch):
    ours = cluster_worker.versions()
    monkeypatch.setattr(cluster_worker, "versions", lambda: ours | {"torch": "1.0"})
    with pytest.raises(WBenchError, match=rf"has torch {ours['torch']}, here is 1\.0"):
        connect(cluster.address)


def test_workers_gpus_are_dealt_out_and_what_workers_cannot_do_is_refused(network):
    network.worker("--no-nanny")
    network.worker("--nanny", "--resources", "GPU=1", CUDA_VISIBLE_DEVICES="3")
    with network.connect() as cluster:
        assert cluster.workers == 1
        assert {future.result(90) for future in [cluster.submit(visible_gpu) for _ in range(4)]} == {"3"}
        with pytest.raises(WBenchError, match="DASK_DISTRIBUTED__WORKER__DAEMON=False"):
            cluster.submit_limited(5, slow_square, 1)
    network.worker("--no-nanny", threads=2)
    with pytest.raises(WBenchError, match="2 threads.*--nthreads 1"):
        network.connect(3)


def _allow_no_failure(dask_scheduler):
    dask_scheduler.allowed_failures = 0


def test_under_a_nanny_limits_hold_if_processes_may_start_and_a_call_that_kills_its_worker_fails(network):
    network.worker("--nanny", DASK_DISTRIBUTED__WORKER__DAEMON="False")
    with network.connect(1) as cluster:
        with pytest.raises(TimeLimitError):
            cluster.submit_limited(0.3, time.sleep, 60).result(30)
        assert cluster.submit_limited(90, slow_square, 3).result(90) == 9
        cluster._client.run_on_scheduler(_allow_no_failure)  # by default Dask gives such a call to four workers
        with pytest.raises(WorkerDiedError, match="the call's worker died"):
            cluster.submit(os._exit, 9).result(90)
        assert cluster.submit(slow_square, 3).result(90) == 9  # of the worker that the nanny has started


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WBenchError, match=r"pip install wbench\[cluster\]"):
        connect("tcp://127.0.0.1:8786")
