"""Candidates in the ledger: fitting one, opening one, and its predictions on rows it never saw."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.choose import Rung
from bucle.core.errors import ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.ports import FitContext, Predictor, Technique
from bucle.core.records import Candidate, Example, Prediction
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.opening import MODEL, TASK, open_candidate, open_roles, remembered_replies
from bucle.loop.pricing import is_remote, known_price, prices
from bucle.loop.prompts import task_prompt
from bucle.loop.scoring import json_schema, scoring_key, scoring_of
from bucle.loop.workspace import Workspace

__all__ = [
    "TaskData",
    "documents_of_chunks",
    "fit_step",
    "latency",
    "predict_kept",
    "predictions",
    "roles_of",
    "rows_of",
    "score_step",
    "scores",
]

SINGLE_CALLS = 30  # calls timed one by one for the latency figures
MOST_SECONDS = 20.0  # for them
BATCH = 32  # predictions between two checkpoints; a remote model's replies are each remembered at once
REMOTE_BATCH = 1024
EIGHTH = 8


@dataclass(frozen=True)
class TaskData:
    """What a task's candidates are fitted and measured on. `models` maps names in bucle.yaml to nodes, `decided` the
    tasks before this one to the candidates chosen for them."""

    name: str
    dataset: str
    split: str
    version: int = 1
    index: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    decided: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        return f" v{self.version}" if self.version > 1 else ""


def fit_step(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    rung: Rung,
    *,
    on_all: bool = False,
    sibling: str = "",
    searched: bool = False,
) -> StepRecord:
    """The candidate of a rung, fitted on training rows, or on every row for release (`sibling` is then the candidate
    whose held-out figures stand for it). Techniques learn from validation rows too; where those are `searched` (they
    screen candidates), an eighth of the training rows takes their place, whole clusters at a time."""
    task = ws.config.tasks[data.name]
    t = rung.technique
    given = task_prompt(ws, data.name) if "chat" in t.needs else None
    params = {
        **task_params(ws, data.name, t),
        **({"prompt": given.spec} if given else {}),
        **rung.params,
        **ws.config.choose.techniques.get(t.name, {}),
    }
    roles = roles_of(ws, data, rung) | ({"prompt": given.node} if given else {})

    def work(ctx: StepContext) -> Outcome:
        rows, sides = ws.examples(data.dataset), ws.sides(data.split)
        train = [r for r in rows if on_all or sides.get(r.id) == "train"]
        validation = [] if on_all else [r for r in rows if sides.get(r.id) == "validation"]
        if searched:
            validation = [r for r in train if int(sha256_hex(r.cluster)[:8], 16) % EIGHTH == 0]
            tuned_on = {r.id for r in validation}
            train = [r for r in train if r.id not in tuned_on]
        candidate = Candidate(
            name=rung.name,
            task=data.name,
            kind=task.kind,
            technique=t.name,
            base=rung.base,
            encoder=rung.encoder,
            labels=tuple(sorted({str(r.target) for r in [*train, *validation]})) if task.kind == "classify" else (),
            params=params,
            models=rung.more,
            fitted_on="all" if on_all else "train",
        )
        out = ctx.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        began = time.monotonic()
        opened = open_roles(ws, roles, t)
        with remembered_replies(ws):
            figures = dict(
                t.fit(
                    FitContext(
                        out=out,
                        work=ctx.work,
                        train=train,
                        validation=validation,
                        labels=candidate.labels,
                        params=params,
                        seed=ws.config.seed,
                        report=ctx.report,
                        kind=task.kind,
                        **opened,
                    )
                )
            )
        parents = [*roles.items(), *([("refit_of", sibling)] if sibling else [])]
        node = ctx.ledger.put_folder("candidate", out, candidate.model_dump(mode="json"), parents=parents)
        return Outcome({"candidate": node.id}, figures | {"fit_seconds": time.monotonic() - began})

    verb = "refit" if on_all else "fit"
    return runner.step(
        f"{verb} {data.name} {rung.name}{data.suffix}",
        work,
        stage="customise" if on_all else "choose",
        params={
            "technique": t.name,
            "version": getattr(t, "version", 1),
            "params": params,
            "seed": ws.config.seed,
            "all": on_all,
            "searched": searched,
            "name": rung.name,
        },
        inputs={**roles, "sibling": sibling},
    )


def task_params(ws: Workspace, task: str, technique: Technique) -> dict[str, Any]:
    """What a task's own settings say to a technique that reads them: instruction, languages, voice, schema, k."""
    settings = ws.config.tasks[task]
    found: dict[str, Any] = {}
    if settings.kind == "retrieve":
        found["k"] = settings.k
    if "index" in technique.needs:
        found["depth"] = ws.config.retrieval.depth
    if "chat" not in technique.needs:
        return found
    if settings.instruction:
        found["instruction"] = settings.instruction
    found["language"] = ws.config.language
    if settings.kind not in ("classify", "answer", "retrieve"):
        for name in ("source", "target", "voice"):
            if value := getattr(settings, name):
                found[name] = value
        if settings.kind == "code" and settings.samples > 1:
            found["samples"] = settings.samples
        if schema := json_schema(ws, task):
            found["schema"] = schema
    return found


def roles_of(ws: Workspace, data: TaskData, rung: Rung) -> dict[str, str]:
    """The nodes that a candidate is made from, by the part each plays: its lineage. A model of a chain's is `model
    NAME`, another task's candidate that a chain asks `task NAME`."""
    t, roles = rung.technique, {"dataset": data.dataset, "split": data.split}
    if rung.more:
        roles |= {f"{MODEL}{name}": data.models[name] for name in rung.more}
    elif rung.base:
        roles["base"] = data.models[rung.base]
    if rung.encoder:
        roles["encoder"] = data.models[rung.encoder]
    searches = "index" in t.needs
    if rung.params:
        from bucle.loop.chains import needs_index, tasks_of

        roles |= {f"{TASK}{name}": _decided(data, name) for name in tasks_of(rung.params)}
        searches = needs_index(rung.params)
    if searches:
        if not data.index:
            raise ConfigError(f"`{rung.name}` searches documents, and this project has no index.",
                              "Add `data.documents` and an encoder under `models:`.")
        roles["index"] = data.index
        if "encoder" not in roles:
            roles["encoder"] = str(next(e.parent for e in ws.ledger.parents(data.index) if e.role == "encoder"))
        if named := ws.config.retrieval.reranker:
            roles["reranker"] = data.models[named]
    return roles


def _decided(data: TaskData, task: str) -> str:
    if task not in data.decided:
        raise ConfigError(f"A chain of `{data.name}` asks the task `{task}`, which is not decided before it.",
                          f"Put `{task}` before `{data.name}` under `tasks:` in bucle.yaml.")
    return data.decided[task]


def rows_of(ws: Workspace, dataset: str, split: str, side: str = "test") -> list[Example]:
    """The rows of one side of a split, in the dataset's order."""
    sides = ws.sides(split)
    return [r for r in ws.examples(dataset) if sides.get(r.id) == side]


def score_step(
    ws: Workspace, runner: Runner, data: TaskData, candidate: str, name: str, *, stage: str = "choose"
) -> StepRecord:
    """The candidate's predictions on the test rows, its metrics, and its latency one call at a time."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.scoring import score

        rows = rows_of(ws, data.dataset, data.split)
        predictor, scoring = open_candidate(ws, candidate), scoring_of(ws, data)
        with remembered_replies(ws):
            batch = REMOTE_BATCH if is_remote(ws, candidate) else BATCH
            said = predict_kept(predictor, [r.input for r in rows], ctx, batch=batch)
            found = score(scoring, rows, said, report=ctx.report)
        figures = found.figures | latency(
            predictor, [r.input for r in rows], said, remote=is_remote(ws, candidate)
        )
        figures |= {} if known_price(ws, candidate) else {"usd_per_1k": None}
        figures |= {
            "metric": scoring.primary,
            "shortened": int(getattr(predictor, "shortened", 0)),
            "intervals": {name: value.model_dump() for name, value in found.values.items()},
            "signatures": dict(found.signatures),
            "judge_usage": found.judge_usage.model_dump(),
            "usd": sum(p.usage.usd for p in said),
        }
        node = ctx.ledger.put(
            "evaluation",
            {"task": data.name, "rows": len(rows)},
            parents=[("candidate", candidate), ("split", data.split)],
            blobs={
                "predictions.jsonl": "".join(p.model_dump_json() + "\n" for p in said).encode(),
                "scores.json": json.dumps({"ids": [r.id for r in rows], "per_row": found.per_row}).encode(),
            },
        )
        metric = scoring.primary
        mean = sum(found.per_row[metric]) / max(1, len(rows))
        return Outcome({"evaluation": node.id}, figures, f"{metric} {mean:.3f} on {len(rows)} rows")

    return runner.step(
        f"score {data.name} {name}{data.suffix}",
        work,
        stage=stage,
        version=2,
        params=scoring_key(ws, data) | prices(ws, candidate),
        inputs={"candidate": candidate, "split": data.split, "index": data.index},
    )


def predict_kept(
    predictor: Predictor, inputs: Sequence[str], ctx: StepContext, *, name: str = "predictions", batch: int = BATCH
) -> list[Prediction]:
    """Predictions in batches, each kept on disk before the next, so that a kill never asks for one twice."""
    kept = ctx.work / f"{name}.jsonl"
    said: list[Prediction] = []
    if kept.exists():
        for line in kept.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            said.append(Prediction.model_validate_json(line))
        said = said[: len(said) // batch * batch]  # whole batches only: the same batches as an undisturbed run
        kept.write_text("".join(p.model_dump_json() + "\n" for p in said))
    for start in range(len(said), len(inputs), batch):
        made = predictor.predict(inputs[start : start + batch])
        with kept.open("a") as file:
            file.write("".join(p.model_dump_json() + "\n" for p in made))
        said += made
        ctx.report(len(said), len(inputs), "rows")
    return said


def latency(
    predictor: Predictor, inputs: Sequence[str], said: Sequence[Prediction], *, remote: bool
) -> dict[str, float]:
    """Median and 95th percentile milliseconds of single calls; a remote model's own times serve instead."""
    import numpy as np

    if remote:
        times = [p.ms for p in said]
    else:
        predictor.predict(inputs[:1])
        times = []
        for text in inputs[:SINGLE_CALLS]:
            began = time.perf_counter()
            predictor.predict([text])
            times.append((time.perf_counter() - began) * 1000)
            if sum(times) > MOST_SECONDS * 1000:
                break
    return {"p50_ms": float(np.percentile(times, 50)), "p95_ms": float(np.percentile(times, 95))}


def documents_of_chunks(ws: Workspace, index: str) -> dict[str, str]:
    """Chunk id -> path of its document, of an index node; empty without one."""
    if not index:
        return {}
    lines = ws.ledger.read(ws.ledger.get(index), "chunks.jsonl").splitlines()
    return {c["id"]: c["path"] for c in map(json.loads, lines)}


def scores(ws: Workspace, evaluation: str) -> tuple[list[str], dict[str, list[float]]]:
    """Row ids and per-row metrics of an evaluation node."""
    stored = json.loads(ws.ledger.read(ws.ledger.get(evaluation), "scores.json"))
    return stored["ids"], stored["per_row"]


def predictions(ws: Workspace, evaluation: str) -> list[Prediction]:
    """The predictions of an evaluation node, in the order of its rows."""
    lines = ws.ledger.read(ws.ledger.get(evaluation), "predictions.jsonl").splitlines()
    return [Prediction.model_validate_json(line) for line in lines]
