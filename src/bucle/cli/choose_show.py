"""A finished comparison for people: the answer first, the table, what became of the others, what would change it."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import table

__all__ = ["show"]

SLICES = 3
MEANS = dict.fromkeys(
    ("chrf", "bleu"), "the score is the mean of the rows' own, over 100; the corpus score stands in the report\n"
)
SCREENED = {
    "worse": "worse than {by}, proven on {rows} rows",
    "dearer": "no better than {by}, which costs less, proven on {rows} rows",
    "budget": "the budget ran out after {rows} rows; others were likelier to win",
}


def show(comparison: dict[str, Any], language: str) -> None:
    """The recommendation, every candidate with its interval, best first, and what would change the choice."""
    metric = comparison["metric"]
    click.echo(f"\n{comparison['task']}: {metric} on {comparison['n_test']} held-out rows")
    click.echo(comparison["why"])
    if detectable := comparison.get("detectable"):
        click.echo(_said(detectable, language))
    rows = sorted(comparison["candidates"], key=lambda c: -c["value"])
    months = any(c.get("usd_per_month") for c in rows)
    head = ["candidate", metric, "95%", "against baseline", "p", "verdict", "p95 ms", "$/1k"]
    table(
        head + (["$/month"] if months else []),
        [
            [
                c["name"] + (" *" if c["name"] == comparison["recommended"] else ""),
                f"{c['value']:.3f}",
                f"{c['low']:.3f} to {c['high']:.3f}",
                "" if c["diff"] is None else f"{c['diff']:+.3f} [{c['diff_low']:+.3f}, {c['diff_high']:+.3f}]",
                "" if c["p"] is None else f"{c['p']:.3f}" if c["p"] >= 0.001 else "<0.001",
                _verdict(c),
                f"{c['ms_p95']:.1f}",
                _usd(c["usd_per_1k"]),
                *([_usd(c.get("usd_per_month"))] if months else []),
            ]
            for c in rows
        ],
    )
    click.echo(f"{MEANS.get(metric, '')}p: against the best baseline, corrected for all candidates (Holm); it decides")
    if any(c.get("priced") is False for c in rows):
        click.echo("?: the price is not known; write it under `catalogue:` in bucle.yaml")
    for c in rows:
        if looked := c.get("looked_at_before"):
            click.echo(f"{c['name']}: its prompt was confirmed on {looked['rows']} of these rows before (bucle prompt "
                       "improve), so they are no fresh look at it")
    if left := _left_out(comparison, language):
        click.echo("not in the table:")
        table(["candidate", metric, "why"], left)
    worse = [s for s in (comparison.get("slices") or {}).get("found", ()) if s["worse"]][:SLICES]
    for one in worse:
        where = ", ".join(f"{facet} {value}" for facet, value in one["where"].items())
        click.echo(f"weaker where {where}: {one['value']['value']:.3f} on {one['n']} rows, {one['rest']:.3f} elsewhere")
    spent = comparison.get("spent") or {}
    if any(spent.values()):
        click.echo(
            f"choosing cost ${spent['usd']:.4g}"
            + (f", canaries ${spent['canary_usd']:.4g}" if spent["canary_usd"] else "")
            + (f", judges ${spent['judge_usd']:.4g}" if spent["judge_usd"] else "")
        )
    for one in comparison.get("flips") or ():
        click.echo(f"- {_said(one, language)}")


def _usd(value: float | None) -> str:
    return "?" if value is None else f"{value:,.2f}"


def _left_out(comparison: dict[str, Any], language: str) -> list[list[str]]:
    left = [
        [c["name"], f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]", SCREENED[c["why"]].format(**c)]
        for c in comparison.get("screened") or ()
    ]
    left += [[c["name"], "", f"not climbed: {_said(c['why'], language)}"] for c in comparison.get("not_climbed") or ()]
    left += [[c["name"], "", f"ruled out: {'; '.join(c['reasons'])}"] for c in comparison.get("ruled_out") or ()]
    return left


def _said(message: dict[str, Any], language: str) -> str:
    said: dict[str, str] = message.get("said") or {}
    return said.get(language) or str(message["key"])


def _verdict(c: dict[str, Any]) -> str:
    words = {
        "beats": "beats the baseline",
        "ties": "does not beat the baseline",
        "loses": "worse than the baseline",
        "ruled_out": f"ruled out: {c['reason']}",
        "": "the baseline",
    }
    return words[c["verdict"]]
