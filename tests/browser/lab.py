"""A real JupyterLab on loopback and a real Chromium, cut off from every other machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds, on a busy machine
KERNEL = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"


def missing() -> str:
    """Return what these tests need and this machine lacks, or nothing."""
    absent = [name for name in ("jupyterlab", "playwright", "anywidget") if importlib.util.find_spec(name) is None]
    return ", ".join(absent + ([] if CHROMIUM else ["chromium"]))


def need_browser() -> None:
    """Skip where there is no browser; in continuous integration that is a failure."""
    if not missing():
        return
    if os.environ.get("CI"):
        pytest.fail(f"browser tests need {missing()}: install the extras lab and test, and chromium")
    pytest.skip(f"needs {missing()}")


@dataclass
class Lab:
    """A running server."""

    port: int
    token: str
    folder: Path

    def address(self, path: str) -> str:
        """Return the address of a page."""
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A JupyterLab with a configuration, data and notebooks of its own."""
    need_browser()
    home, work = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Lab(port, secrets.token_hex(16), work)
    environment = _environment(home, work)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [
        f"--IdentityProvider.token={server.token}",
        f"--ServerApp.root_dir={work}",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _until_it_answers(server, process, home / "log")
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()  # its kernels see that their parent is gone
        process.wait()


def _environment(home: Path, work: Path) -> dict[str, str]:
    settings, spec = home / "config" / "labconfig", home / "data" / "kernels" / "wbench"
    settings.mkdir(parents=True)
    spec.mkdir(parents=True)
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(news))
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "wbench", "language": "python"}))
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    places = {key: str(home / name) for key, name in own.items()}
    return {**os.environ, **places, "PYTHONPATH": str(ROOT), "WBENCH_HOME": str(home / "store"), "OMP_NUM_THREADS": "1"}


def _until_it_answers(server: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(server.address("api"), timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Notebook:
    """A notebook open in a page of its own, and what went wrong there."""

    page: Any
    server: Lab
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def wait(self, expression: str, argument: Any = None, seconds: float = 20) -> None:
        """Wait until JavaScript is true in the page."""
        self.page.wait_for_function(expression, arg=argument, timeout=seconds * 1000)

    def shows_workbench(self, seconds: float = 240) -> None:
        """Wait until a workbench is seen and can draw; what the page and the kernel say is told where none is."""
        from playwright.sync_api import TimeoutError as TooLate

        selector = ".wbench-workbench"
        try:
            self.page.wait_for_selector(selector, timeout=seconds * 1000)
        except TooLate:
            said = self.page.evaluate(
                "s => [document.querySelector(s)?.outerHTML.slice(0, 2000), document.querySelector('.jp-OutputArea')?.innerText]",
                selector,
            )
            pytest.fail(f"{selector} is not seen after {seconds} s: {said}; errors in the page: {self.errors}")
        self.wait("globalThis[Symbol.for('wbench.plotly')]?.library", seconds=seconds)

    def press(self, name: str) -> None:
        """Press a button of the workbench."""
        # by its text: the icon is a part of the accessible name
        self.page.locator(".wbench-workbench button", has_text=re.compile(f"^{name}$")).first.click()

    def put(self, name: str, text: str) -> None:
        """Write into the field of a knob."""
        box = self.page.get_by_label(name, exact=True).first
        box.fill(text)
        box.press("Enter")

    def says(self, text: str, seconds: float = 60) -> None:
        """Wait until the workbench says something."""
        self.wait("text => document.querySelector('.wbench-status')?.innerText.includes(text)", text, seconds)

    def copied(self, part: str) -> str:
        """Wait until a text is on the clipboard, and return all of it."""
        until = time.monotonic() + 30
        while part not in (text := self.page.evaluate("navigator.clipboard.readText()")) and time.monotonic() < until:
            self.page.wait_for_timeout(50)
        assert part in text
        return text

    def run_all(self) -> None:
        """Run all cells to their end."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.idle()

    def idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.wait(f"{KERNEL}?.status === 'idle'", seconds=PATIENCE / 1000)

    def python(self, code: str) -> str:
        """Run code in the kernel, beside the cells, and return what it printed; an error of it fails the test."""
        said = self.page.evaluate(_EXECUTE, code)
        assert said["status"] == "ok", f"{code}\n{said['error']}"
        return said["text"].strip()

    def value(self, expression: str) -> Any:
        """Return the value of a Python expression in the kernel, through JSON."""
        return json.loads(self.python(f"import json; print(json.dumps({expression}))"))

    def becomes(self, expression: str, value: Any) -> None:
        """Wait until a Python value in the kernel, set by the browser, is as expected."""
        until = time.monotonic() + 10
        while (held := self.value(expression)) != value and time.monotonic() < until:
            time.sleep(0.05)
        assert held == value

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme to "light" or "dark"."""
        self.page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {name.title()}"
        )
        self.wait("light => document.body.dataset.jpThemeLight === light", str(name == "light").lower())
        # until JupyterLab has taken its splash away: a second change before that makes it remove it twice
        self.wait("() => !document.getElementById('jupyterlab-splash')")

    def check(self) -> None:
        """Assert that no request left the machine and that the page reported no error; forgets what it saw."""
        outside, errors = self.outside[:], self.errors[:]
        self.outside.clear()
        self.errors.clear()
        assert not outside, f"requests to other machines: {outside}"
        assert not errors, f"errors in the page: {errors}"


_EXECUTE = f"""
async code => {{
  const future = {KERNEL}.requestExecute({{ code, store_history: false, silent: false }});
  let text = "";
  future.onIOPub = ({{ header, content }}) => {{ if (header.msg_type === "stream") text += content.text; }};
  const {{ content }} = await future.done;
  return {{ status: content.status, text, error: (content.traceback ?? []).join("\\n") }};
}}"""


GRAPHS = "[...document.querySelectorAll('.wbench-workbench .js-plotly-plot')]"


def open_notebook(
    server: Lab, browser: Any, cells: list[str], *, name: str = "notebook", width: int = 1280, height: int = 900
) -> Notebook:
    """Write a notebook, open it in a new page and wait for its kernel; its cells have not run yet.

    Args:
        server: Where.
        browser: With what.
        cells: Code, one text a cell.
        name: File name without ending.
        width: Of the window, in pixels.
        height: Likewise.
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "wbench", "display_name": "wbench", "language": "python"}
    nbformat.write(notebook, server.folder / f"{name}.ipynb")
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    opened = Notebook(context.new_page(), server)
    watch(opened.page, opened)
    # a workspace of its own: JupyterLab opens again what stood open in the same one
    opened.page.goto(server.address(f"lab/workspaces/{name}/tree/{name}.ipynb"), timeout=PATIENCE)
    opened.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=PATIENCE)
    opened.idle()
    return opened


def watch(page: Any, seen: Notebook) -> None:
    """Let a page reach loopback only, and note what it tried beyond that and what its console reports.

    Args:
        page: Before its first address.
        seen: Where it is noted.
    """

    elsewhere = re.compile(r"^(?!(http|ws)://127\.0\.0\.1:|data:|blob:)")

    def refuse(route: Any) -> None:
        seen.outside.append(route.request.url)
        route.abort()

    page.context.route(elsewhere, refuse)
    page.on("websocket", lambda socket: seen.outside.append(socket.url) if elsewhere.match(socket.url) else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
