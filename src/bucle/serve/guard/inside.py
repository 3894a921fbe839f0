"""What stands inside JSON: tools, schemas, arguments of calls. It is looked at as one text, and masked where it stands,
so that JSON stays JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.serve.dialects.schemas import depth_of

__all__ = ["Leaves"]

ARGUMENTS = "arguments"
DEEPEST = 100
END = "\n;\n"
"""Between two leaves: no number, address or password reaches across it."""


class Leaves:
    """The texts and numbers of `value` (JSON as Python has it), each as `name: text`, one below the other in `text`.
    Under the name `arguments` a text that is JSON itself is read as that."""

    def __init__(self, value: Any) -> None:
        self._parts: list[str] = []
        self._places: list[tuple[int, int]] = []
        self._length, self._value = 0, value
        self._walk("", value)
        self.text = "".join(self._parts)

    def masked(self, spans: Sequence[tuple[int, int, str]]) -> tuple[Any, bool]:
        """`value` with what each of `spans` (places in `text`) says in its place, a masked number as a text; and
        whether that was possible of all: a name is not rewritten."""
        inside: dict[int, list[tuple[int, int, str]]] = {}
        left = sorted(spans)
        for start, end in self._places:
            while left and left[0][0] < end:
                one = left[0]
                if one[0] < start or one[1] > end:
                    break
                inside.setdefault(start, []).append((one[0] - start, one[1] - start, one[2]))
                left.pop(0)
            if not left:
                break
        self._inside, self._turn = inside, iter(self._places)
        return self._built("", self._value), not left

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _walk(self, name: str, value: Any) -> None:
        if (read := _read(name, value)) is not None:
            name, value = "", read
        if isinstance(value, Mapping):
            for key, one in value.items():
                if isinstance(one, Mapping | list | tuple):
                    self._add(f"{key}{END}")
                self._walk(str(key), one)
        elif isinstance(value, list | tuple):
            for one in value:
                self._walk(name, one)
        elif _told(value):
            self._add(f"{name}: " if name else "")
            text = str(value)
            self._places.append((self._length, self._length + len(text)))
            self._add(text)
            self._add(END)

    def _built(self, name: str, value: Any) -> Any:
        read = _read(name, value)
        if read is not None:
            built = self._built("", read)
            return value if built == read else json.dumps(built, ensure_ascii=False)
        if isinstance(value, Mapping):
            return {key: self._built(str(key), one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._built(name, one) for one in value]
        if not _told(value):
            return value
        start, _ = next(self._turn)
        spans = self._inside.get(start)
        if not spans:
            return value
        from bucle.serve.guard.rules import cut

        return cut(str(value), spans)


def _told(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _read(name: str, value: Any) -> Any:
    """The JSON that a text called `arguments` is; None where it is none, lies too deep to be walked, or says a name
    twice (of which one would be looked at): then it is looked at as it stands."""
    if name != ARGUMENTS or not isinstance(value, str):
        return None
    try:
        read = json.loads(value, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, Mapping | list) and depth_of(read, DEEPEST) <= DEEPEST else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
