"""The contract as a test: `check_method` runs on every method of ours and on any plug-in.

Usage:
    `check_method(MyMethod)` in a test, or `check_method(MyMethod, model=my_model, batch=(x, y))` on a model it fits.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import KnobError, WBenchError
from wbench.knobs import Knob
from wbench.method import Context, Method, check_composition
from wbench.recipe import Recipe
from wbench.splits import Batch, Splits, TensorSplit
from wbench.task import Task
from wbench.training.agreement import disagreement
from wbench.training.finite import Diverged
from wbench.training.loop import fit
from wbench.training.recorder import Recorder
from wbench.training.stack import CannotVectorizeError

STEPS = 6
POPULATION_STEPS = 50
TRAINED_STAGES = {"parametrization", "optimizer", "adapter", "transform", "layer", "objective", "pipeline"}


class ContractError(WBenchError, AssertionError):
    """A method does not keep the contract; the message says which part and how it differs."""


def small_model(seed: int = 0) -> nn.Module:
    """Return the small network that methods are checked on: 16-32-32-8 with ReLU.

    Args:
        seed: Decides its weights.

    Returns:
        A `torch.fx`-traceable module in float32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))


def small_batch(seed: int = 0) -> Batch:
    """Return 64 samples for `small_model`.

    Args:
        seed: Decides them.

    Returns:
        Inputs (64, 16) and classes (64,).
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(64, 16, generator=rng), torch.randint(8, (64,), generator=rng)


def check_method(
    cls: type[Method],
    *,
    model: Callable[[], nn.Module] | None = None,
    batch: Batch | None = None,
    method: Method | None = None,
) -> list[str]:
    """Check that a method keeps what it declares.

    Args:
        cls: The method's class.
        model: Makes a model that the method fits; default `small_model`.
        batch: A batch for that model; default `small_batch`.
        method: The settings to check with; default: the class's defaults.

    Returns:
        What was checked, in order.

    Raises:
        ContractError: At the first part that does not hold, naming it.
    """
    subject = _Subject(cls, method or cls(), model or small_model, batch or small_batch())
    parts = [_identity, _fields]
    if cls.stage in TRAINED_STAGES:
        parts += [_result, _dtypes, _round_trip, _deep_copy, _deterministic, _owners, _null, _vectorized]
    done = []
    for part in parts:
        part(subject)
        done.append(part.__name__.strip("_"))
    return done


class _Subject:
    def __init__(self, cls: type[Method], method: Method, model: Callable[[], nn.Module], batch: Batch) -> None:
        self.cls, self.method, self.model, self.batch = cls, method, model, batch
        self.recipe = method.recipe(Recipe(optimizer="adam", lr=1e-3, steps=STEPS, batch_size=len(batch[0])))

    def prepared(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Context, Task]:
        batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in self.batch)
        task = Task.from_arrays(*self.batch, model=self.model, test=(self.batch[0], self.batch[1]))
        splits = Splits(train=TensorSplit(*batch), test=TensorSplit(*batch), calibration=TensorSplit(*batch))
        ctx = Context(recipe=self.recipe, task=task, methods=(self.method,), total_steps=STEPS, splits=splits)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = self.method.build(task, ctx) if self.method.overrides("build") else self.model()
            model = model.to(dtype)
            ctx.splits = Splits(self.method.data(ctx.splits, model, ctx))
            return self.method.prepare(model, ctx), ctx, task

    def trained(self, dtype: torch.dtype = torch.float32, method: Method | None = None) -> tuple[nn.Module, Context]:
        if method is not None:
            return _Subject(self.cls, method, self.model, self.batch).trained(dtype)
        model, ctx, task = self.prepared(dtype)
        if not any(param.requires_grad for param in model.parameters()):
            return model, ctx
        owner = self.method if self.method.overrides("loss") else None

        def loss_of(model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
            return owner.loss(model, batch, ctx) if owner else task.loss(model(batch[0]).float(), batch)

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            fit(model, ctx, loss_of, Recorder(_Nothing(), probes=()), torch.Generator().manual_seed(0))
        return model, ctx

    def output(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        model.eval()
        with torch.no_grad():
            batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in self.batch)
            return self.method.infer(model, batch) if self.method.overrides("infer") else model(batch[0])


class _Nothing:
    def log(self, rows: list[dict[str, Any]]) -> None:
        """Keep nothing."""

    def table(self, name: str, frame: Any) -> None:
        """Keep nothing."""


def _require(holds: bool, subject: _Subject, what: str) -> None:
    if not holds:
        raise ContractError(f"{subject.cls.__name__}: {what}")


def _identity(subject: _Subject) -> None:
    cls = subject.cls
    _require(
        bool(cls.id) and cls.id.isidentifier() and cls.id == cls.id.lower(), subject, f"id={cls.id!r} is not snake case"
    )
    _require(bool(cls.title), subject, "has no title")
    _require(cls.paper is not None and bool(cls.paper.title), subject, "names no paper")
    _require(
        cls.stage in TRAINED_STAGES | {"population", "estimator"},
        subject,
        f"stage={cls.stage!r} is not one of the contract's",
    )
    _require(bool((cls.__doc__ or "").strip()), subject, "has no docstring")
    check_composition([subject.method])


def _fields(subject: _Subject) -> None:
    for name, spec in subject.cls.knobs().items():
        _require(bool(spec.doc), subject, f"field '{name}' has no doc")
        if spec.kind in {"int", "float"}:
            bounded = spec.low is not None and spec.high is not None
            _require(bounded and spec.slider is not None, subject, f"field '{name}' has no bounds")
            for value in _outside(spec):
                _refused(subject, name, value)
        elif spec.choices:
            _refused(subject, name, "no such choice" if spec.scale == "choice" else ("no such choice",))
    _refused(subject, "no_such_field", 1)
    text = {key: _text(value) for key, value in subject.method.fields().items() if value is not None}
    again = subject.cls.from_strings({key: value for key, value in text.items() if key not in {"layers", "trainable"}})
    same = {k: v for k, v in again.fields().items() if k not in {"layers", "trainable"}}
    _require(
        same == {k: v for k, v in subject.method.fields().items() if k in same}, subject, "fields do not survive text"
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _outside(spec: Knob) -> list[float]:
    values = [spec.low - 1, spec.high + 1] if spec.low is not None and spec.high is not None else []
    return [int(value) if spec.kind == "int" else float(value) for value in values]


def _refused(subject: _Subject, name: str, value: Any) -> None:
    try:
        subject.cls(**{name: value})
    except KnobError as error:
        _require(name in str(error), subject, f"the error for {name}={value!r} does not name the field: {error}")
        return
    _require(False, subject, f"{name}={value!r} was accepted")


def _result(subject: _Subject) -> None:
    model, ctx = subject.trained()
    before = subject.output(model)
    finished = subject.method.finish(model, ctx)
    state = {name: value.clone() for name, value in finished.state_dict().items()}
    _require(
        all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point()),
        subject,
        "weights after finish are not finite",
    )
    after = subject.output(finished)
    if subject.cls.stage != "transform" and not hasattr(subject.method, "quantize_weight"):
        _require(_close(before, after, 1e-4), subject, "finish changed the function of the trained model")
    fresh = subject.model()
    if subject.cls.result == "plain":
        own = fresh.state_dict()
        fits = own.keys() == state.keys() and all(own[name].shape == value.shape for name, value in state.items())
        _require(fits, subject, "result='plain', but the weights after finish do not load into the untouched model")
        fresh.load_state_dict(state)
    else:
        fresh = subject.method.restore(fresh, state)
    _require(_close(subject.output(fresh), after, 1e-5), subject, "the restored model differs from the finished one")


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * (1.0 + b.abs().max()))


def _dtypes(subject: _Subject) -> None:
    for dtype in subject.cls.dtypes:
        try:
            model, _ = subject.trained(dtype)
        except Diverged as error:
            raise ContractError(f"{subject.cls.__name__}: training in {dtype} is not finite: {error}") from None
        _require(bool(torch.isfinite(subject.output(model, dtype)).all()), subject, f"forward in {dtype} is not finite")
        for name, param in model.named_parameters():
            bad = param.grad is not None and not bool(torch.isfinite(param.grad).all())
            _require(not bad, subject, f"gradient of '{name}' in {dtype} is not finite")


def _round_trip(subject: _Subject) -> None:
    model, _ = subject.trained()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    other, _, _ = subject.prepared()
    other.load_state_dict(state)
    same = all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    _require(same, subject, "a state_dict does not survive a round trip")
    _require(
        torch.equal(subject.output(model), subject.output(other)), subject, "a reloaded state_dict gives other outputs"
    )


def _deep_copy(subject: _Subject) -> None:
    model, ctx = subject.trained()
    twin = copy.deepcopy(model)
    _require(torch.equal(subject.output(model), subject.output(twin)), subject, "a deep copy gives other outputs")
    shared = {id(param) for param in model.parameters()} & {id(param) for param in twin.parameters()}
    _require(not shared, subject, "a deep copy shares parameters with the original")
    subject.method.finish(twin, ctx)


def _deterministic(subject: _Subject) -> None:
    (first, _), (second, _) = subject.trained(), subject.trained()
    own, other = first.state_dict(), second.state_dict()
    _require(all(torch.equal(own[name], other[name]) for name in own), subject, "the same seed gives other bits")


def _owners(subject: _Subject) -> None:
    model, _, _ = subject.prepared()
    names = [name for name, _ in model.named_parameters()]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    _require(len(names) == len(every), subject, f"a tensor has two owners: {sorted(set(every) - set(names))}")


def _vectorized(subject: _Subject) -> None:
    if not subject.cls.vectorizes:
        return
    task = Task.from_arrays(*subject.batch, model=subject.model, test=(subject.batch[0], subject.batch[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            apart = disagreement(task, subject.method, subject.recipe.replace(steps=POPULATION_STEPS, batch_size=16))
        except CannotVectorizeError as error:
            raise ContractError(f"{subject.cls.__name__}: vectorizes=True, but {error}") from None
    what = f"vectorizes=True, but the vectorised step is {apart:.1e} apart from the plain loop after {POPULATION_STEPS} steps"
    _require(apart <= 1e-5, subject, what)


def _null(subject: _Subject) -> None:
    null = subject.method.null()
    if null is None:
        return
    model, ctx = subject.trained(method=null)
    state = null.finish(model, ctx).state_dict()
    plain, _ = subject.trained(method=_Baseline())
    baseline = plain.state_dict()
    same = state.keys() == baseline.keys() and all(torch.equal(state[name], baseline[name]) for name in baseline)
    _require(same, subject, "null() does not give exactly the baseline")


class _Baseline(Method):
    """No method at all."""

    id = "baseline"
    stage = "pipeline"
