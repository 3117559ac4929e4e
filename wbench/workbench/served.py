"""Voila as a process that ends with the one that started it, however that ends; it ends its kernels then."""

from __future__ import annotations

import os
import signal
import sys
import threading


def follow() -> None:
    """Wait until standard input ends, as it does with the process that holds its other end, and end in good order."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    from voila.app import main

    threading.Thread(target=follow, daemon=True).start()
    main()
