"""Rows of every kind of task: what is read, what is refused and why, and that cleaning breaks neither JSON nor code."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from bucle.core.config import Project, Rows
from bucle.core.errors import BadInput
from bucle.core.records import Example, TaskKind
from bucle.data.clean_rows import RowCleaner, RowRemoval
from bucle.data.diff import diff_rows
from bucle.data.explore import explore_examples
from bucle.data.export import export_rows
from bucle.data.kinds import accepted, documents_of, plain, readable, said
from bucle.data.label import Label, apply_labels
from bucle.data.label.exchange import export, match, read_file
from bucle.data.rows import RowProblem
from bucle.data.schema import Schema
from bucle.data.tables import read_examples

KINDS = get_args(TaskKind)
SHARED: dict[str, Any] = {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}
USER = {"role": "user", "content": "¿Aceptan tarjeta?"}
DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, kind: TaskKind, **more: Any) -> tuple[list[Example], list[tuple[str, str]]]:
    rows, problems = read_examples(path, kind, **more)
    return rows, [(p.reason, p.detail) for p in problems]


def one(kind: TaskKind, input: str, target: str | None = None, **more: str) -> Example:
    return Example(id=f"example:{abs(hash((kind, input, target)))}", input=input, target=target, **more)


@pytest.mark.parametrize(
    ("kind", "asked", "given", "row"),
    [
        ("summarise", "Artículo", "RESUMEN", ("El museo reabre.", "Reabre.")),
        ("summarise", "texto", "abstract", ("El museo reabre.", "Reabre.")),
        ("translate", "Origen", "Traducción", ("The price.", "El precio.")),
        ("translate", "source", "translation", ("The price.", "El precio.")),
        ("extract", "mensaje", "campos", ("Factura 9", '{"n": "9"}')),
        ("generate", "encargo", "respuesta", ("Un saludo", "Hola.")),
        ("instruct", "Instrucción", "output", ("Saluda", "Hola.")),
        ("converse", "mensajes", "respuesta", (json.dumps([USER], ensure_ascii=False), "Sí.")),
        ("code", "enunciado", "Pruebas", ("suma", "assert suma(1, 2) == 3")),
        ("retrieve", "consulta", "documentos", ("¿Precio?", "tarifas.md")),
    ],
)
def test_columns_are_found_by_their_names(
    tmp_path: Path, kind: TaskKind, asked: str, given: str, row: tuple[str, str]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"nada": 1, asked: row[0], given: row[1], "Fecha": "2026-01-02", "cliente": "c"})
    rows, problems = read(path, kind)
    assert not problems
    assert (rows[0].input, said(kind, rows[0])) == row
    assert (rows[0].at, rows[0].group) == ("2026-01-02", "c")


def test_the_column_asked_for_must_be_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"cuerpo": "El museo reabre.", "breve": "Reabre."})
    with pytest.raises(BadInput, match="no column looks like the reference"):
        read_examples(path, "summarise")
    rows, _ = read(path, "summarise", columns={"input": "cuerpo", "reference": "breve"})
    assert rows[0].target == "Reabre."
    with pytest.raises(BadInput, match="no column role of a summarise task"):
        read_examples(path, "summarise", {"question": "cuerpo"})


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import openpyxl
    import pyarrow as pa
    import pyarrow.parquet as pq

    told = [{"texto": f"Factura {n}, de «Ruiz»", "campos": json.dumps({"n": str(n), "é": [1, None]})} for n in range(4)]
    jsonl(tmp_path / "a.jsonl", *[{**row, "campos": json.loads(row["campos"])} for row in told])
    pq.write_table(pa.Table.from_pylist(told), tmp_path / "a.parquet")
    book = openpyxl.Workbook()
    for cells in (list(told[0]), *(list(row.values()) for row in told)):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")
    quoted = ["texto,campos", *(f'"{r["texto"]}","{r["campos"].replace(chr(34), chr(34) * 2)}"' for r in told)]
    (tmp_path / "a.csv").write_bytes(("\ufeff" + "\r\n".join(quoted) + "\r\n").encode())
    found = {}
    for name in ("a.jsonl", "a.parquet", "a.xlsx", "a.csv"):
        rows, problems = read(tmp_path / name, "extract")
        assert not problems, name
        found[name] = [(row.id, row.input, row.target) for row in rows]
    assert len({tuple(rows) for rows in found.values()}) == 1
    assert json.loads(str(found["a.csv"][2][2])) == {"n": "2", "é": [1, None]}


def test_objects_from_other_stores_keep_their_numbers(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    from bucle.data.connect.rows import as_value

    day = datetime.date(2026, 3, 1)
    held = {"a": 1, "b": [Decimal("2.50"), Decimal(3)], "c": True, "d": None, "e": day, "f": 0.5}
    assert as_value(held, "campos") == {"a": 1, "b": [2.5, 3], "c": True, "d": None, "e": "2026-03-01", "f": 0.5}
    pq.write_table(pa.Table.from_pylist([{"texto": "t", "campos": {"a": 1, "e": day}}]), tmp_path / "a.parquet")
    rows, problems = read(tmp_path / "a.parquet", "extract")
    assert not problems
    assert json.loads(str(rows[0].target)) == {"a": 1, "e": "2026-03-01"}


def test_what_is_no_workbook_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(BadInput, match="cannot be read"):
        read_examples(tmp_path / "a.xlsx", "summarise")


def test_an_object_to_extract_is_an_object_that_keeps_its_schema(tmp_path: Path) -> None:
    given = [{"n": "1"}, ["n"], "{n: 1}", {"n": 1}, '{"n": NaN}', "[" * 3000, None, '{"n": "ñ"}']
    path = jsonl(tmp_path / "a.jsonl", *({"texto": f"t{i}", "json": value} for i, value in enumerate(given)))
    rows, problems = read(path, "extract", schema=Schema(SHARED))
    assert [row.target for row in rows] == ['{"n": "1"}', '{"n": "ñ"}']
    assert [reason for reason, _ in problems] == [
        "not-json-object", "not-json-object", "breaks-schema", "not-json-object", "not-json-object", "no-reference",
    ]
    assert problems[2][1] == 'n: what is there is not of type "string"'


@pytest.mark.parametrize(
    "body", [{"type": "objeto"}, {"$ref": "http://127.0.0.1:9/a.json"}, {"$ref": "otro.json"}, {"pattern": "("}]
)
def test_a_schema_that_cannot_be_used_is_told(body: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="no JSON Schema that can be used"):
        Schema(body)


def test_json_that_would_break_what_comes_after_is_left_out(tmp_path: Path) -> None:
    deep = "[" * 400 + "]" * 400
    cells = ['{"a": "\\ud800"}', f'{{"a": {deep}}}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", '{"a": "\\u00e9"}']
    quoted = "".join(f'"t{n}","{cell.replace(chr(34), chr(34) * 2)}"\r\n' for n, cell in enumerate(cells))
    path = tmp_path / "a.csv"
    path.write_bytes(("texto,json\r\n" + quoted).encode())
    rows, problems = read(path, "extract")
    assert [row.target for row in rows] == ['{"a": "é"}']
    assert [reason for reason, _ in problems] == [
        "bad-encoding", "not-json-object", "not-json-object", "not-json-object",
    ]
    talk = '[{""role"": ""user"", ""content"": ""\\udfff""}]'
    path.write_text(f'mensajes,respuesta\n"{talk}",x\n"[{{""role"": ""user"", ""content"": ""a""}}]",y\n')
    rows, problems = read(path, "converse")
    assert ([row.target for row in rows], [reason for reason, _ in problems]) == (["y"], ["bad-encoding"])


def test_a_pattern_made_to_take_for_ever_does_not() -> None:
    schema = Schema({"properties": {"a": {"pattern": "^(a+)+$"}}})
    assert "does not match" in schema.fault({"a": "a" * 5000 + "b"})


def test_a_conversation_ends_with_the_user(tmp_path: Path) -> None:
    bot = {"role": "assistant", "content": "Sí."}
    given: list[tuple[Any, str | None]] = [
        ([USER], "Sí."), ([USER, bot], None), ([{"role": "developer", "content": "Sé breve."}, USER], "Sí."),
        ([USER, bot], "No."), ([bot], None), ([], "x"), ("hola", "x"), ([{"role": "tool", "content": "x"}], "x"),
        ([{"role": "user", "content": " "}], "x"), ([USER] * 201, "x"), ({"role": "user"}, "x"), ([USER], None),
    ]
    path = jsonl(tmp_path / "a.jsonl", *({"messages": m, "reply": r} for m, r in given))
    rows, problems = read(path, "converse")
    assert [(len(json.loads(row.input)), row.target) for row in rows] == [
        (1, "Sí."), (1, "Sí."), (2, "Sí."), (1, None),
    ]
    assert json.loads(rows[2].input)[0]["role"] == "system"
    assert {reason for reason, _ in problems} == {"bad-messages"}
    assert len(problems) == 8
    assert plain("converse", rows[2].input) == "Sé breve.\n¿Aceptan tarjeta?"
    assert readable("converse", rows[2].input) == "system: Sé breve.\nuser: ¿Aceptan tarjeta?"


def test_tests_are_python_that_tests_and_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    given = [
        f"open({str(mark)!r}, 'w')", ["assert f(1) == 2", "assert f(2) == 3"], "assert (", "x = 1", "# nada", "",
        "-" * 90_000 + "1", "assert f('\\d') == 1", "assert 1\x00", "a" * 100_001,
    ]
    path = jsonl(tmp_path / "a.jsonl", *({"prompt": f"p{i}", "tests": value} for i, value in enumerate(given)))
    rows, problems = read(path, "code")
    assert [row.target for row in rows] == [given[0], "assert f(1) == 2\nassert f(2) == 3", "assert f('\\d') == 1"]
    assert [reason for reason, _ in problems] == ["bad-tests"] * 3 + ["no-reference"] + ["bad-tests"] * 3
    assert not mark.exists()


def test_documents_are_named_one_or_several_ways(tmp_path: Path) -> None:
    given = ["a.md", "a.md; b c.md ;a.md", ["a.md", "b.md"], " ; ", "", ["a;b"], [1], "[1] notas.md"]
    path = jsonl(tmp_path / "a.jsonl", *({"query": f"q{i}", "document": value} for i, value in enumerate(given)))
    rows, problems = read(path, "retrieve")
    assert [row.document for row in rows] == ["a.md", "a.md;b c.md", "a.md;b.md", "[1] notas.md"]
    assert all(row.target is None for row in rows)
    assert [reason for reason, _ in problems] == ["no-document"] * 4
    assert documents_of("uno.md;dos.md") == ["uno.md", "dos.md"]


def test_an_instruction_needs_a_reference_or_checks(tmp_path: Path) -> None:
    rows, problems = read(
        jsonl(
            tmp_path / "a.jsonl",
            {"instruccion": "a", "checks": {"max_words": 3}},
            {"instruccion": "b", "respuesta": "B"},
            {"instruccion": "c"},
            {"instruccion": "d", "checks": "[{"},
            {"instruccion": "e", "checks": ["corto"]},
            {"instruccion": "f", "checks": [{"max_words": 1}] * 51},
        ),
        "instruct",
    )
    assert [(row.target, row.checks) for row in rows] == [(None, '[{"max_words": 3}]'), ("B", "")]
    assert [reason for reason, _ in problems] == ["no-reference", "bad-checks", "bad-checks", "bad-checks"]


def test_rows_to_be_labelled_may_lack_what_is_right(tmp_path: Path) -> None:
    from bucle.data.rows import stream_rows

    path = jsonl(tmp_path / "a.jsonl", {"texto": "El museo reabre."})
    assert isinstance(next(iter(stream_rows(path, "summarise", unlabelled=True))), Example)
    path = jsonl(tmp_path / "b.jsonl", {"texto": "El museo reabre.", "resumen": ""})
    assert isinstance(next(iter(stream_rows(path, "summarise"))), RowProblem)
    opened = next(iter(stream_rows(path, "summarise", unlabelled=True)))
    assert isinstance(opened, Example)
    assert opened.target is None


def cleaner(kind: TaskKind, **policy: Any) -> RowCleaner:
    return RowCleaner(Rows(duplicates="exact"), kind=kind, personal=policy, restored=frozenset())


MAIL, PHONE = "eva.lopez@correo-ejemplo.es", "612 345 678"


def test_masking_stays_inside_the_strings_of_json() -> None:
    talk = json.dumps([{"role": "user", "content": f'Mi correo es "{MAIL}"'}], ensure_ascii=False)
    row = cleaner("converse").check(one("converse", talk, f"Escriba a {MAIL}", checks=f'[{{"contains": "{MAIL}"}}]'))
    assert isinstance(row, Example)
    assert json.loads(row.input) == [{"role": "user", "content": 'Mi correo es "[EMAIL]"'}]
    assert (row.target, json.loads(row.checks)) == ("Escriba a [EMAIL]", [{"contains": "[EMAIL]"}])


def test_an_object_loses_what_its_text_loses() -> None:
    held = json.dumps({"tel": 612345678, "t2": PHONE, "correo": [MAIL], "importe": 612345, "ok": True, "nada": None})
    row = cleaner("extract").check(one("extract", f"Llame al {PHONE} o escriba a {MAIL}", held))
    assert isinstance(row, Example)
    assert json.loads(str(row.target)) == {
        "tel": "[PHONE]", "t2": "[PHONE]", "correo": ["[EMAIL]"], "importe": 612345, "ok": True, "nada": None,
    }
    kept = cleaner("extract", phone="keep", email="keep").check(one("extract", f"Llame al {PHONE}", held))
    assert isinstance(kept, Example)
    assert json.loads(str(kept.target)) == json.loads(held)


def test_tests_are_never_masked() -> None:
    tests = f"assert dominio({MAIL!r}) == 'correo-ejemplo.es'"
    gone = cleaner("code").check(one("code", "dominio(correo)", tests))
    assert isinstance(gone, RowRemoval)
    assert gone.reason == "personal-data"
    assert MAIL not in gone.detail
    kept = cleaner("code", email="keep").check(one("code", "dominio(correo)", tests))
    assert isinstance(kept, Example)
    assert kept.target == tests
    row = one("code", "dominio(correo)", tests)
    back = RowCleaner(Rows(), kind="code", restored=frozenset({row.id})).check(row)
    assert isinstance(back, Example)
    assert back.target == tests
    ast.parse(str(back.target))
    told = cleaner("code").check(one("code", f"Como el de {MAIL}", "assert f() == 1"))
    assert isinstance(told, Example)
    assert told.input == "Como el de [EMAIL]"


def test_what_else_a_row_asks_makes_it_another_row() -> None:
    same = [
        one("retrieve", "¿Precio?", document="a.md"), one("retrieve", "¿Precio?", document="b.md"),
        one("retrieve", "¿precio?", document="a.md"),
    ]
    assert [isinstance(r, Example) for r in cleaner("retrieve").clean(same)] == [True, True, False]
    told = ("assert f() == 1", "assert f() == -1", "assert f() == 1")
    signs = [one("code", "f", told[0]), one("code", "f", told[1]), one("code", "f!", told[2])]
    assert [isinstance(r, Example) for r in cleaner("code").clean(signs)] == [True, True, False]


def test_a_translation_is_asked_for_the_language_it_comes_from() -> None:
    english = one("translate", "The technician will arrive between nine and eleven tomorrow morning.", "El técnico…")
    foreign = RowCleaner(Rows(), kind="translate", languages=["es"]).check(english)
    assert isinstance(foreign, RowRemoval)
    assert isinstance(RowCleaner(Rows(), kind="translate", languages=["en"]).check(english), Example)
    code = one("code", "Write the function that returns the sum of the two given numbers.", "assert f() == 1")
    assert isinstance(RowCleaner(Rows(), kind="code", languages=["es"]).check(code), Example)


def test_a_changed_document_is_a_changed_row() -> None:
    before = [Example(id="example:1", input="¿Precio?", target=None, document="a.md")]
    after = [Example(id="example:1", input="¿Precio?", target=None, document="b.md")]
    assert diff_rows(before, after).labels == {("a.md", "b.md"): 1}
    checks = [before[0].model_copy(update={"checks": "[]"})]
    assert len(diff_rows(before, checks).edited) == 1


def test_texts_are_explored_without_labels() -> None:
    rows = [one("generate", f"Escribe el aviso número {n}", None if n % 2 else "Hola.") for n in range(40)]
    told = explore_examples(rows, kind="generate")
    assert (told["labels"], told["rare"], told["suspects"]) == ({}, [], [])
    assert (told["without_reference"], told["unanswerable"]) == (20, 0)
    talk = [one("converse", json.dumps([USER]), "Sí.")]
    assert explore_examples(talk, kind="converse")["words"]["max"] == 2
    found = explore_examples([one("retrieve", "¿Precio?", document="a.md;b.md")], kind="retrieve")
    assert (found["documents_named"]["max"], found["unanswerable"], found["labels"]) == (2, 0, {})


ROWS: dict[TaskKind, Example] = {
    "summarise": one("summarise", "El museo, «tras» obras, reabre\nhoy.", "Reabre."),
    "translate": one("translate", "The price.", "El precio."),
    "extract": one("extract", "Factura 9", '{"n": "9", "é": [1, null]}'),
    "generate": one("generate", "Un saludo", None),
    "instruct": one("instruct", "Saluda", None, checks='[{"max_words": 3}]'),
    "converse": one("converse", json.dumps([USER], ensure_ascii=False), "Sí."),
    "code": one("code", "suma", "assert suma(1, 2) == 3\nassert suma(0, 0) == 0"),
    "retrieve": one("retrieve", "¿Precio?", document="a.md;b.md"),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_export_is_read_back(tmp_path: Path, kind: TaskKind, suffix: Any) -> None:
    row = ROWS[kind]
    path = tmp_path / f"a.{suffix}"
    filler = row.model_copy(update={"id": "example:2", "input": row.input.replace("p", "t", 1)})
    export_rows([row, filler], path, suffix, kind, {})
    found, problems = read(path, kind)
    assert not problems
    assert [(r.target, r.document, r.checks) for r in found] == [(row.target, row.document, row.checks)] * 2
    assert found[0].input == row.input


def test_chats_teach_replies_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    told = export_rows([ROWS["converse"], one("converse", json.dumps([USER]))], path, "openai", "converse", {},
                       instruction="Sé breve.")
    assert told == {"rows": {"left out": 1}, "without_reference": 1}
    roles = [m["role"] for m in json.loads(path.read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    for kind in ("code", "retrieve"):
        with pytest.raises(BadInput, match="are no chats"):
            export_rows([ROWS[kind]], path, "openai", kind, {})  # type: ignore[index, arg-type]


def test_what_a_person_says_has_the_form_of_the_kind() -> None:
    assert accepted("retrieve", " a.md ; b.md;") == "a.md;b.md"
    assert accepted("extract", ' {"n":"1"} ', Schema(SHARED)) == '{"n": "1"}'
    refused = (("extract", "nueve"), ("extract", '{"n": 1}'), ("code", "x = 1"), ("summarise", " "), ("retrieve", " ;"))
    for kind, wrong in refused:
        with pytest.raises(BadInput):
            accepted(kind, wrong, Schema(SHARED))  # type: ignore[arg-type]
    label = Label("b.md;c.md", "ana", "confirmed")
    row = next(apply_labels([ROWS["retrieve"]], {ROWS["retrieve"].id: label}, kind="retrieve"))
    assert (row.document, row.target, row.labelled_by) == ("b.md;c.md", None, "ana")
    assert not list(apply_labels([ROWS["generate"]], {}, kind="generate"))
    assert len(list(apply_labels([ROWS["generate"]], {}, kind="generate", keep_unlabelled=True))) == 1


@pytest.mark.parametrize("tool", ["label-studio", "argilla", "jsonl"])
@pytest.mark.parametrize("kind", ROWS)
def test_other_tools_bring_answers_back(tmp_path: Path, kind: TaskKind, tool: str) -> None:
    from bucle.core.records import Annotation

    row = ROWS[kind]
    answer = said(kind, row) or "Hola."
    item = Annotation(id="annotation:1", task="t", row=row.id, by="ana", label=answer, at="2026-01-02T03:04:05+00:00")
    path = tmp_path / "a.json"
    path.write_text(export(tool, [row], [item], {}, kind=kind), "utf-8")
    if kind == "converse" and tool != "jsonl":
        held = json.loads(path.read_text())[0]
        assert (held.get("data", {}).get("dialogue") or held["fields"]["chat"])[0].keys() & {"text", "content"}
    _, asked, left = read_file(path)
    found = match(asked, {row.id: row.input}, task="t", kind=kind, origin="a.json", at=item.at)
    assert not left
    assert [(a.by, a.label) for a in found.annotations] == [("ana", answer)]


def test_an_import_cannot_bring_what_no_row_may_hold() -> None:
    from bucle.data.label.exchange import Asked, Remark

    asked = [Asked("", "Factura 9", (Remark("ana", "nueve"),))]
    found = match(asked, {}, task="t", kind="extract", origin="a", at="2026-01-02T03:04:05+00:00")
    assert dict(found.left_out) == {"label-unusable": 1}
    talk = match([Asked("", "hola", ())], {}, task="t", kind="converse", origin="a", at="2026-01-02T03:04:05+00:00")
    assert (talk.rows, dict(talk.left_out)) == ([], {"text-too-long": 1})


def test_the_page_names_every_metric_and_candidate() -> None:
    from bucle.choose.ladder import MADE
    from bucle.customise.registry import techniques
    from bucle.evaluate.scoring import DEFAULTS

    told = {cells[1].strip(" `"): cells for line in DOCS.read_text().splitlines()
            if len(cells := line.split("|")) == 7 and cells[1].startswith(" `")}
    assert set(told) == set(KINDS)
    for kind in KINDS:
        assert tuple(re.findall(r"`([^`]+)`", told[kind][4])) == DEFAULTS[kind], kind
        own = {t.name for t in techniques().values() if kind in t.kinds and t.name not in MADE}
        assert set(re.findall(r"`([^`]+)`", told[kind][5])) == own, kind


def test_every_example_of_the_page_is_a_task() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    read_ = [Project.model_validate({"project": "p", **yaml.safe_load(block)}) for block in blocks]
    kinds = {next(iter(project.tasks.values())).kind for project in read_}
    assert kinds == set(ROWS)
