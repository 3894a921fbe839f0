"""The filters that a prompt may use, each within the limits of its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined
from jinja2.filters import FILTERS

from bucle.customise.prompt.sandbox_values import (
    Fault,
    Replace,
    charge,
    counted,
    item_of,
    plain,
    printed,
    size_of,
    will_be,
)

__all__ = ["FILTERS_HERE"]


def _join(value: Any, d: str = "", attribute: str | None = None) -> str:
    items = plain(value)
    if not isinstance(items, list | tuple):
        raise Fault("`join` is given what is no list.", "Declare that input with `type: list`.")
    if attribute is not None:
        items = [item_of(item, attribute) for item in items]
    texts = [printed(item) for item in items]
    will_be(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    with_ = width if isinstance(width, str) else " " * min(int(width), 1000)
    text = printed(value)
    will_be(len(text) + len(with_) * (text.count("\n") + 1))
    lines = text.split("\n")
    kept = [with_ + line if (line or blank) and (n or first) else line for n, line in enumerate(lines)]
    return "\n".join(kept)


def _center(value: str, width: int = 80) -> str:
    will_be(int(width))
    return printed(value).center(int(width))


def _to_json(value: Any, indent: int | None = None) -> str:
    import json

    value = plain(value)
    will_be(2 * size_of(value))
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else max(0, min(int(indent), 8)))


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    return Replace(printed(value))(old, new, -1 if count is None else count)


def _map(value: Any, attribute: str) -> list[Any]:
    return [item_of(item, attribute) for item in plain(value)]


def _sort(value: Any, reverse: bool = False) -> list[Any]:
    return sorted(plain(value), reverse=reverse)


def _unique(value: Any) -> list[Any]:
    return list(dict.fromkeys(plain(value)))


def _length(value: Any) -> int:
    return len(plain(value))


def _first(value: Any) -> Any:
    items = plain(value)
    return items[0] if items else StrictUndefined("the list is empty")


def _last(value: Any) -> Any:
    items = plain(value)
    return items[-1] if items else StrictUndefined("the list is empty")


def _wrapped(name: str) -> Callable[..., Any]:
    """One of Jinja's own that cannot grow a value; `default` must see what has none."""
    function = FILTERS[name]
    special = getattr(function, "jinja_pass_arg", None)

    def call(*args: Any, **named: Any) -> Any:
        head, rest = (args[:1], args[1:]) if special else ((), args)
        return charge(plain(function(*head, plain(rest[0]), *rest[1:], **named)))

    if special:
        vars(call)["jinja_pass_arg"] = special
    return call


_OWN: dict[str, Callable[..., Any]] = {
    "center": _center, "count": _length, "first": _first, "indent": _indent, "join": _join, "last": _last,
    "length": _length, "list": plain, "map": _map, "replace": _replace, "sort": _sort, "string": printed,
    "tojson": _to_json, "unique": _unique,
}
_JINJAS = ("abs", "capitalize", "float", "int", "lower", "max", "min", "reverse", "round", "sum", "title", "trim",
           "truncate", "upper", "wordcount")
FILTERS_HERE: dict[str, Callable[..., Any]] = {
    **{name: _wrapped(name) for name in _JINJAS},
    **{name: counted(function) for name, function in _OWN.items()},
    "default": FILTERS["default"],
    "d": FILTERS["default"],
}
"""What a prompt may filter by. `default` must see what has no value, so it is Jinja's own."""
