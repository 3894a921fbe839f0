"""`why` and `impact` on a small ledger, and feedback by hand and from files on its traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Chunk, Example, Trace
from bucle.execute import Outcome, Runner
from bucle.loop.hear import import_file, preview, rate
from bucle.loop.why import impact, why
from bucle.loop.workspace import Workspace

AT = "2026-03-02T09:00:00+00:00"
CONFIG = """project: tienda
data: {documents: {path: docs}}
tasks:
  intents: {kind: classify, data: filas.csv}
  ayuda: {kind: answer, data: preguntas.csv}
"""


@dataclass
class Small:
    ws: Workspace
    ids: dict[str, str]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    (tmp_path / "bucle.yaml").write_text(CONFIG)
    ws = Workspace.open(tmp_path)
    put, ids = ws.ledger.put, dict[str, str]()
    for n in range(7):
        ids[f"doc{n}"] = put("document", {"id": f"document:{n}", "path": f"d{n}.md"}).id
    ids["corpus"] = put("corpus", {"documents": 7}, parents=[("document", ids[f"doc{n}"]) for n in range(7)]).id
    chunks = [Chunk(id=f"chunk:{n}", document_id=f"document:{n}", path=f"d{n}.md", text=f"pasaje\u2028{n}",
                    place="p. 1") for n in range(7)]
    lines = "".join(c.model_dump_json() + "\n" for c in chunks).encode()
    ids["index"] = put("index", {"chunks": 7}, parents=[("corpus", ids["corpus"])], blobs={"chunks.jsonl": lines}).id
    rows = [Example(id="example:a1", input="Hola: no hay luz", target="averia", source="filas.csv:2"),
            Example(id="example:a2", input="mi factura", target="factura", source="filas.csv:3")]
    blob = "".join(r.model_dump_json() + "\n" for r in rows).encode()
    ids["dataset"] = put("dataset", {"task": "intents", "version": 1, "rows": 2}, blobs={"examples.jsonl": blob}).id
    ids["reader"] = put("candidate", {"name": "quote", "task": "ayuda", "fitted_on": "all"},
                        parents=[("index", ids["index"])]).id
    ids["sorter"] = put("candidate", {"name": "tfidf", "task": "intents", "fitted_on": "train"},
                        parents=[("dataset", ids["dataset"])]).id
    ids["release"] = put("release", {"project": "tienda", "version": 1,
                                     "tasks": {"ayuda": ids["reader"], "intents": ids["sorter"]}},
                         parents=[("candidate ayuda", ids["reader"]), ("candidate intents", ids["sorter"])]).id
    ws.ledger.move_alias("production", ids["release"], by="ana", reason="")
    ws.traces.add_traces([
        Trace(id="trace:aa1", at=AT, received_at=AT, route="ayuda", model="ayuda", release=ids["release"],
              candidate=ids["reader"], input="¿qué dice?", output="pasaje", chunks=("chunk:3", "chunk:gone"), ms=12),
        Trace(id="trace:bb2", at=AT, received_at=AT, route="intents", model="intents", release=ids["release"],
              candidate=ids["sorter"], input="sin luz", output="averia", user="u1"),
        Trace(id="trace:cc3", at=AT, received_at=AT, route="intents", model="intents", release="release:otra",
              candidate="candidate:otra", input="factura alta", output="averia", user="u2"),
    ])
    runner = Runner(ws.ledger)
    runner.step("examples intents", lambda ctx: Outcome({"dataset": ids["dataset"]}), stage="data")
    runner.finish()
    yield Small(ws, ids)
    ws.close()


def test_an_answer_leads_back_to_passage_document_index_and_files(small: Small) -> None:
    rate(small.ws, "aa1", rating=-1, correction="otra", by="eva", reason="")
    rows = why(small.ws, "aa1")
    assert rows == why(small.ws, "trace:aa")
    kinds = [(r["kind"], r["depth"]) for r in rows]
    assert kinds[:4] == [("trace", 0), ("feedback", 1), ("chunk", 1), ("document", 2)]
    by_id = {r["id"]: r for r in rows}
    assert {small.ids[k] for k in ("release", "reader", "sorter", "index", "corpus", "dataset", "doc3")} <= set(by_id)
    assert by_id["chunk:3"]["detail"] == "d3.md p. 1"
    assert "chunk:gone" not in by_id
    assert by_id[small.ids["index"]]["role"] == "index"
    assert by_id["7 documents"]["detail"] == "d0.md, d1.md, d2.md, d3.md, d4.md …"
    assert len(by_id) == len(rows), "each thing is told once"
    json.dumps(rows)


def test_a_node_or_an_alias_has_its_story_too(small: Small) -> None:
    assert why(small.ws, "production") == why(small.ws, small.ids["release"])
    assert [r["kind"] for r in why(small.ws, small.ids["sorter"][:20])] == ["candidate", "dataset"]
    lost = why(small.ws, "cc3")
    assert [(r["id"], r["title"]) for r in lost[1:]] == [
        ("release:otra", "not in this ledger"), ("candidate:otra", "not in this ledger")]
    for name in ("nobody", "trace:zz", "index:zz", ""):
        with pytest.raises((NotFound, BadInput)):
            why(small.ws, name)


@pytest.mark.parametrize("name", ["d3.md", "doc3"])
def test_a_document_leads_forward_to_the_answers_that_used_it(small: Small, name: str) -> None:
    rows = impact(small.ws, small.ids.get(name, name))
    assert [r["kind"] for r in rows] == ["document", "corpus", "index", "candidate", "release", "trace", "traces"]
    assert rows[-2]["id"] == "trace:aa1"
    assert rows[-1]["title"] == "2 answers were served by version 1"
    assert rows[-1]["detail"] == "1 of them used a passage of it"
    assert impact(small.ws, "d0.md")[-1]["detail"] == "0 of them used a passage of it"


@pytest.mark.parametrize("name", ["Hola: no hay luz", "example:a1", "filas.csv:2", "mi factura"])
def test_a_row_leads_forward_by_its_text_id_or_source(small: Small, name: str) -> None:
    rows = impact(small.ws, name)
    assert [r["kind"] for r in rows] == ["dataset", "candidate", "release", "traces"]


def test_what_is_nowhere_is_told(small: Small) -> None:
    for name in ("d9.md", "hola: nada", "index:00"):
        with pytest.raises(NotFound) as caught:
            impact(small.ws, name)
        assert caught.value.hint


def test_a_verdict_is_stored_once_and_must_say_something(small: Small) -> None:
    one = rate(small.ws, "bb2", rating=1, correction=None, by="ana", reason="")
    two = rate(small.ws, "trace:bb2", rating=1, correction=None, by="ana", reason="otra vez")
    assert one.id == two.id
    assert [f.trace for f in small.ws.traces.feedback()] == ["trace:bb2"]
    for how in ({"rating": None, "correction": None}, {"rating": None, "correction": "  "},
                {"rating": 1, "correction": "x" * 8001}):
        with pytest.raises(BadInput) as caught:
            rate(small.ws, "bb2", by="ana", reason="", **how)  # type: ignore[arg-type]
        assert caught.value.hint
    with pytest.raises(NotFound):
        rate(small.ws, "zz", rating=1, correction=None, by="ana", reason="")


def test_a_file_of_feedback_is_taken_row_by_row(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "revisión.csv"
    path.write_text("trace,rating,correction,by\nbb2,1,,eva\ntrace:bb2,+1,,eva\ncc3,-1,factura,\nzz9,1,,\n,1,,\n"
                    "bb2,5,,\nbb2,,,\naa1,,x,leo\n", encoding="utf-8")
    counts = import_file(small.ws, path, by="ana")
    assert counts == {"stored": 3, "already_there": 1, "unknown_traces": 2, "unusable_rows": 2}
    assert {(f.trace, f.rating, f.correction, f.by) for f in small.ws.traces.feedback()} == {
        ("trace:bb2", 1, None, "eva"), ("trace:cc3", -1, "factura", "ana"), ("trace:aa1", None, "x", "leo")}
    assert import_file(small.ws, path, by="ana")["stored"] == 0
    made = preview(small.ws, "intents")
    assert [(r["source"], r["target"]) for r in made["rows"]] == [("trace:bb2", "averia"), ("trace:cc3", "factura")]
    assert (made["ratings"], made["corrections"], made["new_labels"]) == (2, 1, {})


def test_a_file_without_traces_and_a_task_without_rows_are_told(small: Small, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,rating\n1,1\n2,1\n")
    with pytest.raises(BadInput, match="no column `trace`"):
        import_file(small.ws, tmp_path / "x.csv", by="ana")
    with pytest.raises(BadInput, match="no task `otra`") as caught:
        preview(small.ws, "otra")
    assert "intents" in caught.value.hint
    with pytest.raises(BadInput, match="have not been read"):
        preview(small.ws, "ayuda")
