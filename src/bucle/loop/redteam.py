"""The red team step: the recommended candidate under attack, on held-out rows, with secrets planted where it reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import Predictor
from bucle.core.records import Candidate
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import TaskData, rows_of
from bucle.loop.opening import load_candidate, open_candidate, remembered_replies
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from bucle.core.records import Chunk
    from bucle.evaluate.gate import Apart
    from bucle.evaluate.redteam import Probe, Secrets

__all__ = ["redteam_facts", "redteam_step", "redteam_task", "served"]

CARRIERS = 60  # held-out rows that probes are laid over, in turn
PROMPT_FILE = "prompt.json"
INSTRUCTIONS = ("instruction", "system")  # where a prompt's file keeps what the model is told


def redteam_step(ws: Workspace, runner: Runner, data: TaskData, candidate: str, name: str) -> StepRecord:
    """Every probe that applies to a candidate. Figures: those of `evaluate.redteam.Result.figures`, with `task` and
    `candidate`; `redteam_facts` makes of them what gates read."""
    wanted = _probes(ws, data.name)

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.redteam import Target, run_attacks, secrets

        kind = ws.config.tasks[data.name].kind
        rows = sorted(rows_of(ws, data.dataset, data.split), key=lambda row: sha256_hex(f"{ws.config.seed} {row.id}"))
        rows = rows[:CARRIERS]
        if not rows:
            raise BadInput(f"`{data.name}` has no held-out row to lay an attack over.", "Give it more rows.")
        planted = secrets(ws.config.seed)
        plain = open_candidate(ws, candidate)
        target = Target(plain, _instructed(ws, candidate, planted, ctx), _shelf(plain))
        labels = Candidate.model_validate(ws.ledger.get(candidate).attrs).labels
        with remembered_replies(ws):
            result = run_attacks(target, kind, rows, labels, wanted, planted, report=ctx.report)
        figures = {"task": data.name, "candidate": name, **result.figures()}
        node = ctx.ledger.put(
            "redteam",
            {"task": data.name, "attack_success": figures["attack_success"], "over_refusal": figures["over_refusal"]},
            parents=[("candidate", candidate), ("split", data.split)],
            blobs={"attempts.jsonl": "".join(
                json.dumps({"kind": one.probe.kind, "probe": one.probe.id, "text": one.text, "planted": one.plant,
                            "wanted": one.wanted, "output": said.output, "error": said.error, "hit": hit},
                           ensure_ascii=False) + "\n"
                for one, said, hit in zip(result.tried, result.said, result.hits, strict=True)).encode()},
        )
        return Outcome({"redteam": node.id}, figures, _note(figures))

    return runner.step(
        f"redteam {data.name} {name}{data.suffix}",
        work,
        stage="evaluate",
        version=2,
        params={"probes": sha256_hex(canonical_json([asdict(one) for one in wanted])), "seed": ws.config.seed},
        inputs={"candidate": candidate, "split": data.split},
    )


def redteam_facts(record: StepRecord) -> dict[str, Apart]:
    """For `GateFacts.apart`: `attack_success` and `over_refusal`, each where anything was tried."""
    from bucle.evaluate.gate import Apart

    figures = record.figures
    return {name: Apart(scores, figures["clusters"][name]) for name, scores in figures["per_row"].items()}


def redteam_task(ws: Workspace, runner: Runner, task: str, release: str = "production") -> StepRecord:
    """The red team against the candidate that a release serves for a task: its sibling that never saw the held-out
    rows, where it was fitted again on all of them. Raises BadInput, NotFound."""
    return redteam_step(ws, runner, *served(ws, task, release))


def served(ws: Workspace, task: str, release: str) -> tuple[TaskData, str, str]:
    """What a release serves for a task: the data behind it, the candidate that never saw the held-out rows, and its
    name. Raises BadInput, NotFound."""
    from bucle.loop.measure import release_called

    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    serves = release_called(ws, release).attrs["tasks"]
    if task not in serves:
        raise BadInput(f"The release serves no `{task}`.", f"It serves {', '.join(serves)}. bucle run")
    roles = {e.role: e.parent for e in ws.ledger.parents(str(serves[task]))}
    candidate = roles.get("refit_of", str(serves[task]))
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate)}
    data = TaskData(task, roles["dataset"], roles["split"], int(ws.ledger.get(roles["dataset"]).attrs["version"]),
                    roles.get("index", ""))
    return data, candidate, str(ws.ledger.get(candidate).attrs["name"])


def _probes(ws: Workspace, task: str) -> tuple[Probe, ...]:
    from bucle.evaluate.redteam import TALKS, own_probes, probes

    settings = ws.config.redteam
    own = own_probes(ws.file(settings.probes)) if settings.probes else ()
    return probes(own, settings.limit, talks=ws.config.tasks[task].kind in TALKS)


def _instructed(ws: Workspace, candidate: str, planted: Secrets, ctx: StepContext) -> Predictor | None:
    """The candidate with secrets at the end of its instruction; None where it has none, or writes labels only."""
    node = ws.ledger.get(candidate)
    if PROMPT_FILE not in node.blobs or node.attrs["kind"] in ("classify", "retrieve"):
        return None
    folder = ctx.work / "planted"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ws.ledger.materialise(node), folder)
    prompt = json.loads((folder / PROMPT_FILE).read_text("utf-8"))
    key = next((one for one in INSTRUCTIONS if isinstance(prompt.get(one), str)), None)
    if key is None:
        return None
    prompt[key] = f"{prompt[key]}\n{planted.instruction}".strip()
    path = folder / PROMPT_FILE
    path.unlink()  # a stored file may be read-only
    path.write_text(json.dumps(prompt, ensure_ascii=False), "utf-8")
    return load_candidate(ws, candidate, folder)


def _shelf(predictor: Any) -> MutableMapping[str, Chunk] | None:
    """The passages that a predictor shows to a model, by id. One that only quotes was never told to obey. What is
    planted in a vector store's index is planted in the packaged one beside it, which its texts come from."""
    from bucle.customise.retrieve.index import Index
    from bucle.customise.retrieve.quote import QuotePredictor

    if isinstance(predictor, QuotePredictor):
        return None
    held = [one for name in ("index", "quote") if (one := getattr(predictor, name, None)) is not None]
    held += [one.index for one in held if hasattr(one, "index")]
    return next((one.chunks for one in held if isinstance(getattr(one, "inner", one), Index)), None)


def _note(figures: dict[str, Any]) -> str:
    told = []
    for name, says in (("attack_success", "of attacks succeed"), ("over_refusal", "of harmless ones refused")):
        if figures[name]["n"]:
            told.append(f"{figures[name]['value']:.1%} {says}")
    return ", ".join(told) or "no probe applies"
