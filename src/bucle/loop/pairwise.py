"""Two candidates of the latest comparison before a judge: which of two answers to each held-out row is better."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable, NotFound
from bucle.core.records import Example, Prediction, TaskKind, Usage
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import predictions, scores
from bucle.loop.judging import changed_since, latest_agreement, open_judge
from bucle.loop.model_steps import fingerprint, model_step
from bucle.loop.opening import remembered_replies
from bucle.loop.story import latest_records
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.evaluate.judge import Preference

__all__ = ["pairwise"]

MOST_FAILED = 0.1
"""The share of the pairs it was asked that a judge may leave without a verdict, as in scoring."""
EXAMPLES = 2
"""Shown of each kind: won, lost, and decided by the order."""
MOST_TEXT = 2_000


def pairwise(ws: Workspace, task: str, a: str, b: str, judge: str, runner: Runner) -> dict[str, Any]:
    """What `judge` prefers of the answers of candidates `a` and `b` to the held-out rows of the task's latest
    comparison.

    `{task, a, b, judge, model, rows, wins, ties, losses, unjudged, asked, same, settled, win_rate, bias, usage,
    price_known, examples, node, reused, kappa, min_kappa}`: `win_rate` of `a`, a tie for half, clustered by source;
    `asked` pairs were shown, `same` answers are a tie unasked, `settled` rows had no answer on a side (`_decided`).
    `bias` is `PairBias` over what was asked; `usage` the judge's own; `kappa` its agreement with people, None where it
    was never measured. Raises NotFound, ConfigError and BadInput for what does not exist or cannot be compared, and
    ModelUnavailable where the judge does not answer or gives too few verdicts.
    """
    task = task or next(iter(ws.config.tasks), "")
    if task not in ws.config.tasks:
        raise NotFound(f"There is no task `{task[:80]}`.", _nearest(task, ws.config.tasks))
    if judge not in ws.config.judges:
        raise ConfigError(f"There is no judge `{judge[:80]}`.",
                          _nearest(judge, ws.config.judges) if ws.config.judges else "Describe it in `judges:`.")
    if ws.config.tasks[task].kind == "retrieve":
        raise BadInput(f"`{task}` retrieves documents, which are no answers to prefer.", "bucle choose compares them")
    records = [r for r in latest_records(ws.ledger) if r.name.startswith("compare ") and r.figures["task"] == task]
    if not records:
        raise NotFound(f"Nothing has been compared for `{task}` yet.", "bucle choose")
    evaluations = {e.role.removeprefix("evaluation "): e.parent for e in ws.ledger.parents(records[-1]["comparison"])
                   if e.role.startswith("evaluation ")}
    for name in (a, b):
        if name not in evaluations:
            raise NotFound(f"The latest comparison of `{task}` has no candidate `{name[:80]}`.",
                           _nearest(name, evaluations))
    if a == b:
        raise BadInput(f"`{a}` cannot be compared with itself.", _nearest("", [n for n in evaluations if n != a]))
    record = _step(ws, runner, task, (a, evaluations[a]), (b, evaluations[b]), judge)
    settings, measured = ws.config.judges[judge], latest_agreement(ws, judge)
    return {**record.figures, "node": record["pairwise"], "reused": record.cached, "min_kappa": settings.min_kappa,
            "kappa": measured["kappa"] if measured else None}


def _step(ws: Workspace, runner: Runner, task: str, a: tuple[str, str], b: tuple[str, str], name: str) -> StepRecord:
    """The step; `a` and `b` are (candidate's name, its evaluation)."""
    settings = ws.config.judges[name]
    config = ws.config.models[settings.model]
    if config.kind == "encoder":
        open_judge(ws, name, "")  # says so
    model = _trained(ws, name, settings.model) if config.kind == "pretrain" else model_step(
        ws, runner, settings.model, "", {})["model"]
    made = model if config.kind == "pretrain" else fingerprint(config)
    epoch, changed = changed_since(ws, settings.model)

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.judge import pair_bias, win_rate
        from bucle.models.catalogue import price_known

        examples = _rows(ws, a[1], b[1])
        one, other = predictions(ws, a[1]), predictions(ws, b[1])
        decided = [_decided(ws.config.tasks[task].kind, *row) for row in zip(examples, one, other, strict=True)]
        places = [place for place, value in enumerate(decided) if value is None]
        firsts, seconds = [one[p].output for p in places], [other[p].output for p in places]
        asked: list[Preference] = []
        if places:
            with remembered_replies(ws), contextlib.ExitStack() as stack:
                judge = open_judge(ws, name, model)
                stack.callback(getattr(judge.model, "close", lambda: None))
                judge.probe()
                asked = judge.prefer([examples[p].input for p in places], firsts, seconds, ctx.report)
        _check(asked, name)
        said = _all(decided, places, asked)
        clusters = [row.cluster for row in examples]
        rate = win_rate(said, clusters)
        count = {value: sum(p.outcome == value for p in said) for value in (1.0, 0.5, 0.0, None)}
        bias = pair_bias(asked, firsts, seconds)
        attrs = {
            "task": task, "a": a[0], "b": b[0], "judge": name, "model": settings.model, "rubric": settings.rubric,
            "fingerprint": made, "rows": len(said), "wins": count[1.0], "ties": count[0.5], "losses": count[0.0],
            "unjudged": count[None], "win_rate": rate.model_dump(),
        }
        same = sum(_answered(x) and _answered(y) and x.output == y.output for x, y in zip(one, other, strict=True))
        figures = attrs | {
            "asked": len(places), "same": same, "settled": len(said) - len(places) - same,
            "bias": {"swapped": bias.swapped, "first": bias.first, "longer": bias.longer},
            "usage": _sum(asked), "price_known": price_known(settings.model, config, ws.config.catalogue),
            "examples": _examples(examples, one, other, said, set(places)),
        }
        lines = [{"id": row.id, "outcome": p.outcome, "agreed": p.agreed, "orders": p.orders, "reason": p.reason,
                  "error": p.error} for row, p in zip(examples, said, strict=True)]
        node = ctx.ledger.put(
            "pairwise", attrs, parents=[("a", a[1]), ("b", b[1]), ("model", model)],
            blobs={"pairs.jsonl": "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode()})
        note = f"{a[0]} wins {rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] on {rate.n} rows"
        return Outcome({"pairwise": node.id}, figures, note)

    return runner.step(
        f"pairwise {task} {a[0]} {b[0]} {name}",
        work,
        stage="evaluate",
        params={"judge": settings.model_dump(mode="json", include={"model", "rubric"}), "fingerprint": made,
                "seed": ws.config.seed, "canary": [epoch, bool(changed)]},
        inputs={"a": a[1], "b": b[1], "model": model},
    )


def _decided(kind: TaskKind, row: Example, one: Prediction, other: Prediction) -> float | None:
    """The outcome of a row that the judge need not see, as scoring has it: only answers are shown to a judge. A
    question without an answer is won by who abstains; otherwise an answer wins over an abstention or an error; two
    answers that are the same, or none at all, are a tie. None where both answered, each in its own way."""
    from bucle.evaluate.metrics.rows import settled

    x, y = settled(kind, row, one), settled(kind, row, other)
    if x is None or y is None:
        x, y = float(_answered(one)), float(_answered(other))
        if x and y and one.output != other.output:
            return None
    return 0.5 if x == y else float(x > y)


def _answered(said: Prediction) -> bool:
    return not said.abstained and not said.error


def _rows(ws: Workspace, one: str, other: str) -> list[Example]:
    """The held-out rows that both evaluations are of."""
    ids, _ = scores(ws, one)
    if ids != scores(ws, other)[0]:
        raise BadInput("The two candidates were measured on different rows.", "bucle choose")
    candidate = next(e.parent for e in ws.ledger.parents(one) if e.role == "candidate")
    dataset = next(e.parent for e in ws.ledger.parents(candidate) if e.role == "dataset")
    rows = {row.id: row for row in ws.examples(dataset)}
    return [rows[i] for i in ids]


def _all(decided: Sequence[float | None], places: Sequence[int], asked: Sequence[Preference]) -> list[Preference]:
    """A preference for every row: the judge's, or what needed none."""
    from bucle.evaluate.judge import Preference

    by = dict(zip(places, asked, strict=True))
    return [by[place] if place in by else Preference(value, True, (), "", Usage())
            for place, value in enumerate(decided)]


def _check(asked: Sequence[Preference], name: str) -> None:
    failed = [p for p in asked if p.outcome is None]
    if len(failed) > MOST_FAILED * len(asked):
        raise ModelUnavailable(
            f"The judge {name} gave no verdict on {len(failed)} of {len(asked)} pairs: {failed[0].error}",
            f"Try again (what it said is remembered), or name another model in judges.{name}.model.")


def _examples(rows: Sequence[Example], one: Sequence[Prediction], other: Sequence[Prediction],
              said: Sequence[Preference], asked: set[int]) -> list[dict[str, Any]]:
    """The first few that were won, that were lost, and that the order decided."""
    found = []
    for kind in ("won", "lost", "order"):
        of = [p for p in sorted(asked) if _kind(said[p]) == kind]
        found += [{"kind": kind, "input": rows[p].input[:MOST_TEXT], "a": one[p].output[:MOST_TEXT],
                   "b": other[p].output[:MOST_TEXT], "reason": said[p].reason} for p in of[:EXAMPLES]]
    return found


def _kind(said: Preference) -> str:
    if said.outcome is None:
        return ""
    return "order" if not said.agreed else {1.0: "won", 0.0: "lost"}.get(said.outcome, "")


def _sum(asked: Sequence[Preference]) -> Mapping[str, Any]:
    return Usage(tokens_in=sum(p.usage.tokens_in for p in asked), tokens_out=sum(p.usage.tokens_out for p in asked),
                 usd=sum(p.usage.usd for p in asked)).model_dump(include={"tokens_in", "tokens_out", "usd"})


def _trained(ws: Workspace, name: str, model: str) -> str:
    found = [n for n in ws.ledger.nodes("base_model") if n.attrs.get("name") == model]
    if not found:
        raise BadInput(f"The judge {name} is `{model}`, which has not been trained yet.", "bucle run --until models")
    return found[-1].id


def _nearest(wanted: str, names: Iterable[str]) -> str:
    known = list(names)
    near = get_close_matches(wanted[:80], known, 1)
    return f"Do you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
