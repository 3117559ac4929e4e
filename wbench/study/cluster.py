"""A Dask cluster as an executor: `connect("tcp://host:8786").submit(train_one, config)`.

Start it with

    dask scheduler
    DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker tcp://host:8786 --nworkers 8 --nthreads 1

and on machines with GPUs one worker for each, e.g. `CUDA_VISIBLE_DEVICES=0 dask worker ... --resources GPU=1`. The
setting lets workers start processes, which time limits need; without a time limit it may be left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from wbench.errors import KnobError, WBenchError
from wbench.study import cluster_worker
from wbench.study.process import WorkerDiedError, read_answer

if TYPE_CHECKING:
    import distributed

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE = 8.0  # seconds to wait for a scheduler


class ClusterLostError(WBenchError):
    """The scheduler cannot be reached, or not any more."""


def connect(address: str, *, retries: int = 2) -> Cluster:
    """Connect to a Dask scheduler.

    Args:
        address: E.g. `tcp://10.0.0.1:8786`.
        retries: How often a call is tried again when the process that a worker has started for it died. (A call whose
            worker died is given to another one by the scheduler, as often as its `allowed-failures` says, by default
            three times. A call that raises is not tried again.)

    Returns:
        The cluster. Where workers declare the resource GPU, each call takes one.

    Raises:
        ClusterLostError: If there is no scheduler at the address.
        KnobError: If `retries` is negative.
        WBenchError: If `distributed` is not installed, or the versions of the workers differ from those here, or a
            worker has several threads.
    """
    if retries < 0:
        raise KnobError(f"retries={retries} is not allowed; allowed: 0 or more")
    try:
        import distributed
    except ImportError as error:
        raise WBenchError(f"a cluster needs the packages of its extra: pip install wbench[cluster] ({error})") from None
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False, name="wbench")
    except (OSError, ValueError) as error:
        raise ClusterLostError(
            f"no Dask scheduler answers at {address}: {error}; start one with `dask scheduler`, or correct the address"
        ) from None
    try:
        return Cluster(client, address, retries=retries)
    except BaseException:
        client.close(timeout=1)
        raise


class Cluster(Executor):
    """Runs calls on the workers of a Dask scheduler; made by `connect`.

    Each worker runs one call at a time, as torch's random generator belongs to the process. When the scheduler is lost,
    every future that is not done raises `ClusterLostError`.

    Args:
        client: Connected; is closed by `shutdown`.
        address: For messages.
        retries: As in `connect`.

    Attributes:
        workers: How many workers could take a call when the cluster was connected; at least 1.

    Raises:
        WBenchError: As in `connect`.
    """

    def __init__(self, client: distributed.Client, address: str, *, retries: int = 2) -> None:
        self.address, self.retries = address, retries
        self._client = client
        self._versions = cluster_worker.versions()
        known = self._ask_workers()
        self._resources = {"GPU": 1} if any(worker["gpus"] for worker in known.values()) else None
        able = [worker for worker in known.values() if worker["gpus"] or not self._resources]
        self.workers = max(1, len(able))
        self._limits = not any(worker["daemon"] for worker in able)
        self._open: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def _ask_workers(self) -> dict[str, dict[str, Any]]:
        try:
            known: dict[str, dict[str, Any]] = self._client.run(cluster_worker.describe)
        except ImportError as error:
            raise WBenchError(
                f"the workers of {self.address} lack a package: {error}; install there what is here"
            ) from None
        except OSError as error:
            raise self._lost(str(error)) from None
        for name, worker in known.items():
            problem = cluster_worker.mismatch(self._versions, worker["versions"])
            if problem:
                raise WBenchError(f"the worker {name} of {self.address} {problem}; install the same version")
            if worker["threads"] != 1:
                raise WBenchError(
                    f"the worker {name} of {self.address} has {worker['threads']} threads, which would train in one "
                    "process and share its random generator; start it with `--nthreads 1 --nworkers N`"
                )
        return known

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call on a worker.

        Args:
            fn: Importable there, or small enough to be sent.
            args: Its arguments, picklable.
            kwargs: The same.

        Returns:
            Its future. Besides what the call raises it may raise `WorkerDiedError` and `ClusterLostError`. Cancelling
            it has an effect as long as it is not done, but a call that runs goes on to its end.
        """
        return self._submit(None, fn, args, kwargs)

    def submit_limited(
        self, seconds: float | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run a call that may take a limited time, in a process that its worker starts for it.

        Args:
            seconds: Counted from when the call starts; `None`: no limit.
            fn: As in `submit`.
            args: As in `submit`.
            kwargs: As in `submit`.

        Returns:
            Its future, which raises `TimeLimitError` over the limit.

        Raises:
            KnobError: If the limit is not positive.
            WBenchError: If the workers may not start processes.
        """
        if seconds is not None and not seconds > 0:
            raise KnobError(
                f"a time limit of {seconds!r} s is not allowed; allowed: a positive number, or None for no limit"
            )
        if seconds is not None and not self._limits:
            raise WBenchError(f"at {self.address}: {cluster_worker.NO_LIMIT}")
        return self._submit(seconds, fn, args, kwargs)

    def _submit(self, seconds: float | None, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        import cloudpickle

        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._client.status != "running":
                raise self._lost()
        payload = cloudpickle.dumps((fn, args, kwargs))
        try:
            task = self._client.submit(
                cluster_worker.work,
                payload,
                seconds,
                self._versions,
                pure=False,
                retries=self.retries,
                resources=self._resources,
            )
        except OSError as error:
            raise self._lost(str(error)) from None
        future: Future[Any] = Future()
        with self._lock:
            self._open.add(future)

        def cancelled(future: Future[Any]) -> None:
            if future.cancelled() and task.status == "pending":
                with suppress(OSError):  # the scheduler is gone, and the call with it
                    task.cancel()

        future.add_done_callback(cancelled)
        task.add_done_callback(lambda task: self._settle(future, task))
        return future

    def _settle(self, future: Future[Any], task: distributed.Future[bytes]) -> None:
        """Hand on what came of a task; called in a thread of the client's."""
        from distributed.scheduler import KilledWorker

        error: BaseException | None
        value = None
        try:
            error, value = read_answer(task.result(timeout=PATIENCE))
        except KilledWorker as killed:
            error = WorkerDiedError(f"the call's worker died, and so did those that took it over: {killed}")
        except WBenchError as own:
            error = own
        except BaseException as other:
            error = other if task.status == "error" else self._lost(getattr(other, "reason", "") or repr(other))
        with self._lock:
            self._open.discard(future)
        if not future.set_running_or_notify_cancel():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _lost(self, reason: str = "") -> ClusterLostError:
        why = f" ({reason})" if reason else ""
        return ClusterLostError(
            f"the Dask scheduler at {self.address} is lost{why}; finished runs are kept: start it, and the study again"
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls and disconnect; the scheduler and its workers stay.

        Args:
            wait: Return when all calls have ended.
            cancel_futures: Cancel all calls that are not done.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            left = list(self._open)
        if cancel_futures:
            for future in left:
                future.cancel()
        if wait:
            self._leave(left)
        elif first:
            threading.Thread(target=self._leave, args=(left,), name="wbench-cluster", daemon=True).start()

    def _leave(self, left: list[Future[Any]]) -> None:
        wait(left)
        log = logging.getLogger("distributed.client")
        before, log.disabled = log.disabled, True  # a lost scheduler has been told already, it would add a traceback
        try:
            with suppress(OSError):  # the scheduler is gone
                self._client.close(timeout=2)
        finally:
            log.disabled = before

    def kill(self) -> None:
        """Take no more calls, cancel those that are not done and disconnect."""
        self.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)
