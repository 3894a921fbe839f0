"""Before a run: the candidates, rows, tokens, dollars and minutes it would take, as ranges. Only the data stage is
run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.choose import ladder
from bucle.core.config import PretrainModel
from bucle.execute import Display, Runner, project_lock
from bucle.loop.candidates import rows_of
from bucle.loop.document_step import read_documents
from bucle.loop.expected import Forecast, expect_pretraining, expect_rung, seconds_before
from bucle.loop.run import prepare
from bucle.loop.workspace import Workspace

__all__ = ["forecast"]


def forecast(ws: Workspace, display: Display) -> dict[str, Any]:
    """`{steps: [{task, name, before, rows, tokens, usd, minutes}], usd, minutes, detectable}`: tokens, dollars and
    minutes as [low, high]; `detectable` is, for each task, the smallest difference that its held-out rows will show in
    four of five such comparisons."""
    from bucle.evaluate.statistics import minimum_detectable_difference

    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        tasks, corpus = prepare(ws, runner, until="data")
    seconds = seconds_before(ws)
    rows = {
        name: {side: rows_of(ws, t.dataset, t.split, side) for side in ("train", "test")} for name, t in tasks.items()
    }
    text = sum(len(d.text.encode()) for d in read_documents(ws, corpus)) if corpus else 0
    text += sum(len(e.input.encode()) for sides in rows.values() for e in sides["train"])
    steps = [
        _row("", f"pretrain {name}", None, expect_pretraining(name, m, text, seconds))
        for name, m in ws.config.models.items()
        if isinstance(m, PretrainModel)
    ]
    for name, task in ws.config.tasks.items():
        rungs = ladder(task.kind, ws.config.models, ws.config.choose, has_index=ws.config.data.documents is not None)
        test = len(rows[name]["test"])
        steps += [
            _row(name, rung.name, test, expect_rung(ws, name, rung, rows[name]["train"], test, seconds))
            for rung in rungs
        ]
    return {
        "steps": steps,
        "usd": _total(steps, "usd"),
        "minutes": _total(steps, "minutes"),
        "detectable": {
            name: {"rows": n, "difference": minimum_detectable_difference(n, DISCORDANT)}
            for name in tasks
            if (n := len({r.cluster for r in rows[name]["test"]})) >= 2
        },
    }


DISCORDANT = 0.1
"""The share of rows on which two candidates are assumed to disagree, where none has been measured yet."""


def _row(task: str, name: str, rows: int | None, found: Forecast) -> dict[str, Any]:
    return {
        "task": task,
        "name": name,
        "before": found.before,
        "rows": rows,
        "tokens": list(found.tokens),
        "usd": list(found.usd),
        "minutes": list(found.minutes),
    }


def _total(steps: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [sum(float(s[key][end]) for s in steps) for end in (0, 1)]
