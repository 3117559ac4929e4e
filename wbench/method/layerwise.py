"""Methods that act on layers chosen by glob."""

from __future__ import annotations

from typing import ClassVar

from torch import nn
from torch.nn.utils import parametrize

from wbench.errors import FitError
from wbench.knobs import knob
from wbench.method.base import Method
from wbench.method.select import select

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)
LINEAR_AND_CONV: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LayerwiseMethod(Method):
    """A method that acts on layers chosen by glob.

    Class attributes:
        layer_types: Module types that it can act on.
        spares_ends: Whether `layers="*"` leaves out the model's first and last layer of these types, as most papers on few bits do.
    """

    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR_AND_CONV
    spares_ends: ClassVar[bool] = False
    layers: str | tuple[str, ...] = knob("*", doc="Glob over module names; several: a tuple; '!' in front excludes.")

    def select(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the layers the method acts on.

        Args:
            model: The model.

        Raises:
            FitError: If the model has no layer of a fitting type, or, where `spares_ends`, none between the first and the last.
            LayerMatchError: If the pattern matches none; lists the closest names.
        """
        chosen = select(model, self.layers, self.layer_types, self.id)
        if not self.spares_ends or self.layers != "*":
            return chosen
        if len(chosen) < 3:
            raise FitError(
                f"{self.id}: the first and the last layer stay as they are, and the model {type(model).__name__} has only "
                f"{', '.join(chosen)}; name the layers to act on: layers='{next(iter(chosen))}'"
            )
        return dict(list(chosen.items())[1:-1])

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trainable weight of each selected layer; of a parametrised one, what the optimizer trains.

        Args:
            model: The prepared model.

        Returns:
            Layer name to parameter, each parameter once; frozen ones are left out.
        """
        found: dict[str, nn.Parameter] = {}
        for name, layer in self.select(model).items():
            held = (
                layer.parametrizations["weight"].original
                if parametrize.is_parametrized(layer, "weight")
                else layer.weight
            )  # type: ignore[union-attr,index]
            if (
                isinstance(held, nn.Parameter)
                and held.requires_grad
                and all(held is not other for other in found.values())
            ):
                found[name] = held
        return found
