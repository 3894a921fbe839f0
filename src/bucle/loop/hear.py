"""Hearing: ratings and corrections by hand or from a file, and what they would teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import content_id
from bucle.core.records import Feedback
from bucle.feedback import build_rows
from bucle.ledger import now
from bucle.loop.story import latest_records
from bucle.loop.watch import abusers, alerts_now
from bucle.loop.workspace import Workspace

__all__ = ["import_file", "preview", "rate"]

MAX_TEXT = 8_000


def rate(
    ws: Workspace, trace: str, *, rating: int | None, correction: str | None, by: str, reason: str, source: str = "cli"
) -> Feedback:
    """Store one verdict beside a trace; saying the same twice stores it once. Raises NotFound, BadInput."""
    item = _item(ws, trace, rating, correction, by, reason, source)
    ws.traces.add_feedback([item])
    return item


def import_file(ws: Workspace, path: Path, *, by: str) -> dict[str, int]:
    """Feedback from a table with a column `trace` and any of `rating`, `correction`, `by`, `reason`.

    Returns counts: stored, already there, unknown traces, unusable rows. Unknown traces never stop the rest.
    """
    from bucle.core.errors import NotFound
    from bucle.data.tables import read_table

    table = read_table(path, ["trace"])
    if "trace" not in table.columns:
        raise BadInput(f"{path} has no column `trace`.", f"Its columns: {', '.join(table.columns)}.")
    items, unknown, unusable = [], 0, 0
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        try:
            rating = {"1": 1, "+1": 1, "-1": -1, "": None}[cells.get("rating", "").strip()]
            items.append(
                _item(
                    ws,
                    cells["trace"],
                    rating,
                    cells.get("correction") or None,
                    cells.get("by") or by,
                    cells.get("reason", ""),
                    "import",
                )
            )
        except NotFound:
            unknown += 1
        except (KeyError, BadInput):
            unusable += 1
    new = ws.traces.add_feedback(items)
    return {"stored": new, "already_there": len(items) - new, "unknown_traces": unknown, "unusable_rows": unusable}


def preview(ws: Workspace, task: str) -> dict[str, Any]:
    """What `dataset_step` would make of all feedback on `task` now."""
    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    kind = ws.config.tasks[task].kind
    if kind not in ("classify", "answer"):
        raise BadInput(
            f"Feedback on `{task}` stays beside its traces: no rows are made of it for a {kind} task.",
            f"bucle label start {task} says what is right for its rows.",
        )
    datasets = [r["dataset"] for r in latest_records(ws.ledger) if r.name in (f"examples {task}", f"dataset {task} v2")]
    if not datasets:
        raise BadInput(f"The rows of `{task}` have not been read yet.", "bucle run --until data")
    old = ws.examples(datasets[-1])
    every = ws.traces.traces()
    flagged = abusers([a.model_dump(mode="json") for a in alerts_now(ws, every)])
    traces = [t for t in every if t.route == task]
    ids = {t.id for t in traces}
    built = build_rows(
        traces,
        [f for f in ws.traces.feedback() if f.trace in ids],
        labels={str(r.target) for r in old},
        known={r.input for r in old},
        exclude_users=flagged,
    )
    return {
        "task": task,
        "ratings": built.ratings,
        "corrections": built.corrections,
        "new_labels": built.new_labels,
        "left_out": built.left_out,
        "rows": [r.model_dump(mode="json") for r in built.rows],
    }


def _item(
    ws: Workspace, trace: str, rating: int | None, correction: str | None, by: str, reason: str, source: str
) -> Feedback:
    correction = (correction or "").strip() or None
    if rating is None and not correction:
        raise BadInput("Feedback needs a rating or a correction.", "bucle feedback add TRACE --rating 1")
    if len(correction or "") > MAX_TEXT or len(reason) > MAX_TEXT:
        raise BadInput(f"A correction or reason may have {MAX_TEXT} characters.", "Shorten it.")
    full = ws.traces.trace(trace if trace.startswith("trace:") else f"trace:{trace}").id
    body: dict[str, Any] = {"trace": full, "by": ws.people.stored(by), "rating": rating, "correction": correction}
    return Feedback(id=content_id("feedback", body), at=now(), reason=reason, source=source, **body)
