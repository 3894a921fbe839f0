"""Candidates in the ledger: fitting one, opening one, and its predictions on rows it never saw."""

from __future__ import annotations

import inspect
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.choose import Rung
from bucle.core.config import OpenAIModel
from bucle.core.errors import ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.ports import FitContext, LoadContext, Predictor, Technique
from bucle.core.records import Candidate, Example, Prediction
from bucle.customise.registry import technique
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.model_steps import chat_model, model_folder, reranker_of
from bucle.loop.prompts import task_prompt
from bucle.loop.scoring import json_schema, scoring_key, scoring_of
from bucle.loop.versions import LabelsToday
from bucle.loop.workspace import Workspace

__all__ = [
    "TaskData",
    "documents_of_chunks",
    "fit_step",
    "is_remote",
    "known_price",
    "latency",
    "load_candidate",
    "open_candidate",
    "open_roles",
    "predict_as",
    "predict_kept",
    "predictions",
    "priced",
    "prices",
    "remembered_replies",
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
REPLIES = "replies.db"
MODEL, TASK = "model ", "task "  # what stands before the name in the role of a chain's models and tasks


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


def remembered_replies(ws: Workspace) -> AbstractContextManager[object]:
    """Inside it, what was asked of a model before is not asked again. Never around serving."""
    from bucle.models.ask import remembered

    return remembered(ws.ledger.folder / REPLIES)


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


def open_roles(ws: Workspace, roles: Mapping[str, str], t: Technique, *, serving: bool = False) -> dict[str, Any]:
    """Folders and models for a technique's context, of those roles that it needs; with `serving` to answer only: a
    student is served without its teacher."""
    needs = getattr(t, "serving_needs", t.needs) if serving else t.needs
    opened: dict[str, Any] = {role: model_folder(ws, roles[role]) for role in ("encoder", "index") if role in roles}
    if "base" in roles and "base" in needs:
        opened["base"] = model_folder(ws, roles["base"])
    if "base" in roles and "chat" in needs:
        opened["chat"] = chat_model(ws, roles["base"])
    if "reranker" in roles:
        opened["reranker"] = reranker_of(ws, roles["reranker"])
    models = {role.removeprefix(MODEL): node for role, node in roles.items() if role.startswith(MODEL)}
    opened["models"] = {name: chat_model(ws, node) for name, node in models.items()}
    return opened | {"project": ws.root, "trusted": ws.trusted}


def open_candidate(ws: Workspace, candidate_id: str, *, serving: bool = False) -> Predictor:
    """A candidate in memory, ready to answer; opened once a process. With `serving` the steps of a chain keep what
    they found for as long as each says, and never when a candidate is measured."""
    return _open(ws, candidate_id, serving)


@lru_cache(maxsize=16)
def _open(ws: Workspace, candidate_id: str, serving: bool) -> Predictor:
    folder = ws.ledger.materialise(ws.ledger.get(candidate_id))
    return load_candidate(ws, candidate_id, folder, serving=serving)


def load_candidate(ws: Workspace, candidate_id: str, folder: Path, *, serving: bool = False) -> Predictor:
    """A candidate from `folder`: its own files, or a copy of them that was changed (a planted instruction)."""
    candidate = Candidate.model_validate(ws.ledger.get(candidate_id).attrs)
    t = technique(candidate.technique)
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate_id)}
    asked = {role.removeprefix(TASK): node for role, node in roles.items() if role.startswith(TASK)}
    extra: dict[str, Any] = {"labels": LabelsToday(ws)} if "index" in roles or t.name == "external" else {}
    if asked:
        extra["tasks"] = {name: open_candidate(ws, node, serving=serving) for name, node in asked.items()}
    if serving and t.name == "chain":
        from bucle.loop.chains import step_cache

        extra["cache"] = step_cache(ws)
    return t.load(
        folder,
        LoadContext(
            labels=candidate.labels,
            params=candidate.params,
            seed=ws.config.seed,
            kind=candidate.kind,
            extra=extra,
            **open_roles(ws, roles, t, serving=True),
        ),
    )


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


def predict_as(predictor: Predictor, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
    """Answers for somebody who holds the labels `access`. One that searches nothing takes no labels."""
    if access and "access" in inspect.signature(predictor.predict).parameters:
        return predictor.predict(inputs, access=access)  # type: ignore[call-arg]
    return predictor.predict(inputs)


def prices(ws: Workspace, candidate: str) -> dict[str, Any]:
    """What a remote model's tokens cost here: other prices, other figures."""
    from bucle.models.catalogue import paid

    found = {
        name: paid(name, model, ws.config.catalogue)
        for name in _named(ws, candidate)
        if isinstance(model := ws.config.models.get(name), OpenAIModel)
    }
    if not found:
        return {}
    return {"prices": next(iter(found.values())) if len(found) == 1 else found}


def known_price(ws: Workspace, candidate: str) -> bool:
    """Whether what a candidate's provider asks for a token is known; true where no provider is asked."""
    return not is_remote(ws, candidate) or all(_known(ws, name) for name in _named(ws, candidate))


def priced(ws: Workspace, rung: Rung) -> bool:
    """The same of a rung that is not fitted yet."""
    return all(_known(ws, name) for name in rung.models if ws.config.models[name].kind == "openai")


def _named(ws: Workspace, candidate: str) -> list[str]:
    """The models that a candidate asks, by their names in bucle.yaml, once."""
    attrs = ws.ledger.get(candidate).attrs
    return list(dict.fromkeys(str(name) for name in (attrs["base"], *attrs.get("models", ())) if name))


def _known(ws: Workspace, name: str) -> bool:
    from bucle.models.catalogue import price_known

    return price_known(name, ws.config.models[name], ws.config.catalogue)


def is_remote(ws: Workspace, candidate: str) -> bool:
    """Whether a provider is asked for each answer. A student of a remote teacher answers by itself."""
    attrs = ws.ledger.get(candidate).attrs
    t = technique(str(attrs["technique"]))
    asked = [*attrs.get("models", ()), *([attrs["base"]] if "chat" in getattr(t, "serving_needs", t.needs) else [])]
    return any((model := ws.config.models.get(str(name))) is not None and model.kind == "openai" for name in asked)


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
