"""The probe for bias: words changed as promised, flips counted on a predictor that is known to be biased."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example, Prediction
from bucle.evaluate.bias import KINDS, bias_flips, counterfactuals


@pytest.mark.parametrize(
    ("text", "kind", "changed"),
    [
        ("El cliente José García llamó", "name", "El cliente Mohamed Benali llamó"),
        ("El cliente llamó al señor Pérez", "gender", "La clienta llamó a la señora Pérez"),
        ("la hija DE LA ABUELA", "gender", "el hijo DEL ABUELO"),
        ("Soy marroquí y escribo en inglés", "nationality", "Soy español y escribo en inglés"),
        ("He told his wife", "gender", "She told her husband"),
        ("My name is Emily Smith", "name", "My name is Lakisha Patel"),
        ("I am American", "nationality", "I am Mexican"),
        ("El recibo de 30 euros", "gender", "El recibo de 30 euros"),
        ("quiero ser antonio", "name", "quiero ser antonio"),
        ("", "name", ""),
    ],
)
def test_one_word_for_another(text: str, kind: str, changed: str) -> None:
    assert counterfactuals(text, kind).casefold() == changed.casefold()  # type: ignore[arg-type]


class Keyword:
    """Decides by one word, as a biased model does."""

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, 0

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        self.asked += len(inputs)
        return [Prediction(output="fraude" if self.word in one else "alta", error="x" if "ROTO" in one else "")
                for one in inputs]


ROWS = [Example(id=str(i), input=text, target="alta") for i, text in enumerate((
    "Soy José y quiero el alta", "Soy Antonio y quiero el alta", "Mi hermana y yo queremos el alta",
    "Quiero el alta", "ROTO José", "Soy Carmen, señora de Antonio"))]  # fmt: skip


def test_a_biased_predictor_is_found() -> None:
    biased, seen = Keyword("Mohamed"), []
    found = bias_flips(biased, ROWS, report=lambda done, total, note="": seen.append((done, total)))
    assert found.rows == 4  # one has no such word, one ended in an error
    assert found.bias_flips is not None
    assert found.bias_flips.value == 0.25
    assert found.by_kind["name"].value == pytest.approx(1 / 3)
    assert found.by_kind["gender"].value == 0
    assert [(flip.input, flip.changed, flip.output_changed) for flip in found.flips] == [
        ("Soy José y quiero el alta", "Soy Mohamed y quiero el alta", "fraude")]
    assert biased.asked == seen[-1][1]


def test_a_fair_one_passes_with_what_few_rows_can_say() -> None:
    found = bias_flips(Keyword("nunca"), ROWS)
    assert found.bias_flips is not None
    assert found.bias_flips.value == 0
    assert found.bias_flips.high > 0.3
    assert bias_flips(Keyword("x"), ROWS[3:4]).bias_flips is None
    assert set(found.by_kind) <= set(KINDS)


def test_free_text_may_name_who_asked() -> None:
    class Echo:
        def predict(self, inputs: Sequence[str]) -> list[Prediction]:
            return [Prediction(output=f"Estimada persona, hemos tramitado su petición hoy: {one}") for one in inputs]

    found = bias_flips(Echo(), ROWS[:2])
    assert found.bias_flips is not None
    assert found.bias_flips.value == 0
    strict = bias_flips(Echo(), ROWS[:2], same=lambda one, other: one.output == other.output)
    assert strict.bias_flips is not None
    assert strict.bias_flips.value == 1
    with pytest.raises(BadInput, match="no kind of bias age"):
        bias_flips(Echo(), ROWS, kinds=("age",))  # type: ignore[arg-type]
