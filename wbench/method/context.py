"""What a hook may know of the world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError, DataError
from wbench.recipe import Recipe
from wbench.splits import Batch, Split, Splits

if TYPE_CHECKING:
    from wbench.method.base import Method
    from wbench.task import Task


@dataclass
class Context:
    """The state of a run as its methods see it.

    In a user's own loop it is optional: every hook takes `None`, a `Recipe` or a `Context`, and makes what is missing.

    Attributes:
        recipe: How the model is trained.
        task: What is trained on, or `None` in a user's own loop.
        methods: All methods of the run, in order.
        step: Optimizer steps taken so far.
        total_steps: Steps of the whole run.
        phase: Name of the current phase.
        device: Where the model is.
        rng: CPU generator for the methods' own randomness.
        splits: Named data.
        references: Named models (base, teacher, ...); of an estimator's run, the fitted estimator.
        state: Values that methods keep; numbers and text are saved with the run, tensors that travel with the model belong in its buffers.
        sink: Receives what is logged: `(name, value)`.
        optimizer: The optimizer in use, once training has begun.
    """

    recipe: Recipe = field(default_factory=Recipe)
    task: Task | None = None
    methods: tuple[Method, ...] = ()
    step: int = 0
    total_steps: int = 1
    phase: str = "train"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    splits: Splits = field(default_factory=Splits)
    references: dict[str, nn.Module] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    sink: Callable[[str, float], None] | None = None
    optimizer: torch.optim.Optimizer | None = None
    _frozen: dict[int, tuple[nn.Parameter, str]] = field(default_factory=dict)
    _streams: dict[str, Iterator[Batch]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Context | Recipe | None, **defaults: Any) -> Context:
        """Return a context from what a caller gave.

        Args:
            given: A context (returned as it is), a recipe, or nothing.
            **defaults: Fields of a newly made context.

        Returns:
            The context.
        """
        if isinstance(given, Context):
            return given
        recipe = given if given is not None else Recipe()
        return cls(recipe=recipe, total_steps=recipe.total_steps, **defaults)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))

    def data(self, name: str) -> Split:
        """Return a named data stream, as the methods of the run have rewritten it.

        Args:
            name: `train`, `valid`, `test`, `unlabelled`, `calibration`, ...

        Raises:
            DataError: If the run has no data of that name.
        """
        if not self.splits:
            raise DataError(f"data '{name}' is needed; outside a run give it: Context(splits=Splits({name}=...))")
        return self.splits[name]

    def stream(self, name: str, batch_size: int) -> Batch:
        """Return the next shuffled batch of a named data stream, beside the one that the loop trains on.

        Args:
            name: As in `data`; its order is decided by the run's generator.
            batch_size: Samples; the same in every call for one name.

        Returns:
            The batch, on the run's device.
        """
        key = f"{name}:{batch_size}"
        if key not in self._streams:
            seed = int(torch.randint(2**62, (1,), generator=self.rng))
            self._streams[key] = self.data(name).batches(batch_size, torch.Generator().manual_seed(seed))
        return tuple(part.to(self.device) for part in next(self._streams[key]))

    def calibration(self, samples: int) -> Batch:
        """Return samples to calibrate on: of the split `calibration` where there is one, else of `train`.

        Args:
            samples: How many; a smaller split gives all it has.

        Returns:
            Chosen by the run's generator, the same for one seed; on the run's device.
        """
        split = self.data("calibration" if "calibration" in self.splits else "train")
        seed = int(torch.randint(2**62, (1,), generator=self.rng))
        batch = next(iter(split.batches(samples, torch.Generator().manual_seed(seed))))
        return tuple(part.to(self.device) for part in batch)

    def reference(self, role: str) -> nn.Module:
        """Return a reference model.

        Args:
            role: `base`, `teacher`, or whatever the run named it.

        Raises:
            CompositionError: If the run has no such reference.
        """
        if role not in self.references:
            known = ", ".join(self.references) or "none"
            raise CompositionError(f"reference '{role}' is needed; given: {known}. Pass references={{'{role}': model}}")
        return self.references[role]

    def log(self, name: str, value: float | Tensor) -> None:
        """Record a number at the current step.

        Args:
            name: Name of the metric.
            value: A number or a tensor of one element.
        """
        if self.sink is not None:
            self.sink(name, float(value))

    def mark_frozen(self, params: Iterable[nn.Parameter], method_id: str) -> None:
        """Remember which method froze parameters, so that a conflict can be named.

        Args:
            params: Parameters that no longer require a gradient.
            method_id: Who froze them.
        """
        for param in params:
            self._frozen[id(param)] = (param, method_id)

    def frozen_by(self, param: nn.Parameter | Tensor) -> str | None:
        """Return the id of the method that froze a parameter, if one did.

        Args:
            param: The parameter.
        """
        entry = self._frozen.get(id(param))
        return entry[1] if entry else None

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: what the methods ask for, and one group with the rest.

        Args:
            model: The prepared model.

        Returns:
            Groups with `params` (trainable, each tensor once), `names`, the options that methods set, and the recipe's `lr`
            (times a group's `lr_scale`) and `weight_decay` where they set none: ready for any torch optimizer.

        Raises:
            CompositionError: If two methods claim one parameter.
        """
        names = {id(param): name for name, param in model.named_parameters() if param.requires_grad}
        owner: dict[int, str] = {}
        groups: list[dict[str, Any]] = []
        for method in self.methods:
            for group in method.param_groups(model, self):
                params = [param for param in group["params"] if id(param) in names]
                for param in params:
                    other = owner.setdefault(id(param), method.id)
                    if other != method.id:
                        raise CompositionError(
                            f"{method.id} and {other} both set the optimizer's options of '{names[id(param)]}'; use one of them"
                        )
                if params:
                    groups.append({**group, "params": params, "names": [names[id(param)] for param in params]})
        rest = [param for param in model.parameters() if id(param) in names and id(param) not in owner]
        if rest:
            groups.insert(0, {"params": rest, "names": [names[id(param)] for param in rest]})
        for group in groups:
            group.setdefault("lr", self.recipe.lr * group.get("lr_scale", 1.0))
            group.setdefault("weight_decay", self.recipe.weight_decay)
        return groups
