"""What a worker has loaded before its first call, so that the time of a run is that of the run alone. Imports only."""

from __future__ import annotations

import pandas
import pyarrow.parquet
import safetensors.torch
import torch._dynamo
import torch.fx.experimental.proxy_tensor
import torch.utils.flop_counter

import wbench.study.worker
import wbench.tasks

__all__ = ["pandas", "pyarrow", "safetensors", "torch", "wbench"]
