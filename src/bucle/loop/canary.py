"""Canaries in the ledger: what a provider's model answered at first, and whether it still is that model.

Nodes of kind `canary`: a reference (its answers as `answers.json`) and the later checks made from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bucle.core.config import RemoteModel
from bucle.core.errors import BadInput, ConfigError, ModelUnavailable
from bucle.core.ports import Report
from bucle.core.records import Node
from bucle.evaluate.canary import AGAIN, FIRST, Answers, ask_canary, finds, packaged_prompts, same_model
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.ledger import now
from bucle.loop.judging import replies_file
from bucle.loop.model_steps import canary_alias, chat_model, model_step
from bucle.loop.workspace import Workspace
from bucle.models.ask import remembered

__all__ = [
    "ALARM", "Spent", "canary_step", "check_before", "check_canary", "measure_canary", "own_prompts", "remote_models",
]

ALARM = 0.01
"""The chance that a check calls a model changed that is the same."""
MOST = 200
"""Prompts of a team's own file."""


def remote_models(ws: Workspace) -> list[str]:
    """The models of bucle.yaml that somebody else runs."""
    return [name for name, model in ws.config.models.items() if isinstance(model, RemoteModel)]


class Spent(NamedTuple):
    """What canaries took: US dollars to providers, and seconds."""

    usd: float = 0.0
    seconds: float = 0.0


def canary_step(ws: Workspace, runner: Runner, name: str, model: str, about: Sequence[str] = ()) -> StepRecord:
    """The check of the remote model `name` (its node in `model`), for before a comparison: made once a day (UTC) for
    what is `about` to be asked (whatever names it: candidates, a split), and again where that is something else. Its
    figures are those of `check_canary`. A changed model stops nothing by itself; `figures["verdict"]` and `["said"]`
    are for the caller to show."""
    asking = {"about": sorted(set(about))} if about else {}

    def work(ctx: StepContext) -> Outcome:
        figures = check_canary(ws, name, model, report=ctx.report)
        return Outcome({"canary": figures["node"]}, figures, figures["said"])

    return runner.step(f"canary {name}", work, stage="models", inputs={"model": model},
                       params={"day": datetime.now(UTC).date().isoformat(), "alarm": ALARM, **asking})


def check_before(ws: Workspace, runner: Runner, models: Mapping[str, str], names: Iterable[str],
                 about: Sequence[str] = ()) -> Spent:
    """The canaries of those of `names` that somebody else runs, before they are compared (`models`: name -> node;
    `about`: see `canary_step`), and what they took. A check that an earlier run of today made counts with what it took
    then, so that a rerun under a budget decides the same. One that does not answer is passed over: whatever is still
    to be asked will say so, and what is finished stays."""
    usd = seconds = 0.0
    for name in dict.fromkeys(names):
        if name in remote_models(ws):
            with suppress(ModelUnavailable):
                record = canary_step(ws, runner, name, models[name], about)
                usd, seconds = usd + float(record.figures["usage"]["usd"]), seconds + record.seconds
    return Spent(usd, seconds)


def own_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a file, one a line. Raises BadInput for none or too many."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text ({error}).", "Give UTF-8, a prompt a line.") from error
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not 5 <= len(prompts) <= MOST:
        raise BadInput(f"{path} holds {len(prompts)} prompts.", f"Give from 5 to {MOST}, one a line.")
    return prompts


def measure_canary(ws: Workspace, name: str, runner: Runner, *, prompts: Sequence[str] = (), accept: bool = False,
                   alarm: float = ALARM) -> dict[str, Any]:
    """`check_canary` of the model `name` of bucle.yaml, now: what `bucle evaluate canary NAME` runs."""
    if name not in remote_models(ws):
        known = ", ".join(remote_models(ws))
        raise ConfigError(f"`{name}` is no remote model of this project.",
                          f"Remote models: {known}." if known else "Only a model of kind openai can change unseen.")
    node = model_step(ws, runner, name, "", {})["model"]
    return check_canary(ws, name, node, prompts=prompts, accept=accept, alarm=alarm, report=runner.display.update)


def check_canary(ws: Workspace, name: str, model: str, *, prompts: Sequence[str] = (), accept: bool = False,
                 alarm: float = ALARM, seed: int | None = None, report: Report | None = None) -> dict[str, Any]:
    """Ask the canary's prompts again and compare with the reference; the first time, or with `prompts` (the team's
    own) or `accept`, what is answered now becomes the reference.

    Figures, ready for JSON: `verdict` (`first`, `equal`, `renamed`: equal answers under another name by the provider,
    `changed`), `said` (one sentence), `advice`, `p`, `alarm`, `since` (when it last was as the reference), `changes`
    (prompt, before, now), `served_before`, `served_now`, `variability`, `finds` (how many prompts must change to be
    found in 4 of 5 cases), `forgotten` (remembered replies of the model that was, dropped), `usage`, `node`. Raises
    ModelUnavailable where the model does not answer.
    """
    chat = chat_model(ws, model)
    identity = str(getattr(chat, "identity", ""))
    history = _history(ws, identity)
    seed = ws.config.seed if seed is None else seed
    again = history is not None and not prompts and not accept
    wanted = tuple(prompts) or (history.answers.prompts if history else packaged_prompts())
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(chat, "close", lambda: None))
        later = ask_canary(chat, wanted, AGAIN if again else FIRST, report=report)
    if history is None or not again:
        if history is not None:  # what it said before this reference is of the model that was
            with remembered(replies_file(ws)) as replies:
                replies.forget(identity)
        return _first(ws, name, model, identity, later, alarm, seed)
    reference = history.answers
    change = same_model(reference, later, alarm=alarm, seed=seed)
    renamed = bool(reference.served_by and later.served_by) and not set(later.served_by) & set(reference.served_by)
    verdict = "changed" if change.changed else "renamed" if renamed else "equal"
    forgotten = 0
    if verdict == "changed" and history.last_verdict != "changed":
        with remembered(replies_file(ws)) as replies:
            forgotten = replies.forget(identity)
    at = now()
    figures: dict[str, Any] = {
        "model": name, "verdict": verdict, "p": change.p, "alarm": alarm, "at": at, "since": history.since,
        "changes": [{"prompt": reference.prompts[i], "before": _shown(before), "now": _shown(later.texts[i])}
                    for i in change.prompts for before in (reference.texts[i],)],
        "compared": change.compared, "prompts": len(reference.prompts), "served_before": list(reference.served_by),
        "served_now": list(later.served_by), "variability": reference.variability, "finds": history.finds,
        "forgotten": forgotten, "usage": later.usage.model_dump()}
    figures |= _told(figures)
    node = ws.ledger.put("canary", {"role": "check", "identity": identity, **figures},
                         parents=[("reference", history.reference.id), ("model", model)],
                         blobs={"answers.json": later.to_json()})
    return figures | {"node": node.id, "reference": history.reference.id}


def _first(ws: Workspace, name: str, model: str, identity: str, answers: Answers, alarm: float,
           seed: int) -> dict[str, Any]:
    at = now()
    figures: dict[str, Any] = {
        "model": name, "verdict": "first", "p": None, "alarm": alarm, "at": at, "since": at, "changes": [],
        "compared": 0, "prompts": len(answers.prompts), "served_before": list(answers.served_by),
        "served_now": list(answers.served_by), "variability": answers.variability,
        "finds": finds(answers, alarm=alarm, seed=seed), "forgotten": 0, "usage": answers.usage.model_dump()}
    figures |= _told(figures)
    node = ws.ledger.put("canary", {"role": "reference", "identity": identity, **figures}, parents=[("model", model)],
                         blobs={"answers.json": answers.to_json()})
    ws.ledger.move_alias(_alias(identity), node.id, by="bucle", reason=f"canary of {name}")
    return figures | {"node": node.id, "reference": node.id}


@dataclass(frozen=True)
class _History:
    """The reference of a model, when it was last found equal to it, and what the last check said."""

    reference: Node
    answers: Answers
    since: str
    last_verdict: str
    finds: int | None


def _history(ws: Workspace, identity: str) -> _History | None:
    found = ws.ledger.alias(_alias(identity))
    if found is None:
        return None
    reference = ws.ledger.get(found)
    checks = [ws.ledger.get(e.child) for e in ws.ledger.children(reference.id) if e.role == "reference"]
    checks.sort(key=lambda node: str(node.attrs["at"]))
    equal = [str(node.attrs["at"]) for node in checks if node.attrs["verdict"] != "changed"]
    return _History(reference, Answers.from_json(ws.ledger.read(reference, "answers.json")),
                    equal[-1] if equal else str(reference.attrs["at"]),
                    str(checks[-1].attrs["verdict"]) if checks else "", reference.attrs.get("finds"))


def _alias(identity: str) -> str:
    return canary_alias(*identity.split(" ", 1))


def _shown(texts: Sequence[str]) -> str:
    """The commonest answer, short, without what would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in max(texts, key=texts.count)[:200]) if texts else ""


def _told(figures: dict[str, Any]) -> dict[str, Any]:
    """One sentence and what to do, for people."""
    name, verdict = figures["model"], figures["verdict"]
    least, many = figures["finds"], figures["prompts"]
    if verdict == "first":
        power = (f"a later change of {least} or more of {many} answers will be found (in 4 of 5 cases)" if least else
                 "its answers vary so much by themselves that a later change may go unseen")
        return {"said": f"{name}: {many} answers are kept as the reference; {power}.", "advice": []}
    if verdict == "changed":
        differ = len(figures["changes"])
        return {"said": f"{name} is no longer the model it was on {_day(figures['since'])}: its answers changed more "
                        f"than its own variability explains (p {figures['p']:.2g}, {differ} of {many} prompts answered "
                        "otherwise throughout).",
                "advice": ["Its figures from before that day stand for a model that is gone: compare again.",
                           f"bucle evaluate canary {name} --accept   takes today's answers as the reference"]}
    told = f"{name} answers as on {_day(figures['since'])} (p {figures['p']:.2g}"
    told += f"; a change of {least} of {many} answers would be found)." if least else ")."
    if verdict == "renamed":
        told += (f" The provider now calls it {', '.join(figures['served_now'])}, before "
                 f"{', '.join(figures['served_before'])}.")
    return {"said": told, "advice": []}


def _day(at: str) -> str:
    return at[:16].replace("T", " ") + " UTC"
