"""`bucle traces`: find requests by text, look at one's steps, follow them, export them, delete old ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project, table
from bucle.cli.traces_show import HEAD, line, row, tell

if TYPE_CHECKING:
    from bucle.ledger import TraceStore

POLL_S = 0.5


class _Traces(click.Group):
    """`list` where no verb is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args) and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("traces", cls=_Traces)
def command() -> None:
    """Every request that was served: what was asked and answered (redacted), its steps, tokens, dollars and times.

    Without a verb it is `list`.
    """


def _filters(made: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((
        click.option("--route", default="", help="Only this route."),
        click.option("--user", default="", help="Only this user."),
        click.option("--release", default="", help="Only this release (a version, an id, an alias)."),
        click.option("--key", default="", help="Only this API key (its id)."),
        click.option("--failed", is_flag=True, help="Only what ended with an error."),
        click.option("--since", default="", help="Not before: 2026-03-01, a time, or 30m, 12h, 7d ago."),
        click.option("--until", default="", help="Before: as --since."),
    )):
        made = option(made)
    return made


@command.command("list")
@click.argument("query", nargs=-1)
@on_project
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@as_json
def _list(query: tuple[str, ...], folder: str, limit: int, json_: bool, **asked: Any) -> None:
    """The newest traces with QUERY in what was asked or answered: words (all of them), "phrases", prefixes*.

    Case and accents do not matter.
    """
    store, filters = _opened(folder, query=" ".join(query), **asked)
    found = store.traces(**filters, limit=limit + 1, newest_first=True)
    more, found = len(found) > limit, found[:limit]

    def human() -> None:
        if not found:
            click.echo("No trace fits." if store.count() else "No traces yet: `bucle serve` stores one a request.")
            return
        table(HEAD, [row(t) for t in found])
        if more:
            click.echo(f"(the newest {limit}; --limit shows more, `bucle traces export` all)")

    emit({"traces": [t.model_dump(mode="json") for t in found], "more": more}, json_, human)


command.add_command(_list, "search")


@command.command("show")
@click.argument("trace")
@on_project
@as_json
def _show(trace: str, folder: str, json_: bool) -> None:
    """One request whole: its steps on a common scale of time, what was asked and answered, its feedback.

    TRACE is its id or the beginning of it.
    """
    store, _ = _opened(folder)
    found = store.trace(trace if trace.startswith("trace:") else f"trace:{trace}")
    heard = store.feedback(found.id)
    emit({"trace": found.model_dump(mode="json"), "feedback": [f.model_dump(mode="json") for f in heard]}, json_,
         lambda: tell(found, heard))


@command.command("tail")
@on_project
@_filters
@click.option("-n", "--last", default=10, show_default=True, type=click.IntRange(0, 1000), help="So many of before.")
@click.option("--once", is_flag=True, hidden=True)
@as_json
def _tail(folder: str, last: int, once: bool, json_: bool, **asked: Any) -> None:
    """Traces as they come, until interrupted; --json prints one object a line."""
    store, filters = _opened(folder, **asked)
    place, _ = store.follow()
    earlier = store.traces(**filters, limit=last, newest_first=True) if last else []
    for found in reversed(earlier):
        line(found, json_)
    while not once:
        time.sleep(POLL_S)
        place, new = store.follow(place, **filters)
        for found in new:
            line(found, json_)


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False))
@on_project
@_filters
@click.option("--query", default="", help="Only what `bucle traces list QUERY` finds.")
@click.option("--force", is_flag=True, help="Write over FILE.")
@as_json
def _export(file: str, folder: str, query: str, force: bool, json_: bool, **asked: Any) -> None:
    """All traces that fit, oldest first, as JSON lines in FILE (`-`: standard output; `.gz`: compressed)."""
    from bucle.ledger.lines import write_traces

    store, filters = _opened(folder, query=query, **asked)
    count = write_traces(store.each(**filters), file, force=force)
    if file != "-":
        emit({"file": file, "traces": count}, json_, lambda: click.echo(f"{count} traces in {file}"))


@command.command("prune")
@on_project
@click.option("--days", required=True, type=click.FloatRange(0), help="Delete traces older than so many days.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def _prune(folder: str, days: float, yes: bool, json_: bool) -> None:
    """Delete old traces for good: texts, search, and the feedback beside them. What they cost stays counted.

    `serve.traces.keep_days` in bucle.yaml does the same every hour while serving.
    """
    store, _ = _opened(folder)
    if not yes and not json_:
        click.confirm(f"Delete every trace older than {days:g} days?", abort=True)
    gone = store.prune(days)
    left = store.count()
    emit({"traces": gone.traces, "feedback": gone.feedback, "left": left}, json_, lambda: click.echo(
        f"{gone.traces} traces deleted, with {gone.feedback} verdicts; {left} are left. What they cost stays counted."))


def _opened(folder: str, *, query: str = "", route: str = "", user: str = "", release: str = "", key: str = "",
            failed: bool = False, since: str = "", until: str = "") -> tuple[TraceStore, dict[str, Any]]:
    from bucle.loop.measure import release_called
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    return ws.traces, {"query": query, "route": route, "user": user, "key": key, "status": 400 if failed else 0,
                       "release": release_called(ws, release).id if release else "", "since": _epoch(since),
                       "before": _epoch(until)}


def _epoch(said: str) -> float:
    """Epoch seconds of a date, a time, or `7d` ago; 0 for nothing. Raises BadInput."""
    import re
    from datetime import datetime

    from bucle.core.errors import BadInput

    if not said:
        return 0.0
    if ago := re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", said):
        return max(1e-3, time.time() - float(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[ago[2]])
    try:
        return max(1e-3, datetime.fromisoformat(said).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise BadInput(f"`{said}` is no time.", "--since 2026-03-01, --since 2026-03-01T09:30, --since 12h") from error
