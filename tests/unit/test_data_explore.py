"""Planted data explored: counts of every row, samples that stay, topics, outliers, and texts fit to show."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np

from bucle.core.records import Block, Document, Example
from bucle.data.explore import explore_documents, explore_examples, histogram, quantiles, sample_by_hash, shown
from bucle.data.outliers import find_outliers
from bucle.data.topics import find_topics, tfidf_vectors

THEMES = {
    "luz": ["apagón", "contador", "enchufe", "corriente", "bombilla", "diferencial"],
    "factura": ["recibo", "cobro", "importe", "banco", "euros", "descuento"],
    "internet": ["router", "wifi", "fibra", "conexión", "antena", "cable"],
    "baja": ["cancelar", "permanencia", "mudanza", "contrato", "despedida", "compañía"],
}


def planted(rows: int, seed: int = 0) -> list[Example]:
    """Rows whose label is their theme; each text is its own."""
    draw = random.Random(seed)
    names = list(THEMES)
    return [
        Example(
            id=f"r{n}", input=f"{' '.join(draw.choices(THEMES[names[n % 4]], k=5))} caso {n}", target=names[n % 4],
            source=f"filas.csv:{n + 2}",
        )
        for n in range(rows)
    ]


def test_counts_are_of_every_row_though_a_sample_is_looked_at() -> None:
    rows = planted(900)
    rows += [row.model_copy(update={"id": f"copy{row.id}", "input": row.input.upper() + "!"}) for row in rows[:100]]
    rows += [row.model_copy(update={"id": f"other{row.id}", "target": "otra"}) for row in rows[:30]]
    sides = {row.id: "test" if row.id.startswith("copy") else "train" for row in rows}

    def once() -> Iterator[Example]:
        yield from rows

    figures = explore_examples(once(), sides, sample=200)
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["rows"], figures["sampled"]) == (1030, 200)
    assert figures["duplicates"]["exact_groups"] == 100
    assert figures["duplicates"]["exact_extra_rows"] == 130
    assert figures["conflicts"]["groups"] == 30
    assert figures["leakage"]["across_exact"] == 100
    assert figures["sides"]["test"]["rows"] == 100
    assert figures["labels"]["otra"] == {"count": 30, "share": round(30 / 1030, 4)}
    assert figures["languages_sampled"] == 200
    whole = explore_examples(rows, sides)
    assert whole["sampled"] == 1030
    assert whole["duplicates"]["exact_extra_rows"] == 130
    assert whole["conflicts"]["shown"][0]["sources"][0].startswith("filas.csv:")
    leak = whole["leakage"]["shown"][0]
    assert {row["side"] for row in leak} == {"train", "test"}


def test_rare_labels_and_wrong_ones_are_named_with_their_place() -> None:
    rows = planted(200)
    rows[8] = rows[8].model_copy(update={"target": "internet"})
    rows.append(Example(id="r", input="algo del todo distinto aquí", target="rara", source="filas.csv:999"))
    figures = explore_examples(rows)
    assert [one["label"] for one in figures["rare"]] == ["rara"]
    worst = figures["suspects"][0]
    assert (worst["source"], worst["given"], worst["proposed"]) == ("filas.csv:10", "internet", "luz")


def test_answers_are_no_labels_and_nothing_is_nothing() -> None:
    rows = [Example(id=str(n), input=f"pregunta {n}", target=f"respuesta {n}") for n in range(50)]
    figures = explore_examples(rows)
    assert (figures["labels"], figures["rare"], figures["suspects"]) == ({}, [], [])
    empty = explore_examples([])
    assert (empty["rows"], empty["words"], empty["words_histogram"]["counts"]) == (0, {}, [])


def test_a_sample_holds_what_the_sample_of_fewer_rows_held_and_keeps_the_order() -> None:
    small = sample_by_hash([str(n) for n in range(1000)], 100, str)
    assert small == sorted(small, key=int)
    grown = sample_by_hash([str(n) for n in range(2000)], 200, str)
    assert len(small) == 100
    assert len(set(small) & set(grown)) > 70  # about half as many again stand before each
    assert sample_by_hash([str(n) for n in range(1000)], 100, str) == small


def test_histogram_and_quantiles() -> None:
    counts = Counter([1] * 50 + [2] * 49 + [10_000])
    assert quantiles(counts)["max"] == 10_000
    assert quantiles(counts)["p50"] == 1.5
    bars = histogram(counts)
    assert sum(bars["counts"]) == 100
    values = Counter([*range(1000), 50_000])
    bars = histogram(values)
    assert bars["open"]
    assert sum(bars["counts"]) == 1001
    assert len(bars["counts"]) <= 24


def test_what_is_shown_is_masked_one_line_and_short() -> None:
    text = shown("escribe a ana@example.com\nIBAN ES9121000418450200051332 " + "x" * 500, 60)
    assert "ana@example.com" not in text
    assert "9121" not in text
    assert len(text) == 60
    assert "\n" not in text
    assert shown("") == ""
    assert "2100" not in shown("y" * 190 + " ES9121000418450200051332", 200)  # cut only after it was masked


def test_topics_are_the_themes_and_are_named_by_their_words() -> None:
    rows = planted(320)
    texts = [row.input for row in rows]
    found = find_topics(texts, tfidf_vectors(texts), seed=3)
    assert json.loads(json.dumps(found)) == found
    pure = sum(
        Counter(row.target for row, of in zip(rows, found["of"], strict=True) if of == topic).most_common(1)[0][1]
        for topic in range(len(found["topics"]))
    )
    assert pure >= 0.95 * len(rows)
    own = {word for words in THEMES.values() for word in words}
    for topic in found["topics"]:
        assert set(topic["words"][:4]) <= own
        assert all(texts[index] for index in topic["central"])
    assert found["map"] == "t-sne"
    places = np.array(found["places"])
    assert places.shape == (320, 2)
    assert places.min() >= 0
    assert places.max() <= 1
    inside = [np.linalg.norm(places[i] - places[i + 4]) for i in range(0, 300, 4)]
    across = [np.linalg.norm(places[i] - places[i + 1]) for i in range(0, 300, 4)]
    assert np.median(inside) < np.median(across)
    assert find_topics(texts, tfidf_vectors(texts), seed=3) == found


def test_topics_of_few_equal_or_wordless_texts() -> None:
    three = ["uno dos", "tres cuatro", "cinco seis"]
    for texts in ([], ["hola"], ["a", "b"], ["igual"] * 60, ["", "  ", "!!"], three * 2):
        found = find_topics(texts, tfidf_vectors(texts) if texts else np.zeros((0, 1)))
        assert len(found["of"]) == len(found["places"]) == len(texts)
        assert sum(topic["count"] for topic in found["topics"]) == len(texts)
        assert all(0 <= value <= 1 for place in found["places"] for value in place)


def test_a_planted_outlier_is_first_and_none_is_named_where_none_stands_out() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 16)) * 0.05 + np.eye(16)[0]
    vectors[17] = np.eye(16)[9]
    found = find_outliers(vectors)
    assert found[0].index == 17
    assert found[0].times > 10
    assert find_outliers(np.tile(np.eye(4)[0], (100, 1))) == []
    assert find_outliers(vectors[:10]) == []


def test_documents_are_read_once_and_their_figures_say_what_is_left() -> None:
    def some() -> Iterator[Document]:
        for n in range(3):
            text = "Escribe a ana@example.com" if n == 0 else "Uno dos tres"
            yield Document(
                id=f"document:{n}", path=f"a/{n}.MD" if n else "a/LEEME", sha256=str(n), media_type="text/markdown",
                title="", language="es", blocks=(Block(text=text), Block(text="|a|", kind="table")), access=("rrhh",),
            )

    figures = explore_documents(some(), [{"path": "x.pdf", "reason": "encrypted", "message": "m"}])
    assert figures["documents"] == 3
    assert figures["tables"] == 3
    assert figures["formats"] == {"md": 2, "–": 1}
    assert figures["access"] == {"rrhh": 3}
    assert figures["personal"] == {"email": 1}
    assert figures["personal_shown"] == [{"path": "a/LEEME", "kinds": {"email": 1}}]
    assert figures["quarantined"]["reasons"] == {"encrypted": 1}
