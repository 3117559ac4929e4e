"""What a worker loads before its first call, so that the time of a run is that of the run alone."""

from __future__ import annotations

import torch.utils.flop_counter

import wbench.study.worker

__all__ = ["torch", "wbench"]
