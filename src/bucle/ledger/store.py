"""The ledger: immutable nodes with typed edges, moving aliases with their history, finished steps.

SQLite in WAL mode with full synchronisation: what a call has returned from survives a kill and a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, Infrastructure, NotFound
from bucle.core.ids import canonical_json, content_id
from bucle.core.records import Edge, Node
from bucle.ledger.blobs import BlobStore, disk_error
from bucle.ledger.migrate import migrate

__all__ = ["Ledger", "now"]


def now() -> str:
    """The time now in UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat()


def private(database: Path) -> None:
    """Make `database` where there is none, readable by its owner alone; SQLite's files beside it get its mode. One that
    is there keeps its own: somebody may share it on purpose."""
    with suppress(FileExistsError):
        database.touch(mode=0o600, exist_ok=False)


class Ledger:
    """One project's store, in `folder` (`.bucle`). Threads may share it; processes may open it side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        self.blobs = BlobStore(folder / "blobs")
        self._lock = threading.RLock()
        try:
            private(folder / "ledger.db")
            self._db = sqlite3.connect(folder / "ledger.db", timeout=30, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA cache_size=-32000")  # KiB at most: ids are spread over the whole of their index
            migrate(self._db, resources.files("bucle.ledger").joinpath("schema.sql").read_text())
        except OSError as error:
            raise disk_error(error, folder) from error
        except sqlite3.Error as error:
            raise Infrastructure(f"{folder / 'ledger.db'} cannot be opened: {error}.", "bucle doctor") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or none of it. Nested use joins the outer transaction."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._rollback()
                if "full" in str(error):
                    raise Infrastructure(
                        f"The disk under {self.folder} is full.",
                        "Free some space and run the same command; nothing finished is lost.",
                    ) from error
                raise Infrastructure(f"The ledger in {self.folder}: {error}.", "bucle doctor") from error
            except BaseException:
                self._rollback()
                raise

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # nodes -----------------------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        attrs: Mapping[str, Any],
        *,
        parents: Iterable[tuple[str, str]] = (),
        blobs: Mapping[str, bytes | Path] | None = None,
    ) -> Node:
        """Store a node and return it. Its name covers kind, attributes, blobs and parents, so the same thing made
        from the same things is the same node, and lineage is never ambiguous. Idempotent.

        `parents` are (role, node id); each must exist. Raises NotFound for a parent that does not.
        """
        named = {name: self.blobs.put(content) for name, content in sorted((blobs or {}).items())}
        edges = sorted(set(parents))
        body = {"kind": kind, "attrs": json.loads(canonical_json(dict(attrs))), "blobs": named, "parents": edges}
        node = Node(id=content_id(kind, body), kind=kind, attrs=body["attrs"], blobs=named, created_at=now())
        with self.transaction() as db:
            if row := db.execute("SELECT created_at FROM nodes WHERE id = ?", (node.id,)).fetchone():
                return node.model_copy(update={"created_at": row[0]})
            for _, parent in edges:
                if not db.execute("SELECT 1 FROM nodes WHERE id = ?", (parent,)).fetchone():
                    raise NotFound(f"{parent} is not in the ledger, so nothing can be made from it.", "bucle doctor")
            db.execute(
                "INSERT INTO nodes VALUES (?, ?, ?, ?, ?)",
                (node.id, kind, canonical_json(body["attrs"]), canonical_json(named), node.created_at),
            )
            db.executemany(
                "INSERT OR IGNORE INTO edges VALUES (?, ?, ?)", [(node.id, role, parent) for role, parent in edges]
            )
        return node

    def put_folder(
        self, kind: str, folder: Path, attrs: Mapping[str, Any], *, parents: Iterable[tuple[str, str]] = ()
    ) -> Node:
        """A node whose blobs are all files under `folder`, by relative path."""
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.put(kind, attrs, parents=parents, blobs=files)

    def get(self, name: str) -> Node:
        """The node called `name`: an id, the beginning of one (`kind:3f2a…`), or an alias. Raises NotFound."""
        node_id = self.resolve(name)
        row = self.rows("SELECT id, kind, attrs, blobs, created_at FROM nodes WHERE id = ?", (node_id,))[0]
        return _node(row)

    def resolve(self, name: str) -> str:
        """The full id of `name` (id, beginning of an id, or alias). Raises NotFound or BadInput if ambiguous."""
        if ":" in name:
            found = self.rows("SELECT id FROM nodes WHERE id >= ? AND id < ? LIMIT 2", (name, name + "~"))
            if len(found) == 1:
                return str(found[0][0])
            if found:
                raise BadInput(f"`{name}` begins more than one name.", "Give more digits.")
        elif alias := self.alias(name):
            return alias
        raise NotFound(f"Nothing in the ledger is called `{name}`.", "bucle report lists what there is.")

    def nodes(self, kind: str) -> list[Node]:
        """All nodes of a kind, oldest first."""
        return [
            _node(r)
            for r in self.rows(
                "SELECT id, kind, attrs, blobs, created_at FROM nodes WHERE kind = ? ORDER BY created_at, id", (kind,)
            )
        ]

    def parents(self, node_id: str) -> list[Edge]:
        return [
            Edge(child=node_id, role=r, parent=p)
            for r, p in self.rows("SELECT role, parent FROM edges WHERE child = ? ORDER BY role, parent", (node_id,))
        ]

    def children(self, node_id: str) -> list[Edge]:
        return [
            Edge(child=c, role=r, parent=node_id)
            for c, r in self.rows("SELECT child, role FROM edges WHERE parent = ? ORDER BY role, child", (node_id,))
        ]

    def read(self, node: Node, name: str) -> bytes:
        """One blob of `node`, by name. Raises NotFound."""
        if name not in node.blobs:
            raise NotFound(f"{node.id} has no file `{name}`.", "bucle doctor")
        return self.blobs.verify(node.blobs[name]).read_bytes()

    def materialise(self, node: Node) -> Path:
        """A read-only folder with the node's files under their names, made of hard links (copies across disks)."""
        target = self.folder / "exports" / node.id.replace(":", "-")
        for name in node.blobs:
            _check_name(node, name)
        if target.exists() and not all((target / name).exists() for name in node.blobs):
            shutil.rmtree(target)  # somebody tidied up; the blobs still hold all of it
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{node.kind}-"))
            try:
                for name, digest in node.blobs.items():
                    path = scratch / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.blobs.verify(digest)
                    try:
                        os.link(self.blobs.path(digest), path)
                    except OSError:
                        shutil.copy(self.blobs.path(digest), path)  # with its mode: read-only
                scratch.rename(target)
            except OSError as error:  # where another writer was first, its folder has the same content
                if not target.exists():
                    raise disk_error(error, self.folder) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return target

    # aliases ---------------------------------------------------------------------------------------------

    def alias(self, name: str) -> str | None:
        found = self.rows("SELECT node FROM aliases WHERE name = ? ORDER BY seq DESC LIMIT 1", (name,))
        return str(found[0][0]) if found else None

    def move_alias(self, name: str, node_id: str, *, by: str, reason: str) -> None:
        """Point `name` at a node. The history stays; moving to where it already points writes nothing."""
        if ":" in name:
            raise BadInput(f"An alias cannot hold a colon: {name!r}.", "Use a plain word, such as `production`.")
        with self.transaction() as db:
            target = self.resolve(node_id)
            if self.alias(name) != target:
                db.execute(
                    "INSERT INTO aliases (name, node, at, by, reason) VALUES (?, ?, ?, ?, ?)",
                    (name, target, now(), by, reason),
                )

    def alias_history(self, name: str | None = None) -> list[dict[str, str]]:
        """Every move, oldest first: alias, node, at, by, reason."""
        where, values = ("WHERE name = ?", (name,)) if name else ("", ())
        return [
            dict(zip(("alias", "node", "at", "by", "reason"), row, strict=True))
            for row in self.rows(f"SELECT name, node, at, by, reason FROM aliases {where} ORDER BY seq", values)
        ]


def _check_name(node: Node, name: str) -> None:
    """A ledger may come from elsewhere: a file name in it must not lead out of the folder it is put into."""
    parts = name.split("/")
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise BadInput(f"{node.id} holds a file name that cannot be used: {name[:80]!r}.", "Delete that node's blobs.")


def _node(row: tuple[Any, ...]) -> Node:
    return Node(id=row[0], kind=row[1], attrs=json.loads(row[2]), blobs=json.loads(row[3]), created_at=row[4])
