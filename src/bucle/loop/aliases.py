"""The routes of bucle.yaml that stand for others: built over what is served, and what became of them kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

from bucle.core.engine import added
from bucle.core.errors import ConfigError, NotFound
from bucle.core.ids import content_id
from bucle.core.records import Trace, Usage
from bucle.ledger import now
from bucle.loop.measure import release_called
from bucle.loop.task_route import task_route
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.serve.routes import Route
    from bucle.serve.routing import ShadowRun, TargetFacts

__all__ = ["aliases", "restore", "rollbacks"]

log = logging.getLogger("bucle.serve")


def aliases(ws: Workspace, routes: Mapping[str, Route], put: Callable[[Trace], object]) -> dict[str, Route]:
    """The routes that `serve.routes` makes of `routes`; `put` gets a trace of each shadow's answer. Raises ConfigError
    where a rule cannot be meant."""
    from bucle.serve.routes import Route
    from bucle.serve.routing import build_routes

    rules = ws.config.serve.routes
    if not rules:
        return {}
    taken = sorted(set(rules) & set(routes))
    if taken:
        raise ConfigError(f"serve.routes.{taken[0]} is the name of a task or model.", "Call the route otherwise.",
                          ("serve", "routes", taken[0]))
    known = dict(routes) | {key: _of_release(ws, key, name, i) for name, rule in rules.items()
                            for i, target in enumerate(rule.to)
                            if target.release and (key := f"{target.to}@{target.release}")}
    targets = {name: route.engine for name, route in known.items() if route.engine is not None}
    facts = {name: _facts(ws, name, route) for name, route in known.items()}
    def shadowed(run: ShadowRun) -> None:
        put(_shadow_trace(run))

    encoder = next((route.embedder for route in routes.values() if route.embedder is not None), None)
    built = build_routes(rules, targets, facts, encoder=encoder, seed=ws.config.seed,
                         on_rollback=lambda route, target, why: _rolled_back(ws, route, target, why),
                         on_shadow=shadowed, rolled_back=_stopped(ws, rules))

    def price_known(name: str) -> bool:  # of all that may be asked; `build_routes` has refused a circle
        if name in known:
            return known[name].price_known
        return all(price_known(n) for n in (*(t.to for t in rules[name].to), *rules[name].fallback))

    def answer_tokens(name: str) -> int:  # the most that any of them may be reserved
        if name in known:
            return known[name].answer_tokens
        return max(answer_tokens(n) for n in (*(t.to for t in rules[name].to), *rules[name].fallback))

    return {name: Route(name, "chat", engine=engine, price_known=price_known(name), answer_tokens=answer_tokens(name))
            for name, engine in built.items()}


def _of_release(ws: Workspace, key: str, name: str, place: int) -> Route:
    """The route of `TASK@RELEASE`, target `place` of the route `name`: that task as another release has it."""
    task, _, called = key.partition("@")
    at = ("serve", "routes", name, "to", place, "release")
    try:
        release = release_called(ws, called)
    except NotFound as error:
        raise ConfigError(f"serve.routes.{name}.to names release `{called:.60}` of {task}, which is none.",
                          f"{error.hint or 'bucle release list'}", at) from None
    if task not in release.attrs.get("tasks", {}):
        raise ConfigError(f"serve.routes.{name}.to: release {called:.60} has no task `{task}`.",
                          f"It has: {', '.join(release.attrs.get('tasks', {})) or 'none'}.", at)
    return task_route(ws, task, release.attrs["tasks"][task], name=key, release=release.id)


def _facts(ws: Workspace, name: str, route: Route) -> TargetFacts:
    from bucle.models.catalogue import facts
    from bucle.serve.routing import TargetFacts

    kind: Literal["chat", "embeddings"] = "embeddings" if route.kind == "embed" else "chat"
    base = name.partition(":")[0]
    if base not in ws.config.models or route.kind not in ("chat", "embed"):
        return TargetFacts(price_in=0.0, price_out=0.0, release=route.release, candidate=route.candidate, kind=kind)
    known = facts(base, ws.config.models[base], ws.config.catalogue)
    return TargetFacts(price_in=known.usd_per_million_in, price_out=known.usd_per_million_out, context=known.context,
                       release=route.release, candidate=route.candidate, kind=kind)


def _rolled_back(ws: Workspace, route: str, target: str, why: str) -> None:
    """Kept in the ledger: a server that is started again gives the target no traffic either."""
    log.warning("route %s gives %s no more traffic: %s", route, target, why)

    def keep() -> None:
        last = rollbacks(ws).get((route, target))
        if last is None or last["restored"]:  # else another server stopped it, and this one has heard of it
            ws.ledger.put("rollback", {"route": route, "target": target, "why": why, "at": now(), "restored": False})

    threading.Thread(target=keep, daemon=True).start()  # the event loop, which tells it, waits for no disk


def rollbacks(ws: Workspace) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The last that happened to each target of a route that a gate ever stopped: (route, target) -> `why`, `at`,
    `restored`."""
    nodes = sorted(ws.ledger.nodes("rollback"), key=lambda n: str(n.attrs["at"]))
    return {(str(n.attrs["route"]), str(n.attrs["target"])): n.attrs for n in nodes}


def restore(ws: Workspace, route: str, target: str, *, by: str, reason: str) -> None:
    """Give a target that a canary's gate stopped its share again; a running server knows within a second. Raises
    NotFound for one that is not stopped."""
    last = rollbacks(ws).get((route, target))
    rule = ws.config.serve.routes.get(route)
    if last is None and rule is None:
        raise NotFound(f"There is no route {route:.60}.",
                       f"Its name is one of: {', '.join(ws.config.serve.routes) or 'bucle.yaml has none'}.")
    targets = [f"{t.to}@{t.release}" if t.release else t.to for t in rule.to] if rule else []
    if last is None and target not in targets:
        raise NotFound(f"{target:.60} is no target of route {route:.60}.", f"Its targets: {', '.join(targets)}.")
    if last is None or last["restored"]:
        raise NotFound(f"{target} of route {route} is not stopped.", "bucle release routes")
    ws.ledger.put("rollback", {"route": route, "target": target, "why": reason or f"restored by {by}", "by": by,
                               "at": now(), "restored": True})


def _stopped(ws: Workspace, rules: Collection[str]) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for (route, target), last in rollbacks(ws).items():
        if route in rules and not last["restored"]:
            out.setdefault(route, set()).add(target)
    return out


def _shadow_trace(run: ShadowRun) -> Trace:
    """What a shadow answered, as a trace of its own that nobody saw; it belongs to no key, for no user asked for it."""
    answer = run.answer
    moment = now()
    return Trace(
        id=content_id("trace", {"shadow": run.ctx.trace, "target": run.target}), at=moment, received_at=moment,
        route=run.route, model=run.target, release=run.release, candidate=run.candidate, user=run.ctx.user,
        input=run.ask.text, output=answer.text if answer else "", status=200 if answer else 502, error=run.error,
        ms=round(run.ms, 3), usage=added(answer.usage if answer else Usage(), *run.ctx.spent),
        estimated=run.ctx.estimated, spans=tuple(run.ctx.spans),
        served_by=answer.served_by if answer else "", role="shadow",
    )
