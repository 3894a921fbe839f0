"""Citations of an answer that a model wrote: read from its text, checked against the passages in its prompt, and each
with the sentence that supports it.

A number that is no passage of the prompt is dropped and counted. An answer that cites none of them gets those passages
whose words hold at least half of its own (SUPPORTED); with none that does, it says what nobody can check.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.ports import Hit, SearchIndex
from bucle.core.records import Chunk
from bucle.customise.retrieve.signals import grams, joined, parts_of, support_of

__all__ = ["Cited", "cited", "markers_in", "supporting", "without_markers"]

SUPPORTED = 0.5
"""The share of an answer's 4-grams that two neighbouring sentences of a passage must hold to be cited for it where the
model cites nothing. On 632 public questions in Spanish and English, three passages each: an answer that is quoted word
for word always reaches it where it stands; of the answers to questions about something else, 1% of whole sentences and
7% to 10% of names and numbers do."""
NEAR = 0.1  # to the best passage's share, for another to be cited too
MOST_CITED = 20  # numbers read from one answer
_MARKER = re.compile(r"\s*[\[【]\s*(\d{1,3}(?:\s*(?:,|;|-|–|y|and|&)\s*\d{1,3})*)\s*[\]】]")


@dataclass(frozen=True)
class Cited:
    """An answer with its markers taken out or renumbered, the passages it cites with the sentence of each, how many
    markers named no passage of the prompt, and whether the passages were found by their words instead."""

    text: str
    citations: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()
    dropped: int = 0
    by_words: bool = False


def markers_in(text: str) -> list[int]:
    """The passage numbers that a text cites, in order, each once: `[2]`, `[1, 3]`, `[1-3]`."""
    found: list[int] = []
    for match in _MARKER.finditer(text):
        inside = match.group(1)
        numbers = [int(n) for n in re.findall(r"\d+", inside)]
        if re.search(r"[-–]", inside) and len(numbers) == 2 and numbers[0] < numbers[1] <= numbers[0] + MOST_CITED:
            numbers = list(range(numbers[0], numbers[1] + 1))
        found += numbers
    return list(dict.fromkeys(found))[:MOST_CITED]


def without_markers(text: str) -> str:
    return " ".join(_MARKER.sub("", text).split(" ")).strip()


def cited(
    answer: str,
    reasoning: str,
    question: str,
    passages: Sequence[Chunk],
    index: SearchIndex,
    access: frozenset[str],
    *,
    keep: bool = False,
) -> Cited:
    """`answer` with its citations checked against `passages`, in the order of the prompt. Markers of the reasoning
    count where the answer has none. `keep` leaves the valid markers in the text, numbered in the order of
    `citations`."""
    numbers = markers_in(answer) or markers_in(reasoning)
    valid = [n for n in numbers if 1 <= n <= len(passages)]
    plain = without_markers(answer)
    chosen = [passages[n - 1] for n in valid]
    by_words = not chosen
    if by_words:
        held = [_held(plain, parts_of(index, Hit(one, 1.0), access)) for one in passages]
        least = max([SUPPORTED, *(share - NEAR for share in held)])
        chosen = [one for one, share in zip(passages, held, strict=True) if share >= least]
    place = {n: i for i, n in enumerate(valid, 1)}
    text = _MARKER.sub(lambda match: _renumbered(match, place), answer).strip() if keep and valid else plain
    return Cited(
        text,
        tuple(one.id for one in chosen),
        tuple(supporting(question, said, one, index, access)
              for said, one in zip(_said(answer, valid) or [plain] * len(chosen), chosen, strict=True)),
        len(numbers) - len(valid),
        by_words,
    )


def supporting(question: str, answer: str, passage: Chunk, index: SearchIndex, access: frozenset[str]) -> str:
    """The sentence of a passage that best supports an answer to a question, by the words of both; empty for a passage
    without any."""
    spans = parts_of(index, Hit(passage, 1.0), access)
    if not spans:
        return ""
    support: Any = support_of(index, question, spans, 0.0, None)
    asked = grams(answer)
    held = [_share(asked, joined(span)) for span in spans]
    return spans[max(range(len(spans)), key=lambda i: (held[i] + float(support[i]), -i))]


def _said(answer: str, valid: Sequence[int]) -> list[str]:
    """What stands before the first marker of each cited passage, from the marker before it on; the whole answer for one
    that only the reasoning cites."""
    said, start, last = dict.fromkeys(valid, ""), 0, ""
    for match in _MARKER.finditer(answer):
        before = answer[start : match.start()].strip(" .,;:\n")
        start, last = match.end(), before or last
        for number in markers_in(match.group(0)):
            if number in said:
                said[number] = said[number] or last
    return [text or without_markers(answer) for text in said.values()]


def _held(answer: str, spans: Sequence[str]) -> float:
    """The share of an answer's 4-grams in the best two neighbouring sentences."""
    asked = grams(answer)
    pairs = [f"{joined(a)}{joined(b)}" for a, b in itertools.pairwise(spans)] or [joined(s) for s in spans]
    return max((_share(asked, pair) for pair in pairs), default=0.0)


def _share(asked: Sequence[str], text: str) -> float:
    return sum(gram in text for gram in asked) / len(asked) if asked else 0.0


def _renumbered(match: re.Match[str], place: dict[int, int]) -> str:
    numbers = [place[n] for n in markers_in(match.group(0)) if n in place]
    space = " " if match.group(0)[:1].isspace() else ""
    return f"{space}[{', '.join(map(str, numbers))}]" if numbers else ""
