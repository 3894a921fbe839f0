"""Citations of an answer that a model wrote: read from its text, checked against the passages in its prompt, and each
with the sentence that supports it.

A number that is no passage of the prompt is dropped and counted, and so is one whose passage does not bear out what it
stands behind (`supported`). An answer that is left with none gets those passages whose words hold at least half of its
own (SUPPORTED); with none that does, it says what nobody can check.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bucle.core.errors import BucleError
from bucle.core.ports import Hit, SearchIndex
from bucle.core.records import Chunk
from bucle.customise.overlap import folded
from bucle.customise.retrieve.signals import grams, joined, parts_of, support_of
from bucle.data.sentences import sentences

__all__ = ["Cited", "cited", "markers_in", "supported", "supporting", "without_markers"]

SUPPORTED = 0.5
"""The share of an answer's 4-grams that two neighbouring sentences of a passage must hold to be cited for it where the
model cites nothing. On 632 public questions in Spanish and English, three passages each: an answer that is quoted word
for word always reaches it where it stands; of the answers to questions about something else, 1% of whole sentences and
7% to 10% of names and numbers do."""
BORNE_OUT = 0.3
"""The share of the 4-grams of a statement's words (function words aside) that two neighbouring sentences of the passage
it cites must hold."""
ABROAD = 0.15
"""The same where most of the statement's function words are not the passage's: it is in another language, and names and
numbers are what both share."""
LIKE = 0.6
"""The cosine with a sentence of the passage that is enough as well."""
SAYS_LITTLE = 2
"""Words before a marker below which its whole sentence is looked at: `As [1] says, …`."""
NEAR = 0.1  # to the best passage's share, for another to be cited too
MOST_CITED = 20  # numbers read from one answer
_MARKER = re.compile(r"\s*[\[【]\s*(\d{1,3}(?:\s*(?:,|;|-|–|y|and|&)\s*\d{1,3})*)\s*[\]】]")

_RUN = re.compile(f"(?:{_MARKER.pattern})+")


@dataclass(frozen=True)
class Cited:
    """An answer with its markers taken out or renumbered, the passages it cites with the sentence of each, how many
    markers named no passage of the prompt, whether the passages were found by their words instead, and how many markers
    named a passage that does not bear the answer out."""

    text: str
    citations: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()
    dropped: int = 0
    by_words: bool = False
    unsupported: int = 0


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
    """`answer` with its citations checked against `passages`, in the order of the prompt, and for support. Markers of
    the reasoning count where the answer has none, behind what the reasoning says there. `keep` leaves the valid markers
    in the text, numbered in the order of `citations`."""
    plain = without_markers(answer)
    marked = answer if markers_in(answer) else reasoning
    numbers = markers_in(marked)
    there = [n for n in numbers if 1 <= n <= len(passages)]
    said = dict(zip(there, _said(marked, there, plain), strict=True))
    valid = [n for n in there if any(supported(question, one, passages[n - 1], index, access)
                                     for one in dict.fromkeys([*said[n], *([] if marked is answer else [plain])]))]
    chosen = [passages[n - 1] for n in valid]
    by_words = not chosen
    if by_words:
        held = [_held(plain, parts_of(index, Hit(one, 1.0), access)) for one in passages]
        least = max([SUPPORTED, *(share - NEAR for share in held)])
        chosen = [one for one, share in zip(passages, held, strict=True) if share >= least]
    place = {n: i for i, n in enumerate(valid, 1)}
    text = _RUN.sub(lambda match: _renumbered(match, place), answer).strip() if keep and valid else plain
    return Cited(
        text,
        tuple(one.id for one in chosen),
        tuple(supporting(question, one, passage, index, access)
              for one, passage in zip([said[n][0] for n in valid] or [plain] * len(chosen), chosen, strict=True)),
        len(numbers) - len(there),
        by_words,
        len(there) - len(valid),
    )


def supported(question: str, statement: str, passage: Chunk, index: SearchIndex, access: frozenset[str]) -> bool:
    """Whether a passage bears a statement out, leniently, so that a paraphrase passes: two neighbouring sentences hold
    BORNE_OUT of its words' 4-grams, or one sentence is LIKE it by meaning, where the index embeds. A statement without
    a word to look for (`Yes`) is judged by its question's. docs/retrieval.md says what passes."""
    said = _words(statement)
    sought = [word for word in said if word not in _function_words()] or [
        word for word in _words(question) if word not in _function_words()]
    spans = parts_of(index, Hit(passage, 1.0), access) or [passage.text]
    if not sought:
        return True
    own, little = set(_words(passage.text)), [word for word in said if word in _function_words()]
    abroad = bool(little) and sum(word in own for word in little) < len(little) / 2
    if _held(" ".join(sought), spans) >= (ABROAD if abroad else BORNE_OUT):
        return True
    return max(_likeness(index, statement, spans, access), default=0.0) >= LIKE


def supporting(question: str, answer: str, passage: Chunk, index: SearchIndex, access: frozenset[str]) -> str:
    """The sentence of a passage that best supports an answer to a question, by the words of both, or where the answer
    has few of its words, by meaning; empty for a passage without any."""
    spans = parts_of(index, Hit(passage, 1.0), access)
    if not spans:
        return ""
    support: Any = support_of(index, question, spans, 0.0, None, access)
    asked = grams(answer)
    held = [_share(asked, joined(span)) for span in spans]
    if max(held) < BORNE_OUT and (alike := _likeness(index, answer, spans, access)):
        held = alike
    return spans[max(range(len(spans)), key=lambda i: (held[i] + float(support[i]), -i))]


def _said(text: str, numbers: Sequence[int], whole: str) -> list[tuple[str, ...]]:
    """What each cited passage is cited for: what stands before its first marker, from the marker before it on, and the
    last sentence of that; where that says little the marker's sentence, and at least the `whole` answer."""
    said, start, last = dict.fromkeys(numbers, ""), 0, ""
    for match in _MARKER.finditer(text):
        before = text[start : match.start()].strip(" .,;:\n")
        start, last = match.end(), before or last
        for number in markers_in(match.group(0)):
            if number in said:
                said[number] = said[number] or last
    around = {n: without_markers(one) for one in reversed(sentences(text)) for n in markers_in(one)}
    found = []
    for number, before in said.items():
        told = [before, *sentences(before)[-1:]]
        if sum(word not in _function_words() for word in _words(before)) < SAYS_LITTLE:
            told += [around.get(number, ""), whole if not before else ""]
        found.append(tuple(dict.fromkeys(one for one in told if _words(one))) or (whole,))
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", folded(text))


@lru_cache(maxsize=1)
def _function_words() -> frozenset[str]:
    from bucle.data.topics import STOP_WORDS

    return frozenset(word for one in STOP_WORDS for word in _words(one))


def _likeness(index: SearchIndex, statement: str, spans: Sequence[str], access: frozenset[str]) -> list[float]:
    """The cosine of a statement with each sentence; empty where the index does not embed."""
    embed = getattr(index, "embed", None)
    if embed is None or not statement.strip():
        return []
    try:
        return [float(one) for one in support_of(index, statement, spans, 1.0, embed([statement])[0], access)]
    except BucleError:  # an index opened without its encoder: words decide
        return []


def _held(answer: str, spans: Sequence[str]) -> float:
    """The share of an answer's 4-grams in the best two neighbouring sentences."""
    asked = grams(answer)
    pairs = [f"{joined(a)}{joined(b)}" for a, b in itertools.pairwise(spans)] or [joined(s) for s in spans]
    return max((_share(asked, pair) for pair in pairs), default=0.0)


def _share(asked: Sequence[str], text: str) -> float:
    return sum(gram in text for gram in asked) / len(asked) if asked else 0.0


def _renumbered(run: re.Match[str], place: dict[int, int]) -> str:
    """A run of markers with the numbers that stay, behind the space that it stands behind."""
    told = ""
    for marker in _MARKER.finditer(run.group(0)):
        if numbers := [place[n] for n in markers_in(marker.group(0)) if n in place]:
            space = " " if (marker if told else run).group(0)[:1].isspace() else ""
            told += f"{space}[{', '.join(map(str, numbers))}]"
    return told
