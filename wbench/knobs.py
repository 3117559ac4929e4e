"""Knobs: declared fields from which validation, sliders, command line, documentation and run record all come.

A `Knobs` class is a frozen pydantic model whose fields are declared with `knob(default, low, high, ...)`. Values are
checked strictly (an `int` is a valid `float`; a string is never a number); the one place where text becomes a value is
`Knobs.from_strings`, which the command line and notebook parameters use.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wbench.errors import KnobError, closest

Scale = Literal["linear", "log", "log0", "choice", "choices", "tuple"]


@dataclass(frozen=True)
class Knob:
    """What is known of one field, for sliders, help texts and error messages.

    Attributes:
        name: Field name, as in the paper.
        kind: `int`, `float`, `bool`, `str` or `tuple`.
        default: Default value; `None` where the value is chosen automatically.
        low: Smallest allowed value (inclusive), or `None`.
        high: Largest allowed value (inclusive), or `None`.
        slider: The range a slider shows; inside `[low, high]`.
        scale: `linear`, `log`, `log0` (zero, then logarithmic), `choice`, `choices` (several) or `tuple`.
        choices: Allowed values of a choice.
        optional: Whether `None` ("automatic" or "off", as `doc` says) is allowed.
        unit: Unit of the value, empty when it has none.
        doc: One sentence.
    """

    name: str
    kind: str
    default: Any
    low: float | None
    high: float | None
    slider: tuple[float, float] | None
    scale: Scale
    choices: tuple[Any, ...]
    optional: bool
    unit: str
    doc: str

    @property
    def allowed(self) -> str:
        """What values are allowed, in words."""
        if self.choices:
            text = f"{'any of' if self.scale == 'choices' else 'one of'} {', '.join(map(str, self.choices))}"
        elif self.kind == "bool":
            text = "true or false"
        elif self.low is not None and self.high is not None:
            text = f"{_article(self.kind)} from {self.low:g} to {self.high:g}"
        else:
            text = _article(self.kind)
        unit = f" {self.unit}" if self.unit and not self.choices else ""
        return text + unit + (", or none" if self.optional else "")

    def parse(self, text: str) -> Any:
        """Turn text into a value of this knob's kind; no code is evaluated.

        Args:
            text: As typed on a command line, e.g. `8`, `1e-3`, `true`, `none`, `0.9,0.999`.

        Returns:
            The value, or the text itself where it cannot be read (validation then refuses it by name).
        """
        stripped = text.strip()
        if self.optional and stripped.lower() in {"none", "auto", "null"}:
            return None
        if self.choices and self.scale == "choice":
            return next((choice for choice in self.choices if str(choice) == stripped), text)
        if self.kind == "bool":
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
                stripped.lower(), text
            )
        if self.kind == "tuple":
            return tuple(_number(part) for part in stripped.strip("()[]").split(",") if part.strip())
        if self.kind in {"int", "float"}:
            value = _number(stripped)
            whole = isinstance(value, float) and value.is_integer()
            return int(value) if self.kind == "int" and whole else value
        return text


def knob(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    scale: Scale = "linear",
    slider: tuple[float, float] | None = None,
    unit: str = "",
    doc: str,
) -> Any:
    """Declare a field of a method, task or recipe.

    Args:
        default: Default value; `None` means automatic (annotate the field as `... | None`).
        low: Smallest allowed value, inclusive.
        high: Largest allowed value, inclusive.
        scale: How a slider moves. Fields annotated with `Literal[...]` or `bool` are choices whatever is said here.
        slider: Range that the slider shows, when narrower than what is allowed.
        unit: Unit, empty when it has none.
        doc: One sentence: what it does.

    Returns:
        A pydantic field.
    """
    extra = {"wb_scale": scale, "wb_unit": unit, "wb_slider": slider, "wb_low": low, "wb_high": high}
    return Field(default, description=doc, json_schema_extra=extra)  # type: ignore[arg-type]


class Knobs(BaseModel):
    """Frozen record of declared fields. Base of `Method`, `Task` and `Recipe`.

    Raises:
        KnobError: On an unknown field, a wrong type or a value out of range, naming field, value and what is allowed.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    id: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**{name: _plain(value) for name, value in values.items()})
        except ValidationError as error:
            raise KnobError(self._explain(error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).model_fields:
            who = type(self)._who()
            raise KnobError(f"{who}: '{name}' cannot be changed in place; use .replace({name}={value!r})")
        super().__setattr__(name, value)

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        for name, spec in type(self).knobs().items():
            value = getattr(self, name)
            if value is None:
                continue
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, bool) or not isinstance(part, int | float):
                    continue
                below = spec.low is not None and part < spec.low
                above = spec.high is not None and part > spec.high
                if below or above:
                    raise KnobError(f"{self._who()}: {name}={value!r} is out of range; allowed: {spec.allowed}")
        return self

    @classmethod
    def _who(cls) -> str:
        return cls.id or cls.__name__

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        knobs, lines = cls.knobs(), []
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else ""
            if item["type"] == "extra_forbidden":
                lines.append(f"{cls._who()}: unknown field '{name}' (value {item['input']!r}).{closest(name, knobs)}")
            elif name in knobs:
                lines.append(f"{cls._who()}: {name}={item['input']!r} is not allowed; allowed: {knobs[name].allowed}")
            else:
                message = str(item["msg"]).removeprefix("Value error, ")
                lines.append(message if message.startswith(f"{cls._who()}:") else f"{cls._who()}: {message}")
        return "\n".join(dict.fromkeys(lines))

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Return what is known of each field, in the order of declaration."""
        cached = cls.__dict__.get("_knob_cache")
        if cached is None:
            cached = {name: _describe(name, field) for name, field in cls.model_fields.items()}
            cls._knob_cache = cached  # type: ignore[attr-defined]
        return dict(cached)

    @classmethod
    def from_strings(cls, values: Mapping[str, str]) -> Self:
        """Build from text values, as a command line or a notebook parameter gives them. Text is data, never code.

        Args:
            values: Field name to text.

        Returns:
            The validated object.

        Raises:
            KnobError: As the constructor.
        """
        knobs = cls.knobs()
        return cls(**{name: knobs[name].parse(text) if name in knobs else text for name, text in values.items()})

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, validated anew.

        Args:
            **changes: Field name to value.

        Returns:
            The new object.
        """
        return type(self)(**{**dict(self), **changes})

    def fields(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for the run record."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        changed = {k: v for k, v in self if k in type(self).model_fields and v != type(self).model_fields[k].default}
        return f"{self._who()}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def _article(kind: str) -> str:
    return {"int": "an integer", "float": "a number", "tuple": "a tuple of numbers", "str": "text"}.get(kind, kind)


def _number(text: str) -> Any:
    for cast in (int, float):
        try:
            value = cast(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _plain(value: Any) -> Any:
    """Return zero-dimensional NumPy and torch values as plain numbers; lists as tuples."""
    if isinstance(value, list):
        return tuple(_plain(part) for part in value)
    is_scalar = not isinstance(value, type) and hasattr(value, "item") and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def _describe(name: str, field: FieldInfo) -> Knob:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    annotation: Any = field.annotation
    optional = False
    if get_origin(annotation) in {Union, types.UnionType}:
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        optional = len(arms) < len(get_args(annotation))
        annotation = arms[0]
    scale: Any = extra.get("wb_scale", "linear")
    choices: tuple[Any, ...] = ()
    origin = get_origin(annotation)
    if origin is Literal:
        choices, kind, scale = get_args(annotation), "str", "choice"
    elif origin is tuple:
        inner = get_args(annotation)[0]
        if get_origin(inner) is Literal:
            choices, scale = get_args(inner), "choices"
        else:
            scale = "tuple"
        kind = "tuple"
    else:
        kind = getattr(annotation, "__name__", "str")
        if kind == "bool":
            choices, scale = (), "choice"
    low: Any = extra.get("wb_low")
    high: Any = extra.get("wb_high")
    slider: Any = extra.get("wb_slider")
    if slider is None and low is not None and high is not None:
        slider = (low, high)
    default = None if field.is_required() else field.default
    unit = str(extra.get("wb_unit", ""))
    return Knob(name, kind, default, low, high, slider, scale, choices, optional, unit, field.description or "")
