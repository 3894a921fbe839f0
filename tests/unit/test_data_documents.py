"""Cleaning, languages, chunks and the figures."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Block, Document, Example
from bucle.data.chunk import chunk_documents
from bucle.data.clean import CleanPolicy, clean_documents
from bucle.data.explore import explore_documents, explore_examples
from bucle.data.language import detect, detect_all
from bucle.data.parse import QuarantinedFile
from bucle.data.split import Split, split
from bucle.data.tables import read_examples
from bucle.ledger import Ledger
from bucle.loop import restore

INTENTS = Path(__file__).parents[2].parent / "shared" / "data" / "intents-es"
BASE = (
    "La baja del suministro se solicita por escrito con quince días de antelación y no tiene coste "
    "cuando ha cumplido la permanencia que figura en las condiciones particulares de su contrato."
)


def document(path: str, *blocks: Block | str, language: str = "es", access: tuple[str, ...] = ()) -> Document:
    made = tuple(Block(text=block) if isinstance(block, str) else block for block in blocks)
    return Document(
        id=f"document:{path}",
        path=path,
        sha256="0",
        media_type="text/plain",
        title=path,
        language=language,
        blocks=made,
        access=access,
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("No me funciona el router desde ayer por la tarde", "es"),
        ("My last bill is twice the usual amount", "en"),
        ("Bon dia, vull canviar la tarifa de la llum", "ca"),
        ("Egun on, faktura ordaindu nahi dut", "eu"),
        ("Bonjour, je voudrais résilier mon contrat", "fr"),
        ("Guten Tag, ich möchte meinen Vertrag kündigen", "de"),
        ("ok", "und"),
        ("", "und"),
        ("12345 67,80", "und"),
        ("https://example.com/una/pagina/larga", "und"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert detect(text) == code


@pytest.mark.skipif(not INTENTS.is_dir(), reason=f"{INTENTS} is absent: real intents cannot be tried")
def test_a_collection_tells_the_language_of_its_short_texts() -> None:
    spanish = [example.input for example in read_examples(INTENTS / "eval.tsv", "classify")[0]]
    english = [
        "set an alarm for tomorrow at seven",
        "cancel all my alarms",
        "will it rain in Boston today",
        "show my reminders",
    ] * 10
    found = detect_all([*spanish, *english])
    alone = [detect(text) for text in spanish]
    assert found[: len(spanish)].count("es") / len(spanish) > 0.98 > alone.count("es") / len(spanish)
    assert found[len(spanish) :] == ["en"] * 40
    assert detect_all([]) == []


def test_cleaning_removes_what_it_says_and_keeps_the_longest_copy() -> None:
    longer = BASE + " Consulte."
    result = clean_documents(
        [
            document("a.md", BASE),
            document("b.md", BASE.upper()),
            document("c.md", longer),
            document("d.md", "dos palabras"),
            document("e.md", "This one is written in English for the other team.", language="en"),
            document("f.md", "Escriba a ana@example.com con la clave sk-" + "a1" * 15 + " y su DNI 12345678Z."),
        ],
        CleanPolicy(languages=("es",), personal={"dni": "keep"}),
    )
    assert [one.path for one in result.documents] == ["c.md", "f.md"]
    assert [(one.path, one.reason) for one in result.removed] == [
        ("a.md", "near-duplicate"),
        ("b.md", "near-duplicate"),
        ("d.md", "min_words"),
        ("e.md", "language"),
    ]
    assert "c.md" in result.removed[0].detail
    assert result.documents[1].text == "Escriba a [EMAIL] con la clave  y su DNI 12345678Z."
    assert [(one.kind, one.action, one.count) for one in result.personal] == [
        ("dni", "keep", 1),
        ("email", "mask", 1),
        ("secret", "drop", 1),
    ]


def test_of_versions_the_current_one_stays_and_a_variant_with_its_own_terms_too() -> None:
    for first, second, kept in [
        (
            document("luz-2025.pdf", BASE + " Precio 0,197 y algo más."),
            document("luz-2026.pdf", BASE + " Precio 0,189."),
            "luz-2026.pdf",
        ),
        (document("wifi-2025 (versión anterior).md", BASE + " Versión 3."), document("wifi.md", BASE), "wifi.md"),
    ]:
        for pair in ([first, second], [second, first]):
            result = clean_documents(pair)
            assert [one.path for one in result.documents] == [kept]
            assert "older version" in result.removed[0].detail
    variants = [document("baja.md", BASE + " En 15 días."), document("baja-canarias.md", BASE + " En 30 días hábiles.")]
    assert clean_documents(variants).documents == variants


@pytest.mark.parametrize("again", [BASE, BASE + " Consulte."])
def test_a_document_gives_way_only_to_one_with_the_same_labels(again: str) -> None:
    public, legal = document("b.md", BASE), document("a.md", again, access=("legal",))
    for pair in ([public, legal], [legal, public]):
        assert clean_documents(pair).removed == []
    both = [
        document("x.md", BASE, access=("legal", "direccion")),
        document("y.md", BASE, access=("direccion", "legal")),
        public,
    ]
    assert [one.path for one in clean_documents(both).removed] == ["y.md"]


OFFICE = (
    "La oficina de {} abre de lunes a viernes de nueve a dos y los sábados previa cita. Se atienden altas, bajas, "
    "cambios de titular, reclamaciones y consultas sobre la factura. Para el resto de gestiones use la web o la "
    "aplicación móvil, donde también puede descargar sus contratos y sus facturas de los últimos cinco años sin "
    "esperas."
)
TARIFF = (
    "La tarifa Luz {} cuesta {} euros al mes con impuestos incluidos y permanencia de un año. El cambio de tarifa "
    "se hace desde el área de cliente y tiene efecto en la siguiente factura. La baja anticipada lleva la "
    "penalización que figura en las condiciones particulares, que se descuenta cada mes que pasa hasta que se "
    "cumple la permanencia pactada."
)


@pytest.mark.parametrize(
    "texts",
    [
        [OFFICE.format(city) for city in ("Madrid", "Sevilla", "Bilbao", "Jaén")],
        [TARIFF.format(*one) for one in (("Oro", "treinta"), ("Plata", "veinte"), ("Bronce", "quince"))],
        [TARIFF.format("Oro", price) for price in ("sesenta", "setenta")],
        [TARIFF.format(name, "veinte") for name in ("Ana", "Eva")],
        [BASE, BASE.replace("quince", "doce")],
        [OFFICE.format("Ávila"), OFFICE.format("Ávila").replace("lunes", "martes")],
    ],
)
def test_variants_that_differ_in_a_word_all_stay(texts: list[str]) -> None:
    documents = [document(f"{at}.md", text) for at, text in enumerate(texts)]
    assert clean_documents(documents, CleanPolicy(near_duplicate=0.7, boilerplate=1)).removed == []


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("facturas", "facturaas"),
        ("aplicación", "aplicacion"),
        ("reclamaciones", "recla maciones"),
        ("de titular", "detitular"),
        ("gestiones", "gestoines"),
        (". Para", ".\n\n  Para"),
    ],
)
def test_a_copy_with_a_typing_error_goes(now: str, then: str) -> None:
    text = OFFICE.format("Madrid")
    assert now in text
    made = [document("a.md", text + " Gracias por su visita."), document("b.md", text.replace(now, then))]
    assert [one.path for one in clean_documents(made, CleanPolicy(near_duplicate=0.7)).removed] == ["b.md"]


def test_copies_of_each_variant_go_and_one_of_each_stays() -> None:
    cities = ("Madrid", "Jaén")
    made = [document(f"{one}-{at}.md", OFFICE.format(one) + " Venga." * at) for one in cities for at in (0, 1)]
    made.append(document("Jaén-2.md", OFFICE.format("Jaén") + " Venga."))
    assert sorted(one.path for one in clean_documents(made, CleanPolicy(boilerplate=1)).documents) == [
        "Jaén-1.md",
        "Madrid-1.md",
    ]


def test_hundreds_of_variants_take_seconds() -> None:
    made = [document(f"{at}.md", OFFICE.format(f"Villa{chr(97 + at % 26) * 3}{at}")) for at in range(400)]
    began = time.process_time()
    assert clean_documents(made, CleanPolicy(boilerplate=1)).removed == []
    assert time.process_time() - began < 10


def test_what_drop_takes_of_a_document_is_listed_without_the_value_and_comes_back_masked(tmp_path: Path) -> None:
    table = "| Quién | DNI |\n| --- | --- |\n| Ana | 12345678Z |\n| Luis | 87654321X |\n| Caja | ninguno |"
    made = document(
        "a.md", BASE, "Mi DNI es 12345678Z.", Block(text=table, kind="table"), "Su clave: ghp_" + "a1" * 18
    )
    policy = CleanPolicy(personal={"dni": "drop"})
    result = clean_documents([made], policy)
    assert [(one.path, one.reason, one.detail) for one in result.dropped] == [
        ("a.md", "personal-data", "dni"),
        ("a.md", "personal-data", "dni"),
        ("a.md", "personal-data", "dni"),
        ("a.md", "secret", "1 taken out of the text"),
    ]
    assert len({one.id for one in result.dropped}) == 4
    assert "12345678" not in repr(result.dropped)
    paragraph, ana = result.dropped[0].id, result.dropped[1].id
    back = clean_documents([made], replace(policy, restored=frozenset({paragraph, ana})))
    assert "Mi DNI es [DNI]." in back.documents[0].text
    assert "| Ana | [DNI] |\n| Caja | ninguno |" in back.documents[0].text
    assert [one.id for one in back.dropped] == [result.dropped[2].id, result.dropped[3].id]
    ledger = Ledger(tmp_path)
    node = restore.put_removed(ledger, "documents", result.dropped)
    lines = ledger.read(ledger.get(node), "removed.jsonl").splitlines()
    items = [restore.Removed(**json.loads(line)) for line in lines]
    assert [one.id for one in restore.choose(items, ["a.md"])] == [one.id for one in result.dropped[:3]]
    assert [one.id for one in restore.choose(items, [paragraph])] == [paragraph]
    for names, reason in (([result.dropped[3].id], ""), ([], "secret")):
        with pytest.raises(BadInput, match="secret"):
            restore.choose(items, names, reason)


def test_an_exact_copy_is_called_so() -> None:
    result = clean_documents([document("a.md", BASE), document("b.md", BASE)])
    assert [(one.path, one.reason) for one in result.removed] == [("b.md", "exact-duplicate")]


def sentences(count: int) -> str:
    return " ".join(f"Esta es la frase número {n} del párrafo largo." for n in range(count))


def test_chunks_hold_every_word_keep_to_the_limit_and_carry_heading_and_place() -> None:
    table = "| Tarifa | Precio |\n| --- | --- |\n" + "\n".join(f"| Plan {n} | {n} euros |" for n in range(60))
    doc = document(
        "guia",
        Block(text="Bajas", kind="heading", place="section Bajas"),
        Block(text="Corto uno.", place="section Bajas"),
        Block(text="Corto dos.", place="section Bajas"),
        Block(text=sentences(40), place="section Bajas"),
        Block(text=table, kind="table", place="section Bajas"),
        Block(text="Otra página.", place="page 2"),
        Block(text="Final sin texto", kind="heading", place="page 2"),
    )
    chunks = chunk_documents([doc], max_words=60, overlap=15)
    assert max(len(chunk.text.split()) for chunk in chunks) <= 60
    assert chunks[0].text.startswith("Corto uno.\n\nCorto dos.\n\nEsta es la frase número 0")
    assert chunks[0].heading == "guia › Bajas"
    text = "\n".join(chunk.text for chunk in chunks)
    assert all(f"frase número {n} del" in text for n in range(40))
    assert all(f"| Plan {n} | {n} euros |" in text for n in range(60))
    pieces = [chunk for chunk in chunks if "Plan" in chunk.text]
    assert len(pieces) > 1
    assert all(piece.text.startswith("| Tarifa | Precio |\n| --- | --- |\n| Plan") for piece in pieces)
    long = [chunk.text for chunk in chunks if "frase" in chunk.text]
    assert all(after.split(". ")[0].rstrip(".") in before for before, after in itertools.pairwise(long))
    assert [(chunk.text, chunk.place) for chunk in chunks[-2:]] == [
        ("Otra página.", "page 2"),
        ("Final sin texto", "page 2"),
    ]
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert chunk_documents([doc], max_words=60, overlap=15) == chunks


def test_a_table_that_fits_stays_whole_and_a_word_flood_is_cut() -> None:
    table = "| A | B |\n| --- | --- |\n| 1 | 2 |"
    assert [chunk.text for chunk in chunk_documents([document("t", Block(text=table, kind="table"))])] == [table]
    flood = chunk_documents([document("f", "palabra " * 1000)], max_words=100, overlap=10)
    assert max(len(chunk.text.split()) for chunk in flood) <= 100
    with pytest.raises(BadInput):
        chunk_documents([], max_words=20, overlap=15)


def test_document_figures_are_json_and_count_what_was_left_out() -> None:
    cleaned = clean_documents([document("a.md", BASE), document("b.md", BASE)])
    figures = explore_documents(cleaned.documents, [QuarantinedFile("x.pdf", "0", "encrypted", "m")], cleaned.removed)
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["documents"], figures["quarantined"]["reasons"], figures["removed"]["reasons"]) == (
        1,
        {"encrypted": 1},
        {"exact-duplicate": 1},
    )


def test_example_figures_see_leaks_conflicts_and_personal_data() -> None:
    examples = [
        Example(id=f"e{n}", input=text, target=label, source=f"d.csv:{n}")
        for n, (text, label) in enumerate(
            [
                ("mi correo es ana@example.com", "x"),
                ("quiero la baja ya", "x"),
                ("quiero la baja ya", "y"),
                ("otra cosa distinta", "y"),
            ]
        )
    ]
    figures = explore_examples(examples, Split(train=["e0", "e1"], validation=["e3"], test=["e2"]))
    assert json.loads(json.dumps(figures)) == figures
    assert figures["personal"] == {"email": 1}
    assert figures["conflicts"]["shown"][0]["labels"] == {"x": 1, "y": 1}
    assert figures["leakage"]["across_exact"] == 1
    assert explore_examples([])["rows"] == 0


@pytest.mark.skipif(not INTENTS.is_dir(), reason=f"{INTENTS} is absent: real intents cannot be tried")
def test_planted_wrong_labels_are_found_in_real_intents_within_seconds() -> None:
    examples, _ = read_examples(INTENTS / "train.tsv", "classify")
    wrong = {example.id for example in examples[100:3100:100]}
    labels = sorted({str(example.target) for example in examples if str(example.target) != "weather/find"})
    spoiled = [
        example.model_copy(update={"target": "weather/find" if example.target != "weather/find" else labels[0]})
        if example.id in wrong
        else example
        for example in examples
    ]
    began = time.monotonic()
    figures = explore_examples(spoiled, split(spoiled, seed=1))
    assert time.monotonic() - began < 20  # 3 to 5 s on an idle machine; this one may be shared
    assert len({one["id"] for one in figures["suspects"]} & wrong) >= 20
    assert figures["leakage"]["across_near"] == 0
