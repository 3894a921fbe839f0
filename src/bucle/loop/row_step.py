"""A task's rows: read, cleaned and labelled one at a time, so that a million need no more memory than a batch, and a
killed run goes on from its last checkpoint."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.ids import file_sha256, sha256_hex
from bucle.core.ports import Report
from bucle.core.records import Example
from bucle.core.tasks import AnswerTask, ClassifyTask, RetrieveTask, TextTask
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.ledger import AnnotationStore, Ledger
from bucle.loop.document_step import name_finder
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.data.clean_rows import RowCleaner
    from bucle.data.rows import RowProblem
    from bucle.data.schema import Schema

__all__ = ["examples_step", "labels_node", "measurable", "needs_of", "put_dataset", "task_columns", "task_schema"]

_BATCH = 1_000
_CHECKPOINT = 20 * _BATCH
_SHOWN = 200
_MISSING = {"classify": "missing-label", "retrieve": "no-document"}
_OPEN = ("draft", "missing-label", "no-reference", "no-document")
"""Problems that a person's word mends."""


def examples_step(ws: Workspace, runner: Runner, name: str) -> StepRecord:
    """The rows of a task as its file and the labellers give them. What cannot be used and what cleaning takes out is
    counted with its reason, and kept beside the rows."""
    from bucle.data.label import labels_digest
    from bucle.loop.restore import restored

    task, data = ws.config.tasks[name], ws.config.data
    path = ws.rows_file(name)
    digest, key = file_sha256(path), os.environ.get("BUCLE_PERSONAL_KEY", "")
    store, back = AnnotationStore(ws.ledger), restored(ws.ledger)
    said = labels_digest(store, name)
    schema_file = getattr(task, "json_schema", "")
    languages, needs = _languages(ws, name), needs_of(ws, name)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.clean_rows import RowCleaner
        from bucle.data.kinds import OPTIONAL, saying
        from bucle.data.label import apply_labels, effective
        from bucle.data.rows import RowProblem, stream_rows
        from bucle.loop.draft_rows import draft_sources

        columns, schema = task_columns(task), task_schema(ws, name)
        drafts = draft_sources(path, task, columns)
        labels = effective(store.annotations(name)) if said else {}
        cleaner = RowCleaner(
            data.rows,
            kind=task.kind,
            languages=languages,
            personal={str(kind): action for kind, action in data.personal_data.items()},
            personal_key=key,
            near_duplicates=data.near_duplicates,
            names=name_finder(ws),
            restored=back,
        )

        def source() -> Iterator[Example | RowProblem]:
            known = getattr(task, "labels", ()) or None
            file = stream_rows(path, task.kind, columns, known_labels=known, unlabelled=bool(said), schema=schema)
            for row in _with_added(file, store.rows(name)):
                if isinstance(row, Example) and row.source in drafts:
                    label = labels.get(row.id)
                    if label is None or not label.settled:
                        yield RowProblem(row.source, "draft", row.input[:80])
                    else:  # a person stands behind it now, whether or not they changed it
                        yield saying(task.kind, row, label.label, label.by)
                    continue
                if not said or isinstance(row, RowProblem):
                    yield row if isinstance(row, RowProblem) else measurable(row, needs)
                    continue
                free = task.kind in OPTIONAL and (task.kind != "instruct" or bool(row.checks))
                found = next(apply_labels([row], labels, kind=task.kind, keep_unlabelled=free), None)
                missing = RowProblem(row.source, _MISSING.get(task.kind, "no-reference"), row.input[:80])
                yield measurable(found, needs) if found else missing

        made = _through(name, ctx.work, source(), cleaner, path.stat().st_size, ctx.report)
        if not made.rows:
            first = f" (first: {made.first[0]['source']})." if made.first else "."
            raise BadInput(
                f"{path} holds no row that can be used: "
                + ", ".join(f"{n} {reason}" for reason, n in made.problems.most_common())
                + first,
                _what_to_do(name, made),
            )
        node = put_dataset(
            ctx,
            name,
            task.kind,
            1,
            ctx.work / "rows.jsonl",
            made.rows,
            [("labels", labels_node(ctx.ledger, name))] if said else [],
            {"file": path.name, "sha256": digest, "labels": said},
        )
        gone = ctx.ledger.put(
            "removals",
            {"of": name, "count": made.removed.total()},
            parents=[("dataset", node)],
            blobs={"removed.jsonl": ctx.work / "removed.jsonl"},
        )
        figures = {
            "rows": made.rows,
            "problems": made.problems.total(),
            "problem_list": made.first,
            "problem_reasons": dict(made.problems.most_common()),
            "removed": made.removed.total(),
            "removed_reasons": dict(made.removed.most_common()),
            "personal": dict(made.personal.most_common()),
            "conflicts": made.conflicts,
            "labelled_by_people": made.labelled,
            "columns": columns,
            "labels": dict(made.labels.most_common(_SHOWN)) if task.kind in ("classify", "answer") else {},
            "without_reference": made.unanswered if task.kind in ("generate", "instruct", "converse") else 0,
        }
        left_out = made.problems.total() + made.removed.total()
        note = f"{made.rows} rows, {left_out} left out"
        if figures["without_reference"]:
            note += f", {made.unanswered} without a reference: only checks and judges score those"
        return Outcome({"dataset": node, "removed": gone.id}, figures, note)

    return runner.step(
        f"examples {name}",
        work,
        stage="data",
        version=6,
        params={
            "columns": task_columns(task),
            "task": task.model_dump(mode="json", exclude={"gates", "instruction", "split", "data", "metrics", "voice"}),
            "needs": needs,
            "sha256": digest,
            "suffix": path.suffix,
            "rows": data.rows.model_dump(mode="json"),
            "languages": languages,
            "schema": file_sha256(ws.file(schema_file)) if schema_file else "",
            "near": data.near_duplicates if data.rows.duplicates == "near" else None,
            "personal": [{**data.personal_data}, sha256_hex(key)],
            "names": data.names.model_dump(mode="json") if data.names else None,
            "labels": said,
            "restored": sorted(back),
        },
    )


def _with_added(
    file: Iterable[Example | RowProblem], added: Iterable[Example]
) -> Iterator[Example | RowProblem]:
    """The rows of the file, then those that imports added, as far as the file does not hold them by now."""
    left = {row.id: row for row in added}
    for row in file:
        if isinstance(row, Example):
            left.pop(row.id, None)
        yield row
    yield from left.values()


def put_dataset(
    ctx: StepContext,
    task: str,
    kind: str,
    version: int,
    rows: Path | Iterable[Example],
    count: int,
    parents: Iterable[tuple[str, str]],
    origin: Mapping[str, Any],
) -> str:
    """Store `count` rows (a file of JSON lines, or records) as a dataset node; returns its id."""
    content = rows if isinstance(rows, Path) else "".join(r.model_dump_json() + "\n" for r in rows).encode()
    node = ctx.ledger.put(
        "dataset",
        {"task": task, "kind": kind, "version": version, "rows": count, **origin},
        parents=parents,
        blobs={"examples.jsonl": content},
    )
    return node.id


def labels_node(ledger: Ledger, task: str) -> str:
    """The id of a node (kind `labels`) that holds who settled which label and when, for the lineage of a dataset; empty
    where nothing was labelled."""
    from bucle.data.label import effective, labels_digest

    store = AnnotationStore(ledger)
    digest = labels_digest(store, task)
    if not digest:
        return ""
    settled = {row: label for row, label in effective(store.annotations(task)).items() if label.settled}
    lines = [
        json.dumps({"row": row, "label": one.label, "by": one.by, "at": one.at, "status": one.status})
        for row, one in sorted(settled.items())
    ]
    blobs = {"labels.jsonl": "".join(line + "\n" for line in lines).encode()}
    return ledger.put("labels", {"task": task, "rows": len(settled), "digest": digest}, blobs=blobs).id


def _what_to_do(name: str, made: _Made) -> str:
    open_ = sum(made.problems[reason] for reason in _OPEN)
    if 2 * open_ > made.problems.total():
        return f"bucle label start {name} asks for the labels, one row after the other."
    return f"Correct the file, or the columns of `{name}` in bucle.yaml."


def task_columns(task: ClassifyTask | AnswerTask | TextTask | RetrieveTask) -> dict[str, str]:
    """Role -> column as bucle.yaml names them; what it leaves to be guessed is not there. Roles: classify `text`,
    `label`; answer `question`, `answer`, `document`; retrieve `query`, `document`; the kinds of TextTask `input`,
    `reference`, `checks`; but for answer also `id`, `group`, `time`."""
    roles = {"classify": ("text", "label"), "answer": ("question", "answer", "document"),
             "retrieve": ("query", "document")}
    wanted = roles.get(task.kind, ("input", "reference", "checks"))
    given = {role: str(getattr(task, role, "")) for role in (*wanted, "id", "group", "time")}
    return {role: column for role, column in given.items() if column and role in task.model_fields_set}


def task_schema(ws: Workspace, name: str) -> Schema | None:
    """The JSON Schema of an extract task, where it names one. Raises BadInput."""
    from bucle.data.schema import load_schema

    task = ws.config.tasks[name]
    return load_schema(ws.file(task.json_schema)) if isinstance(task, TextTask) and task.json_schema else None


def needs_of(ws: Workspace, name: str) -> dict[str, str]:
    """What a task's metrics read of a row that its kind may lack (`references`, `checks`), and the metric that does:
    such a row could be measured by nothing. Of the kind's own metrics only the first must have what it needs."""
    task = ws.config.tasks[name]
    if task.kind not in ("generate", "instruct", "converse"):
        return {}
    from bucle.evaluate.metrics.registry import is_own, metric
    from bucle.evaluate.scoring import DEFAULTS

    names = [n for n in task.metrics or DEFAULTS[task.kind][:1] if not n.startswith("judge:") and not is_own(n)]
    return {need: n for n in reversed(names) for need in metric(n).needs if need in ("references", "checks")}


def measurable(row: Example, needs: Mapping[str, str]) -> Example | RowProblem:
    """`row`, or why no metric of its task could score it."""
    from bucle.data.rows import RowProblem

    if row.target is None and "references" in needs:
        return RowProblem(row.source, "no-reference", f"{needs['references']} needs one: {row.input[:80]}")
    if not row.checks and "checks" in needs:
        return RowProblem(row.source, "no-checks", f"{needs['checks']} needs some: {row.input[:80]}")
    if row.checks:
        from bucle.evaluate.metrics.checks import read_checks

        try:
            read_checks(row.checks)
        except BadInput as error:
            return RowProblem(row.source, "bad-checks", error.message[:200])
    return row


def _languages(ws: Workspace, name: str) -> Sequence[str]:
    """What the inputs of a task are written in: of a translation, what it is translated from."""
    task = ws.config.tasks[name]
    if task.kind != "translate":
        return ws.config.data.languages
    code = getattr(task, "source", "")
    return (code,) if len(code) == 2 and code.islower() else ()


@dataclass
class _Made:
    """What has come of the rows so far; written down at every checkpoint."""

    taken: int = 0
    rows: int = 0
    sizes: tuple[int, int] = (0, 0)
    labelled: int = 0
    unanswered: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    first: list[dict[str, str]] = field(default_factory=list)
    conflicts: int = 0

    def problem(self, problems: Sequence[RowProblem]) -> None:
        self.problems.update(one.reason for one in problems)
        for one in problems[: _SHOWN - len(self.first)]:
            self.first.append({"source": one.source, "reason": one.reason, "detail": one.detail})

    def keep(self, row: Example) -> None:
        self.rows += 1
        self.labelled += bool(row.labelled_by)
        self.unanswered += row.target is None
        if row.target is not None:
            self.labels[row.target[:200]] += 1


def _through(
    name: str, work: Path, source: Iterator[Example | RowProblem], cleaner: RowCleaner, size: int, report: Report
) -> _Made:
    """Everything in `source` into `rows.jsonl` and `removed.jsonl` under `work`, from the last checkpoint there."""
    from bucle.data.clean_rows import RowRemoval
    from bucle.data.rows import RowProblem

    made = _resume(work, source, cleaner)
    with (work / "rows.jsonl").open("ab") as kept, (work / "removed.jsonl").open("ab") as gone:
        while batch := list(itertools.islice(source, _BATCH)):
            made.taken += len(batch)
            rows = [row for row in batch if not isinstance(row, RowProblem)]
            made.problem([row for row in batch if isinstance(row, RowProblem)])
            for row in cleaner.clean(rows):
                if isinstance(row, RowRemoval):
                    made.removed[row.reason] += 1
                    told = {"of": name, "path": row.source, **asdict(row)}
                    del told["source"]
                    gone.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
                else:
                    made.keep(row)
                    kept.write(row.model_dump_json().encode() + b"\n")
            if made.taken % _CHECKPOINT == 0:
                _checkpoint(work, made, cleaner, kept, gone)
            end = rows[-1].span if rows else None
            report(end[1] if end else 0, size if end else 0, f"{made.taken:,} rows")
        _checkpoint(work, made, cleaner, kept, gone)
    return made


def _checkpoint(work: Path, made: _Made, cleaner: RowCleaner, kept: IO[bytes], gone: IO[bytes]) -> None:
    for file in (kept, gone):
        file.flush()
        os.fsync(file.fileno())
    made.sizes, made.personal, made.conflicts = (kept.tell(), gone.tell()), cleaner.personal, cleaner.conflicts
    scratch = work / "state.new"
    scratch.write_text(json.dumps(vars(made)))
    scratch.replace(work / "state.json")


def _resume(work: Path, source: Iterator[Example | RowProblem], cleaner: RowCleaner) -> _Made:
    """The last checkpoint under `work`: what was written after it is cut off, and the cleaner is told again which rows
    it has seen."""
    from bucle.data.rows import RowProblem

    state = work / "state.json"
    if not state.exists():
        for name in ("rows.jsonl", "removed.jsonl"):
            (work / name).unlink(missing_ok=True)
        return _Made()
    raw = json.loads(state.read_text())
    counts = {name: Counter(raw[name]) for name in ("problems", "removed", "personal", "labels")}
    made = _Made(**{**raw, **counts, "sizes": tuple(raw["sizes"])})
    for name, length in zip(("rows.jsonl", "removed.jsonl"), made.sizes, strict=True):
        os.truncate(work / name, length)
    for at in range(0, made.taken, _BATCH):
        seen = itertools.islice(source, min(_BATCH, made.taken - at))
        cleaner.remember([row for row in seen if not isinstance(row, RowProblem)])
    cleaner.personal, cleaner.conflicts = made.personal, made.conflicts
    return made
