"""Cleaning documents: duplicates, languages nobody asked for, personal data. Everything left out is accounted
for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bucle.core.records import Document
from bucle.data.personal import Action, apply
from bucle.data.similar import exact_duplicates, near_duplicates, similarity

__all__ = [
    "CleanPolicy",
    "CleanResult",
    "PersonalCount",
    "Removal",
    "clean_documents",
    "exact_duplicates",
    "near_duplicates",
]

_SUPERSEDED = re.compile(
    r"sin vigencia|versi[oó]n anterior|obsolet|derogad|no vigente|caducad|superseded|outdated|deprecated|old version",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CleanPolicy:
    """What cleaning does. `near_duplicate` is a Jaccard similarity (1: exact copies only); `languages` are
    ISO codes to keep (empty: all; `und` always stays); `personal` is personal.apply's policy, `personal_key`
    its key.
    """

    near_duplicate: float = 0.85
    languages: tuple[str, ...] = ()
    min_words: int = 3
    personal: Mapping[str, Action] = field(default_factory=dict)
    personal_key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Removal:
    """A document left out. `reason`: `too-short`, `language`, `exact-duplicate` or `near-duplicate`; `kept`: of a
    duplicate, the path of the one that stays."""

    id: str
    path: str
    reason: str
    detail: str
    kept: str = ""


@dataclass(frozen=True)
class PersonalCount:
    """How often one kind of personal data stood in a document, and what was done about it."""

    document_id: str
    path: str
    kind: str
    action: str
    count: int


@dataclass(frozen=True)
class CleanResult:
    """The documents kept (in order, personal data treated), those removed, and the personal data found in
    those kept.
    """

    documents: list[Document]
    removed: list[Removal]
    personal: list[PersonalCount]


def clean_documents(documents: Sequence[Document], policy: CleanPolicy | None = None) -> CleanResult:
    """Cleans by `policy`.

    Of documents nearly the same the current one stays: not marked as superseded (`sin vigencia`, `old
    version`), of the latest year in its name, then the longest, then the first. Another is removed where it
    is an exact copy, an older version, or states no number the one that stays does not: a variant with its
    own prices or terms is kept.
    """
    policy = policy or CleanPolicy()
    removed: dict[str, Removal] = {}
    for document in documents:
        if len(document.text.split()) < policy.min_words:
            removed[document.id] = Removal(
                document.id, document.path, "too-short", f"{len(document.text.split())} words"
            )
        elif policy.languages and document.language not in (*policy.languages, "und", ""):
            removed[document.id] = Removal(document.id, document.path, "language", document.language)
    left = [document for document in documents if document.id not in removed]
    texts = [document.text for document in left]
    exact = {index: group for group in exact_duplicates(texts) for index in group}
    for group in near_duplicates(texts, policy.near_duplicate):
        kept = max(group, key=lambda index: (*_standing(left[index]), len(texts[index]), -index))
        for index in group:
            document, alike = left[index], similarity(texts[index], texts[kept])
            if index == kept or alike < policy.near_duplicate:
                continue
            if kept in exact.get(index, ()):
                reason, detail = "exact-duplicate", f"the same as {left[kept].path}"
            elif _is_older(document, left[kept]):
                reason, detail = "near-duplicate", f"an older version of {left[kept].path}, {alike:.0%} the same"
            elif _numbers(texts[index]) <= _numbers(texts[kept]):
                reason, detail = "near-duplicate", f"{alike:.0%} the same as {left[kept].path}"
            else:
                continue
            removed[document.id] = Removal(document.id, document.path, reason, detail, left[kept].path)
    cleaned, counts = [], []
    for document in left:
        if document.id not in removed:
            treated, found = _treat(document, policy)
            cleaned.append(treated)
            counts += [
                PersonalCount(
                    document.id,
                    document.path,
                    kind,
                    "drop" if kind == "secret" else policy.personal.get(kind, "mask"),
                    count,
                )
                for kind, count in sorted(found.items())
            ]
    return CleanResult(cleaned, [removed[document.id] for document in documents if document.id in removed], counts)


def _standing(document: Document) -> tuple[bool, int]:
    """What makes one of several versions the current one: not said to be superseded, and the latest year it
    is named by.
    """
    name = f"{document.path} {document.title}"
    years = [int(year) for year in re.findall(r"(?<!\d)(?:19|20)\d\d(?!\d)", name)]
    return not _SUPERSEDED.search(name), max(years, default=0)


def _is_older(document: Document, kept: Document) -> bool:
    """Whether `kept` takes the place of `document`: that is marked as superseded, or of an earlier year by
    the same name.
    """
    mine, theirs = _standing(document), _standing(kept)
    same_name = re.sub(r"\d+", "", document.path) == re.sub(r"\d+", "", kept.path)
    return (theirs[0] and not mine[0]) or (same_name and mine[1] < theirs[1])


def _numbers(text: str) -> set[str]:
    """The numbers a text states: copies that differ in one (a price, a term) are not the same document."""
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def _treat(document: Document, policy: CleanPolicy) -> tuple[Document, Counter[str]]:
    found: Counter[str] = Counter()

    def treat(text: str) -> str:
        treated, findings = apply(text, policy.personal, key=policy.personal_key)
        found.update(finding.kind for finding in findings)
        return treated

    blocks = tuple(block.model_copy(update={"text": treat(block.text)}) for block in document.blocks)
    blocks = tuple(
        block.model_copy(update={"place": apply(block.place, policy.personal, key=policy.personal_key)[0]})
        for block in blocks
        if block.text.strip()
    )
    return document.model_copy(update={"blocks": blocks, "title": treat(document.title)}), found
