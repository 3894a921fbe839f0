"""The index's table: its columns, a passage as a row and back, the languages it is searched in, filters."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Chunk

__all__ = [
    "FIELDS",
    "WHERE",
    "among",
    "chunk_of",
    "columns_for",
    "condition",
    "content_of",
    "digest_of",
    "folded",
    "full_text",
    "searchable",
    "texts",
    "tokenizing",
    "unspaced",
    "where_sql",
]

FIELDS = ("id", "document", "path", "text", "heading", "place", "language", "access", "audience")
"""What a passage is made of again."""
WHERE = ("path", "language", "document", "heading")
"""What a search may be narrowed by."""
MAX_VALUE = 2000
"""Characters of one value in `where`."""
RARE = 0.01
"""A language of less than this share of the passages is searched as the project's: detection errs on short texts."""
OTHER = "other"
"""The column of languages that have no stemmer."""
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003134f]"
)  # Thai, Lao, Burmese, Khmer, Japanese, Chinese

# Languages that the full-text index stems and whose stop words it knows, by ISO code.
_STEMMERS = {
    "da": "Danish", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French",
    "hu": "Hungarian", "it": "Italian", "nl": "Dutch", "no": "Norwegian", "pt": "Portuguese", "ru": "Russian",
    "sv": "Swedish",
}  # fmt: skip
_STARS = re.compile(r"\*+")


def searchable(heading: str, text: str) -> str:
    """What is embedded and searched of a passage: its heading stands before its text, unless it begins with it."""
    return f"{heading}\n{text}" if heading and not text.startswith(heading) else text


def folded(text: str) -> str:
    """Without accents: the full-text index folds them only after stemming, and Spanish stems differ with them
    (`averia`)."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text)
    for mark in {c for c in set(text) if unicodedata.combining(c)}:
        text = text.replace(mark, "")
    return text


def unspaced(text: str) -> bool:
    """Whether any of a text is in a script that is written without spaces between words."""
    try:
        text.encode("latin-1")  # most are, and that is quick
    except UnicodeEncodeError:
        return _UNSPACED.search(text) is not None
    return False


def columns_for(languages: Sequence[str], main: str, *, spaceless: bool = False) -> list[str]:
    """The languages that get a full-text column of their own, the project's (`main`) first: those with a stemmer that
    at least RARE of the passages are in. With `spaceless` texts, however few, there is one that cuts these into
    words."""
    counts = Counter(languages)
    wanted = [c for c, n in sorted(counts.items()) if c in _STEMMERS and c != main and n >= RARE * len(languages)]
    other = [OTHER] if main in _STEMMERS and spaceless else []
    return [main if main in _STEMMERS else OTHER, *wanted, *other]


def full_text(language: str) -> Any:
    """LanceDB's settings of one column's full-text index. Languages without a stemmer are cut into words as Unicode
    has it, so that those written without spaces are found too."""
    from lancedb.index import FTS

    return FTS(**tokenizing(language))


def tokenizing(language: str) -> dict[str, Any]:
    """How a column's text is cut into words, as LanceDB's arguments."""
    stemmer = _STEMMERS.get(language)
    if stemmer is None:
        return {"base_tokenizer": "icu", "stem": False, "remove_stop_words": False, "ascii_folding": True}
    return {"language": stemmer, "stem": True, "remove_stop_words": True, "ascii_folding": True}


def texts(chunk: Chunk, columns: Sequence[str]) -> list[str | None]:
    """What stands in each full-text column: the passage in its own language's, nothing in the others; where it is
    written without spaces in OTHER's too."""
    own = chunk.language if chunk.language in columns else columns[0]
    text = folded(searchable(chunk.heading, chunk.text))
    also = OTHER if OTHER in columns and own != OTHER and unspaced(text) else own
    return [text if column in (own, also) else None for column in columns]


def digest_of(chunk: Chunk) -> bytes:
    """16 bytes that differ where anything of a passage does."""
    return hashlib.blake2b(chunk.model_dump_json().encode(), digest_size=16).digest()


def content_of(chunk: Chunk) -> bytes:
    """16 bytes that differ where what is embedded of a passage does."""
    parts = "\0".join((chunk.heading, chunk.text))
    return hashlib.blake2b(parts.encode(), digest_size=16).digest()


def chunk_of(row: Mapping[str, Any]) -> Chunk:
    """The passage in a row with FIELDS. Raises ValueError where its access labels cannot be read."""
    access = row["access"]
    if not isinstance(access, list) or not all(isinstance(label, str) for label in access):
        raise ValueError(f"the access labels of {row['id']} cannot be read")
    return Chunk(
        id=row["id"],
        document_id=row["document"],
        path=row["path"],
        text=row["text"],
        heading=row["heading"],
        place=row["place"],
        language=row["language"],
        access=tuple(access),
    )


def condition(where: Mapping[str, str] | None) -> str:
    """SQL for `where`: equal, or of `path` with `*` for anything. Raises BadInput for a key that is none of WHERE."""
    parts = []
    for key, value in (where or {}).items():
        if key not in WHERE:
            raise BadInput(f"A search cannot be narrowed by `{key}`.", f"Give one of: {', '.join(WHERE)}.")
        if not isinstance(value, str) or len(value) > MAX_VALUE or "\0" in value:
            raise BadInput(f"The value of `{key}` is no text of at most {MAX_VALUE} characters.", "Give a shorter one.")
        if key == "path" and "*" in value:
            parts.append(f"regexp_like(path, {_quoted(_glob(value))})")
        else:
            parts.append(f"{key} = {_quoted(value)}")
    return " AND ".join(parts)


def among(column: str, values: Iterable[str], *, out: bool = False) -> str:
    """SQL for a text that is one of `values`, or with `out` none of them."""
    listed = ", ".join(map(_quoted, values))
    if not listed:
        return "true" if out else "false"
    return f"{column} {'NOT IN' if out else 'IN'} ({listed})"


def where_sql(*parts: str) -> str:
    """Conditions that must all hold."""
    return " AND ".join(f"({part})" for part in parts if part)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _glob(pattern: str) -> str:
    pieces = _STARS.split(pattern)
    return "(?s)^" + ".*".join(re.sub(r"([^\w\s/])", r"\\\1", piece) for piece in pieces) + "$"
