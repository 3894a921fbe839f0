"""Traces and feedback: stored once, never changed, found by what was said and nothing else."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucle.core.errors import NotFound
from bucle.core.records import Feedback, Trace, Usage
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.search import parse_query
from bucle.ledger.spend import Spent, month_of, nano_usd, spent

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


def test_words_phrases_and_prefixes_are_found_without_case_and_accents(store: TraceStore) -> None:
    store.add_traces([trace(1, "¿Cuándo sube la CUOTA mensual?"), trace(2, "la mensual cuota", "El número es 12"),
                      trace(3, "cuotas y numeración", "mensualmente")])

    def found(query: str) -> list[int]:
        return [int(t.id[6:], 16) for t in store.traces(query=query)]

    assert found("cuota mensual") == found("MENSUAL cuota") == [1, 2]
    assert found('"cuota mensual"') == [1]
    assert found('"la cuota" mensual') == [1]
    assert found("cuota*") == [1, 2, 3]
    assert found('"cuota mens"*') == [1]
    assert found("NUMERO 12") == [2]
    assert found("numer*") == [2, 3]
    assert found("cuando") == found("cua\u0301ndo") == [1]
    assert found("mensual nada") == found("menos OR cuota") == found("NOT cuota") == []
    assert found("   ") == [1, 2, 3]
    assert found('"') == found('""') == []


def test_scripts_without_spaces_are_looked_for_as_written(store: TraceStore) -> None:
    store.add_traces([trace(1, "我想取消订阅"), trace(2, "キャンセルしたい"), trace(3, "ยกเลิกบริการ cuota")])
    for number, query in ((1, "取消"), (2, "キャンセル"), (3, "บริการ cuota")):
        assert [t.id for t in store.traces(query=query)] == [trace(number).id]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(st.sampled_from('"*^:(){}+-.,%_\\ abñ AND OR NOT NEAR\'\n\0'), max_size=40))
def test_no_text_is_a_wrong_query(text: str) -> None:
    query = parse_query(text)
    _INDEX.execute("SELECT rowid FROM x WHERE x MATCH ? LIMIT 1", (query.match or '"x"',)).fetchall()
    for pattern in query.like:
        _INDEX.execute("SELECT 1 WHERE 'a' LIKE ? ESCAPE '\\'", (pattern,)).fetchall()


_INDEX = sqlite3.connect(":memory:")
_INDEX.execute("CREATE VIRTUAL TABLE x USING fts5 (input, output)")


def test_a_query_with_many_hits_gives_the_same_as_one_with_few(store: TraceStore,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_traces([trace(n, f"cuota {n % 7}", day=1 + n * 13 % 25, user=f"u{n % 3}", route=f"r{n % 2}")
                      for n in range(300)])
    for asked in ({}, {"user": "u1"}, {"route": "r1", "limit": 10}, {"limit": 20, "newest_first": True},
                  {"limit": 5, "newest_first": True, "before": 1772355600.0 + 86400 * 9},
                  {"since": 1772355600.0 + 86400 * 5, "newest_first": True, "limit": 33}, {"release": "x"}):
        monkeypatch.setattr("bucle.ledger.traces.FEW", 2000)
        few = store.traces(query="cuota 3", **asked)  # type: ignore[arg-type]
        monkeypatch.setattr("bucle.ledger.traces.FEW", 3)
        for recent in (1, 40, 200, 1000):
            monkeypatch.setattr("bucle.ledger.traces.RECENT", recent)
            assert store.traces(query="cuota 3", **asked) == few  # type: ignore[arg-type]
        assert bool(few) == ("release" not in asked)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("asked", [{}, {"query": "cuota"}, {"route": "r1"}, {"user": "u2", "query": "cuot*"}])
def test_each_reads_what_traces_returns_a_page_at_a_time(store: TraceStore, monkeypatch: pytest.MonkeyPatch,
                                                         asked: dict[str, str], newest_first: bool) -> None:
    monkeypatch.setattr("bucle.ledger.traces.PAGE", 7)
    store.add_traces([trace(n * 37 % 101, "cuota", day=1 + n % 4, route=f"r{n % 2}", user=f"u{n % 3}")
                      for n in range(101)])
    every = store.traces(newest_first=newest_first, **asked)  # type: ignore[arg-type]
    assert list(store.each(newest_first=newest_first, **asked)) == every  # type: ignore[arg-type]
    assert len(every) > 7


def test_failures_and_keys_are_filters_too(store: TraceStore) -> None:
    store.add_traces([trace(1), trace(2).model_copy(update={"status": 503, "key": "key:a"}),
                      trace(3).model_copy(update={"status": 404, "key": "key:b"})])
    assert [t.status for t in store.traces(status=400)] == [503, 404]
    assert [t.status for t in store.traces(status=500)] == [503]
    assert [t.key for t in store.traces(key="key:b")] == ["key:b"]


def test_what_no_store_takes_is_stored_as_near_as_can_be(store: TraceStore) -> None:
    odd = trace(1).model_copy(update={
        "usage": Usage(tokens_in=10**30, tokens_out=-5, usd=float("nan")), "score": float("inf"),
        "spans": ({"name": "\ud800", "big": 2**80, "set": frozenset("b"), 3: None},)})
    assert store.add_traces([odd, trace(2)]) == 2
    found = store.trace(odd.id)
    assert (found.usage.usd, found.score, found.spans[0]["name"]) == (0.0, None, "?")
    assert spent(store.ledger)[0].nano_usd == 100_000_000


def used(number: int, usd: float, **more: object) -> Trace:
    return trace(number).model_copy(update={"usage": Usage(tokens_in=2, tokens_out=3, usd=usd), **more})


def test_spend_is_counted_once_by_month_key_and_team_and_is_exact(store: TraceStore) -> None:
    store.add_traces([used(n, 0.1, key="key:a", team="x") for n in range(10)])
    store.add_traces([used(n, 0.1, key="key:a", team="x") for n in range(12)])
    store.add_traces([used(20, 5e-10, team="y", received_at="2026-04-01T01:00:00+02:00"),
                      used(21, 2.0, team="y", role="shadow", received_at="2026-04-02T01:00:00+02:00")])
    assert spent(store.ledger) == [
        Spent("2026-03", "key:a", "x", 12, 24, 36, 1_200_000_000), Spent("2026-03", "", "y", 1, 2, 3, 0),
        Spent("2026-04", "", "y", 0, 2, 3, 2_000_000_000)]
    assert [row.month for row in spent(store.ledger, "2026-04")] == ["2026-04"]
    assert (month_of("2026-12-31T23:59:59Z"), month_of("2027-01-01T00:30:00+01:00")) == ("2026-12", "2026-12")
    assert [nano_usd(x) for x in (0.1, 1e-9, float("nan"), float("inf"), -1.0, 1e30)] == [10**8, 1, 0, 0, 0, 10**15]


def test_a_batch_that_fails_counts_no_spend(store: TraceStore) -> None:
    with pytest.raises(ValueError, match="isoformat"):
        store.add_traces([used(1, 1.0), used(2, 1.0, at="ayer")])
    assert (store.count(), spent(store.ledger), store.traces(query="hola")) == (0, [], [])


def test_threads_that_add_at_once_count_everything_once(store: TraceStore) -> None:
    batches = [[used(n, 0.001, key="key:a") for n in range(start, start + 50)] for start in range(0, 400, 25)]
    workers = [threading.Thread(target=store.add_traces, args=(batch,)) for batch in batches]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert store.count() == 425
    assert [(row.requests, row.nano_usd) for row in spent(store.ledger)] == [(425, 425_000_000)]


def test_old_traces_go_with_their_words_and_feedback_and_what_they_cost_stays(store: TraceStore,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucle.ledger.traces.PRUNED_AT_ONCE", 7)
    store.add_traces([trace(n, f"secretísimo{n} hola", day=1 + n // 10) for n in range(100)])
    store.add_feedback([item(1, 3), item(2, 99, correction="baja")])
    before = spent(store.ledger)
    gone = store.prune(5, now=1772355600.0 + 86400 * 10)  # the 11th of March at 9: what came before the 6th goes
    assert (gone.traces, gone.feedback, store.count()) == (50, 1, 50)
    assert spent(store.ledger) == before
    assert [f.id for f in store.feedback()] == ["feedback:2"]
    assert len(store.traces(query="hola")) == 50
    assert store.traces(query="secretisimo1") == []
    assert [t.id for t in store.traces(query="secretisimo77")] == [trace(77).id]
    assert store.prune(5, now=1772355600.0 + 86400 * 10).traces == 0
    assert (store.ledger.folder / "ledger.db-wal").stat().st_size == 0
    data = (store.ledger.folder / "ledger.db").read_bytes()
    assert b"secret\xc3\xadsimo77" in data
    assert b"ecretisimo77" in data or b"simo77" in data
    assert b"secret\xc3\xadsimo11 " not in data, "the text is overwritten"
    store.ledger.rows("INSERT INTO trace_search (trace_search, rank) VALUES ('integrity-check', 1)")
    assert store.add_traces([trace(n) for n in range(100, 200)]) == 100
    assert store.prune(0, now=2e9).traces == 150
    assert (store.count(), store.feedback(), store.traces(query="hola*")) == (0, [], [])


BEFORE = """
CREATE TABLE traces (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, at_epoch REAL NOT NULL, route TEXT NOT NULL,
  release TEXT NOT NULL, user TEXT NOT NULL, status INTEGER NOT NULL, input TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX traces_at ON traces (at_epoch);
CREATE INDEX traces_route ON traces (route, at_epoch);
CREATE TABLE feedback (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, trace TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL,
  rating INTEGER, correction TEXT, reason TEXT NOT NULL, source TEXT NOT NULL
);
"""
NEW_FIELDS = {"key", "team", "served_by", "prompt", "cached", "role", "estimated"}


def ledger_before(folder: Path, traces: list[Trace]) -> None:
    """A ledger as the version before made it."""
    folder.mkdir()
    db = sqlite3.connect(folder / "ledger.db")
    db.executescript(BEFORE)
    db.executemany("INSERT INTO traces (id, at, at_epoch, route, release, user, status, input, body) "
                   "VALUES (?, ?, 1772355600.0, ?, ?, ?, ?, ?, ?)",
                   [(t.id, t.at, t.route, t.release, t.user, t.status, t.input, t.model_dump_json(exclude=NEW_FIELDS))
                    for t in traces])
    db.execute("INSERT INTO feedback (id, trace, at, by, rating, reason, source) VALUES ('f', ?, '', 'eva', 1, '', '')",
               (traces[0].id,))
    db.commit()
    db.close()


def test_a_ledger_made_before_is_moved_in_place(tmp_path: Path) -> None:
    old = [trace(1, "¿Cuánto es la cuota?", "doce \"euros\" \n"), trace(2, "emoji 🦊 y \u2028")]
    ledger_before(tmp_path / "old", old)
    for _ in range(2):
        ledger = Ledger(tmp_path / "old")
        store = TraceStore(ledger)
        assert store.traces() == old
        assert [t.id for t in store.traces(query="cuanto cuota euros")] == [old[0].id]
        assert [(r.month, r.key, r.requests, r.tokens_in, r.nano_usd) for r in spent(ledger)] == [
            ("2026-03", "", 2, 6, 200_000_000)]
        assert len(store.feedback(old[0].id)) == 1
        assert store.add_traces(old) == 0
        assert not [n for (n,) in ledger.rows("SELECT name FROM sqlite_master") if "before" in n]
        ledger.close()


def test_several_that_open_a_ledger_made_before_move_it_once(tmp_path: Path) -> None:
    old = [trace(n, f"cuota {n}") for n in range(500)]
    ledger_before(tmp_path / "old", old)
    opened: list[Ledger] = []
    workers = [threading.Thread(target=lambda: opened.append(Ledger(tmp_path / "old"))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(opened) == 4
    for ledger in opened:
        assert TraceStore(ledger).count() == len(TraceStore(ledger).traces(query="cuota")) == 500
        assert spent(ledger)[0].requests == 500
        ledger.close()
