"""The bake-off of one task: rule out before a token is spent, climb, screen on few rows, compare on rows that no search
ever saw.

Without a budget and without an exchange rate every candidate is fitted and scored on every held-out row: the whole
table. With either, the validation rows are the search's, and no candidate learns from them: each rung climbed is looked
at on the first of them, the contest drops what cannot win any more, and only what is left is scored on the test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.choose import Rung, ladder
from bucle.choose.climb import Climb, Decision, Expected
from bucle.core.records import Prediction
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.canary import check_before
from bucle.loop.candidates import (
    TaskData,
    fit_step,
    open_candidate,
    predict_kept,
    remembered_replies,
    rows_of,
    score_step,
)
from bucle.loop.costs import month_of
from bucle.loop.expected import Forecast, expect_rung
from bucle.loop.scoring import scoring_key, scoring_of
from bucle.loop.workspace import Workspace

__all__ = ["Bakeoff", "bake_off"]

LOOK = 40
"""Validation rows that a rung is looked at on before the next one is thought of."""


@dataclass(frozen=True)
class Bakeoff:
    """What a bake-off did. `rungs` were scored on the test rows; `screened` were fitted and dropped before that, with
    the figures of the rows they saw; `ruled_out` and `not_climbed` were never fitted."""

    rungs: Sequence[Rung]
    fits: Mapping[str, StepRecord]
    evaluations: Mapping[str, StepRecord]
    screened: Sequence[Mapping[str, Any]] = ()
    ruled_out: Sequence[Mapping[str, Any]] = ()
    not_climbed: Sequence[Mapping[str, Any]] = ()
    search: Mapping[str, Any] = field(default_factory=dict)


def bake_off(ws: Workspace, runner: Runner, data: TaskData) -> Bakeoff:
    """Every candidate of a task that may take part, fitted, and scored on the test rows where it is still live."""
    choose = ws.config.choose
    rungs = ladder(ws.config.tasks[data.name].kind, ws.config.models, choose, has_index=bool(data.index))
    train = rows_of(ws, data.dataset, data.split, "train")
    tests = len(rows_of(ws, data.dataset, data.split))
    # the seconds of earlier runs are no part of any decision, so that a rerun decides the same
    expected = {rung.name: expect_rung(ws, data.name, rung, train, tests, {}) for rung in rungs}
    longest = max((row.input for row in ws.examples(data.dataset)), key=len, default="")
    allowed, ruled_out = _rule_out(ws, rungs, expected, longest)
    check_before(ws, runner, data.models, [rung.base for rung in allowed])
    search = rows_of(ws, data.dataset, data.split, "validation")
    budget = choose.budget
    limited = choose.costs.usd_per_point is not None or any(
        limit is not None for limit in (budget.usd, budget.minutes, budget.samples)
    )
    if not limited or len(search) < 2:
        fits = {rung.name: fit_step(ws, runner, data, rung) for rung in allowed}
        return Bakeoff(allowed, fits, _score(ws, runner, data, allowed, fits), ruled_out=ruled_out)
    fits, looks, not_climbed = _climb(ws, runner, data, allowed, expected)
    climbed = [rung for rung in allowed if rung.name in fits]
    screen = _screen(ws, runner, data, climbed, fits, looks)
    live = [r for r in climbed if r.technique.baseline or r.name in screen.figures["live"]]
    return Bakeoff(
        live,
        fits,
        _score(ws, runner, data, live, fits),
        screened=[one for one in screen.figures["screened"] if one["name"] not in {r.name for r in live}],
        ruled_out=ruled_out,
        not_climbed=not_climbed,
        search={k: screen.figures[k] for k in ("rows", "samples", "full", "proven")},
    )


def _score(
    ws: Workspace, runner: Runner, data: TaskData, rungs: Sequence[Rung], fits: Mapping[str, StepRecord]
) -> dict[str, StepRecord]:
    return {rung.name: score_step(ws, runner, data, fits[rung.name]["candidate"], rung.name) for rung in rungs}


def _rule_out(
    ws: Workspace, rungs: Sequence[Rung], expected: Mapping[str, Forecast], longest: str
) -> tuple[list[Rung], list[dict[str, Any]]]:
    """Who keeps within the hard constraints as far as that is known before a token is spent, and who does not, why."""
    from bucle.loop.catalogue import reasons_against

    allowed, out = [], []
    for rung in rungs:
        reasons = reasons_against(ws, rung, expected[rung.name], longest=longest)
        if reasons:
            out.append({"name": rung.name, "technique": rung.technique.name, "reasons": reasons})
        else:
            allowed.append(rung)
    return allowed, out


def _climb(
    ws: Workspace, runner: Runner, data: TaskData, rungs: Sequence[Rung], expected: Mapping[str, Forecast]
) -> tuple[dict[str, StepRecord], dict[str, StepRecord], list[dict[str, Any]]]:
    """Rungs fitted and looked at, one after the other, as long as the next is expected to pay."""
    climb = Climb(ws.config.choose.costs, ws.config.choose.budget)
    fits: dict[str, StepRecord] = {}
    looks: dict[str, StepRecord] = {}
    left_out: list[Decision] = []
    for rung in rungs:
        baseline, forecast = rung.technique.baseline, expected[rung.name]
        usd_month = month_of(ws, rung, usd_per_1k=_middle(forecast.usd_per_1k))
        if not baseline:
            decision = climb.decide(
                rung.name, Expected(_middle(forecast.usd), _middle(forecast.minutes), usd_month)
            )
            if not decision.climbed:
                left_out.append(decision)
                continue
        fits[rung.name] = fit_step(ws, runner, data, rung, searched=True)
        looks[rung.name] = _look(ws, runner, data, rung, fits[rung.name]["candidate"])
        figures = looks[rung.name].figures
        climb.saw(
            _cautious(figures["scores"]),
            usd_month=month_of(ws, rung, usd_per_1k=figures["usd_per_1k"], ms=figures["ms"]),
            usd=figures["usd"],
            minutes=(fits[rung.name].seconds + looks[rung.name].seconds) / 60,
            free=baseline,
        )
    return fits, looks, [
        {"name": one.name, "why": {"key": one.key, "figures": dict(one.figures)}} for one in left_out
    ]


def _middle(ends: tuple[float, float]) -> float:
    """Of a range whose ends are far apart: the geometric mean."""
    return (max(ends[0], 1e-9) * ends[1]) ** 0.5 if ends[1] > 0 else 0.0


def _cautious(scores: Sequence[float]) -> float:
    """Laplace's rule of succession: forty right answers out of forty leave something to gain."""
    return (sum(scores) + 1) / (len(scores) + 2)


def _order(ws: Workspace, rows: int) -> tuple[int, ...]:
    from bucle.choose.contest import Contest

    return Contest(["any"], rows, seed=ws.config.seed).order


def _look(ws: Workspace, runner: Runner, data: TaskData, rung: Rung, candidate: str) -> StepRecord:
    """A rung's predictions and scores on the first rows of the search."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.scoring import score

        search = rows_of(ws, data.dataset, data.split, "validation")
        rows = [search[i] for i in _order(ws, len(search))[:LOOK]]
        scoring = scoring_of(ws, data)
        with remembered_replies(ws):
            said = predict_kept(open_candidate(ws, candidate), [r.input for r in rows], ctx)
            values = score(scoring, rows, said).per_row[scoring.primary]
        usd = sum(p.usage.usd for p in said)
        figures = {
            "mean": sum(values) / len(values),
            "scores": values,
            "usd": usd,
            "usd_per_1k": 1000 * usd / len(values),
            "ms": sum(p.ms for p in said) / len(said),
        }
        return Outcome({}, figures, f"{scoring.primary} {figures['mean']:.3f} on {len(rows)} rows")

    return runner.step(
        f"look {data.name} {rung.name}{data.suffix}",
        work,
        stage="choose",
        params={**scoring_key(ws, data), "rows": LOOK, "seed": ws.config.seed},
        inputs={"candidate": candidate, "split": data.split, "index": data.index},
    )


def _screen(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    rungs: Sequence[Rung],
    fits: Mapping[str, StepRecord],
    looks: Mapping[str, StepRecord],
) -> StepRecord:
    """The contest over the validation rows: who is live when it ends, who is out, after how many rows, and why."""
    choose, names = ws.config.choose, [rung.name for rung in rungs]

    def work(ctx: StepContext) -> Outcome:
        from bucle.choose.contest import Contest
        from bucle.evaluate.scoring import score
        from bucle.evaluate.statistics import interval

        search = rows_of(ws, data.dataset, data.split, "validation")
        scoring = scoring_of(ws, data)
        budget = max(choose.budget.samples, len(names)) if choose.budget.samples else None
        contest = Contest(names, len(search), margin=choose.margin, budget=budget, batch=LOOK, seed=ws.config.seed)
        place = {row: n for n, row in enumerate(contest.order)}
        seen: dict[str, dict[int, float]] = {name: {} for name in names}

        def told(name: str, rows: Sequence[int]) -> list[float]:
            looked = looks[name].figures["scores"]
            more = [row for row in rows if place[row] >= len(looked)]
            said: list[Prediction] = []
            if more:
                predictor = open_candidate(ws, fits[name]["candidate"])
                kept = f"{names.index(name)}-{place[more[0]]}"
                said = predict_kept(predictor, [search[r].input for r in more], ctx, name=kept)
            values = score(scoring, [search[r] for r in more], said).per_row[scoring.primary] if more else []
            fresh = dict(zip(more, values, strict=True))
            found = {row: looked[place[row]] if place[row] < len(looked) else fresh[row] for row in rows}
            seen[name].update(found)
            return [found[row] for row in rows]

        with remembered_replies(ws):
            while (ask := contest.ask()) is not None:
                contest.tell({name: told(name, ask.rows) for name in ask.candidates})
                standing = contest.standing()
                ctx.report(standing.rows, len(search), f"{len(standing.live)} live")
        standing = contest.standing()

        def figures_of(name: str) -> dict[str, Any]:
            found = interval(list(seen[name].values()), clusters=[search[r].cluster for r in seen[name]])
            return {"value": found.value, "low": found.low, "high": found.high, "rows": found.n}

        figures = {
            "task": data.name,
            "rows": len(search),
            "samples": standing.samples,
            "full": len(names) * len(search),
            "proven": standing.proven,
            "live": list(standing.live),
            "screened": [
                {"name": out.name, "why": out.why, "by": out.by, **figures_of(out.name)} for out in standing.out
            ],
        }
        return Outcome({}, figures, f"{len(standing.live)} of {len(names)} live after {standing.samples} scores")

    return runner.step(
        f"screen {data.name}{data.suffix}",
        work,
        stage="choose",
        params={
            **scoring_key(ws, data),
            "margin": choose.margin,
            "samples": choose.budget.samples,
            "seed": ws.config.seed,
            "names": names,
        },
        inputs={"candidates": [fits[name]["candidate"] for name in names], "split": data.split, "index": data.index},
    )
