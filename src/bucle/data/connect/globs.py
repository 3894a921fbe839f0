"""Globs over paths with `/`: `**/` is any folders or none, `*` and `?` stay inside one name, `[a-c]` is one of them."""

from __future__ import annotations

import functools
import re
import unicodedata

__all__ = ["below", "cut", "is_glob", "matches"]

_MAGIC = re.compile(r"[*?]|\[[^\]/]+\]")


def matches(path: str, pattern: str) -> bool:
    """Whether the whole `path` is what `pattern` describes, however either writes its accents."""
    return bool(_regex(_nfc(pattern)).fullmatch(_nfc(path)))


def below(path: str, pattern: str) -> bool:
    """Whether `pattern` describes `path` or any folder that it stands in."""
    parts = path.split("/")
    wanted = pattern.strip("/") or "**"
    return any(matches("/".join(parts[:end]), wanted) for end in range(len(parts), 0, -1))


def is_glob(text: str) -> bool:
    return bool(_MAGIC.search(text))


def cut(path: str) -> tuple[str, str]:
    """`docs/a/**/*.pdf` as the folder before the first glob and the pattern after it (empty where there is none)."""
    parts = path.split("/")
    first = next((at for at, part in enumerate(parts) if is_glob(part)), len(parts))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _nfc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part) or _set(part) for part in parts), re.DOTALL)


def _set(part: str) -> str:
    if not (part.startswith("[") and part.endswith("]") and len(part) > 2):
        return re.escape(part)
    inner = part[1:-1]
    negated = inner.startswith("!") and len(inner) > 1
    body = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[1:] if negated else inner)
    try:
        re.compile(f"[{body}]")
    except re.error:  # `[z-a]`
        return re.escape(part)
    return f"(?!/)[{'^' if negated else ''}{body}]"
