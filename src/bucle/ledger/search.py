"""What a person types to find traces, as a full-text query that cannot be wrong."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["Query", "parse_query"]

MOST_TERMS, MOST_CHARACTERS = 32, 2_000
_TERM = re.compile(r'"([^"]*)"(\*?)|(\S+)')
_UNSPACED = re.compile(  # scripts that write no spaces between words, which the index therefore holds as one long word
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Query:
    """`match` for FTS5's MATCH (empty: nothing for it to do) and `like` patterns, escaped with a backslash; a text must
    fit all of them."""

    match: str
    like: tuple[str, ...]


def parse_query(text: str) -> Query:
    """Words (all of them, in any order), "phrases in quotes" and prefixes* to what SQLite is asked.

    Case and accents do not matter. No character of `text` is an operator of FTS5. What holds no letter or digit (an
    emoji, `%`) and what is of a script without spaces is looked for as it is written, which reads every text.
    """
    match, like = [], []
    for phrase, star, word in _TERM.findall(text[:MOST_CHARACTERS].replace("\x00", " "))[:MOST_TERMS]:
        prefix = bool(star) or (len(word) > 1 and word.endswith("*"))
        said = phrase or word.replace('"', "").rstrip("*" if prefix else "")
        if not said.strip():
            continue
        if _UNSPACED.search(said) or not any(_in_words(c) for c in said):
            escaped = said.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            like.append(f"%{escaped}%")
        else:
            match.append(f'"{said}"' + " *" * prefix)
    return Query(" ".join(match), tuple(like))


def _in_words(character: str) -> bool:
    """Whether the index's tokenizer takes `character` as part of a word."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Co"
