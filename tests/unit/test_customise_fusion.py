"""Weights of the fusion: even without evidence, pulled by it, never beyond what it says; ranks and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bucle.core.ports import Hit
from bucle.core.records import Chunk, Example
from bucle.customise.overlap import exact_match, folded
from bucle.customise.retrieve.fusion import EVEN, fit_weights, right_passages
from bucle.customise.retrieve.quote import _Answer, _stretch, _threshold
from bucle.customise.retrieve.signals import SIGNALS, Pool, grams, joined, look, order


def hit(name: str, text: str = "", words: float | None = None, meaning: float | None = None) -> Hit:
    return Hit(Chunk(id=name, document_id=name, path=name, text=text or name), 0.0, words, meaning)


def questions(count: int, telling: dict[str, float], seed: int = 0) -> tuple[list[Pool], list[list[bool]], list[str]]:
    """Pools of eight passages, one of them right; a signal tells it apart by as much as `telling` says."""
    rng = np.random.default_rng(seed)
    pools, right = [], []
    for _ in range(count):
        at = int(rng.integers(8))
        signals = rng.random((8, len(SIGNALS)))
        for column, name in enumerate(SIGNALS):
            signals[at, column] += telling.get(name, 0.0)
        signals = (signals - signals.min(0)) / np.ptp(signals, axis=0)
        pools.append(Pool(tuple(hit(f"p{i}") for i in range(8)), signals.astype(np.float32)))
        right.append([i == at for i in range(8)])
    return pools, right, [f"d{i // 2}" for i in range(count)]


def test_without_questions_the_weights_are_even_and_with_few_nearly() -> None:
    assert fit_weights([], [], [], 7).weights == EVEN
    few = fit_weights(*questions(3, {"words": 1.0}), 7)
    assert (few.chosen, few.mrr, few.rows) == ("fitted", {}, 3)
    assert 0.2 < few.weights["words"] < 0.45
    assert min(few.weights.values()) > 0.1
    nowhere, _, clusters = questions(4, {})
    lost = fit_weights(nowhere, [[False] * 8] * 4, clusters, 7)
    assert (lost.weights, lost.chosen, lost.rows) == (EVEN, "even", 0), "no right passage was found: nothing to learn"


def test_questions_pull_the_weights_to_what_tells() -> None:
    found = fit_weights(*questions(200, {"words": 0.5, "together": 0.5}), 7)
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-3)
    assert min(found.weights.values()) >= 0
    assert found.weights["words"] + found.weights["together"] > 0.7
    assert found.mrr["fitted"] > max(found.mrr[name] for name in ("words", "meaning", "even"))
    assert (found.chosen, found.rows) == ("fitted", 200)
    assert fit_weights(*questions(200, {"words": 0.5, "together": 0.5}), 7) == found
    fewer = fit_weights(*questions(20, {"words": 0.5, "together": 0.5}), 7)
    assert 0.4 < fewer.weights["words"] + fewer.weights["together"] < 0.75


def test_words_alone_serve_where_the_rest_misleads() -> None:
    found = fit_weights(*questions(300, {"words": 1.5}), 7)
    assert found.weights["words"] > 0.6
    misled = {"words": 0.9, **dict.fromkeys(("meaning", "sentence_words", "sentence_meaning", "together"), -0.9)}
    found = fit_weights(*questions(40, misled), 7)
    assert found.mrr["words"] > found.mrr["even"]
    assert found.weights["words"] > 0.8
    assert max(found.mrr, key=lambda name: found.mrr[name]) in ("words", "fitted")


def test_right_passages_are_those_of_the_document_that_hold_the_answer() -> None:
    hits = [hit("a", "Cuesta 10 euros."), hit("b", "Nada."), hit("c", "Cuesta 10 EUROS al mes.")]

    def row(document: str, target: str | None) -> Example:
        return Example(id="1", input="q", target=target, document=document)

    assert right_passages(row("c; d", None), hits) == [False, False, True]
    assert right_passages(row("", "10 euros."), hits) == [True, False, True]
    assert right_passages(row("b", "10 euros"), hits) == [False, True, False], "said in other words there"
    assert right_passages(row("", "veinte"), hits) == [False] * 3


class Shelf:
    """Passages that are searched by nothing but their place: the port and no more."""

    def __init__(self, *hits: Hit) -> None:
        self.hits = list(hits)

    def search(self, question: str, *, k: int, weight: float, vector: Any = None,
               access: frozenset[str] = frozenset(), where: Any = None) -> list[Hit]:
        return self.hits[:k]

    def get(self, ids: Any, access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        return {h.chunk.id: h.chunk for h in self.hits if h.chunk.id in ids}

    def count(self, access: frozenset[str] = frozenset()) -> int:
        return len(self.hits)


def test_a_quote_of_two_sentences_stands_in_the_passage_as_it_is() -> None:
    text = "Uno abre.\n\n- Dos cierra.  Tres espera."
    assert _stretch(["Uno abre.", "Tres espera."], text) == text
    assert _stretch(["- Dos cierra.", "Tres espera."], text) == "- Dos cierra.  Tres espera."
    assert _stretch(["Uno abre."], text) == "Uno abre."
    assert _stretch(["Tres espera.", "Uno abre."], text) == "Tres espera."


def test_signals_stand_on_the_unit_range_whatever_a_search_lacks() -> None:
    shelf = Shelf(
        hit("near", "La tarifa nocturna cuesta 20 euros. Otra frase más.", words=3.0),
        hit("far", "La tarifa es nueva. Aquí no. Ni aquí. Es nocturna.", words=1.0, meaning=0.4),
        hit("none", "Zapatos.", meaning=0.1),
    )
    pool = look(shelf, "¿Cuánto cuestan las tarifas nocturnas?", None)
    signals = pool.signals
    assert signals.shape == (3, 5)
    assert signals.min() == 0
    assert signals.max() == 1
    assert signals[:, 0].tolist() == [1, pytest.approx(1 / 3), 0], "not found by words is the worst"
    assert signals[:, 1].tolist() == [0, 1, 0], "nor by meaning"
    assert signals[0, 2] == signals[0, 4] == 1 > signals[1, 4] > 0, "the question's words stand together in the first"
    ranked = order(pool, EVEN)
    assert [h.chunk.id for h in ranked] == ["near", "far", "none"]
    assert all(0 <= h.score <= 1 for h in ranked)
    for question in ("", "¿?", "🦊", "a" * 100_000, "\0"):
        assert look(shelf, question, None).signals.shape == (3, 5)
    assert look(Shelf(), "hola", None).hits == ()


def test_words_are_folded_and_cut() -> None:
    assert joined("La  AVERÍA, ¡ya!") == "_la_averia_ya_"
    assert grams("un año") == ["_un_", "_ano", "ano_"]
    assert (folded("Ñandú ABC"), folded("ABC")) == ("nandu abc", "abc")
    assert (exact_match("El año", "el ANO!"), exact_match("a b", "b a")) == (1.0, 0.0)


def rows(*targets: str | None) -> list[Example]:
    return [Example(id=str(i), input="q", target=target) for i, target in enumerate(targets)]


def said(support: float, text: str = "bien") -> _Answer:
    return _Answer(text, support, ())


def test_a_threshold_needs_questions_without_an_answer_and_more_than_one() -> None:
    assert _threshold(rows("bien", "otra", "bien"), [said(0.9), said(0.1), said(0.5)])[0] == 0.0
    assert _threshold(rows("bien", None), [said(0.9), said(0.0, "")]) == (0.0, 1.0), "nothing found is silence already"
    threshold, score = _threshold(rows("bien", "bien", None, None), [said(0.9), said(0.8), said(0.3), said(0.2)])
    assert (threshold, score) == (pytest.approx(0.55), 1.0), "half-way between what is answered and what is not"
    threshold, _ = _threshold(rows(*["bien"] * 9, None), [*[said(0.5 + i / 100) for i in range(9)], said(0.54)])
    assert threshold == 0.0, "one question among ten says nothing"
    assert _threshold(rows(None, None, None), [said(0.9), said(0.8), said(0.7)])[0] > 0.9
