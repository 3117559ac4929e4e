"""Progress of training inside a notebook's kernel, shown in the terminal of whoever makes the report."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from wbench.progress import CHANNEL


@contextlib.contextmanager
def relayed(show: bool = True) -> Iterator[None]:
    """Pass on to standard error what progress bars write in kernels that are started meanwhile.

    Args:
        show: Whether to; else they write nothing, so that the page shows no half-drawn bars either.

    Yields:
        Nothing.
    """
    if not show:
        os.environ[CHANNEL] = os.devnull
        try:
            yield
        finally:
            os.environ.pop(CHANNEL, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        channel = Path(folder) / "progress"
        channel.touch()
        os.environ[CHANNEL] = str(channel)
        done = threading.Event()
        relay = threading.Thread(target=_relay, args=(channel, done), daemon=True)
        relay.start()
        try:
            yield
        finally:
            done.set()
            relay.join(timeout=2)
            os.environ.pop(CHANNEL, None)


def _relay(channel: Path, done: threading.Event) -> None:
    with open(channel, encoding="utf-8", errors="replace") as file:
        while not done.wait(0.2):
            text = file.read()
            if text:
                sys.stderr.write(text)
                sys.stderr.flush()
