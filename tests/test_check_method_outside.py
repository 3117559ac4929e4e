"""The contract test of population and estimator methods passes tiny right ones and names the broken part of wrong ones."""

import copy
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from broken import CALLS, Tiny, broken, check_all
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import NearestCentroid

import wbench as wb
from wbench.errors import CompositionError, FitError
from wbench.method import EstimatorMethod, Merged, Population
from wbench.testing import ContractError, check_method


class Mean(Tiny, Population):
    """The mean of the members."""

    id: ClassVar[str] = "mean"
    dtypes: ClassVar = (torch.float32, torch.bfloat16)

    def combine(self, members, base=None, ctx=None):
        if not members:
            raise CompositionError("mean combines models; pass members")
        states = {role: model.state_dict() for role, model in members.items()}
        mean = copy.deepcopy(base)
        for name, value in mean.state_dict().items():
            for role, state in states.items():
                if state[name].shape != value.shape:
                    raise FitError(f"mean: {name} of '{role}' has shape {tuple(state[name].shape)}")
            value.copy_(sum(state[name] for state in states.values()) / len(states))
        return self.stored(mean)

    def stored(self, *models):
        return Merged(list(models), sum(p.numel() * p.element_size() for m in models for p in m.parameters()))


def then(change):
    def combine(self, members, base=None, ctx=None):
        return change(self, Mean.combine(self, members, base, ctx), members, base)

    return broken(Mean, combine=combine)


def spoil(model, value):
    with torch.no_grad():
        next(model.parameters())[0] = value


def after(change):
    def changed(self, merged, members, base):
        change(merged, members, base)
        return merged

    return then(changed)


def drawn(merged, members, base):
    CALLS.append("drawn")
    spoil(merged.models[0], float(len(CALLS)))


def unchecked(self, members, base=None, ctx=None):
    return self.stored(copy.deepcopy(base)) if members else Mean.combine(self, members, base, ctx)


def unnamed(self, members, base=None, ctx=None):
    try:
        return Mean.combine(self, members, base, ctx)
    except FitError:
        raise FitError("mean: shapes differ") from None


def raw(self, members, base=None, ctx=None):
    try:
        return Mean.combine(self, members, base, ctx)
    except FitError:
        raise RuntimeError("sizes must match") from None


@check_all([
    (after(lambda merged, members, base: spoil(merged.models[0], torch.inf)), "weights that are not finite"),
    (after(lambda merged, members, base: spoil(members["second"], 1.0)), "changes the second model"),
    (after(lambda merged, members, base: spoil(base, 1.0)), "changes the base model"),
    (then(lambda self, merged, members, base: self.stored(next(iter(members.values())))), "shares memory"),
    (after(drawn), "combine gives other bits"),
    (then(lambda self, merged, members, base: Merged(merged.models, merged.nbytes // 2)), "nbytes=.*, but the models take"),
    (then(lambda self, merged, members, base: self.stored(*merged.models, copy.deepcopy(base))), "2 models for 3 members"),
    (then(lambda self, merged, members, base: self.stored(merged.models[0][:3])), "the model for 'first' gives outputs of"),
    (then(lambda self, merged, members, base: Merged([], 0)), "combine gives no model"),
    (then(lambda self, merged, members, base: self.stored(merged.models[0].float())), "bfloat16 combine to another dtype"),
    (broken(Mean, combine=unchecked), "a member 'misshapen' with a parameter of another shape is accepted"),
    (broken(Mean, combine=unnamed), "does not name 'misshapen'"),
    (broken(Mean, combine=raw), "RuntimeError instead of an error that says what to do"),
    (broken(Mean, combine=lambda self, members, base=None, ctx=None: Mean.combine(self, members or {"base": base}, base)),
     "no members is accepted"),
    (broken(Mean, observe=lambda *_: pd.DataFrame()), "empty frame"),
    (broken(Mean, packed_bytes=lambda *_: {"bytes": 1}), "packed_bytes names"),
])  # fmt: skip
def test_what_a_population_method_must_keep(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)


def test_a_population_method_passes_with_one_model_or_one_a_member():
    assert check_method(Mean)[-3:] == ["population", "in_dtypes", "refusals"]
    check_method(
        then(lambda self, merged, members, base: self.stored(*(copy.deepcopy(merged.models[0]) for _ in members)))
    )


class Centroid(Tiny, EstimatorMethod):
    """The nearest shrunken centroid."""

    id: ClassVar[str] = "centroid"
    shrink_threshold: float = wb.knob(0.1, 0.0, 10.0, slider=(0.0, 1.0), doc="How far centroids are shrunk.")

    def estimator(self, ctx=None):
        return NearestCentroid(shrink_threshold=self.shrink_threshold)


class Own(ClassifierMixin, BaseEstimator):
    """Predicts the most frequent class; `shrink_threshold` is kept."""

    def __init__(self, shrink_threshold=0.1):
        self.shrink_threshold = shrink_threshold

    def fit(self, x, y):
        if not np.isfinite(x).all():
            raise ValueError("NaN")
        self.best_ = np.bincount(y).argmax()
        return self

    def predict(self, x):
        if not np.isfinite(x).all():
            raise ValueError("NaN")
        return np.full(len(x), self.best_)


def own(**attributes):
    cls = type("Estimator", (Own,), {"__doc__": Own.__doc__, **attributes})
    return broken(Centroid, estimator=lambda self: cls(self.shrink_threshold))


def rewrites(self, x, y):
    Own.fit(self, x, y)
    x[0, 0] += 1
    return self


def copies(self, shrink_threshold=0.1):
    self.shrink_threshold = shrink_threshold + 1


def undocumented(self, shrink_threshold=0.1, secret=1):
    self.shrink_threshold, self.secret = shrink_threshold, secret


def numbered(self, x):
    CALLS.append("numbered")
    return Own.predict(self, x) + len(CALLS)


@check_all([
    (own(__init__=copies), "sklearn cannot clone"),
    (own(fit=rewrites), "changes the data"),
    (own(predict=numbered), "other predictions"),
    (own(predict=lambda self, x: Own.predict(self, x)[1:]), "63 predictions for 64 samples"),
    (own(predict=lambda self, x: Own.predict(self, x) * np.nan), "predictions are not finite"),
    (own(predict_proba=lambda self, x: np.full((len(x), 8), np.inf)), "predictions are not finite"),
    (own(fit=lambda self, x, y: Own.fit(self, np.nan_to_num(x), y)), "fit accepts NaN"),
    (own(predict=lambda self, x: Own.predict(self, np.nan_to_num(x))), "predict accepts NaN"),
    (own(__init__=undocumented), "parameter 'secret' is no field and not in its docstring"),
    (broken(Centroid, estimator=lambda self: Own()), "field 'shrink_threshold' does not reach the estimator"),
    (broken(Centroid, estimator=lambda self: BaseEstimator()), "fit|predict"),
])  # fmt: skip
def test_what_an_estimator_must_keep(cls, message):
    with pytest.raises(ContractError, match=message):
        check_method(cls)


def test_an_estimator_passes():
    assert check_method(Centroid)[-2:] == check_method(own())[-2:] == ["estimator", "parameters"]
