"""Sentences, the index of passages, quoting and abstaining, on real files with the packaged encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Chunk, Example
from bucle.customise.overlap import token_f1
from bucle.customise.retrieve.index import Index, build_index, sentences


@pytest.mark.parametrize(("text", "expected"), [
    ("La cuota es de 19.95 euros. El alta cuesta 1.250,50 euros. ¿Hay más? ¡Sí! No.",
     ["La cuota es de 19.95 euros.", "El alta cuesta 1.250,50 euros.", "¿Hay más?", "¡Sí!"]),
    ("El Sr. García y la Sra. Ruiz firman. El Dr. J. Pérez no.",
     ["El Sr. García y la Sra. Ruiz firman.", "El Dr. J. Pérez no."]),
    ("Según el art. 5 y la pág. 12, p. ej. Madrid, aprox. 20 km. Después, en EE. UU., otra cosa.",
     ["Según el art. 5 y la pág. 12, p. ej. Madrid, aprox. 20 km.", "Después, en EE. UU., otra cosa."]),
    ("Llame al tel. 900 100 200 de 9.00 a 21.00. Pregunte por Ud. Mismo.",
     ["Llame al tel. 900 100 200 de 9.00 a 21.00.", "Pregunte por Ud. Mismo."]),
    ("Yo creo que no. El contrato sigue… Siempre.", ["Yo creo que no.", "El contrato sigue…", "Siempre."]),
    ("| Tarifa | Precio |\n|---|:--:|\n| Luz 24 h. Plus | 19.95 |\n| Gas | 7 |",
     ["| Tarifa | Precio |", "| Luz 24 h. Plus | 19.95 |", "| Gas | 7 |"]),
    ("Título\n\nUna frase sin punto\n- Un punto. Otro punto.",
     ["Título", "Una frase sin punto", "- Un punto.", "Otro punto."]),
    ("El Sr.\nOtra línea.", ["El Sr.", "Otra línea."]),
    ("", []), ("...", []), ("\n \n", []), ("---|---", []),
])
def test_sentences_are_cut_where_they_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_cutting_takes_time_in_proportion_to_the_text() -> None:
    assert len(sentences("Sr. " * 50_000)) == 1
    assert len(sentences("A. " * 20_000 + "fin")) == 1
    assert sentences(" " * 200_000 + "x" * 200_000)[0].startswith("x")


@pytest.mark.parametrize(("answer", "target", "f1"), [
    ("La cuota es 10", "la CUOTA es 10", 1.0), ("Línea nueva", "linea", 2 / 3), ("", "x", 0.0), ("x", "", 0.0),
    ("a a b", "a b b", 2 / 3), ("¿?", "¿?", 0.0),
])
def test_overlap_folds_case_and_accents(answer: str, target: str, f1: float) -> None:
    assert token_f1(answer, target) == pytest.approx(f1)


PASSAGES = {
    "facturas.md": "Las facturas se emiten el día 5 de cada mes. El pago se domicilia en la cuenta del titular.",
    "lineas.md": "Una línea móvil adicional cuesta 7.95 euros al mes. Se contrata en la tienda.",
    "bajas.md": "La baja del servicio se solicita con 15 días de antelación. No hay penalización tras el primer año.",
    "averias.md": "Los técnicos reparan una avería de fibra en 48 horas. El Sr. García coordina las averías.",
    "raro.md": "Un texto con separadores raros\u2028y otros\x85que parten líneas. Las antenas repetidoras son grises.",
    "corto.md": "Ah.",
}
HOSTILE = ["", " ", "?", "\0", "a\0b", "\"", "'; DROP TABLE chunks; --", "factura AND NOT (", "factura~9^2:*", "\\",
           "+-&|!(){}[]", "de la", "🦊🦊", "\u2028", "factura " * 5000, "ñ" * 20_000, "{\"match\": {}}", "%s %d {0}"]


@pytest.fixture(scope="module")
def encoder() -> Path:
    from bucle.models.encoder import encoder_folder

    return encoder_folder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    out = tmp_path_factory.mktemp("index")
    said: list[int] = []
    chunks = [Chunk(id=f"chunk:{i}", document_id=f"d{i}", path=path, text=text, heading="Ayuda" if i else "",
                    language="es") for i, (path, text) in enumerate(PASSAGES.items())]
    meta = build_index(chunks, out, encoder=encoder, language="es",
                       report=lambda done, total, note="": said.append(done))
    assert (meta["chunks"], said) == (len(PASSAGES), [0, 1, 2])
    return out


def paths(index: Index, question: str, weight: float = 0.0, k: int = 3) -> list[str]:
    return [hit.chunk.path for hit in index.search(question, k=k, weight=weight)]


@pytest.mark.torch
def test_words_are_found_by_their_stem_and_without_accents(folder: Path) -> None:
    index = Index(folder, None)
    for question, path in {"¿Cuándo llega mi factura?": "facturas.md", "tiendas": "lineas.md",
                           "LÍNEA MOVIL": "lineas.md", "averia": "averias.md", "solicitar bajas": "bajas.md",
                           "antena repetidora": "raro.md"}.items():
        assert paths(index, question)[:1] == [path], question
    assert paths(index, "de la en y") == []
    assert index.chunks["chunk:4"].text == PASSAGES["raro.md"]


@pytest.mark.torch
def test_no_question_can_break_the_search(folder: Path, encoder: Path) -> None:
    words, both = Index(folder, None), Index(folder, encoder)
    for question in HOSTILE:
        for index, weight in ((words, 0.0), (both, 0.5), (both, 1.0)):
            hits = index.search(question, k=3, weight=weight)
            assert len(hits) <= 3
            assert all(0 <= hit.score <= 1.0001 for hit in hits), question


@pytest.mark.torch
def test_meaning_finds_what_words_do_not(folder: Path, encoder: Path) -> None:
    index = Index(folder, encoder)
    hits = index.search("technicians repair fiber", k=2, weight=1.0)
    assert [round(h.score, 5) for h in hits][:1] == [1]
    assert paths(index, "fibra averiada", 1.0, k=6)[0] == "averias.md"
    own = index.support("averías de fibra", index.sentences("chunk:3"), weight=0.5, vector=index.embed(["averías"])[0])
    assert own.shape == (2,)
    assert index.sentences("chunk:3")[1] == "El Sr. García coordina las averías."


@pytest.mark.torch
def test_another_encoder_or_none_is_told(folder: Path, tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(BadInput, match="needs its encoder"):
        Index(folder, None).search("hola", k=1, weight=0.5)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    meta = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps({**meta, "dimensions": 768}))
    with pytest.raises(BadInput, match="768 dimensions, the encoder 384") as caught:
        Index(other, encoder).search("hola", k=1, weight=0.5)
    assert "bucle run" in caught.value.hint


@pytest.mark.torch
def test_nothing_to_index_is_told_and_a_passage_without_sentences_is_not_quoted(tmp_path: Path, encoder: Path) -> None:
    def build(*texts: str) -> None:
        chunks = [Chunk(id=f"chunk:{i}", document_id="d", path="a", text=text) for i, text in enumerate(texts)]
        build_index(chunks, tmp_path, encoder=encoder, language="xx", report=lambda done, total, note="": None)

    for texts in ((), ("¿?", "👍")):
        with pytest.raises(BadInput):
            build(*texts)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
    build("ab", "cd")
    quote, _ = fitted(tmp_path, tmp_path / "out", [])
    found = quote.predict(["ab"])[0]
    assert (found.output, found.abstained, found.citations) == ("", True, ())


def fitted(index: Path, out: Path, rows: Sequence[Example], encoder: Path | None = None,
           meaning: bool = False) -> tuple[Any, dict[str, Any]]:
    from bucle.customise.retrieve import Quote, Retrieve

    out.mkdir(exist_ok=True)
    technique = Retrieve() if meaning else Quote()
    figures = technique.fit(FitContext(out=out, work=out, train=rows, validation=(), labels=(), params={}, seed=7,
                                       report=lambda done, total, note="": None, index=index, encoder=encoder))
    context = LoadContext(labels=(), params={}, index=index, encoder=encoder)
    return technique.load(out, context), dict(figures)


ROWS = [
    Example(id="1", input="¿Qué día se emiten las facturas?", target="Las facturas se emiten el día 5 de cada mes."),
    Example(id="2", input="¿Cuánto cuesta una línea adicional?",
            target="Una línea móvil adicional cuesta 7.95 euros al mes."),
    Example(id="3", input="¿Quién coordina las averías?", target="El Sr. García coordina las averías."),
    Example(id="4", input="¿Cuál es la capital de Mongolia?", target=None),
    Example(id="5", input="¿Venden zapatos de montaña?", target=None),
]


@pytest.mark.torch
@pytest.mark.parametrize("meaning", [False, True], ids=["quote", "retrieve"])
def test_an_answer_is_quoted_and_cited_or_withheld(folder: Path, encoder: Path, tmp_path: Path, meaning: bool) -> None:
    predictor, figures = fitted(folder, tmp_path, ROWS, encoder, meaning)
    assert set(figures["calibration"]) == ({"0", "0.25", "0.5", "0.75", "1"} if meaning else {"0"})
    assert (figures["threshold"] > 0) == meaning, "by meaning something is found for what has no answer: withheld"
    found = predictor.predict([row.input for row in ROWS])
    assert all(p.output in ("", row.target or "") for p, row in zip(found, ROWS, strict=True))
    assert sum(bool(p.output) for p in found) >= (3 if meaning else 1), "words alone support fewer of them"
    for prediction in found:
        assert prediction.abstained == (prediction.output == "") == (prediction.citations == ())
        assert set(prediction.citations) <= set(prediction.chunks) <= set(predictor.index.chunks)
        if prediction.citations:
            assert prediction.output in predictor.index.chunks[prediction.citations[0]].text
    asked = [row.input for row in ROWS] + HOSTILE
    batch = [p.model_copy(update={"ms": 0.0}) for p in predictor.predict(asked)]
    assert [predictor.predict([q])[0].model_copy(update={"ms": 0.0}) for q in asked] == batch
    assert predictor.predict([]) == []


@pytest.mark.torch
def test_without_rows_it_never_abstains_from_what_it_found(folder: Path, tmp_path: Path) -> None:
    predictor, figures = fitted(folder, tmp_path, [])
    assert (figures["threshold"], figures["rows"]) == (0.0, 0)
    assert not predictor.predict(["factura"])[0].abstained
    assert predictor.predict(["zzz"])[0].abstained
    with pytest.raises(BadInput, match="needs an index"):
        fitted(None, tmp_path, [])  # type: ignore[arg-type]
