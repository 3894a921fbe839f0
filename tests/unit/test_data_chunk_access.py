"""Sentences cut in one place, access labels on passages, and retrieval that never shows what the asker may not see."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bucle.core.ports import ChatReply, FitContext, LoadContext
from bucle.core.records import Block, Chunk, Document, Usage
from bucle.data.chunk import chunk_documents
from bucle.data.sentences import sentence_spans, sentences

NONE: frozenset[str] = frozenset()


def document(text: str, path: str = "a.md", access: tuple[str, ...] = ()) -> Document:
    return Document(
        id=f"document:{path}",
        path=path,
        sha256="0" * 64,
        media_type="text/markdown",
        title="Ayuda",
        language="es",
        blocks=(Block(text=text, place="section Uno"),),
        access=access,
    )


@pytest.mark.parametrize(
    "text",
    [
        "El Sr.   García y la Dra. Ruiz. Otra.\r\nY otra línea.\n\n| a | b |\n|---|---|\n",
        "",
        "   ",
        "Uno.\u2028Dos. Tres",
        "p. ej. Madrid. J. Pérez firma… ¿Sí? ¡No!",
        "Sr. " * 500,
    ],
)
def test_spans_cover_everything_but_white_space_in_order(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b and text[a:b] == text[a:b].strip() for a, b in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert set(sentences(text)) <= {text[a:b] for a, b in spans}


def test_a_long_paragraph_is_never_cut_after_an_abbreviation() -> None:
    one = "El Sr. García vive en la Avda. Goya con la Dra. Ruiz desde hace 3 años."
    chunks = chunk_documents([document(" ".join([one] * 40))], max_words=30, overlap=5)
    assert len(chunks) > 10
    for chunk in chunks:
        assert not chunk.text.endswith(("Sr.", "Avda.", "Dra.")), chunk.text
        assert chunk.text.startswith("El Sr. García"), chunk.text


def test_a_passage_carries_the_labels_of_its_document() -> None:
    chunks = chunk_documents(
        [document("Abierto a todos aquí."), document("Solo para RR. HH.", "b.md", ("rrhh", "dir"))]
    )
    assert [c.access for c in chunks] == [(), ("rrhh", "dir")]


OPEN = [f"La factura número {i} se paga en {i + 3} días desde su emisión." for i in range(8)]
SECRET = [f"La factura factura factura secreta {i} se paga en {i} días." for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bucle.customise.retrieve import build_index
    from bucle.models.encoder import encoder_folder

    out = tmp_path_factory.mktemp("index")
    access = [("rrhh",), ("rrhh", "dirección"), ("it's",), ("1) OR (1=1",)]
    chunks = [
        Chunk(id=f"chunk:s{i}", document_id="d", path=f"s{i}.md", text=t, access=access[i % 4])
        for i, t in enumerate(SECRET)
    ]
    chunks += [Chunk(id=f"chunk:o{i}", document_id="d", path=f"o{i}.md", text=t) for i, t in enumerate(OPEN)]
    build_index(chunks, out, encoder=encoder_folder(), language="es", report=lambda done, total, note="": None)
    return out


def opened(folder: Path, **options: Any) -> Any:
    from bucle.customise.retrieve import Index
    from bucle.models.encoder import encoder_folder

    return Index(folder, encoder_folder(), **options)


@pytest.mark.torch
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0], ids=["full text", "both", "vector"])
@pytest.mark.parametrize("scalar", [False, True], ids=["", "with a scalar index"])
def test_hidden_passages_are_not_found_and_cost_no_hit(
    folder: Path, tmp_path: Path, weight: float, scalar: bool
) -> None:
    import shutil

    if scalar:  # the filter of a full-text search was once ignored where a scalar index exists
        import lancedb
        from lancedb.index import BTree

        folder = Path(shutil.copytree(folder, tmp_path / "index"))
        lancedb.connect(str(folder / "lance")).open_table("chunks").create_index("audience", config=BTree())
    index = opened(folder)
    ask = "factura secreta que se paga en días"

    def found(access: frozenset[str], k: int = 6) -> list[str]:
        return [hit.chunk.id for hit in index.search(ask, k=k, weight=weight, access=access)]

    assert len(found(NONE)) == 6
    assert all(name.startswith("chunk:o") for name in found(NONE, k=48))
    assert len(found(NONE, k=48)) == len(OPEN)
    for held in (frozenset({"rrhh"}), frozenset({"it's"}), frozenset({"1) OR (1=1"}), frozenset({"otra"})):
        seen = {a for name in found(held, k=48) for a in index.chunks[name].access}
        assert seen == (held if held != {"otra"} else set())
    assert len(found(frozenset({"rrhh", "dirección"}), k=48)) == len(OPEN) + 20
    assert len(found(frozenset(a for c in index.chunks.values() for a in c.access), k=48)) == 48


class Parrot:
    """A model that repeats everything it was shown: whatever reaches it would reach the asker."""

    name = "parrot"

    def chat(
        self, messages: Any, *, max_tokens: int, temperature: float = 0.0, stop: Any = (), seed: int = 0
    ) -> ChatReply:
        return ChatReply(messages[-1]["content"], Usage())

    def stream(self, messages: Any, **options: Any) -> Any:
        raise NotImplementedError


@pytest.mark.torch
@pytest.mark.parametrize("name", ["quote", "retrieve", "rag"])
def test_no_technique_quotes_shows_or_cites_what_is_hidden(folder: Path, tmp_path: Path, name: str) -> None:
    from bucle.customise.registry import technique
    from bucle.models.encoder import encoder_folder

    made = technique(name)
    made.fit(
        FitContext(
            out=tmp_path,
            work=tmp_path,
            train=(),
            validation=(),
            labels=(),
            params={},
            seed=7,
            index=folder,
            report=lambda done, total, note="": None,
            encoder=encoder_folder(),
        )
    )
    context = LoadContext(labels=(), params={}, index=folder, encoder=encoder_folder(), chat=Parrot())
    predictor: Any = made.load(tmp_path, context)
    asked = ["¿En cuántos días se paga la factura secreta 7?", *SECRET[:4]]
    for question, p in zip(asked, predictor.predict(asked), strict=True):
        assert p.output
        assert "secreta" not in p.output.removesuffix(question), p.output
        assert p.chunks
        assert all(c.startswith("chunk:o") for c in (*p.chunks, *p.citations))
    held = predictor.predict([SECRET[0]], access=frozenset({"rrhh"}))[0]
    assert "chunk:s0" in held.citations
    assert "secreta 0" in held.output

    # an alias still points to an index from before the label: today's labels hold for it too
    late = LoadContext(
        labels=(),
        params={},
        index=folder,
        encoder=encoder_folder(),
        chat=Parrot(),
        extra={"labels": {f"o{i}.md": ("rrhh",) for i in range(7)}},
    )
    stale: Any = made.load(tmp_path, late)
    for p in stale.predict(OPEN):
        assert set(p.chunks) == {"chunk:o7"}
        assert set(p.citations) <= {"chunk:o7"}
    assert "chunk:o0" in stale.predict([OPEN[0]], access=frozenset({"rrhh"}))[0].chunks


@pytest.mark.torch
def test_where_everything_is_hidden_nothing_is_answered(folder: Path) -> None:
    from bucle.customise.retrieve.fusion import EVEN
    from bucle.customise.retrieve.passages import Finder
    from bucle.customise.retrieve.quote import QuotePredictor

    index = opened(folder, labels={f"o{i}.md": ("x",) for i in range(8)})
    quote = QuotePredictor(Finder(index, {"weights": EVEN}),
                           {"weight": 0.5, "rank": 0.2, "second": 0.0, "threshold": 0.0, "passages": 6})
    found = quote.predict([OPEN[0], SECRET[0]])
    assert [(p.output, p.chunks, p.citations, p.abstained) for p in found] == [("", (), (), True)] * 2
    assert index.sentences("chunk:s0") == []
    assert index.sentences("chunk:s0", frozenset({"rrhh"})) == [SECRET[0]]
    assert not index.visible("chunk:not-there")
