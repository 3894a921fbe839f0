"""`bucle evaluate --stage retrieval` on a small project in which each stage is made to lose a question."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from command import answer, bucle, told

from bucle.core.errors import BucleError
from bucle.loop.api import Project

PLAN = ("El plan familiar cuesta treinta y un euros al mes, permite cinco líneas con llamadas sin límite y se puede "
        "dejar cuando se quiera sin pagar nada por ello.")
COPY = PLAN + " Se contrata en la tienda o por teléfono, y el alta tarda dos días laborables en la ciudad y tres fuera."
WORDS = ["".join(part) for part in product(("ba", "ce", "di", "fo", "gu"), repeat=4)][:160]
"""One sentence too long for a passage: it is cut after 100 words, six of which stand before these."""
DOCUMENTS = {
    "plan.md": f"# Plan familiar\n\n{COPY} Texto de más para que sea el más largo de los dos y se quede.",
    "plan-2019-obsoleto.md": f"# Plan familiar\n\n{COPY}",
    "averias.md": "# Averías\n\nEl técnico llega en cuarenta y ocho horas como mucho y avisa antes de salir.",
    "tienda.md": "# Tienda\n\nLa tienda de Zaragoza abre a las nueve y media, y cierra los lunes por la tarde.",
    "largo.md": f"# Archivo\n\nEl código largo de archivo dice {' '.join(WORDS)}.",
    "interno/claves.md": "# Claves\n\nLa palabra de paso del almacén es melocotón y cambia cada trimestre.",
    **{f"ruido-{n}.md": f"# Pagos {n}\n\nPara pagar el recibo número {n} en cuotas hay que pedir el recibo y el pago "
                        f"de cuotas del recibo en la oficina {n}." for n in range(12)},
    "recibo.md": "# Otra cosa\n\nSobre el recibo: el plazo vence a los diecisiete días.",
}
QUESTIONS = [
    ("¿Cuánto tarda el técnico de averías?", "cuarenta y ocho horas", "averias.md"),
    ("¿A qué hora abre la tienda de Zaragoza?", "nueve y media", "tienda.md"),
    ("¿Qué dice el contrato escaneado?", "ochenta y siete pesetas", "roto.pdf"),
    ("¿Cuánto cuesta el plan familiar obsoleto?", "veintidós euros con doce", "plan-2019-obsoleto.md"),
    ("¿Cuánto cuesta al mes el plan familiar?", "treinta y un euros", "plan-2019-obsoleto.md"),
    ("¿Qué dice el código largo de archivo?", " ".join(WORDS[90:100]), "largo.md"),
    ("¿Cuál es la palabra de paso del almacén?", "melocotón", "interno/claves.md"),
    ("¿Cómo pagar el recibo en cuotas, el pago del recibo y las cuotas de la oficina?", "diecisiete días", "recibo.md"),
    ("¿Qué altura tiene la torre Eiffel?", None, ""),
]

OWN = '''
from types import SimpleNamespace


def theirs(question: str, access: frozenset[str] = frozenset()):
    if "averías" in question:
        return {"answer": "En cuarenta y ocho horas.", "citations": ["averias.md"]}
    if "tienda" in question:
        return {"answer": "A las diez.", "sources": [
            SimpleNamespace(metadata={"path": path}) for path in ("averias.md", "tienda.md")]}
    if "recibo" in question:
        return {"answer": "Nunca.", "citations": ["plan.md"]}
    return {"answer": "Ni idea."} if "código" in question or "cuesta al mes" in question else ""


def mute(question: str, access: frozenset[str] = frozenset()):
    return "Sí."
'''
"""What answers by itself and says which documents from; and what says nothing of the kind."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage") / "p"
    for name, text in DOCUMENTS.items():
        (folder / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "docs" / name).write_text(text, "utf-8")
    (folder / "docs" / "roto.pdf").write_bytes(b"%PDF-1.7 broken")
    write(folder / "fresh.jsonl", QUESTIONS)
    write(folder / "rows.jsonl", [(f"{q} ({n})", a, d) for n in range(3) for q, a, d in QUESTIONS[:2]]
          + [(f"{q} {n}", a, d) for n in range(4) for q, a, d in QUESTIONS[-2:]])
    (folder / "bucle.yaml").write_text(yaml.safe_dump({
        "project": "etapas", "language": "es",
        "data": {"documents": {"path": "docs", "access": {"interno/**": ["almacen"]}}, "near_duplicates": 0.6,
                 "quality": {"min_words": 3}},
        "tasks": {"preguntas": {"kind": "answer", "data": "rows.jsonl"}},
        "models": {"minilm": {"kind": "encoder", "path": "minilm"}},
        "choose": {"candidates": ["quote", "chain"]},
        "chains": {name: {"library": "python", "object": f"own:{name}"} for name in ("theirs", "mute")},
    }, allow_unicode=True).replace("data: rows.jsonl", "chains: [theirs, mute]\n    data: rows.jsonl"), "utf-8")
    (folder / "own.py").write_text(OWN, "utf-8")
    done = bucle("run", folder, "--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def write(path: Path, rows: list[tuple[str, str | None, str]]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a or "", "document": d}) + "\n" for q, a, d in rows))


def stages(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["input"]: (one["stage"], one["reason"]) for one in found["lost"]}


def test_each_planted_fault_is_named(project: Path) -> None:
    found = answer("evaluate", "--stage", "retrieval", "preguntas", project / "fresh.jsonl", "-p", project,
                   "--candidate", "quote")
    assert (found["rows"], found["held_out"], found["candidate"]) == (9, False, "quote")
    by = stages(found)
    asked = [q for q, _, _ in QUESTIONS]
    assert by[asked[2]] == ("parsing", "quarantined")
    assert by[asked[3]] == ("parsing", "removed")
    assert by.get(asked[4], ("answering", ""))[0] == "answering"  # what stayed in its place holds the answer
    assert by[asked[5]] == ("chunking", "cut")
    assert by[asked[6]] == ("access", "hidden")
    assert by[asked[7]] == ("ranking", "unused")
    why = {one["input"]: one for one in found["lost"]}
    assert "roto.pdf" in why[asked[2]]["why"]
    assert "plan.md" in why[asked[3]]["why"]
    assert why[asked[7]]["rank"] > 6
    assert sum(one["count"] for one in found["stages"]) == found["failed"] == len(found["lost"])
    assert found["metrics"]["passage_hit@1"]["n"] == 8
    behind = told("why", found["node"], "-p", project)
    assert "candidate" in behind
    assert "index" in behind
    page = Path(found["report"]).read_text("utf-8")
    assert "melocotón" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_what_searches_by_itself_is_measured_by_what_it_returns(project: Path) -> None:
    """And a project is named as other verbs take it, by its folder."""
    found = answer("evaluate", "--stage", "retrieval", project, "preguntas", project / "fresh.jsonl", "--trust",
                   "--candidate", "chain/theirs")
    by, asked = stages(found), [q for q, _, _ in QUESTIONS]
    assert asked[0] not in by
    assert by[asked[1]] == ("answering", "wrong"), "the right document is among what it names"
    assert by[asked[4]][0] == "answering", "nobody knows what it was made from"
    assert by[asked[5]] == ("chunking", "cut")
    assert by[asked[7]] == ("retrieval", "unfound")
    figures = found["metrics"]
    assert (figures["mrr"]["n"], figures["mrr"]["value"]) == (8, pytest.approx((1 + 1 / 2) / 8))
    assert figures["citation_precision"]["n"] == 5
    assert not any(name.startswith("passage") for name in figures)


def test_who_holds_the_label_finds_it(project: Path) -> None:
    found = Project(project).evaluate_retrieval("preguntas", project / "fresh.jsonl", candidate="quote",
                                                access=["almacen"])
    assert "access" not in {one["stage"] for one in found["lost"]}
    assert QUESTIONS[6][0] not in stages(found)


def test_a_search_that_is_not_deep_enough_and_an_answerer_that_abstains_wrongly(project: Path, tmp_path: Path) -> None:
    """A threshold calibrated on questions in the documents' own words that have no answer is too high for any other."""
    copy = Path(shutil.copytree(project, tmp_path / "p"))
    text = (copy / "bucle.yaml").read_text("utf-8")
    (copy / "bucle.yaml").write_text(text + "retrieval:\n  depth: 7\n", "utf-8")
    body = [DOCUMENTS[name].partition("\n\n")[2] for name in ("averias.md", "tienda.md", "plan.md", "recibo.md")]
    write(copy / "rows.jsonl", [(f"{line} {n}", None, "") for line in body for n in range(5)])
    done = bucle("run", copy, "--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    found = answer("evaluate", "--stage=retrieval", copy / "fresh.jsonl", "-p", copy, "--candidate", "quote")
    assert stages(found)[QUESTIONS[7][0]] == ("retrieval", "unfound")
    assert stages(found)[QUESTIONS[0][0]] == ("answering", "abstained")
    assert found["metrics"]["coverage"]["value"] < found["metrics"]["curve_coverage"]["value"]


def test_held_out_rows_are_reused_and_told(project: Path, tmp_path: Path) -> None:
    text = told("evaluate", "--stage", "retrieval", "-p", project, "--candidate", "quote", "-k", "2", "--junit",
                tmp_path / "r.xml", f"--summary={tmp_path / 's.md'}", "-o", tmp_path / "r.html", "--language", "en")
    assert "held-out questions" in text
    assert "recall@2" in text
    assert '<html lang="en">' in (tmp_path / "r.html").read_text("utf-8")
    suite = ElementTree.parse(tmp_path / "r.xml").getroot()[0]  # noqa: S314  (our own)
    assert suite[0].get("name") == "parsing loses no question"
    assert "| mrr | " in (tmp_path / "s.md").read_text("utf-8")
    again = answer("evaluate", "--stage", "retrieval", "-p", project, "--candidate", "quote", "-k", "2")
    assert again["reused"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"task": "nothing"}, "no task `nothing`"),
        ({"data": "absent.jsonl"}, "does not exist"),
        ({"candidate": "no-answer"}, "searches no documents"),
        ({"candidate": "chain/mute"}, "names no passage or document of this project: it gives nothing"),
        ({"candidate": "gpt"}, "has no candidate `gpt`"),
        ({"ks": [0]}, "recall is measured at"),
        ({"release": "9"}, "9"),
    ],
)
def test_what_cannot_be_measured_is_said(project: Path, asked: dict[str, Any], message: str,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCLE_TRUST", "1")
    with pytest.raises(BucleError, match=message) as told:
        Project(project).evaluate_retrieval(**asked)
    assert told.value.hint


def test_a_page_that_cannot_be_written_is_said_first(project: Path) -> None:
    done = bucle("evaluate", "--stage", "retrieval", "-p", project, "-o", "absent/r.html")
    assert done.returncode == 2
    assert "The folder absent does not exist" in done.stderr
