"""A chain as a graph to look at: indented text, and Mermaid."""

from __future__ import annotations

from bucle.customise.chain.graph import edges
from bucle.customise.chain.spec import END, AnyStep, ChainSpec, CheckStep, HttpStep, ParallelStep

__all__ = ["as_mermaid", "as_text"]


def as_text(spec: ChainSpec) -> str:
    """A line a step, with what it does, its settings and where it goes on."""
    ways, lines = edges(spec), [f"{spec.name}" + (f": {spec.about}" if spec.about else "")]
    order = [*(step.name for step in spec.steps), END]
    for n, step in enumerate(spec.steps):
        lines.append(f"  {n + 1}. {step.name} ({step.kind}){_settings(step)}")
        for inner in step.steps if isinstance(step, ParallelStep) else ():
            lines.append(f"       ‖ {inner.name} ({inner.kind}){_settings(inner)}")
        for target, why in ways[step.name]:
            if target != order[n + 1] or why not in ("", "skipped"):
                lines.append(f"       -> {target}" + (f"  ({_why(why)})" if why else ""))
        if isinstance(step, CheckStep) and step.on_fail and step.on_fail.retry:
            lines.append(f"       <- {step.on_fail.retry}  (fails, at most {step.on_fail.times} times)")
    lines.append(f"  answer: {spec.output or 'the text of the last step that gave one'}")
    return "\n".join(lines)


def as_mermaid(spec: ChainSpec) -> str:
    """The chain as a Mermaid flowchart."""
    ids = {name: f"s{n}" for n, name in enumerate([*(step.name for step in spec.steps), END])}
    lines = ["flowchart TD"]
    for step in spec.steps:
        if isinstance(step, ParallelStep):
            lines.append(f"  subgraph {ids[step.name]} [{_safe(step.name)}]")
            lines += [f'    {ids[step.name]}p{n}["{_safe(inner.name)}<br/>{inner.kind}"]'
                      for n, inner in enumerate(step.steps)]
            lines.append("  end")
        elif isinstance(step, CheckStep):
            lines.append(f'  {ids[step.name]}{{"{_safe(step.name)}<br/>check"}}')
        else:
            lines.append(f'  {ids[step.name]}["{_safe(step.name)}<br/>{step.kind}"]')
    lines.append(f"  {ids[END]}([{END}])")
    for name, targets in edges(spec).items():
        for target, why in targets:
            label = f'|"{_safe(_why(why))}"|' if why else ""
            lines.append(f"  {ids[name]} -->{label} {ids[target]}")
    for step in spec.steps:
        if isinstance(step, CheckStep) and step.on_fail and step.on_fail.retry:
            back = step.on_fail
            lines.append(f'  {ids[step.name]} -.->|"fails, {back.times}x"| {ids.get(back.retry, ids[step.name])}')
    return "\n".join(lines)


def _settings(step: AnyStep) -> str:
    said = []
    for field in ("model", "task", "function", "passages", "when"):
        if value := getattr(step, field, ""):
            said.append(f"{field} {value}")
    if isinstance(step, HttpStep):
        said.append(f"{step.method} {step.url}")
    if step.cache:
        said.append("kept forever" if step.cache < 0 else f"kept {step.cache:g} s")
    if step.retry and step.retry.times:
        said.append(f"up to {step.retry.times + 1} attempts")
    return f"  {', '.join(said)}" if said else ""


def _why(value: str) -> str:
    return {"skipped": "when not", "error": "on error", "failed": "fails", "*": "any other"}.get(value, value)


def _safe(text: str) -> str:
    return "".join(c if c not in '"<>[]{}|`#;' else " " for c in text)[:60]
