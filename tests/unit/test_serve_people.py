"""Who asks is stored and told so that nobody can be written to, and is the same person each time."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bucle.core.errors import Infrastructure
from bucle.core.ports import ChatReply
from bucle.core.records import Trace, Usage
from bucle.data.personal import find
from bucle.ledger import Ledger, TraceStore
from bucle.models.replies import Replies
from bucle.serve.people import People


def test_an_address_becomes_a_name_that_stays(tmp_path: Path) -> None:
    people = People(tmp_path)
    once = people.stored("Ana@Empresa.es")
    assert once.startswith("email:")
    assert not find(once)
    assert People(tmp_path).stored("ana@empresa.es") == once == people.stored(once)
    assert people.stored("bea@empresa.es") != once
    assert people.stored("web/ana@empresa.es") == f"web/{once}"
    assert people.stored("+34 612 345 678") == people.stored("612345678")
    assert people.stored("u-4711") == "u-4711"
    assert People(tmp_path / "other").known_as("u-4711") == ("u-4711",)
    assert stat.S_IMODE((tmp_path / "people.key").stat().st_mode) == 0o600


def test_a_provider_is_told_a_hash_of_everybody(tmp_path: Path) -> None:
    people = People(tmp_path)
    assert people.told("") == ""
    told = {who: people.told(who) for who in ("ana@empresa.es", "u-4711", "ana")}
    assert all(len(name) == 32 and name.isalpha() for name in told.values())
    assert len(set(told.values())) == 3
    assert people.told("ANA@empresa.es") == told["ana@empresa.es"] == people.told(people.stored("ana@empresa.es"))
    assert People().told("ana") != told["ana"]


def test_servers_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: People(tmp_path).stored("ana@empresa.es"), range(16)))
    assert len(names) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["people.key"]


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "people.key").write_bytes(b"short")
    with pytest.raises(Infrastructure, match="damaged"):
        People(tmp_path).stored("ana@empresa.es")


def test_traces_are_found_by_what_the_user_is_called(tmp_path: Path) -> None:
    people = People(tmp_path)
    store = TraceStore(Ledger(tmp_path), known_as=people.known_as)
    said = ("ana@empresa.es", people.stored("ana@empresa.es"), "u-4711")  # the first as an older version left it
    store.add_traces([Trace(id=f"trace:{n}", at=f"2026-10-01T10:00:0{n}+00:00", received_at="2026-10-01T10:00:00+00:00",
                            route="m", model="m", release="", candidate="", user=user, input="hola", output="")
                      for n, user in enumerate(said)])
    assert [t.id for t in store.traces(user="ana@empresa.es")] == ["trace:0", "trace:1"]
    assert [t.id for t in store.traces(user=said[1])] == ["trace:1"]
    assert [t.id for t in store.each(user="u-4711")] == ["trace:2"]
    assert [t.id for t in store.follow(0, user="Ana@empresa.es")[1]] == ["trace:1"]


def test_what_people_asked_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        ledger = Ledger(tmp_path)
        ledger.put("config", {"a": 1})
        Replies(tmp_path / "replies.db").put("k", "m", ChatReply("hola", Usage()))
        found = {p.name: oct(stat.S_IMODE(p.stat().st_mode)) for p in tmp_path.iterdir() if ".db" in p.name}
        assert {"ledger.db", "ledger.db-wal", "replies.db"} <= found.keys()
        assert set(found.values()) == {"0o600"}
        ledger.close()
        (tmp_path / "ledger.db").chmod(0o660)  # shared on purpose
        Ledger(tmp_path).close()
        assert stat.S_IMODE((tmp_path / "ledger.db").stat().st_mode) == 0o660
    finally:
        os.umask(before)
