"""What a task's predictions are scored by, from bucle.yaml: its metrics, its judges, its schema, its passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, ConfigError
from bucle.loop.judging import open_judge
from bucle.loop.model_steps import model_folder
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.evaluate.scoring import Scoring
    from bucle.loop.candidates import TaskData

__all__ = ["json_schema", "judge_models", "judges_of", "scoring_key", "scoring_of"]

MAX_SCHEMA_BYTES = 1_000_000


def scoring_of(ws: Workspace, data: TaskData) -> Scoring:
    """What the predictions of a task are scored by. Raises ConfigError for a metric or a schema that cannot be used."""
    from bucle.evaluate.gate import gate_metrics
    from bucle.evaluate.scoring import Scoring

    task = ws.config.tasks[data.name]
    documents, passages = _passages(ws, data.index)
    return Scoring(
        kind=task.kind,
        metrics=task.metrics,
        also=gate_metrics(task.gates),
        k=getattr(task, "k", 10),
        samples=getattr(task, "samples", 1),
        documents=documents,
        passages=passages,
        schema=json_schema(ws, data.name),
        folder=ws.root,
        trusted=ws.trusted,
        judges=_judges(ws, data),
        encoder=_encoder(ws, data),
        seed=ws.config.seed,
    )


def scoring_key(ws: Workspace, data: TaskData) -> dict[str, Any]:
    """What of the configuration decides scores: a part of the step's key."""
    from bucle.evaluate.gate import gate_metrics

    settings = ws.config.tasks[data.name]
    judges = {
        name: judge.model_dump(mode="json") | {"node": data.models.get(judge.model, "")}
        for name in judges_of(ws, data.name)
        for judge in (ws.config.judges[name],)
    }
    named = [m for m in (*settings.metrics, *gate_metrics(settings.gates)) if not m.startswith("judge:")]
    own = sorted({m.split(":")[0] for m in named if ":" in m})
    return {
        "metrics": list(settings.metrics),
        "also": sorted(gate_metrics(settings.gates)),
        **{name: getattr(settings, name) for name in ("k", "samples") if hasattr(settings, name)},
        "judges": judges,
        "schema": json_schema(ws, data.name),
        "own": {name: _text(ws.root / (name.replace(".", "/") + ".py")) for name in own},
    }


def json_schema(ws: Workspace, task: str) -> dict[str, Any] | None:
    """The JSON schema of an extract task, or None. Raises ConfigError where it is none."""
    name = getattr(ws.config.tasks[task], "json_schema", "")
    if not name:
        return None
    path = ws.file(name)
    if path.stat().st_size > MAX_SCHEMA_BYTES:
        raise BadInput(f"{path} is larger than {MAX_SCHEMA_BYTES // 1_000_000} MB.", "That is no JSON schema.")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}.", "Correct the schema.") from error
    if not isinstance(schema, dict):
        raise ConfigError(f"{path} holds no JSON schema.", "A schema is a JSON object.")
    return schema


def _judges(ws: Workspace, data: TaskData) -> dict[str, Any]:
    return {name: open_judge(ws, name, data.models[ws.config.judges[name].model]) for name in judges_of(ws, data.name)}


def judges_of(ws: Workspace, task: str) -> list[str]:
    """The judges that a task's metrics and gates name."""
    from bucle.evaluate.gate import gate_metrics

    settings = ws.config.tasks[task]
    names = dict.fromkeys([*settings.metrics, *gate_metrics(settings.gates)])
    return [name.removeprefix("judge:") for name in names if name.startswith("judge:")]


def judge_models(ws: Workspace, task: str) -> list[str]:
    """The models of bucle.yaml behind a task's judges, each once: their canaries belong before what they judge."""
    return list(dict.fromkeys(ws.config.judges[name].model for name in judges_of(ws, task)))


def _encoder(ws: Workspace, data: TaskData) -> Path | None:
    from bucle.evaluate.gate import gate_metrics

    settings = ws.config.tasks[data.name]
    if "bertscore" not in (*settings.metrics, *gate_metrics(settings.gates)):
        return None
    names = [name for name, model in ws.config.models.items() if model.kind == "encoder"]
    return model_folder(ws, data.models[names[0]]) if names else None


def _passages(ws: Workspace, index: str) -> tuple[dict[str, str], dict[str, str]]:
    """Chunk id -> path of its document, and -> its text; empty without an index."""
    if not index:
        return {}, {}
    chunks = list(map(json.loads, ws.ledger.read(ws.ledger.get(index), "chunks.jsonl").splitlines()))
    return {c["id"]: c["path"] for c in chunks}, {c["id"]: c["text"] for c in chunks}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
