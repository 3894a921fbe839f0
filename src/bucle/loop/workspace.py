"""A project opened for work: its folder, its configuration, its ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import load_dotenv

from bucle.core.config import Project, load_project
from bucle.core.errors import BadInput
from bucle.core.records import Example, Node
from bucle.ledger import Ledger, TraceStore
from bucle.loop.settings import check_settings
from bucle.loop.sides import Sides
from bucle.serve.people import People

__all__ = ["Workspace"]


@dataclass(frozen=True, eq=False)
class Workspace:
    """`root` is the folder with bucle.yaml; the ledger lives in `root/.bucle`."""

    root: Path
    config: Project
    ledger: Ledger
    traces: TraceStore
    people: People

    @classmethod
    def open(cls, path: str | Path = ".") -> Workspace:
        """The project in `path` (its folder or its bucle.yaml). Raises ConfigError or Infrastructure."""
        path = Path(path)
        root = path.parent if path.suffix in {".yaml", ".yml"} else path
        load_dotenv(root / ".env")  # what the environment already says stays
        config = load_project(path)
        if config.threads:
            os.environ["BUCLE_THREADS"] = str(config.threads)
        check_settings(config, path if path != root else root / "bucle.yaml")
        ledger = Ledger(root / ".bucle")
        people = People(ledger.folder, masks=config.serve.redact)
        return cls(root, config, ledger, TraceStore(ledger, known_as=people.known_as), people)

    @property
    def trusted(self) -> bool:
        """Whether the user said, outside the project's files, that its own Python code may run (`--trust`)."""
        return os.environ.get("BUCLE_TRUST", "") == "1"

    def file(self, name: str) -> Path:
        """A file of the team's, relative to the project. Raises BadInput if it is not there."""
        path = self.root / name
        if not path.is_file():
            raise BadInput(f"{path} does not exist.", "Correct its name in bucle.yaml.")
        return path

    def rows_file(self, task: str) -> Path:
        """The file with a task's rows, fetched first where they come from elsewhere. Raises BadInput if it is not
        there, Infrastructure where its source does not answer."""
        data = self.config.tasks[task].data
        if isinstance(data, str):
            return self.file(data)
        from bucle.data.connect import fetch_rows

        return fetch_rows(data, self.root, self.root / ".bucle" / "sources")

    def examples(self, dataset: str) -> list[Example]:
        """The rows of a dataset node."""
        return [Example.model_validate_json(line) for line in self.row_lines(dataset)]

    def row_lines(self, dataset: str) -> Iterator[bytes]:
        """The rows of a dataset node as lines of JSON, one at a time: for datasets that need not fit into memory."""
        path = self.ledger.blobs.verify(self.ledger.get(dataset).blobs["examples.jsonl"])
        with path.open("rb") as file:
            yield from file

    def sides(self, split: str) -> dict[str, str]:
        """Example id -> `train`, `validation` or `test`, of a split node."""
        import json

        node = self.ledger.get(split)
        parts = json.loads(self.ledger.read(node, "split.json"))
        return {row: side for side, rows in parts.items() for row in rows}

    def sides_ever(self, split: str, rows: Sequence[str]) -> dict[str, str]:
        """Of `rows` (ids), those that ever had a side, with the last: in a split node or in those that it followed (its
        `previous`), where rows stand that have left and come back. Each split is held in nine bytes a row."""
        import json

        known: dict[str, str] = {}
        while split and len(known) < len(rows):
            sides = Sides(json.loads(self.ledger.read(self.ledger.get(split), "split.json")))
            for row in rows:
                if row not in known and (side := sides.get(row)):
                    known[row] = side
            split = next((e.parent for e in self.ledger.parents(split) if e.role == "previous"), "")
        return known

    def documents(self, corpus: str) -> list[Node]:
        """The document nodes of a corpus node, by path."""
        found = [self.ledger.get(e.parent) for e in self.ledger.parents(corpus) if e.role == "document"]
        return sorted(found, key=lambda node: str(node.attrs["path"]))

    def close(self) -> None:
        self.ledger.close()
