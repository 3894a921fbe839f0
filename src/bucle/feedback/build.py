"""From reviewed traces to labelled rows: corrections and confirmations, never an unreviewed answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from bucle.core.ids import content_id
from bucle.core.records import Example, Feedback, Trace

__all__ = ["FeedbackRows", "build_rows"]

MIN_NEW_LABEL = 8
"""A label that training never saw joins only with this many corrections by people."""


@dataclass(frozen=True)
class FeedbackRows:
    """Rows from feedback, and what did not become one: reason -> count."""

    rows: list[Example]
    new_labels: dict[str, int]
    ratings: int
    corrections: int
    left_out: dict[str, int] = field(default_factory=dict)


def build_rows(
    traces: Sequence[Trace],
    feedback: Sequence[Feedback],
    *,
    labels: Collection[str],
    known: Collection[str],
    exclude_users: Collection[str] = (),
    min_new_label: int = MIN_NEW_LABEL,
) -> FeedbackRows:
    """One row for each trace that people agree on: its correction, or its answer where it was rated good. An answer
    rated bad by one and good by another is a contradiction, as two corrections are.

    `labels` are the labels of the dataset so far, `known` its texts (a repeat adds nothing), `exclude_users` those
    an abuse alert names. Reviewers who contradict each other on a trace leave it out; a new label needs
    `min_new_label` rows. Rows keep the trace's id as their source, so lineage runs through them.
    """
    by_trace: dict[str, list[Feedback]] = defaultdict(list)
    for item in feedback:
        by_trace[item.trace].append(item)
    left_out: Counter[str] = Counter()
    rows, seen = [], set(known)
    for trace in traces:
        said = by_trace.get(trace.id)
        if not said:
            continue
        fixes = [(f.correction or "").strip() for f in said]
        verdicts = {fix or (trace.output if f.rating == 1 else "") for fix, f in zip(fixes, said, strict=True)} - {""}
        refused = any(f.rating == -1 and not fix for fix, f in zip(fixes, said, strict=True))
        if not verdicts:
            left_out["rated bad, not corrected"] += 1
        elif len(verdicts) > 1 or (refused and trace.output in verdicts):
            left_out["reviewers disagree"] += 1
        elif trace.user in exclude_users:
            left_out["from a user with an abuse alert"] += 1
        elif not trace.input.strip():
            left_out["empty"] += 1
        elif trace.input in seen:
            left_out["already in the dataset"] += 1
        else:
            seen.add(trace.input)
            target = verdicts.pop()
            rows.append(
                Example(
                    id=content_id("example", {"input": trace.input, "target": target, "trace": trace.id}),
                    input=trace.input,
                    target=target,
                    group=trace.user,
                    at=trace.at,
                    source=trace.id,
                )
            )
    fresh = Counter(str(r.target) for r in rows if r.target not in labels)
    rare = {label for label, count in fresh.items() if count < min_new_label}
    if rare:
        left_out["new label with too few rows"] = sum(fresh[label] for label in rare)
    return FeedbackRows(
        rows=[r for r in rows if r.target not in rare],
        new_labels={k: n for k, n in sorted(fresh.items()) if k not in rare},
        ratings=sum(f.rating is not None for f in feedback),
        corrections=sum(f.correction is not None for f in feedback),
        left_out=dict(sorted(left_out.items())),
    )
