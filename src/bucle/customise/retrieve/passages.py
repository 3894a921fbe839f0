"""Passages for a question: what is searched for, the searches fused, the best reranked. And the passages of a prompt,
fewer and shorter until a small model's context holds them: the least relevant go first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bucle.core.errors import BucleError, ConfigError
from bucle.core.ports import ChatModel, Hit, Reranker, SearchIndex
from bucle.core.records import Chunk, Usage
from bucle.customise.retrieve.queries import by_reciprocal_rank, mode_of, searched_for
from bucle.customise.retrieve.signals import DEPTH, look, order, parts_of, support_of
from bucle.customise.settings import whole

__all__ = ["Finder", "Found", "embedded", "search_settings", "shorter_and_shorter"]

SETTINGS = frozenset({"queries", "rerank", "depth"})
"""What every technique that searches reads from `choose.techniques`."""
PASSAGES_PER_DOCUMENT = 4  # asked for at first; more where documents are fewer than k


@dataclass(frozen=True)
class Found:
    """What was found for one question, best first; its vector (None where only words were searched); what a model's
    queries used, in tokens and milliseconds; `spans` for the trace."""

    hits: tuple[Hit, ...]
    vector: Any = None
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    spans: tuple[Mapping[str, Any], ...] = ()


def search_settings(
    params: Mapping[str, Any], chat: ChatModel | None, reranker: Reranker | None
) -> dict[str, Any]:
    """`queries`, `rerank` and `depth` as bucle.yaml gives them: reranked where the project names a reranker, unless
    it says `rerank: false`. Raises ConfigError."""
    rerank = params.get("rerank")
    if rerank is not None and not isinstance(rerank, bool):
        raise ConfigError(f"The setting `rerank` is {str(rerank)[:40]!r}; it is true or false.",
                          "Correct it under `choose.techniques` in bucle.yaml.")
    if rerank and reranker is None:
        raise ConfigError("`rerank: true` needs a reranker, and this project names none.",
                          "Add a model of kind `reranker` under `models:` and name it under `retrieval.reranker`.")
    return {
        "queries": mode_of(params, chat),
        "rerank": reranker is not None if rerank is None else rerank,
        "depth": whole(params, "depth", DEPTH, least=5, most=1000),
        "language": str(params.get("language") or "es"),
    }


def embedded(index: SearchIndex, texts: Sequence[str]) -> list[Any]:
    """Vectors of questions, where the index embeds them apart from searching; else None for each."""
    own = getattr(index, "embed", None)
    return list(own(texts)) if own is not None and texts else [None] * len(texts)


class Finder:
    """Searches as `settings` say: `weights` by signal (see fusion), `queries`, `rerank`, `depth`."""

    def __init__(
        self, index: SearchIndex, settings: Mapping[str, Any], *, chat: ChatModel | None = None,
        reranker: Reranker | None = None, seed: int = 0
    ) -> None:
        self.index, self.chat, self.seed = index, chat, seed
        self.weights: dict[str, float] = {name: w for name, w in settings["weights"].items() if w > 0}
        self.queries = str(settings.get("queries", "plain"))
        self.depth = int(settings.get("depth", DEPTH))
        self.language = str(settings.get("language", "es"))
        self.reranker = reranker if settings.get("rerank") else None

    def find(
        self, questions: Sequence[str], *, k: int, access: frozenset[str] = frozenset(), documents: bool = False,
        where: Mapping[str, str] | None = None, vectors: bool = False,
    ) -> list[Found]:
        """The `k` best passages for each question that a holder of `access` may see; with `documents` the best
        passage of each of the `k` best documents. `vectors`: the questions' own are wanted even if only words are
        searched."""
        asked = searched_for(self.chat, questions, self.queries, language=self.language, seed=self.seed)
        meant = self.weights.keys() != {"words"}
        texts = list(dict.fromkeys([*questions, *(q for one in asked for q in one.queries)]))
        known = dict(zip(texts, embedded(self.index, texts), strict=True)) if meant or vectors else {}
        found = []
        for question, one in zip(questions, asked, strict=True):
            spans = []
            if self.queries != "plain":
                spans.append({"name": "queries", "ms": one.ms, "queries": list(one.queries)}
                             | ({"error": one.error} if one.error else {}))
            hits = by_reciprocal_rank([self._search(q, known.get(q), k, access, where, documents)
                                       for q in one.queries])
            hits, reranked = self._reranked(question, hits)
            if documents:
                best: dict[str, Hit] = {}
                for hit in hits:
                    best.setdefault(hit.chunk.path, hit)
                hits = list(best.values())
            found.append(Found(tuple(hits[:k]), known.get(question), one.usage, one.ms, (*spans, *reranked)))
        return found

    def _search(
        self, query: str, vector: Any, k: int, access: frozenset[str], where: Mapping[str, str] | None, documents: bool
    ) -> list[Hit]:
        if not any(c.isprintable() and not c.isspace() for c in query):
            return []
        wanted = max(k * PASSAGES_PER_DOCUMENT if documents else k, self.depth if self.reranker else 1)
        while True:
            hits = self._ranked(query, vector, wanted, access, where)
            enough = not documents or len({hit.chunk.path for hit in hits}) >= k
            if enough or len(hits) < wanted or wanted >= self.index.count(access):
                return hits
            wanted *= 4

    def _ranked(
        self, query: str, vector: Any, wanted: int, access: frozenset[str], where: Mapping[str, str] | None
    ) -> list[Hit]:
        narrowed: dict[str, Any] = {"where": where} if where else {}
        if len(self.weights) == 1 and (only := next(iter(self.weights))) in ("words", "meaning"):
            return self.index.search(query, k=wanted, weight=float(only == "meaning"), vector=vector, access=access,
                                     **narrowed)
        pool = look(self.index, query, vector, access=access, where=where, depth=max(self.depth, wanted))
        return order(pool, self.weights)

    def _reranked(self, question: str, hits: list[Hit]) -> tuple[list[Hit], tuple[Mapping[str, Any], ...]]:
        """The `depth` best in the reranker's order, its scores on [0, 1]; the others after them, at 0. Where it fails
        the order stays, and the span says so."""
        if self.reranker is None or not hits:
            return hits, ()
        began = time.perf_counter()
        head, tail = hits[: self.depth], hits[self.depth :]
        try:
            judged = [float(s) for s in self.reranker.score(question, [_shown(hit.chunk) for hit in head])]
            whole_list = len(judged) == len(head) and all(s == s for s in judged)
            problem = "" if whole_list else "it did not score each passage"
        except BucleError as error:
            judged, problem = [], error.message
        span: dict[str, Any] = {"name": "rerank", "ms": (time.perf_counter() - began) * 1000, "passages": len(head)}
        if problem:
            return hits, (span | {"error": problem},)
        low, high = min(judged), max(judged)
        scored = [replace(hit, rerank=s, score=(s - low) / (high - low) if high > low else 1.0)
                  for hit, s in zip(head, judged, strict=True)]
        ranked = sorted(range(len(scored)), key=lambda i: (-judged[i], i))
        return [scored[i] for i in ranked] + [replace(hit, score=0.0) for hit in tail], (span,)


def _shown(chunk: Chunk) -> str:
    headed = chunk.heading and not chunk.text.startswith(chunk.heading)
    return f"{chunk.heading}\n{chunk.text}" if headed else chunk.text


def shorter_and_shorter(
    index: SearchIndex, question: str, chunks: Sequence[Chunk], weight: float, access: frozenset[str], most: int
) -> Iterator[tuple[tuple[Chunk, ...], list[str]]]:
    """Passages to put into a prompt, with their texts, the most first: `most` of `chunks` (best first), one fewer each
    time, and of the last one only its sentences, the least relevant to the question left out each time."""
    for count in range(min(most, len(chunks)), 0, -1):
        yield tuple(chunks[:count]), [c.text for c in chunks[:count]]
    if not chunks:
        return
    best = chunks[0]
    spans = parts_of(index, Hit(best, 1.0), access)
    vector: Any = embedded(index, [question])[0] if weight > 0 and len(spans) > 1 else None
    support = support_of(index, question, spans, weight, vector, access) if len(spans) > 1 else []
    order = sorted(range(len(support)), key=lambda i: (-support[i], i))
    for count in range(len(spans) - 1, 0, -1):
        kept = sorted(order[:count])
        yield (best,), [" ".join(spans[i] for i in kept)]
