"""The contract as a test: `check_method` runs on every method of ours and on any plug-in.

Usage:
    `check_method(MyMethod)` in a test, or `check_method(MyMethod, model=my_model, batch=(x, y))` on a model it fits.
"""

from wbench.testing.check import check_method
from wbench.testing.subject import ContractError, small_batch, small_model

__all__ = ["ContractError", "check_method", "small_batch", "small_model"]
