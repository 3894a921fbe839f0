"""A better prompt for a task: instructions and demonstrations searched within a budget, chosen on one side of the
split, confirmed once on another.

No row that chooses is ever shown as an example, and no test row is looked at before the one confirmation. Each round
tries a few pairs of instruction and demonstrations beside the best so far; those that cannot win any more are not asked
further (`choose.contest`, a halving over rows that looks at proofs first).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bucle.choose import Rung
from bucle.core.config import REMOTE, RemoteModel
from bucle.core.errors import BadInput, NotFound
from bucle.core.prompting import PromptSpec
from bucle.execute import Display, Outcome, Runner, StepContext, StepRecord, project_lock
from bucle.loop.budget import Budget, BudgetSpent
from bucle.loop.candidates import TaskData, roles_of, task_params
from bucle.loop.improve_looks import TEST_ROWS, confirmed_before
from bucle.loop.improve_rows import Sides, sides_of
from bucle.loop.improve_trials import Search
from bucle.loop.opening import remembered_replies
from bucle.loop.rungs import rungs_of
from bucle.loop.scoring import scoring_key
from bucle.loop.workspace import Workspace

__all__ = ["DEFAULT_TOKENS", "improve", "passed"]

DEFAULT_TOKENS = 500_000
"""The budget where none is given."""
ROUNDS_FORECAST = (2.5, 7.0)  # looks at every choosing row that a round takes: halved early, and none dropped
PROPOSAL_TOKENS = 4_000  # of one round's proposals, asked and answered
NONE = "none"
READERS = ("zero-shot", "few-shot", "chain-of-thought", "rag", "chain-of-thought-answer")
"""Techniques that tell the model what the task's own prompt says."""


@dataclass(frozen=True)
class Asked:
    """What a search was asked to do. `proposer` is a model's name; empty: no model proposes."""

    rung: Rung
    tokens: int | None
    usd: float | None
    rounds: int
    proposer: str
    seed: int


def improve(
    ws: Workspace,
    task: str,
    display: Display,
    *,
    model: str = "",
    technique: str = "few-shot",
    tokens: int | None = None,
    usd: float | None = None,
    rounds: int = 3,
    proposer: str = "",
    seed: int | None = None,
    alias: str = "",
    dry_run: bool = False,
    by: str = "bucle prompt improve",
) -> dict[str, Any]:
    """Search a better prompt for `task`.

    Returns `{task, technique, model, metric, rows, forecast, budget}`, and unless `dry_run` also `{spent, passed_by,
    trials, finished, leading, chosen, confirmed, helped, saved, why, earlier}`: `confirmed` is the paired difference to
    the prompt in force on the test rows, `earlier` how many confirmations looked at any of those rows before this one;
    `passed_by` what was spent beyond the budget; `finished` how many trials saw every row or were proven worse, and
    `leading` the unfinished one that lay before the best; `saved` the new version, only where the interval lies above
    0. Raises BadInput where the budget cannot pay for a search, ConfigError, NotFound.
    """
    if task not in ws.config.tasks:
        raise NotFound(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    if rounds < 1 or rounds > 50 or (tokens is not None and tokens < 1) or (usd is not None and not 0 < usd < 1e6):
        raise BadInput("A search takes 1 to 50 rounds and a budget above 0.", "bucle prompt improve --help")
    rung = _rung(ws, task, technique, model)
    if tokens is None and usd is None:
        tokens = DEFAULT_TOKENS
    _priced(ws, rung.base, usd)
    from bucle.loop.run import prepare

    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        data = prepare(ws, runner, until="data")[0][task]
        asked = Asked(rung, tokens, usd, rounds, _proposer(ws, rung, proposer, usd),
                      ws.config.seed if seed is None else seed)
        sides = sides_of(ws, data, asked.seed)
        plan = _plan(ws, data, asked, sides)
        if dry_run:
            return plan
        _enough(plan)
        display.say(_told(plan))
        data = prepare(ws, runner)[0][task]
        record = _search_step(ws, runner, data, asked, sides)
    return {**plan, **record.figures, **_saved(ws, record, alias, by), "node": record["prompt_search"],
            "reused": record.cached}


def _rung(ws: Workspace, task: str, technique: str, model: str) -> Rung:
    every = [r for r in rungs_of(ws, task, choose=ws.config.choose.model_copy(update={"candidates": "auto"}))
             if r.technique.name in READERS]
    named, _, slashed = technique.partition("/")
    found = [r for r in every if r.technique.name == named and (not (model or slashed) or r.base == (model or slashed))]
    if not found:
        able = ", ".join(r.name for r in every) or "none: add a model that writes under `models:`"
        raise BadInput(f"`{task}` has no prompting candidate `{'/'.join(filter(None, (technique, model)))}`.",
                       f"It has: {able}.")
    if len({r.base for r in found}) > 1:
        raise BadInput(f"Several models can answer `{task}`: {', '.join(r.base for r in found)}.",
                       f"Name one: --model {found[0].base}")
    return found[0]


def _priced(ws: Workspace, name: str, usd: float | None) -> None:
    from bucle.models.catalogue import price_known

    if usd is not None and not price_known(name, ws.config.models[name], ws.config.catalogue):
        raise BadInput(f"What {name} costs is not known, so a budget in dollars cannot be kept.",
                       f"Set models.{name}.usd_per_million_in and _out, or give --budget-tokens.")


def _proposer(ws: Workspace, rung: Rung, asked: str, usd: float | None) -> str:
    """The model that proposes: the one named, else the task's own where it can follow an instruction."""
    if asked == NONE:
        return ""
    if not asked:
        return rung.base if ws.config.models[rung.base].kind in {*REMOTE, "local"} else ""
    known = [name for name, one in ws.config.models.items() if one.kind in {*REMOTE, "local", "pretrain"}]
    if asked not in known:
        raise BadInput(f"No model `{asked}` can propose instructions.", f"Models that write: {', '.join(known)}.")
    _priced(ws, asked, usd)
    return asked


def _plan(ws: Workspace, data: TaskData, asked: Asked, sides: Sides) -> dict[str, Any]:
    """What the search would take, before anything is asked: `least` pays for the prompt in force, one round of trials
    and the confirmation, `full` for every round; each `{tokens, usd}` as [low, high]."""
    from bucle.loop.expected import expect_rung, seconds_before

    choose, test, rounds = len(sides.choose), len(sides.test), asked.rounds
    one = expect_rung(ws, data.name, asked.rung, sides.pool, 100, seconds_before(ws))
    remote = isinstance(ws.config.models[asked.rung.base], RemoteModel)
    least, most = ROUNDS_FORECAST

    def of(looks: tuple[float, float], proposals: int) -> dict[str, list[float]]:
        low, high = ((choose * (1 + look) + 2 * test + len(sides.look)) / 100 for look in looks)
        extra = proposals * PROPOSAL_TOKENS if asked.proposer else 0
        return {"tokens": [round(one.tokens[0] * low + extra / 2), round(one.tokens[1] * high + extra)],
                "usd": [one.usd[0] * low, one.usd[1] * high] if remote else [0.0, 0.0],
                "minutes": [one.minutes[0] * low, one.minutes[1] * high]}

    return {
        "task": data.name,
        "technique": asked.rung.technique.name,
        "model": asked.rung.base,
        "proposer": asked.proposer,
        "rounds": asked.rounds,
        "rows": {"demonstrations": len(sides.pool), "choose": choose, "from_train": sides.borrowed, "confirm": test},
        "forecast": {"least": of((1.0, 1.0), 1), "full": of((least * rounds, most * rounds), rounds)},
        "budget": {"tokens": asked.tokens, "usd": asked.usd},
    }


def _enough(plan: Mapping[str, Any]) -> None:
    """Raises BadInput for a budget below the low end of the least that a search takes."""
    for unit, flag in (("tokens", "--budget-tokens"), ("usd", "--budget-usd")):
        limit, least = plan["budget"][unit], plan["forecast"]["least"][unit]
        if limit is not None and limit < least[0]:
            say = f"{least[0]:,.0f} tokens" if unit == "tokens" else f"${least[0]:.4f}"
            need = f"{least[1]:.0f}" if unit == "tokens" else f"{least[1]:.4f}"
            raise BadInput(f"The least that a search takes here is about {say}, and the budget is {limit:,}.",
                           f"{flag} {need}, or fewer test and validation rows (tasks.{plan['task']}.split).")


def _told(plan: Mapping[str, Any]) -> str:
    full, rows = plan["forecast"]["full"], plan["rows"]
    limits = [f"{plan['budget']['tokens']:,} tokens" if plan["budget"]["tokens"] else "",
              f"${plan['budget']['usd']:g}" if plan["budget"]["usd"] else ""]
    return (f"Forecast: {full['tokens'][0]:,.0f} to {full['tokens'][1]:,.0f} tokens, ${full['usd'][0]:.2f} to "
            f"${full['usd'][1]:.2f}; stops before {' or '.join(filter(None, limits))}. "
            f"Chooses on {rows['choose']} rows, confirms on {rows['confirm']}.")


def _search_step(ws: Workspace, runner: Runner, data: TaskData, asked: Asked, sides: Sides) -> StepRecord:
    rung, t = asked.rung, asked.rung.technique
    given = None
    if ws.config.tasks[data.name].prompt:
        from bucle.loop.prompts import task_prompt

        given = task_prompt(ws, data.name)
    settings = dict(ws.config.choose.techniques.get(t.name, {}))
    params = {**task_params(ws, data.name, t), **({"prompt": given.spec} if given else {}), **rung.params, **settings}
    roles = roles_of(ws, data, rung) | ({"prompt": given.node} if given else {})
    rows = sorted(row.id for row in sides.test)

    def work(ctx: StepContext) -> Outcome:
        with remembered_replies(ws):
            search = Search(ws, ctx, data, rung, roles, params, sides, tokens=asked.tokens, usd=asked.usd,
                            proposer=asked.proposer, seed=asked.seed)
            try:
                search.baseline()
            except BudgetSpent:
                raise _too_small(search.budget, len(sides.choose)) from None
            search.rounds(asked.rounds)
            earlier = confirmed_before(ws, rows)
            figures: dict[str, Any] = {"task": data.name, "earlier": earlier}
            figures |= search.figures() | search.confirm(earlier)
        blobs = {"trials.json": json.dumps(figures["trials"], ensure_ascii=False).encode(),
                 TEST_ROWS: json.dumps(rows).encode()}
        attrs = {name: value for name, value in figures.items() if name != "trials"}
        parents = [(role, node) for role, node in roles.items() if node]
        node = ctx.ledger.put("prompt_search", {"technique": t.name, "model": rung.base, "seed": asked.seed,
                                                **attrs}, parents=parents, blobs=blobs)
        return Outcome({"prompt_search": node.id}, figures, figures["why"])

    return runner.step(
        f"improve {data.name} {rung.name}{data.suffix}",
        work,
        stage="customise",
        params={"params": params, "tokens": asked.tokens, "usd": asked.usd, "rounds": asked.rounds, "seed": asked.seed,
                "proposer": asked.proposer, "technique": [t.name, getattr(t, "version", 1)], **scoring_key(ws, data)},
        inputs={**roles, "proposer": data.models.get(asked.proposer, "")},
    )


def _too_small(budget: Budget, rows: int) -> BadInput:
    over = passed(budget.passed_by)
    begun = "The budget was passed by " + over + " before" if over else "The budget ends before"
    return BadInput(f"{begun} the prompt in force is measured on the {rows} choosing rows: {budget.tokens:,} tokens, "
                    f"${budget.usd:.4f} spent in {budget.calls} calls.",
                    "Raise --budget-tokens or --budget-usd; what was answered is remembered and not asked again.")


def passed(passed_by: Mapping[str, float]) -> str:
    """What was spent beyond a budget, for people; empty where it was kept."""
    return " and ".join(filter(None, [f"{passed_by['tokens']:,.0f} tokens" if passed_by["tokens"] else "",
                                      f"${passed_by['usd']:.4f}" if passed_by["usd"] else ""]))


def _saved(ws: Workspace, record: StepRecord, alias: str, by: str) -> dict[str, Any]:
    """The winner as a version of its prompt where it helped; an alias moves only where one was asked for."""
    if not record.figures["helped"]:
        return {"saved": None}
    import yaml

    from bucle.customise.prompt.store import keep, move, open_node, save, versions
    from bucle.loop.prompts import is_path, task_prompt

    task = ws.config.tasks[str(record.figures["task"])]
    spec = PromptSpec.model_validate(record.figures["chosen"]["spec"])
    text = yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), allow_unicode=True, sort_keys=False,
                          width=110)
    gap = record.figures["confirmed"]["difference"]
    kept = keep(ws.ledger, spec, text, by=by)
    if kept.id in versions(ws.ledger, spec.name):
        stored = open_node(ws.ledger, kept.id)
    else:
        if is_path(task.prompt) and (now := task_prompt(ws, str(record.figures["task"]))) is not None:
            before = open_node(ws.ledger, now.node)
            if not before.version:  # a file that was never saved: what is replaced can be told and brought back
                save(ws.ledger, before.spec, before.text, by=by, reason=f"{task.prompt}, before bucle prompt improve")
        stored = save(ws.ledger, spec, text, by=by, reason=f"{record.figures['metric']} {gap['value']:+.3f} "
                      f"[{gap['low']:+.3f}, {gap['high']:+.3f}] on {gap['n']} test rows ({record['prompt_search']})")
    moved = move(ws.ledger, stored, alias, by=by, reason=record["prompt_search"]) if alias else None
    return {"saved": {"name": spec.name, "version": stored.version, "node": stored.node, "title": stored.title,
                      "alias": moved["alias"] if moved else "",
                      "in_force": task.prompt in {spec.name, f"{spec.name}@{alias}" if alias else spec.name}}}
