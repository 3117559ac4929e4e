"""A digest of code that has no file, such as a class in a cell of a notebook."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))


def compiled_digest(cls: type) -> str:
    """Return a digest of what a class does: its functions as compiled, its constants, and whatever of its module they use.

    Names of files and line numbers do not enter, so that running a cell again changes nothing, and another process to which the
    class is sent finds the same.

    Args:
        cls: The class.
    """
    digest = hashlib.sha256()
    for part in _parts(cls, cls.__module__, set()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]


def _parts(thing: Any, module: str, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, staticmethod | classmethod):
        thing = thing.__func__
    if isinstance(thing, property):
        for function in (thing.fget, thing.fset):
            yield from _parts(function, module, seen)
    elif isinstance(thing, PLAIN):
        yield _text(thing)
    elif getattr(thing, "__module__", None) != module or id(thing) in seen:
        return
    elif isinstance(thing, type):
        seen.add(id(thing))
        yield thing.__qualname__
        for base in thing.__bases__:
            yield from _parts(base, module, seen)
        for name, value in sorted(vars(thing).items()):
            if isinstance(value, FunctionType | staticmethod | classmethod | property) or not name.startswith("_"):
                yield name
                yield from _parts(value, module, seen)
    elif isinstance(thing, FunctionType):
        seen.add(id(thing))
        yield from _code(thing.__code__)
        inner = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        used = [thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__]
        for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *inner, *used):
            yield from _parts(value, module, seen)


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield " ".join((*code.co_names, *code.co_varnames, *code.co_freevars))
    for constant in code.co_consts:
        yield from _code(constant) if isinstance(constant, CodeType) else (_text(constant),)


def _names(code: CodeType) -> list[str]:
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _text(value: Any) -> str:
    if isinstance(value, frozenset):  # whose order is another one in each process
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    return "(" + ", ".join(map(_text, value)) + ")" if isinstance(value, tuple) else repr(value)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # nothing is in it yet
        return False
