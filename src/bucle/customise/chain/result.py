"""What a step gives, and what a chain needs to run: the models, the index, the functions, the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import ChatModel, Predictor, Reranker, SearchIndex
from bucle.core.records import Usage
from bucle.customise.chain.cache import StepCache

__all__ = ["MAX_TEXT", "ChainEnv", "Result"]

MAX_TEXT = 1_000_000
"""Characters of one step's text, and of its value as JSON."""


@dataclass(frozen=True)
class ChainEnv:
    """Everything outside that a chain may use. `models` by their names in bucle.yaml; `tasks` the candidates of other
    tasks by name; `project` the folder whose own Python runs only where `trusted`, `sources` what its files held when
    the chain was fitted (path -> bytes), `functions` some given in Python by `module:function`; `index_version` names
    the index that is open, `weights` its fusion fitted to the team's questions (see retrieve.fusion), `labels` what its
    documents' paths ask for today. Without `cache` nothing is kept between calls."""

    models: Mapping[str, ChatModel] = field(default_factory=dict)
    index: SearchIndex | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    reranker: Reranker | None = None
    tasks: Mapping[str, Predictor] = field(default_factory=dict)
    project: Path | None = None
    trusted: bool = False
    sources: Mapping[str, bytes] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    cache: StepCache | None = None
    language: str = "es"
    seed: int = 0
    index_version: str = ""
    labels: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """`text` and `value` (JSON) of a step; `chunks` are the passages it found or was shown, as mappings with `id`,
    `text`, `heading`, `path`, `place`; `score` its confidence; `dropped` names what a prompt was asked without, since
    the model's context did not hold it."""

    text: str = ""
    value: Any = None
    chunks: tuple[Mapping[str, Any], ...] = ()
    score: float | None = None
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    skipped: bool = False
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any, **more: Any) -> Result:
        """A result with the text that `value` is, or its JSON. Raises BadInput for what JSON cannot say, or is beyond
        all bounds."""
        try:
            text = value if isinstance(value, str) else "" if value is None else json.dumps(
                value, ensure_ascii=False, allow_nan=False)
            text.encode()
            made = json.loads(text) if value is not None and not isinstance(value, str) else value  # tuples to lists
        except (TypeError, ValueError, RecursionError, UnicodeEncodeError) as error:
            raise BadInput(f"it gives a {type(value).__name__} that JSON cannot say: {str(error)[:120]}",
                           "give a text, a number, a list or a mapping of them") from None
        if len(text) > MAX_TEXT:
            raise BadInput(f"it gives {len(text):,} characters, over {MAX_TEXT:,}", "let it give less")
        return cls(text=text, value=made, **more)

    def seen(self) -> dict[str, Any]:
        """What templates see."""
        return {"text": self.text, "value": self.value, "chunks": [dict(c) for c in self.chunks], "score": self.score,
                "error": self.error, "skipped": self.skipped}

    def kept(self) -> dict[str, Any]:
        """What is kept in the cache; `from_kept` reads it."""
        return {"text": self.text, "value": self.value, "chunks": [dict(c) for c in self.chunks], "score": self.score,
                "dropped": list(self.dropped)}

    @classmethod
    def from_kept(cls, kept: Mapping[str, Any]) -> Result | None:
        """The result, without usage: it cost nothing now. None where it is not what `kept` wrote."""
        text, chunks, score = kept.get("text"), kept.get("chunks"), kept.get("score")
        if not isinstance(text, str) or not isinstance(chunks, list) or not isinstance(score, int | float | None):
            return None
        if not all(isinstance(c, dict) and isinstance(c.get("id"), str) for c in chunks):
            return None
        dropped = kept.get("dropped")
        return cls(text, kept.get("value"), tuple(chunks), score,
                   dropped=tuple(map(str, dropped)) if isinstance(dropped, list) else ())
