"""Figures on documents: what was read, what was not, and why."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bucle.core.records import Document
from bucle.data.clean import Removal
from bucle.data.explore.figures import histogram, quantiles, ranked
from bucle.data.parse import QuarantinedFile
from bucle.data.personal import find

__all__ = ["explore_documents"]

SHOWN = 20


def explore_documents(
    documents: Iterable[Document],
    quarantined: Sequence[QuarantinedFile | Mapping[str, Any]] = (),
    removed: Sequence[Removal | Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Figures on documents: counts, formats, languages, lengths in words, tables, access labels, what was left out and
    why, personal data left. `documents` are read once; what was left out may be given as figures already stored."""
    words: Counter[int] = Counter()
    formats: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    personal: Counter[str] = Counter()
    access: Counter[str] = Counter()
    sizes: list[tuple[int, str]] = []
    left: list[dict[str, Any]] = []
    count = blocks = tables = 0
    for document in documents:
        text = document.text
        size = len(re.findall(r"\w+", text))
        count, blocks = count + 1, blocks + len(document.blocks)
        tables += sum(block.kind == "table" for block in document.blocks)
        words[size] += 1
        formats[_format(document.path)] += 1
        languages[document.language or "und"] += 1
        access.update(document.access)
        sizes.append((size, document.path))
        if kinds := Counter(finding.kind for finding in find(text)):
            personal.update(kinds)
            left.append({"path": document.path, "kinds": ranked(kinds)})
    sizes.sort(key=lambda pair: (-pair[0], pair[1]))
    return {
        "documents": count,
        "blocks": blocks,
        "tables": tables,
        "words": quantiles(words),
        "words_histogram": histogram(words),
        "words_total": sum(size * times for size, times in words.items()),
        "formats": ranked(formats),
        "languages": ranked(languages),
        "access": ranked(access),
        "longest": [{"path": path, "words": size} for size, path in sizes[:SHOWN]],
        "shortest": [{"path": path, "words": size} for size, path in reversed(sizes[-SHOWN // 2 :])],
        "quarantined": _left_out(quarantined),
        "removed": _left_out(removed),
        "personal": ranked(personal),
        "personal_shown": sorted(left, key=lambda one: (-sum(one["kinds"].values()), one["path"]))[:SHOWN],
    }


def _left_out(some: Sequence[Any]) -> dict[str, Any]:
    files = [dict(one) if isinstance(one, Mapping) else dataclasses.asdict(one) for one in some]
    return {"count": len(files), "reasons": ranked(Counter(str(one["reason"]) for one in files)), "files": files}


def _format(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    return suffix if 0 < len(suffix) <= 8 else "–"
