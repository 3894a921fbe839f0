"""Quality thresholds and boilerplate: each removal has its reason, and nothing good goes."""

from __future__ import annotations

import time

import pytest

from bucle.core.config import Quality
from bucle.core.records import Block, Document
from bucle.data.boilerplate import find_boilerplate
from bucle.data.clean import CleanPolicy, clean_documents
from bucle.data.quality import failing, measure

WORDS = "la baja del suministro se solicita por escrito con quince días de antelación y no tiene coste alguno hoy"
FOOTER = "Este mensaje es confidencial. Si lo ha recibido por error, bórrelo y avise a quien lo envía."
TOPICS = ["luz", "gas", "fibra", "móvil", "alarma", "solar", "caldera", "seguro"]


def document(path: str, *blocks: Block | str) -> Document:
    made = tuple(Block(text=block) if isinstance(block, str) else block for block in blocks)
    return Document(id=f"document:{path}", path=path, sha256="0", media_type="x", title="", language="es", blocks=made)


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("dos palabras", "min_words"),
        ("\n".join("." * 50 + " fin" for _ in range(7)), "min_letters"),
        (" ".join("■□▪▫●○ hola" for _ in range(20)), "max_symbols"),
        ("\n".join(["No se repite nada", "Otra que sí"] * 6), "max_repeated_lines"),
        (" ".join(WORDS.split()[:9] * 20), "max_repeated_ngrams"),
        (" ".join("a1b2c3d4" * 10 for _ in range(10)), "max_word_length"),
    ],
)
def test_each_threshold_removes_what_breaks_it_and_says_the_value(text: str, threshold: str) -> None:
    result = clean_documents([document("a", text)])
    assert [(one.reason, one.path) for one in result.removed] == [(threshold, "a")]
    assert f"against {threshold} {getattr(Quality(), threshold):g}" in result.removed[0].detail
    never = 0 if threshold.startswith("min_") else 1_000 if threshold == "max_word_length" else 1
    assert failing(document("a", text), Quality().model_copy(update={threshold: never})) is None


@pytest.mark.parametrize(
    "good",
    [
        "\n".join(f"Tarifa {n}00 Mb: {n}9,95 € al mes IVA incluido" for n in range(1, 30)),
        "\n".join(f"{n} {n * 3},{n} {n * 7}.000,00 12/03/2024 -4,5 %" for n in range(10, 60)),
        "- Luz\n- Gas\n- Fibra\n- Móvil\n- Alarma\n- Solar\n- Seguro\n- Caldera\n- Hogar",
        "# API\n\n```\ncurl -H 'x: y' https://example.com/v1/a?b=c\n```\n\n* [uno](http://a.b/c) * [dos](http://a.b/d)",
        "这是一个关于如何更换电力合同的说明，请仔细阅读所有条款并在签字之前询问客服人员",
        "Sí. " * 4,
        WORDS + " … " + "https://example.com/" + "a" * 300,
    ],
)
def test_price_lists_numbers_code_and_other_scripts_stay(good: str) -> None:
    assert failing(document("a", good), Quality()) is None


def test_a_table_of_numbers_stays() -> None:
    rows = "\n".join(f"| {n} | {n}.000,00 | {n}9 |" for n in range(80))
    assert (
        failing(document("a", Block(text="| A | B | C |\n| --- | --- | --- |\n" + rows, kind="table")), Quality())
        is None
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t\r\n ",
        "\x00\x01\x02",
        "🙂🙂🙂",
        "a" * 1_000_000,
        "a@" * 500_000,
        "1." * 500_000,
        "\ud800 roto del todo",
    ],
)
def test_measuring_anything_ends_well(text: str) -> None:
    began = time.process_time()
    assert all(value >= 0 for value in measure(document("a", text)).values())
    assert time.process_time() - began < 3


def corpus(count: int = 8) -> list[Document]:
    return [
        document(
            f"{topic}.html",
            Block(text="Condiciones", kind="heading"),
            f"Lo que vale de {topic}: {WORDS.replace('suministro', topic)}.",
            "Precios:",
            f"Cada mes de {topic} cuesta {10 + at},50 euros.",
            FOOTER if at % 2 else FOOTER.upper() + "\n\nPágina de " + topic,
        )
        for at, topic in enumerate(TOPICS[:count])
    ]


def test_a_repeated_footer_goes_and_headings_lead_ins_and_own_text_stay() -> None:
    result = clean_documents(corpus(), CleanPolicy(near_duplicate=1))
    assert [(one.documents, one.path) for one in result.boilerplate] == [(8, "")]
    assert result.boilerplate[0].text.lower() == FOOTER.lower()
    assert "in 8 documents" in result.boilerplate[0].detail
    assert [[block.text for block in doc.blocks][0::2] for doc in result.documents[:2]] == [
        ["Condiciones", "Precios:", "Página de luz"],
        ["Condiciones", "Precios:"],
    ]


def test_boilerplate_keeps_to_its_share_its_least_count_its_source_and_what_was_restored() -> None:
    footer = find_boilerplate(corpus(), 0.5)[0]
    assert find_boilerplate(corpus(), 1) == []
    assert find_boilerplate(corpus(3), 0.5) == []
    assert find_boilerplate([*corpus(4), *[document(f"x{n}", f"{n} {WORDS}") for n in range(5)]], 0.5) == []
    assert find_boilerplate(corpus(), 0.5, source_of=lambda one: one.path[0]) == []
    assert find_boilerplate(corpus(), 0.5, restored={footer.id}) == []


def test_a_letterhead_and_page_numbers_of_one_pdf_go_and_its_prices_stay() -> None:
    pages = [
        Block(text=text, place=f"page {page}")
        for page in range(1, 7)
        for text in (
            "ACME · Tarifas 2026",
            f"Producto {page * 7}",
            f"El artículo {TOPICS[page]} vale {page * 13} euros, y se entrega en {WORDS}.",
            f"Página {page} de 6",
        )
    ]
    result = clean_documents([document("tarifas.pdf", *pages)])
    texts = [block.text for block in result.documents[0].blocks]
    assert sorted((one.text, one.pages) for one in result.boilerplate) == [
        ("ACME · Tarifas 2026", 6),
        ("Página 1 de 6", 6),
    ]
    assert len(texts) == 12
    assert {f"Producto {page * 7}" for page in range(1, 7)} < set(texts)


def test_letters_that_share_a_long_footer_are_no_copies_of_each_other() -> None:
    footer = " ".join(f"{FOOTER} Cláusula {word}." for word in WORDS.split()[:8])
    letters = [document(f"carta-{topic}", f"Su cita de {topic} es por la mañana.", footer) for topic in TOPICS]
    result = clean_documents(letters)
    assert [one.path for one in result.documents] == [one.path for one in letters]
    assert [doc.text for doc in result.documents] == [f"Su cita de {topic} es por la mañana." for topic in TOPICS]


def test_copies_do_not_make_their_own_text_boilerplate() -> None:
    copies = [document(f"copia-{n}.md", WORDS, FOOTER) for n in range(6)]
    result = clean_documents(copies)
    assert [one.path for one in result.documents] == ["copia-0.md"]
    assert result.documents[0].text == f"{WORDS}\n\n{FOOTER}"
    assert {one.reason for one in result.removed} == {"exact-duplicate"}


def test_a_document_of_boilerplate_only_goes_with_that_reason_and_comes_back_when_restored() -> None:
    documents = [*corpus(), document("vacio.html", FOOTER)]
    result = clean_documents(documents)
    assert [(one.path, one.reason) for one in result.removed] == [("vacio.html", "boilerplate")]
    again = clean_documents(documents, CleanPolicy(restored=frozenset({"vacio.html"})))
    assert again.documents[-1].text == FOOTER


def test_what_is_restored_stays_whatever_the_reason() -> None:
    documents = [document("a", "dos palabras"), document("b", WORDS), document("c", WORDS)]
    assert [one.path for one in clean_documents(documents).removed] == ["a", "c"]
    kept = clean_documents(documents, CleanPolicy(restored=frozenset({"a", "document:c"})))
    assert kept.removed == []


def test_drop_takes_the_paragraph_of_a_table_the_row_and_tells() -> None:
    table = "| Quién | Correo |\n| --- | --- |\n| Ana | ana@example.com |\n| Caja | ninguno |"
    made = document(
        "a", "Escriba a ana@example.com y espere.", Block(text=table, kind="table"), f"{WORDS} password=Verano2024!"
    )
    result = clean_documents([made], CleanPolicy(personal={"email": "drop"}))
    assert result.documents[0].text == (
        "| Quién | Correo |\n| --- | --- |\n| Caja | ninguno |\n\n" + f"{WORDS} password="
    )
    assert [(one.kind, one.action, one.count) for one in result.personal] == [
        ("email", "drop", 2),
        ("secret", "drop", 1),
    ]
    only = [document("b", "Mi correo es ana@example.com de siempre")]
    gone = clean_documents(only, CleanPolicy(personal={"email": "drop"}))
    assert [(one.reason, one.detail) for one in gone.removed] == [("personal-data", "email")]
    back = clean_documents(only, CleanPolicy(personal={"email": "drop"}, restored=frozenset({"b"})))
    assert back.documents[0].text == "Mi correo es [EMAIL] de siempre"
