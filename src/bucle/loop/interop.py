"""Evaluations of other tools in the ledger, shown with Bucle's intervals and compared by sample; and a Bucle model
under lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Candidate, Node
from bucle.loop.measure import release_called
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.evaluate.interop import Imported

__all__ = ["compare_imported", "import_evaluations", "imported", "lm_eval", "model_node"]


def import_evaluations(
    ws: Workspace, path: Path, bad: list[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """Store the evaluations in a file or folder (lm-evaluation-harness, Inspect), a node each; the same file again is
    the same node. Returns what `imported` does, of these. With `bad`, what of a folder cannot be read is put into it,
    name and reason, and the rest is stored. Raises NotFound and BadInput."""
    from bucle.evaluate.interop import read_evaluations

    found = []
    for one in read_evaluations(path, bad):
        try:
            found.append(_told(ws, _store(ws, one)))
        except BadInput as error:
            if bad is None or not path.is_dir():
                raise
            bad.append((one.task, error.message))
    return found


def imported(ws: Workspace) -> list[dict[str, Any]]:
    """The imported evaluations, newest first: id, tool, model, task, rows, the tool's own `reported` figures, and each
    metric by sample with its interval (clustered by sample where it was asked more than once)."""
    return [_told(ws, node) for node in reversed(ws.ledger.nodes("evaluation")) if "tool" in node.attrs]


def compare_imported(ws: Workspace, a: str, b: str) -> dict[str, Any]:
    """The paired difference `b - a` of each metric on the samples both asked. Raises NotFound, and BadInput where they
    share none."""
    from bucle.evaluate.statistics import paired_difference, paired_p

    first, second = _node(ws, a), _node(ws, b)
    mine, theirs = _by_sample(ws, first), _by_sample(ws, second)
    metrics: dict[str, Any] = {}
    for name in [m for m in mine if m in theirs]:
        shared = [key for key in mine[name] if key in theirs[name]]
        x, y = [mine[name][key] for key in shared], [theirs[name][key] for key in shared]
        if not shared or min(*x, *y, 0.0) < 0 or max(*x, *y, 1.0) > 1:
            continue
        clusters = [sample for sample, _ in shared]
        metrics[name] = {
            "a": sum(x) / len(x),
            "b": sum(y) / len(y),
            "difference": paired_difference(y, x, clusters=clusters).model_dump(),
            "p": paired_p(y, x, clusters=clusters),
        }
    if not metrics:
        raise BadInput(
            f"{first.attrs['task']} of {first.attrs['model']} and {second.attrs['task']} of {second.attrs['model']} "
            "share no sample that was scored.",
            "Compare two runs of one task, imported with their samples; bucle evaluate imported lists them.",
        )
    return {
        "a": _head(first),
        "b": _head(second),
        "same_task": first.attrs["config_sha256"] == second.attrs["config_sha256"],
        "metrics": metrics,
    }


def lm_eval(
    ws: Workspace,
    tasks: Sequence[str],
    *,
    model: str = "",
    release: str = "",
    task: str = "",
    limit: int | None = None,
    shots: int | None = None,
    include: Path | None = None,
    out: Path | None = None,
    chat: bool = False,
) -> list[dict[str, Any]]:
    """Run lm-evaluation-harness `tasks` against a model of bucle.yaml, or a release's candidate of `task`, and store
    what came of it. `include` is a folder of task files; `out` a folder for the harness's own result files. Raises
    BadInput for a task it does not know or a request that the model cannot serve."""
    from bucle.evaluate.interop.lm_eval import chat_lm, local_lm, predictor_lm, run
    from bucle.loop.model_steps import chat_model

    if release:
        node = release_called(ws, release)
        served = node.attrs["tasks"]
        name = task or next(iter(served))
        if name not in served:
            raise BadInput(f"Version {node.attrs['version']} has no `{name}`.", f"It has: {', '.join(served)}.")
        candidate = Candidate.model_validate(ws.ledger.get(served[name]).attrs)
        called = f"{ws.config.project} v{node.attrs['version']} {name}: {candidate.name}"
        lm, parent = predictor_lm(open_candidate(ws, str(served[name])), called), ("candidate", str(served[name]))
    else:
        parent = ("model", model_node(ws, model))
        opened: Any = chat_model(ws, parent[1])
        lm = local_lm(opened) if hasattr(opened, "tokenizer") else chat_lm(opened)
    with remembered_replies(ws):  # a remote model is asked nothing twice, however often this is begun again
        found = run(lm, tasks, limit=limit, shots=shots, include=include, out=out, chat=chat)
    return [_told(ws, _store(ws, one, [parent])) for one in found]


def model_node(ws: Workspace, name: str) -> str:
    """The node of a model of bucle.yaml that can be asked; of a pretrained one, the newest that was trained."""
    from bucle.core.config import EncoderModel, RerankerModel
    from bucle.loop.model_steps import node_of

    askable = {n: m for n, m in ws.config.models.items() if not isinstance(m, EncoderModel | RerankerModel)}
    name = name or next(iter(askable), "")
    if name not in askable:
        raise BadInput(f"There is no model `{name}` to ask." if name else "No model here can be asked.",
                       f"--model one of: {', '.join(askable)}" if askable else "Add one under `models:` in bucle.yaml.")
    return node_of(ws, name)


def _store(ws: Workspace, one: Imported, parents: Sequence[tuple[str, str]] = ()) -> Node:
    if not one.rows and not one.metrics:
        raise BadInput(f"{one.task} ({one.tool}) has neither figures nor samples: it is empty.", "Run it again.")
    lines = [
        json.dumps({**vars(row), "scores": dict(row.scores), "usage": row.usage.model_dump()}, ensure_ascii=False)
        for row in one.rows
    ]
    attrs = {
        "task": one.task,
        "rows": len(one.rows),
        "tool": one.tool,
        "tool_version": one.version,
        "model": one.model,
        "task_version": one.task_version,
        "config_sha256": one.config_sha256,
        "created": one.created,
        "reported": dict(one.metrics),
        "reported_stderr": dict(one.errors),
        "usage": one.usage.model_dump(),
        "status": one.status,
        "source_sha256": one.source_sha256,
        "notes": list(one.notes),
    }
    config = json.dumps(one.config, ensure_ascii=False, default=str, sort_keys=True)
    blobs = {
        "samples.jsonl": "".join(line + "\n" for line in lines).encode("utf-8", "replace"),
        "config.json": config.encode("utf-8", "replace"),
    }
    return ws.ledger.put("evaluation", attrs, parents=parents, blobs=blobs)


def _head(node: Node) -> dict[str, Any]:
    kept = ("tool", "tool_version", "model", "task", "task_version", "rows", "created", "config_sha256", "status")
    return {"id": node.id, **{key: node.attrs.get(key, "") for key in kept}}


def _told(ws: Workspace, node: Node) -> dict[str, Any]:
    from bucle.evaluate.statistics import bootstrap_mean, interval

    metrics: dict[str, Any] = {}
    for name, values in _by_sample(ws, node).items():
        scores, clusters = list(values.values()), [sample for sample, _ in values]
        if min(scores) >= 0 and max(scores) <= 1:
            metrics[name] = interval(scores, clusters=clusters).model_dump()
        elif len(set(clusters)) == len(clusters) > 1:
            metrics[name] = bootstrap_mean(scores, seed=ws.config.seed).model_dump()
    attrs = node.attrs
    return {
        **_head(node),
        "metrics": metrics,
        "reported": attrs["reported"],
        "reported_stderr": attrs["reported_stderr"],
        "usage": attrs["usage"],
        "notes": attrs["notes"],
    }


def _by_sample(ws: Workspace, node: Node) -> dict[str, dict[tuple[str, int], float]]:
    """Metric -> (sample, which time it was asked) -> score."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    times: dict[str, int] = {}
    for line in ws.ledger.read(node, "samples.jsonl").splitlines():
        row: Mapping[str, Any] = json.loads(line)
        times[row["id"]] = epoch = times.get(row["id"], -1) + 1
        for name, value in row["scores"].items():
            found.setdefault(name, {})[row["id"], epoch] = float(value)
    return found


def _node(ws: Workspace, name: str) -> Node:
    node = ws.ledger.get(name)
    if node.kind != "evaluation" or "tool" not in node.attrs:
        raise NotFound(f"{name} is no imported evaluation.", "bucle evaluate imported lists them.")
    return node
