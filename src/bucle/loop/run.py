"""The whole loop, read from top to bottom: data, choose, customise, evaluate, release, serve, monitor, feedback,
again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bucle.choose import Rung
from bucle.core.errors import BadInput, GateFailed, NotFound
from bucle.core.records import Node
from bucle.execute import Display, Outcome, Runner, StepContext, StepRecord, project_lock
from bucle.loop.bakeoff import bake_off
from bucle.loop.candidates import TaskData, fit_step, score_step
from bucle.loop.check import check_project
from bucle.loop.data_steps import explore_step, preferences_step, split_step
from bucle.loop.decide import compare_step
from bucle.loop.document_step import documents_step
from bucle.loop.forgetting import forgetting_step
from bucle.loop.gating import gate_step, judge_steps
from bucle.loop.learn import dataset_step, gain_step, live_dataset_step
from bucle.loop.model_steps import index_step, model_step
from bucle.loop.replay import read_log, replay_step, start_of
from bucle.loop.row_step import examples_step
from bucle.loop.story import latest_records, save_report
from bucle.loop.versions import number_of
from bucle.loop.watch import watch_step
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION, card, make_release, production

__all__ = ["STAGES", "RunResult", "Stage", "learn", "prepare", "run"]

SEARCHING = ("answer", "retrieve")
"""The kinds of task that search the documents."""
Stage = Literal["data", "models", "choose", "release", "all"]
STAGES: tuple[Stage, ...] = ("data", "models", "choose", "release", "all")


@dataclass(frozen=True)
class Chosen:
    """What the comparison of a task led to: the candidate whose figures count, and the one to release."""

    rung: Rung
    baseline: Rung
    comparison: StepRecord
    evaluation: StepRecord
    release: str
    gate: StepRecord


@dataclass(frozen=True)
class RunResult:
    """A finished run. `story` is the report's data; `reused` of `steps` were already there; `production_moved` says so
    where production is not the release it ends with."""

    story: Mapping[str, Any]
    report: str
    steps: int
    reused: int
    gates_passed: bool
    production_moved: str = ""


def run(ws: Workspace, display: Display, *, until: Stage = "all") -> RunResult:
    """Run the project up to and including stage `until`. Raises GateFailed after writing the report if a gate fails."""
    if not ws.config.tasks and ws.config.data.documents is None:
        raise BadInput("This project has models and neither tasks nor documents: there is nothing to run.",
                       "bucle serve serves its models; or add `tasks:` to bucle.yaml.")
    check_project(ws)
    if not ws.config.tasks and until not in ("data", "models"):
        raise BadInput(
            "This project has documents and no task yet.",
            "bucle data bootstrap drafts questions to begin with; then name their file under `tasks:` in bucle.yaml.",
        )
    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        failed: GateFailed | None = None
        try:
            _all(ws, runner, until)
        except GateFailed as error:
            failed = error
        if until == "all" or _adds_to_latest(ws, runner.records):
            runner.finish()
        story, report = save_report(ws, latest_records(ws.ledger))
    if failed:
        raise failed
    reused = sum(r.cached for r in runner.records)
    return RunResult(story, str(report), len(runner.records), reused, failed is None, _moved(ws, runner.records))


def _moved(ws: Workspace, records: Sequence[StepRecord]) -> str:
    """What to know where production is not the release that this run ends with: a finished release moves no alias a
    second time, so that a rollback stays."""
    released = [r for r in records if r.stage == "release"]
    current = ws.ledger.alias(PRODUCTION)
    if not released or current in (None, released[-1]["release"]):
        return ""
    version, own = ws.ledger.get(str(current)).attrs["version"], released[-1].figures["version"]
    return f"production is version {version}; this run ends with version {own}: bucle release promote {own}"


def learn(ws: Workspace, display: Display, task: str) -> RunResult:
    """The next release from all feedback so far on a classify task: its rows grow, the recipe that the comparison chose
    is fitted again, gated against production on rows neither has seen, and released. Raises BadInput where feedback
    adds nothing, GateFailed (after writing the report) where the gate does not hold."""
    check_project(ws)
    if task not in ws.config.tasks or ws.config.tasks[task].kind != "classify":
        names = [n for n, t in ws.config.tasks.items() if t.kind == "classify"]
        raise BadInput(f"`{task}` is no classify task of this project.", f"bucle feedback learn {' | '.join(names)}")
    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        failed: GateFailed | None = None
        try:
            tasks, corpus = prepare(ws, runner)
            chosen = _choose_all(ws, runner, tasks, corpus, gated=True)
            _release_next(ws, runner, tasks, chosen, corpus, task)
        except GateFailed as error:
            failed = error
        runner.finish()
        story, report = save_report(ws, latest_records(ws.ledger))
    if failed:
        raise failed
    return RunResult(story, str(report), len(runner.records), sum(r.cached for r in runner.records), True)


def _release_next(
    ws: Workspace, runner: Runner, tasks: dict[str, TaskData], chosen: dict[str, Chosen], corpus: str, task: str
) -> None:
    """From the rows behind production to the release after it."""
    served = str(production(ws.ledger).attrs["tasks"][task])
    roles = {e.role: e.parent for e in ws.ledger.parents(served)}
    split, version = roles["split"], int(ws.ledger.get(roles["dataset"]).attrs["version"])
    data = replace(tasks[task], dataset=roles["dataset"], split=split, version=version)
    heard = live_dataset_step(ws, runner, data)
    made = split_step(ws, runner, task, heard["dataset"], version=version + 1, previous=split)["split"]
    grown = replace(data, dataset=heard["dataset"], split=made, version=version + 1)
    again = _again(ws, runner, grown, chosen[task], corpus)
    _release(ws, runner, {**chosen, task: again}, {**tasks, task: grown})


def _adds_to_latest(ws: Workspace, records: Sequence[StepRecord]) -> bool:
    """Whether a run of some stages found anything that the latest run does not hold: looking at the data again must
    not take the rest of the loop out of the report."""
    try:
        known = {r.key for r in latest_records(ws.ledger)}
    except NotFound:
        return True
    return not {r.key for r in records} <= known


def prepare(ws: Workspace, runner: Runner, *, until: Stage = "all") -> tuple[dict[str, TaskData], str]:
    """Data and models: what every later stage starts from. Returns the tasks by name, and the corpus."""
    corpus = documents_step(ws, runner)["corpus"] if ws.config.data.documents else ""
    tasks: dict[str, TaskData] = {}
    for name in ws.config.tasks:
        dataset = examples_step(ws, runner, name)["dataset"]
        split = split_step(ws, runner, name, dataset)["split"]
        explore_step(ws, runner, name, dataset, split)
        tasks[name] = TaskData(name, dataset, split)
    if ws.config.preferences:
        preferences_step(ws, runner)
    if until == "data":
        return tasks, corpus
    rows = {name: (t.dataset, t.split) for name, t in tasks.items()}
    models = {name: model_step(ws, runner, name, corpus, rows)["model"] for name in ws.config.models}
    named = [ws.config.retrieval.encoder] if ws.config.retrieval.encoder else []
    named += [name for name, model in ws.config.models.items() if model.kind == "encoder"]
    encoders = [(name, models[name]) for name in named]
    index = ""
    searching = {name for name, task in ws.config.tasks.items() if task.kind in SEARCHING or task.chains}
    if until != "models" and corpus and encoders and searching:
        index = index_step(ws, runner, corpus, encoders[0])["index"]
    return {
        name: replace(data, models=models, index=index if name in searching else "")
        for name, data in tasks.items()
    }, corpus


def _all(ws: Workspace, runner: Runner, until: Stage) -> None:
    # data, models
    tasks, corpus = prepare(ws, runner, until=until)
    if until in ("data", "models"):
        return

    # choose, customise, evaluate
    chosen = _choose_all(ws, runner, tasks, corpus, gated=until != "choose")
    if until == "choose":
        return

    # release
    first = _release(ws, runner, chosen, tasks)
    if until == "release" or not ws.config.replay:
        return

    # serve, monitor, feedback: the log up to a day teaches version 2, what comes after measures it
    replay = ws.config.replay
    data = tasks[replay.task]
    entries = read_log(ws.file(replay.log))
    start = start_of(entries)
    day = replay.learn_until_day
    last = (max(_at(e) for e in entries) - start).days + 1
    index = next((t.index for t in tasks.values() if t.index), "")
    served = replay_step(ws, runner, first, first_day=0, last_day=day, index=index)
    watched = watch_step(ws, runner, until_day=day, start=start, releases=[first.id], inputs={"served": served.key})
    heard = dataset_step(ws, runner, data, watched, release=first.id, start=start, until_day=day)
    split2 = split_step(ws, runner, replay.task, heard["dataset"], version=2, previous=data.split)["split"]
    data2 = replace(data, dataset=heard["dataset"], split=split2, version=2)
    again = _again(ws, runner, data2, chosen[replay.task], corpus)
    second = _release(ws, runner, {**chosen, replay.task: again}, {**tasks, replay.task: data2})
    served = replay_step(ws, runner, second, first_day=day, last_day=last, index=index)
    watch_step(ws, runner, until_day=last, start=start, releases=[first.id, second.id], inputs={"served": served.key})
    labels = sorted({str(r.target) for r in ws.examples(data.dataset)})
    gain_step(
        ws,
        runner,
        replay.task,
        first,
        second,
        start=start,
        from_day=day,
        until_day=last,
        old_labels=labels,
        inputs={"served": served.key},
    )


def _choose_all(
    ws: Workspace, runner: Runner, tasks: Mapping[str, TaskData], corpus: str, *, gated: bool
) -> dict[str, Chosen]:
    """What was chosen for each task, in their order: a chain may ask the candidate of a task before its own."""
    chosen: dict[str, Chosen] = {}
    decided: dict[str, str] = {}
    for name, data in tasks.items():
        found, candidate = _choose(ws, runner, replace(data, decided=decided), corpus, gated=gated)
        decided = {**decided, name: candidate}
        if found:
            chosen[name] = found
    return chosen


def _choose(
    ws: Workspace, runner: Runner, data: TaskData, corpus: str, *, gated: bool
) -> tuple[Chosen | None, str]:
    """Every candidate of a task fitted, scored and compared; the recommended one gated and made ready for release.
    Returns that, and the recommended candidate."""
    judges = judge_steps(ws, runner, data)
    bakeoff = bake_off(ws, runner, data)
    rungs, fits, evaluations = bakeoff.rungs, bakeoff.fits, bakeoff.evaluations
    found = compare_step(ws, runner, data, bakeoff)
    lost = {
        rung.name: forgetting_step(
            ws, runner, data, fits[rung.name]["candidate"], rung.name, data.models[rung.base], corpus
        )
        for rung in rungs
        if rung.base and "base" in rung.technique.needs
    }
    name = found.figures["recommended"]
    if not gated:
        return None, fits[name]["candidate"] if name else ""
    if not name:
        raise GateFailed(
            f"No candidate of `{data.name}` keeps within the constraints.",
            "Loosen `choose.constraints` in bucle.yaml, or add a cheaper model; bucle report shows each one's figures.",
        )
    rung = next(r for r in rungs if r.name == name)
    reference = next(r for r in rungs if r.name == found.figures["best_baseline"])
    gate = gate_step(
        ws,
        runner,
        data,
        rung,
        evaluations[name],
        baseline=evaluations[reference.name],
        forgetting=lost.get(name),
        candidate=fits[name]["candidate"],
        judges=judges,
    )
    _must_pass(gate, data)
    ready = _ready(ws, runner, data, rung, fits[name]["candidate"])
    return Chosen(rung, reference, found, evaluations[name], ready, gate), fits[name]["candidate"]


def _again(ws: Workspace, runner: Runner, data: TaskData, before: Chosen, corpus: str) -> Chosen:
    """The same recipe on the next version of the data, gated against production and against the baseline on that
    data."""
    rung = before.rung
    fit = fit_step(ws, runner, data, rung)
    evaluation = baseline = score_step(ws, runner, data, fit["candidate"], rung.name, stage="evaluate")
    if before.baseline.name != rung.name:
        plain = fit_step(ws, runner, data, before.baseline)
        baseline = score_step(ws, runner, data, plain["candidate"], before.baseline.name, stage="evaluate")
    lost = None
    if rung.base and "base" in rung.technique.needs:
        lost = forgetting_step(ws, runner, data, fit["candidate"], rung.name, data.models[rung.base], corpus)
    gate = gate_step(
        ws,
        runner,
        data,
        rung,
        evaluation,
        baseline=baseline,
        forgetting=lost,
        candidate=fit["candidate"],
        judges=judge_steps(ws, runner, data),
    )
    _must_pass(gate, data)
    ready = _ready(ws, runner, data, rung, fit["candidate"])
    return Chosen(rung, before.baseline, before.comparison, evaluation, ready, gate)


def _ready(ws: Workspace, runner: Runner, data: TaskData, rung: Rung, candidate: str) -> str:
    """The candidate to release: fitted again on every row where the team wants it and the technique fits at all."""
    if not ws.config.choose.refit or ws.config.tasks[data.name].kind != "classify":
        return candidate
    return fit_step(ws, runner, data, rung, on_all=True, sibling=candidate)["candidate"]


def _must_pass(gate: StepRecord, data: TaskData) -> None:
    failed = [c for c in gate.figures["checks"] if not c["passed"]]
    if failed:
        what = "; ".join(f"{c['gate']} ({c['note'] or format(c['measured'], '.4g')})" for c in failed)
        raise GateFailed(
            f"`{data.name}`{data.suffix} does not pass its gate: {what}.",
            "Nothing was released. bucle report shows the figures; improve the data or change `gates:` in bucle.yaml.",
        )


def _release(ws: Workspace, runner: Runner, chosen: Mapping[str, Chosen], tasks: Mapping[str, TaskData]) -> Node:
    """The next version, with its card; `production` moves to it."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.statistics import interval
        from bucle.loop.candidates import rows_of, scores
        from bucle.loop.sentences import say

        def facts(name: str, c: Chosen) -> dict[str, Any]:
            data = tasks[name]
            rows = {r.id: r for r in rows_of(ws, data.dataset, data.split)}
            ids, per_row = scores(ws, c.evaluation["evaluation"])
            clusters = [rows[i].cluster for i in ids]
            return {
                "candidate": c.rung.name,
                "technique": c.rung.technique.name,
                "base": c.rung.base or c.rung.encoder,
                "dataset": f"version {number_of(ws, data.dataset)}",
                "rows": len(ids),
                "why": say(c.comparison.figures["why"]["key"], c.comparison.figures["why"]["figures"]).get("en", ""),
                "refit": ws.ledger.get(c.release).attrs["fitted_on"] == "all",
                "metrics": {
                    m: interval(v, clusters=clusters).model_dump() for m, v in per_row.items()
                },
            }

        def make_card(version: int) -> str:
            return card(
                project=ws.config.project,
                version=version,
                tasks={n: facts(n, c) for n, c in chosen.items()},
                checks=[check for c in chosen.values() for check in c.gate.figures["checks"]],
            )

        node = make_release(
            ctx.ledger,
            ws.config.project,
            {n: c.release for n, c in chosen.items()},
            {n: c.gate["gate"] for n, c in chosen.items()},
            make_card,
            {n: c.comparison["comparison"] for n, c in chosen.items()},
        )
        ctx.ledger.move_alias(PRODUCTION, node.id, by="bucle run", reason="passed its gates")
        return Outcome(
            {"release": node.id},
            {"version": node.attrs["version"], "tasks": {n: c.rung.name for n, c in chosen.items()}},
            f"version {node.attrs['version']}",
        )

    label = "release" + "".join(sorted({tasks[n].suffix for n in chosen} - {""}))
    record = runner.step(
        label,
        work,
        stage="release",
        inputs={
            **{f"candidate {n}": c.release for n, c in chosen.items()},
            **{f"gate {n}": c.gate["gate"] for n, c in chosen.items()},
        },
    )
    return ws.ledger.get(record["release"])


def _at(entry: Mapping[str, Any]) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(entry["at"])
