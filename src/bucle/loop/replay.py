"""Replaying a log: every request goes through the real server over HTTP, and reviewers' verdicts become feedback.

A replay resumes: a request's trace id follows from the log's id and the release, so what is stored is not sent again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, Infrastructure
from bucle.core.ids import content_id, file_sha256
from bucle.core.records import Feedback, Node, Trace
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import documents_of_chunks
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace

__all__ = ["read_log", "replay_step", "start_of"]

CLIENTS = 12
"""Requests in flight: enough to hide a slow upstream, few enough that two cores are not the thing measured."""

CHUNK = 120


def replay_step(
    ws: Workspace, runner: Runner, release: Node, *, first_day: float, last_day: float, index: str
) -> StepRecord:
    """The log's requests of days `[first_day, last_day)` through the API of `release`."""
    replay = ws.config.replay
    if replay is None:
        raise BadInput("This project names no log.", "Add `replay:` to bucle.yaml.")
    path = ws.file(replay.log)

    def work(ctx: StepContext) -> Outcome:
        entries = read_log(path)
        start = start_of(entries)
        chosen = [
            e
            for e in entries
            if timedelta(days=first_day) <= datetime.fromisoformat(e["at"]) - start < timedelta(days=last_day)
        ]
        with ExitStack() as stack:
            _send(ws, ctx, stack, release, chosen, replay.upstream)
        added = _review(ws, release, chosen, documents_of_chunks(ws, index))
        stored = ws.traces.traces(release=release.id)
        failed = sum(t.status >= 400 for t in stored)
        return Outcome(
            {},
            {
                "requests": len(chosen),
                "errors": failed,
                "feedback": added,
                "first_day": first_day,
                "last_day": last_day,
                "release": release.id,
            },
            f"{len(chosen)} requests, {failed} failed",
        )

    return runner.step(
        f"replay days {first_day:g}-{last_day:g}",
        work,
        stage="serve",
        inputs={"release": release.id, "index": index},
        params={"log": file_sha256(path), "days": [first_day, last_day], "upstream": replay.upstream},
    )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log's entries in order of time. Raises BadInput with the line of the first that cannot be used."""
    entries = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                datetime.fromisoformat(entry["at"])
                _ = entry["id"], entry["route"], entry["input"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"{path}:{number}: not a log entry ({error!r}).", "Each line needs id, at, route and input."
                ) from None
            entries.append(entry)
    if not entries:
        raise BadInput(f"{path} is empty.", "Correct `replay.log` in bucle.yaml.")
    return sorted(entries, key=lambda e: (datetime.fromisoformat(e["at"]), str(e["id"])))


def start_of(entries: Sequence[Mapping[str, Any]]) -> datetime:
    """Midnight of the first entry's day, in its own time zone: day 0."""
    return datetime.fromisoformat(entries[0]["at"]).replace(hour=0, minute=0, second=0, microsecond=0)


def _send(
    ws: Workspace,
    ctx: StepContext,
    stack: ExitStack,
    release: Node,
    entries: Sequence[Mapping[str, Any]],
    upstream: str,
) -> None:
    import httpx

    from bucle.models.remote import OpenAIChat
    from bucle.serve.server import BackgroundServer
    from bucle.serve.upstream import create_upstream

    override = {}
    if upstream:
        stand_in = stack.enter_context(BackgroundServer(create_upstream(model=upstream)))
        override[upstream] = OpenAIChat(upstream, f"{stand_in.url}/v1", upstream, api_key_env="")
    app = app_for(ws, release, replay=True, override=override)
    unknown = sorted({e["route"] for e in entries} - set(app.state.routes))
    if unknown:
        raise BadInput(
            f"The log names a route that is not served: `{unknown[0]}`.", f"Served: {', '.join(app.state.routes)}."
        )
    server = stack.enter_context(BackgroundServer(app))
    client = stack.enter_context(
        httpx.Client(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=CLIENTS))
    )
    stored = ws.traces.known([_trace_id(release, e) for e in entries])
    waiting = [e for e in entries if _trace_id(release, e) not in stored]
    done = len(entries) - len(waiting)

    def one(entry: Mapping[str, Any]) -> int:
        headers = {"x-bucle-at": entry["at"], "x-bucle-request-id": _request_id(release, entry)}
        if entry.get("upstream_ms") is not None:
            headers["x-upstream-ms"] = str(round(entry["upstream_ms"]))
        body = {
            "model": entry["route"],
            "messages": [{"role": "user", "content": entry["input"]}],
            "user": str(entry.get("user", "")),
        }
        return client.post("/v1/chat/completions", json=body, headers=headers).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        for part in _parts(waiting):
            try:
                codes = list(pool.map(one, part))
            except httpx.HTTPError as error:
                raise Infrastructure(
                    f"The server stopped answering ({type(error).__name__}).", "Run the same command to go on."
                ) from error
            if odd := [c for c in codes if c in (401, 404, 413)]:
                raise BadInput(
                    f"The server refused a request of the log with status {odd[0]}.", "bucle monitor --traces shows it."
                )
            done += len(part)
            ctx.report(done, len(entries), "requests")
    if not app.state.traces.flush() or app.state.traces.dropped or app.state.traces.lost:
        raise Infrastructure("Not every trace could be written.", "Run the same command to go on.")


def _parts(entries: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    for start in range(0, len(entries), CHUNK):
        yield entries[start : start + CHUNK]


def _request_id(release: Node, entry: Mapping[str, Any]) -> str:
    return f"{entry['id']}-{release.id[-16:]}"


def _trace_id(release: Node, entry: Mapping[str, Any]) -> str:
    from bucle.serve.wire import replay_trace_id

    return replay_trace_id(_request_id(release, entry))


def _review(ws: Workspace, release: Node, entries: Sequence[Mapping[str, Any]], documents: Mapping[str, str]) -> int:
    """What the log's reviewers say of the answers that were really given. Idempotent."""
    items = []
    for entry in entries:
        if review := entry.get("review"):
            trace = ws.traces.trace(_trace_id(release, entry))
            if trace.status < 400:
                items.append(_verdict(ws, trace, entry, review, documents))
    return ws.traces.add_feedback(items)


def _verdict(
    ws: Workspace, trace: Trace, entry: Mapping[str, Any], review: Mapping[str, Any], documents: Mapping[str, str]
) -> Feedback:
    correction = None
    if "label" in review:  # an agent filed the message: right or corrected
        rating = 1 if trace.output == review["label"] else -1
        correction = None if rating == 1 else str(review["label"])
    elif "document" in review:  # right if it quoted from the document where the answer stands, or kept silent rightly
        cited = {documents.get(c, "") for c in trace.chunks[:1]} if trace.output else set()
        rating = 1 if (review["document"] in cited if review["document"] else not trace.output) else -1
        correction = None if rating == 1 else review.get("answer")
    else:
        rating = 1 if review["rating"] > 0 else -1
    body = {"trace": trace.id, "by": ws.people.stored(str(review["by"])), "rating": rating, "correction": correction}
    return Feedback(id=content_id("feedback", body), at=entry["at"], source="replay", **body)
