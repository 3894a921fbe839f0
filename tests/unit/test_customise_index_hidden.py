"""What an asker is told does not depend on passages that the asker may not see: not by a score, nor by an order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_customise_index import Hashing, build, passage

from bucle.core.records import Chunk
from bucle.customise.retrieve.fusion import EVEN
from bucle.customise.retrieve.index import Index
from bucle.customise.retrieve.passages import Finder
from bucle.customise.retrieve.quote import QuotePredictor

RNG = random.Random(7)
OPEN = ["tienda", "calle", "abre", "cierra", "horario", "factura", "cobro", "avería", "técnico", "reparto", "la", "de"]
CLOSED = ["98765", "98756", "Quintanilla", "salario", "zafiro", "despido", "fusión"]
STAFF, BOARD = frozenset({"rrhh"}), frozenset({"consejo"})


def text(words: Sequence[str], count: int) -> str:
    return " ".join(RNG.choices(words, k=count)) + ". " + " ".join(RNG.choices(words, k=5)) + "."


VISIBLE = [passage(f"v{i}", text(OPEN, RNG.randint(6, 25))) for i in range(90)]
VISIBLE += [passage(f"e{i}", f"The shop number {i} opens daily for invoices.", language="en") for i in range(6)]
HIDDEN = [passage(f"h{i}", text([*OPEN, *CLOSED], RNG.randint(4, 60)), access=("rrhh",)) for i in range(60)]
HIDDEN += [passage(f"c{i}", text([*OPEN, *CLOSED], 9), access=("consejo", "rrhh")) for i in range(9)]
OTHERS = [passage("other", "Nada que ver.", access=("consejo",))]
QUESTIONS = [*(" ".join(RNG.choices([*OPEN, *CLOSED], k=RNG.randint(1, 6))) for _ in range(16)),
             *(f"tienda {word}" for word in CLOSED), "shop invoices 98765", "la de los"]


class Documents(dict[str, Sequence[str]]):
    """The labels of today's documents, and which there are."""

    paths: set[str]


class Embedding(Index):
    """Its questions embedded as its passages are."""

    def embed(self, texts: Sequence[str]) -> Any:
        return Hashing().embed_array(texts)


def told(index: Index, access: frozenset[str] = frozenset(), where: Mapping[str, str] | None = None) -> list[Any]:
    """All that an asker is told of each question: passages, scores, support and a quoting predictor's answers."""
    said: list[Any] = [index.count(access)]
    for question in QUESTIONS:
        vector = Hashing().embed_array([question])[0]
        for weight in (0.0, 0.5):
            hits = index.search(question, k=8, weight=weight, vector=vector, access=access, where=where, depth=10)
            said += [(hit.chunk.id, hit.score, hit.words, hit.meaning) for hit in hits]
        spans = [span for hit in hits for span in index.sentences(hit.chunk.id, access)]
        said.append(index.support(question, spans, weight=0.0, access=access).tolist())
    for weights in ({"words": 1.0}, EVEN):
        quoting = QuotePredictor(Finder(index, {"weights": weights}), {
            "passages": 4, "weight": 0.25, "rank": 0.2, "second": 0.85, "threshold": 0.0})
        said += [(p.output, p.score, p.citations, p.chunks) for p in quoting.predict(QUESTIONS[-8:], access=access)]
    return said


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("hidden")
    mixed = [*VISIBLE, *HIDDEN, *OTHERS]
    RNG.shuffle(mixed)
    mixed.sort(key=lambda c: c.access != (), reverse=True)  # the hidden first, so that rows have other numbers
    order = [c for c in mixed if not c.access]
    made = {"with": mixed, "without": [*order, *OTHERS], "alone": order}
    for name, chunks in made.items():
        build(chunks, out / name)
    return {name: out / name for name in made}


def test_nothing_that_is_told_depends_on_hidden_passages(folders: dict[str, Path]) -> None:
    with_them, without = Embedding(folders["with"], None), Embedding(folders["without"], None)
    assert told(with_them) == told(without)
    narrow = {"path": "v*.md"}
    assert told(with_them, where=narrow) == told(without, where=narrow)
    assert any(h.words for h in with_them.search("98765 Quintanilla", k=5, weight=0.0, access=STAFF | BOARD))
    assert with_them.search("98765 Quintanilla", k=5, weight=0.0) == []
    spans = [VISIBLE[0].text]
    asked = "tienda 98765"
    assert not np.array_equal(with_them.support(asked, spans, weight=0.0, access=STAFF),
                              with_them.support(asked, spans, weight=0.0)), "who may see them is told of them"


def test_where_all_may_be_seen_the_scores_are_lancedbs(folders: dict[str, Path]) -> None:
    alone, without = Embedding(folders["alone"], None), Embedding(folders["without"], None)
    for question in QUESTIONS:
        theirs = {h.chunk.id: h.words for h in alone.search(question, k=200, weight=0.0)}
        ours = {h.chunk.id: h.words for h in without.search(question, k=200, weight=0.0)}
        assert ours == pytest.approx(theirs, rel=1e-4), question
    assert told(alone)[0] == told(without)[0]


def test_a_document_that_gets_a_label_is_as_if_it_were_not_there(folders: dict[str, Path], tmp_path: Path) -> None:
    later = {c.path: ["rrhh"] for c in VISIBLE[::3]}
    relabelled = Embedding(folders["with"], None, labels=later)
    build([c for c in _chunks(folders["without"]) if c.path not in later], tmp_path / "less")
    assert told(relabelled) == told(Embedding(tmp_path / "less", None))
    there = Documents()
    there.paths = {c.path for c in [*VISIBLE, *HIDDEN, *OTHERS]} - set(later)
    assert told(Embedding(folders["with"], None, labels=there)) == told(relabelled), "and one that is gone likewise"
    only_open = Embedding(folders["alone"], None, labels=later)
    assert told(only_open) == told(relabelled), "also where nothing was hidden when it was built"


def test_an_update_keeps_apart_what_is_hidden(folders: dict[str, Path], tmp_path: Path) -> None:
    chunks = _chunks(folders["with"])
    moved = {c.id: c.model_copy(update={"access": () if c.access else ("rrhh",)}) for c in chunks[55:80:5]}
    changed = [moved.get(c.id, c) for c in chunks if c.id not in {"chunk:h3", "chunk:v3"}]
    changed += [passage("n1", "La tienda nueva abre el sábado."), passage("n2", "El despido de n2.", access=("otro",))]
    meta, _ = build(changed, tmp_path / "grown", folders["with"])
    assert meta["pieces"] == 1, "it is an update"
    build(changed, tmp_path / "afresh")
    grown, afresh = Embedding(tmp_path / "grown", None), Embedding(tmp_path / "afresh", None)
    for access in (frozenset[str](), STAFF, STAFF | BOARD | {"otro"}):
        for question in QUESTIONS:
            one, other = (
                {h.chunk.id: h.words for h in index.search(question, k=200, weight=0.0, access=access, depth=200)}
                for index in (grown, afresh)
            )
            assert one == pytest.approx(other, rel=1e-9) or access > BOARD, question
            spans = [c.text for c in changed if set(c.access) <= access][:5]
            assert np.array_equal(grown.support(question, spans, weight=0.0, access=access),
                                  afresh.support(question, spans, weight=0.0, access=access))


def _chunks(folder: Path) -> list[Chunk]:
    return [Chunk.model_validate_json(line) for line in (folder / "chunks.jsonl").read_bytes().splitlines()]
