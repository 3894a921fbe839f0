"""Figures on a task's rows, in one pass over them: counts of every row, the expensive ones of a sample."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bucle.core.ports import Report
from bucle.core.records import Example, TaskKind
from bucle.data.explore.figures import SAMPLE, histogram, mark, quantiles, ranked, sample_by_hash, shown
from bucle.data.kinds import TEXTS, language_of, plain, said
from bucle.data.language import detect_all
from bucle.data.personal import find
from bucle.data.similar import exact_duplicates, near_duplicates, normal_form
from bucle.data.split import Split
from bucle.data.suspects import suspect_labels

__all__ = ["explore_examples"]

SHOWN = 20
LANGUAGE_SAMPLE = 10_000
RARE = 10
"""Rows of a label below which neither its quality can be measured nor the label be learnt well."""
MAX_LABELS = 20_000
SIDES = ("train", "validation", "test", "excluded")
_HELD_OUT = (1, 2)
_BITS = 24  # of the count of one text on one side


def explore_examples(
    examples: Iterable[Example],
    split: Split | Mapping[str, str] | None = None,
    *,
    kind: TaskKind | None = None,
    near_duplicate_threshold: float = 0.85,
    sample: int = SAMPLE,
    report: Report | None = None,
) -> dict[str, Any]:
    """Figures on `examples`, which are read once and need not fit into memory.

    Of every row: `rows`, `words` and `characters` (quantiles of the input's length, with `words_histogram`), `labels`
    (count and share, most frequent first; empty where nearly each target is its own), `rare` (labels under ten rows),
    `unanswerable`, `without_reference`, `documents_named` (retrieve: how many a row names, as quantiles), exact
    duplicates and conflicts (the same text under two labels) and, given `split` (or a mapping id -> side), `sides` and
    leakage across exact copies.
    Of a sample of at most `sample` rows by hash (`sampled` says how many): `languages` (of at most 10,000), near
    duplicates, `suspects` (see suspect_labels), `personal` (rows by kind, with `personal_shown`), and what is shown of
    each. Texts are shown with personal data masked, each with its `source`. `kind` is the task's: but for classify no
    target is a label, and a conversation is looked at without its JSON.
    """
    sides = split.sides if isinstance(split, Split) else split
    counts = _Counts(sides, kind)
    rows = sample_by_hash(counts.reading(examples), sample, lambda row: row.id)
    few = counts.few
    say = report or _nobody
    say(1, 5, "languages")
    spoken = sample_by_hash(rows, LANGUAGE_SAMPLE, lambda row: row.id)
    prose = [language_of(kind or "classify", row.input) for row in spoken]
    found = detect_all([text or "" for text in prose]) if kind != "code" else []
    say(2, 5, "duplicates")
    inputs = [counts.text(row) for row in rows]
    near = near_duplicates(inputs, near_duplicate_threshold)
    exact = exact_duplicates(inputs)
    say(3, 5, "labels in doubt")
    suspects = suspect_labels(rows, near) if few else []
    say(4, 5, "personal data")
    personal, personal_shown = _personal(rows, inputs)
    conflicts = [group for group in exact if len({counts.said(rows[index]) for index in group}) > 1]
    in_exact = {index for group in exact for index in group}
    nearly = [group for group in near if not set(group) <= in_exact or len({normal_form(inputs[i]) for i in group}) > 1]
    of_id = {row.id: row for row in rows}

    def show(index: int) -> dict[str, Any]:
        row = rows[index]
        side = sides.get(row.id, "excluded") if sides is not None else ""
        told = counts.said(row)
        label = told if few or told is None else shown(told, 80)
        return {"id": row.id, "input": shown(inputs[index]), "label": label, "source": row.source, "side": side}

    figures: dict[str, Any] = {
        "rows": counts.rows,
        "sampled": len(rows),
        "words": quantiles(counts.words),
        "words_histogram": histogram(counts.words),
        "characters": quantiles(counts.characters),
        "languages": ranked(Counter(row.language or its for row, its in zip(spoken, found, strict=kind != "code"))),
        "languages_sampled": len(found),
        "labels": {
            label: {"count": count, "share": round(count / counts.rows, 4)}
            for label, count in counts.labels.most_common()
        }
        if few
        else {},
        "rare": [
            {"label": label, "rows": count, **({"train": counts.by_side[label]["train"],
                                                "test": counts.by_side[label]["test"]} if sides is not None else {})}
            for label, count in sorted(counts.labels.items(), key=lambda item: (item[1], item[0]))
            if count < RARE
        ][: 5 * SHOWN]
        if few
        else [],
        "unanswerable": counts.unanswerable if kind in (None, "classify", "answer") else 0,
        "without_reference": counts.unanswerable if kind in TEXTS else 0,
        "documents_named": quantiles(counts.named) if kind == "retrieve" else {},
        "duplicates": {
            **counts.exact(),
            "near_groups": len(near),
            "near_extra_rows": sum(len(group) - 1 for group in near),
            "exact_shown": [[show(index) for index in group[:5]] for group in exact[:SHOWN]],
            "near_shown": [[show(index) for index in group[:5]] for group in nearly[:SHOWN]],
        },
        "conflicts": {
            "groups": counts.conflicting,
            "shown": [
                {
                    "input": shown(inputs[group[0]]),
                    "labels": ranked(
                        Counter(shown(str(counts.said(rows[index])), 160 if few else 80) for index in group)
                    ),
                    "sources": [rows[index].source for index in group[:10]],
                }
                for group in conflicts[:SHOWN]
            ],
        },
        "suspects": [dataclasses.asdict(one) | {"input": shown(of_id[one.id].input)} for one in suspects],
        "personal": personal,
        "personal_shown": personal_shown,
    }
    if sides is not None:
        placed = [sides.get(row.id, "excluded") for row in rows]
        figures["sides"] = {
            side: {
                "rows": counts.placed[side],
                "labels": ranked({k: v[side] for k, v in counts.by_side.items() if v[side]}) if few else {},
            }
            for side in SIDES[:3]
        }
        leaks = [group for group in near if len({placed[index] for index in group} - {"excluded"}) > 1]
        figures["leakage"] = {
            "across_exact": counts.leaked,
            "across_near": _across(near, placed),
            "prevented": split.leaks_prevented if isinstance(split, Split) else None,
            "excluded": counts.placed["excluded"],
            "shown": [[show(index) for index in group[:5]] for group in leaks[:SHOWN]],
        }
    return figures


class _Counts:
    """What one pass over all rows counts; of each text it keeps one number: how often it stands on each side, and its
    first label."""

    def __init__(self, sides: Mapping[str, str] | None, kind: TaskKind | None = None) -> None:
        self._sides, self._kind = sides, kind
        self.named: Counter[int] = Counter()
        self.rows = self.unanswerable = self.conflicting = 0
        self.words: Counter[int] = Counter()
        self.characters: Counter[int] = Counter()
        self.labels: Counter[str] = Counter()
        self.placed: Counter[str] = Counter()
        self.by_side: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._texts: dict[int, int] = {}
        self._in_conflict: set[int] = set()

    @property
    def few(self) -> bool:
        """Whether targets are labels, not answers of their own."""
        if self._kind is not None and self._kind != "classify":
            return self._kind == "answer" and bool(self.labels) and len(self.labels) <= self._few
        return len(self.labels) <= self._few

    @property
    def _few(self) -> int:
        return min(MAX_LABELS, max(2, self.rows // 2))

    def text(self, row: Example) -> str:
        """A row's input as people read it."""
        return plain(self._kind, row.input) if self._kind else row.input

    def said(self, row: Example) -> str | None:
        """What is right for it."""
        return said(self._kind, row) if self._kind else row.target

    def reading(self, examples: Iterable[Example]) -> Iterable[Example]:
        for row in examples:
            self._count(row)
            yield row
        self.conflicting = len(self._in_conflict)

    def _count(self, row: Example) -> None:
        self.rows += 1
        text, told = self.text(row), self.said(row)
        self.words[len(text.split())] += 1
        self.characters[len(text)] += 1
        if self._kind == "retrieve":
            self.named[len(row.document.split(";"))] += 1
        side = self._sides.get(row.id, "excluded") if self._sides is not None else "train"
        self.placed[side] += 1
        if told is None:
            self.unanswerable += 1
        elif self._kind not in (None, "classify", "answer"):
            pass
        elif told in self.labels or len(self.labels) <= MAX_LABELS:
            self.labels[told] += 1
            self.by_side[told][side] += 1
        if form := normal_form(text):
            key = mark(form)
            label = mark("" if told is None else "=" + told) >> 24
            known = self._texts.get(key)
            if known is None:
                known = label << (_BITS * len(SIDES))
            elif known >> (_BITS * len(SIDES)) != label:
                self._in_conflict.add(key)
            self._texts[key] = known + (1 << (_BITS * SIDES.index(side)))

    def _groups(self) -> Iterable[list[int]]:
        """How often each repeated text stands on each side."""
        for packed in self._texts.values():
            on = [packed >> (_BITS * place) & ((1 << _BITS) - 1) for place in range(len(SIDES))]
            if sum(on) > 1:
                yield on

    def exact(self) -> dict[str, int]:
        groups = [sum(on) for on in self._groups()]
        return {"exact_groups": len(groups), "exact_extra_rows": sum(groups) - len(groups)}

    @property
    def leaked(self) -> int:
        """Held-out rows that have an exact copy on another side."""
        return sum(sum(on[place] for place in _HELD_OUT) for on in self._groups() if sum(n > 0 for n in on[:3]) > 1)


def _personal(rows: Sequence[Example], inputs: Sequence[str]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Rows by kind of personal data, and some of them, masked."""
    counts: Counter[str] = Counter()
    some: list[dict[str, Any]] = []
    per_kind: Counter[str] = Counter()
    for row, text in zip(rows, inputs, strict=True):
        kinds = sorted({finding.kind for finding in find(text)})
        counts.update(kinds)
        if any(per_kind[kind] < 3 for kind in kinds):
            per_kind.update(kinds)
            some.append({"kinds": kinds, "input": shown(text), "source": row.source})
    return ranked(counts), some[:SHOWN]


def _across(groups: Sequence[Sequence[int]], placed: Sequence[str]) -> int:
    """Held-out rows that have a copy on another side."""
    leaked = 0
    for group in groups:
        sides = {placed[index] for index in group} - {"excluded"}
        if len(sides) > 1:
            leaked += sum(placed[index] in ("validation", "test") for index in group)
    return leaked


def _nobody(done: int, total: int, note: str = "") -> None:
    return
