"""Citations that a model writes: read, checked against the passages of its prompt, each with its sentence."""

from __future__ import annotations

import pytest
from test_customise_fusion import Shelf, hit

from bucle.core.records import Chunk
from bucle.customise.retrieve.citations import Cited, cited, markers_in, without_markers

TEXTS = (
    "Las facturas se emiten el día 5. Llegan por correo.",
    "La baja se pide con 15 días. No hay penalización. Se confirma por escrito.",
    "El técnico llega en 48 horas.",
)
SHELF = Shelf(*(hit(f"c{i}", text) for i, text in enumerate(TEXTS, 1)))
PASSAGES: list[Chunk] = [one.chunk for one in SHELF.hits]


def check(answer: str, reasoning: str = "", keep: bool = False, question: str = "¿Cómo se pide la baja?") -> Cited:
    return cited(answer, reasoning, question, PASSAGES, SHELF, frozenset(), keep=keep)


@pytest.mark.parametrize(("text", "numbers"), [
    ("Sí [1].", [1]), ("Sí [2][1] y [2].", [2, 1]), ("Sí [1, 3] [2 y 4]", [1, 3, 2, 4]), ("[1-3]", [1, 2, 3]),
    ("【2】 sí", [2]), ("[ 1 ; 2 ]", [1, 2]), ("[x] [1.5] [] [1234] 2]", []), ("[3-1]", [3, 1]), ("", []),
    ("[1-900]", [1, 900]), ("".join(f"[{i}]" for i in range(100)), list(range(20))),
])
def test_markers_are_read(text: str, numbers: list[int]) -> None:
    assert markers_in(text) == numbers


def test_what_is_cited_is_checked_and_quoted() -> None:
    found = check("Se pide con 15 días de antelación [2].")
    assert found == Cited("Se pide con 15 días de antelación.", ("c2",), ("La baja se pide con 15 días.",), 0, False)
    found = check("Con 15 días [7] y por escrito [2][0][99]")
    assert (found.citations, found.dropped, found.text) == (("c2",), 3, "Con 15 días y por escrito")
    found = check("Por escrito [2] en 48 horas [3, 9].", keep=True)
    assert (found.text, found.citations, found.dropped) == ("Por escrito [1] en 48 horas [2].", ("c2", "c3"), 1)
    assert found.quotes == ("Se confirma por escrito.", "El técnico llega en 48 horas.")
    assert check("15 días", reasoning="[2] lo dice").citations == ("c2",)


def test_an_answer_without_a_valid_citation_gets_those_that_hold_its_words_or_none() -> None:
    found = check("El técnico llega en 48 horas [8]")
    assert (found.citations, found.by_words, found.dropped) == (("c3",), True, 1)
    assert check("Las facturas se emiten el día 5.").citations == ("c1",)
    found = check("Los caballos galopan libremente por praderas")
    assert (found.citations, found.quotes, found.text) == ((), (), "Los caballos galopan libremente por praderas")
    for empty in ("", "[1]", "¿?"):
        assert check(empty).citations in ((), ("c1",))
    assert check("[1]").text == ""
    assert without_markers("a [1] b[2]. [3]") == "a b."


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    check("[" * 50_000 + "1" * 50_000 + "]")
    check("[1" + ", 1" * 30_000)
