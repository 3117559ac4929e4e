"""What a saved notebook shows when it is opened without a kernel: the last state of each panel as pictures."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import html
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from wbench.workbench.workbench import Workbench


SHEET = "one page of the run"
SCALE = 2.0  # pixels of a picture for a pixel on screen


def _give_back() -> None:
    # pictures of megabytes pass through the kernel after each run; glibc would keep the room that those of the last one took
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Still:
    """A second output below the panel, folded away, that a saved notebook keeps."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._images: dict[str, tuple[str, str]] = {}
        self._said = ""
        self._missing: set[str] = set()  # panels whose pictures have not come yet

    def place(self) -> None:
        """Make room for it below the panel."""
        from IPython.display import HTML, display

        self._handle = display(HTML(self._page()), display_id=True)

    def soon(self, bench: Workbench) -> None:
        """Take pictures of the panels: from the browser where there is one, else one page of the run itself.

        Args:
            bench: The workbench.
        """
        if self._handle is None:
            return
        _give_back()
        self._said = bench.board.shown[0].name if bench.board.shown else ""
        panels, self._images = bench.board.drawn(), {}
        self._missing = {title for title, _, _ in panels}
        for title, drawn, view in panels:
            caption = drawn.caption
            view.unobserve_all("png")
            view.observe(
                lambda change, title=title, caption=caption: self._arrived(title, caption, change["new"]), "png"
            )
            view.snapshot(SCALE)
        if not any(view.visible for _, _, view in panels):  # no browser, as far as it is known
            self._images = {SHEET: (sheet_of(bench), "Loss, weights, spectrum and relative updates.")}
            self._update()

    def _arrived(self, title: str, caption: str, png: str) -> None:
        if not png:  # it has been asked for
            return
        self._missing.discard(title)
        if png.startswith("data:image/png;base64,"):
            self._images.pop(SHEET, None)
            self._images[title] = (png, caption)
        if not self._missing and self._images:  # the page draws megabytes anew at each change: once is enough
            self._update()

    def _update(self) -> None:
        from IPython.display import HTML

        if self._handle is not None:
            self._handle.update(HTML(self._page()))

    def _page(self) -> str:
        shown = [
            f"<h4>{html.escape(title)}</h4><p>{html.escape(caption)}</p><img src='{source}' alt='{html.escape(title + '. ' + caption, quote=True)}' style='{_width(title, source)}max-width: 100%'>"
            for title, (source, caption) in self._images.items() if source
        ]  # fmt: skip
        if not shown:
            return "<details><summary>Kept pictures of the panel: none yet</summary></details>"
        return f"<details><summary>Kept pictures of the panel ({html.escape(self._said)}), for reading without a kernel</summary>{''.join(shown)}</details>"


def _width(title: str, source: str) -> str:
    # as wide as on screen: a panel of half of the width would be blown up
    if title == SHEET:
        return ""
    head = base64.b64decode(source.partition(",")[2][:32])  # PNG: width and height follow the first 16 bytes
    return f"width: {int.from_bytes(head[16:20], 'big') / SCALE:.0f}px; " if len(head) >= 20 else ""


def sheet_of(bench: Workbench) -> str:
    """Return a page of the first run on display as the data URL of a PNG; empty where there is none.

    Args:
        bench: The workbench.
    """
    from wbench import plots

    if not bench.board.shown or not bench.board.shown[0].runs:
        return ""
    first = bench.board.shown[0]
    run = first.runs[0]
    frames: dict[str, pd.DataFrame] = {
        name: run.probe(name) for name in ("histogram", "spectrum", "effective_lr") if name in run.probes
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = plots.sheet({"metrics": run.metrics, **frames}, Path(folder) / "sheet.png", title=first.name)
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
