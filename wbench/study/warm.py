"""What the server of workers has loaded before it forks the first one, so that the time of a run is that of the run alone."""

import atexit
import os
import sys
from importlib import import_module

for _name in (
    "pandas", "pyarrow.parquet", "safetensors.torch", "torch._dynamo", "torch.fx.experimental.proxy_tensor",
    "torch.utils.flop_counter", "wbench.study.worker", "wbench.tasks",
):  # fmt: skip
    import_module(_name)

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    # Taking all this apart takes a second, in which workers that only the kernel can reach would outlive the program.
    atexit.register(os._exit, 0)
