"""Traces for a terminal: a row, a line, and one whole with its steps on a common scale of time."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import table, visible

if TYPE_CHECKING:
    from bucle.core.records import Feedback, Trace

__all__ = ["HEAD", "line", "row", "tell"]

HEAD = ("trace", "at", "route", "user", "status", "ms", "tokens", "$", "input", "output")
BARS = 32
"""Characters of the waterfall."""
SHOWN = ("name", "start_ms", "ms", "input", "output", "error")


def row(trace: Trace) -> list[Any]:
    """A trace as the cells under HEAD."""
    usage = trace.usage
    return [trace.id.removeprefix("trace:")[:12], trace.at[:19], trace.route, _short(trace.user, 16), trace.status,
            f"{trace.ms:.0f}", f"{usage.tokens_in}+{usage.tokens_out}" if usage.tokens_in or usage.tokens_out else "",
            f"{usage.usd:.5f}" if usage.usd else "", _short(trace.input, 44), _short(trace.output or trace.error, 36)]


def _short(text: str, size: int) -> str:
    said = visible(" ".join(text[: 8 * size].split()))
    return said if len(said) <= size else said[: size - 1] + "…"


def line(trace: Trace, json_: bool) -> None:
    """A trace as it comes: one line, written at once."""
    if json_:
        click.echo(trace.model_dump_json())
    else:
        cells = row(trace)
        click.echo(f"{cells[1]}  {cells[4]}  {cells[5]:>6} ms  {cells[0]}  {cells[2]}  {cells[8]} -> {cells[9]}")
    sys.stdout.flush()


def tell(trace: Trace, heard: Sequence[Feedback]) -> None:
    """One trace whole, with its steps as a waterfall, and what was said of it."""
    usage = trace.usage
    facts = {
        "trace": trace.id, "at": trace.at, "route": trace.route, "model": trace.served_by or trace.model,
        "status": f"{trace.status} {visible(trace.error)}".strip(), "user": visible(trace.user), "key": trace.key,
        "team": trace.team, "release": trace.release, "candidate": trace.candidate, "prompt": trace.prompt,
        "cache": trace.cached, "role": trace.role, "chunks": ", ".join(c[:18] for c in trace.chunks),
        "ms": f"{trace.ms:.1f}" + (f", first piece after {trace.ms_first:.1f}" if trace.ms_first else ""),
        "tokens": f"{usage.tokens_in} in, {usage.tokens_out} out" + (f", ${usage.usd:.6f}" if usage.usd else "")
        + (" (estimated: nobody counted all of it)" if trace.estimated else ""),
        "guard": ", ".join(f"{k} {v}" for k, v in trace.guard.items() if v not in (None, False, [], {})),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"{name:<10} {value}")
    if trace.spans:
        whole = max([trace.ms, *(_number(s, "start_ms") + _number(s, "ms") for s in trace.spans)]) or 1.0
        click.echo("")
        table(["step", "", "from ms", "ms", ""], [
            [visible(str(s.get("name", ""))), _bar(s, whole), f"{_number(s, 'start_ms'):.1f}",
             f"{_number(s, 'ms'):.1f}", _detail(s)] for s in trace.spans])
    for head, text in (("asked", trace.input), ("answered", trace.output)):
        click.echo(f"\n{head}\n  " + visible(text or "(nothing)").replace("\n", "\n  "))
    if heard:
        click.echo("\nfeedback")
        for f in heard:
            said = f"{'' if f.rating is None else f'{f.rating:+d}'} {f.correction or ''} {f.reason} ({f.by})"
            click.echo("  " + visible(" ".join(said.split())))
    click.echo(f"\nbucle why {trace.id.removeprefix('trace:')[:12]} shows what is behind it.")


def _detail(span: Mapping[str, Any]) -> str:
    told = (f"{k} {v}" for k, v in span.items() if k not in SHOWN and v not in ("", None, [], {}))
    return _short(", ".join(told), 70)


def _number(span: Mapping[str, Any], name: str) -> float:
    value = span.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _bar(span: Mapping[str, Any], whole: float) -> str:
    start = max(0, min(BARS - 1, int(BARS * _number(span, "start_ms") / whole)))
    width = max(1, min(BARS - start, round(BARS * _number(span, "ms") / whole)))
    return "·" * start + "█" * width + "·" * (BARS - start - width)
