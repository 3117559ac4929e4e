"""From an executed notebook to one HTML file that needs neither kernel nor network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "template"


def to_html(notebook: Path, target: Path, *, title: str) -> Path:
    """Write a notebook as one HTML file: one copy of plotly.js inside, code folded, no address outside asked for.

    Args:
        notebook: An executed notebook.
        target: The HTML file.
        title: Title of the page.

    Returns:
        `target`.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs
    from traitlets.config import Config

    import wbench

    config = Config()
    config.HTMLExporter.sanitize_html = False
    exporter = HTMLExporter(config=config, template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)])
    exporter.register_filter("filter_data_type", _first_of)
    resources: dict[str, Any] = {
        "wbench": {
            "title": title,
            "css": (TEMPLATE / "report.css").read_text(),
            "plotlyjs": get_plotlyjs(),
            "footer": f"Made by wbench {wbench.__version__}. Figures are interactive without a kernel; nothing on this page asks the network.",
        }
    }
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources=resources)
    target.write_text(body, encoding="utf-8")
    return target


def _first_of(data: dict[str, Any]) -> list[str]:
    for kind in ("text/html", "image/svg+xml", "image/png", "text/plain"):
        if kind in data:
            return [kind]
    return []
