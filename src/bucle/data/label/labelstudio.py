"""Label Studio's JSON: tasks with annotations and predictions; choices for labels, text areas for answers.

The format: https://labelstud.io/guide/task_format. Label Studio keeps a task's `data` and a result's `meta` as they
are, so that ids, who and when come back from it: its own users are numbers and e-mails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Annotation, Example
from bucle.data.label.exchange import Asked, Remark

__all__ = ["read_label_studio", "write_label_studio"]

CONTROLS = ("label", "answer")


def write_label_studio(rows: Sequence[Example], said: Mapping[str, Sequence[Annotation]], *, kind: str) -> str:
    """Tasks for `Import` in Label Studio. Its labelling configuration reads `$text` and has a control `label`
    (Choices) or `answer` (TextArea); `docs/label.md` shows both. A conversation stands in `$dialogue` too (for a
    Paragraphs tag)."""
    tasks = []
    for number, row in enumerate(rows, 1):
        people = [a for a in said.get(row.id, ()) if a.kind != "prelabel"]
        machines = [a for a in said.get(row.id, ()) if a.kind == "prelabel"]
        task: dict[str, Any] = {"id": number, "data": {"text": row.input, "bucle_id": row.id, "source": row.source}}
        if kind == "converse":
            said_so_far = [{"author": one["role"], "text": one["content"]} for one in json.loads(row.input)]
            task["data"]["dialogue"] = said_so_far
        task["annotations"] = [
            {
                "result": _result(a, kind),
                "was_cancelled": False,
                "ground_truth": a.kind == "adjudication",
                "created_at": a.at,
                "updated_at": a.at,
                **({"completed_by": {"email": a.by}} if "@" in a.by else {}),
            }
            for a in people
        ]
        task["predictions"] = [
            {"result": _result(a, kind), "model_version": a.by, "created_at": a.at} for a in machines
        ]
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _result(item: Annotation, kind: str) -> list[dict[str, Any]]:
    control = "label" if kind == "classify" else "answer"
    value = {"choices": [item.label]} if kind == "classify" else {"text": [item.label]}
    meta = item.model_dump(include={"id", "by", "at", "kind", "label", "note"})
    return [
        {
            "id": item.id[-10:],
            "from_name": control,
            "to_name": "text",
            "type": "choices" if kind == "classify" else "textarea",
            "value": value,
            "meta": {"bucle": meta},
        }
    ]


def read_label_studio(records: Sequence[Any], control: str = "") -> tuple[list[Asked], Counter[str]]:
    """The rows of an export. Raises BadInput where a task has several controls and none is named."""
    left: Counter[str] = Counter()
    control = control or _one_control(records)
    found = []
    for record in records:
        data = record.get("data") if isinstance(record, dict) else None
        if not isinstance(data, dict):
            left["malformed"] += 1
            continue
        remarks = []
        for part, machine in (("annotations", False), ("completions", False), ("predictions", True)):
            listed = record.get(part) or []
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, dict) and (remark := _remark(one, control, machine, left)):
                    remarks.append(remark)
                elif not isinstance(one, dict) and part != "predictions":
                    left["malformed"] += 1
        own = data.get("bucle_id")
        found.append(Asked(own if isinstance(own, str) else "", _text(data), tuple(remarks)))
    return found, left


def _remark(one: Mapping[str, Any], control: str, machine: bool, left: Counter[str]) -> Remark | None:
    if one.get("was_cancelled"):
        left["skipped-there"] += 1
        return None
    results = one.get("result")
    items = [r for r in results if isinstance(r, dict)] if isinstance(results, list) else []
    chosen = [r for r in items if r.get("from_name") == control and r.get("type") in ("choices", "textarea")]
    if len(chosen) != 1:
        left["no-label" if not chosen else "several-labels"] += 1
        return None
    value = chosen[0].get("value")
    raw = value.get("choices" if chosen[0]["type"] == "choices" else "text") if isinstance(value, dict) else None
    values = [raw] if isinstance(raw, str) else raw
    if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], str):
        left["several-labels" if isinstance(values, list) and len(values) > 1 else "no-label"] += 1
        return None
    label = values[0]
    meta = chosen[0].get("meta")
    own = meta.get("bucle") if isinstance(meta, dict) else None
    if isinstance(own, dict) and own.get("label") == label and all(isinstance(v, str) for v in own.values()):
        kind = own.get("kind", "annotation")
        if kind in ("annotation", "prelabel", "adjudication") and (kind == "prelabel") == machine:
            return Remark(own.get("by", ""), label, own.get("at", ""), kind, own.get("id", ""), own.get("note", ""))
    at = next((str(one[k]) for k in ("updated_at", "created_at") if isinstance(one.get(k), str)), "")
    if machine:
        return Remark(str(one.get("model_version") or "label-studio"), label, at, "prelabel", _id(one))
    return Remark(_author(one.get("completed_by")), label, at, "annotation", _id(one))


def _id(one: Mapping[str, Any]) -> str:
    return f"label-studio:{one.get('unique_id') or one.get('id') or ''}"


def _author(by: Any) -> str:
    """An e-mail or name where there is one, else the user's number."""
    if isinstance(by, dict):
        name = " ".join(str(by[k]) for k in ("first_name", "last_name") if by.get(k))
        return str(by.get("email") or by.get("username") or name or by.get("id") or "label-studio")
    return f"label-studio-{by}" if isinstance(by, int) else str(by or "label-studio")


def _text(data: Mapping[str, Any]) -> str:
    for name in ("text", "question", "input", "texto", "pregunta"):
        if isinstance(data.get(name), str):
            return str(data[name])
    texts = [v for k, v in data.items() if isinstance(v, str) and k not in ("bucle_id", "source", "id")]
    return max(texts, key=len, default="")


def _one_control(records: Sequence[Any]) -> str:
    seen: Counter[str] = Counter()
    for record in records:
        if not isinstance(record, dict):
            continue
        for part in ("annotations", "completions", "predictions"):
            listed = record.get(part)
            for one in listed if isinstance(listed, list) else []:
                results = one.get("result") if isinstance(one, dict) else None
                for item in results if isinstance(results, list) else []:
                    if isinstance(item, dict) and item.get("type") in ("choices", "textarea"):
                        seen[str(item.get("from_name"))] += 1
    for name in CONTROLS:
        if name in seen:
            return name
    if len(seen) > 1:
        names = ", ".join(f"{name[:60]} ({n})" for name, n in seen.most_common(10))
        raise BadInput(f"The file answers several questions: {names}.", "Choose one: --control NAME")
    return next(iter(seen), "label")
