"""Citations that a model writes: read, checked against the passages of its prompt, each with its sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
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


@pytest.mark.parametrize("answer", [
    "La respuesta es el unicornio violeta. [1]", "El unicornio violeta [1][2][3].", "[1] El unicornio violeta",
    "Según [2], el unicornio violeta.", "Los caballos galopan por praderas [3]. Y vuelan [1].",
])
def test_a_number_behind_what_no_passage_says_is_no_citation(answer: str) -> None:
    found = check(answer, question="¿Quién galopa?")
    assert (found.citations, found.quotes, found.dropped) == ((), (), 0)
    assert found.unsupported == len(markers_in(answer))


def test_each_citation_is_checked_for_what_it_stands_behind() -> None:
    found = check("El técnico llega en 48 horas [1][2][3]", keep=True)
    assert (found.text, found.citations, found.unsupported) == ("El técnico llega en 48 horas [1]", ("c3",), 2)
    found = check("El técnico llega en 48 horas [1].")
    assert (found.citations, found.by_words, found.unsupported) == (("c3",), True, 1)
    assert check("Primero se pide. La baja, con 15 días de antelación [2].").citations == ("c2",)
    assert check("Según [3], el técnico llega en 48 horas.").citations == ("c3",)
    assert check("Sí [2].", question="¿Se confirma la baja por escrito?").citations == ("c2",)
    assert check("Sí [2].", question="¿Vuelan los caballos?").citations == ()
    assert check("Llegará dentro de 48 horas un técnico [3]").citations == ("c3",), "in other words and order"
    assert check("The técnico shall be with you within 48 h [3]").citations == ("c3",), "in another language"
    assert check("30 euros", reasoning="La baja se pide con 15 días [2] y cuesta el doble").citations == ("c2",)


def test_what_means_the_same_in_other_words_is_supported_where_the_index_embeds() -> None:
    class Knowing(Shelf):
        def embed(self, texts: list[str]) -> list[np.ndarray]:
            return [np.array([1.0, 0.0]) if "operario" in one else np.array([0.0, 1.0]) for one in texts]

        def support(self, question: str, spans: list[str], *, weight: float, vector: Any, access: Any) -> Any:
            one_way = np.array([1.0, 0.0]) if vector is None else vector
            return np.array([float(one_way @ ([1.0, 0.0] if "técnico" in one else [0.6, 0.8])) for one in spans])

    shelf = Knowing(*SHELF.hits)
    said = "Un operario acude antes de dos jornadas [3]"
    found = cited(said, "", "¿?", PASSAGES, shelf, frozenset())
    assert (found.citations, found.quotes) == (("c3",), ("El técnico llega en 48 horas.",))
    assert check(said).citations == ()


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    check("[" * 50_000 + "1" * 50_000 + "]")
    check("[1" + ", 1" * 30_000)
