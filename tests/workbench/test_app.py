"""The workbench as a web page: refused before anything starts, parameters are data, one server with a token on this machine."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

import wbench as wb
from wbench.errors import KnobError, MissingPackageError
from wbench.reports import notebooks_dir
from wbench.workbench import app

HOSTILE = '"]); import os; os.system("touch pwned") #\n\'\'\'"""\nopen("pwned", "w")\n\\'
GIVEN = {"task": "digits", "method": "galore", "scale": "smoke", "store": "runs"}


def cli(*args):
    command = [sys.executable, "-m", "wbench.cli", "app", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_is_described():
    done = cli("--help")
    assert done.returncode == 0
    for option in ("--task", "--method", "--scale", "--port", "--no-browser", "--store"):
        assert option in done.stdout


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none_is_refused_in_one_line(port):
    done = cli("--port", port, "--no-browser")
    assert done.returncode == 1
    assert done.stderr == f"error: --port {port} is not allowed; allowed: 1 to 65535\n"
    assert done.stdout == ""


def test_without_voila_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "wbench\[lab\]"'):
        app.serve(GIVEN)


@pytest.mark.parametrize("value", ["digits", HOSTILE])
def test_the_notebook_has_its_parameters_as_data_and_ends_with_the_panel(tmp_path, value):
    given = {**GIVEN, "task": value, "store": value}
    made = nbformat.read(app.prepared(tmp_path, given), as_version=4)
    nbformat.validate(made)
    assert {cell.cell_type for cell in made.cells} == {"code"}
    defaults, injected, panel = made.cells
    assert "parameters" in defaults.metadata.tags
    body = ast.parse(injected.source).body
    assert {node.targets[0].id: ast.literal_eval(node.value) for node in body} == given
    assert panel.source == nbformat.read(notebooks_dir() / "explore.ipynb", as_version=4).cells[2].source
    assert "train" not in panel.source


def test_a_parameter_that_looks_like_the_panel_is_not_taken_for_it(tmp_path):
    made = nbformat.read(app.prepared(tmp_path, {**GIVEN, "task": "wb.Workbench("}), as_version=4)
    assert [("wb.Workbench(" in cell.source) for cell in made.cells] == [False, True, True]


def arrived(address):
    """Where an address leads to in the end; empty where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=30) as page:
            return page.url
    except urllib.error.HTTPError as error:
        return error.url
    except (urllib.error.URLError, ConnectionError):
        return ""


@pytest.mark.slow
def test_the_server_is_on_this_machine_alone_wants_its_token_and_ends_with_ctrl_c(tmp_path, monkeypatch):
    pytest.importorskip("voila")
    package = os.path.dirname(os.path.dirname(wb.__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))
    monkeypatch.chdir(tmp_path)
    seen = {}

    def ready(process, address):
        end, seen["address"] = time.monotonic() + 60, address
        bare, _, token = address.partition("?")
        while not arrived(f"{bare}login") and time.monotonic() < end:
            time.sleep(0.3)
        for page in ("", "api/kernels", "voila/kernels/x"):
            seen[f"/{page}"] = arrived(bare + page)
        seen["with"] = arrived(f"{bare}api/kernels?{token}")
        server = psutil.Process(process.pid)
        seen["hosts"] = {link.laddr.ip for link in server.net_connections("tcp") if link.status == "LISTEN"}
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        seen["pid"] = process.pid

    app.serve(GIVEN, port=18_866, browser=False, token="secret-of-this-test", ready=ready)
    assert seen["address"] == "http://127.0.0.1:18866/?token=secret-of-this-test"
    for page in ("/", "/api/kernels", "/voila/kernels/x"):
        assert "/login?next=" in seen[page]
    assert "/login" not in seen["with"] != ""
    assert seen["hosts"] <= {"127.0.0.1"}
    assert not psutil.pid_exists(seen["pid"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_command_ends_the_server_and_its_kernels(tmp_path, number):
    pytest.importorskip("voila")
    package = os.path.dirname(os.path.dirname(wb.__file__))
    env = {**os.environ, "PYTHONPATH": package, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "wbench.cli", "app", f"--port={18_870 + number}", "--no-browser"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[^\s;]+", process.stdout.readline())[0]
        cookies = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        end, page = time.monotonic() + 90, ""
        while not page and time.monotonic() < end:
            try:
                page = cookies.open(address, timeout=60).read(2000)  # the notebook, which starts a kernel
            except OSError:
                time.sleep(0.3)
        while time.monotonic() < end:
            ours = psutil.Process(process.pid).children(recursive=True)
            if any("ipykernel" in " ".join(one.cmdline()) for one in ours):
                break
            time.sleep(0.2)
        else:
            pytest.fail("no kernel was started")
        process.send_signal(number)
        assert process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
        assert not psutil.wait_procs(ours, timeout=20)[1]
        assert number == signal.SIGKILL or not list(tmp_path.glob("wbench-app-*"))
    finally:
        process.kill()
        process.wait()


def test_a_token_that_is_not_given_is_new_each_time(monkeypatch):
    seen = []

    class Server:
        def __init__(self, command, env, stdin):
            folder = next(part for part in command if part.startswith("--Voila.config_file_paths=")).partition("=")[2]
            seen.append(json.loads((Path(folder) / "voila.json").read_text())["Voila"]["token"])
            assert not [part for part in command if seen[-1] in part]  # other users see the command line
            assert Path(folder).stat().st_mode & 0o077 == 0
            assert "--Voila.ip=127.0.0.1" in command
            assert str(app.SHARE) in env["JUPYTER_PATH"]

        def wait(self, timeout=None):
            raise KeyboardInterrupt if timeout is None else subprocess.TimeoutExpired("x", timeout)

        def terminate(self):
            seen.append("ended")

        def kill(self):
            seen.append("killed")

    monkeypatch.setattr(app.subprocess, "Popen", Server)
    for _ in range(2):
        assert app.serve(GIVEN, browser=False, ready=lambda *_: None) == 0
    assert seen[1:3] == ["ended", "killed"]
    assert seen[0] != seen[3]
    assert len(seen[0]) > 30


def test_ports_are_checked_before_the_notebook_is_written():
    with pytest.raises(KnobError, match="--port 70000"):
        app.serve(GIVEN, port=70_000)
