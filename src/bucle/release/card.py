"""The card of a release: what it is, what it was made from, what was measured, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["card"]


def card(
    *, project: str, version: int, tasks: Mapping[str, Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]
) -> str:
    """A Markdown card. `tasks` holds for each task its candidate's name, technique, base, dataset, rows, metrics
    (name -> value, low, high) and notes; `checks` the gates that were passed."""
    lines = [f"# {project} v{version}", ""]
    for task, facts in tasks.items():
        lines += [f"## {task}", "", f"- Candidate: `{facts['candidate']}` ({facts['technique']})"]
        lines += [
            f"- {label}: {facts[key]}"
            for key, label in (
                ("base", "Base model"),
                ("dataset", "Data"),
                ("rows", "Held-out rows"),
                ("why", "Why this one"),
            )
            if facts.get(key)
        ]
        lines += ["", "| metric | held-out value | 95% interval |", "|---|---|---|"]
        lines += [
            f"| {name} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |" for name, m in facts["metrics"].items()
        ]
        lines += [""]
        if facts.get("refit"):
            lines += [
                "The served weights were fitted again, with the same settings, on every labelled row. The figures",
                "above are of the model that never saw the held-out rows.",
                "",
            ]
    lines += ["## Gates", ""]
    lines += [
        f"- {'passed' if c['passed'] else 'FAILED'}: `{c['gate']}` {c.get('note') or ''}".rstrip() for c in checks
    ]
    lines += [
        "",
        "## Limits",
        "",
        "Measured on this team's own examples only. A message outside the labels above gets one of them",
        "all the same, with its confidence; `bucle monitor` says when such messages become common.",
        "",
    ]
    return "\n".join(lines)
