"""An estimator method on the batch as arrays."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import torch

from wbench.testing.other import other_values
from wbench.testing.subject import Subject, require


def estimator(subject: Subject) -> None:
    """Check that the estimator can be cloned, fits and predicts with the same bits twice, and leaves its inputs alone.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    import numpy as np
    from sklearn.base import clone

    own = subject.method.estimator()
    try:
        copied = clone(own)
    except Exception as error:  # whatever stands in the way, sklearn cannot tune or pipe it
        require(False, subject, f"sklearn cannot clone the estimator: {error}")
    same = _text(own.get_params()) == _text(copied.get_params())
    require(same, subject, "sklearn's clone has other parameters")
    inputs, targets = _arrays(subject)
    kept = inputs.copy(), targets.copy()
    predictions = [_fitted(subject, made, inputs, targets) for made in (own, copied)]
    for x, old in zip((inputs, targets), kept, strict=True):
        require(np.array_equal(x, old), subject, "fit or predict changes the data that it is given")
    for found in predictions[0]:
        require(len(found) == len(inputs), subject, f"{len(found)} predictions for {len(inputs)} samples")
        finite = found.dtype.kind not in "fc" or bool(np.isfinite(found).all())
        require(finite, subject, "predictions are not finite")
    for one, other in zip(*predictions, strict=True):
        require(np.array_equal(one, other), subject, "the same seed gives other predictions")
    broken = inputs.copy()
    broken[0, 0] = np.nan
    _refuses(subject, "fit", lambda: subject.method.estimator().fit(broken, targets))  # type: ignore[attr-defined]
    _refuses(subject, "predict", lambda: own.predict(broken))  # type: ignore[attr-defined]


def parameters(subject: Subject) -> None:
    """Check that the estimator's parameters are the method's fields or documented, and that every field reaches it.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    made = subject.method.estimator()
    text = f"{inspect.getdoc(type(made)) or ''} {inspect.getdoc(type(made).__init__) or ''}"
    for name in made.get_params(deep=False):
        known = name in subject.cls.knobs() or re.search(rf"\b{re.escape(name)}\b", text)
        require(bool(known), subject, f"the estimator's parameter '{name}' is no field and not in its docstring")
    mine = _text(made.get_params())
    for name in subject.cls.knobs():
        others = [_text(other.estimator().get_params()) for other in other_values(subject.method, name)]
        require(
            not others or any(text != mine for text in others), subject, f"field '{name}' does not reach the estimator"
        )


def _arrays(subject: Subject) -> tuple[Any, Any]:
    inputs, targets = subject.batch[:2]
    return inputs.flatten(1).numpy().copy(), targets.numpy().copy()


def _fitted(subject: Subject, made: Any, inputs: Any, targets: Any) -> list[Any]:
    import numpy as np

    require(hasattr(made, "predict"), subject, "the estimator cannot predict")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        made.fit(inputs, targets)
        found = [made.predict(inputs)]
        if hasattr(made, "predict_proba"):
            found.append(made.predict_proba(inputs))
    return [np.asarray(values) for values in found]


def _refuses(subject: Subject, what: str, call: Any) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except ValueError:  # scikit-learn's own, and every error of ours on data
        return
    require(False, subject, f"{what} accepts NaN")


def _text(params: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in params.items()}
