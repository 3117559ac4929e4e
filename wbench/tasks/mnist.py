"""28 x 28 digits: 5,000 to train on, 1,000 to test on (our own split of MNIST's training part)."""

from __future__ import annotations

from typing import ClassVar

from wbench.datasets import Images, load_mnist
from wbench.tasks._pictures import Pictures


class Mnist(Pictures):
    """Classify handwritten digits of 28 x 28 pixels, values in [0, 1].

    Usage:
        `wb.train("mnist", scale="cpu")`
    """

    id: ClassVar[str] = "mnist"
    title: ClassVar[str] = "Handwritten digits, 28 x 28 (MNIST subset)"

    @staticmethod
    def load() -> Images:
        """Return the images."""
        return load_mnist()
