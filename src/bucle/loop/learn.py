"""Learning from feedback: dataset version 2, the same recipe fitted on it, and what that gained on later traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Node, Trace
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.feedback import build_rows
from bucle.loop.candidates import TaskData
from bucle.loop.opening import open_candidate
from bucle.loop.row_step import put_dataset
from bucle.loop.watch import abusers, alerts_now, replayed
from bucle.loop.workspace import Workspace

__all__ = ["dataset_step", "gain_step", "live_dataset_step"]


def dataset_step(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    watched: StepRecord,
    *,
    release: str,
    start: datetime,
    until_day: float,
) -> StepRecord:
    """The next version of the task's rows: what it had, and what people corrected or confirmed of `release`'s answers
    up to `until_day`."""

    def work(ctx: StepContext) -> Outcome:
        traces = replayed(ws, [release], since=start, until=start + timedelta(days=until_day), route=data.name)
        return _next_version(ws, ctx, data, traces, abusers(watched.figures["alerts"]))

    return runner.step(
        f"dataset {data.name} v{data.version + 1}",
        work,
        stage="feedback",
        inputs={"dataset": data.dataset, "watched": watched.key, "release": release},
        params={"until": until_day},
    )


def live_dataset_step(ws: Workspace, runner: Runner, data: TaskData) -> StepRecord:
    """The next version of the task's rows from all feedback on all of its stored traces. Raises BadInput where that
    adds no row."""
    every = ws.traces.traces()
    traces = [t for t in every if t.route == data.name]
    ids = {t.id for t in traces}
    heard = [f.id for f in ws.traces.feedback() if f.trace in ids]
    flagged = abusers([a.model_dump(mode="json") for a in alerts_now(ws, every)])

    def work(ctx: StepContext) -> Outcome:
        outcome = _next_version(ws, ctx, data, traces, flagged)
        if not outcome.figures["dataset"]["added"]:
            raise BadInput(
                f"Feedback adds no new row to `{data.name}` ({len(heard)} verdicts).",
                f"bucle feedback preview {data.name} says what was left out and why.",
            )
        return outcome

    return runner.step(
        f"dataset {data.name} v{data.version + 1}",
        work,
        stage="feedback",
        inputs={"dataset": data.dataset, "feedback": heard},
        params={"flagged": sorted(flagged)},
    )


def _next_version(
    ws: Workspace, ctx: StepContext, data: TaskData, traces: Sequence[Trace], flagged: set[str]
) -> Outcome:
    old = ws.examples(data.dataset)
    ids = {t.id for t in traces}
    feedback = [f for f in ws.traces.feedback() if f.trace in ids]
    labels, known = {str(r.target) for r in old}, {r.input for r in old}
    built = build_rows(traces, feedback, labels=labels, known=known, exclude_users=flagged)
    rows = [*old, *built.rows]
    heard = ctx.ledger.put(
        "feedback",
        {"task": data.name, "ratings": built.ratings, "corrections": built.corrections},
        blobs={"feedback.jsonl": "".join(f.model_dump_json() + "\n" for f in feedback).encode()},
    )
    parents = [("previous", data.dataset), ("feedback", heard.id)]
    kind = ws.config.tasks[data.name].kind
    dataset = put_dataset(ctx, data.name, kind, data.version + 1, rows, len(rows), parents, {"file": "feedback"})
    before, after = (Counter(str(r.target) for r in some) for some in (old, rows))
    figures = {
        "ratings": built.ratings,
        "corrections": built.corrections,
        "new_labels": list(built.new_labels),
        "left_out": built.left_out,
        "dataset": {
            "version_1_rows": len(old),
            "version_2_rows": len(rows),
            "added": len(built.rows),
            "relabelled": 0,
            "by_label": {label: {"v1": before[label], "v2": n} for label, n in after.most_common()},
        },
    }
    note = f"{len(built.rows)} rows from {built.ratings} ratings; new labels: {', '.join(built.new_labels) or 'none'}"
    return Outcome({"dataset": dataset, "feedback": heard.id}, figures, note)


def gain_step(
    ws: Workspace,
    runner: Runner,
    task: str,
    first: Node,
    second: Node,
    *,
    start: datetime,
    from_day: float,
    until_day: float,
    old_labels: Sequence[str],
    inputs: dict[str, str],
) -> StepRecord:
    """Version 2 against version 1 on reviewed traffic that came after everything version 2 learned from.

    Version 2's answers are those it served; version 1 is asked the same messages now. The truth is the reviewers'.
    """

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.statistics import interval, paired_difference

        traces = ws.traces.traces(
            route=task,
            release=second.id,
            since=(start + timedelta(days=from_day)).timestamp(),
            before=(start + timedelta(days=until_day)).timestamp(),
        )
        truth = _truth(ws, traces)
        asked = [t for t in traces if t.id in truth]
        if not asked:
            return Outcome({}, {"task": task, "n": 0, "metric": "accuracy"}, "no reviewed traffic")
        old = open_candidate(ws, first.attrs["tasks"][task]).predict([t.input for t in asked])
        v1 = [float(p.output == truth[t.id]) for p, t in zip(old, asked, strict=True)]
        v2 = [float(t.output == truth[t.id]) for t in asked]
        users = [t.user or t.id for t in asked]

        def estimate(rows: list[int]) -> dict[str, Any]:
            a, b, c = [v1[i] for i in rows], [v2[i] for i in rows], [users[i] for i in rows]
            return {
                "n": len(rows),
                "v1": interval(a, clusters=c).model_dump(),
                "v2": interval(b, clusters=c).model_dump(),
                "diff": paired_difference(b, a, clusters=c).model_dump(),
            }

        everything = estimate(list(range(len(asked))))
        slices = []
        for name, rows in (
            ("known labels", [i for i, t in enumerate(asked) if truth[t.id] in old_labels]),
            ("new labels", [i for i, t in enumerate(asked) if truth[t.id] not in old_labels]),
        ):
            if rows:
                part = estimate(rows)
                slices.append(
                    {
                        "name": name,
                        "n": part["n"],
                        "v1": part["v1"]["value"],
                        "v2": part["v2"]["value"],
                        "diff": part["diff"]["value"],
                        "low": part["diff"]["low"],
                        "high": part["diff"]["high"],
                    }
                )
        d = everything["diff"]
        return Outcome(
            {},
            {"task": task, "metric": "accuracy", **everything, "slices": slices},
            f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] on {len(asked)} messages",
        )

    return runner.step(
        "gain",
        work,
        stage="feedback",
        inputs={"first": first.id, "second": second.id, **inputs},
        params={"days": [from_day, until_day]},
    )


def _truth(ws: Workspace, traces: Sequence[Trace]) -> dict[str, str]:
    """Trace id -> what reviewers say is right, where they agree."""
    outputs = {t.id: t.output for t in traces}
    said: dict[str, set[str]] = {}
    for item in ws.traces.feedback():
        if item.trace in outputs and (item.correction or item.rating == 1):
            said.setdefault(item.trace, set()).add(item.correction or outputs[item.trace])
    return {trace: next(iter(labels)) for trace, labels in said.items() if len(labels) == 1}
