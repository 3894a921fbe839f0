"""Annotations in the ledger: nothing is overwritten, nothing said twice, two people do not get the same row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Annotation, Example
from bucle.ledger import AnnotationStore, Ledger

TASK = "intents"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnnotationStore]:
    ledger = Ledger(tmp_path / ".bucle")
    yield AnnotationStore(ledger)
    ledger.close()


def said(row: str, by: str, label: str | None, **more: Any) -> Annotation:
    return Annotation(**({"id": "", "task": TASK, "row": row, "by": by, "label": label, "at": ""} | more))


def test_a_correction_is_a_new_row_and_the_first_stays(store: AnnotationStore) -> None:
    first, new = store.say(said("r1", "ana", "a"))
    again, repeated = store.say(said("r1", "ana", "a"))
    assert (new, repeated, again) == (True, False, first)
    store.say(said("r1", "ana", "b"))
    back, third = store.say(said("r1", "ana", "a"))
    assert third
    assert back.id != first.id
    assert [a.label for a in store.annotations(TASK)] == ["a", "b", "a"]
    assert first.id.startswith("annotation:")
    assert first.at.endswith("+00:00")


def test_taking_back_is_a_row_too_and_kinds_do_not_mix(store: AnnotationStore) -> None:
    store.say(said("r1", "ana", "a"))
    store.say(said("r1", "ana", None))
    store.say(said("r1", "ana", "a", kind="adjudication"))
    assert [(a.label, a.kind) for a in store.annotations(TASK, "r1")] == [
        ("a", "annotation"), (None, "annotation"), ("a", "adjudication")]


def test_an_import_keeps_id_and_time_and_can_be_repeated(store: AnnotationStore) -> None:
    item = said("r1", "ana", "a", id="annotation:x", at="2026-01-02T10:00:00+02:00")
    assert store.add([item, item]) == 1
    assert store.add([item]) == 0
    stored = store.annotations(TASK)[0]
    assert (stored.id, stored.at) == ("annotation:x", "2026-01-02T08:00:00.000000+00:00")
    assert store.add([said("r1", "ana", "evil", id="annotation:x", at="2026-01-03")]) == 0
    assert store.annotations(TASK)[0].label == "a"


def test_a_clock_that_goes_back_does_not_make_the_correction_lose(store: AnnotationStore) -> None:
    store.say(said("r1", "ana", "a", at="2030-01-01T00:00:00+00:00"))
    store.say(said("r1", "ana", "b", at="2026-01-01T00:00:00+00:00"))
    assert store.annotations(TASK)[-1].label == "b"


@pytest.mark.parametrize("bad", [{"by": " "}, {"by": "a\nb"}, {"by": "x" * 201}, {"at": "yesterday"},
                                 {"label": "x" * 100_001}, {"row": ""}, {"label": "a\ud800"},
                                 {"note": "\udfff"}, {"kind": "prelabel", "label": None},
                                 {"at": "0001-01-01T00:00:00+14:00"}])
def test_what_cannot_be_meant_is_refused(store: AnnotationStore, bad: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        store.say(said("r1", "ana", "a").model_copy(update=bad))
    assert store.annotations(TASK) == []


def test_two_people_at_once_get_different_rows(store: AnnotationStore) -> None:
    wanted = [(f"r{n}", 1) for n in range(40)]
    got: dict[str, list[str]] = {}
    people = [f"p{n}" for n in range(4)]
    threads = [threading.Thread(target=lambda who=who: got.update({who: store.take(TASK, who, wanted, 10)}))
               for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [row for rows in got.values() for row in rows]
    assert len(everything) == len(set(everything)) == 40
    assert store.held(TASK, "p0") == sorted(got["p0"])


def test_overlap_lets_a_second_person_in_and_turns_run_out(store: AnnotationStore) -> None:
    assert store.take(TASK, "ana", [("r1", 2), ("r2", 1)], 2) == ["r1", "r2"]
    assert store.take(TASK, "bea", [("r1", 2), ("r2", 1)], 2) == ["r1"]
    assert store.take(TASK, "carl", [("r1", 2), ("r2", 1)], 2) == []
    store.release(TASK, "ana")
    assert store.take(TASK, "carl", [("r1", 2), ("r2", 1)], 2) == ["r1", "r2"]
    store.take(TASK, "dora", [("r9", 1)], 1, minutes=-1)
    assert store.take(TASK, "carl", [("r9", 1)], 1) == ["r9"]


def test_saying_gives_the_turn_back_and_skipping_hides_it_from_one(store: AnnotationStore) -> None:
    store.take(TASK, "ana", [("r1", 1), ("r2", 1)], 2)
    store.say(said("r1", "ana", "a"))
    assert store.held(TASK, "ana") == ["r2"]
    store.skip(TASK, "r2", "ana")
    assert store.take(TASK, "ana", [("r2", 1)], 1) == []
    assert store.take(TASK, "bea", [("r2", 1)], 1) == ["r2"]


def test_added_rows_are_kept_once_and_changes_are_seen(store: AnnotationStore) -> None:
    row = Example(id="example:1", input="¿Qué?", target=None)
    before = store.changes(TASK)
    assert (store.add_rows(TASK, [row, row]), store.add_rows(TASK, [row])) == (1, 0)
    assert store.rows(TASK) == [row]
    assert store.rows("other") == []
    assert store.changes(TASK) != before
    assert store.changes("other") == (0, 0)


def test_what_was_said_survives_opening_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / ".bucle")
    AnnotationStore(ledger).say(said("r1", "ana", "a"))
    ledger.close()
    again = Ledger(tmp_path / ".bucle")
    assert [a.label for a in AnnotationStore(again).annotations(TASK)] == ["a"]
    again.close()
