"""Logs of Inspect (`.eval`, a zip, and `.json`): task, model, scores, usage, and each sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import file_sha256
from bucle.core.records import Usage
from bucle.evaluate.interop.imported import Imported, ImportedRow, number, text_of
from bucle.evaluate.interop.untrusted import Archive

__all__ = ["looks_like_inspect", "read_eval", "read_json"]

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""What Inspect's own metrics make of a score that is a word (its `value_to_float`)."""


def looks_like_inspect(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("eval"), dict) and "status" in value


def read_eval(path: Path) -> Imported:
    """The log in a `.eval` file. Raises BadInput."""
    with Archive(path) as archive:
        names = set(archive.names)
        if "header.json" not in names:
            started = "the run it logs has not finished" if "_journal/start.json" in names else "no header.json"
            raise BadInput(f"{path} is no finished Inspect log: {started}.", "inspect eval-retry, or another log")
        header = archive.json("header.json")
        found = sorted(name for name in names if name.startswith("samples/") and name.endswith(".json"))
        return _imported(header, (archive.json(name) for name in found), path)


def read_json(value: Mapping[str, Any], path: Path) -> Imported:
    """The log in a `.json` file, already read. Raises BadInput."""
    return _imported(value, _list(value.get("samples")), path)


def _imported(header: Any, samples: Iterable[Any], path: Path) -> Imported:
    if not looks_like_inspect(header):
        raise BadInput(f"{path} is no Inspect log: it does not say what was evaluated.", "Give a .eval or .json log.")
    spec, notes = header["eval"], Counter[str]()
    rows = list(_rows(samples, notes, path))
    status = str(header.get("status", ""))
    results = _dict(header.get("results"))
    said = [f"{n} {what}" for what, n in notes.items()]
    if status != "success":
        said.insert(0, f"the run's status is {status or 'not told'}: its figures are of the samples that finished")
    metrics, errors = _metrics(results)
    kept = ("task", "task_version", "task_args", "dataset", "config", "model_generate_config", "scorers")
    solver = _dict(header.get("plan"))
    return Imported(
        tool="inspect",
        version=str(_dict(spec.get("packages")).get("inspect_ai", "")),
        model=str(spec.get("model", "")),
        task=str(spec.get("task", "")) or path.stem,
        task_version=str(spec.get("task_version", "")),
        config={**{k: spec.get(k) for k in kept}, "plan": {k: solver.get(k) for k in ("name", "steps", "config")}},
        created=str(spec.get("created", "")),
        metrics=metrics,
        errors=errors,
        rows=rows,
        usage=_usage(_dict(_dict(header.get("stats")).get("model_usage"))),
        status=status,
        source_sha256=file_sha256(path),
        notes=said,
    )


def _metrics(results: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """`scorer/metric` -> value, and the standard error of the mean of each scorer that gives one."""
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for score in _list(results.get("scores")):
        score = _dict(score)
        name = str(score.get("name", ""))
        for key, metric in _dict(score.get("metrics")).items():
            value = number(_dict(metric).get("value"))
            if value is None:
                continue
            if str(_dict(metric).get("name", key)).rpartition("/")[2] == "stderr":
                errors[name] = value
            else:
                values[f"{name}/{key}"] = value
    return values, errors


def _rows(samples: Iterable[Any], notes: Counter[str], path: Path) -> Iterator[ImportedRow]:
    for place, sample in enumerate(samples):
        if not isinstance(sample, dict) or "id" not in sample:
            raise BadInput(f"{path}: sample {place + 1} is no sample of Inspect's: it has no id.", "Export it again.")
        output, scores = _dict(sample.get("output")), {}
        for name, score in _dict(sample.get("scores")).items():
            made = _values(str(name), _dict(score).get("value"))
            if not made:
                notes["scores are no numbers and were left out"] += 1
            scores.update(made)
        error = _dict(sample.get("error")).get("message", "")
        if error:
            notes["samples ended in an error"] += 1
        yield ImportedRow(
            id=str(sample["id"]),
            input=_input(sample.get("input")),
            target=text_of(sample.get("target")),
            output=text_of(output.get("completion") or _completion(output)),
            scores=scores,
            usage=_usage(_dict(sample.get("model_usage"))),
            ms=1000 * (number(sample.get("total_time")) or 0.0),
            error=str(error)[:500],
        )


def _values(name: str, value: Any) -> dict[str, float]:
    """A score's value as numbers: a word by Inspect's own rule, a mapping by its keys."""
    if isinstance(value, Mapping):
        parts = ((str(key), _number(one)) for key, one in value.items())
        return {f"{name}/{key}": one for key, one in parts if one is not None}
    found = _number(value)
    return {} if found is None else {name: found}


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if value in LETTERS or value.lower() in LETTERS:
            return LETTERS.get(value, LETTERS.get(value.lower()))
        try:
            return number(float(value))
        except ValueError:
            return None
    return number(value)


def _input(value: Any) -> str:
    """A text, or the last message of a conversation."""
    if isinstance(value, list) and value:
        return text_of(_content(_dict(value[-1]).get("content")))
    return text_of(value)


def _completion(output: Mapping[str, Any]) -> str:
    choices = _list(output.get("choices"))
    return _content(_dict(_dict(choices[0]).get("message")).get("content")) if choices else ""


def _content(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(_dict(part).get("text", "")) for part in value if _dict(part).get("type") == "text")
    return value if isinstance(value, str) else text_of(value)


def _usage(by_model: Mapping[str, Any]) -> Usage:
    """Tokens over all models; dollars where the log has them."""
    tokens_in = tokens_out = 0
    usd = 0.0
    for used in map(_dict, by_model.values()):
        tokens_in += _count(used.get("input_tokens"))
        tokens_out += _count(used.get("output_tokens"))
        usd += max(0.0, number(used.get("total_cost")) or 0.0)
    return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < 2**53 else 0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
