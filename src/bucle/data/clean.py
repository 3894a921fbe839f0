"""Cleaning documents: quality, languages nobody asked for, duplicates, boilerplate, personal data. Everything left out
is accounted for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bucle.core.config import Quality
from bucle.core.ports import Report
from bucle.core.records import Document
from bucle.data.boilerplate import Boilerplate, find_boilerplate, strip_boilerplate
from bucle.data.names import NameFinder
from bucle.data.personal import Action, Finding, apply
from bucle.data.quality import failing
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
    ISO codes to keep (empty: all; `und` always stays); `quality` the thresholds of quality.failing; `boilerplate` the
    share of a source's documents from which a paragraph is boilerplate (1: never). `personal` is personal.apply's
    policy, `personal_key` its key, `names` a finder of people's names. `restored` are ids and paths of what was
    removed once and shall stay.
    """

    near_duplicate: float = 0.85
    languages: tuple[str, ...] = ()
    quality: Quality = field(default_factory=Quality)
    boilerplate: float = 0.5
    personal: Mapping[str, Action] = field(default_factory=dict)
    personal_key: str = field(default="", repr=False)
    names: NameFinder | None = field(default=None, repr=False)
    restored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Removal:
    """A document left out. `reason`: a threshold of Quality (`min_words`), `language`, `exact-duplicate`,
    `near-duplicate`, or, where nothing else stood in it, `boilerplate` or `personal-data`; `kept`: of a duplicate, the
    path of the one that stays."""

    id: str
    path: str
    reason: str
    detail: str
    kept: str = ""


@dataclass(frozen=True)
class PersonalCount:
    """How often one kind of personal data stood in a document, and what was done about it: `drop` took the whole
    paragraph (of a table, the row), of a secret only the secret."""

    document_id: str
    path: str
    kind: str
    action: str
    count: int


@dataclass(frozen=True)
class CleanResult:
    """The documents kept (in order, boilerplate taken out, personal data treated), those removed, the personal data
    found in those kept, and the boilerplate.
    """

    documents: list[Document]
    removed: list[Removal]
    personal: list[PersonalCount]
    boilerplate: list[Boilerplate] = field(default_factory=list)


def clean_documents(
    documents: Sequence[Document],
    policy: CleanPolicy | None = None,
    *,
    source_of: Callable[[Document], str] = lambda document: "",
    report: Report | None = None,
) -> CleanResult:
    """Cleans by `policy`; `source_of` says which source a document is of (boilerplate is told source by source).

    Of documents nearly the same the current one stays: not marked as superseded (`sin vigencia`, `old
    version`), of the latest year in its name, then the longest, then the first. Another is removed where it
    is an exact copy, an older version, or states no number the one that stays does not, boilerplate apart: a variant
    with its own prices or terms is kept, and so are two letters that share a long footer.
    """
    policy = policy or CleanPolicy()
    removed: dict[str, Removal] = {}
    for document in documents:
        if document.id in policy.restored or document.path in policy.restored:
            continue
        if told := failing(document, policy.quality):
            removed[document.id] = Removal(document.id, document.path, *told)
        elif policy.languages and document.language not in (*policy.languages, "und", ""):
            removed[document.id] = Removal(document.id, document.path, "language", document.language)
    left = [document for document in documents if document.id not in removed]
    removed |= _duplicates(left, policy, source_of)
    left = [document for document in left if document.id not in removed]
    boilerplate = find_boilerplate(left, policy.boilerplate, source_of=source_of, restored=policy.restored)
    stripped = _strip(left, boilerplate, source_of)
    cleaned, counts = [], []
    for at, (document, bare) in enumerate(zip(left, stripped, strict=True)):
        if report and at % 20 == 0:
            report(at, len(left), "personal data")
        kept = document.id in policy.restored or document.path in policy.restored
        if not bare.text.strip() and document.text.strip():
            if not kept:
                detail = "nothing stands in it but what stands in others too"
                removed[document.id] = Removal(document.id, document.path, "boilerplate", detail)
                continue
            bare = document
        treated, found = _treat(bare, policy, spare=kept)
        if not treated.text.strip() and bare.text.strip():
            detail = ", ".join(sorted(kind for kind, action in found if action == "drop"))
            removed[document.id] = Removal(document.id, document.path, "personal-data", detail)
            continue
        cleaned.append(treated)
        counts += [
            PersonalCount(document.id, document.path, kind, action, count)
            for (kind, action), count in sorted(found.items())
        ]
    listed = [removed[document.id] for document in documents if document.id in removed]
    return CleanResult(cleaned, listed, counts, boilerplate)


def _duplicates(
    left: Sequence[Document], policy: CleanPolicy, source_of: Callable[[Document], str]
) -> dict[str, Removal]:
    """What goes because something else nearly the same stays."""
    removed: dict[str, Removal] = {}
    texts = [document.text for document in left]
    exact = {index: group for group in exact_duplicates(texts) for index in group}
    # Copies of one document must not make its paragraphs look like boilerplate: one of each is counted.
    firsts = [document for index, document in enumerate(left) if index not in exact or exact[index][0] == index]
    boilerplate = find_boilerplate(firsts, policy.boilerplate, source_of=source_of)
    own = [document.text for document in _strip(left, boilerplate, source_of)] if boilerplate else texts
    for group in near_duplicates(texts, policy.near_duplicate):
        kept = max(group, key=lambda index: (*_standing(left[index]), len(texts[index]), -index))
        for index in group:
            document, alike = left[index], similarity(texts[index], texts[kept])
            if index == kept or alike < policy.near_duplicate:
                continue
            if document.id in policy.restored or document.path in policy.restored:
                continue
            apart = own[index] != texts[index] and similarity(own[index], own[kept]) < policy.near_duplicate
            if kept in exact.get(index, ()):
                reason, detail = "exact-duplicate", f"the same as {left[kept].path}"
            elif _is_older(document, left[kept]):
                reason, detail = "near-duplicate", f"an older version of {left[kept].path}, {alike:.0%} the same"
            elif _numbers(texts[index]) <= _numbers(texts[kept]) and not apart:
                reason, detail = "near-duplicate", f"{alike:.0%} the same as {left[kept].path}"
            else:
                continue
            removed[document.id] = Removal(document.id, document.path, reason, detail, left[kept].path)
    return removed


def _strip(
    documents: Sequence[Document], boilerplate: Sequence[Boilerplate], source_of: Callable[[Document], str]
) -> list[Document]:
    """`documents` without the boilerplate of their own source."""
    by_source: dict[str, list[Boilerplate]] = {}
    for one in boilerplate:
        if not one.path:
            by_source.setdefault(one.source, []).append(one)
    by_path: dict[str, list[Boilerplate]] = {}
    for one in boilerplate:
        if one.path:
            by_path.setdefault(one.path, []).append(one)
    return [
        strip_boilerplate(document, [*by_source.get(source_of(document), ()), *by_path.get(document.path, ())])
        for document in documents
    ]


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


def _treat(document: Document, policy: CleanPolicy, spare: bool) -> tuple[Document, Counter[tuple[str, str]]]:
    """`document` with its personal data treated, and how often each kind met each action. Where the policy for a kind
    is `drop`, the paragraph goes, of a table the row; in a title, and where `spare`, only the value goes."""
    found: Counter[tuple[str, str]] = Counter()
    texts = [block.text for block in document.blocks]
    units = [
        text.split("\n") if block.kind == "table" else [text]
        for block, text in zip(document.blocks, texts, strict=True)
    ]
    flat = [unit for unit_list in units for unit in unit_list]
    names = policy.names.find(flat) if policy.names else [[] for _ in flat]

    def treat(text: str, people: Sequence[Finding] = (), *, whole: bool = False) -> str | None:
        treated, findings = apply(text, policy.personal, key=policy.personal_key, names=people)
        actions = [
            (one.kind, "drop" if one.kind == "secret" else policy.personal.get(one.kind, "mask")) for one in findings
        ]
        found.update(actions)
        dropped = whole and not spare and any(action == "drop" and kind != "secret" for kind, action in actions)
        return None if dropped else treated

    blocks, at = [], 0
    for block, parts in zip(document.blocks, units, strict=True):
        kept = [treat(part, names[at + n], whole=True) for n, part in enumerate(parts)]
        at += len(parts)
        text = "\n".join(part for part in kept if part is not None)
        if text.strip():
            place = apply(block.place, policy.personal, key=policy.personal_key)[0] if block.place else ""
            blocks.append(block.model_copy(update={"text": text, "place": place}))
    return document.model_copy(update={"blocks": tuple(blocks), "title": treat(document.title) or ""}), found
