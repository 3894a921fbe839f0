"""Every technique by name: the ladder, cheapest first. Others join through the entry point `bucle.techniques`."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from bucle.core.errors import ConfigError
from bucle.core.ports import Technique

__all__ = ["technique", "techniques"]


@cache
def techniques() -> dict[str, Technique]:
    """All techniques, by task kind and rung: name -> technique."""
    from bucle.customise.classic import FrozenEncoder, Hybrid, Majority, Nearest, TfidfLogistic
    from bucle.customise.finetune import Full, Lora
    from bucle.customise.prompt import FewShot, ZeroShot
    from bucle.customise.retrieve import ClosedBook, NoAnswer, Quote, Rag, Retrieve

    own: list[Technique] = [
        Majority(),
        Nearest(),
        TfidfLogistic(),
        ZeroShot(),
        FewShot(),
        FrozenEncoder(),
        Hybrid(),
        Lora(),
        Full(),
        NoAnswer(),
        Quote(),
        ClosedBook(),
        Retrieve(),
        Rag(),
    ]
    plugged = [point.load()() for point in metadata.entry_points(group="bucle.techniques")]
    return {t.name: t for t in sorted([*own, *plugged], key=lambda t: (sorted(t.kinds), t.rung))}


def technique(name: str) -> Technique:
    """The technique called `name`. Raises ConfigError naming the nearest."""
    import difflib

    known = techniques()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"There is no technique `{name}`.", f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
    )
