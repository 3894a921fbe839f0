"""The versions of a project's rows and documents: numbered as they came, with where each is from and what it made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import short
from bucle.core.records import Document, Example, Node
from bucle.ledger.blobs import BlobStore
from bucle.loop.workspace import Workspace

__all__ = [
    "DOCUMENTS",
    "LabelsToday",
    "Today",
    "Version",
    "documents_of",
    "documents_read",
    "labels_today",
    "number_of",
    "rows",
    "trained_on",
    "used",
    "version_called",
    "versions",
]

DOCUMENTS = "documents"
"""The name under which the corpus stands beside the tasks."""


@dataclass(frozen=True)
class Version:
    """One dataset or corpus of the ledger. `number` counts from 1 by creation within its task and never changes: what
    is put again (a file that was changed back) is the version that it was. `n` are rows or documents; `origin` says
    what it was made from; `current` whether the latest run used it; `releases` are the versions that trained on it."""

    task: str
    number: int
    node: str
    at: str
    n: int
    origin: str
    current: bool
    releases: tuple[int, ...]

    def json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "task": self.task,
            "version": self.number,
            "node": self.node,
            "created_at": self.at,
            "n": self.n,
            "origin": self.origin,
            "current": self.current,
            "releases": list(self.releases),
        }


def versions(ws: Workspace, task: str = "") -> list[Version]:
    """Every version of one task's rows (or of `documents`), or of all, oldest first. Raises NotFound for a name that
    is neither."""
    known = [*ws.config.tasks, DOCUMENTS]
    nodes = {name: _nodes(ws, name) for name in known}
    if task and task not in nodes:
        raise NotFound(f"There is no task `{task}`.", f"Tasks: {', '.join(known)}.")
    current = _current(ws)
    trained = trained_on(ws)
    return [
        Version(
            name,
            number,
            node.id,
            node.created_at,
            int(node.attrs["documents" if name == DOCUMENTS else "rows"]),
            _origin(ws, node, nodes[name]),
            node.id in current,
            tuple(sorted({r.attrs["version"] for r, _ in trained.get(node.id, [])})),
        )
        for name in ([task] if task else known)
        for number, node in enumerate(nodes[name], 1)
    ]


def version_called(ws: Workspace, task: str, name: str) -> Version:
    """A version by its number (`2`, `v2`), `current`, or its node's id or the beginning of that. Raises NotFound."""
    found = versions(ws, task)
    if not found:
        raise NotFound(f"No version of `{task}` is in the ledger yet.", "bucle data list reads what there is.")
    digits = name.removeprefix("v")
    if digits.isdecimal() and len(digits) < 6:
        picked = [v for v in found if v.number == int(digits)]
    elif name == "current":
        picked = [v for v in found if v.current][-1:] or found[-1:]
    else:
        picked = [v for v in found if name and (v.node.startswith(name) or v.node.partition(":")[2].startswith(name))]
    if len(picked) > 1:
        raise BadInput(f"`{name}` begins more than one version of `{task}`.", "Give more digits.")
    if not picked:
        raise NotFound(f"`{task}` has no version `{name}`.", f"bucle data versions {task} lists 1 to {len(found)}.")
    return picked[0]


def number_of(ws: Workspace, dataset: str) -> int:
    """The number of a dataset or corpus node among its task's. Raises NotFound."""
    node = ws.ledger.get(dataset)
    name = DOCUMENTS if node.kind == "corpus" else str(node.attrs["task"])
    return [n.id for n in _nodes(ws, name)].index(node.id) + 1


def rows(ws: Workspace, dataset: str) -> Iterator[Example]:
    """The rows of a dataset node, one at a time."""
    return (Example.model_validate_json(line) for line in ws.row_lines(dataset))


def documents_of(ws: Workspace, corpus: str) -> Iterator[Document]:
    """The documents of a corpus node, one at a time."""
    path = ws.ledger.blobs.verify(ws.ledger.get(corpus).blobs["documents.jsonl"])
    with path.open("rb") as file:
        for line in file:
            yield Document.model_validate_json(line)


def used(ws: Workspace, task: str) -> Iterator[Node]:
    """The versions of a task's rows (or of `documents`) in the order in which finished runs used them, the latest use
    first: what was put back comes before what was current until then. The same may come more than once."""
    keys: dict[str, list[str]] = {}
    kind = "corpus" if task == DOCUMENTS else "dataset"
    for (steps,) in ws.ledger.rows("SELECT steps FROM runs WHERE finished_at IS NOT NULL ORDER BY seq DESC"):
        for step in reversed(json.loads(steps)):
            key = str(step["key"])
            if key not in keys:
                rows = ws.ledger.rows("SELECT outputs FROM steps WHERE key = ?", (key,))
                keys[key] = [node for (outputs,) in rows for role, node in json.loads(outputs).items() if role == kind]
            for node in map(ws.ledger.get, keys[key]):
                if task == DOCUMENTS or node.attrs.get("task") == task:
                    yield node


def trained_on(ws: Workspace) -> dict[str, list[tuple[Node, Node]]]:
    """Dataset or corpus id -> the (release, candidate) pairs that were made from it; a corpus through its index and
    through models pretrained on it."""
    from bucle.release import releases

    made: dict[str, list[tuple[Node, Node]]] = {}
    for release in releases(ws.ledger):
        for candidate_id in release.attrs["tasks"].values():
            candidate = ws.ledger.get(candidate_id)
            near = ws.ledger.parents(candidate_id)
            far = [edge for e in near if e.role in ("index", "base") for edge in ws.ledger.parents(e.parent)]
            for parent in dict.fromkeys(e.parent for e in (*near, *far) if e.role in ("dataset", "corpus")):
                made.setdefault(parent, []).append((release, candidate))
    return made


def documents_read(ws: Workspace, corpus: str) -> None:
    """Write down that `corpus` is what the documents are today, also where it was read before: its labels hold from
    now on, and what is not in it is gone."""
    ws.ledger.move_alias(DOCUMENTS, corpus, by="bucle run", reason="documents read")


class Today(dict[str, tuple[str, ...]]):
    """Path -> access labels of every labelled document of today; `paths` are all documents' (None: none were read)."""

    paths: frozenset[str] | None = None


def labels_today(ws: Workspace) -> Today:
    """The labels and paths of the documents as they were read last, whatever became of that run. An index may be older
    than these. (A ledger that does not say what was read last: of the latest run, and of what was read since.)"""
    if corpus := ws.ledger.alias(DOCUMENTS):
        return _read(ws.ledger.blobs, ws.ledger.get(corpus).blobs["documents.jsonl"])
    found, paths = Today(), set[str]()
    for corpus in sorted({*(n for n in _current(ws) if n.startswith("corpus:")), *_since(ws)}):
        part = _read(ws.ledger.blobs, ws.ledger.get(corpus).blobs["documents.jsonl"])
        paths.update(part.paths or ())
        found.paths = frozenset(paths)
        for path, labels in part.items():
            found[path] = tuple(dict.fromkeys((*found.get(path, ()), *labels)))
    return found


_PATH = re.compile(rb'\{"id":"[^"\\]*","path":("(?:[^"\\]|\\.)*")')


@lru_cache(maxsize=2)
def _read(blobs: BlobStore, digest: str) -> Today:
    """Labels and paths of one corpus; of most documents nothing but the path is looked at."""
    found, paths = Today(), set[str]()
    with blobs.verify(digest).open("rb") as lines:
        for line in lines:
            said = _PATH.match(line)
            if said and b'"access":["' not in line:
                paths.add(json.loads(said[1]))
                continue
            document = json.loads(line)
            paths.add(document["path"])
            if document["access"]:
                found[document["path"]] = tuple(document["access"])
    found.paths = frozenset(paths)
    return found


class LabelsToday(Mapping[str, tuple[str, ...]]):
    """`labels_today`, read again whenever documents were: for whoever stays open longer than they stay the same.
    `now()` costs one look at the ledger, and gives the same object for as long as nothing changed."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._told: tuple[tuple[Any, ...], Today] | None = None

    def now(self) -> Today:
        """Path -> labels, of this moment. Raises what reading the ledger does: without labels nothing is shown."""
        key = self._ws.ledger.rows(_READ)[0]
        if (told := self._told) is None or told[0] != key:
            self._told = told = (key, labels_today(self._ws))
        return told[1]

    def __getitem__(self, path: str) -> tuple[str, ...]:
        return self.now()[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.now())

    def __len__(self) -> int:
        return len(self.now())


_READ = (
    f"SELECT (SELECT max(seq) FROM aliases WHERE name = '{DOCUMENTS}'), "
    "(SELECT max(seq) FROM runs WHERE finished_at IS NOT NULL), "
    "(SELECT max(created_at) FROM nodes WHERE kind = 'corpus'), "
    "(SELECT count(*) FROM steps WHERE name = 'documents')"  # a step is written down after its node
)


def _since(ws: Workspace) -> list[str]:
    """The corpus that documents were read into since the newest run finished."""
    found = ws.ledger.rows(
        "SELECT outputs FROM steps WHERE name = 'documents' AND finished_at > "
        "coalesce((SELECT max(finished_at) FROM runs), '') ORDER BY finished_at DESC LIMIT 1"
    )
    return [corpus for (outputs,) in found if (corpus := json.loads(outputs).get("corpus"))]


def _nodes(ws: Workspace, task: str) -> list[Node]:
    if task == DOCUMENTS:
        return ws.ledger.nodes("corpus")
    return [n for n in ws.ledger.nodes("dataset") if n.attrs.get("task") == task]


def _current(ws: Workspace) -> set[str]:
    """The corpus and, of each task, the dataset that the latest run ended with."""
    from bucle.loop.story import latest_records

    try:
        records = latest_records(ws.ledger)
    except NotFound:
        return set()
    used: dict[str, str] = {}
    for record in records:
        for role in ("corpus", "dataset"):
            if role in record.outputs:
                used[role if role == "corpus" else str(ws.ledger.get(record[role]).attrs["task"])] = record[role]
    return set(used.values())


def _origin(ws: Workspace, node: Node, siblings: list[Node]) -> str:
    """`data/rows.tsv 3f2a91c0`, or `version 1 and feedback (12 ratings, 4 corrections)`."""
    if node.kind == "corpus":
        return "documents"
    numbers = {n.id: i for i, n in enumerate(siblings, 1)}
    before, parts = "", []
    for edge in ws.ledger.parents(node.id):
        parent = ws.ledger.get(edge.parent)
        if edge.role == "previous":
            before = f"version {numbers[parent.id]}" if parent.id in numbers else short(parent.id)
        elif parent.kind == "feedback":
            parts.append(f"feedback ({parent.attrs['ratings']} ratings, {parent.attrs['corrections']} corrections)")
        else:
            parts.append(f"{edge.role} {short(parent.id)}")
    if not before and not parts:
        return f"{node.attrs.get('file', '')} {str(node.attrs.get('sha256', ''))[:8]}".strip()
    said = str(node.attrs.get("file", ""))
    return " and ".join(filter(None, [before, *(parts or [said])]))
