"""What an estimator has learnt, as named tensors, and back: without pickle.

What is learnt stands in attributes that end in `_`: numbers, arrays, lists of arrays, estimators, and lists of estimators.
The list `models_` is rebuilt from clones of the parameter `models`, pairs of name and estimator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from torch import Tensor

from wbench.errors import FitError

KINDS = "bifu"  # of arrays that a tensor holds


def arrays_of(estimator: BaseEstimator) -> dict[str, Tensor]:
    """Return what an estimator has learnt, as far as it is numbers.

    Args:
        estimator: Fitted.

    Returns:
        Dotted attribute path, e.g. `models_.0.coef_`, to tensor.
    """
    return {name: torch.from_numpy(np.array(value)) for name, value in _walk(estimator) if _is_numbers(value)}


def not_arrays(estimator: BaseEstimator) -> list[str]:
    """Return what an estimator has learnt that is no numbers, and so is left out of `arrays_of`.

    Args:
        estimator: Fitted.

    Returns:
        Dotted attribute paths.
    """
    return [name for name, value in _walk(estimator) if not _is_numbers(value)]


def _walk(estimator: BaseEstimator, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(estimator).items():
        if name.startswith("_") or not name.endswith("_"):
            continue
        parts = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, part in parts:
            key = f"{prefix}{name}" if index is None else f"{prefix}{name}.{index}"
            if isinstance(part, BaseEstimator):
                yield from _walk(part, f"{key}.")
            else:
                yield key, part


def _is_numbers(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic | np.ndarray) and np.asarray(value).dtype.kind in KINDS


def load_arrays(estimator: BaseEstimator, state: Mapping[str, Tensor]) -> BaseEstimator:
    """Give an unfitted estimator what another of the same settings has learnt.

    Args:
        estimator: Unfitted; changed in place.
        state: From `arrays_of`.

    Returns:
        The estimator.

    Raises:
        FitError: If a list of estimators is to be filled and the estimator has no parameter `models` of that length.
    """
    lists: dict[str, dict[int, Any]] = {}
    nested: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in state.items():
        name, _, rest = key.partition(".")
        index, _, inner = rest.partition(".")
        if not rest:
            setattr(estimator, name, tensor.item() if tensor.ndim == 0 else tensor.numpy())
        elif inner:
            nested.setdefault(name, {}).setdefault(int(index), {})[inner] = tensor
        else:
            lists.setdefault(name, {})[int(index)] = tensor.numpy()
    for name, found in lists.items():
        setattr(estimator, name, [found[index] for index in sorted(found)])
    for name, parts in nested.items():
        templates = list(getattr(estimator, name.removesuffix("_"), ()))
        if len(templates) != len(parts):
            raise FitError(
                f"{type(estimator).__name__}: {len(parts)} saved estimators of '{name}' do not fit its {len(templates)} templates"
            )
        setattr(estimator, name, [load_arrays(clone(templates[i][1]), parts[i]) for i in sorted(parts)])
    return estimator
