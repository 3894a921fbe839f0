"""Cleaning documents: quality, languages nobody asked for, duplicates, boilerplate, personal data. Everything left out
is accounted for.
"""

from __future__ import annotations

import hashlib
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
from bucle.data.similar import exact_duplicates, near_duplicates, normal_form, similarity
from bucle.data.variants import says_more

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
_COMPARED = 64
"""Of a group of many variants, each document is compared with so many that stay."""


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
    found in those kept, the boilerplate, and the paragraphs and table rows that a policy `drop` took from documents
    that stay (`personal-data`, with the kinds for detail, never their text; the id restores them masked), with the
    secrets taken from each (`secret`, which nothing restores).
    """

    documents: list[Document]
    removed: list[Removal]
    personal: list[PersonalCount]
    boilerplate: list[Boilerplate] = field(default_factory=list)
    dropped: list[Removal] = field(default_factory=list)


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
    is an exact copy, an older version, or states no number, name or word the one that stays does not, boilerplate
    apart: a variant with its own prices or terms is kept, and so are two letters that share a long footer. Only
    documents with the same access labels are compared: nobody loses a text to a copy they may not read.
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
    boilerplate = find_boilerplate(_firsts(left), policy.boilerplate, source_of=source_of, restored=policy.restored)
    stripped = _strip(left, boilerplate, source_of)
    cleaned, counts, dropped = [], [], list[Removal]()
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
        treated, found, taken = _treat(bare, policy, spare=kept)
        if not treated.text.strip() and bare.text.strip():
            detail = ", ".join(sorted(kind for kind, action in found if action == "drop"))
            removed[document.id] = Removal(document.id, document.path, "personal-data", detail)
            continue
        cleaned.append(treated)
        dropped += taken
        counts += [
            PersonalCount(document.id, document.path, kind, action, count)
            for (kind, action), count in sorted(found.items())
        ]
    listed = [removed[document.id] for document in documents if document.id in removed]
    return CleanResult(cleaned, listed, counts, boilerplate, dropped)


def _duplicates(
    left: Sequence[Document], policy: CleanPolicy, source_of: Callable[[Document], str]
) -> dict[str, Removal]:
    """What goes because something else nearly the same stays."""
    removed: dict[str, Removal] = {}
    boilerplate = find_boilerplate(_firsts(left), policy.boilerplate, source_of=source_of)
    stripped = _strip(left, boilerplate, source_of) if boilerplate else left
    by_access: dict[frozenset[str], list[int]] = {}
    for at, document in enumerate(left):
        by_access.setdefault(frozenset(document.access), []).append(at)
    for places in by_access.values():
        members = [(left[at], left[at].text, stripped[at].text) for at in places]
        for group in near_duplicates([text for _, text, _ in members], policy.near_duplicate):
            _thin([members[at] for at in group], policy, removed)
    return removed


def _thin(group: Sequence[tuple[Document, str, str]], policy: CleanPolicy, removed: dict[str, Removal]) -> None:
    """Marks what goes of a group of (document, its text, its text without boilerplate) nearly the same: each is
    compared with those that stay, the current ones first."""
    order = sorted(range(len(group)), key=lambda at: (*_standing(group[at][0]), len(group[at][1]), -at), reverse=True)
    stay: list[tuple[Document, str, str]] = []
    forms: dict[str, Document] = {}
    for at in order:
        document, text, _ = group[at]
        spared = document.id in policy.restored or document.path in policy.restored
        if (same := forms.get(normal_form(text))) and not spared:
            detail = f"the same as {same.path}"
            removed[document.id] = Removal(document.id, document.path, "exact-duplicate", detail, same.path)
            continue
        told = None if spared else next(filter(None, (_copy(group[at], one, policy) for one in stay[:_COMPARED])), None)
        if told:
            removed[document.id] = told
        else:
            stay.append(group[at])
            forms.setdefault(normal_form(text), document)


def _copy(one: tuple[Document, str, str], kept: tuple[Document, str, str], policy: CleanPolicy) -> Removal | None:
    """Why the first goes where the second stays, if it does."""
    (document, text, own), (other, whole, their_own) = one, kept
    older = _is_older(document, other)
    if not older and (not _numbers(text) <= _numbers(whole) or says_more(own, whole)):
        return None
    alike = similarity(text, whole)
    if alike < policy.near_duplicate:
        return None
    if older:
        detail = f"an older version of {other.path}, {alike:.0%} the same"
    elif own != text and similarity(own, their_own) < policy.near_duplicate:
        return None
    else:
        detail = f"{alike:.0%} the same as {other.path}"
    return Removal(document.id, document.path, "near-duplicate", detail, other.path)


def _firsts(documents: Sequence[Document]) -> list[Document]:
    """`documents` without exact copies, which would make their own paragraphs look like boilerplate."""
    again = {index for group in exact_duplicates([document.text for document in documents]) for index in group[1:]}
    return [document for index, document in enumerate(documents) if index not in again]


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


def _treat(
    document: Document, policy: CleanPolicy, spare: bool
) -> tuple[Document, Counter[tuple[str, str]], list[Removal]]:
    """`document` with its personal data treated, how often each kind met each action, and what was dropped. Where the
    policy for a kind is `drop`, the paragraph goes, of a table the row; in a title only the value goes. What is
    restored (the paragraph, or where `spare` the document) is masked instead."""
    found: Counter[tuple[str, str]] = Counter()
    taken: list[Removal] = []
    masked: dict[str, Action] = {kind: "mask" if do == "drop" else do for kind, do in policy.personal.items()}
    texts = [block.text for block in document.blocks]
    units = [
        text.split("\n") if block.kind == "table" else [text]
        for block, text in zip(document.blocks, texts, strict=True)
    ]
    flat = [unit for unit_list in units for unit in unit_list]
    names = policy.names.find(flat) if policy.names else [[] for _ in flat]
    again: Counter[str] = Counter()

    def treat(text: str, people: Sequence[Finding] = (), *, whole: bool = False) -> str | None:
        rule = masked if spare else policy.personal
        treated, findings = apply(text, rule, key=policy.personal_key, names=people)
        kinds = sorted({one.kind for one in findings if one.kind != "secret" and rule.get(one.kind) == "drop"})
        gone = False
        if kinds and whole:
            shown = apply(text, {}, names=people)[0]  # of the masked text: an id must not tell what it stands for
            name = _dropped_id(document.path, shown, again[shown])
            again[shown] += 1
            gone = name not in policy.restored
            if gone:
                taken.append(Removal(name, document.path, "personal-data", ", ".join(kinds)))
            else:
                rule = masked
                treated = apply(text, rule, key=policy.personal_key, names=people)[0]
        found.update((one.kind, "drop" if one.kind == "secret" else rule.get(one.kind, "mask")) for one in findings)
        return None if gone else treated

    blocks, at = [], 0
    for block, parts in zip(document.blocks, units, strict=True):
        kept = [treat(part, names[at + n], whole=True) for n, part in enumerate(parts)]
        at += len(parts)
        text = "\n".join(part for part in kept if part is not None)
        if text.strip():
            place = apply(block.place, policy.personal, key=policy.personal_key)[0] if block.place else ""
            blocks.append(block.model_copy(update={"text": text, "place": place}))
    title = treat(document.title) or ""
    if secrets := found["secret", "drop"]:
        detail = f"{secrets} taken out of the text"
        taken.append(Removal(_dropped_id(document.path, "secret", 0), document.path, "secret", detail))
    return document.model_copy(update={"blocks": tuple(blocks), "title": title}), found, taken


def _dropped_id(path: str, masked: str, number: int) -> str:
    """The name of a piece of a document that was dropped, from its masked text and how often that came before."""
    return "paragraph:" + hashlib.sha256(f"{path}\0{masked}\0{number}".encode("utf-8", "replace")).hexdigest()[:16]
