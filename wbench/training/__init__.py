"""Training: one model in one loop (`train`), or somebody else's loop (`watch`)."""

from wbench.training.device import resolve_device
from wbench.training.finite import Diverged
from wbench.training.recorder import PROBES
from wbench.training.restore import methods_of, restore, restore_estimator, task_of
from wbench.training.session import assemble, evaluate
from wbench.training.train import train
from wbench.training.watch import Watched, watch

__all__ = [
    "PROBES",
    "Diverged",
    "Watched",
    "assemble",
    "evaluate",
    "methods_of",
    "resolve_device",
    "restore",
    "restore_estimator",
    "task_of",
    "train",
    "watch",
]
