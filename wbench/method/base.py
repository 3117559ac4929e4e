"""The contract every method keeps: `Method`, its class attributes and its hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError
from wbench.knobs import Knobs
from wbench.method.attaching import run_hooks
from wbench.method.context import Context
from wbench.method.records import Merged, Paper
from wbench.recipe import Recipe
from wbench.splits import Batch, Splits

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import BaseEstimator

    from wbench.task import Task

Stage = Literal[
    "parametrization", "optimizer", "adapter", "transform", "layer", "objective", "population", "estimator", "pipeline"
]


class Method(Knobs):
    """A published method. Fields are the paper's hyperparameters; a subclass overrides two or three hooks.

    Class attributes:
        id: Name in the registry, snake case.
        title: One line.
        paper: Where it was published.
        stage: Where it acts.
        topics: Words to find it by.
        fidelity: `paper` (follows the paper), `code` (follows the authors' code) or `inferred` (parts reconstructed).
        result: `plain`: after `finish` the weights load into the untouched architecture; `rebuilt`: another architecture.
        dtypes: Model dtypes in which forward and backward are finite.
        vectorizes: Whether runs that differ only in numbers can train in one vectorised step, which is recorded once: hooks that
            run at each step must then act through parameters and buffers, not through attributes of modules.
        excludes: Stages whose methods cannot stand beside it in one run.
        kind: `method`, or `baseline` for what papers compare with.
        picture: `module:function` of the method's own figure, fed with what `observe` returns; empty: none.
        live: Knobs that act on a finished model through `retune`, without doing the work again.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    stage: ClassVar[Stage]
    topics: ClassVar[tuple[str, ...]] = ()
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "paper"
    result: ClassVar[Literal["plain", "rebuilt"]] = "plain"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    vectorizes: ClassVar[bool] = False
    excludes: ClassVar[tuple[Stage, ...]] = ()
    kind: ClassVar[Literal["method", "baseline"]] = "method"
    picture: ClassVar[str] = ""
    live: ClassVar[tuple[str, ...]] = ()

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the paper's advice on schedule, warm-up or decay.

        Args:
            recipe: The task's recipe.
        """
        return recipe

    def build(self, task: Task, ctx: Context | None = None) -> nn.Module:
        """Return an architecture of the method's own; at most one method a run does.

        Args:
            task: What will be trained on.
            ctx: The run.

        Raises:
            CompositionError: Unless overridden.
        """
        raise CompositionError(f"{self.id} builds no architecture")

    def data(self, splits: Splits, model: nn.Module, ctx: Context | None = None) -> Splits:
        """Return the data, chosen, added to or rewritten.

        Args:
            splits: Named splits.
            model: The model before `prepare`.
            ctx: The run.
        """
        return splits

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        """Put the method on a model: parametrise, adapt, freeze, replace modules. May change the model in place.

        Args:
            model: The model.
            ctx: The run, or nothing in a user's own loop.

        Returns:
            The prepared model.
        """
        return model

    def param_groups(self, model: nn.Module, ctx: Context | None = None) -> list[dict[str, Any]]:
        """Return optimizer groups for the parameters the method treats apart; the rest keeps the recipe's options.

        Args:
            model: The prepared model.
            ctx: The run.

        Returns:
            Dictionaries with `params` and any of `weight_decay`, `lr_scale` (times the recipe's rate), ...
        """
        return []

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        """Return an optimizer of the method's own; at most one method a run does.

        Args:
            model: The prepared model.
            ctx: The run, or a recipe in a user's own loop.

        Raises:
            CompositionError: Unless overridden.
        """
        raise CompositionError(f"{self.id} brings no optimizer")

    def before_step(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> None:
        """Act before the forward pass of a step: switch, freeze, refresh estimators.

        Args:
            model: The prepared model.
            batch: The step's batch.
            ctx: The run.
        """

    def loss(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        """Return the loss, per sample or scalar; at most one method a run brings one.

        Args:
            model: The prepared model.
            batch: The step's batch.
            ctx: The run.

        Raises:
            CompositionError: Unless overridden.
        """
        raise CompositionError(f"{self.id} brings no loss")

    def penalty(self, model: nn.Module, ctx: Context | None = None) -> Tensor | float:
        """Return a scalar that is added to whatever the loss is.

        Args:
            model: The prepared model.
            ctx: The run.
        """
        return 0.0

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Act on the gradients, before clipping.

        Args:
            model: The prepared model.
            ctx: The run.
        """

    def after_step(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Act on the weights after an optimizer step: project, requantise, average.

        Args:
            model: The prepared model.
            ctx: The run.
        """

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        """Take the method off the trained model: merge, bake, quantise.

        Args:
            model: The prepared, trained model.
            ctx: The run.

        Returns:
            The model to keep.
        """
        return model

    def retune(self, model: nn.Module) -> nn.Module:
        """Set a finished model to this method's `live` knobs: a size, a threshold; nothing is trained or computed anew.

        Args:
            model: As `finish` or `restore` left it; changed in place.

        Returns:
            The model.
        """
        return model

    def packed_bytes(self, model: nn.Module, ctx: Context | None = None) -> Mapping[str, int]:
        """Return the bytes of what the method holds wider here than the form it defines: signs in floats, four bits in eight.

        Args:
            model: The prepared, trained model.
            ctx: The run.

        Returns:
            `parameters`, `optimizer` or `weights` to the bytes that all of it takes when packed; empty where nothing is wider.
        """
        return {}

    def infer(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        """Return the output for a batch in evaluation; at most one method a run overrides it.

        Args:
            model: The model.
            batch: Inputs (and targets, not to be used).
            ctx: The run.
        """
        return model(batch[0])

    def combine(
        self, members: Mapping[str, nn.Module], base: nn.Module | None = None, ctx: Context | None = None
    ) -> Merged:
        """Make one result of many models.

        Args:
            members: Models by role, in order.
            base: What they were fine-tuned from, if anything.
            ctx: The run.

        Raises:
            CompositionError: Unless overridden.
        """
        raise CompositionError(f"{self.id} does not combine models")

    def estimator(self, ctx: Context | Recipe | None = None) -> BaseEstimator:
        """Return a scikit-learn estimator with the method's settings.

        Args:
            ctx: The run (its generator is for `random_state`, its references are fitted estimators or models), or a recipe.

        Raises:
            CompositionError: Unless overridden.
        """
        raise CompositionError(f"{self.id} has no estimator")

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        """Rebuild the method's architecture from an untouched model and load trained weights into it.

        Args:
            model: The task's untouched model.
            state: Weights as saved after `finish`.

        Returns:
            The model with the weights.
        """
        model.load_state_dict(dict(state))
        return model

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the method's own measurement as a tidy frame, or nothing; recorded on the probes' schedule.

        Args:
            model: The prepared model.
            ctx: The run.
        """
        return None

    def null(self) -> Self | None:
        """Return the method with its mechanism off, which gives exactly the baseline; `None` where there is no such switch."""
        return None

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Return whether the class defines a hook itself.

        Args:
            hook: Name of a hook.
        """
        return getattr(cls, hook) is not getattr(Method, hook)

    def attach(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context | Recipe | None = None
    ) -> Callable[[], None]:
        """Run the method's step hooks in a loop that somebody else wrote, through the optimizer's own hooks.

        Args:
            model: The prepared model.
            optimizer: The optimizer of that loop; `after_backward` runs before its step, `after_step` after it.
            ctx: A context to count steps in; made when not given.

        Returns:
            A function that detaches the hooks.
        """
        return run_hooks(self, model, optimizer, Context.of(ctx, methods=(self,)))
