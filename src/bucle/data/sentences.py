"""Where sentences end, said once: passages are cut there, quoted by sentence, and drafts name their characters."""

from __future__ import annotations

import re

__all__ = ["sentence_spans", "sentences"]

_END = re.compile(r"(?<=[.!?…])\s+(?=[\"«¿¡(A-ZÁÉÍÓÚÜÑ0-9])")
# What ends in a full stop and does not end a sentence; a single capital is an initial (`J. Pérez`, `EE. UU.`).
_ABBREVIATION = re.compile(
    r"(?:^|[\s(¿¡«\"])(?:[A-ZÁÉÍÓÚÑ]|(?i:srs?|sras?|sres|srtas?|drs?|dras?|dña|uds?|vds?|arts?|núms?|nº|n\.[ºo]|págs?|tels?|"
    r"tfnos?|avdas?|avs?|ctra|pza|aprox|máx|mín|cap|vol|fig|ej|ee|cc|mr|mrs|ms|prof|vs))\.$"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """The characters of each sentence, line without one, and table row of `text`, first and one past the last. What
    lies between them is white space. A sentence ends at the end of its line at the latest."""
    spans: list[tuple[int, int]] = []
    at = 0
    for line in text.splitlines(keepends=True):
        begun = len(spans)
        ends = [] if line.startswith("|") else [m.span() for m in _END.finditer(line)]
        for start, end in zip([0, *(e for _, e in ends)], [*(s for s, _ in ends), len(line)], strict=True):
            first, last = at + start, at + end
            if len(spans) > begun and _ABBREVIATION.search(text[max(spans[-1][1] - 12, at) : spans[-1][1]]):
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        at += len(line)
    trimmed = (_trim(text, start, end) for start, end in spans)
    return [(start, end) for start, end in trimmed if start < end]


def sentences(text: str) -> list[str]:
    """The sentences and table rows of a passage, without table rules and what is too short to say anything."""
    whole = (text[start:end] for start, end in sentence_spans(text))
    return [p for p in whole if len(p) > 3 and not set(p) <= set("|-: ")]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))
