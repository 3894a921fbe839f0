"""What changed between versions: rows by id and by wording, sides, documents; and a million rows within bounds."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bucle.core.records import Block, Document, Example
from bucle.data.diff import diff_documents, diff_rows, diff_splits
from bucle.data.tables import read_examples


def read(tmp_path: Path, name: str, text: str) -> list[Example]:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_examples(path, "classify", {"text": "text", "label": "label"})[0]


BEFORE = (
    "text\tlabel\nHola\tsaludo\nAdiós\tdespedida\nQuiero mi factura\tfactura\nla luz no va\taveria\n"
    + "si\tok\nsi\tok\nsi\tno\n"
)


def test_a_label_that_changed_in_the_file_is_relabelled_and_the_same_row(tmp_path: Path) -> None:
    after = BEFORE.replace("Quiero mi factura\tfactura", "Quiero mi factura\tfacturas").replace(
        "la luz no va", "¡La luz no va!"
    )
    after = after.replace("Hola\tsaludo\n", "") + "nueva fila\tok\n"
    before, changed = read(tmp_path, "a.tsv", BEFORE), read(tmp_path, "b.tsv", after)
    diff = diff_rows(before, changed)
    assert [(b.source, a.source, b.target, a.target) for b, a in diff.relabelled] == [
        ("a.tsv:4", "b.tsv:3", "factura", "facturas")
    ]
    assert before[2].id == changed[1].id
    assert [(b.input, a.input) for b, a in diff.edited] == [("la luz no va", "¡La luz no va!")]
    assert ([r.input for r in diff.added], [r.input for r in diff.removed], diff.unchanged) == (
        ["nueva fila"],
        ["Hola"],
        4,
    )
    assert diff.labels == {("factura", "facturas"): 1}


def test_copies_are_counted_as_often_as_they_occur(tmp_path: Path) -> None:
    before = read(tmp_path, "a.tsv", BEFORE)
    one = diff_rows(before, read(tmp_path, "b.tsv", BEFORE.replace("si\tok\nsi\tok\n", "si\tok\nsi\tno\n")))
    assert [(b.target, a.target) for b, a in one.relabelled] == [("ok", "no")]
    assert (one.added, one.removed, one.edited, one.unchanged) == ([], [], [], 6)
    fewer = diff_rows(before, read(tmp_path, "c.tsv", BEFORE.replace("si\tok\nsi\tok\n", "si\tok\n")))
    assert ([r.input for r in fewer.removed], fewer.relabelled, fewer.unchanged) == (["si"], [], 6)
    more = diff_rows(before, read(tmp_path, "d.tsv", BEFORE + "SI\tquizás\n"))
    assert ([r.target for r in more.added], more.relabelled) == (["quizás"], [])


def test_order_line_ends_and_places_make_no_difference(tmp_path: Path) -> None:
    head, *lines = BEFORE.splitlines()
    other = "\r\n".join([head, *reversed(lines)]) + "\r\n"
    diff = diff_rows(iter(read(tmp_path, "a.tsv", BEFORE)), iter(read(tmp_path, "b.tsv", other)))
    assert (diff.added, diff.removed, diff.relabelled, diff.edited, diff.unchanged) == ([], [], [], [], 7)


def test_an_id_that_stays_with_another_target_or_group_is_the_same_row() -> None:
    row = Example(id="example:1", input="hola", target="a", group="g")
    assert diff_rows([row], [row.model_copy(update={"target": "b", "labelled_by": "Ana"})]).labels == {("a", "b"): 1}
    assert diff_rows([row], [row.model_copy(update={"group": "h"})]).unchanged == 1
    assert len(diff_rows([row], [row.model_copy(update={"input": "buenas tardes"})]).edited) == 1
    assert diff_rows([row], [row.model_copy(update={"target": None})]).labels == {("a", None): 1}
    assert diff_rows([row], [row.model_copy(update={"source": "x:9", "span": (1, 2)})]).unchanged == 1
    assert diff_rows([], [row]).added == [row]
    assert diff_rows([], []).unchanged == 0


def test_rows_of_one_text_are_not_edited_when_another_is_written_above_them(tmp_path: Path) -> None:
    def told(name: str, lines: str) -> list[Example]:
        path = tmp_path / name
        path.write_text("text\tlabel\tcliente\n" + lines)
        return read_examples(path, "classify", {"group": "cliente"})[0]

    before = told("a.tsv", "si\tok\tc1\nsi\tno\tc2\nsi\tok\tc3\nhola\ta\tc4\n")
    diff = diff_rows(before, told("b.tsv", "si\tno\tc9\nsi\tok\tc1\nsi\tno\tc2\nsi\tok\tc3\nhola\ta\tc4\n"))
    assert ([(r.input, r.target) for r in diff.added], diff.removed) == ([("si", "no")], [])
    assert (diff.edited, diff.relabelled, diff.unchanged) == ([], [], 4)


def test_a_row_with_an_id_column_is_edited_or_relabelled_by_it(tmp_path: Path) -> None:
    def told(name: str, lines: str) -> list[Example]:
        path = tmp_path / name
        path.write_text("id\ttext\tlabel\n" + lines)
        return read_examples(path, "classify", {"id": "id"})[0]

    before = told("a.tsv", "1\tme han cortado la luz\ta\n2\tadiós\tb\n3\tgracias\tc\n")
    diff = diff_rows(before, told("b.tsv", "3\tgracias\tc\n2\tadiós\tz\n1\tquiero mudarme de casa\ta\n"))
    assert [(b.input, a.input) for b, a in diff.edited] == [("me han cortado la luz", "quiero mudarme de casa")]
    assert (diff.labels, diff.added, diff.removed, diff.unchanged) == ({("b", "z"): 1}, [], [], 1)


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "A", "á!", "b", "?", "", "🦊", "c d"]), st.sampled_from(["x", "y", None])),
    max_size=8,
)


def made(rows: list[tuple[str, str | None]]) -> list[Example]:
    seen: Counter[tuple[str, str | None]] = Counter()
    out = []
    for text, target in rows:
        out.append(Example(id=f"{text}/{target}/{seen[text, target]}", input=text, target=target))
        seen[text, target] += 1
    return out


@given(ROWS, ROWS)
def test_every_row_is_accounted_for_once(
    before: list[tuple[str, str | None]], after: list[tuple[str, str | None]]
) -> None:
    old, new = made(before), made(after)
    diff = diff_rows(old, new)
    pairs = len(diff.relabelled) + len(diff.edited) + diff.unchanged
    assert len(diff.removed) + pairs == len(old)
    assert len(diff.added) + pairs == len(new)
    assert Counter(r.id for r in (*diff.removed, *(b for b, _ in (*diff.relabelled, *diff.edited)))) <= Counter(
        r.id for r in old
    )
    assert all(b.target != a.target for b, a in diff.relabelled)
    assert all(b.target == a.target for b, a in diff.edited)
    assert diff_rows(old, old).unchanged == len(old)
    assert not {r.input for r in diff.removed} & {r.input for r in diff.added}, "the same wording is the same row"


def test_rows_that_changed_side_are_named() -> None:
    before, after = (
        {"a": "train", "b": "test", "c": "validation", "d": "train"},
        {"a": "train", "b": "train", "x": "test", "n": "test"},
    )
    diff = diff_splits(before, after, [("d", "x")])
    assert diff.moved == [("b", "test", "train"), ("x", "train", "test")]
    assert (diff.added, diff.removed) == ({"test": 1}, {"validation": 1})
    assert diff_splits(before, before).moved == []


def document(path: str, sha: str, text: str = "t", access: tuple[str, ...] = ()) -> Document:
    return Document(
        id=f"document:{path}{sha}",
        path=path,
        sha256=sha,
        media_type="text/plain",
        title="",
        language="es",
        blocks=(Block(text=text),),
        access=access,
    )


def test_documents_are_added_changed_renamed_and_deleted() -> None:
    before = [
        document("a", "1"),
        document("b", "2"),
        document("c", "3"),
        document("d", "4"),
        document("e", "5"),
        document("f", "6"),
        document("g", "7"),
        document("h", "7"),
    ]
    after = [
        document("a", "1"),
        document("b", "22"),
        document("new/c", "3"),
        document("z", "9"),
        document("e", "5", "otro"),
        document("f", "6", access=("rrhh",)),
        document("k", "7"),
    ]
    diff = diff_documents(iter(before), iter(after))
    assert [d.path for d in diff.added] == ["z"]
    assert [b.path for b, _ in diff.changed] == ["b", "e"]
    assert [(b.path, a.path) for b, a in diff.renamed] == [("c", "new/c"), ("g", "k")]
    assert [d.path for d in diff.deleted] == ["d", "h"]
    assert ([a.access for _, a in diff.relabelled], diff.unchanged) == ([("rrhh",)], 1)


SCALE = """
import resource, sys
from bucle.core.records import Example
from bucle.data.diff import diff_rows
N = int(sys.argv[1])
class Rows:
    def __init__(self, after): self.after = after
    def __iter__(self):
        for i in range(N):
            if self.after and i % 1000 == 0: continue
            t = "y" if self.after and i % 1000 == 1 else "x"
            yield Example(id=f"example:{i:064x}{t}", input=f"pregunta {i} " * 12, target=t)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
d = diff_rows(Rows(False), Rows(True))
print(len(d.removed), len(d.relabelled), len(d.added), d.unchanged, peak() - before)
"""


def test_unchanged_rows_are_held_as_digests() -> None:
    done = subprocess.run([sys.executable, "-c", SCALE, "200000"], capture_output=True, text=True, check=True)
    removed, relabelled, added, unchanged, mib = map(int, done.stdout.split())
    assert (removed, relabelled, added, unchanged) == (200, 200, 0, 199_600)
    assert mib < 90, f"{mib} MiB: the rows themselves would take over 200"
