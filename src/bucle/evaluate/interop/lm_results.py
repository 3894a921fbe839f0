"""Results of lm-evaluation-harness: `results_*.json` and, beside it, `samples_TASK_*.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import file_sha256
from bucle.evaluate.interop.imported import Imported, ImportedRow, number, text_of
from bucle.evaluate.interop.untrusted import json_lines

__all__ = ["looks_like_lm_eval", "of_results", "read_results"]

_DROPPED = ("dataset_kwargs",)
"""Paths of the machine that ran it say nothing about what the task is, and more than they should about the machine."""


def looks_like_lm_eval(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("results"), dict) and isinstance(value.get("configs"), dict)


def read_results(value: Mapping[str, Any], path: Path) -> list[Imported]:
    """One evaluation a task of a `results_*.json`, already read, with the samples that were logged in the same second.
    Raises BadInput."""
    stamp = path.stem.partition("results_")[2]
    samples: dict[str, Iterable[Mapping[str, Any]]] = {}
    for task in value["configs"]:
        wanted = f"samples_{task}_{stamp}.jsonl"
        beside = next((p for p in path.parent.iterdir() if p.name == wanted and not p.is_symlink()), None)
        if beside is not None:
            samples[str(task)] = (one for _, one in json_lines(beside))
    return of_results(value, samples, source_sha256=file_sha256(path))


def of_results(
    value: Mapping[str, Any], samples: Mapping[str, Iterable[Mapping[str, Any]]], *, source_sha256: str = ""
) -> list[Imported]:
    """The evaluations in a results object as the harness makes it, one a task that is no group of tasks."""
    settings = _dict(value.get("config"))
    model = str(value.get("model_name") or _dict(settings.get("model_args")).get("pretrained") or settings.get("model"))
    made = []
    for task, config in value["configs"].items():
        if not isinstance(config, dict):
            raise BadInput(f"The configuration of `{str(task)[:80]}` is no object.", "Export the results again.")
        metrics, errors = _metrics(_dict(_dict(value["results"]).get(task)))
        notes: Counter[str] = Counter()
        rows = _rows(samples.get(task, ()), str(task), notes)
        said = [f"{n} {what}" for what, n in notes.items()]
        if not rows:
            said.append("no samples: run the harness with --log_samples to compare by sample")
        if settings.get("limit"):
            said.append(f"only the first samples were asked (limit {settings['limit']})")
        kept = {k: v for k, v in config.items() if k not in _DROPPED}
        if isinstance(kept.get("metadata"), dict):
            kept["metadata"] = {k: v for k, v in kept["metadata"].items() if k != "config_source"}
        shots = _dict(value.get("n-shot")).get(task)
        made.append(
            Imported(
                tool="lm-eval",
                version=str(value.get("lm_eval_version") or ""),
                model=model,
                task=str(task),
                task_version=str(_dict(value.get("versions")).get(task, "")),
                config={**kept, "num_fewshot": shots, "chat_template_sha": value.get("chat_template_sha")},
                created=_date(value.get("date")),
                metrics=metrics,
                errors=errors,
                rows=rows,
                status="success",
                source_sha256=source_sha256,
                notes=said,
            )
        )
    if not made:
        raise BadInput("The results name no task.", "Give a results_*.json of lm-evaluation-harness.")
    return made


def _metrics(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """`acc` (with its filter after a comma where that is not `none`) -> value, and its standard error."""
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in results.items():
        name, _, chosen = str(key).partition(",")
        found = number(value)
        if found is None or not chosen:
            continue
        error = name.endswith("_stderr")
        (errors if error else values)[_named(name.removesuffix("_stderr") if error else name, chosen)] = found
    return values, errors


def _named(metric: str, chosen: str) -> str:
    return metric if chosen in ("", "none") else f"{metric},{chosen}"


def _rows(samples: Iterable[Mapping[str, Any]], task: str, notes: Counter[str]) -> list[ImportedRow]:
    """A row for each document; the scores of all its filters are its own."""
    rows: dict[str, ImportedRow] = {}
    for place, sample in enumerate(samples, 1):
        if "doc_id" not in sample:
            raise BadInput(f"`{task}`, sample {place}: it has no doc_id.", "Export it with --log_samples again.")
        row = f"{sample['doc_id']}:{str(sample.get('doc_hash', ''))[:12]}"
        chosen, scores = str(sample.get("filter", "")), {}
        names = sample.get("metrics")
        for name in names if isinstance(names, list) else []:
            found = number(sample.get(name))
            if found is None:
                notes[f"values of {str(name)[:40]} belong to the whole corpus, not to a sample"] += 1
            else:
                scores[_named(str(name), chosen)] = found
        if row in rows:
            rows[row] = ImportedRow(**{**vars(rows[row]), "scores": {**rows[row].scores, **scores}})
            continue
        answers = sample.get("filtered_resps")
        rows[row] = ImportedRow(
            id=row,
            input=_prompt(sample.get("arguments")) or text_of(sample.get("doc")),
            target=text_of(sample.get("target")),
            output=text_of(answers[0] if isinstance(answers, list) and len(answers) == 1 else answers),
            scores=scores,
        )
    return list(rows.values())


def _prompt(arguments: Any) -> str:
    """What was asked first: from a file a mapping of mappings, from memory pairs."""
    first: Any = None
    if isinstance(arguments, dict) and arguments:
        first = _dict(next(iter(arguments.values()))).get("arg_0")
    elif isinstance(arguments, (list, tuple)) and arguments and isinstance(arguments[0], (list, tuple)):
        first = arguments[0][0] if arguments[0] else None
    return first[:20_000] if isinstance(first, str) else ""


def _date(value: Any) -> str:
    found = number(value)
    try:
        return datetime.fromtimestamp(found, UTC).isoformat() if found else ""
    except (ValueError, OverflowError, OSError):
        return ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
