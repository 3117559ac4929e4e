"""What only the browser knows or can do: theme, width, clipboard, downloads, names of sliders."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from wbench.workbench.widgets._source import script


class Face(anywidget.AnyWidget):
    """One a page, without a picture of its own; as wide as what it stands in.

    `names` gives the handles of ipywidgets' sliders, which have none, an accessible name, and a value in real units where a logarithmic
    slider would be read as its exponent: CSS class of the slider to `{"label": ..., "valuetext": ...}`, two texts for two handles.

        face.names = {"knob-lr": {"label": "learning rate", "valuetext": "0.001"}}
    """

    _esm = script("face.js")

    theme = traitlets.Enum(("light", "dark"), "light", help="Of the page; set by the browser.").tag(sync=True)
    width = traitlets.Int(0, help="Pixels of the container; set by the browser.").tag(sync=True)
    names = traitlets.Dict(help="CSS class to label and valuetext.").tag(sync=True)
    busy = traitlets.Bool(False, help="Shown as aria-busy on this widget's element.").tag(sync=True)
    copied = traitlets.Bool(
        None, allow_none=True, help="Whether the last copy reached the clipboard; None: not known yet."
    ).tag(sync=True)

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"layout": {"width": "100%", "height": "0", "margin": "0"}, **options})

    def copy(self, text: str) -> None:
        """Put a text on the user's clipboard; `copied` tells whether it got there.

        Args:
            text: Any.
        """
        self.copied = None
        self.send({"kind": "copy", "text": text})

    def download(self, name: str, text: str, mime: str = "text/plain") -> None:
        """Save a text as a file of the user.

        Args:
            name: Of the file.
            text: Its content.
            mime: Its type.
        """
        self.send({"kind": "download", "name": name, "text": text, "mime": mime})
