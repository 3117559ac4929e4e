"""Python source text: values and calls, laid out as a formatter would leave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wbench.knobs import Knobs

WIDTH = 120


@dataclass(frozen=True)
class Group:
    """Something in brackets: a call, a tuple, a list, a dict.

    Attributes:
        head: Before the first part, the bracket included.
        parts: What stands before each part (`key=`), and the part.
        tail: The closing bracket.
    """

    head: str
    parts: tuple[tuple[str, Expression], ...]
    tail: str


Expression = str | Group


def call(name: str, arguments: Iterable[Expression] = (), named: Mapping[str, Expression] | None = None) -> Group:
    """Return a call.

    Args:
        name: What is called.
        arguments: By place.
        named: By name.
    """
    parts = [*(("", part) for part in arguments), *((f"{key}=", part) for key, part in (named or {}).items())]
    return Group(f"{name}(", tuple(parts), ")")


def listed(parts: Iterable[Expression]) -> Group:
    """Return a list.

    Args:
        parts: Its parts.
    """
    return Group("[", tuple(("", part) for part in parts), "]")


def mapped(parts: Iterable[tuple[str, Expression]]) -> Group:
    """Return a dict.

    Args:
        parts: Text keys, each with its value.
    """
    return Group("{", tuple((f"{literal(key)}: ", part) for key, part in parts), "}")


def literal(value: Any) -> Expression:
    """Return what gives a value back: plain values, tuples and lists of them, records such as phases.

    Args:
        value: The value.
    """
    if isinstance(value, str):
        quote = "'" if value.count('"') > value.count("'") else '"'
        return quote + "".join(f"\\{sign}" if sign == quote else repr(sign)[1:-1] for sign in value) + quote
    if isinstance(value, tuple):
        return Group("(", tuple(("", literal(part)) for part in value), ")")
    if isinstance(value, list):
        return listed(map(literal, value))
    if isinstance(value, Knobs):
        return record(f"wb.{type(value).__name__}", value)
    return repr(value)


def record(name: str, value: Knobs) -> Group:
    """Return a call that makes a record, with the fields that are not the usual ones.

    Args:
        name: Of its class.
        value: The record.
    """
    fields = type(value).model_fields
    changed = {k: v for k, v in value if fields[k].is_required() or v != fields[k].default}
    return call(name, (), {key: literal(part) for key, part in changed.items()})


def flat(part: Expression) -> str:
    """Return an expression on one line.

    Args:
        part: The expression.
    """
    if isinstance(part, str):
        return part
    inner = ", ".join(before + flat(held) for before, held in part.parts)
    return f"{part.head}{inner}{',' if part.head == '(' and len(part.parts) == 1 else ''}{part.tail}"


def lines(part: Expression, before: str = "", after: str = "", indent: int = 0, whole: bool = False) -> list[str]:
    """Return an expression on one line where it fits, else a part a line.

    Args:
        part: The expression.
        before: What stands before it, such as `x = `.
        after: What stands after it, such as a comma.
        indent: Spaces.
        whole: Whether it is spread over lines although it would fit.

    Returns:
        Lines, indented.
    """
    space = " " * indent
    text = f"{space}{before}{flat(part)}{after}"
    if isinstance(part, str) or not part.parts or (len(text) <= WIDTH and not whole):
        return [text]
    inner = [line for head, held in part.parts for line in lines(held, head, ",", indent + 4)]
    return [f"{space}{before}{part.head}", *inner, f"{space}{part.tail}{after}"]


def comment(text: str) -> str:
    """Return a comment of one line, whatever the text holds.

    Args:
        text: The text.
    """
    return f"# {plain(text)}"


def plain(text: str) -> str:
    """Return a text without what would end a comment or a docstring.

    Args:
        text: The text.
    """
    return "".join(sign if sign.isprintable() and sign not in '"\\' else " " for sign in text).strip()
