"""Exported chats (WhatsApp, both of its layouts): one block a day, each line `who: what`."""

from __future__ import annotations

import re

from bucle.core.records import Block
from bucle.data.parse.source import tidy

__all__ = ["is_chat", "read_chat"]

_LINE = re.compile(
    r"^[\u200e\u200f\ufeff]*\[?(?P<date>\d{1,4}[/.-]\d{1,2}[/.-]\d{2,4}),?[ \xa0\u202f]+"
    r"(?P<time>\d{1,2}:\d{2}(?::\d{2})?)(?:[ \xa0\u202f]?[aApP]\.?[ \xa0\u202f]?[mM]\.?)?"
    r"(?:\]| [-–])[ \xa0\u202f](?P<rest>.*)$"
)
_MARK = "\u200e\u200f"
_EDITED = re.compile(r"\s*<(se editó este mensaje|this message was edited)\.?>", re.IGNORECASE)
_NOTICE = re.compile(
    r"cifrados? de extremo a extremo|end-to-end encrypted|<(multimedia omitido|media omitted|archivo omitido)>|"
    r"^[^:]*: \W*<(adjunto|attached): |\((archivo adjunto|file attached)\)$|"
    r"(eliminaste|se eliminó) este mensaje|(this message was|you) deleted( this message)?\.?$|"
    r"(imagen|image|audio|v[ií]deo|sticker|document[oe]?) omitt?(ed|id[oa])",
    re.IGNORECASE,
)


def is_chat(text: str) -> bool:
    """Whether `text` is an exported chat: its first line begins a message, and at least two lines do."""
    lines = [line for line in text[:20_000].split("\n") if line.strip()][:100]
    return len(lines) >= 2 and bool(_LINE.match(lines[0])) and sum(bool(_LINE.match(line)) for line in lines) >= 2


def read_chat(text: str) -> list[Block]:
    """Blocks of an exported chat; the place is the date. Notices and omitted media are skipped."""
    days: list[tuple[str, list[str]]] = []
    skipping = False
    for line in text.split("\n"):
        begun = _LINE.match(line)
        if not begun:
            if days and days[-1][1] and not skipping and tidy(line):
                days[-1][1][-1] += "\n" + tidy(line)
            continue
        who, colon, what = _EDITED.sub("", begun["rest"]).partition(": ")
        skipping = not colon or bool(_NOTICE.search(begun["rest"]))
        if not days or days[-1][0] != begun["date"]:
            days.append((begun["date"], []))
        if not skipping and tidy(what):
            days[-1][1].append(tidy(who).strip(_MARK) + ": " + tidy(what).strip(_MARK + " "))
    return [Block(text="\n".join(said), place=f"date {day}") for day, said in days if said]
