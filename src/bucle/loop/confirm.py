"""Was the choice right? Every candidate of the latest comparison on rows that were held back from all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bucle.core.errors import NotFound
from bucle.execute import Display
from bucle.loop.candidates import TaskData
from bucle.loop.measure import fresh_rows
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.overlap import overlap
from bucle.loop.scoring import scoring_of
from bucle.loop.story import latest_records
from bucle.loop.workspace import Workspace

__all__ = ["confirm"]


def confirm(ws: Workspace, task: str, path: Path, display: Display) -> dict[str, Any]:
    """Every candidate that was compared for a task, on the rows of `path`, and whether the recommendation stands there.

    `{task, rows, seen, metric, recommended, again, holds, candidates: [{name, value, low, high, before, difference}]}`:
    `before` is the value on the held-out rows of the run, `difference` from the recommended one, paired, with its
    interval. `again` is what the same rule recommends on these rows; `holds` says that it is the same, or that no
    candidate there is better than the recommended one by more than the margin beyond doubt. `seen` rows stand in the
    data that a candidate learned from. Raises BadInput, and NotFound before a comparison.
    """
    from bucle.evaluate.compare import Scored, compare
    from bucle.evaluate.scoring import score
    from bucle.evaluate.statistics import interval, paired_difference

    record = next((r for r in latest_records(ws.ledger) if r.name == f"compare {task}"), None)
    if record is None:
        raise NotFound(f"Nothing has been compared for `{task}` yet.", "bucle choose")
    rows, _ = fresh_rows(ws, task, path)
    inputs, clusters = [row.input for row in rows], [row.cluster for row in rows]
    figures = {c["name"]: c for c in record.figures["candidates"]}
    metric, recommended = record.figures["metric"], record.figures["recommended"]
    scored: list[Scored] = []
    data = TaskData(task, "", "")
    with display:
        for edge in ws.ledger.parents(record["comparison"]):
            name = edge.role.removeprefix("evaluation ")
            if name == edge.role or name not in figures:
                continue
            candidate = next(e.parent for e in ws.ledger.parents(edge.parent) if e.role == "candidate")
            data = _data(ws, task, candidate)
            display.start("evaluate", f"{name} on {path.name}")
            with remembered_replies(ws):
                said = open_candidate(ws, candidate).predict(inputs)
                found = score(scoring_of(ws, data), rows, said)
            display.finish("done", 0.0, f"{metric} {sum(found.per_row[metric]) / len(rows):.3f}")
            before = figures[name]
            scored.append(
                Scored(
                    name=name,
                    rung=before["rung"],
                    baseline=before["baseline"],
                    per_row={metric: found.per_row[metric]},
                    usd_per_1k=before["usd_per_1k"],
                    ms_p50=before["ms_p50"],
                    ms_p95=before["ms_p95"],
                    usd_per_month=before["usd_per_month"],
                )
            )
    choose = ws.config.choose
    again = compare(
        scored,
        metric=metric,
        clusters=clusters,
        margin=choose.margin,
        constraints=choose.constraints.limits(),
        usd_per_point=choose.costs.usd_per_point,
    )
    by_name = {one.name: one.per_row[metric] for one in scored}
    limits = {row.name: row.verdict != "ruled_out" for row in again.rows}
    candidates = []
    for name, values in sorted(by_name.items(), key=lambda item: -sum(item[1])):
        gap = paired_difference(values, by_name[recommended], clusters=clusters) if recommended else None
        candidates.append(
            {
                "name": name,
                **{k: getattr(interval(values, clusters=clusters), k) for k in ("value", "low", "high")},
                "before": figures[name]["value"],
                "difference": gap.model_dump() if gap else None,
            }
        )
    beaten = [c for c in candidates if c["difference"] and c["difference"]["low"] > choose.margin and limits[c["name"]]]
    learned = [e.input for e in ws.examples(data.dataset)]
    return {
        "task": task,
        "rows": len(rows),
        "seen": len(overlap(learned, inputs, ws.config.data.near_duplicates)),
        "metric": metric,
        "recommended": recommended,
        "again": again.recommended or "",
        "holds": again.recommended == recommended or (bool(recommended) and not beaten),
        "better": [c["name"] for c in beaten],
        "candidates": candidates,
    }


def _data(ws: Workspace, task: str, candidate: str) -> TaskData:
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate)}
    models = {str(n.attrs.get("name")): n.id for n in ws.ledger.nodes("base_model")}
    return TaskData(task, roles["dataset"], roles["split"], 1, roles.get("index", ""), models)
