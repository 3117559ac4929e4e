"""The workbench through Voila, as people without Jupyter see it: run, slide, stop, copy, save; offline, with the token."""

import os
import re
import socket
import subprocess
import sys

import pytest
from lab import GRAPHS, ROOT, Notebook, need_browser, watch

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    need_browser()
    pytest.importorskip("voila")
    home = tmp_path_factory.mktemp("app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "wbench.cli", "app", "--method", "galore", f"--port={port}", "--no-browser"]
    process = subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        yield re.search(r"http://\S+", said)[0].rstrip(";")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def opened(address, browser):
    context = browser.new_context(viewport={"width": 1400, "height": 1700}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    seen = Notebook(page, None)
    watch(page, seen)
    for _ in range(120):
        try:
            page.goto(address, timeout=120_000)
            break
        except Exception as error:  # it does not listen yet
            if "ERR_CONNECTION_REFUSED" not in str(error):
                raise
            page.wait_for_timeout(500)
    seen.errors.clear()
    seen.shows_workbench()
    return seen


@pytest.fixture
def page(opened):
    yield opened
    opened.check()


def test_run_fills_every_panel(page):
    page.put("steps (steps)", "60")
    page.press("Run")
    page.says("finished")
    page.wait(f"{GRAPHS}.length === 4 && {GRAPHS}.every(gd => gd.calcdata?.length)", seconds=60)
    page.wait("document.querySelector('.wbench-step').innerText.trim() === '60'")
    assert page.page.locator(".wbench-workbench tbody tr:has(input)").count() == 1


def test_a_slider_moves_training_stops_and_two_runs_lie_over_one_another(page):
    knob = page.page.locator(".wbench-knob", has=page.page.get_by_label("rank", exact=True)).first
    before = page.page.get_by_label("rank", exact=True).first.input_value()
    knob.locator(".noUi-handle").press("ArrowRight")
    page.wait(
        f"[...document.querySelectorAll('.wbench-knob input')].some(i => i.labels?.[0]?.innerText === 'rank' && i.value !== '{before}')"
    )
    page.put("steps (steps)", "9000")
    page.press("Run")
    page.says("step")
    page.press("Stop")
    page.says("stopped")
    page.wait("document.querySelectorAll('.wbench-workbench tbody tr:has(input)').length === 2")
    for box in page.page.locator(".wbench-workbench tbody input[type=checkbox]").all():
        box.check()
    page.wait("document.querySelectorAll('.wbench-key').length === 2")


def test_scrub_copy_and_save(page):
    handle = page.page.locator(".wbench-steps input")
    handle.press("Home")
    page.wait("document.querySelector('.wbench-workbench').innerText.includes('Weights at step 0')")
    page.press("Copy as Python")
    assert "GaLore(" in page.copied("wb.train(")
    with page.page.expect_download() as caught:
        page.page.locator(".wbench-view").first.get_by_role("button", name="PNG").click()
    assert caught.value.path().read_bytes().startswith(b"\x89PNG")


def test_without_the_token_there_is_no_workbench(address, opened):
    page = opened.page.context.browser.new_context().new_page()
    page.goto(address.partition("?")[0])
    assert "/login" in page.url
    assert page.locator(".wbench-workbench").count() == 0
