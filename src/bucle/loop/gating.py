"""The gate before a release: the team's own conditions, each checked against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.choose import Rung
from bucle.core.records import Candidate, Example, Prediction
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.bias import bias_facts, bias_step
from bucle.loop.canary import check_before
from bucle.loop.candidates import TaskData, predictions, rows_of, scores
from bucle.loop.forgetting import forgetting_facts
from bucle.loop.judging import agreed, judge_step
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.redteam import redteam_facts, redteam_step
from bucle.loop.scoring import judge_models, judges_of, scoring_key, scoring_of
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION

__all__ = ["gate_step", "judge_steps", "licences_of", "numbers", "production_sibling", "wants"]

ATTACKED = ("attack_success", "over_refusal")


def wants(ws: Workspace, task: str, *names: str) -> bool:
    """Whether a gate of the task asks for any of these figures."""
    from bucle.evaluate.gate import parse_gate

    return any(parse_gate(gate).metric in names for gate in ws.config.tasks[task].gates)


def gate_step(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    rung: Rung,
    evaluation: StepRecord,
    *,
    baseline: StepRecord,
    forgetting: StepRecord | None = None,
    candidate: str,
    judges: Mapping[str, StepRecord] | None = None,
) -> StepRecord:
    """Each gate of the task, checked, after what it alone asks for (the red team and the probe for bias on the
    `candidate` evaluated). The step finishes whether or not they hold.

    Production is what the alias points to when the gate is first checked, judged by its held-out sibling on the same
    rows; it is written into the node and is no part of the key, so that a finished gate stays finished when
    production moves on.
    """
    redteam = redteam_step(ws, runner, data, candidate, rung.name) if wants(ws, data.name, *ATTACKED) else None
    bias = bias_step(ws, runner, data, candidate, rung.name) if wants(ws, data.name, "bias_flips") else None
    gates, measured_judges = ws.config.tasks[data.name].gates, dict(judges or {})
    licences = licences_of(ws, rung)

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.gate import GateFacts, Reference, check_gates

        rows = {r.id: r for r in rows_of(ws, data.dataset, data.split)}
        ids, per_row = scores(ws, evaluation["evaluation"])
        held = [rows[i] for i in ids]
        before = production_sibling(ws, data)
        apart, spared = forgetting_facts(forgetting)
        if redteam is not None:
            apart |= redteam_facts(redteam)
        if bias is not None:
            apart |= bias_facts(bias)

        def corpus(record: StepRecord) -> Mapping[str, Any]:
            return _corpus(ws, data, held, predictions(ws, record["evaluation"]))

        result = check_gates(
            list(gates),
            GateFacts(
                rows=len(ids),
                metrics=numbers(evaluation.figures),
                per_row=per_row,
                clusters=[r.cluster for r in held],
                production=_production(ws, data, before, held, same=before == candidate) if before else None,
                baseline=Reference(
                    "baseline",
                    numbers(baseline.figures),
                    scores(ws, baseline["evaluation"])[1],
                    measured=corpus(baseline),
                    same=baseline["evaluation"] == evaluation["evaluation"],
                ),
                seed=ws.config.seed,
                measured=corpus(evaluation),
                apart=apart,
                licences=licences,
                judges={name: agreed(ws, name, measured_judges.get(name)) for name in judges_of(ws, data.name)},
                spared=spared,
            ),
        )
        name = Candidate.model_validate(ws.ledger.get(candidate).attrs).name
        figures = {"task": data.name, "release": f"{data.name}: {name}{data.suffix}", **result.to_dict()}
        parents = [("evaluation", evaluation["evaluation"]), ("baseline", baseline["evaluation"])]
        parents += [("redteam", redteam["redteam"])] if redteam is not None else []
        parents += [("judge", record["judge"]) for record in measured_judges.values()]
        node = ctx.ledger.put(
            "gate",
            {"task": data.name, **result.to_dict()},
            parents=parents + ([("production", before)] if before else []),
        )
        return Outcome({"gate": node.id}, figures, "passed" if result.passed else "FAILED")

    return runner.step(
        f"gate {data.name}{data.suffix}",
        work,
        stage="evaluate",
        version=2,
        inputs={"evaluation": evaluation["evaluation"], "baseline": baseline["evaluation"]},
        params={
            "gates": list(gates),
            "seed": ws.config.seed,
            "licences": licences,
            "apart": [record.key for record in (forgetting, redteam, bias) if record is not None],
            "judges": sorted(record.key for record in measured_judges.values()),
            "scoring": scoring_key(ws, data),
        },
    )


def judge_steps(ws: Workspace, runner: Runner, data: TaskData) -> dict[str, StepRecord]:
    """How far the task's judges agree with people, of those that have a file of rows that people scored: measured
    before anything is judged, and after their models' canaries."""
    judged = [data.split, *ws.config.tasks[data.name].metrics]
    check_before(ws, runner, data.models, judge_models(ws, data.name), judged)
    return {
        name: judge_step(ws, runner, name, data.models[ws.config.judges[name].model])
        for name in judges_of(ws, data.name)
        if ws.config.judges[name].agreement
    }


def licences_of(ws: Workspace, rung: Rung) -> dict[str, str]:
    """The licence class of each model that a rung serves with, by name in bucle.yaml; empty where it has none."""
    from bucle.models.catalogue import facts

    return {
        name: facts(name, ws.config.models[name], ws.config.catalogue).licence or "unknown"
        for name in rung.models
    }


def production_sibling(ws: Workspace, data: TaskData) -> str:
    """The candidate that never saw held-out rows, behind what production last served for this task from data of this
    version or an earlier one; empty where there is none.

    A run starts again from the files (version 1). It must not be judged by what feedback taught a later version: that
    one is gated against in its turn.
    """
    for move in reversed(ws.ledger.alias_history(PRODUCTION)):
        candidate = str(ws.ledger.get(move["node"]).attrs["tasks"].get(data.name, ""))
        if not candidate:
            continue
        roles = {e.role: e.parent for e in ws.ledger.parents(candidate)}
        if int(ws.ledger.get(roles["dataset"]).attrs["version"]) <= data.version:
            return roles.get("refit_of", candidate)
    return ""


def _production(ws: Workspace, data: TaskData, candidate: str, rows: Sequence[Example], *, same: bool) -> Any:
    from bucle.evaluate.gate import Reference
    from bucle.evaluate.scoring import score

    with remembered_replies(ws):
        said = open_candidate(ws, candidate).predict([r.input for r in rows])
        found = score(scoring_of(ws, data), rows, said)
    return Reference("production", numbers(found.figures), found.per_row, measured=found.measured, same=same)


def _corpus(
    ws: Workspace, data: TaskData, rows: Sequence[Example], said: Sequence[Prediction]
) -> Mapping[str, Any]:
    """The corpus metrics that gates ask for, with their statistics, from predictions already made; no judge is asked
    again."""
    from dataclasses import replace

    from bucle.evaluate.gate import gate_metrics
    from bucle.evaluate.scoring import corpus_metrics, score

    scoring = scoring_of(ws, data)
    names = [n for n in gate_metrics(ws.config.tasks[data.name].gates) if not n.startswith("judge:")]
    whole = corpus_metrics(scoring, names)
    return score(replace(scoring, metrics=(), also=whole, judges={}), rows, said).measured if whole else {}


def numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Those of an evaluation's figures that a gate can ask for."""
    return {k: float(v) for k, v in figures.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
