"""JSON and JSON lines given as documents: keys as headings and fields, lists of like records as tables."""

from __future__ import annotations

import json
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.slack import is_index, is_slack, people, read_messages
from bucle.data.parse.source import MAX_TEXT, Raw, decode, markdown_table, tidy

__all__ = ["read"]

MAX_RECORDS = 50_000
MAX_NESTING = 100
_CELL = 200  # characters; longer ones make a table nobody can read


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title (`title` or `name` at the top) and blocks of a .json or .jsonl; the place is `section A > B`,
    `record N` or `line N`. A Slack day is a chat, its people told by `users.json`.
    """
    text = decode(raw.data).lstrip("\ufeff")
    if len(text) > 2 * MAX_TEXT:
        raise Quarantined("too-large", f"The file holds over {2 * MAX_TEXT:,} characters.")
    if raw.suffix != ".json":
        return "", _lines(text)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(text, error) from error
    except RecursionError as error:
        raise Quarantined("corrupt", "The JSON is nested deeper than any real document.") from error
    if is_slack(value):
        return "", read_messages(value, people(raw.beside))
    if is_index(raw.name, value):
        raise Quarantined("not-a-document", "The file lists people or channels of a Slack export; nobody speaks in it.")
    blocks: list[Block] = []
    _walk(value, (), blocks, 0)
    title = (
        next((value[key] for key in ("title", "name") if isinstance(value.get(key), str)), "")
        if isinstance(value, dict)
        else ""
    )
    return tidy(title), blocks


def _refused(text: str, error: json.JSONDecodeError) -> Quarantined:
    if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
        return Quarantined("corrupt", f"The JSON is cut short: it ends at line {error.lineno} before it is complete.")
    return Quarantined("corrupt", f"The file is not JSON at line {error.lineno}, column {error.colno}.")


def _lines(text: str) -> list[Block]:
    blocks: list[Block] = []
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > MAX_RECORDS:
        raise _too_many()
    for number, line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if number == lines[-1][0] and number > 1 and not text.endswith("\n"):
                raise Quarantined(
                    "corrupt", f"The file is cut short: line {number}, its last, is incomplete."
                ) from error
            raise Quarantined("corrupt", f"Line {number} is not JSON.") from error
        except RecursionError as error:
            raise Quarantined("corrupt", f"Line {number} is nested deeper than any real document.") from error
        found: list[Block] = []
        _walk(value, (), found, 0)
        place = f"line {number}"
        blocks += [one.model_copy(update={"place": f"{place}, {one.place}" if one.place else place}) for one in found]
    return blocks


def _too_many() -> Quarantined:
    return Quarantined(
        "too-large", f"The file has over {MAX_RECORDS:,} records. Give it as a data set, not as a document."
    )


def _walk(value: Any, path: tuple[str, ...], blocks: list[Block], depth: int) -> None:
    if depth > MAX_NESTING:
        raise Quarantined("corrupt", "The JSON is nested deeper than any real document.")
    if len(blocks) > 4 * MAX_RECORDS:
        raise _too_many()
    if isinstance(value, dict):
        _object(value, path, blocks, depth)
    elif isinstance(value, list):
        _list(value, path, blocks, depth)
    elif _text(value):
        blocks.append(Block(text=_text(value), place=_place(path)))


def _object(value: dict[str, Any], path: tuple[str, ...], blocks: list[Block], depth: int) -> None:
    fields = [f"{tidy(key)}: {_text(one)}" for key, one in value.items() if not _holds(one) and _text(one)]
    if fields:
        blocks.append(Block(text="\n".join(fields), place=_place(path)))
    for key, one in value.items():
        if _holds(one) and one:
            inner = (*path, tidy(key)[:120] or "?")
            blocks.append(Block(text=inner[-1], place=_place(inner), kind="heading"))
            _walk(one, inner, blocks, depth + 1)


def _list(value: list[Any], path: tuple[str, ...], blocks: list[Block], depth: int) -> None:
    if len(value) > MAX_RECORDS:
        raise _too_many()
    if not any(_holds(one) for one in value):
        text = "\n".join(f"- {_text(one)}" for one in value if _text(one))
        if text:
            blocks.append(Block(text=text, place=_place(path)))
        return
    table = _table(value)
    if table:
        blocks.append(Block(text=table, place=_place(path), kind="table"))
        return
    for number, one in enumerate(value, 1):
        _walk(one, (*path, f"record {number}"), blocks, depth + 1)


def _table(records: list[Any]) -> str:
    """Two records or more, flat, with the same keys and short values, as a Markdown table; else empty."""
    if len(records) < 2 or not isinstance(records[0], dict) or not 2 <= len(records[0]) <= 30:
        return ""
    keys = list(records[0])
    rows = [keys]
    for one in records:
        if not isinstance(one, dict) or list(one) != keys or any(_holds(cell) for cell in one.values()):
            return ""
        rows.append([_text(cell) for cell in one.values()])
        if max(len(cell) for cell in rows[-1]) > _CELL:
            return ""
    return markdown_table(rows)


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return tidy(value) if isinstance(value, str) else json.dumps(value)


def _place(path: tuple[str, ...]) -> str:
    if not path:
        return ""
    return path[0] if len(path) == 1 and path[0].startswith("record ") else "section " + " > ".join(path)[:200]
