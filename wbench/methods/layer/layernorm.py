"""A norm before every nonlinearity and nothing else: the normalising half of Normalize-and-Project.

Jimmy Lei Ba, Jamie Ryan Kiros, Geoffrey Hinton, 2016, arXiv:1607.06450. The architecture is the one that NaP builds (biases
of the normalised layers dropped, head untouched); the weights are free to grow.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from wbench.method import Paper, Stage, knob
from wbench.methods.optimizer.nap import NaP


class LayerNormOnly(NaP):
    """Insert norms before nonlinearities; project nothing.

    Usage:
        `model = LayerNormOnly().prepare(model)`
    """

    id: ClassVar[str] = "layernorm"
    title: ClassVar[str] = "Layer normalization alone"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper("Layer Normalization", "Ba, Kiros, Hinton", 2016, "1607.06450")
    stage: ClassVar[Stage] = "layer"
    topics: ClassVar[tuple[str, ...]] = ("normalization",)
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    project: bool = knob(False, doc="Rescale the weights; on: NaP itself.")
