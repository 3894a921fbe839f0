"""Traces and feedback: stored once, never changed, found by what was said and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bucle.core.errors import NotFound
from bucle.core.records import Feedback, Trace, Usage
from bucle.ledger import Ledger, TraceStore

DAY = "2026-03-{:02d}T09:00:00+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    ledger = Ledger(tmp_path)
    yield TraceStore(ledger)
    ledger.close()


def trace(number: int, said: str = "hola", answer: str = "", *, day: int = 1, route: str = "intents", user: str = "ana",
          release: str = "release:1") -> Trace:
    return Trace(id=f"trace:{number:08x}", at=DAY.format(day), received_at=DAY.format(28), route=route, model="m",
                 input=said, output=answer, user=user, release=release, usage=Usage(tokens_in=3, usd=0.1),
                 guard={"injection": {"score": 0.25}}, spans=({"name": "engine", "ms": 1.5},))


def item(number: int, target: int, **said: object) -> Feedback:
    return Feedback(id=f"feedback:{number}", trace=f"trace:{target:08x}", at=DAY.format(2), by="eva",
                    **{"rating": 1, **said})  # type: ignore[arg-type]


def test_a_batch_sent_twice_is_stored_once_and_never_changed(store: TraceStore) -> None:
    batch = [trace(n) for n in range(5)]
    assert store.add_traces(batch) == 5
    assert store.add_traces([*batch, trace(5), trace(5)]) == 1
    assert store.add_traces([trace(2, "otra cosa", user="mallory")]) == 0
    assert (store.count(), store.add_traces([])) == (6, 0)
    assert store.traces() == [*batch, trace(5)]
    assert store.trace("trace:00000002") == trace(2)


def test_a_trace_is_found_by_its_id_or_the_beginning_of_only_one(store: TraceStore) -> None:
    store.add_traces([trace(0x10), trace(0x11), trace(0x20)])
    assert store.trace("trace:0000002") == trace(0x20)
    long = trace(0x20).model_copy(update={"id": "trace:000000200"})
    store.add_traces([long])
    assert store.trace("trace:00000020") == trace(0x20), "a whole id wins over a longer one that begins with it"
    for name in ("trace:0000001", "trace:9", "trace:%", "x", "trace:' OR 1=1"):
        with pytest.raises(NotFound):
            store.trace(name)


def test_no_name_is_no_trace_even_where_there_is_only_one(store: TraceStore) -> None:
    store.add_traces([trace(1)])
    for name in ("", "trace:"):
        with pytest.raises(NotFound):
            store.trace(name)


def test_traces_are_selected_by_route_user_release_and_time(store: TraceStore) -> None:
    store.add_traces([trace(1, day=3), trace(2, day=1, route="answers"), trace(3, day=2, user="eva"),
                      trace(4, day=2, release="release:2")])

    def found(**asked: object) -> list[int]:
        return [int(t.id[6:], 16) for t in store.traces(**asked)]  # type: ignore[arg-type]

    assert found() == [2, 3, 4, 1]
    assert found(newest_first=True) == [1, 4, 3, 2]
    assert found(limit=2) == [2, 3]
    assert found(route="answers") == [2]
    assert found(user="eva") == [3]
    assert found(release="release:2") == [4]
    first = 1772355600.0  # 2026-03-01T09:00:00Z
    assert found(since=first + 86400, before=first + 2 * 86400) == [3, 4]
    assert found(user="ana' OR '1'='1") == []


@pytest.mark.parametrize("said", [
    "cobro del 100% hoy", "a_b", "una barra \\ inversa", 'dice "hola" así', "línea\nnueva", "¿Y el año?", "tab\taquí",
    "emoji 🦊", "'; DROP TABLE traces; --", "\u2028raro\x85", "{\"output\": 1}",
])
def test_a_query_is_looked_for_as_it_is_written(store: TraceStore, said: str) -> None:
    store.add_traces([trace(1, f"antes {said} después"), trace(2, "axb 100 cobros", f"sí: {said}"),
                      trace(3, "aXb 1000")])
    assert [t.id for t in store.traces(query=said)] == [trace(1).id, trace(2).id]
    quoted = '"' + said.replace('"', "") + '"'
    assert [t.id for t in store.traces(query=quoted)] == [trace(1).id, trace(2).id]


def test_a_query_looks_at_nothing_but_input_and_answer(store: TraceStore) -> None:
    store.add_traces([trace(1, "hola", "adiós")])
    for word in ("intents", "ana", "output", "release", "engine", "injection", "2026", '"', "{", ":", "%", "_", "\\"):
        assert store.traces(query=word) == [], word
    assert len(store.traces(query="ADIOS")) == len(store.traces(query="HOL*")) == 1
    assert store.traces(query="HOL") == []


def test_feedback_stands_beside_its_trace_once(store: TraceStore) -> None:
    store.add_traces([trace(1), trace(2)])
    said = [item(1, 1), item(2, 1, rating=None, correction="baja", reason="es una baja"), item(3, 2, rating=-1)]
    assert store.add_feedback(said) == 3
    assert store.add_feedback([*said, item(4, 2)]) == 1
    assert store.feedback("trace:00000001") == said[:2]
    assert store.feedback() == [*said, item(4, 2)]
    assert store.trace("trace:00000001") == trace(1)


def test_feedback_on_an_unknown_trace_stores_none_of_its_batch(store: TraceStore) -> None:
    store.add_traces([trace(1)])
    with pytest.raises(NotFound, match="trace:00000009") as caught:
        store.add_feedback([item(1, 1), item(2, 9)])
    assert caught.value.hint
    assert store.feedback() == []


def test_many_ids_are_looked_up_at_once(store: TraceStore) -> None:
    store.add_traces([trace(n) for n in range(0, 3000, 2)])
    asked = [f"trace:{n:08x}" for n in range(3000)]
    assert store.known(asked) == {f"trace:{n:08x}" for n in range(0, 3000, 2)}
    assert store.known([]) == set()
