"""Splits that leak nothing and stay as they are while the data grows."""

from __future__ import annotations

import random
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.data.similar import near_duplicates, similarity
from bucle.data.split import Side, split, split_columns
from bucle.data.times import instants


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
    after = split(grown, seed=5, previous=before).sides
    assert {key: after[key] for key in before} == before
    assert all(after[f"{example.id}-copy{n}"] == before[example.id] for n, example in enumerate(data[:200]))
    assert abs(list(after.values()).count("test") / len(grown) - 0.2) < 0.03


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


def test_each_label_has_its_share_of_each_side() -> None:
    draw = random.Random(5)
    names = ["a"] * 500 + ["b"] * 137 + ["c"] * 40 + ["d"] * 7 + [f"raro {n}" for n in range(60)]
    data = [example.model_copy(update={"target": draw.choice(names)}) for example in rows(3_000)]
    done = split(data, seed=2)
    target = {example.id: str(example.target) for example in data}
    total = Counter(target.values())
    for side, share in ((done.test, 0.2), (done.validation, 0.1)):
        assert abs(len(side) - share * 3_000) <= 15
        for label, count in Counter(target[row] for row in side).items():
            assert abs(count - share * total[label]) <= 1.5


def test_the_same_rows_in_another_order_are_split_the_same() -> None:
    data = [example.model_copy(update={"group": f"c{n % 60}" if n % 3 else ""}) for n, example in enumerate(rows(400))]
    data += [copy_of(example, n) for n, example in enumerate(data[:80])]
    first = split(data, seed=1)
    for seed in range(3):
        mixed = random.Random(seed).sample(data, len(data))
        again = split(mixed, seed=1)
        assert again.sides == first.sides
        assert (again.leaks_prevented, again.groups) == (first.leaks_prevented, first.groups)


def dated(count: int, start: int = 0, seed: int = 0) -> list[Example]:
    return [
        example.model_copy(update={"at": f"{(start + n) % 28 + 1:02d}/{(start + n) // 28 + 1:02d}/2024"})
        for n, example in enumerate(rows(count, seed=seed))
    ]


def test_by_time_the_latest_rows_are_held_out() -> None:
    data = dated(280)
    data.append(rows(1, seed=3)[0])  # no time
    data.append(data[5].model_copy(update={"id": "late copy", "at": data[-2].at}))
    done = split(random.Random(1).sample(data, len(data)), by="time")
    when = dict(zip((e.id for e in data), instants([e.at for e in data]), strict=True))
    sides = done.sides
    assert sides[data[280].id] == "train"
    assert sides["late copy"] == sides[data[5].id] == "test"
    late = {data[5].id}
    assert max(when[r] or 0 for r in done.train) < min(when[r] or 0 for r in done.validation)
    assert max(when[r] or 0 for r in done.validation) < min(when[r] or 0 for r in done.test if r not in late)
    assert (len(done.test), len(done.validation)) == (56, 28)


def test_by_time_the_cut_is_made_among_the_new_rows() -> None:
    data = dated(140)
    before = split(data, by="time").sides
    new = dated(100, start=140, seed=2)
    done = split([*new, *data], by="time", previous=before)
    assert {row: done.sides[row] for row in before} == before
    assert [done.sides[e.id] for e in new] == ["train"] * 70 + ["validation"] * 10 + ["test"] * 20


def test_times_are_read_as_people_write_them() -> None:
    assert instants(["2024-03-01", "2024-03-01T01:00:00+01:00", "1709251200", "1709251200000"]) == [1709251200.0] * 4
    assert instants(["01/03/2024", "31/12/2023 10:30", "ayer", ""]) == [1709251200.0, 1704018600.0, None, None]
    assert instants(["03/01/2024", "12/31/2023"]) == [1709251200.0, 1703980800.0]
    assert instants(["99/99/2024", "9999-99-99"]) == [None, None]


@pytest.mark.parametrize("seed", range(4))
def test_families_of_near_copies_are_held_out_in_the_measure_asked_for(seed: int) -> None:
    base = rows(15, seed=seed)
    data = [
        copy_of(one, n).model_copy(update={"target": f"l{at % 5}"}) for at, one in enumerate(base) for n in range(10)
    ]
    done = split(data, seed=seed)
    target = {one.id: one.target for one in data}
    assert (len(done.test), len({target[row] for row in done.test})) == (30, 3)
    assert 10 <= len(done.validation) <= 20
    assert {target[row] for row in done.train} == set(target.values())


def test_what_families_leave_of_a_share_does_not_swamp_the_other_labels() -> None:
    base = rows(600, seed=4)
    families = [(at, copy_of(one, n)) for at, one in enumerate(base[:20]) for n in range(9)]
    data = [one.model_copy(update={"target": f"f{at}"}) for at, one in families]
    data += [one.model_copy(update={"target": f"s{at % 4}"}) for at, one in enumerate(base[20:])]
    done = split(data, seed=1)
    target = {one.id: str(one.target) for one in data}
    for label in ("s0", "s1", "s2", "s3"):  # each family is its label's only one, and must be trained on
        assert abs(sum(target[row] == label for row in done.test) - 29) <= 5


PLACES = ("la factura de marzo ha subido mucho", "no funciona el contador de casa", "quiero mudarme de piso pronto")


def near(place: int, n: int, group: str = "", name: str = "") -> Example:
    """A near-duplicate of PLACES[place]."""
    text = PLACES[place].upper() + "!" * n
    return Example(id=name or f"{place}-{n}", input=text, target="x", group=group)


def test_of_groups_between_two_sides_only_the_rows_that_really_bridge_are_left_out() -> None:
    far = rows(12, seed=8)
    named = zip(far, ["g1", "g2", "g3", ""] * 3, strict=True)
    alone = [one.model_copy(update={"group": group}) for one, group in named]
    old = [near(0, 0, "g1"), near(1, 0, "g2")]
    bridge = near(1, 1, "g1", "bridge")  # g1 is trained on, what it resembles is tested on
    more = [near(0, 1), near(1, 2), near(0, 2, "g1")]
    new = [near(0, 3, "g3"), near(0, 4, "g3"), near(1, 3, "g3", "other place")]
    done = split([*old, bridge, *more, *new, *alone], previous={"0-0": "train", "1-0": "test"})
    sides = done.sides
    assert sorted(done.excluded) == ["bridge", "other place"]
    assert {sides[row] for row in ("0-0", "0-1", "0-2", "0-3", "0-4")} == {"train"}
    assert {sides[row] for row in ("1-0", "1-2")} == {"test"}
    for group, side in (("g1", "train"), ("g2", "test"), ("g3", "train")):
        assert {sides[one.id] for one in alone if one.group == group} == {side}


def test_a_row_between_two_texts_costs_their_other_copies_nothing() -> None:
    base = (
        "la factura de la luz de este mes ha llegado con un cargo que no reconozco de nada y quiero que me lo devolváis"
    )
    a, b = base + " hoy mismo", "hola " + base
    told = {"a": a, "b": b, "c": base, "a2": a.upper(), "b2": b + "!", "other": "algo muy distinto"}
    data = [Example(id=name, input=text, target="x") for name, text in told.items()]
    done = split(data, near_duplicate_threshold=0.9, previous={"a": "train", "b": "test"})
    assert done.excluded == ["c"]
    assert (done.sides["a2"], done.sides["b2"]) == ("train", "test")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_row_ever_changes_side_however_the_data_grow(data: st.DataObject) -> None:
    words = ["luz", "factura", "tarifa", "contador", "cambio", "avería", "potencia", "alta"]
    sentence = st.lists(st.sampled_from(words), min_size=3, max_size=9).map(" ".join)
    by = data.draw(st.sampled_from(["hash", "time"]))
    row = st.builds(
        lambda text, label, group, day: (text, label, group, f"2024-01-{day:02d}" if day else ""),
        sentence,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["", "", "g1", "g2", "g3"]),
        st.integers(0, 28),
    )
    have: list[Example] = []
    known: dict[str, Side] = {}
    for _ in range(data.draw(st.integers(2, 4))):
        for text, label, group, at in data.draw(st.lists(row, min_size=1, max_size=25)):
            have.append(Example(id=f"r{len(have)}", input=text, target=label, group=group, at=at))
        for at in data.draw(st.sets(st.integers(0, len(have) - 1), max_size=5)):  # relabelled
            have[at] = have[at].model_copy(update={"target": data.draw(st.sampled_from(["a", "b", "c", "d"]))})
        gone = data.draw(st.sets(st.integers(0, len(have) - 1), max_size=len(have) - 1))  # they may come back
        have_now = data.draw(st.permutations([one for at, one in enumerate(have) if at not in gone]))
        done = split(have_now, by=by, previous=known)
        sides = done.sides
        assert split(have_now[::-1], by=by, previous=known).sides == sides
        assert all(sides[one.id] == known[one.id] for one in have_now if one.id in known)
        assert sorted([*sides, *done.excluded]) == sorted(one.id for one in have_now)
        new = [one for one in have_now if one.id not in known and one.id in sides]
        for one in new:
            for other in have_now:
                if other.id in sides and (
                    similarity(one.input, other.input) >= 0.85 or (one.group and one.group == other.group)
                ):
                    assert sides[one.id] == sides[other.id]
        known |= sides


def test_a_crowd_of_almost_alike_texts_takes_no_quadratic_time() -> None:
    draw = random.Random(4)
    crowd = [
        f"Su pedido {draw.randrange(10**9):09d} ha salido del almacén y llegará el {n % 28} de mayo, gracias"
        for n in range(4_000)
    ]
    groups = near_duplicates(crowd, 0.95)
    assert sum(map(len, groups)) < 4_000
    assert groups == near_duplicates(crowd, 0.95)


def test_it_says_how_many_rows_must_stay_together() -> None:
    said = "Recuérdame mañana por la mañana la cita que tengo con el dentista de la calle Mayor, en el número"
    alike = [f"{said} {n}" for n in range(12)]
    texts = [*alike, "hola", "adiós", "¿qué tal?"]
    ids = [str(n) for n in range(len(texts))]
    made = split_columns(ids, texts, groups=["a"] * 13 + ["", ""])
    assert (made.alike, made.together) == (12, 13)
    assert split_columns(["0"], ["hola"]).alike == 1
