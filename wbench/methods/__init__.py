"""The methods, one file per paper, filed by where they act; this file is the list of their classes."""

from wbench.method.registry import get, registry
from wbench.methods.parametrization.weight_compander import WeightCompander


def all() -> dict[str, type]:  # noqa: A001
    """Return every method class by id: ours, baselines and plug-ins."""
    return dict(registry())


__all__ = ["WeightCompander", "all", "get"]
