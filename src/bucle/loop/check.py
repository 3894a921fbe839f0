"""What bucle.yaml can get wrong and only a late step would notice."""

from __future__ import annotations

from difflib import get_close_matches

from bucle.core.errors import ConfigError
from bucle.core.yamlfile import at_line
from bucle.customise.registry import technique
from bucle.loop.prompts import check_task_prompt
from bucle.loop.replay import read_log
from bucle.loop.rungs import rungs_of
from bucle.loop.workspace import Workspace

__all__ = ["check_project"]


def check_project(ws: Workspace) -> None:
    """Candidates, metrics, gates, settings of techniques and the replay, before the first step. Raises ConfigError with
    file and line, or BadInput."""
    from bucle.evaluate.gate import gate_metrics, parse_gate
    from bucle.evaluate.metrics.registry import check_own, is_own
    from bucle.evaluate.scoring import check_metrics, default_metrics

    file, judges = ws.root / "bucle.yaml", tuple(ws.config.judges)
    for name, task in ws.config.tasks.items():
        ws.rows_file(name)
        check_task_prompt(ws, name)
        with at_line(file, "choose", "candidates"):
            rungs_of(ws, name)
        with at_line(file, "tasks", name, "metrics"):
            asked = {"k": getattr(task, "k", None), "samples": getattr(task, "samples", None)}
            check_metrics(task.kind, task.metrics, judges, **asked)
        for n, gate in enumerate(task.gates):
            with at_line(file, "tasks", name, "gates", n):
                parse_gate(gate, judges=judges)
                own = {name: value for name, value in asked.items() if value is not None}
                first = (task.metrics or default_metrics(task.kind, **own))[0]
                check_metrics(task.kind, tuple(dict.fromkeys((first, *gate_metrics([gate])))), judges, **asked)
        with at_line(file, "tasks", name, "metrics" if any(map(is_own, task.metrics)) else "gates"):
            check_own((*task.metrics, *gate_metrics(task.gates)), ws.root, ws.trusted)
        if task.kind == "retrieve" and not any(model.kind == "encoder" for model in ws.config.models.values()):
            with at_line(file, "tasks", name, "kind"):
                raise ConfigError(
                    f"The retrieve task `{name}` needs an index, and no encoder is under `models:` to make one.",
                    "Add `minilm: {kind: encoder}` under models:, which comes with Bucle.",
                )
    if any(task.chains for task in ws.config.tasks.values()):
        from bucle.loop.chains import check_trust  # a project without chains does not wait for them

        check_trust(ws)
    for given_name, given in ws.config.choose.techniques.items():
        with at_line(file, "choose", "techniques", given_name):
            known = technique(given_name).settings
            if unknown := sorted(set(given) - known):
                near = get_close_matches(unknown[0], known, n=1)
                raise ConfigError(
                    f"choose.techniques: `{given_name}` has no setting `{unknown[0]}`.",
                    f"Did you mean `{near[0]}`?" if near else f"It reads: {', '.join(sorted(known)) or 'none'}.",
                )
    if replay := ws.config.replay:
        read_log(ws.file(replay.log))
        if replay.upstream and replay.upstream not in ws.config.models:
            with at_line(file, "replay", "upstream"):
                raise ConfigError(
                    f"replay.upstream names `{replay.upstream}`, which is not under `models:`.",
                    f"Known: {', '.join(ws.config.models)}.",
                )
