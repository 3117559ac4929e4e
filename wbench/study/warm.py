"""What a worker has loaded before its first call, so that the time of a run is that of the run alone. Imports only."""

from importlib import import_module

for _name in (
    "pandas", "pyarrow.parquet", "safetensors.torch", "torch._dynamo", "torch.fx.experimental.proxy_tensor",
    "torch.utils.flop_counter", "wbench.study.worker", "wbench.tasks",
):  # fmt: skip
    import_module(_name)
