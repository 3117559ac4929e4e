"""Where progress bars are drawn: standard error, or the terminal of a report that runs this process as a kernel."""

from __future__ import annotations

import os
import sys
from typing import Any

CHANNEL = "WBENCH_PROGRESS"
PAUSE = 1.0  # seconds between lines where they may end up one below the other


def bar(**options: Any) -> Any:
    """Return a tqdm bar.

    Args:
        **options: As for tqdm.

    Returns:
        The bar.
    """
    from tqdm import tqdm

    channel = os.environ.get(CHANNEL)
    if channel and os.path.exists(channel):
        return tqdm(file=open(channel, "a", encoding="utf-8", buffering=1), mininterval=PAUSE, **options)
    return tqdm(file=sys.stderr, mininterval=0.1 if sys.stderr.isatty() else PAUSE, **options)
