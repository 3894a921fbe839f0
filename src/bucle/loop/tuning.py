"""One technique on one task, by hand: fit and measure it, or look at what it would train on."""

from __future__ import annotations

from typing import Any

from bucle.choose import Rung
from bucle.core.errors import BadInput
from bucle.execute import Display, Runner, project_lock
from bucle.loop.candidates import TaskData, fit_step, rows_of, score_step
from bucle.loop.model_steps import model_folder
from bucle.loop.run import prepare
from bucle.loop.rungs import rungs_of
from bucle.loop.workspace import Workspace

__all__ = ["batch", "tune"]


def tune(ws: Workspace, task: str, name: str, display: Display) -> dict[str, Any]:
    """Fit a candidate and measure it; returns its figures and its node. What is already fitted is reused."""
    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        data, rung = _find(ws, runner, task, name)
        fit = fit_step(ws, runner, data, rung)
        score = score_step(ws, runner, data, fit["candidate"], rung.name)
    from bucle.evaluate.statistics import interval
    from bucle.loop.candidates import scores

    metric = str(score.figures["metric"])
    _, per_row = scores(ws, score["evaluation"])
    rows = rows_of(ws, data.dataset, data.split)
    found = interval(per_row[metric], clusters=[r.cluster for r in rows])
    return {
        "candidate": rung.name,
        "node": fit["candidate"],
        "metric": metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "rows": found.n,
        "fit_seconds": fit.figures["fit_seconds"],
        "fit": fit.figures,
    }


def batch(ws: Workspace, task: str, name: str, rows: int, display: Display) -> dict[str, Any]:
    """`rows` training rows rendered exactly as the technique trains on them, with the size of an epoch."""
    from bucle.customise.finetune import show_batch

    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        data, rung = _find(ws, runner, task, name)
    if "base" not in rung.technique.needs:
        raise BadInput(f"`{rung.name}` does not train on rendered text.", "bucle tune --technique lora --show-batch 3")
    base = model_folder(ws, data.models[rung.base])
    train = rows_of(ws, data.dataset, data.split, "train")
    params = dict(ws.config.choose.techniques.get(rung.technique.name, {}))
    labels = sorted({str(r.target) for r in train})
    shown = show_batch(train[:rows], base, params, labels)
    from bucle.models.local import LocalModel

    tokens = sum(LocalModel(base).count_tokens([r.input + str(r.target) for r in train]))
    return {"candidate": rung.name, "rows": shown, "train_rows": len(train), "tokens": tokens}


def _find(ws: Workspace, runner: Runner, task: str, name: str) -> tuple[TaskData, Rung]:
    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    rungs = rungs_of(ws, task, choose=ws.config.choose.model_copy(update={"candidates": "auto"}))
    found = [r for r in rungs if name in (r.name, r.technique.name)]
    if not found:
        raise BadInput(f"`{task}` has no candidate `{name}`.", f"It has: {', '.join(r.name for r in rungs)}.")
    tasks, _ = prepare(ws, runner)
    return tasks[task], found[0]
