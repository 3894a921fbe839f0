"""Before a run: the candidates, rows, tokens, dollars and minutes it would take, as ranges. Only the data stage is
run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.config import PretrainModel, RemoteModel
from bucle.execute import Display, Runner, project_lock
from bucle.loop.candidates import rows_of
from bucle.loop.catalogue import reasons_against
from bucle.loop.document_step import read_documents
from bucle.loop.expected import CANARY_TOKENS, Forecast, canary_usd, expect_pretraining, expect_rung, seconds_before
from bucle.loop.run import prepare
from bucle.loop.rungs import rungs_of
from bucle.loop.workspace import Workspace

__all__ = ["forecast"]


def forecast(ws: Workspace, display: Display) -> dict[str, Any]:
    """`{steps: [{task, name, before, rows, tokens, usd, minutes}], ruled_out, unpriced, budget, usd, minutes,
    detectable}`: tokens, dollars and minutes as [low, high]; `ruled_out` who would not be asked at all, `unpriced` the
    remote models whose price is not known; `detectable` is, for each task, the smallest difference that its held-out
    rows will show in four of five such comparisons."""
    from bucle.evaluate.statistics import minimum_detectable_difference
    from bucle.models.catalogue import price_known

    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        tasks, corpus = prepare(ws, runner, until="data")
    seconds = seconds_before(ws)
    rows = {
        name: {side: rows_of(ws, t.dataset, t.split, side) for side in ("train", "validation", "test")}
        for name, t in tasks.items()
    }
    text = sum(len(d.text.encode()) for d in read_documents(ws, corpus)) if corpus else 0
    text += sum(len(e.input.encode()) for sides in rows.values() for e in sides["train"])
    steps = [
        _row("", f"pretrain {name}", None, expect_pretraining(name, m, text, seconds))
        for name, m in ws.config.models.items()
        if isinstance(m, PretrainModel)
    ]
    ruled_out: list[dict[str, Any]] = []
    canaries: set[str] = set()
    for name in ws.config.tasks:
        rungs = rungs_of(ws, name)
        train, asked = rows[name]["train"], len(rows[name]["test"])
        if ws.config.choose.limited:
            asked += len(rows[name]["validation"])  # at most: the contest drops who cannot win
        longest = max((row.input for side in rows[name].values() for row in side), key=len, default="")
        bases: set[str] = set()
        for rung in rungs:
            found = expect_rung(ws, name, rung, train, asked, seconds)
            if reasons := reasons_against(ws, rung, found, longest=longest):
                ruled_out.append({"task": name, "name": rung.name, "reasons": reasons})
                continue
            steps.append(_row(name, rung.name, asked, found))
            bases.add(rung.base)
        canaries |= {base for base in bases if isinstance(ws.config.models.get(base), RemoteModel)}
    steps += [_canary(ws, base) for base in sorted(canaries)]
    return {
        "steps": steps,
        "ruled_out": ruled_out,
        "unpriced": [
            name for name in sorted(canaries) if not price_known(name, ws.config.models[name], ws.config.catalogue)
        ],
        "budget": ws.config.choose.budget.model_dump(exclude_none=True),
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


def _canary(ws: Workspace, name: str) -> dict[str, Any]:
    """The canary's prompts, asked of a remote model at most once a day before it is compared; the first time more
    often."""
    from bucle.evaluate.canary import AGAIN, FIRST, packaged_prompts

    calls = (AGAIN * len(packaged_prompts()), FIRST * len(packaged_prompts()))
    usd = list(canary_usd(ws, name))
    tokens = (calls[0] * sum(CANARY_TOKENS), calls[1] * sum(CANARY_TOKENS))
    return {"task": "", "name": f"canary {name}", "before": False, "rows": len(packaged_prompts()),
            "tokens": list(tokens), "usd": usd, "minutes": [0.02, 0.5]}  # fmt: skip


def _total(steps: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [sum(float(s[key][end]) for s in steps) for end in (0, 1)]
