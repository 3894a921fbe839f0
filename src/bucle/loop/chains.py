"""The chains that bucle.yaml names: what each is, what it needs, and one input sent through it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.config import REMOTE, External, RerankerModel
from bucle.core.errors import ConfigError, NotFound
from bucle.core.ports import FitContext, LoadContext, Predictor, Technique
from bucle.core.records import Prediction, TaskKind
from bucle.customise.chain import ChainSpec, ChainTechnique, StepCache, load_chain, read_chain
from bucle.customise.chain.spec import RetrieveStep, all_steps
from bucle.loop.workspace import Workspace

__all__ = ["chain_params", "chain_spec", "chains", "check_trust", "models_of", "needs_index", "run_chain", "step_cache",
           "tasks_of"]

CACHE = "chains.db"
WRITES = ("local", "pretrain", *sorted(REMOTE))  # the kinds of model that a step may ask


def chain_params(ws: Workspace, name: str) -> dict[str, Any]:
    """What a candidate of the chain `name` is made from: its steps with every file that they name read in, and the
    hashes of those files, so that an edit makes another candidate. Raises ConfigError with file and line."""
    settings = ws.config.chains.get(name)
    if settings is None:
        from bucle.customise.chain.graph import near

        raise ConfigError(f"There is no chain `{name}` in bucle.yaml.", near(name, ws.config.chains))
    if isinstance(settings, External):
        from bucle.customise.external.technique import external_params

        return external_params(settings, ws.root)
    models = [n for n, model in ws.config.models.items() if model.kind in WRITES]
    path = ws.root / settings
    if not path.resolve().is_relative_to(ws.root.resolve()):
        raise ConfigError(f"The chain `{name}` is outside the project: {settings}.", "Copy it into the project.")
    spec = load_chain(path, ws.root, models=models, tasks=ws.config.tasks)
    if not spec.language:
        spec = spec.model_copy(update={"language": ws.config.language})
    return {"chain": spec.model_dump(mode="json")}


def chain_spec(ws: Workspace, name: str) -> ChainSpec | External:
    """The chain called `name`, read and checked. Raises ConfigError."""
    params = chain_params(ws, name)
    return read_chain(params["chain"]) if "chain" in params else External.model_validate(params["external"])


def models_of(params: Mapping[str, Any]) -> list[str]:
    """The models that a chain's steps ask, by their names in bucle.yaml, once."""
    return _named(params, "model")


def tasks_of(params: Mapping[str, Any]) -> list[str]:
    """The tasks whose candidates a chain's steps ask, once."""
    return _named(params, "task")


def needs_index(params: Mapping[str, Any]) -> bool:
    """Whether a step retrieves."""
    return "chain" in params and any(isinstance(s, RetrieveStep) for s in all_steps(read_chain(params["chain"])))


def _named(params: Mapping[str, Any], field: str) -> list[str]:
    if "chain" not in params:  # another library's
        return []
    steps = all_steps(read_chain(params["chain"]))
    return list(dict.fromkeys(name for step in steps if (name := getattr(step, field, ""))))


def chains(ws: Workspace) -> list[dict[str, Any]]:
    """Every chain of bucle.yaml: `name`, `file` or `object`, `steps`, `models`, the `tasks` that it competes for, and
    `problem` where it cannot be meant."""
    found = []
    for name, settings in ws.config.chains.items():
        row: dict[str, Any] = {"name": name, "from": settings.object if isinstance(settings, External) else settings,
                               "steps": [], "models": [], "problem": "",
                               "for": [t for t, task in ws.config.tasks.items() if name in task.chains]}
        try:
            params = chain_params(ws, name)
            row["models"] = models_of(params)
            if "chain" in params:
                row["steps"] = [step.name for step in all_steps(read_chain(params["chain"]))]
        except ConfigError as error:
            row["problem"] = error.message
        found.append(row)
    return found


def check_trust(ws: Workspace) -> None:
    """That the Python of the chains that compete may run, before anything is read or fitted. Raises ConfigError with
    file and line."""
    from bucle.core.yamlfile import at_line
    from bucle.customise.own import own_file, untrusted
    from bucle.loop.rungs import rungs_of

    for name, task in () if ws.trusted else ws.config.tasks.items():
        rungs = [rung for rung in rungs_of(ws, name) if rung.name.startswith("chain/")] if task.chains else []
        for rung in rungs:
            if "chain" not in rung.params:
                called = str(rung.params["external"]["object"])
            else:
                steps = all_steps(read_chain(rung.params["chain"]))
                called = next((f for step in steps if (f := getattr(step, "function", ""))), "")
            if called:
                with at_line(ws.root / "bucle.yaml", "tasks", name, "chains"):
                    raise untrusted(called, own_file(called, ws.root), f"{rung.name}:")


def run_chain(ws: Workspace, name: str, text: str, *, access: frozenset[str] = frozenset()) -> Prediction:
    """One input through the chain `name`, with the index and models of the last run and the project's cache of steps.
    Raises ConfigError or BadInput where something that it needs is not there."""
    import inspect
    import tempfile

    params = chain_params(ws, name)
    kinds: list[TaskKind] = [t.kind for t in ws.config.tasks.values() if name in t.chains and t.kind != "classify"]
    kind: TaskKind = next(iter(kinds), "answer")  # a classify task's answer is shown as it is, label or not
    made: Technique = ChainTechnique() if "chain" in params else _external()
    opened = _opened(ws, params)
    with tempfile.TemporaryDirectory(prefix="bucle-chain-") as made_in:
        folder = Path(made_in)
        roles = {k: v for k, v in opened.items() if k != "extra"}
        made.fit(FitContext(out=folder, work=folder, train=(), validation=(), labels=(), params=params, kind=kind,
                            seed=ws.config.seed, report=lambda done, total, note="": None, **roles))
        predictor: Predictor = made.load(folder, LoadContext(labels=(), params=params, seed=ws.config.seed, kind=kind,
                                                             **opened))
    takes_access = "access" in inspect.signature(predictor.predict).parameters
    return predictor.predict([text], **({"access": access} if takes_access else {}))[0]


def _external() -> Technique:
    from bucle.customise.external.technique import ExternalTechnique

    return ExternalTechnique()


def step_cache(ws: Workspace) -> StepCache:
    """What steps of chains found, kept for as long as each says: of `bucle chain run` and of serving."""
    return StepCache(ws.ledger.folder / CACHE)


def _opened(ws: Workspace, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a chain's context holds: models opened from bucle.yaml as it is now, the rest from the last run."""
    found: dict[str, Any] = {"project": ws.root, "trusted": ws.trusted,
                             "models": {name: _model(ws, name) for name in models_of(params)}}
    extra: dict[str, Any] = {"cache": step_cache(ws)}
    if needs_index(params):
        found |= _index(ws)
    if needs_index(params) or "external" in params:
        from bucle.loop.versions import LabelsToday

        extra["labels"] = LabelsToday(ws)
    if names := tasks_of(params):
        extra["tasks"] = {name: _candidate(ws, name) for name in names}
    return found | {"extra": extra}


def _model(ws: Workspace, name: str) -> Any:
    from bucle.loop.model_steps import chat_model, node_of

    return chat_model(ws, node_of(ws, name))


def _index(ws: Workspace) -> dict[str, Any]:
    """The index in force with its encoder, and the project's reranker."""
    from bucle.loop.indexing import in_force
    from bucle.loop.model_steps import model_folder

    if not (node := in_force(ws)):
        raise NotFound("This project has no index yet, and the chain retrieves.",
                       "Add `data.documents` and an encoder to bucle.yaml, then: bucle run")
    encoder = next((e.parent for e in ws.ledger.parents(node) if e.role == "encoder"), "")
    found: dict[str, Any] = {"index": model_folder(ws, node), "encoder": model_folder(ws, encoder) if encoder else None}
    reranker = ws.config.models.get(ws.config.retrieval.reranker)
    if isinstance(reranker, RerankerModel):
        from bucle.models.rerank import open_reranker

        found["reranker"] = open_reranker(reranker)
    return found


def _candidate(ws: Workspace, task: str) -> Predictor:
    """The candidate of a task that is in production, else the one that the last run recommends."""
    from bucle.loop.opening import open_candidate
    from bucle.loop.story import latest_records
    from bucle.release import production

    try:
        released = production(ws.ledger).attrs["tasks"]
    except NotFound:
        released = {}
    if task in released:
        return open_candidate(ws, str(released[task]))
    record = next((r for r in latest_records(ws.ledger) if r.name == f"compare {task}"), None)
    edges = ws.ledger.parents(record["comparison"]) if record else []
    role = f"evaluation {record.figures['recommended']}" if record else ""
    evaluation = next((e.parent for e in edges if e.role == role), "")
    if not evaluation:
        raise NotFound(f"The chain asks the task `{task}`, and nothing is chosen for it yet.", "bucle choose")
    return open_candidate(ws, next(e.parent for e in ws.ledger.parents(evaluation) if e.role == "candidate"))
