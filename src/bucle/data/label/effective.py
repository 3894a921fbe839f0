"""From what people said to the label that counts, and to the rows of the next version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.records import Annotation, Example, TaskKind
from bucle.data.kinds import said, saying
from bucle.ledger import AnnotationStore

__all__ = ["Label", "Status", "answers", "apply_labels", "disagreements", "effective", "labels_digest"]

Status = Literal["confirmed", "adjudicated", "majority", "disputed", "prelabel"]
SETTLED: frozenset[Status] = frozenset({"confirmed", "adjudicated", "majority"})
"""What may become a training target: a person stands behind each."""


@dataclass(frozen=True)
class Label:
    """What holds for a row now. `by` are the people behind it, comma-separated; `at` when the last of them said so.

    `status`: `confirmed` (all who answered agree), `adjudicated` (one named person decided), `majority` (more than
    half, where asked for), `disputed` (`label` is then empty and means nothing), `prelabel` (a machine's proposal).
    """

    label: str
    by: str
    status: Status
    at: str = ""

    @property
    def settled(self) -> bool:
        """Whether it may become a training target."""
        return self.status in SETTLED


def answers(annotations: Iterable[Annotation], kind: str = "annotation") -> dict[str, dict[str, Annotation]]:
    """Row -> person -> the latest they said, of one kind; what was taken back is left out. `annotations` are in the
    order of the store, oldest first."""
    latest: dict[str, dict[str, Annotation]] = {}
    for item in annotations:
        if item.kind == kind:
            people = latest.setdefault(item.row, {})
            people.pop(item.by, None)  # so that the order is that of the latest word
            people[item.by] = item
    kept = {row: {by: a for by, a in people.items() if a.label is not None} for row, people in latest.items()}
    return {row: people for row, people in kept.items() if people}


def effective(annotations: Sequence[Annotation], *, majority: bool = False) -> dict[str, Label]:
    """Row -> the label that counts.

    An adjudication wins (the latest), then what all people say alike, then, with `majority`, what more than half of
    them say; a machine's proposal stands only where no person spoke.
    """
    found: dict[str, Label] = {}
    for row, people in answers(annotations, "prelabel").items():
        last = list(people.values())[-1]
        found[row] = Label(last.label or "", last.by, "prelabel", last.at)
    for row, people in answers(annotations).items():
        said = Counter(a.label or "" for a in people.values())
        label, votes = said.most_common(1)[0]
        status: Status = "confirmed" if len(said) == 1 else "disputed"
        if status == "disputed" and majority and 2 * votes > len(people):
            status = "majority"
        behind = [a for a in people.values() if status == "disputed" or a.label == label]
        names = ", ".join(sorted(a.by for a in behind))
        found[row] = Label("" if status == "disputed" else label, names, status, max(a.at for a in behind))
    for row, people in answers(annotations, "adjudication").items():
        last = list(people.values())[-1]
        found[row] = Label(last.label or "", last.by, "adjudicated", last.at)
    return found


def disagreements(annotations: Sequence[Annotation], *, majority: bool = False) -> dict[str, dict[str, str]]:
    """Row -> person -> label, of the rows on which people disagree and nobody has decided; most answers first."""
    now = effective(annotations, majority=majority)
    open_ = {
        row: {by: a.label or "" for by, a in sorted(people.items())}
        for row, people in answers(annotations).items()
        if now[row].status == "disputed"
    }
    return dict(sorted(open_.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def apply_labels(
    rows: Iterable[Example],
    labels: Mapping[str, Label],
    *,
    kind: TaskKind = "classify",
    keep_unlabelled: bool = False,
) -> Iterator[Example]:
    """`rows` with the labels that people settled on, ids unchanged; one at a time.

    A row whose label changes (or comes) carries in `labelled_by` who gave it. Proposals and disputes change nothing.
    A row without any label is left out unless `keep_unlabelled` (for answer tasks, where no target means that the
    question has no answer, and for kinds that checks and judges measure). Of a retrieve task the label is the
    documents.
    """
    for row in rows:
        label = labels.get(row.id)
        given = said(kind, row)
        if label is not None and label.settled and (label.label or None) != given:
            yield saying(kind, row, label.label, label.by)
        elif given is not None or keep_unlabelled:
            yield row


def labels_digest(store: AnnotationStore, task: str, *, majority: bool = False) -> str:
    """A name for what `apply_labels` would do now: part of the key of the step that reads the rows. Proposals, disputes
    and repetitions do not change it; it is empty where nothing was labelled."""
    now = effective(store.annotations(task), majority=majority)
    settled = {row: [label.label, label.by, label.at] for row, label in now.items() if label.settled}
    added = [row.id for row in store.rows(task)]
    return sha256_hex(canonical_json([settled, added])) if settled or added else ""
