"""Versions: the same candidates are the same release, the alias moves, and going back goes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Node
from bucle.ledger import Ledger
from bucle.release import PRODUCTION, make_release, production, releases, rollback


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / ".bucle")
    yield ledger
    ledger.close()


def release(ledger: Ledger, n: int, *, move: bool = True) -> Node:
    candidate, gate = ledger.put("candidate", {"n": n}), ledger.put("gate", {"n": n, "passed": True})
    node = make_release(ledger, "tienda", {"intents": candidate.id}, {"intents": gate.id}, lambda v: f"# tienda v{v}\n")
    if move:
        ledger.move_alias(PRODUCTION, node.id, by="ana", reason=f"v{n}")
    return node


def test_the_same_candidates_are_the_same_release(ledger: Ledger) -> None:
    one, two = release(ledger, 1), release(ledger, 2)
    assert [release(ledger, n, move=False).id for n in (1, 2, 1)] == [one.id, two.id, one.id]
    assert [n.attrs["version"] for n in releases(ledger)] == [1, 2]
    assert ledger.read(two, "card.md") == b"# tienda v2\n"
    assert sorted(e.role for e in ledger.parents(two.id)) == ["candidate intents", "gate intents"]
    other = make_release(ledger, "otra", dict(one.attrs["tasks"]), {}, lambda v: "")
    assert (other.id != one.id, other.attrs["version"]) == (True, 3)


def test_versions_are_ordered_as_numbers(ledger: Ledger) -> None:
    for n in range(1, 12):
        release(ledger, n)
    assert [n.attrs["version"] for n in releases(ledger)] == list(range(1, 12))


def test_before_the_first_release_the_next_command_is_told(ledger: Ledger) -> None:
    for use in (lambda: production(ledger), lambda: rollback(ledger, by="ana", reason="")):
        with pytest.raises(NotFound, match="Nothing has been released") as caught:
            use()
        assert caught.value.hint == "bucle run"
    release(ledger, 1)
    with pytest.raises(BadInput, match="no earlier release"):
        rollback(ledger, by="ana", reason="")


def test_going_back_twice_goes_back_two(ledger: Ledger) -> None:
    one, two, three = (release(ledger, n) for n in (1, 2, 3))
    assert rollback(ledger, by="eva", reason="p95").id == two.id
    assert rollback(ledger, by="eva", reason="p95").id == one.id
    with pytest.raises(BadInput, match="no earlier"):
        rollback(ledger, by="eva", reason="p95")
    assert production(ledger).id == one.id
    assert [m["node"] for m in ledger.alias_history(PRODUCTION)] == [one.id, two.id, three.id, two.id, one.id]
    assert ledger.alias_history(PRODUCTION)[-1]["by"] == "eva"


def test_going_back_after_a_promotion_goes_to_what_was_served_before(ledger: Ledger) -> None:
    one, two = release(ledger, 1), release(ledger, 2)
    rollback(ledger, to="1", by="ana", reason="promote")
    assert rollback(ledger, by="eva", reason="rollback").id == two.id, "2 was in production before 1 was promoted"
    assert rollback(ledger, by="eva", reason="").id == one.id
    with pytest.raises(BadInput, match="no earlier"):
        rollback(ledger, by="eva", reason="")
    three = release(ledger, 3)
    rollback(ledger, to="2", by="eva", reason="")
    assert [rollback(ledger, by="eva", reason="").id for _ in range(2)] == [three.id, one.id]


def test_a_version_that_was_never_in_production_is_no_way_back(ledger: Ledger) -> None:
    one = release(ledger, 1)
    release(ledger, 2, move=False)
    release(ledger, 3)
    assert rollback(ledger, by="ana", reason="").id == one.id


def test_a_named_version_is_found_by_number_or_id(ledger: Ledger) -> None:
    one, two = release(ledger, 1), release(ledger, 2)
    for name, node in (("1", one), ("v2", two), (one.id, one), (two.id[:16], two), ("v1", one)):
        assert rollback(ledger, to=name, by="ana", reason="").id == node.id == production(ledger).id
    moves = len(ledger.alias_history(PRODUCTION))
    for name in ("9", "v9", "v", "x", "-1", "release:zz"):
        with pytest.raises((NotFound, BadInput)):
            rollback(ledger, to=name, by="ana", reason="")
    with pytest.raises(BadInput, match="is a candidate, not a release"):
        rollback(ledger, to=one.attrs["tasks"]["intents"], by="ana", reason="")
    assert len(ledger.alias_history(PRODUCTION)) == moves
