"""What is searched for: the question as it is, rewritten by a model as a search query, or said in several ways.

Several searches are fused by reciprocal rank (Cormack, Clarke and Büttcher 2009, SIGIR: 1 / (60 + rank), summed). Where
the model fails, the question itself serves and `error` says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bucle.core.errors import BucleError, ConfigError
from bucle.core.ports import ChatModel, ChatReply, Hit
from bucle.core.records import Usage
from bucle.models.ask import Ask, ask_all

__all__ = ["MODES", "Searched", "by_reciprocal_rank", "mode_of", "searched_for"]

MODES = ("plain", "rewrite", "multi")
WAYS = 3  # in which `multi` says a question anew
QUERY_TOKENS = 48  # a line of them
MOST_CHARACTERS = 300  # of a query
RRF = 60  # Cormack et al.'s constant
PROMPTS = {
    "es": {
        "rewrite": "Reescribe la pregunta como una consulta para buscar en los documentos de la organización: las "
        "palabras que importan, completas y sin rodeos. No la contestes. Responde solo con la consulta, en una línea.",
        "multi": "Escribe {n} consultas distintas para buscar en los documentos de la organización lo que responde a "
        "la pregunta, con otras palabras que esos documentos podrían usar. No la contestes. Una consulta por línea, "
        "sin numerar.",
    },
    "en": {
        "rewrite": "Rewrite the question as a query to search the organisation's documents with: the words that "
        "matter, in full and without detours. Do not answer it. Reply with the query only, on one line.",
        "multi": "Write {n} different queries to search the organisation's documents for what answers the question, "
        "in other words that those documents may use. Do not answer it. One query a line, unnumbered.",
    },
}
_MARKS = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s*|^\s*(?:consulta|query)\s*\d*\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Searched:
    """What is searched for one question: at least one query; `error` where the model gave none."""

    queries: tuple[str, ...]
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    error: str = ""


def mode_of(params: Mapping[str, Any], chat: ChatModel | None) -> str:
    """The setting `queries`. Raises ConfigError for an unknown one, or one that needs a model where there is none."""
    mode = params.get("queries") or "plain"
    if mode not in MODES:
        raise ConfigError(
            f"The setting `queries` is {str(mode)[:40]!r}; it is one of {', '.join(MODES)}.",
            "Correct it under `choose.techniques` in bucle.yaml.",
        )
    if mode != "plain" and chat is None:
        raise ConfigError(
            f"`queries: {mode}` needs a model that writes, and this technique is given none.",
            "Set it for `rag` (answers) or `rewritten-search` (documents) under `choose.techniques`.",
        )
    return str(mode)


def searched_for(
    chat: ChatModel | None, questions: Sequence[str], mode: str, *, language: str, seed: int
) -> list[Searched]:
    """What to search for, for each question in order: with `rewrite` the model's query, with `multi` the question and
    up to three more."""
    if mode == "plain" or chat is None:
        return [Searched((question,)) for question in questions]
    told = PROMPTS.get(language, PROMPTS["en"])[mode].format(n=WAYS)
    tokens = QUERY_TOKENS * (WAYS if mode == "multi" else 1)
    at = [i for i, question in enumerate(questions) if question.strip()]
    found = {i: Searched((question,)) for i, question in enumerate(questions)}
    asks = [
        Ask(({"role": "system", "content": told}, {"role": "user", "content": questions[i]}), tokens, seed=seed)
        for i in at
    ]
    try:
        replies: Sequence[ChatReply | BucleError] = ask_all(chat, asks) if asks else []
    except BucleError as error:
        replies = [error] * len(asks)
    for i, reply in zip(at, replies, strict=True):
        found[i] = _read(questions[i], reply, mode)
    return [found[i] for i in range(len(questions))]


def by_reciprocal_rank(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Several searches as one, best first; a score of 1 is the first of every list. One list stays as it is."""
    if len(lists) == 1:
        return list(lists[0])
    scores: dict[str, float] = {}
    first: dict[str, Hit] = {}
    for hits in lists:
        for rank, hit in enumerate(hits, 1):
            scores[hit.chunk.id] = scores.get(hit.chunk.id, 0.0) + 1 / (RRF + rank)
            first.setdefault(hit.chunk.id, hit)
    most = len(lists) / (RRF + 1)
    ranked = sorted(scores, key=lambda node: (-scores[node], node))
    return [replace(first[node], score=scores[node] / most) for node in ranked]


def _read(question: str, reply: ChatReply | BucleError, mode: str) -> Searched:
    if isinstance(reply, BucleError):
        return Searched((question,), error=reply.message)
    lines = reply.text.splitlines()
    if reply.finish == "length" and len(lines) > 1:
        lines = lines[:-1]  # the last was cut off
    written = [_MARKS.sub("", line).strip().strip("\"'`«»“”").strip()[:MOST_CHARACTERS] for line in lines]
    written = [w for w in dict.fromkeys(written) if any(c.isalnum() for c in w)]
    if not written:
        return Searched((question,), reply.usage, reply.ms, "the model wrote no query: the question itself served")
    queries = written[:1] if mode == "rewrite" else list(dict.fromkeys([question, *written[:WAYS]]))
    return Searched(tuple(queries), reply.usage, reply.ms)
