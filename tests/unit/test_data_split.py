"""Splits that leak nothing and stay as they are while the data grows."""

from __future__ import annotations

import random
import string

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.data.similar import near_duplicates, similarity
from bucle.data.split import split


def rows(count: int, *, seed: int = 0, labels: int = 4) -> list[Example]:
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 9))) for _ in range(400)]
    return [
        Example(id=f"example:{seed}-{n}", input=" ".join(draw.choices(words, k=9)), target=f"l{draw.randrange(labels)}")
        for n in range(count)
    ]


def copy_of(example: Example, n: int) -> Example:
    return example.model_copy(update={"id": f"{example.id}-copy{n}", "input": example.input.upper() + " !"})


def test_shares_are_met_and_every_row_is_on_one_side() -> None:
    data = rows(2000)
    done = split(data, seed=3)
    assert sorted(done.train + done.validation + done.test) == sorted(example.id for example in data)
    assert abs(len(done.test) / 2000 - 0.2) < 0.03
    assert abs(len(done.validation) / 2000 - 0.1) < 0.03
    assert split(data, seed=3) == done
    assert split(data, seed=4).test != done.test


def test_copies_and_groups_stay_together_and_the_leaks_are_counted() -> None:
    data = rows(300)
    data += [copy_of(example, n) for n, example in enumerate(data[:100])]
    data += [
        example.model_copy(update={"id": f"g{n}", "group": f"cliente {n % 10}"})
        for n, example in enumerate(rows(100, seed=9))
    ]
    done = split(data, seed=1)
    sides = done.sides
    assert all(sides[example.id] == sides[f"{example.id}-copy{n}"] for n, example in enumerate(data[:100]))
    assert all(len({sides[f"g{n}"] for n in range(first, 100, 10)}) == 1 for first in range(10))
    assert 0 < done.leaks_prevented <= len(done.test) + len(done.validation)
    assert done.groups == 110
    loose = split(data, seed=1, by_group=False)
    assert any(len({loose.sides[f"g{n}"] for n in range(first, 100, 10)}) > 1 for first in range(10))


def test_no_row_changes_side_when_rows_are_added_at_the_end() -> None:
    data = rows(800)
    before = split(data, seed=5).sides
    grown = [*data, *rows(400, seed=2), *(copy_of(example, n) for n, example in enumerate(data[:200]))]
    after = split(grown, seed=5).sides
    assert {key: after[key] for key in before} == before
    assert all(after[f"{example.id}-copy{n}"] == before[example.id] for n, example in enumerate(data[:200]))


def test_with_previous_no_row_changes_side_wherever_rows_are_added() -> None:
    data = rows(400)
    before = split(data, seed=5).sides
    grown = [*(copy_of(example, n) for n, example in enumerate(data[:200])), *rows(100, seed=2), *reversed(data)]
    after = split(grown, seed=99, previous=before).sides
    assert {key: after[key] for key in before} == before
    assert all(after[f"{example.id}-copy{n}"] == before[example.id] for n, example in enumerate(data[:200]))


def test_a_new_row_between_two_sides_is_left_out() -> None:
    base = (
        "la factura de la luz de este mes ha llegado con un cargo que no reconozco de nada y quiero que me lo devolváis"
    )
    a, b = base + " hoy mismo", "hola " + base
    assert similarity(a, b) < 0.9 < min(similarity(a, base), similarity(b, base))
    old = [Example(id="a", input=a, target="x"), Example(id="b", input=b, target="x")]
    done = split(
        [*old, Example(id="c", input=base, target="x")],
        near_duplicate_threshold=0.9,
        previous={"a": "train", "b": "test"},
    )
    assert (done.train, done.test, done.excluded) == (["a"], ["b"], ["c"])


@pytest.mark.parametrize("seed", range(20))
def test_every_label_has_a_row_in_training(seed: int) -> None:
    data = rows(200, seed=seed) + [
        example.model_copy(update={"target": f"raro {n}"}) for n, example in enumerate(rows(5, seed=seed + 50))
    ]
    done = split(data, seed=seed, test=0.4, validation=0.3)
    target = {example.id: example.target for example in data}
    assert {target[key] for key in done.train} == set(target.values())
    assert set(done.moved) <= set(done.train)


@pytest.mark.parametrize("seed", range(10))
def test_few_rows_still_give_three_sides(seed: int) -> None:
    done = split(rows(9, seed=seed, labels=2), seed=seed)
    assert min(len(done.train), len(done.validation), len(done.test)) >= 1


@pytest.mark.parametrize("count", [8, 200])
def test_answers_are_no_labels(count: int) -> None:
    data = [example.model_copy(update={"target": f"respuesta {n}"}) for n, example in enumerate(rows(count))]
    done = split(data, keep_labels=False)
    assert done.moved == []
    assert min(len(done.test), len(done.validation)) >= max(1, count // 20)


def test_impossible_shares_and_repeated_ids_are_refused() -> None:
    with pytest.raises(BadInput):
        split(rows(10), test=0.7, validation=0.3)
    with pytest.raises(BadInput):
        split([*rows(3), *rows(3)])


def test_near_duplicates_finds_what_comparing_all_pairs_finds() -> None:
    draw = random.Random(1)
    texts = [example.input for example in rows(150)]
    for text in texts[:60]:
        at = draw.randrange(len(text))
        texts.append(text[:at] + draw.choice(["", "x", " y"]) + text[at + draw.randrange(3) :])
    groups = near_duplicates(texts, 0.8)
    together = {(a, b) for group in groups for a in group for b in group if a < b}
    pairs = {
        (a, b) for a in range(len(texts)) for b in range(a + 1, len(texts)) if similarity(texts[a], texts[b]) >= 0.8
    }
    assert len(pairs) > 40
    assert pairs == together
    assert groups == near_duplicates(texts, 0.8)
