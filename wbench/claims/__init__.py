"""Claims: each paper's statement as an experiment, with a negative control."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from wbench.claims.checks import Check, CheckResult
from wbench.claims.claim import Claim, ClaimResult
from wbench.claims.verdict import Verdict, judge
from wbench.errors import UnknownNameError, closest
from wbench.method import registry
from wbench.study import Arm


@functools.cache
def all() -> dict[str, Claim]:
    """Return every claim by its method's id: ours, and those that plug-in methods bring beside them as `claim`."""
    found: dict[str, Claim] = {}
    for info in pkgutil.iter_modules(__path__, prefix="wbench.claims."):
        claim = getattr(importlib.import_module(info.name), "claim", None)
        if isinstance(claim, Claim):
            found[claim.id] = claim
    for name, cls in registry().items():
        claim = getattr(importlib.import_module(cls.__module__), "claim", None)
        if isinstance(claim, Claim):
            found.setdefault(name, claim)
    return found


def get(method_id: str) -> Claim:
    """Return a method's claim.

    Args:
        method_id: The method's id.

    Returns:
        The claim.

    Raises:
        UnknownNameError: If the method has none; names the closest.
    """
    found = all()
    if method_id not in found:
        raise UnknownNameError(f"there is no claim for '{method_id}'.{closest(method_id, found)}")
    return found[method_id]


__all__ = ["Arm", "Check", "CheckResult", "Claim", "ClaimResult", "Verdict", "all", "get", "judge"]
