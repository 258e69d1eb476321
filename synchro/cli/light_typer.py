"""Keeps pydantic out of the start-up of verbs.

Newer releases of typer convert each argument with pydantic, whose import takes longer than all of typer.
The verbs have only strings, numbers, flags and lists of strings, which need none of it. A typer without the
function that is replaced here works as it is, if more slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import typer

SHOWN_CHARS_MAX: Final = 100
_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(value)


_SIMPLE: Final[dict[Any, tuple[str, Callable[[Any], Any]]]] = {
    str: ("text", str),
    int: ("integer", int),
    float: ("number", float),
    bool: ("flag", _flag),
    list[str]: ("list", lambda value: [str(item) for item in value]),
}


class _Simple:
    """Stands in for typer's converter of one parameter."""

    def __init__(self, kind: str, convert: Callable[[Any], Any], info: Any) -> None:
        self._kind = kind
        self._convert = convert
        self._min = getattr(info, "min", None)
        self._max = getattr(info, "max", None)

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if self._kind == "list" else None
        try:
            made = self._convert(value)
        except (TypeError, ValueError):
            raise typer.BadParameter(
                f"{_short(value)} is not a valid {self._kind}.", ctx=ctx, param=param
            ) from None
        low, high = self._min, self._max
        if (low is not None and made < low) or (high is not None and made > high):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise typer.BadParameter(f"{_short(value)} is not {limits}.", ctx=ctx, param=param)
        return made


def _short(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "...")


def install() -> None:
    core: Any = __import__("typer.core", fromlist=["core"])
    original = getattr(core, "build_runtime_param", None)
    if original is None:
        return

    def build(descriptor: Any) -> Any:
        known = _SIMPLE.get(getattr(descriptor, "annotation", None))
        return (
            original(descriptor)
            if known is None
            else _Simple(*known, getattr(descriptor, "parameter_info", None))
        )

    core.build_runtime_param = build
