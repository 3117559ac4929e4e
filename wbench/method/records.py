"""Small records of the contract: a paper, and what a population method made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Attributes:
        title: Title of the paper.
        authors: First authors, as cited.
        year: Year of the version followed.
        arxiv: arXiv identifier, empty when there is none.
        venue: Where it appeared, empty when unknown.
    """

    title: str
    authors: str
    year: int
    arxiv: str = ""
    venue: str = ""

    @property
    def url(self) -> str:
        """Address of the abstract, empty without an arXiv identifier."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass
class Merged:
    """What a population method made of its members.

    Attributes:
        models: One model per task, or a single one that serves all.
        nbytes: Bytes that must be stored for all of them.
        extra: Whatever else the method reports.
    """

    models: list[nn.Module]
    nbytes: int
    extra: dict[str, Any] = field(default_factory=dict)

    def model_for(self, index: int) -> nn.Module:
        """Return the model that serves a task.

        Args:
            index: Index of the task, in the order of the members.
        """
        return self.models[index if len(self.models) > 1 else 0]
