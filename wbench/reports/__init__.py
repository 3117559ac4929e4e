"""Reports: a parametrised notebook becomes one interactive HTML file and a verdict."""

from wbench.reports.build import Report, copy_notebooks, execute, notebooks_dir, report, sweep
from wbench.reports.display import Figure, Html
from wbench.reports.html import to_html

__all__ = ["Figure", "Html", "Report", "copy_notebooks", "execute", "notebooks_dir", "report", "sweep", "to_html"]
