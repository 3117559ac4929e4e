"""The pool of processes: nothing outlives the parent, however it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and signals as Linux has them")
ROOT = Path(__file__).resolve().parents[1]
PARENT = """
    import ctypes, os, signal, sys, time
    from wbench.study.pool import Processes

    def compute():
        print(os.getpid(), flush=True)
        while True:
            sum(range(1000))

    def hang():
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        print(os.getpid(), flush=True)
        ctypes.PyDLL(None).sleep(600)

    def nothing():
        print(os.getpid(), flush=True)

    if __name__ == "__main__":
        BODY
"""
WITH = (
    "with Processes(3) as pool: [f.result() for f in [pool.submit(compute), pool.submit(hang), pool.submit(compute)]]"
)
FORGOTTEN = (
    "pool = Processes(2); calls = [pool.submit(compute), pool.submit(hang)]\n"
    "    while not all(call.running() for call in calls): time.sleep(0.1)\n"
    "    time.sleep(2)"
)


@pytest.fixture
def parent(tmp_path):
    """Start a script in a session of its own, and return it and the processes that work for it."""
    started = []

    def start(body, workers):
        script = tmp_path / "parent.py"
        script.write_text(textwrap.dedent(PARENT).replace("BODY", body))
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        started.append(process)
        pids = [int(process.stdout.readline()) for _ in range(workers)]
        return process, [psutil.Process(one) for one in pids]

    yield start
    for process in started:
        for one in psutil.process_iter():
            if _session(one.pid) == process.pid:
                one.kill()
        process.communicate()


def _session(one):
    try:
        return os.getsid(one)
    except OSError:
        return None


def left_after(session, seconds):
    """Return what still lives of a session after so long."""
    end = time.monotonic() + seconds
    while True:
        alive = [one for one in psutil.process_iter(["status"]) if _session(one.pid) == session]
        alive = [one for one in alive if one.info["status"] != psutil.STATUS_ZOMBIE]
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.05)


@linux
def test_no_worker_outlives_a_parent_that_is_killed(parent):
    process, workers = parent(WITH, 3)
    assert len(workers) == 3
    process.kill()
    process.wait()
    assert left_after(process.pid, 2) == []


@linux
def test_ctrl_c_in_the_terminal_leaves_no_process_and_one_traceback(parent):
    process, _ = parent(WITH, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") == 1
    assert left_after(process.pid, 2) == []


@linux
def test_a_program_that_forgets_the_pool_ends_all_the_same(parent):
    process, _ = parent(FORGOTTEN, 2)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert left_after(process.pid, 2) == []


@linux
def test_a_script_without_guard_is_told_why_nothing_starts(tmp_path):
    script = tmp_path / "bare.py"
    script.write_text(
        "import math\nfrom wbench.study.pool import Processes\nwith Processes(1) as pool:\n    print(pool.submit(math.sqrt, 4).result())\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert "WorkerDiedError" in done.stderr
    assert "__main__" in done.stderr.splitlines()[-1]
