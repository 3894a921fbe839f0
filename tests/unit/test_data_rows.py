"""Rows one at a time: the same as read at once, each with its bytes, in constant memory, whatever the file holds."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import content_id
from bucle.core.records import Example
from bucle.data.rows import RowProblem, row_bytes, stream_rows
from bucle.data.tables import read_examples, read_table

INTENTS = Path(__file__).parents[2].parent / "shared" / "data" / "intents-es"
SAMPLE = Path(__file__).parents[2] / "examples" / "soporte" / "data"
LABELS = ["avería", "factura", "tarifa"]


def rows_of(path: Path, **more: object) -> tuple[list[Example], list[RowProblem]]:
    read = list(stream_rows(path, "classify", **more))  # type: ignore[arg-type]
    return [r for r in read if isinstance(r, Example)], [r for r in read if isinstance(r, RowProblem)]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(INTENTS / "train.tsv", marks=pytest.mark.skipif(not INTENTS.is_dir(), reason=f"no {INTENTS}")),
        SAMPLE / "mensajes.tsv",
    ],
    ids=lambda path: path.name,
)
def test_real_rows_keep_the_ids_that_ledgers_hold(path: Path) -> None:
    examples, problems = read_examples(path, "classify")
    table = read_table(path)
    assert len(examples) + len(problems) == len(table.rows)
    raw = path.read_bytes()
    seen: dict[str, int] = {}
    for example in examples:
        n = seen.get(example.input, 0)
        seen[example.input] = n + 1
        assert example.id == content_id("example", {"input": example.input, "n": n})
        assert example.span is not None
        record = raw[example.span[0] : example.span[1]].decode()
        assert "\n" not in record
        assert example.input in record
        assert str(example.target) in record
        assert raw[: example.span[0]].count(b"\n") + 1 == int(example.source.rpartition(":")[2])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_spans_are_the_record_in_any_encoding(tmp_path: Path, encoding: str, end: str, suffix: str) -> None:
    delimiter = "," if suffix == "csv" else "\t"
    records = [delimiter.join(["mensaje", "intención"])]
    for n in range(40):
        text = f"no me llega la señal número {n}"
        if n % 5 == 0 and suffix == "csv":
            text = f'"señal, ""otra"" vez{end}segunda línea {n}"'
        records.append(delimiter.join([text, LABELS[n % 3]]))
        if n % 7 == 0:
            records.append("")
    path = tmp_path / f"d.{suffix}"
    path.write_bytes(end.join([*records, ""]).encode(encoding))
    examples, problems = rows_of(path)
    assert problems == []
    assert len(examples) == 40
    assert [row_bytes(path, e.span) for e in examples if e.span] == [record for record in records[1:] if record]
    assert examples[1].target == "factura"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_spans_of_json_lines(tmp_path: Path, mark: bytes) -> None:
    lines = [json.dumps({"text": f"¿qué tal {n}?", "label": LABELS[n % 3]}, ensure_ascii=n % 2 == 0) for n in range(50)]
    path = tmp_path / "d.jsonl"
    path.write_bytes(mark + "\r\n\r\n".join(lines).encode())
    examples, problems = rows_of(path)
    assert problems == []
    assert [row_bytes(path, e.span) for e in examples if e.span] == lines
    assert examples[1].source == "d.jsonl:3"


def test_parquet_and_arrays_have_no_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{"text": f"hola a todos {n}", "label": LABELS[n % 3], "extra": {"n": n}} for n in range(9_000)]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d.parquet", row_group_size=1_000)
    (tmp_path / "d.json").write_text("\n [" + ",".join(map(json.dumps, records)) + "]")
    a, b = rows_of(tmp_path / "d.parquet")[0], rows_of(tmp_path / "d.json")[0]
    assert len(a) == len(b) == 9_000
    assert [e.id for e in a] == [e.id for e in b]
    assert {e.span for e in (*a, *b)} == {None}
    assert a[-1].source == "d.parquet:9000"


def test_unlabelled_rows_feed_the_queue(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\nhola a todos,saludo\nno va la luz,\nadiós,fin\nhola otra vez,saludo\n")
    assert [p.reason for p in rows_of(path)[1]] == ["missing-label"]
    examples, problems = rows_of(path, unlabelled=True, known_labels=["saludo", "fin"])
    assert problems == []
    assert [e.target for e in examples] == ["saludo", None, "fin", "saludo"]
    (tmp_path / "only.jsonl").write_text('{"text": "hola"}\n{"text": "no va la luz hoy"}\n')
    assert [e.target for e in rows_of(tmp_path / "only.jsonl", unlabelled=True)[0]] == [None, None]
    with pytest.raises(BadInput, match="label"):
        rows_of(tmp_path / "only.jsonl")


def test_one_bad_line_among_many_is_one_problem(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"mensaje {n}", "label": LABELS[n % 3]}) for n in range(3_000)]
    lines[10], lines[20], lines[2_500] = '{"text": ', "[1]", '{"text": "\\ud800 roto", "label": "tarifa"}'
    lines[30] = '{"text": 1' + "1" * 6_000 + ', "label": "tarifa"}'
    lines[40] = "[" * 100_000
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines))
    examples, problems = rows_of(path)
    assert [(p.source, p.reason) for p in problems] == [
        ("d.jsonl:11", "not-json"),
        ("d.jsonl:21", "not-json"),
        ("d.jsonl:31", "not-json"),
        ("d.jsonl:41", "not-json"),
        ("d.jsonl:2501", "bad-encoding"),
    ]
    assert len(examples) == 2_995


@pytest.mark.parametrize("good", [0, 2, 400])
def test_a_file_that_is_mostly_no_json_is_refused(tmp_path: Path, good: int) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "hola que tal", "label": "x"}\n' * good + "text,label\n" * (good + 5_000))
    with pytest.raises(BadInput, match=f"d.jsonl:{good + 1}") as refused:
        rows_of(path)
    assert refused.value.hint


def test_damaged_bytes_cost_their_row_only(tmp_path: Path) -> None:
    lines = [f"{n} señal número uno,{LABELS[n % 3]}".encode() for n in range(100)]
    lines[50] = lines[50].replace("ñ".encode(), "ñ".encode()[:1])
    lines[60] = lines[60][:4] + b"\0" + lines[60][4:]
    lines += ["última señal,avería".encode()[:-2]]
    path = tmp_path / "d.csv"
    path.write_bytes(b"text,label\n" + b"x un relleno,tarifa\n" * 500 + b"\n".join(lines) + b"\xc3")
    examples, problems = rows_of(path)
    assert [p.reason for p in problems] == ["bad-encoding", "nul-bytes", "bad-encoding"]
    assert [p.source for p in problems] == ["d.csv:552", "d.csv:562", "d.csv:602"]
    assert examples[501].input == "1 señal número uno"


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.csv", b"", "no rows"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("b.csv", b"x" * 1_100_000, "longer than"),
        ("b.jsonl", b"x" * 5_000_000, "too-long"),
        ("c.csv", bytes(range(256)) * 9, "binary"),
        ("d.parquet", b"PAR1 no", "Parquet"),
        ("e.pkl", b"x", "not a table"),
    ],
)
def test_what_is_no_table_is_refused_plainly(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=match) as refused:
        rows_of(tmp_path / name)
    assert refused.value.hint
    with pytest.raises(NotFound):
        rows_of(tmp_path / "none.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_fifty_megabytes_on_one_line_cost_that_row_and_no_memory(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "d.csv"
    with path.open("wb") as file:
        file.write("text,label\nhola amigo,saludo\nhola amiga,saludo\n".encode(encoding))
        piece = ("x" * 1_000_000).encode("utf-16-le" if encoding == "utf-16" else encoding)
        for _ in range(50):
            file.write(piece)
        tail = "\nadiós amigo,fin\nadiós amiga,fin\n"
        file.write(tail.encode("utf-16-le" if encoding == "utf-16" else encoding))
    code = (
        "import sys, resource; from pathlib import Path; from bucle.data.rows import stream_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "rows = list(stream_rows(Path(sys.argv[1]), 'classify', {'text': 'text', 'label': 'label'}))\n"
        "print([getattr(r, 'reason', None) or r.target for r in rows])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    said, grown = done.stdout.splitlines()
    assert said == "['saludo', 'saludo', 'too-long', 'fin', 'fin']"
    assert int(grown) < 45_000  # kB, of a line of 50 MB (100 MB in UTF-16)


def test_a_span_of_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text,label\nhola,x\n")
    with pytest.raises(BadInput, match="no bytes"):
        row_bytes(path, (5, 500))
    with pytest.raises(NotFound):
        row_bytes(tmp_path / "gone.csv", (0, 1))


def test_repeated_rows_are_counted_past_the_first_table(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [f"mensaje {draw.randrange(6_000)}" for _ in range(20_000)]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": "x"}) for text in texts))
    examples, _ = rows_of(path)
    seen: dict[str, int] = {}
    for example, text in zip(examples, texts, strict=True):
        assert example.id == content_id("example", {"input": text, "n": seen.get(text, 0)})
        seen[text] = seen.get(text, 0) + 1


def test_a_row_that_is_relabelled_or_labelled_at_last_stays_the_row_it_was(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text("text\tlabel\nsi\t\nsi\tok\nsi\totro\nhola\tsaludo\n")
    before = {row.source: row.id for row in rows_of(path, known_labels={"ok", "saludo"})[0]}
    assert list(before) == ["d.tsv:3", "d.tsv:5"], "one has no label, one none that is known"
    path.write_text("text\tlabel\nsi\tok\nsi\tno\nsi\tok\nhola\tno\n")
    after = {row.source: row.id for row in rows_of(path)[0]}
    assert {source: after[source] for source in before} == before
    assert len(set(after.values())) == 4


def test_a_named_id_column_is_who_a_row_is_and_a_guessed_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("id,text,label\n7,hola,a\n8,adiós,b\n7,otra,a\n,sin,b\n")
    named = rows_of(path, columns={"id": "id"})[0]
    assert [row.id for row in named] == [
        content_id("example", body)
        for body in ({"id": "7", "n": 0}, {"id": "8", "n": 0}, {"id": "7", "n": 1}, {"input": "sin", "n": 0})
    ]
    path.write_text("id,text,label\n8,adiós a todos,c\n7,hola!,a\n7,otra,a\n,sin,b\n")
    assert {row.id for row in rows_of(path, columns={"id": "id"})[0]} == {row.id for row in named}
    assert rows_of(path)[0][1].id == content_id("example", {"input": "hola!", "n": 0})


def test_a_key_that_only_late_records_have_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    records = [{"text": f"hola {n}", "label": "x"} for n in range(10_500)]
    records[-1]["cliente_final"] = "c1"
    path.write_text("\n".join(map(json.dumps, records)))
    examples, _ = rows_of(path, columns={"group": "cliente_final"})
    assert (examples[0].group, examples[-1].group) == ("", "c1")
    with pytest.raises(BadInput, match="nearest"):
        rows_of(path, columns={"group": "cliente_finale"})
