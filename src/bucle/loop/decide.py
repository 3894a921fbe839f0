"""The comparison that recommends: candidates on the same held-out rows, what it would take to change the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bucle.choose import Rung
from bucle.choose.explain import flips
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.bakeoff import Bakeoff
from bucle.loop.candidates import TaskData, predictions, rows_of, scores
from bucle.loop.costs import cost_rows, monthly_of
from bucle.loop.workspace import Workspace

__all__ = ["compare_step"]

SAMPLES = 12


def compare_step(ws: Workspace, runner: Runner, data: TaskData, bakeoff: Bakeoff) -> StepRecord:
    """All candidates still live on the same held-out rows: intervals, paired differences, the one to take, and what
    became of the others."""
    kind = ws.config.tasks[data.name].kind
    choose, rungs, fits, evaluations = ws.config.choose, bakeoff.rungs, bakeoff.fits, bakeoff.evaluations

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.compare import Scored, compare
        from bucle.evaluate.slices import find_slices
        from bucle.loop.report.side_by_side import slices_part

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
                usd_per_1k=figures["usd_per_1k"] or 0.0,
                ms=figures["p50_ms"],
                fit_seconds=fits[rung.name].figures["fit_seconds"],
            )
            scored.append(
                Scored(
                    name=rung.name,
                    rung=rung.technique.rung,
                    baseline=rung.technique.baseline,
                    per_row=per_row,
                    usd_per_1k=figures["usd_per_1k"] or 0.0,
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
            | _unpriced(evaluations[row.name].figures)
            | {"looked_at_before": _looked(ws, fits[row.name]["candidate"], [r.id for r in rows])}
            for row in found.rows
        ]
        chosen = found.recommended or ""
        shown = chosen or found.best_baseline
        figures = {
            "task": data.name,
            "kind": kind,
            "metric": found.metric,
            "n_test": len(rows),
            "detectable": _detectable(scored, metric, found, clusters),
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
            "flips": flips(
                found,
                scored,
                clusters=clusters,
                constraints=choose.constraints.limits(),
                usd_per_point=choose.costs.usd_per_point,
                requests_per_month=choose.costs.requests_per_month,
            ),
            "slices": slices_part(find_slices(rows, _per_row(scored, shown, metric), clusters=clusters), shown),
            "costs": cost_rows(ws, rungs, evaluations, months),
            "spent": {
                "usd": bakeoff.spent.get("usd", 0.0) + sum(float(evaluations[r.name].figures["usd"]) for r in rungs),
                "canary_usd": bakeoff.spent.get("canary_usd", 0.0),
                "judge_usd": sum(float(evaluations[r.name].figures["judge_usage"]["usd"]) for r in rungs),
            },
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
        version=5,
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


def _per_row(scored: Sequence[Any], name: str, metric: str) -> Sequence[float]:
    return next(one.per_row[metric] for one in scored if one.name == name)


def _unpriced(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"usd_per_1k": None, "usd_per_month": None, "priced": False} if figures["usd_per_1k"] is None else {}


def _looked(ws: Workspace, candidate: str, rows: Sequence[str]) -> dict[str, Any] | None:
    """Whether these very rows confirmed the candidate's prompt in a search (`bucle prompt improve`)."""
    from bucle.loop.improve_looks import looked_at_before

    prompt = next((e.parent for e in ws.ledger.parents(candidate) if e.role == "prompt"), "")
    return looked_at_before(ws, prompt, rows)


def _detectable(
    scored: Sequence[Any], metric: str, found: Any, clusters: Sequence[str]
) -> dict[str, Any] | None:
    """The smallest difference that these rows show four times in five, for two candidates that disagree as often as the
    two best. None for graded scores, where disagreeing is no share of rows, and where a difference was shown."""
    from bucle.choose.explain import detectable
    from bucle.evaluate.statistics import design_effect

    scores = {one.name: one.per_row[metric] for one in scored}
    if any(value not in (0.0, 1.0) for values in scores.values() for value in values):
        return None
    best = sorted(found.rows, key=lambda row: -row.quality.value)[:2]
    one = scores[best[0].name]
    effect = max(design_effect(one, clusters), 1.0) if len(set(clusters)) < len(one) else 1.0
    share = sum(a != b for a, b in zip(one, scores[best[-1].name], strict=True)) / len(one)
    told = detectable(len(one), discordance=share, effect=effect) if share else detectable(len(one), effect=effect)
    shown = any(row.verdict in ("beats", "loses") for row in found.rows)
    return None if told["key"] == "detectable_none" and shown else told


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
