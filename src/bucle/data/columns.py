"""Which column is which: names first, then what stands in them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bucle.core.errors import BadInput
from bucle.core.records import TaskKind
from bucle.data.delimited import Table
from bucle.data.kinds import TEXTS

__all__ = ["REQUIRED", "ColumnGuess", "choose_columns", "guess_columns"]

_NAMES = {
    "text": r"text|texto|utterance|message|mensaje|input|entrada|prompt|sentence|frase|query|consulta|"
    r"body|cuerpo|question|pregunta",
    "label": r"label|etiqueta|intent|intenci[oó]n|class|clase|categor(y|[ií]a)|target|tag|tema|topic",
    "id": r"id|idx|index|row_?id|uuid|guid|.+_id|ticket",
    "group": r"group|grupo|customer(_id)?|cliente(_id)?|user(_id)?|usuario|thread(_id)?|hilo|"
    r"conversation(_id)?|"
    r"conversaci[oó]n|document(o)?|doc(_id)?|session(_id)?|sesi[oó]n|author|autor",
    "time": r"time|timestamp|date|fecha|hora|created(_at)?|at|datetime|when",
}
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}( \d{1,2}:\d{2}.*)?")
_SAMPLE = 5_000
_MORE = ("id", "group", "time", "language")
_ROLES: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": ("text", "label", *_MORE),
    "answer": ("question", "answer", "document", *_MORE),
    **dict.fromkeys(TEXTS, ("input", "reference", "checks", *_MORE)),
    "retrieve": ("query", "document", *_MORE),
}
REQUIRED: Mapping[TaskKind, tuple[str, str]] = {
    "classify": ("text", "label"),
    "answer": ("question", "answer"),
    **dict.fromkeys(TEXTS, ("input", "reference")),
    "retrieve": ("query", "document"),
}
"""The role of what goes in, and of what should come out."""
_LANGUAGE_NAMES = ("language", "lang", "idioma")
_ASKED = "input entrada texto text"
_MEANT = "reference referencia target output salida expected esperado"
_ANSWER = "response respuesta reply contestacion completion answer"
_TEXT_NAMES: Mapping[str, tuple[str, str]] = {
    "answer": ("question pregunta query consulta text texto", "answer respuesta target reference referencia"),
    "summarise": (f"{_ASKED} document documento article articulo body cuerpo content contenido source fuente",
                  f"{_MEANT} summary resumen abstract highlights"),
    "translate": (f"{_ASKED} source fuente origen original sentence frase",
                  f"{_MEANT} translation traduccion translated traducido destino"),
    "extract": (f"{_ASKED} document documento body cuerpo message mensaje content contenido",
                f"{_MEANT} json object objeto fields campos extraction extraccion data datos answer respuesta"),
    "generate": (f"{_ASKED} prompt request peticion encargo brief instruction instruccion", f"{_MEANT} {_ANSWER}"),
    "instruct": (f"{_ASKED} instruction instruccion prompt request peticion question pregunta", f"{_MEANT} {_ANSWER}"),
    "converse": ("input entrada messages mensajes conversation conversacion dialogue dialogo chat history historial",
                 f"{_MEANT} {_ANSWER}"),
    "code": (f"{_ASKED} prompt task tarea problem problema enunciado instruction instruccion question pregunta",
             "reference referencia tests test pruebas prueba test_list expected"),
    "retrieve": (f"query consulta question pregunta {_ASKED}",
                 "document documento documents documentos doc docs source fuente path ruta relevant relevantes "
                 "reference referencia"),
}
"""Columns of the input and of the reference by name, without accents; the first that is there is taken."""
_DOCUMENT_NAMES = ("document", "documento", "source", "fuente", "doc", "path", "ruta")
_CHECK_NAMES = ("checks", "comprobaciones", "constraints", "restricciones", "requisitos")


@dataclass(frozen=True)
class ColumnGuess:
    """A column's name for each role (`None`: none found), and in `why` what spoke for each."""

    text: str | None = None
    label: str | None = None
    id: str | None = None
    group: str | None = None
    time: str | None = None
    why: dict[str, str] = field(default_factory=dict)


def guess_columns(table: Table) -> ColumnGuess:
    """A guess to show to a person; `label` needs repeated values, `text` many different ones."""
    rows = table.rows[:_SAMPLE]
    values = {name: [row[index] for row in rows] for index, name in enumerate(table.columns)}
    found: dict[str, str] = {}
    why: dict[str, str] = {}

    def take(role: str, name: str | None, reason: str) -> None:
        if name is not None and role not in found:
            found[role], why[role] = name, reason

    for role in ("time", "group", "label", "text", "id"):
        for name in table.columns:
            if (
                name not in found.values()
                and re.fullmatch(_NAMES[role], name.strip(), re.IGNORECASE)
                and _fits(role, values[name], named=True)
            ):
                take(role, name, f"the column is called {name!r}")
                break
    free = [name for name in table.columns if name not in found.values()]
    for name in free:
        if _share(values[name], lambda value: bool(_TIME.fullmatch(value))) > 0.9:
            take("time", name, "its values are dates")
    free = [name for name in free if name not in found.values()]
    texts = sorted((name for name in free if _fits("text", values[name])), key=lambda name: -_textness(values[name]))
    if texts:
        take(
            "text",
            texts[0],
            f"its cells are the most like sentences: {_words(values[texts[0]]):.1f} words on average, "
            f"{_distinct(values[texts[0]])} different in {len(rows)}",
        )
    free = [name for name in free if name not in found.values()]
    labels = sorted((name for name in free if _fits("label", values[name])), key=lambda name: _distinct(values[name]))
    if labels:
        take(
            "label",
            labels[0],
            f"{_distinct(values[labels[0]])} values repeat over {len(rows)} rows, none is empty",
        )
    for name in free:
        if name not in found.values() and _fits("id", values[name]) and _words(values[name]) <= 1:
            take("id", name, "every value is different and none has a space")
    return ColumnGuess(**found, why=why)


def _fits(role: str, values: Sequence[str], *, named: bool = False) -> bool:
    """Whether what stands in a column can play `role`; one `named` for it only must not be mostly empty."""
    if not values:
        return True
    filled = [value for value in values if value]
    if not filled:
        return False
    if named and role != "id":
        return len(filled) > 0.3 * len(values)
    if role == "label":
        return (
            2 <= len(set(filled)) <= max(2, len(values) // 2)
            and len(filled) > 0.7 * len(values)
            and sum(map(len, filled)) / len(filled) < 80
        )
    if role == "text":
        return (
            len(filled) > 0.7 * len(values)
            and _share(filled, lambda value: any(map(str.isalpha, value))) > 0.7
            and (_words(filled) > 1.2 or len(set(filled)) > 0.5 * len(filled))
        )
    if role == "id":
        return len(set(filled)) == len(values)
    return len(filled) > 0.3 * len(values)


def _textness(values: Sequence[str]) -> float:
    return _words(values) * (0.2 + _distinct(values) / max(1, len(values)))


def _words(values: Sequence[str]) -> float:
    return sum(len(value.split()) for value in values) / max(1, len(values))


def _distinct(values: Sequence[str]) -> int:
    return len(set(values))


def _share(values: Sequence[str], test: object) -> float:
    return sum(bool(test(value)) for value in values) / max(1, len(values))  # type: ignore[operator]


def choose_columns(
    table: Table, kind: TaskKind, columns: Mapping[str, str], path: Path, required: Collection[str]
) -> dict[str, str]:
    """The column for each role: as `columns` says (by name, or by number from 1), the rest guessed. Raises BadInput
    for a role or a column that is not there (naming the nearest), and where a required role has none."""
    chosen: dict[str, str] = {}
    for role, name in columns.items():
        if role not in _ROLES[kind]:
            raise BadInput(f"{role!r} is no column role of a {kind} task.", f"Roles: {', '.join(_ROLES[kind])}.")
        chosen[role] = _column(table, str(name), path)
    for role, name in _guesses(table, kind).items():
        if role not in chosen and name not in chosen.values():
            chosen[role] = name
    for role in required:
        if role not in chosen:
            raise BadInput(
                f"{path}: no column looks like the {role}; it has {', '.join(table.columns)}.",
                f"Name it in bucle.yaml, under the task: `{role}: COLUMN`.",
            )
    return chosen


def _guesses(table: Table, kind: TaskKind) -> dict[str, str]:
    if kind in _TEXT_NAMES:
        return _named(table, kind)
    guess = guess_columns(table)
    there = _by_bare_name(table)
    found = {
        "text": guess.text,
        "label": guess.label,
        "id": guess.id,
        "group": guess.group,
        "time": guess.time,
        "language": next((there[name] for name in _LANGUAGE_NAMES if name in there), None),
    }
    taken: dict[str, str] = {}
    for role, name in found.items():
        if name is not None and name not in taken.values():
            taken[role] = name
    return taken


def _named(table: Table, kind: TaskKind) -> dict[str, str]:
    """The columns of a kind whose cells are texts, by name alone: any text could be any of them."""
    there = _by_bare_name(table)
    wanted, meant = REQUIRED[kind]
    asked, given = (names.split() for names in _TEXT_NAMES[kind])
    ways: dict[str, Sequence[str]] = {wanted: asked, meant: given, "language": _LANGUAGE_NAMES}
    if kind == "answer":
        ways["document"] = _DOCUMENT_NAMES
    if kind == "instruct":
        ways["checks"] = _CHECK_NAMES
    found: dict[str, str] = {}
    for role, names in ways.items():
        free = (there[name] for name in names if name in there and there[name] not in found.values())
        if (name := next(free, None)) is not None:
            found[role] = name
    for role in ("group", "time"):
        for name in table.columns:
            if name not in found.values() and re.fullmatch(_NAMES[role], name.strip(), re.IGNORECASE):
                found.setdefault(role, name)
    return found


def _by_bare_name(table: Table) -> dict[str, str]:
    return {_bare(name): name for name in reversed(table.columns)}


def _bare(name: str) -> str:
    """A column's name in small letters without accents."""
    plain = unicodedata.normalize("NFD", name.strip().casefold())
    return "".join(char for char in plain if not unicodedata.combining(char))


def _column(table: Table, name: str, path: Path) -> str:
    if name in table.columns:
        return name
    if name.isdigit() and 1 <= int(name) <= len(table.columns):
        return table.columns[int(name) - 1]
    near: Sequence[str] = difflib.get_close_matches(name, table.columns, 1, 0.3) or table.columns[:1]
    raise BadInput(
        f"{path} has no column {name!r}; the nearest is {near[0]!r}.",
        f"Its columns: {', '.join(table.columns)}.",
    )
