"""What stands over controls: headings, and who a method is."""

from __future__ import annotations

import html

import ipywidgets as ipw

from wbench.method import Method

STAGES = {
    "parametrization": "rewrites a weight on every forward pass", "optimizer": "rewrites gradient, state or step",
    "adapter": "trainable parameters beside frozen ones", "transform": "rewrites a trained model once",
    "layer": "replaces modules", "objective": "rewrites the loss or the data", "population": "works over many models",
    "estimator": "statistics outside a network", "pipeline": "several of these",
}  # fmt: skip


def heading(text: str) -> ipw.HTML:
    """Return a heading.

    Args:
        text: Its words.
    """
    return ipw.HTML(f"<h3 class='wbench-heading'>{html.escape(text)}</h3>")


def card(method: Method) -> str:
    """Return who a method is, as HTML: title, stage, paper, what the code follows.

    Args:
        method: The method.
    """
    cls = type(method)
    paper = cls.paper
    source = f"{html.escape(paper.authors.split(',')[0])} et al., {paper.year}" if paper else ""
    if paper and paper.arxiv:
        link = f"https://arxiv.org/abs/{html.escape(paper.arxiv)}"
        source = f"<a href='{link}' target='_blank' rel='noreferrer'>{source}</a>"
    follows = {"paper": "follows the paper", "code": "follows the authors' code"}.get(cls.fidelity, "in part inferred")
    what = html.escape(STAGES.get(cls.stage, cls.stage))
    return f"<b>{html.escape(cls.title)}</b><br><small>{what}; {source}{'; ' if source else ''}{follows}</small>"
