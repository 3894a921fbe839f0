"""Before a run: the candidates, rows, tokens, dollars and minutes it would take, as ranges. Only the data stage is run.

A step that ran here before is forecast by its own seconds. One that never did is forecast from its tokens and the
speeds measured for a model of 2.1M parameters on two cores (2026-11-21), scaled by parameters; machines differ, which
is why that range is wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.choose import Rung, ladder
from bucle.core.config import OpenAIModel, PretrainModel
from bucle.core.records import Example
from bucle.execute import Display, Runner, project_lock
from bucle.loop.candidates import rows_of
from bucle.loop.document_step import read_documents
from bucle.loop.run import prepare
from bucle.loop.workspace import Workspace

__all__ = ["forecast"]

BYTES_PER_TOKEN = (2.5, 4.5)
TOKENS_A_SECOND = {"pretrain": 20_000, "tune": 5_000, "prompt": 20_000}  # at REFERENCE_PARAMETERS
REFERENCE_PARAMETERS = 2.1e6
ELSEWHERE = (0.4, 4.0)  # another machine
AGAIN = (0.7, 1.6)  # a step's own seconds, on a machine more or less busy than then
PASSES, FINE_TUNING_STEPS, BATCH = 4, 220, 16  # what pretraining and fine-tuning take where bucle.yaml says nothing
EXAMPLES_IN_PROMPT, LABEL_BYTES, REPLY_TOKENS = 6, 20, 32
QUICK_SECONDS = (0.5, 20.0)  # fitting a head on features of a few thousand rows


def forecast(ws: Workspace, display: Display) -> dict[str, Any]:
    """`{steps: [{task, name, before, rows, tokens, usd, minutes}], usd, minutes}`, the last three as [low, high]."""
    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        tasks, corpus = prepare(ws, runner, until="data")
    seconds = dict(ws.ledger.rows("SELECT name, seconds FROM steps ORDER BY finished_at"))
    rows = {
        name: {side: rows_of(ws, t.dataset, t.split, side) for side in ("train", "test")} for name, t in tasks.items()
    }
    text = sum(len(d.text.encode()) for d in read_documents(ws, corpus)) if corpus else 0
    text += sum(len(e.input.encode()) for sides in rows.values() for e in sides["train"])
    steps = [
        _pretraining(name, m, text, seconds) for name, m in ws.config.models.items() if isinstance(m, PretrainModel)
    ]
    for name, task in ws.config.tasks.items():
        rungs = ladder(task.kind, ws.config.models, ws.config.choose, has_index=ws.config.data.documents is not None)
        steps += [_candidate(ws, name, rung, rows[name]["train"], rows[name]["test"], seconds) for rung in rungs]
    return {"steps": steps, "usd": _total(steps, "usd"), "minutes": _total(steps, "minutes")}


def _pretraining(name: str, model: PretrainModel, text: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    tokens = (
        [model.steps * model.batch_tokens] * 2
        if model.steps
        else [PASSES * text / b for b in reversed(BYTES_PER_TOKEN)]
    )
    return {
        "task": "",
        "name": f"pretrain {name}",
        "before": f"pretrain {name}" in seconds,
        "rows": None,
        "tokens": tokens,
        "usd": [0.0, 0.0],
        "minutes": _minutes("pretrain", seconds.get(f"pretrain {name}"), tokens, _parameters(model)),
    }


def _candidate(
    ws: Workspace,
    task: str,
    rung: Rung,
    train: Sequence[Example],
    test: Sequence[Example],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    names = [f"fit {task} {rung.name}", f"score {task} {rung.name}"]
    known = sum(seconds[n] for n in names) if all(n in seconds for n in names) else None
    tokens, usd, parameters = [0.0, 0.0], [0.0, 0.0], 0.0
    kind = "tune" if "base" in rung.technique.needs else "prompt"
    model = ws.config.models.get(rung.base)
    size = sum(len(e.input.encode()) for e in train) / max(1, len(train))
    if model is not None and "chat" in rung.technique.needs:
        labels = len({e.target for e in train}) * LABEL_BYTES if ws.config.tasks[task].kind == "classify" else 0
        shots = EXAMPLES_IN_PROMPT * (size + LABEL_BYTES) if rung.technique.name == "few-shot" else 0
        tokens = [len(test) * (size + labels + shots) / b for b in reversed(BYTES_PER_TOKEN)]
        if isinstance(model, OpenAIModel):
            usd = [_price(model, t, len(test) * REPLY_TOKENS) for t in tokens]
    elif "base" in rung.technique.needs:
        each = [FINE_TUNING_STEPS * BATCH * (size + LABEL_BYTES) / b for b in reversed(BYTES_PER_TOKEN)]
        tokens = [max(t, 2 * len(train) * size / BYTES_PER_TOKEN[1]) for t in each]
    if isinstance(model, PretrainModel):
        parameters = _parameters(model)
    quick = [s / 60 for s in QUICK_SECONDS]
    minutes = _minutes(kind, known, tokens, parameters) if parameters or known is not None else quick
    return {
        "task": task,
        "name": rung.name,
        "before": known is not None,
        "rows": len(test),
        "tokens": tokens,
        "usd": usd,
        "minutes": minutes,
    }


def _minutes(kind: str, known: float | None, tokens: Sequence[float], parameters: float) -> list[float]:
    if known is not None:
        return [known * f / 60 for f in AGAIN]
    speed = TOKENS_A_SECOND[kind] * REFERENCE_PARAMETERS / parameters * 60
    return [tokens[0] / speed * ELSEWHERE[0], tokens[1] / speed * ELSEWHERE[1] + 0.1]


def _parameters(model: PretrainModel) -> float:
    """Of a Llama shape with an MLP of 8/3 the width, and embeddings and head of about 2,048 tokens."""
    return 12.0 * model.layers * model.width**2 + 2 * 2048 * model.width


def _price(model: OpenAIModel, tokens_in: float, tokens_out: float) -> float:
    from bucle.models.catalogue import price, provider_of

    if model.usd_per_million_in is not None:
        return (tokens_in * model.usd_per_million_in + tokens_out * (model.usd_per_million_out or 0.0)) / 1e6
    return price(model.model, provider_of(model.base_url), round(tokens_in), round(tokens_out)) or 0.0


def _total(steps: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [sum(float(s[key][end]) for s in steps) for end in (0, 1)]
