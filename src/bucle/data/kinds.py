"""What a row of each kind of task must hold: a JSON object to extract, a conversation, tests that parse, documents."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Example, TaskKind
from bucle.data.schema import Schema

__all__ = [
    "ANSWERED",
    "OPTIONAL",
    "TEXTS",
    "Fault",
    "Parts",
    "accepted",
    "documents_of",
    "language_of",
    "parts",
    "plain",
    "readable",
    "said",
    "saying",
]

TEXTS: tuple[TaskKind, ...] = ("summarise", "translate", "extract", "generate", "instruct", "converse", "code")
"""The kinds of TextTask: a text in, a text out."""
OPTIONAL: frozenset[str] = frozenset({"answer", "generate", "instruct", "converse"})
"""Kinds whose rows may lack what is right: the documents hold no answer, or checks and judges measure without it."""
ANSWERED: Mapping[TaskKind, str] = {
    "classify": "label",
    "answer": "answer",
    "extract": "JSON object",
    "code": "tests",
    "retrieve": "documents, separated by ;",
}
"""What a person is asked for; a reference text where not named."""

MAX_MESSAGES = 200
MAX_TESTS = 100_000
MAX_CHECKS = 50
MAX_DOCUMENTS = 100
MAX_DEPTH = 50
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Parts:
    """A row's parts in the form that Example holds them."""

    input: str
    target: str | None = None
    document: str = ""
    checks: str = ""


class Fault(Exception):
    """Why a row cannot be used: `reason` is one word for the counts, `detail` says what is wrong with this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def parts(
    kind: TaskKind,
    text: str,
    given: str,
    *,
    document: str = "",
    checks: str = "",
    schema: Schema | None = None,
    open_: bool = False,
) -> Parts:
    """A row's cells in one form: JSON written one way, lists of tests and of documents joined. `given` is the reference
    (retrieve: the documents). `open_` allows one that is still to come. Raises Fault with `bad-messages`,
    `no-reference`, `not-json-object`, `breaks-schema`, `bad-tests`, `bad-checks`, `no-document`."""
    if kind in ("classify", "answer"):
        return Parts(text, given or None, document)
    if kind == "retrieve":
        named = documents_of(given)
        if not named and not open_:
            raise Fault("no-document", text[:80])
        return Parts(text, None, ";".join(named))
    if kind == "converse":
        text, last = _conversation(text, given)
        given = given or last
    target = _reference(kind, given, schema) if given else None
    kept = _checks(checks) if checks else ""
    if target is None and not open_ and (kind not in OPTIONAL or (kind == "instruct" and not kept)):
        what = "neither a reference nor checks" if kind == "instruct" else plain(kind, text)[:80]
        raise Fault("no-reference", what)
    return Parts(text, target, document, kept)


def accepted(kind: TaskKind, answer: str, schema: Schema | None = None) -> str:
    """What a person says is right for a row, in the form that rows hold. Raises BadInput where it cannot be that."""
    if kind in ("classify", "answer"):
        return answer
    if not answer.strip():
        raise BadInput("An empty answer says nothing.", f"Write the {ANSWERED.get(kind, 'reference')}.")
    try:
        if kind != "retrieve":
            return _reference(kind, answer.strip(), schema)
        if not (named := documents_of(answer)):
            raise Fault("no-document", "it names none")
        return ";".join(named)
    except Fault as fault:
        hints = {
            "extract": 'Write one JSON object: {"nombre": "…"}.',
            "code": "Write Python, for example: assert suma(1, 2) == 3",
            "retrieve": "Name documents, separated by ;",
        }
        raise BadInput(f"That cannot be the {ANSWERED.get(kind, 'reference')}: {fault.detail}.",
                       hints.get(kind, "Write it again.")) from fault


def said(kind: TaskKind, row: Example) -> str | None:
    """What is right for a row, as a person would say it: the target, or of a retrieve task the documents."""
    return (row.document or None) if kind == "retrieve" else row.target


def saying(kind: TaskKind, row: Example, answer: str | None, by: str = "") -> Example:
    """`row` with `answer` as what is right for it."""
    changed: dict[str, Any] = {"document": answer or ""} if kind == "retrieve" else {"target": answer or None}
    return row.model_copy(update=changed | {"labelled_by": by} if by else changed)


def plain(kind: TaskKind, text: str) -> str:
    """The words of an input: of a conversation what was said, one message after the other, without its JSON."""
    return "\n".join(one["content"] for one in _told(text)) if kind == "converse" else text


def readable(kind: TaskKind, text: str) -> str:
    """An input as people read it: of a conversation who said what."""
    if kind != "converse":
        return text
    return "\n".join(f"{one['role']}: {one['content']}" for one in _told(text))


def language_of(kind: TaskKind, text: str) -> str | None:
    """The prose of an input that shows its language: of a conversation what the user wrote; None of code, whose words
    are a programming language's."""
    if kind == "code":
        return None
    return "\n".join(one["content"] for one in _told(text) if one["role"] == "user") if kind == "converse" else text


def _told(text: str) -> list[dict[str, str]]:
    """The messages of an input, as far as it holds any."""
    try:
        return [_message(one, number) for number, one in enumerate(json.loads(text), 1)]
    except (ValueError, TypeError, RecursionError, Fault):
        return [{"role": "user", "content": text}]


def documents_of(given: str) -> list[str]:
    """The documents that a cell names: separated by `;`, or a JSON list of texts. Each once, in order. Raises Fault for
    a list of anything else, or a name that holds `;`."""
    names: list[Any] = given.split(";")
    if given.startswith("["):
        try:
            told = json.loads(given)
            names = told if isinstance(told, list) else [None]
        except (ValueError, RecursionError):  # a file may be called [1] notas.md
            names = given.split(";")
        if not all(isinstance(name, str) and ";" not in name for name in names):
            raise Fault("no-document", "a list of texts is wanted, none with `;`")
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if len(found) > MAX_DOCUMENTS:
        raise Fault("no-document", f"{len(found)} documents; at most {MAX_DOCUMENTS} can be right")
    return found


def _reference(kind: TaskKind, given: str, schema: Schema | None) -> str:
    if kind == "extract":
        return _object(given, schema)
    return _tests(given) if kind == "code" else given


def _object(given: str, schema: Schema | None) -> str:
    try:
        value = json.loads(given, parse_constant=_refuse)
        told = _written(value)
    except (ValueError, RecursionError) as error:
        raise Fault("not-json-object", str(error)[:120]) from error
    if not isinstance(value, dict):
        raise Fault("not-json-object", f"{type(value).__name__}, not an object: {given[:60]}")
    if schema is not None and (broken := schema.fault(value)):
        raise Fault("breaks-schema", broken)
    return told


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _tests(given: str) -> str:
    """Python that tests something; parsed, never run here. A JSON list of texts is joined line by line."""
    if given.startswith("["):
        try:
            told = json.loads(given)
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, list) and told and all(isinstance(one, str) for one in told):
            given = "\n".join(told)
    if len(given) > MAX_TESTS:
        raise Fault("bad-tests", f"over {MAX_TESTS:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: an odd escape is no reason to leave a row out
            tree = ast.parse(given)
    except SyntaxError as error:
        raise Fault("bad-tests", f"line {error.lineno}: {error.msg}"[:120]) from error
    except (ValueError, RecursionError, MemoryError) as error:  # so are nested too deeply for the parser
        raise Fault("bad-tests", "they are nested too deeply, or hold what is no text") from error
    if not any(isinstance(node, ast.Assert | ast.Call | ast.Raise) for node in ast.walk(tree)):
        raise Fault("bad-tests", "they assert and call nothing: every program would pass")
    return given


def _checks(given: str) -> str:
    """A JSON list of checks (one alone is a list of it); which there are, the evaluation knows."""
    try:
        told = json.loads(given, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Fault("bad-checks", f"not JSON: {str(error)[:100]}") from error
    listed = [told] if isinstance(told, dict) else told
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) and one for one in listed):
        raise Fault("bad-checks", "a JSON list of objects is wanted")
    if len(listed) > MAX_CHECKS:
        raise Fault("bad-checks", f"{len(listed)} checks; at most {MAX_CHECKS}")
    return _written(listed, "bad-checks")


def _written(value: Any, reason: str = "not-json-object") -> str:
    """JSON in the one form that rows hold. Raises Fault for what is nested too deeply or holds half a character."""
    inside, depth = [value], 0
    while inside := [one for held in inside for one in _within(held)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise Fault(reason, f"nested more than {MAX_DEPTH} deep")
    told = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        told.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
        raise Fault("bad-encoding", "half a character") from error
    return told


def _within(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _conversation(text: str, given: str) -> tuple[str, str]:
    """The messages in one form, and the assistant's last where it ends the list (it is then the reference)."""
    try:
        told = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Fault("bad-messages", f"not JSON: {str(error)[:100]}") from error
    if not isinstance(told, list) or not told:
        raise Fault("bad-messages", "a JSON list of messages is wanted")
    if len(told) > MAX_MESSAGES:
        raise Fault("bad-messages", f"{len(told)} messages; at most {MAX_MESSAGES}")
    found = [_message(one, number) for number, one in enumerate(told, 1)]
    last = ""
    if found[-1]["role"] == "assistant" and len(found) > 1 and not given:
        last = found.pop()["content"]
    if found[-1]["role"] != "user":
        raise Fault("bad-messages", f"the last message is the {found[-1]['role']}'s, not the user's")
    if last:
        _written(last)
    return _written(found, "bad-messages"), last


def _message(one: Any, number: int) -> dict[str, str]:
    if not isinstance(one, dict):
        raise Fault("bad-messages", f"message {number} is no object")
    role, content = one.get("role"), one.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise Fault("bad-messages", f"message {number}: the role is system, user or assistant, not {str(role)[:40]!r}")
    if not isinstance(content, str) or not content.strip():
        raise Fault("bad-messages", f"message {number} has no text as its content")
    return {"role": _ROLES[role], "content": content}
