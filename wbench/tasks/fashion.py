"""28 x 28 pictures of clothes: 5,000 to train on, 1,000 to test on (subsets of Fashion-MNIST's two parts)."""

from __future__ import annotations

from typing import ClassVar

from wbench.datasets import Images, load_fashion
from wbench.tasks._pictures import Pictures


class Fashion(Pictures):
    """Classify pictures of clothes of 28 x 28 pixels, values in [0, 1].

    Usage:
        `wb.train("fashion", scale="cpu")`
    """

    id: ClassVar[str] = "fashion"
    title: ClassVar[str] = "Clothes, 28 x 28 (Fashion-MNIST subset)"

    @staticmethod
    def load() -> Images:
        """Return the images."""
        return load_fashion()
