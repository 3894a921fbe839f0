"""What a team's examples and documents look like, as JSON-ready figures for the report and the studio."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.records import Document, Example
from bucle.data.clean import Removal
from bucle.data.language import detect_all
from bucle.data.parse import QuarantinedFile
from bucle.data.personal import find
from bucle.data.similar import exact_duplicates, near_duplicates
from bucle.data.split import Split
from bucle.data.suspects import suspect_labels

__all__ = ["explore_documents", "explore_examples"]

_SHOWN = 20


def explore_examples(
    examples: Sequence[Example], split: Split | None = None, *, near_duplicate_threshold: float = 0.85
) -> dict[str, Any]:
    """Figures on `examples`: counts, lengths, languages, labels, duplicates, doubtful labels, leakage,
    personal data.

    Keys: `rows`, `words` and `characters` (quantiles of the input's length), `languages`, `labels` (count and
    share, most frequent first), `unanswerable`, `duplicates`, `conflicts` (the same text under two labels),
    `suspects` (see suspect_labels), `personal` (rows by kind) and, given `split`, `sides` and `leakage`.
    """
    inputs = [example.input for example in examples]
    near = near_duplicates(inputs, near_duplicate_threshold)
    exact = exact_duplicates(inputs)
    labels = Counter(example.target for example in examples if example.target is not None)
    conflicts = [group for group in exact if len({examples[index].target for index in group}) > 1]
    personal = Counter(kind for text in inputs for kind in {finding.kind for finding in find(text)})
    few = len(labels) <= max(2, len(examples) // 2)
    figures: dict[str, Any] = {
        "rows": len(examples),
        "words": _quantiles([len(text.split()) for text in inputs]),
        "characters": _quantiles([len(text) for text in inputs]),
        "languages": _ranked(
            Counter(example.language or found for example, found in zip(examples, detect_all(inputs), strict=True))
        ),
        "labels": {
            label: {"count": count, "share": round(count / len(examples), 4)} for label, count in labels.most_common()
        }
        if few
        else {},
        "unanswerable": sum(example.target is None for example in examples),
        "duplicates": {
            "exact_groups": len(exact),
            "exact_extra_rows": sum(len(group) - 1 for group in exact),
            "near_groups": len(near),
            "near_extra_rows": sum(len(group) - 1 for group in near),
            "shown": [[inputs[index][:200] for index in group[:5]] for group in near[:_SHOWN]],
        },
        "conflicts": {
            "groups": len(conflicts),
            "shown": [
                {
                    "input": inputs[group[0]][:200],
                    "labels": _ranked(Counter(str(examples[index].target) for index in group)),
                    "sources": [examples[index].source for index in group[:10]],
                }
                for group in conflicts[:_SHOWN]
            ],
        },
        "suspects": [dataclasses.asdict(one) for one in suspect_labels(examples, near)] if few else [],
        "personal": _ranked(personal),
    }
    if split is not None:
        sides = split.sides
        placed = [sides.get(example.id, "excluded") for example in examples]
        figures["sides"] = {
            side: {
                "rows": placed.count(side),
                "labels": _ranked(
                    Counter(str(example.target) for example, at in zip(examples, placed, strict=True) if at == side)
                )
                if few
                else {},
            }
            for side in ("train", "validation", "test")
        }
        figures["leakage"] = {
            "across_exact": _across(exact, placed),
            "across_near": _across(near, placed),
            "prevented": split.leaks_prevented,
            "excluded": len(split.excluded),
        }
    return figures


def explore_documents(
    documents: Sequence[Document],
    quarantined: Sequence[QuarantinedFile] = (),
    removed: Sequence[Removal] = (),
) -> dict[str, Any]:
    """Figures on documents: counts, formats, languages, lengths, tables, what was left out and why, personal
    data left.
    """
    words = [len(re.findall(r"\w+", document.text)) for document in documents]
    personal = Counter(finding.kind for document in documents for finding in find(document.text))
    longest = sorted(zip(words, documents, strict=True), key=lambda pair: -pair[0])[:_SHOWN]
    return {
        "documents": len(documents),
        "blocks": sum(len(document.blocks) for document in documents),
        "tables": sum(block.kind == "table" for document in documents for block in document.blocks),
        "words": _quantiles(words),
        "words_total": sum(words),
        "formats": _ranked(Counter(document.path.rsplit(".", 1)[-1].lower() for document in documents)),
        "languages": _ranked(Counter(document.language or "und" for document in documents)),
        "longest": [{"path": document.path, "words": count} for count, document in longest],
        "quarantined": {
            "count": len(quarantined),
            "reasons": _ranked(Counter(one.reason for one in quarantined)),
            "files": [dataclasses.asdict(one) for one in quarantined],
        },
        "removed": {
            "count": len(removed),
            "reasons": _ranked(Counter(one.reason for one in removed)),
            "files": [dataclasses.asdict(one) for one in removed],
        },
        "personal": _ranked(personal),
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    """Minimum, quartiles, the 95th percentile, maximum and mean of `values`; empty for none."""
    if not values:
        return {}
    cuts = statistics.quantiles(values, n=20, method="inclusive") if len(values) > 1 else [float(values[0])] * 19
    return {
        "min": min(values),
        "p25": cuts[4],
        "p50": cuts[9],
        "p75": cuts[14],
        "p95": cuts[18],
        "max": max(values),
        "mean": round(statistics.fmean(values), 2),
    }


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _across(groups: Sequence[Sequence[int]], placed: Sequence[str]) -> int:
    """Held-out rows that have a copy on another side."""
    leaked = 0
    for group in groups:
        sides = {placed[index] for index in group} - {"excluded"}
        if len(sides) > 1:
            leaked += sum(placed[index] in ("validation", "test") for index in group)
    return leaked
