"""Screening: a look at a rung on a few rows of the search, and the contest that drops what cannot win any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.choose import Rung
from bucle.core.records import Prediction
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import TaskData, latency, predict_kept, rows_of
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.pricing import is_remote, prices
from bucle.loop.scoring import scoring_key, scoring_of
from bucle.loop.workspace import Workspace

__all__ = ["LOOK", "look_step", "screen_step"]

LOOK = 40
"""Rows of the search that a rung is looked at on before the next one is thought of."""
POPULATION = 10**9
"""Of requests that the search's rows are a sample of: what screening proves, it proves of them."""
MOST_MARGIN = 0.99


def look_step(
    ws: Workspace, runner: Runner, data: TaskData, rung: Rung, candidate: str, *, rows: int
) -> StepRecord:
    """A rung's scores, latency and price on the first rows of the search, in the contest's order."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.scoring import score

        search = rows_of(ws, data.dataset, data.split, "validation")
        some = [search[i] for i in _order(ws, len(search))[:rows]]
        scoring, predictor = scoring_of(ws, data), open_candidate(ws, candidate)
        inputs = [r.input for r in some]
        with remembered_replies(ws):
            said = predict_kept(predictor, inputs, ctx)
            values = score(scoring, some, said).per_row[scoring.primary]
        usd = sum(p.usage.usd for p in said)
        figures = {
            "mean": sum(values) / len(values),
            "scores": values,
            "usd": usd,
            "usd_per_1k": 1000 * usd / len(values),
            **latency(predictor, inputs, said, remote=is_remote(ws, candidate)),
        }
        return Outcome({}, figures, f"{scoring.primary} {figures['mean']:.3f} on {len(some)} rows")

    return runner.step(
        f"look {data.name} {rung.name}{data.suffix}",
        work,
        stage="choose",
        version=2,
        params={**scoring_key(ws, data), **prices(ws, candidate), "rows": rows, "seed": ws.config.seed},
        inputs={"candidate": candidate, "split": data.split, "index": data.index},
    )


def screen_step(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    rungs: Sequence[Rung],
    fits: Mapping[str, StepRecord],
    looks: Mapping[str, StepRecord],
    *,
    rows: int,
    months: Mapping[str, float],
) -> StepRecord:
    """The contest among `rungs`, cheapest first, over `rows` rows of the search: who is live when it ends, who is out,
    after how many rows, and why. A proof is of all requests like these rows, so rows that run out leave both of two
    near ones live. With a price of quality nobody is dropped for a loss that the dearest month's saving would buy."""
    choose, names = ws.config.choose, [rung.name for rung in rungs]
    price, span = choose.costs.usd_per_point, [months[name] for name in names]
    saving = (max(span) - min(span)) / price * 0.01 if price else 0.0
    margin = min(max(choose.margin, saving), MOST_MARGIN)

    def work(ctx: StepContext) -> Outcome:
        from bucle.choose.contest import Contest
        from bucle.evaluate.scoring import score
        from bucle.evaluate.statistics import interval

        search = rows_of(ws, data.dataset, data.split, "validation")
        order = _order(ws, len(search))[:rows]
        scoring = scoring_of(ws, data)
        samples = max(choose.budget.samples, len(names)) if choose.budget.samples else None
        contest = Contest(
            names, rows, margin=margin, budget=samples, batch=len(looks[names[0]].figures["scores"]),
            population=POPULATION, seed=ws.config.seed,
        )  # fmt: skip
        turn = {place: n for n, place in enumerate(contest.order)}
        seen: dict[str, dict[int, float]] = {name: {} for name in names}
        spent = 0.0

        def told(name: str, places: Sequence[int]) -> list[float]:
            """Scores of the rows that stand at these turns: of the look where it saw them, else asked now."""
            nonlocal spent
            looked = looks[name].figures["scores"]
            more = [place for place in places if turn[place] >= len(looked)]
            said: list[Prediction] = []
            some = [search[order[turn[place]]] for place in more]
            if more:
                predictor = open_candidate(ws, fits[name]["candidate"])
                kept = f"{names.index(name)}-{turn[more[0]]}"
                said = predict_kept(predictor, [r.input for r in some], ctx, name=kept)
            values = score(scoring, some, said).per_row[scoring.primary] if more else []
            spent += sum(p.usage.usd for p in said)
            fresh = dict(zip(more, values, strict=True))
            found = {place: looked[turn[place]] if turn[place] < len(looked) else fresh[place] for place in places}
            seen[name].update(found)
            return [found[place] for place in places]

        with remembered_replies(ws):
            while (ask := contest.ask()) is not None:
                contest.tell({name: told(name, ask.rows) for name in ask.candidates})
                standing = contest.standing()
                ctx.report(standing.rows, rows, f"{len(standing.live)} live")
        standing = contest.standing()

        def figures_of(name: str) -> dict[str, Any]:
            clusters = [search[order[turn[place]]].cluster for place in seen[name]]
            found = interval(list(seen[name].values()), clusters=clusters)
            return {"value": found.value, "low": found.low, "high": found.high, "rows": found.n}

        figures = {
            "task": data.name,
            "rows": rows,
            "samples": standing.samples,
            "full": len(names) * rows,
            "proven": standing.proven,
            "usd": spent,
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
        version=2,
        params={
            **scoring_key(ws, data),
            "margin": margin,
            "samples": choose.budget.samples,
            "rows": rows,
            "seed": ws.config.seed,
            "names": names,
        },
        inputs={
            "candidates": [fits[name]["candidate"] for name in names],
            "looks": [looks[name].key for name in names],
            "split": data.split,
            "index": data.index,
        },
    )


def _order(ws: Workspace, rows: int) -> tuple[int, ...]:
    """The order in which the search's rows are asked."""
    import numpy as np

    return tuple(int(i) for i in np.random.default_rng(ws.config.seed).permutation(rows))
