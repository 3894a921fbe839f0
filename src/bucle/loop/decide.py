"""Decisions: the comparison that recommends, the forgetting that tuning caused, the gate before a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bucle.choose import Rung
from bucle.core.records import Candidate, Example
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.bakeoff import Bakeoff
from bucle.loop.candidates import TaskData, open_candidate, predictions, remembered_replies, rows_of, scores
from bucle.loop.costs import monthly_of
from bucle.loop.document_step import read_documents
from bucle.loop.model_steps import model_folder
from bucle.loop.scoring import scoring_of
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION

__all__ = ["compare_step", "forgetting_step", "gate_step", "production_sibling"]

SAMPLES = 12
FORGETTING_DOCUMENTS = 40


def compare_step(ws: Workspace, runner: Runner, data: TaskData, bakeoff: Bakeoff) -> StepRecord:
    """All candidates still live on the same held-out rows: intervals, paired differences, the one to take, and what
    became of the others."""
    kind = ws.config.tasks[data.name].kind
    choose, rungs, fits, evaluations = ws.config.choose, bakeoff.rungs, bakeoff.fits, bakeoff.evaluations

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.compare import Scored, compare
        from bucle.evaluate.statistics import minimum_detectable_difference

        rows = rows_of(ws, data.dataset, data.split)
        clusters = [r.cluster for r in rows]
        metric = str(evaluations[rungs[0].name].figures["metric"])
        scored, months = [], {}
        for rung in rungs:
            figures = evaluations[rung.name].figures
            _, per_row = scores(ws, evaluations[rung.name]["evaluation"])
            months[rung.name] = monthly_of(
                ws,
                rung,
                usd_per_1k=figures["usd_per_1k"],
                ms=figures["p50_ms"],
                fit_seconds=fits[rung.name].figures["fit_seconds"],
            )
            scored.append(
                Scored(
                    name=rung.name,
                    rung=rung.technique.rung,
                    baseline=rung.technique.baseline,
                    per_row=per_row,
                    usd_per_1k=figures["usd_per_1k"],
                    ms_p50=figures["p50_ms"],
                    ms_p95=figures["p95_ms"],
                    tokens=figures["tokens"],
                    usd_per_month=months[rung.name].usd,
                )
            )
        found = compare(
            scored,
            metric=metric,
            clusters=clusters,
            margin=choose.margin,
            constraints=choose.constraints.limits(),
            usd_per_point=choose.costs.usd_per_point,
        )
        by_name = {r.name: r for r in rungs}
        candidates = [
            _candidate(row.to_dict(), by_name[row.name], fits[row.name].figures, evaluations[row.name].figures)
            | {"usd_per_month": months[row.name].usd, "month": asdict(months[row.name]), "mcnemar": row.mcnemar}
            for row in found.rows
        ]
        chosen = found.recommended or ""
        shown = chosen or found.best_baseline
        independent = len(set(clusters))
        figures = {
            "task": data.name,
            "kind": kind,
            "metric": found.metric,
            "n_test": len(rows),
            "independent": independent,
            "detectable": minimum_detectable_difference(independent, discordance(scored, metric, found.best_baseline)),
            "candidates": candidates,
            "recommended": chosen,
            "why": dict(found.why),
            "runner_up": found.runner_up or "",
            "baseline_stands": found.baseline_stands,
            "best_baseline": found.best_baseline,
            "pareto": list(found.pareto),
            "confusion": evaluations[chosen].figures.get("confusion") if chosen else None,
            "screened": list(bakeoff.screened),
            "ruled_out": list(bakeoff.ruled_out),
            "not_climbed": list(bakeoff.not_climbed),
            "search": dict(bakeoff.search),
            "requests_per_month": choose.costs.requests_per_month,
            "usd_spent": sum(float(evaluations[r.name].figures["usd"]) for r in rungs),
            "samples": _samples(ws, rows, evaluations, shown, found.best_baseline),
        }
        node = ctx.ledger.put(
            "comparison",
            {"task": data.name, "recommended": chosen, "metric": found.metric, "why": dict(found.why)},
            parents=[(f"evaluation {r.name}", evaluations[r.name]["evaluation"]) for r in rungs],
        )
        return Outcome({"comparison": node.id}, figures, f"recommended: {chosen or 'nothing'}")

    return runner.step(
        f"compare {data.name}{data.suffix}",
        work,
        stage="choose",
        version=2,
        params={
            "margin": choose.margin,
            "constraints": choose.constraints.limits(),
            "costs": choose.costs.model_dump(mode="json"),
            "seed": ws.config.seed,
            "rungs": [[r.name, r.technique.rung] for r in rungs],
            "left_out": [list(bakeoff.screened), list(bakeoff.ruled_out), list(bakeoff.not_climbed)],
        },
        inputs={"evaluations": [evaluations[r.name]["evaluation"] for r in rungs]},
    )


def discordance(scored: Sequence[Any], metric: str, baseline: str) -> float:
    """The share of rows on which the candidates that are no baseline differ from the best baseline, on average; at
    least that of one row."""
    base = next(one.per_row[metric] for one in scored if one.name == baseline)
    shares = [
        sum(a != b for a, b in zip(one.per_row[metric], base, strict=True)) / len(base)
        for one in scored
        if not one.baseline
    ]
    return max(sum(shares) / len(shares) if shares else 0.0, 1 / len(base))


def _candidate(
    row: dict[str, Any], rung: Rung, fit: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> dict[str, Any]:
    difference = row["difference"] or {}
    return {
        "name": row["name"],
        "technique": rung.technique.name,
        "rung": row["rung"],
        "baseline": row["baseline"],
        "value": row["quality"]["value"],
        "low": row["quality"]["low"],
        "high": row["quality"]["high"],
        "diff": difference.get("value"),
        "diff_low": difference.get("low"),
        "diff_high": difference.get("high"),
        "p": row["p"],
        "verdict": "" if row["verdict"] == "reference" else row["verdict"],
        "reason": "; ".join(row["reasons"]),
        "usd_per_1k": row["usd_per_1k"],
        "ms_p50": row["ms_p50"],
        "ms_p95": row["ms_p95"],
        "fit_seconds": fit.get("fit_seconds"),
        "metrics": {
            k: v
            for k, v in evaluation.items()
            if isinstance(v, (int, float)) and k not in ("p50_ms", "p95_ms", "usd_per_1k")
        },
    }


def _samples(
    ws: Workspace, rows: Sequence[Any], evaluations: Mapping[str, StepRecord], chosen: str, baseline: str
) -> list[dict[str, Any]]:
    """Rows where the recommended candidate is wrong first: what it still cannot do is what a reader should see."""
    shown = list(dict.fromkeys([chosen, baseline, *list(evaluations)[-2:]]))
    said = {name: predictions(ws, evaluations[name]["evaluation"]) for name in shown}
    _, per_row = scores(ws, evaluations[chosen]["evaluation"])
    metric = next(iter(per_row))
    order = sorted(range(len(rows)), key=lambda i: (per_row[metric][i], rows[i].id))
    picked = order[: SAMPLES * 2 // 3] + order[-SAMPLES // 3 :]
    return [
        {
            "input": rows[i].input,
            "target": rows[i].target or "(no answer)",
            "outputs": {
                n: said[n][i].output or ("(abstained)" if said[n][i].abstained else said[n][i].error) for n in shown
            },
        }
        for i in dict.fromkeys(picked)
    ]


def forgetting_step(
    ws: Workspace, runner: Runner, data: TaskData, candidate: str, name: str, base: str, corpus: str
) -> StepRecord:
    """How much worse the tuned model reads the project's own text than its base did: bits per byte, with an
    interval."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.forgetting import forgetting
        from bucle.models.local import LocalModel

        texts = [d.text[:4000] for d in read_documents(ws, corpus)] if corpus else []
        if len(texts) < 2:
            texts = [r.input for r in rows_of(ws, data.dataset, data.split)]
        texts = texts[:FORGETTING_DOCUMENTS]
        ctx.report(0, 2, "base")
        before = LocalModel(model_folder(ws, base)).bits_per_byte(texts)
        ctx.report(1, 2, "tuned")
        predictor = open_candidate(ws, candidate)
        after = predictor.model.bits_per_byte(texts)  # type: ignore[attr-defined]
        found = forgetting(before, after, seed=ws.config.seed)
        return Outcome(
            {}, {"task": data.name, "candidate": name, **found.model_dump()}, f"{found.value:+.3f} bits per byte"
        )

    return runner.step(
        f"forgetting {data.name} {name}{data.suffix}",
        work,
        stage="evaluate",
        params={"seed": ws.config.seed},
        inputs={"candidate": candidate, "base": base, "corpus": corpus},
    )


def gate_step(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    evaluation: StepRecord,
    *,
    baseline: StepRecord,
    forgetting: StepRecord | None,
) -> StepRecord:
    """The team's own conditions, each checked against what was measured. The step finishes whether or not they hold.

    Production is what the alias points to when the gate is first checked, judged by its held-out sibling on the same
    rows; it is written into the node and is no part of the key, so that a finished gate stays finished when
    production moves on.
    """
    gates = ws.config.tasks[data.name].gates

    def work(ctx: StepContext) -> Outcome:
        from bucle.core.records import Interval
        from bucle.evaluate.gate import GateFacts, Reference, check_gates

        rows = {r.id: r for r in rows_of(ws, data.dataset, data.split)}
        ids, per_row = scores(ws, evaluation["evaluation"])
        lost = (
            Interval.model_validate({k: forgetting.figures[k] for k in ("value", "low", "high", "n", "level")})
            if forgetting
            else None
        )
        candidate = next(e.parent for e in ws.ledger.parents(evaluation["evaluation"]) if e.role == "candidate")
        before = production_sibling(ws, data)
        production = (
            Reference("production", *_measure(ws, data, before, [rows[i] for i in ids]), same=before == candidate)
            if before
            else None
        )
        result = check_gates(
            list(gates),
            GateFacts(
                rows=len(ids),
                metrics=_numbers(evaluation.figures) | {"forgetting": lost.value if lost else 0.0},
                per_row=per_row,
                intervals={"forgetting": lost} if lost else {},
                production=production,
                seed=ws.config.seed,
                clusters=[rows[i].cluster for i in ids],
                baseline=Reference(
                    "baseline",
                    _numbers(baseline.figures),
                    scores(ws, baseline["evaluation"])[1],
                    same=baseline["evaluation"] == evaluation["evaluation"],
                ),
            ),
        )
        name = Candidate.model_validate(ws.ledger.get(candidate).attrs).name
        figures = {"task": data.name, "release": f"{data.name}: {name}{data.suffix}", **result.to_dict()}
        parents = [("evaluation", evaluation["evaluation"]), ("baseline", baseline["evaluation"])]
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
        inputs={"evaluation": evaluation["evaluation"], "baseline": baseline["evaluation"]},
        params={"gates": list(gates), "seed": ws.config.seed, "forgetting": forgetting.key if forgetting else ""},
    )


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


def _measure(
    ws: Workspace, data: TaskData, candidate: str, rows: Sequence[Example]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    from bucle.evaluate.scoring import score

    with remembered_replies(ws):
        said = open_candidate(ws, candidate).predict([r.input for r in rows])
        found = score(scoring_of(ws, data), rows, said)
    return _numbers(found.figures), found.per_row


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in figures.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
