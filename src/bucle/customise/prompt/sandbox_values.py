"""What a template's values cost: every loop, list and text that is made is counted, and refused before it is made where
it would be too large."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jinja2 import StrictUndefined, Undefined

__all__ = ["MAX_TEXT", "Budget", "Each", "Fault", "Replace", "bounded_range", "budget_now", "calculate", "charge",
           "concat", "counted", "flat", "item_of", "moment", "plain", "printed", "size_of", "will_be"]

MAX_TEXT = 4_000_000  # characters of a rendered text, and of any value on the way
MAX_WORK = 5 * MAX_TEXT  # characters made in all while one template is rendered
MAX_LOOPS = 100_000  # turns of all loops together
MAX_SECONDS = 3.0  # of the processor's time
ITEM = 40  # characters that an item of a list counts as
MAX_NUMBER = 10**18


class Fault(Exception):
    """Something wrong with a template, at a line of it (0: not known)."""

    def __init__(self, message: str, hint: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.message, self.hint, self.line = message, hint, line


@dataclass
class Budget:
    work: int = MAX_WORK
    loops: int = MAX_LOOPS
    until: float = field(default_factory=lambda: time.thread_time() + MAX_SECONDS)

    def turn(self) -> None:
        self.loops -= 1
        if self.loops < 0:
            raise Fault(f"its loops take more than {MAX_LOOPS:,} turns.", "Loop over fewer things.")
        self.moment()

    def moment(self) -> None:
        if time.thread_time() > self.until:
            raise Fault(f"it takes more than {MAX_SECONDS:g} seconds.", "Make it simpler.")


budget_now: ContextVar[Budget | None] = ContextVar("bucle_template", default=None)


def charge(value: Any) -> Any:
    """`value`, counted."""
    size = size_of(value)
    if size > MAX_TEXT:
        raise Fault(f"a value in it is larger than {MAX_TEXT:,} characters.", "Make it smaller.")
    if (budget := budget_now.get()) is not None:
        budget.moment()
        budget.work -= size
        if budget.work < 0:
            raise Fault(f"it makes more than {MAX_WORK:,} characters on the way.", "Make it simpler.")
    return value


def size_of(value: Any) -> int:
    """Characters that a value counts as. Values are trees: a template makes no list of lists."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return ITEM * len(value) + sum(
            size_of(item) for item in items if isinstance(item, str | Mapping | list | tuple))
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBER:
        raise Fault("a number in it is beyond all bounds.", "Calculate with smaller ones.")
    return ITEM


def will_be(size: int) -> None:
    """Refuses a text of `size` characters before it is made."""
    if size > MAX_TEXT:
        raise Fault(f"a value in it would be {size:,} characters long.", f"{MAX_TEXT:,} are the most.")


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        made = function(*args, **named)
        return charge(list(made) if isinstance(made, Iterable) and not isinstance(made, str | Mapping) else made)

    return call


def plain(value: Any) -> Any:
    """A value as it may be worked on: what is made lazily is made now, and counted."""
    if isinstance(value, Undefined):
        str(value)  # raises what it is
    if isinstance(value, str | int | float | bool | list | tuple | Mapping) or value is None:
        return value
    if isinstance(value, Iterator | range):
        made: list[Any] = []
        for item in value:
            if len(made) >= MAX_LOOPS:
                raise Fault(f"a list in it has more than {MAX_LOOPS:,} items.", "Make it shorter.")
            made.append(item)
        return charge(made)
    raise Fault("a method is named in it and not called.", "Write `()` after it.")


class Each(tuple[Any, ...]):
    """What a loop goes over; every turn is counted."""

    __slots__ = ()

    def __new__(cls, value: Any) -> Each:
        value = plain(value)
        if not isinstance(value, list | tuple | Mapping):
            kind = "a text" if isinstance(value, str) else "one value"
            raise Fault(f"a loop goes over {kind}, not over a list.", "Declare that input with `type: list`.")
        return super().__new__(cls, value)

    def __iter__(self) -> Iterator[Any]:
        budget = budget_now.get()
        for item in super().__iter__():
            if budget is not None:
                budget.turn()
            yield item


def concat(items: Sequence[Any]) -> str:
    texts = [printed(item) for item in items]
    will_be(sum(map(len, texts)))
    return str(charge("".join(texts)))


def flat(value: Any) -> Any:
    """A list or mapping written in a template: of plain values, since lists of lists of lists are bombs."""
    for item in value.values() if isinstance(value, Mapping) else value:
        if isinstance(item, Undefined):
            str(item)
        if not isinstance(item, str | int | float | bool) and item is not None:
            raise Fault("a list in it holds a list.", "A list holds texts and numbers.")
    return charge(value)


def moment(value: Any) -> Any:
    if (budget := budget_now.get()) is not None:
        budget.moment()
    return value


def printed(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Undefined):
        return str(value)
    if value is None:
        raise Fault("a value that was not given is printed.", "Write `{% if NAME is not none %}…{% endif %}`.")
    if isinstance(value, Mapping):
        raise Fault("a passage is printed whole.", "Write `{{ passage.text }}`.")
    if isinstance(value, list | tuple | Iterator | range):
        raise Fault("a list is printed whole.", "Write `{{ NAME | join(', ') }}`, or a loop.")
    raise Fault("a method is named in it and not called.", "Write `()` after it.")


def bounded_range(*args: int) -> range:
    made = range(*args)
    if len(made) > MAX_LOOPS:
        raise Fault(f"`range` of more than {MAX_LOOPS:,}.", "Loop over fewer things.")
    return made


def calculate(operator: str, left: Any, right: Any) -> Any:
    left, right = plain(left), plain(right)
    texts = [v for v in (left, right) if isinstance(v, str | list | tuple)]
    if operator == "+" and texts:
        will_be(size_of(left) + size_of(right))
        return charge(left + right)
    if operator == "*" and texts:
        times = right if texts[0] is left else left
        if isinstance(times, int):
            will_be(size_of(texts[0]) * max(0, times))
        return charge(left * right)
    if operator == "%":
        if texts:
            raise Fault("`%` does not put values into a text here.", "Write `{{ NAME }}` where the value belongs.")
        return left % right
    if operator == "**":
        if abs(left) > 1 and abs(right) > 64:
            raise Fault("a number in it is beyond all bounds.", "Calculate with smaller ones.")
        return charge(left**right)
    return charge(left * right if operator == "*" else left + right)


def item_of(obj: Any, name: Any) -> Any:
    """An item of a text, list or mapping; nothing else of any object."""
    try:
        if isinstance(obj, str | list | tuple | Mapping):
            return obj[name]
    except (TypeError, LookupError):
        pass
    return StrictUndefined(obj=obj, name=name)


class Replace:
    """`text.replace(old, new)`, its size known before it is made."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, old: str, new: str, count: int = -1) -> str:
        times = self.text.count(old)
        times = min(times, count) if count >= 0 else times
        will_be(len(self.text) + times * max(0, len(new) - len(old)))
        return self.text.replace(old, new, count)
