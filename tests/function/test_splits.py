"""What a team does to its rows between two runs never moves one of them to another side."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import pytest
from command import answer, bucle, told

from bucle.loop.workspace import Workspace

TASK = "temas"
YAML = "project: s\nlanguage: es\ntasks:\n  temas: {{kind: classify, data: d.tsv, text: texto, label: tema{more}}}\n"


def texts(count: int) -> list[str]:
    draw = random.Random(3)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(4, 9))) for _ in range(300)]
    return [" ".join(draw.choices(words, k=8)) for _ in range(count)]


def project(folder: Path, more: str = "") -> Path:
    folder.mkdir()
    (folder / "bucle.yaml").write_text(YAML.format(more=more), "utf-8")
    return folder


def write(folder: Path, rows: list[tuple[str, ...]], header: str = "texto\ttema\tcliente") -> None:
    (folder / "d.tsv").write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n", "utf-8")


def sides(folder: Path) -> dict[str, str]:
    """Text -> side, after reading what changed."""
    done = bucle("data", "list", "-p", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    ws = Workspace.open(folder)
    split = max(ws.ledger.nodes("split"), key=lambda node: node.created_at)
    dataset = next(e.parent for e in ws.ledger.parents(split.id) if e.role == "dataset")
    of = ws.sides(split.id)
    found = {row.input: of[row.id] for row in ws.examples(dataset) if row.id in of}
    ws.close()
    return found


@pytest.mark.slow
def test_rows_relabelled_taken_out_and_put_back_stay_on_their_side(tmp_path: Path) -> None:
    folder, all_ = project(tmp_path / "p"), texts(160)
    rows = [(text, f"t{n % 3}", "") for n, text in enumerate(all_)]
    write(folder, rows[:100])
    first = sides(folder)
    assert len(first) == 100
    relabelled = [(text, "t9" if n % 4 == 0 else label, "") for n, (text, label, _) in enumerate(rows[:100])]
    write(folder, relabelled)
    assert sides(folder) == first
    counts = answer("data", "diff", TASK, "-p", folder)["counts"]
    assert (counts["relabelled"], counts["edited"], counts["added"], counts["changed_side"]) == (25, 0, 0, 0)
    write(folder, relabelled[:40])
    fewer = sides(folder)
    write(folder, [*rows[100:130], *relabelled[:30]])
    other = sides(folder)
    write(folder, [*rows[130:], *rows[100:130], *reversed(relabelled)])
    last = sides(folder)
    assert len(last) == 160
    for before in (first, fewer, other):
        assert {text: last[text] for text in before} == before


@pytest.mark.slow
def test_with_an_id_column_an_edited_row_keeps_its_side_its_label_and_its_name(tmp_path: Path) -> None:
    folder, all_ = project(tmp_path / "p", ", id: ref"), texts(160)
    header = "ref\ttexto\ttema"
    rows = [(f"R-{n:04d}", text, f"t{n % 3}") for n, text in enumerate(all_[:80])]
    write(folder, rows, header)
    first = sides(folder)
    row = answer("data", "show", "R-0007", "-p", folder)
    assert row["input"] == all_[7]
    bucle("label", "add", TASK, row["id"], "t2", "--by", "Ana", "-p", folder)
    edited = [(ref, all_[80 + n], label) for n, (ref, _, label) in enumerate(rows)]
    write(folder, edited, header)
    now = sides(folder)
    assert [now[all_[80 + n]] for n in range(80)] == [first[all_[n]] for n in range(80)]
    row = answer("data", "show", "R-0007", "-p", folder)
    assert (row["input"], row["target"], row["labelled_by"]) == (all_[87], "t2", "Ana")
    counts = answer("data", "diff", TASK, "-p", folder)["counts"]
    assert (counts["edited"], counts["relabelled"], counts["added"], counts["removed"]) == (79, 1, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("filled", ["t0", pytest.param("t1", marks=pytest.mark.slow)])
def test_a_label_given_by_a_person_outlives_what_the_team_writes_into_the_cell(tmp_path: Path, filled: str) -> None:
    folder, all_ = project(tmp_path / "p"), texts(60)
    rows = [(text, f"t{n % 3}", "") for n, text in enumerate(all_)]
    write(folder, [(all_[0], "", ""), *rows[1:]])
    sides(folder)
    queued = answer("label", "next", TASK, "--by", "Ana", "-n", "1", "-p", folder)["rows"]
    assert [one["input"] for one in queued] == [all_[0]]
    bucle("label", "add", TASK, queued[0]["id"], "t2", "--by", "Ana", "-p", folder)
    sides(folder)
    write(folder, [(all_[0], filled, ""), *rows[1:]])
    sides(folder)
    row = answer("data", "show", "d.tsv:2", "-p", folder)
    assert (row["input"], row["target"], row["labelled_by"]) == (all_[0], "t2", "Ana")


def test_a_row_between_two_sides_is_told_with_its_reason(tmp_path: Path) -> None:
    folder, all_ = project(tmp_path / "p", ", group: cliente"), texts(80)
    rows = [(text, f"t{n % 2}", f"c{n}") for n, text in enumerate(all_)]
    write(folder, rows)
    first = sides(folder)
    assert answer("data", "problems", "-p", folder)["problems"] == []
    trained = next(row for row in rows if first[row[0]] == "train")
    tested = next(row for row in rows if first[row[0]] == "test")
    extra = texts(81)[-1]
    write(folder, [*rows, (tested[0] + " !!", "t0", trained[2]), (extra, "t0", trained[2])])
    last = sides(folder)
    assert {text: last[text] for text in first} == first
    assert last[extra] == "train"
    assert tested[0] + " !!" not in last
    listed = answer("data", "problems", "-p", folder)["problems"]
    assert [(one["source"], one["reason"]) for one in listed] == [("d.tsv:82", "excluded-from-split")]
    assert "excluded-from-split" in told("data", "problems", "-p", folder)


@pytest.mark.slow
def test_an_imported_row_that_the_team_writes_into_its_file_is_one_row(tmp_path: Path) -> None:
    folder, all_ = project(tmp_path / "p"), texts(61)
    rows = [(text, f"t{n % 3}", "") for n, text in enumerate(all_[:60])]
    write(folder, rows)
    sides(folder)
    said = {"row": "theirs", "text": all_[60], "label": "t1", "by": "Ana", "at": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "said.jsonl").write_text(json.dumps(said) + "\n", "utf-8")
    assert answer("label", "import", TASK, tmp_path / "said.jsonl", "-p", folder)["new_rows"] == 1
    first = sides(folder)
    assert len(first) == 61
    write(folder, [*rows, (all_[60], "t2", "")])
    assert sides(folder) == first
    row = answer("data", "show", "d.tsv:62", "-p", folder)
    assert (row["input"], row["target"], row["labelled_by"]) == (all_[60], "t1", "Ana")
