"""Argilla's JSON: records with fields, suggestions and responses, as `Dataset.records.to_json` of 2.x writes it (lists
of responses, as 1.x wrote, are read too).

Argilla's users are UUIDs: a name here becomes one that follows from it (RFC 9562, version 5), and the record's metadata
`bucle` says whose it is, so that ids, who and when come back.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from bucle.core.errors import BadInput
from bucle.core.records import Annotation, Example
from bucle.data.label.exchange import Asked, Remark, mended

__all__ = ["read_argilla", "user_id", "write_argilla"]



def user_id(name: str) -> str:
    """The UUID that stands for a person."""
    return str(uuid5(NAMESPACE_URL, f"bucle:annotator:{name}"))


def write_argilla(rows: Sequence[Example], said: Mapping[str, Sequence[Annotation]], *, kind: str) -> str:
    """Records for `Dataset.records.from_json`; the dataset's settings have a field `text` and a question `label`
    (LabelQuestion) or `answer` (TextQuestion), and allow extra metadata. A conversation stands in a field `chat` too
    (ChatField)."""
    question, records = "label" if kind == "classify" else "answer", []
    for row in rows:
        people = [a for a in said.get(row.id, ()) if a.kind != "prelabel"]
        machines = [a for a in said.get(row.id, ()) if a.kind == "prelabel"][-1:]
        # An adjudicator may have answered as well: Argilla takes one answer a person, the decision is that.
        one_each = {a.by: a for a in sorted(people, key=lambda a: (a.kind == "adjudication", a.at))}
        told = [
            a.model_dump(include={"id", "by", "at", "kind", "label", "note"}) for a in (*one_each.values(), *machines)
        ]
        records.append(
            {
                "id": row.id,
                "fields": {"text": row.input} | ({"chat": json.loads(row.input)} if kind == "converse" else {}),
                "metadata": {"source": row.source, "bucle": json.dumps(told, ensure_ascii=False)},
                "suggestions": {question: {"value": machines[0].label, "score": None, "agent": machines[0].by}}
                if machines
                else {},
                "responses": {question: [{"value": a.label, "user_id": user_id(a.by)} for a in one_each.values()]}
                if one_each
                else {},
                "vectors": {},
                "_server_id": None,
            }
        )
    return json.dumps(records, ensure_ascii=False, indent=1) + "\n"


def read_argilla(records: Sequence[Any], question: str = "") -> tuple[list[Asked], Counter[str]]:
    """The rows of an export. Raises BadInput where a dataset asks several questions and none is named."""
    left: Counter[str] = Counter()
    question = question or _one_question(records)
    found = []
    for record in records:
        fields = record.get("fields") if isinstance(record, dict) else None
        if not isinstance(fields, dict):
            left["malformed"] += 1
            continue
        own = _own(record)
        remarks = []
        for value, by, status in _responses(record, question):
            if status not in ("", "submitted"):
                left["skipped-there"] += 1
            elif not isinstance(value, str):
                left["several-labels" if isinstance(value, list) else "no-label"] += 1
            else:
                ours = next((o for o in own if user_id(o["by"]) == by and o["label"] == value), None)
                name = next((o["by"] for o in own if user_id(o["by"]) == by), by)
                remarks.append(_ours(ours) if ours and ours["kind"] != "prelabel" else Remark(name, value))
        for value, agent in _suggestions(record, question):
            if not isinstance(value, str):
                left["several-labels" if isinstance(value, list) else "no-label"] += 1
                continue
            ours = next((o for o in own if o["kind"] == "prelabel" and o["label"] == value and o["by"] == agent), None)
            remarks.append(_ours(ours) if ours else Remark(agent or "argilla", value, kind="prelabel"))
        name = record.get("id") or record.get("external_id")
        found.append(Asked(name if isinstance(name, str) else "", _text(fields), tuple(remarks)))
    return found, left


def _ours(own: Mapping[str, Any]) -> Remark:
    return Remark(own["by"], own["label"], own["at"], own["kind"], own["id"], own["note"])


def _own(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What our export wrote into the metadata, if it is that."""
    metadata = record.get("metadata")
    raw = metadata.get("bucle") if isinstance(metadata, dict) else None
    try:
        told = mended(json.loads(raw)) if isinstance(raw, str) else []
    except (ValueError, RecursionError):
        return []
    names = {"id", "by", "at", "kind", "label", "note"}
    kinds = ("annotation", "prelabel", "adjudication")
    return [
        one
        for one in (told if isinstance(told, list) else [])
        if isinstance(one, dict)
        and set(one) == names
        and all(isinstance(v, str) for v in one.values())
        and one["kind"] in kinds
    ]


def _responses(record: Mapping[str, Any], question: str) -> Iterator[tuple[Any, str, str]]:
    """(value, user, status) of each response to a question."""
    listed = record.get("responses")
    if isinstance(listed, dict):
        given = listed.get(question)
        for one in given if isinstance(given, list) else []:
            if isinstance(one, dict):
                yield one.get("value"), str(one.get("user_id") or "argilla"), str(one.get("status") or "")
    elif isinstance(listed, list):
        for one in listed:
            values = one.get("values") if isinstance(one, dict) else None
            inner = values.get(question) if isinstance(values, dict) else None
            if isinstance(inner, dict):
                yield inner.get("value"), str(one.get("user_id") or "argilla"), str(one.get("status") or "")


def _suggestions(record: Mapping[str, Any], question: str) -> Iterator[tuple[Any, str]]:
    listed = record.get("suggestions")
    if isinstance(listed, dict):
        one = listed.get(question)
        if isinstance(one, dict):
            yield one.get("value"), str(one.get("agent") or "")
    elif isinstance(listed, list):
        for one in listed:
            if isinstance(one, dict) and one.get("question_name") == question:
                yield one.get("value"), str(one.get("agent") or "")


def _text(fields: Mapping[str, Any]) -> str:
    for name in ("text", "question", "input", "prompt", "texto", "pregunta"):
        if isinstance(fields.get(name), str):
            return str(fields[name])
    return max((v for v in fields.values() if isinstance(v, str)), key=len, default="")


def _one_question(records: Sequence[Any]) -> str:
    seen: Counter[str] = Counter()
    for record in records:
        for part in ("responses", "suggestions"):
            listed = record.get(part) if isinstance(record, dict) else None
            if isinstance(listed, dict):
                seen.update(str(name) for name in listed)
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, dict):
                    values = one.get("values")
                    names = [one["question_name"]] if "question_name" in one else values
                    seen.update(str(name) for name in (names if isinstance(names, dict | list) else []))
    for name in ("label", "answer"):
        if name in seen:
            return name
    if len(seen) > 1:
        names = ", ".join(f"{name[:60]} ({n})" for name, n in seen.most_common(10))
        raise BadInput(f"The file answers several questions: {names}.", "Choose one: --control NAME")
    return next(iter(seen), "label")
