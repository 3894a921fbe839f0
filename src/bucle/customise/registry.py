"""Every technique by name: the ladder, cheapest first. Others join through the entry point `bucle.techniques`."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from bucle.core.errors import ConfigError
from bucle.core.ports import Technique

__all__ = ["technique", "techniques"]


@cache
def techniques() -> dict[str, Technique]:
    """All techniques by rung, cheapest first: name -> technique. One may serve several kinds of task."""
    from bucle.customise import chain, classic, external, finetune, prompt, retrieve
    from bucle.customise.distil import Distilled

    own: list[Technique] = [
        classic.Majority(),
        classic.Lead(),
        classic.Copy(),
        classic.Empty(),
        retrieve.NoAnswer(),
        classic.Nearest(),
        classic.Extractive(),
        classic.Frequent(),
        retrieve.Quote(),
        retrieve.Bm25(),
        classic.TfidfLogistic(),
        classic.NearestText(),
        classic.Pattern(),
        retrieve.ClosedBook(),
        retrieve.Dense(),
        prompt.ZeroShot(),
        retrieve.Retrieve(),
        retrieve.HybridSearch(),
        prompt.FewShot(),
        retrieve.Rag(),
        prompt.ChainOfThought(),
        retrieve.RagThought(),
        retrieve.RewrittenSearch(),
        classic.FrozenEncoder(),
        classic.Hybrid(),
        finetune.Lora(),
        finetune.Full(),
        Distilled(),
        chain.ChainTechnique(),
        external.ExternalTechnique(),
    ]
    plugged = [point.load()() for point in metadata.entry_points(group="bucle.techniques")]
    return {t.name: t for t in sorted([*own, *plugged], key=lambda t: t.rung)}


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
