"""Near-duplicates: each pair is measured, none at the threshold is missed, and the order of the rows is nothing."""

from __future__ import annotations

import random
import unicodedata

import pytest

from bucle.data.minhash import bands_for, normal_forms
from bucle.data.similar import NearIndex, exact_duplicates, near_duplicates, normal_form, similarity

STARTS = ["fac", "se", "ave", "con", "tari", "po", "cam", "titu", "lí", "pa", "ñan", "ri", "me", "lu", "ga", "zo"]
ENDS = ["ción", "dor", "mente", "ndo", "nza", "ble", "ría", "to", "les", "sta", "rio", "ño"]
WORDS = [a + b + c for a in STARTS for b in STARTS for c in ENDS]


def messages(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(count)]


def changed(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return " ".join(words)


def test_planted_copies_are_found_together_and_nothing_else() -> None:
    draw = random.Random(2)
    texts = messages(1_500)
    pairs = [(n, 1_500 + n) for n in range(600)]
    texts += [changed(texts[n], draw) for n in range(600)]
    groups = near_duplicates(texts, 0.85)
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    alike = [(a, b) for a, b in pairs if similarity(texts[a], texts[b]) >= 0.85]
    assert 200 < len(alike) < 600
    assert all(group_of.get(a, -1) == group_of.get(b, -2) for a, b in alike)
    for group in groups:
        for row in group:
            assert any(other != row and similarity(texts[row], texts[other]) >= 0.85 for other in group)
    order = list(range(len(texts)))
    draw.shuffle(order)
    mixed = near_duplicates([texts[n] for n in order], 0.85)
    assert sorted(sorted(order[n] for n in group) for group in mixed) == groups


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85, 0.95, 0.99])
def test_bands_miss_fewer_than_one_pair_in_a_thousand(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert (1 - threshold**rows) ** bands < 1e-3


def test_the_normal_form_is_what_it_says_for_every_character() -> None:
    def plain(text: str) -> str:
        parts = unicodedata.normalize("NFKD", text.casefold())
        kept = "".join(c for c in parts if not unicodedata.combining(c))
        return " ".join("".join(c if c.isalnum() or c == "_" else " " for c in kept).split())

    texts = [f"Ab{chr(code)}c {chr(code)}X" for code in range(0x20000)]
    assert normal_forms(texts) == [plain(text) for text in texts]
    assert [normal_form(text) for text in texts[::97]] == [plain(text) for text in texts[::97]]
    assert normal_forms([]) == []


def test_empty_short_and_odd_texts() -> None:
    texts = ["", " ¡! ", "ok", "OK.", "no", "", "a\nb", "A B", "\ud800 x", "x" * 3_000_000, "X" * 3_000_000]
    assert exact_duplicates(texts) == [[2, 3], [6, 7], [9, 10]]
    assert near_duplicates(texts) == [[2, 3], [6, 7], [9, 10]]
    assert near_duplicates([]) == exact_duplicates([]) == []
    assert near_duplicates(["hola"] * 3, 1.0) == [[0, 1, 2]]
    assert similarity("", "") == 0.0


def test_progress_is_told() -> None:
    heard: list[tuple[int, int]] = []
    near_duplicates(messages(20_000), report=lambda done, total, note="": heard.append((done, total)))
    assert heard[-1] == (20_000, 20_000)
    assert len(heard) > 1


@pytest.mark.parametrize("piece", [1, 700, 40_000])
def test_a_stream_finds_the_copies_of_what_it_kept(piece: int) -> None:
    draw = random.Random(3)
    count = 300 if piece == 1 else 20_000
    texts = messages(count, seed=5)
    texts += [changed(texts[draw.randrange(count)], draw) for _ in range(count // 10)]
    index = NearIndex(0.85)
    said = [one for at in range(0, len(texts), piece) for one in index.add_many(texts[at : at + piece])]
    kept = [n for n, one in enumerate(said) if one is None]
    assert len(index) == len(kept)
    for n, one in enumerate(said):
        assert one is None or (said[one] is None and similarity(texts[n], texts[one]) >= 0.85)
    groups = near_duplicates(texts, 0.85)
    found = sum(one is not None for one in said)
    expected = sum(len(group) - 1 for group in groups)  # chains apart, each group keeps one
    assert abs(found - expected) <= max(1, expected // 50)
    assert index.add(texts[kept[0]].upper()) == kept[0]
    assert index.add("") is None
