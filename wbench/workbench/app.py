"""The workbench as a web application for people without Jupyter: Voila serves its notebook on this machine alone."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wbench.errors import KnobError, MissingPackageError
from wbench.method import get
from wbench.tasks import find_task

SHARE = Path(__file__).parent / "share"
ENDS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


def serve(
    parameters: dict[str, Any],
    *,
    port: int = 8866,
    browser: bool = True,
    token: str | None = None,
    ready: Callable[[subprocess.Popen[bytes], str], None] | None = None,
) -> int:
    """Serve the notebook `explore` until Ctrl-C.

    Args:
        parameters: Of the notebook: task, method, scale, store.
        port: On loopback.
        browser: Whether to open one.
        token: What the address must carry; default a new one.
        ready: Called with the server's process and its address; default: the address is printed.

    Returns:
        The server's exit status.

    Raises:
        MissingPackageError: If Voila is not installed.
        KnobError: If the port, the scale or an option of the task is not allowed.
        UnknownNameError: If there is no such task or method.
    """
    if importlib.util.find_spec("voila") is None:
        raise MissingPackageError('the web application needs Voila: pip install "wbench[lab]"')
    if not 0 < port < 65536:
        raise KnobError(f"--port {port} is not allowed; allowed: 1 to 65535")
    find_task(str(parameters.get("task") or "digits")).recipe(str(parameters.get("scale") or "cpu"))
    if parameters.get("method"):
        get(str(parameters["method"]))
    token = token or secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="wbench-app-") as folder:
        notebook = prepared(Path(folder), parameters)
        # a file that only its owner reads: a command line is seen by everybody on the machine
        (Path(folder) / "voila.json").write_text(json.dumps({"Voila": {"token": token}}))
        env = {
            **os.environ,
            "JUPYTER_PATH": os.pathsep.join(filter(None, [str(SHARE), os.environ.get("JUPYTER_PATH")])),
        }
        command = [
            sys.executable, "-m", "wbench.workbench.served", str(notebook), "--template=wbench", "--Voila.ip=127.0.0.1", f"--port={port}",
            f"--Voila.config_file_paths={folder}", "--show_tracebacks=True", *([] if browser else ["--no-browser"]),
        ]  # fmt: skip
        process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE)
        address = f"http://127.0.0.1:{port}/?token={token}"
        try:
            with ended_in_order():
                if ready is not None:
                    ready(process, address)
                else:
                    print(f"the workbench is at {address}; Ctrl-C ends it", flush=True)
                return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            process.terminate()
            try:
                process.wait(20)  # it ends its kernels first
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Leave the block by an exception where this process is asked to end, or its terminal is closed, so that it can clean up."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.signal(number, leave) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepared(folder: Path, parameters: dict[str, Any]) -> Path:
    """Write the notebook with parameters, and without the cells that are for reading.

    Args:
        folder: Where to.
        parameters: Of the notebook; data, never code.

    Returns:
        The file.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    from wbench.reports import notebooks_dir

    notebook = load_notebook_node(str(notebooks_dir() / "explore.ipynb"))
    made = parameterize_notebook(notebook, parameters)
    panel = max(
        place for place, cell in enumerate(made.cells) if "wb.Workbench(" in cell.source and cell.cell_type == "code"
    )
    made.cells = [cell for place, cell in enumerate(made.cells) if cell.cell_type == "code" and place <= panel]
    target = folder / "explore.ipynb"
    nbformat.write(made, target)
    return target
