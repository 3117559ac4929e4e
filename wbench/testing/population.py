"""A population method on three models fine-tuned from one base."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.method import Context, Merged
from wbench.testing.reported import draw, numbers, tidy
from wbench.testing.subject import STEPS, Subject, require
from wbench.training.memory import tensor_bytes

ROLES = ("first", "second", "third")
ODD = "misshapen"


def population(subject: Subject) -> None:
    """Check what `combine` makes of three models, what it leaves alone, and what it refuses.

    Args:
        subject: The method.

    Raises:
        ContractError: At the first that does not hold.
    """
    base, members = family(subject)
    before = [_bits(model) for model in (base, *members.values())]
    merged, ctx = _combined(subject, members, base)
    require(bool(merged.models), subject, "combine gives no model")
    for model in merged.models:
        finite = all(bool(torch.isfinite(v).all()) for v in model.state_dict().values() if v.is_floating_point())
        require(finite, subject, "combine gives weights that are not finite")
    after = [_bits(model) for model in (base, *members.values())]
    for name, old, new in zip(("base", *ROLES), before, after, strict=True):
        require(_same(old, new), subject, f"combine changes the {name} model that it was given")
    held = set().union(*(_places(model) for model in (base, *members.values())))
    shared = held & set().union(*(_places(model) for model in merged.models))
    require(not shared, subject, "the combined model shares memory with a model that was given")
    again, _ = _combined(subject, members, base)
    pairs = zip(merged.models, again.models, strict=False)
    same = len(merged.models) == len(again.models) and all(_same(_bits(one), _bits(other)) for one, other in pairs)
    require(same, subject, "combine gives other bits with the same seed")
    stored = tensor_bytes(held for model in merged.models for held in (*model.parameters(), *model.buffers()))
    require(merged.nbytes == stored, subject, f"nbytes={merged.nbytes}, but the models take {stored} bytes")
    expected = subject.output(base).shape
    for index, role in enumerate(ROLES):
        require(len(merged.models) in {1, len(ROLES)}, subject, f"{len(merged.models)} models for {len(ROLES)} members")
        output = subject.output(merged.model_for(index))
        good = output.shape == expected and bool(torch.isfinite(output).all())
        require(
            good, subject, f"the model for '{role}' gives outputs of shape {tuple(output.shape)} or not finite ones"
        )
    if subject.cls.overrides("packed_bytes"):
        numbers(subject, merged.model_for(0), ctx)
    frame = subject.method.observe(merged.model_for(0), ctx)
    if frame is not None:
        tidy(subject, frame)
        if subject.cls.picture:
            draw(subject, frame)
    elif subject.cls.picture:
        require(False, subject, f"picture={subject.cls.picture!r}, but observe gives nothing to draw")


def in_dtypes(subject: Subject) -> None:
    """Check that models of each of `dtypes` combine to a finite one of that dtype.

    Args:
        subject: The method.

    Raises:
        ContractError: If they do not.
    """
    base, members = family(subject)
    for dtype in subject.cls.dtypes:
        cast = {role: copy.deepcopy(model).to(dtype) for role, model in members.items()}
        merged, _ = _combined(subject, cast, copy.deepcopy(base).to(dtype), dtype)
        for model in merged.models:
            floats = [param for param in model.parameters() if param.is_floating_point()]
            require(
                all(param.dtype == dtype for param in floats), subject, f"models in {dtype} combine to another dtype"
            )
            finite = all(bool(torch.isfinite(param).all()) for param in floats)
            require(finite, subject, f"combining in {dtype} is not finite")


def refusals(subject: Subject) -> None:
    """Check that no members, and a member of another shape, are refused by name.

    Args:
        subject: The method.

    Raises:
        ContractError: If they are accepted, or the message does not name them.
    """
    base, members = family(subject)
    _refused(subject, {}, base, subject.cls.id, "no members")
    odd = {**dict(list(members.items())[:2]), ODD: _misshapen(members["third"])}
    _refused(subject, odd, base, ODD, f"a member '{ODD}' with a parameter of another shape")


def family(subject: Subject) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return a base, and three models trained from it on a third of the batch each.

    Args:
        subject: The method; its model, batch and task are used.

    Returns:
        The base, and the models by role, in evaluation mode.
    """
    base = subject.fresh().eval()
    members = {}
    for index, role in enumerate(ROLES):
        model = copy.deepcopy(base).train()
        part = tuple(held[index :: len(ROLES)] for held in subject.batch)
        optimizer = torch.optim.Adam([param for param in model.parameters() if param.requires_grad], lr=1e-2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            for _ in range(STEPS):
                optimizer.zero_grad()
                subject.task.loss(model(part[0]), part).mean().backward()
                optimizer.step()
        members[role] = model.eval().requires_grad_(True)
        model.zero_grad()
    return base, members


def _combined(
    subject: Subject, members: Mapping[str, nn.Module], base: nn.Module, dtype: torch.dtype = torch.float32
) -> tuple[Merged, Context]:
    ctx = subject.context(dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return subject.method.combine(members, base, ctx), ctx


def _refused(subject: Subject, members: Mapping[str, nn.Module], base: nn.Module, named: str, what: str) -> None:
    try:
        _combined(subject, members, base)
    except WBenchError as error:
        require(named in str(error), subject, f"the error for {what} does not name '{named}': {error}")
        return
    except Exception as error:
        require(False, subject, f"{what}: {type(error).__name__} instead of an error that says what to do: {error}")
    require(False, subject, f"{what} is accepted")


def _misshapen(model: nn.Module) -> nn.Module:
    odd = copy.deepcopy(model)
    name, param = list(odd.named_parameters())[-1]
    place, _, leaf = name.rpartition(".")
    wider = param.new_zeros((param.shape[0] + 1, *param.shape[1:]))
    setattr(odd.get_submodule(place), leaf, nn.Parameter(wider))
    return odd


def _bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _places(model: nn.Module) -> set[int]:
    held = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in held if tensor.numel()}
