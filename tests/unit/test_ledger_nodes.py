"""Nodes and aliases: named by content and parents, never changed, found by id, beginning or alias."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, Infrastructure, NotFound
from bucle.core.ids import canonical_json, sha256_hex
from bucle.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / ".bucle")
    yield ledger
    ledger.close()


def test_the_same_thing_from_the_same_things_is_the_same_node(ledger: Ledger) -> None:
    base = ledger.put("corpus", {"documents": 3})
    one = ledger.put("index", {"b": 1, "a": "ñ"}, parents=[("corpus", base.id)], blobs={"x": b"1"})
    again = ledger.put("index", {"a": "ñ", "b": 1}, parents=[("corpus", base.id)] * 2, blobs={"x": b"1"})
    assert again == one
    assert ledger.get(one.id) == one
    assert len(ledger.nodes("index")) == 1
    assert [(e.role, e.parent) for e in ledger.parents(one.id)] == [("corpus", base.id)]
    assert [(e.role, e.child) for e in ledger.children(base.id)] == [("corpus", one.id)]


def test_a_name_covers_kind_attributes_blobs_parents_and_roles(ledger: Ledger) -> None:
    first, second = ledger.put("corpus", {"n": 1}), ledger.put("corpus", {"n": 2})
    made = [
        ledger.put("index", {"n": 1}),
        ledger.put("other", {"n": 1}),
        ledger.put("index", {"n": 2}),
        ledger.put("index", {"n": 1}, blobs={"a": b""}),
        ledger.put("index", {"n": 1}, blobs={"b": b""}),
        ledger.put("index", {"n": 1}, parents=[("corpus", first.id)]),
        ledger.put("index", {"n": 1}, parents=[("corpus", second.id)]),
        ledger.put("index", {"n": 1}, parents=[("previous", first.id)]),
        ledger.put("index", {"n": 1}, parents=[("corpus", first.id), ("previous", first.id)]),
    ]
    assert len({node.id for node in made}) == len(made)
    body = {"kind": "index", "attrs": {"n": 1}, "blobs": {}, "parents": [("corpus", first.id)]}
    assert made[5].id == "index:" + sha256_hex(canonical_json(body))


def test_a_change_far_back_renames_everything_made_from_it(ledger: Ledger) -> None:
    def chain(text: bytes) -> list[str]:
        node = ledger.put("document", {"path": "a.txt"}, blobs={"a.txt": text})
        names = [node.id]
        for kind in ("corpus", "index", "candidate", "release"):
            node = ledger.put(kind, {"n": 1}, parents=[("from", node.id)])
            names.append(node.id)
        return names

    assert set(chain(b"1")).isdisjoint(chain(b"2"))
    assert chain(b"1") == chain(b"1")


def test_a_parent_must_exist_and_nothing_is_left_of_a_refused_node(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="not in the ledger"):
        ledger.put("index", {}, parents=[("corpus", "corpus:" + "0" * 64)])
    assert ledger.nodes("index") == []
    with pytest.raises(ValueError):
        ledger.put("index", {"loss": float("nan")})


def test_nodes_come_oldest_first_and_keep_their_first_date(ledger: Ledger) -> None:
    made = [ledger.put("run", {"n": n}) for n in (3, 1, 2)]
    ledger.put("run", {"n": 3})
    assert [node.id for node in ledger.nodes("run")] == [node.id for node in made]
    assert ledger.get(made[0].id).created_at == made[0].created_at


def test_resolve_takes_an_id_its_beginning_or_an_alias(ledger: Ledger) -> None:
    nodes = [ledger.put("run", {"n": n}) for n in range(40)]
    one = nodes[7]
    ledger.move_alias("production", one.id, by="ana", reason="first")
    assert ledger.resolve(one.id) == ledger.resolve(one.id[:16]) == ledger.resolve("production") == one.id
    assert ledger.get("production") == one
    with pytest.raises(BadInput, match="more than one"):
        ledger.resolve("run:")
    for name in ("run:zz", "nobody", "", ":", "run:%", "' OR 1=1 --", "run:\0", "otro:" + one.id):
        with pytest.raises((NotFound, BadInput)):
            ledger.resolve(name)


def test_an_alias_moves_and_its_history_stays(ledger: Ledger) -> None:
    one, two = ledger.put("release", {"version": 1}), ledger.put("release", {"version": 2})
    assert ledger.alias("production") is None
    for node, reason in ((one.id, "a"), (two.id, "b"), (two.id, "again"), (two.id[:20], "again, in short"),
                         (one.id, "back")):
        ledger.move_alias("production", node, by="ana", reason=reason)
    ledger.move_alias("candidate", two.id, by="eva", reason="c")
    assert ledger.alias("production") == one.id
    history = ledger.alias_history("production")
    assert [(h["node"], h["by"], h["reason"]) for h in history] == [
        (one.id, "ana", "a"), (two.id, "ana", "b"), (one.id, "ana", "back")]
    assert [h["at"] for h in history] == sorted(h["at"] for h in history)
    assert len(ledger.alias_history()) == 4
    with pytest.raises(BadInput, match="colon"):
        ledger.move_alias("a:b", one.id, by="ana", reason="")
    with pytest.raises(NotFound):
        ledger.move_alias("production", "release:" + "0" * 64, by="ana", reason="")
    assert ledger.alias("production") == one.id


def test_a_folder_is_stored_and_laid_out_again(ledger: Ledger, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "sub" / "deep" / "pesos ñ.bin").write_bytes(bytes(range(256)) * 9000)
    node = ledger.put_folder("base_model", source, {"name": "nano"})
    out = ledger.materialise(node)
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        "config.json": b"{}", "sub/deep/pesos ñ.bin": bytes(range(256)) * 9000}
    assert ledger.materialise(node) == out
    assert all(not p.stat().st_mode & 0o222 for p in out.rglob("*") if p.is_file())
    assert ledger.read(node, "config.json") == b"{}"
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    with pytest.raises(NotFound, match=r"no file `other.json`"):
        ledger.read(node, "other.json")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/bucle-out", ".", "..", "", "a//b", "a/./b", "a\\b",  # noqa: S108
                                  "a\0b", "x" * 300, "a/"])
def test_a_file_name_that_leaves_its_folder_is_refused(ledger: Ledger, tmp_path: Path, name: str) -> None:
    node = ledger.put("base_model", {}, blobs={"config.json": b"{}", name: b"boo"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="cannot be used"):
        ledger.materialise(node)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/bucle-out").exists()  # noqa: S108


def test_a_name_that_is_both_a_file_and_a_folder_is_told_as_an_error(ledger: Ledger) -> None:
    node = ledger.put("base_model", {}, blobs={"a": b"1", "a/b": b"2"})
    with pytest.raises(Infrastructure):
        ledger.materialise(node)
    assert list((ledger.folder / "exports").iterdir()) == []


def test_a_lost_blob_is_named(ledger: Ledger) -> None:
    node = ledger.put("base_model", {}, blobs={"a": b"1"})
    os.unlink(ledger.blobs.path(node.blobs["a"]))
    for use in (lambda: ledger.read(node, "a"), lambda: ledger.materialise(node)):
        with pytest.raises(NotFound, match="is not in") as caught:
            use()
        assert "backup" in caught.value.hint
    assert list((ledger.folder / "exports").iterdir()) == []


def test_a_transaction_is_all_or_nothing_and_nests(ledger: Ledger) -> None:
    def half() -> None:
        with ledger.transaction():
            ledger.put("run", {"n": 1})
            with ledger.transaction():
                ledger.put("run", {"n": 2})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert ledger.nodes("run") == []
    ledger.put("run", {"n": 3})
    assert len(ledger.nodes("run")) == 1


def test_what_is_no_ledger_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is not a database, it is a text " * 200)
    with pytest.raises(Infrastructure, match=r"ledger.db cannot be opened") as caught:
        Ledger(tmp_path)
    assert caught.value.hint == "bucle doctor"
    (tmp_path / "file").write_text("")
    with pytest.raises(Infrastructure):
        Ledger(tmp_path / "file" / ".bucle")


def test_a_ledger_survives_closing_and_keeps_full_synchronisation(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    node = first.put("run", {"n": 1}, blobs={"a": b"1"})
    first.close()
    second = Ledger(tmp_path)
    assert second.get(node.id) == node
    assert second.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert second.rows("PRAGMA synchronous")[0][0] == 2
    second.close()
    with pytest.raises(sqlite3.ProgrammingError):
        second.rows("SELECT 1")
