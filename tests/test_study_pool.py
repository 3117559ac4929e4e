"""The pool of processes: whatever a call does, it alone fails."""

import ctypes
import math
import os
import pickle
import re
import signal
import sys
import time
from concurrent.futures import CancelledError, wait

import psutil
import pytest

from wbench.errors import KnobError
from wbench.study.pool import OutOfMemoryError, Processes, TimeLimitError, WorkerDiedError

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and signals as Linux has them")


def square(x):
    return x * x


def slow_square(x, seconds=0.3):
    time.sleep(seconds)
    return x * x


def pid():
    return os.getpid()


def die_by(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def crash():
    ctypes.string_at(0)


def hang_deaf():
    """Hang in C with the interpreter's lock held and every signal blocked that can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    ctypes.PyDLL(None).sleep(600)


def allocate(gib):
    return len(bytearray(int(gib * 2**30)))


def allocate_twice(gib):
    try:
        return allocate(gib)
    except MemoryError:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory") from None


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("the handle is broken")
        self.handle = lambda: None


class NeedsTwo(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def fail_with(kind):
    if kind == "unpicklable":
        raise Unpicklable
    if kind == "needs two":
        raise NeedsTwo("one", "two")
    if kind == "exit":
        sys.exit("leaving")
    raise KeyError("plain")


def unpicklable_result():
    return lambda: None


def environment(*names):
    return {name: os.environ.get(name) for name in names}


def torch_threads():
    import torch

    return torch.get_num_threads()


def loaded(module):
    return module in sys.modules


@pytest.fixture(scope="module")
def pool():
    """Two workers for the tests that leave the pool usable, which is all of them if it does what it should."""
    with Processes(2, memory=2.0, gpus=[]) as pool:
        yield pool


def works(pool):
    return [future.result(20) for future in [pool.submit(square, x) for x in range(6)]] == [x * x for x in range(6)]


def test_results_come_back_in_the_order_of_the_calls(pool):
    assert list(pool.map(square, range(20))) == [x * x for x in range(20)]
    assert pool.submit(slow_square, 3, seconds=0).result() == 9


def test_two_workers_work_at_once(pool):
    begin = time.monotonic()
    wait([pool.submit(slow_square, 1, 0.5) for _ in range(4)])
    assert 0.9 < time.monotonic() - begin < 1.8


@linux
@pytest.mark.parametrize(
    ("fn", "argument", "said"),
    [
        (die_by, signal.SIGKILL, "SIGKILL; the system may have run out of memory"),
        (die_by, signal.SIGTERM, "SIGTERM"),
        (os._exit, 7, "exit code 7"),
        (os._exit, 0, "exit code 0"),
    ],
)
def test_a_worker_that_dies_fails_its_own_call_only(pool, fn, argument, said):
    others = [pool.submit(slow_square, x) for x in range(2)]
    bad = pool.submit(fn, argument)
    more = [pool.submit(slow_square, x) for x in range(2, 5)]
    with pytest.raises(WorkerDiedError, match=said):
        bad.result(20)
    assert [future.result(20) for future in others + more] == [0, 1, 4, 9, 16]


@linux
def test_a_segmentation_fault_is_named(pool):
    with pytest.raises(WorkerDiedError, match="SIGSEGV"):
        pool.submit(crash).result(20)


@linux
def test_a_worker_killed_from_outside_is_replaced_busy_or_idle(pool):
    idle = pool.submit(pid).result(20)
    os.kill(idle, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(idle)] if psutil.pid_exists(idle) else [], timeout=5)
    time.sleep(0.2)
    assert works(pool)
    busy, other = pool.submit(slow_square, 1, 30), pool.submit(slow_square, 2, 1.0)
    time.sleep(0.5)
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    pids = {slot.process.pid for slot in pool._slots if slot.call is not None and slot.call.future is busy}
    assert pids <= children
    for one in pids:
        os.kill(one, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        busy.result(20)
    assert other.result(20) == 4


def test_a_call_over_its_limit_is_stopped_and_the_others_go_on(pool):
    begin = time.monotonic()
    bad = pool.submit_limited(0.5, time.sleep, 600)
    others = [pool.submit_limited(10, slow_square, x) for x in range(4)]
    with pytest.raises(TimeLimitError, match=r"limit of 0\.5 s"):
        bad.result(20)
    assert time.monotonic() - begin < 3
    assert [future.result(20) for future in others] == [0, 1, 4, 9]


@linux
def test_a_call_that_hangs_in_c_with_signals_blocked_is_stopped(pool):
    with pytest.raises(TimeLimitError):
        pool.submit_limited(0.5, hang_deaf).result(20)
    assert works(pool)


def test_the_limit_does_not_count_while_a_call_waits(pool):
    futures = [pool.submit_limited(0.9, slow_square, x, 0.5) for x in range(6)]  # the last waits for a second
    assert [future.result(20) for future in futures] == [0, 1, 4, 9, 16, 25]


def test_a_clock_that_is_set_forward_stops_nothing(pool, monkeypatch):
    future = pool.submit_limited(5, slow_square, 3, 0.5)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert future.result(20) == 9


@linux
@pytest.mark.parametrize("fn", [allocate, allocate_twice])
def test_more_memory_than_the_limit_is_an_error_of_the_call(pool, fn):
    other = pool.submit(slow_square, 5)
    with pytest.raises(OutOfMemoryError, match="the limit is 2 GiB for this worker: (MemoryError|RuntimeError)"):
        pool.submit(fn, 3.0).result(20)
    assert other.result(20) == 25
    assert pool.submit(allocate, 0.25).result(20) == 2**28


@pytest.mark.parametrize(
    ("kind", "arrives", "said"),
    [
        ("plain", KeyError, "plain"),
        ("unpicklable", RuntimeError, "Unpicklable: the handle is broken"),
        ("needs two", RuntimeError, "NeedsTwo: one and two"),
        ("exit", RuntimeError, "SystemExit: leaving"),
    ],
)
def test_every_exception_arrives_with_its_traceback(pool, kind, arrives, said):
    with pytest.raises(arrives, match=re.escape(said)) as caught:
        pool.submit(fail_with, kind).result(20)
    assert "in fail_with" in "".join(caught.value.__notes__)


def test_what_cannot_be_pickled_is_an_error_of_the_call(pool):
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        pool.submit(lambda: 1).result(20)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        pool.submit(unpicklable_result).result(20)
    assert works(pool)


def test_workers_have_their_threads_and_the_parent_its_environment():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "WBENCH_THREADS", "CUDA_VISIBLE_DEVICES")
    before = dict(os.environ)
    with Processes(1, threads=2, gpus=["5"]) as pool:  # the parent has one
        assert pool.submit(environment, *names).result(20) == dict.fromkeys(names[:4], "2") | {names[4]: "5"}
        assert pool.submit(torch_threads).result(60) == min(2, os.cpu_count())
    assert dict(os.environ) == before


def test_each_worker_has_a_gpu_of_its_own():
    with Processes(gpus=[0, 2]) as pool:
        assert pool.workers == 2
        futures = [pool._submit(None, place, environment, ("CUDA_VISIBLE_DEVICES",), {}) for place in range(2)]
        assert [future.result(20)["CUDA_VISIBLE_DEVICES"] for future in futures] == ["0", "2"]


def test_workers_have_the_environment_and_folder_of_now_however_old_their_server_is(monkeypatch, tmp_path):
    monkeypatch.setenv("WBENCH_TEST_GOES", "1")
    with Processes(1) as pool:
        assert pool.submit(environment, "WBENCH_TEST_GOES").result(20) == {"WBENCH_TEST_GOES": "1"}
    monkeypatch.delenv("WBENCH_TEST_GOES")
    monkeypatch.setenv("WBENCH_TEST_COMES", "2")
    monkeypatch.chdir(tmp_path)
    with Processes(1) as pool:
        found = pool.submit(environment, "WBENCH_TEST_GOES", "WBENCH_TEST_COMES").result(20)
        assert found == {"WBENCH_TEST_GOES": None, "WBENCH_TEST_COMES": "2"}
        assert pool.submit(os.getcwd).result(20) == str(tmp_path)


def test_warm_workers_have_imported_what_they_should():
    with Processes(2, gpus=[]) as pool:
        assert pool.submit(loaded, "torch").result(20) is (sys.platform == "linux")
        pool.warm("statistics")
        begin = {slot.process.pid for slot in pool._slots}
        assert len(begin) == 2
        futures = [pool._submit(None, place, loaded, ("statistics",), {}) for place in range(2)]
        assert all(future.result(20) for future in futures)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"threads": -1}, {"memory": 0.0}, {"memory": math.nan}])
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(KnobError, match=next(iter(wrong))):
        Processes(**wrong)
    with Processes(1) as pool, pytest.raises(KnobError, match="time limit"):
        pool.submit_limited(0, square, 1)


def test_shutdown_finishes_what_was_submitted_unless_told_to_cancel():
    pool = Processes(1)
    futures = [pool.submit(slow_square, x) for x in range(3)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == [0, 1, 4]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(square, 1)

    pool = Processes(1)
    first, *rest = [pool.submit(slow_square, x) for x in range(5)]
    while not first.running():
        time.sleep(0.01)
    pool.shutdown(cancel_futures=True)
    assert first.result(0) == 0
    assert all(future.cancelled() for future in rest)
    assert wait(rest, timeout=0).not_done == set()


def test_an_exception_in_the_body_ends_everything_at_once():
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), Processes(1) as pool:
        running, waiting = pool.submit(time.sleep, 600), pool.submit(square, 1)
        while not running.running():
            time.sleep(0.01)
        raise ZeroDivisionError
    assert time.monotonic() - begin < 20
    with pytest.raises(WorkerDiedError, match="shut down"):
        running.result(0)
    with pytest.raises(CancelledError):
        waiting.result(0)
