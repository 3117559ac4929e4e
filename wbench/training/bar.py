"""A progress bar over training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OnStep = Callable[[int, float], None]


class StepBar:
    """A tqdm bar, or the caller's own function, or neither."""

    def __init__(self, show: bool, total: int, on_step: OnStep | None) -> None:
        self.show, self.total, self.on_step = show, total, on_step
        self.bar: Any = None

    def __enter__(self) -> OnStep | None:
        if not self.show:
            return self.on_step
        from wbench.progress import bar

        self.bar = bar(total=self.total, unit="step", leave=False)
        return self._tell

    def _tell(self, step: int, loss: float) -> None:
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
        if self.on_step is not None:
            self.on_step(step, loss)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
