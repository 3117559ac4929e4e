"""The contract as a test: `check_method` runs on every method of ours and on any plug-in.

Usage:
    `check_method(MyMethod)` in a test; `check_method(MyMethod, model=my_model, batch=(x, y))` on a model it fits;
    `check_method(MyMethod, task=my_task)` where it builds an architecture; `splits={"unlabelled": split}` where it needs more data.
"""

from wbench.testing.check import check_method
from wbench.testing.subject import ContractError, small_batch, small_model

__all__ = ["ContractError", "check_method", "small_batch", "small_model"]
