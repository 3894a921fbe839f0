"""Tables of examples: how they are read, which column is which, and what becomes of rows that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, NotFound
from bucle.data.tables import guess_columns, read_examples, read_table

INTENTS = Path(__file__).parents[2].parent / "shared" / "data" / "intents-es"
needs_intents = pytest.mark.skipif(not INTENTS.is_dir(), reason=f"{INTENTS} is absent: real intents cannot be tried")
ROWS = [
    ("No me llega la luz", "averia"),
    ("Quiero otra tarifa", "tarifa"),
    ("Sigo sin luz hoy", "averia"),
    ("¿Cuánto pago?", "factura"),
    ("Mi factura, por favor", "factura"),
    ("Cambio de tarifa ya", "tarifa"),
]


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@needs_intents
@pytest.mark.parametrize(("name", "rows"), [("train.tsv", 3617), ("eval.tsv", 1983)])
def test_real_intents_have_no_header_and_lose_no_line(name: str, rows: int) -> None:
    table = read_table(INTENTS / name)
    assert (table.has_header, len(table.rows), table.ragged) == (False, rows, [])
    guess = guess_columns(table)
    assert (guess.text, guess.label, guess.id, guess.group) == ("column3", "column1", None, None)
    assert set(guess.why) == {"text", "label"}
    examples, problems = read_examples(INTENTS / name, "classify")
    assert (len(examples), problems) == (rows, [])
    assert len({example.id for example in examples}) == rows
    assert any('"' in example.input for example in examples)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_delimiter_and_encoding_are_found(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [(text.replace(",", ""), label) for text, label in ROWS]
    text = "\r\n".join(delimiter.join(row) for row in [("mensaje", "intención"), *rows]) + "\r\n"
    table = read_table(write(tmp_path, "d.csv", text, encoding))
    assert table.columns == ("mensaje", "intención")
    assert table.rows == rows
    assert table.lines == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["text,label", "a b c,x", "d e f,y"], True),
        (["hola que tal,saludo", "adios a todos,despedida", "buenas tardes,saludo"], False),
        (["1,hola que tal", "2,adios"], False),
        (["zzz,qqq", "una frase bastante larga,1", "otra frase bastante larga,2"], True),
        (["saludo,hola que tal", "despedida,hasta luego", "saludo,buenas"], False),
    ],
)
def test_header_or_none(tmp_path: Path, lines: list[str], expected: bool) -> None:
    assert read_table(write(tmp_path, "h.csv", "\n".join(lines))).has_header is expected


def test_quotes_wrap_cells_in_csv_over_lines_too(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "q.csv", 'text,label\n"hola, ""amigo""\nqué tal",saludo\nadiós,fin\n'))
    assert table.rows == [('hola, "amigo"\nqué tal', "saludo"), ("adiós", "fin")]
    assert table.lines == [2, 4]


def test_a_quote_never_closed_swallows_nothing(tmp_path: Path) -> None:
    body = [f'"frase, {n}",x' for n in range(20)]
    body[7] = '"sin cerrar,y'
    table = read_table(write(tmp_path, "q.csv", "\n".join(["text,label", *body])))
    assert len(table.rows) == 20
    assert table.rows[7] == ('"sin cerrar', "y")


def test_quotes_in_tsv_are_text_unless_a_spreadsheet_wrote_them(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "a.tsv", 'x\t"hola\ny\tadiós "amigo"\n')).rows == [
        ("x", '"hola'),
        ("y", 'adiós "amigo"'),
    ]
    assert read_table(write(tmp_path, "b.tsv", 'x\t"di ""hola"""\ny\tadiós\n')).rows == [
        ("x", 'di "hola"'),
        ("y", "adiós"),
    ]


def test_ragged_rows_are_kept_and_told(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "r.tsv", "a\tuno dos\nb\nc\ttres\tcuatro\nd\tcinco\n"))
    assert table.rows == [("a", "uno dos"), ("b", ""), ("c", "tres\tcuatro"), ("d", "cinco")]
    assert table.ragged == [2, 3]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_other_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    records = [{"text": text, "label": label, "meta": {"n": 1}} for text, label in ROWS]
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("\n".join(map(json.dumps, records)) if kind == "jsonl" else json.dumps(records))
    examples, problems = read_examples(path, "classify")
    assert [(example.input, example.target) for example in examples] == ROWS
    assert problems == []


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.jsonl", b'{"text": "hola"}\n{"text": ', "a.jsonl:2"),
        ("b.json", b"[1, 2]", "not a JSON object"),
        ("c.parquet", b"PAR1 no", "Parquet"),
        ("d.csv", b"", "no rows"),
        ("e.csv", b"x" * 1_100_000, "longer than"),
        ("f.csv", bytes(range(256)) * 9, "binary"),
        ("g.pkl", b"x", "not a table"),
    ],
)
def test_malformed_files_are_refused_plainly(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=match) as refused:
        read_table(tmp_path / name)
    assert refused.value.hint


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_table(tmp_path / "no.csv")


def test_guess_finds_ids_groups_and_dates(tmp_path: Path) -> None:
    lines = ["ref,cliente,cuando,contenido,motivo"] + [
        f"T-{n},c{n % 4},2024-05-{n + 1:02d},{text.replace(',', '')},{label}"
        for n, (text, label) in enumerate(ROWS * 3)
    ]
    guess = guess_columns(read_table(write(tmp_path, "g.csv", "\n".join(lines))))
    assert (guess.id, guess.group, guess.time, guess.text, guess.label) == (
        "ref",
        "cliente",
        "cuando",
        "contenido",
        "motivo",
    )


def test_rows_that_cannot_be_used_are_counted_with_their_line(tmp_path: Path) -> None:
    path = write(tmp_path, "p.csv", "text,label\nhola,saludo\n,saludo\nadiós,\nbuenas,saldo\nhola,saludo\n")
    examples, problems = read_examples(path, "classify", known_labels={"saludo", "fin"})
    assert [(one.source, one.reason) for one in problems] == [
        ("p.csv:3", "empty-text"),
        ("p.csv:4", "missing-label"),
        ("p.csv:5", "unknown-label"),
    ]
    assert "nearest: saludo" in problems[2].detail
    assert [example.source for example in examples] == ["p.csv:2", "p.csv:6"]
    assert examples[0].id != examples[1].id


def test_ids_stay_when_rows_are_added(tmp_path: Path) -> None:
    first, _ = read_examples(write(tmp_path, "a.csv", "text,label\nhola,x\nadiós,y\nhola,x\n"), "classify")
    grown, _ = read_examples(write(tmp_path, "b.csv", "text,label\nnuevo,y\nhola,x\nadiós,y\nhola,x\n"), "classify")
    assert [example.id for example in grown[1:]] == [example.id for example in first]


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "c.csv",
        "\n".join(["mensaje,intencion", *(f"{text.replace(',', '')},{label}" for text, label in ROWS)]),
    )
    with pytest.raises(BadInput, match="no column 'mensage'; the nearest is 'mensaje'"):
        read_examples(path, "classify", {"text": "mensage"})
    with pytest.raises(BadInput, match="no column role"):
        read_examples(path, "classify", {"texto": "mensaje"})
    by_number, _ = read_examples(path, "classify", {"text": "1", "label": "2"})
    assert by_number[0].input == "No me llega la luz"


def test_answers_may_be_missing_and_carry_their_document(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "pregunta,respuesta,documento,idioma\n¿Cuánto?,Diez euros,t.pdf,es\nWhy?,,,en\n")
    examples, problems = read_examples(path, "answer")
    assert problems == []
    assert [(e.input, e.target, e.document, e.language) for e in examples] == [
        ("¿Cuánto?", "Diez euros", "t.pdf", "es"),
        ("Why?", None, "", "en"),
    ]
