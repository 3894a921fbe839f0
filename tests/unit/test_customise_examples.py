"""Which training rows stand in a prompt: nearest, diverse, fixed; deterministic, and never one that is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_peer import fitted, remote

from bucle.core.errors import BadInput, ConfigError
from bucle.core.records import Example
from bucle.customise.classic.features import fit_tfidf, tfidf_matrix
from bucle.customise.prompt import FewShot
from bucle.customise.prompt.examples import DiverseExamples, FixedExamples, NearestExamples, fixed_rows, how_chosen

PAIRS = [
    ("no hay luz en casa", "avería"), ("no hay luz en mi casa", "avería"), ("no hay luz en la casa", "avería"),
    ("sin luz desde ayer", "avería"), ("quiero darme de baja", "baja"), ("la baja de luz en casa", "baja"),
    ("alta de luz", "alta"), ("alta nueva para mi casa", "alta"),
]
ROWS = [Example(id=f"r{n}", input=text, target=label) for n, (text, label) in enumerate(PAIRS)]
ASKED = "no hay luz en casa hoy"


def test_diverse_examples_are_those_of_maximal_marginal_relevance() -> None:
    """Against the definition, computed anew: argmax of lambda sim(d, q) - (1 - lambda) max sim(d, chosen)."""
    texts = [text for text, _ in PAIRS]
    vectorizers = fit_tfidf(texts)
    matrix = tfidf_matrix(vectorizers, texts).toarray()
    query = tfidf_matrix(vectorizers, [ASKED]).toarray()[0]
    chosen: list[int] = []
    while len(chosen) < 4:
        worth = {
            n: 0.5 * float(query @ matrix[n]) - 0.5 * max((float(matrix[n] @ matrix[m]) for m in chosen), default=0.0)
            for n in range(len(texts)) if n not in chosen
        }
        chosen.append(max(worth, key=lambda n: (round(worth[n], 9), -n)))
    found = DiverseExamples(PAIRS).near([ASKED], 4)[0]
    assert set(found) == {PAIRS[n] for n in chosen}
    similarity = [float(query @ matrix[texts.index(text)]) for text, _ in found]
    assert similarity == sorted(similarity), "the nearest stands last"
    near = NearestExamples(PAIRS).near([ASKED], 4)[0]
    inner = [matrix[[texts.index(t) for t, _ in one]] for one in (found, near)]
    spread = [float(np.triu(m @ m.T, 1).sum()) for m in inner]
    assert spread[0] < spread[1], "they are less alike than the nearest"


def test_labels_are_balanced_and_the_input_itself_can_be_left_out() -> None:
    found = DiverseExamples(PAIRS, balanced=True).near([ASKED, "no hay luz en casa"], 6)
    for shown in found:
        labels = [label for _, label in shown]
        assert {labels.count(label) for label in set(labels)} == {2}
    same = DiverseExamples(PAIRS, skip_same=True).near(["no hay luz en casa"], 8)[0]
    assert ("no hay luz en casa", "avería") not in same
    assert len(same) == 7
    assert DiverseExamples(PAIRS).near([ASKED], 0) == [[]]
    assert DiverseExamples(PAIRS).near([], 3) == []
    alone = DiverseExamples(PAIRS).near([ASKED], 4)[0]
    assert DiverseExamples(PAIRS).near(["otra cosa", ASKED], 4)[1] == alone, "company changes nothing"


def test_fixed_rows_are_the_named_ones_or_the_typical_of_each_label() -> None:
    assert [row.id for row in fixed_rows(ROWS, 9, ("r6", "r0"), by_label=True)] == ["r6", "r0"]
    typical = fixed_rows(ROWS, 4, (), by_label=True)
    assert [row.target for row in typical] == ["avería", "alta", "baja", "avería"]
    assert typical[0].id in ("r0", "r1", "r2"), "three of four say the same: the centre is among them"
    assert fixed_rows(list(reversed(ROWS)), 3, (), by_label=True)[0].target == "avería"
    assert [row.id for row in fixed_rows(ROWS, 2, (), by_label=False)] == ["r0", "r1"]
    with pytest.raises(BadInput, match="`nadie` is no training row") as caught:
        fixed_rows(ROWS, 2, ("r1", "nadie"), by_label=True)
    assert "held-out" in caught.value.hint
    assert FixedExamples(PAIRS[:2], skip_same=True).near([PAIRS[0][0], "x"], 2) == [[PAIRS[1]], PAIRS[:2]]
    assert fixed_rows([Example(id="e", input="¿?", target="a")], 2, (), by_label=True)[0].id == "e"


def test_the_setting_says_which_and_a_wrong_one_is_told() -> None:
    assert how_chosen({}) == ("nearest", ())
    assert how_chosen({"examples": ["r1", 2]}) == ("fixed", ("r1", "2"))
    for wrong in ("lejanos", [], [[1]], 3, {"a": 1}):
        with pytest.raises(ConfigError, match="examples"):
            how_chosen({"examples": wrong})


@pytest.mark.parametrize(("settings", "shown"), [
    ({"shots": 2}, ["avería", "avería"]),
    ({"shots": 3, "examples": "diverse"}, {"avería", "baja", "alta"}),
    ({"examples": ["r7", "r4"]}, ["alta", "baja"]),
    ({"shots": 3, "examples": "fixed"}, ["avería", "alta", "baja"]),
])
def test_they_stand_in_the_prompt_of_few_shot(settings: dict[str, Any], shown: Any, tmp_path: Path) -> None:
    with remote(lambda messages, body: "baja") as (chat, peer):
        predictor, figures = fitted(FewShot(), tmp_path / "f", "classify", ROWS, chat=chat,
                                    labels=("alta", "avería", "baja"), **settings)
        assert predictor.predict([ASKED])[0].output == "baja"
    answers = [m["content"] for m in peer.asked[0]["messages"] if m["role"] == "assistant"]
    assert (set(answers) if isinstance(shown, set) else answers) == shown
    assert figures["shots"] == len(answers)
