"""Rows out of Bucle: JSON lines, CSV, Parquet, a folder for Hugging Face, or chats to fine-tune on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bucle.core.errors import BadInput
from bucle.core.records import Example, TaskKind
from bucle.data.columns import REQUIRED
from bucle.data.kinds import TEXTS, said

__all__ = ["FORMATS", "SUFFIXES", "Format", "export_rows"]

Format = Literal["jsonl", "csv", "parquet", "huggingface", "openai"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet", "huggingface", "openai")
SUFFIXES: Mapping[str, Format] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
ABSTAIN = "NO CONSTA."
"""What a model is taught to say where the documents hold no answer, as retrieval-augmented generation asks it to."""

_NO_CHATS: Mapping[str, str] = {
    "code": "their references are tests, not programs",
    "retrieve": "what is right are documents",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet (OWASP, "CSV Injection")."""
_BATCH = 10_000


def export_rows(
    rows: Iterable[Example],
    path: Path,
    format: Format,
    kind: TaskKind,
    sides: Mapping[str, str],
    *,
    instruction: str = "",
) -> dict[str, Any]:
    """Write rows as they come to the file `path` (a folder for `huggingface`); returns `rows` by side and, for CSV,
    the `neutralised` cells.

    The columns are `text` and `label` (or `question`, `answer`, `document`; `query`, `document`; `input`, `reference`,
    `checks`), what each row has of `group`, `time`
    and `language`, and `side`, `id`, `source`, `span_first`, `span_last`, `labelled_by`: `read_examples` reads all
    formats but `openai` back to the same rows. In CSV a cell that a spreadsheet would run begins with `'`; that cell
    is read back with it. `openai` is the chat format of fine-tuning APIs, under `instruction` as its system message; a
    row without a reference teaches nothing and is left out (`without_reference`). A failed export leaves what was
    there. Raises BadInput for no rows, and for chats of a kind whose references are no replies.
    """
    if format == "openai" and kind in _NO_CHATS:
        raise BadInput(f"Rows of a {kind} task are no chats to fine-tune on: {_NO_CHATS[kind]}.",
                       "Export them as jsonl, csv, parquet or huggingface.")
    counts: Counter[str] = Counter()

    silent = 0

    def counted(answered: bool = False) -> Iterator[Example]:
        nonlocal silent
        for row in rows:
            if answered and row.target is None:
                silent += 1
                continue
            counts[sides.get(row.id, "left out")] += 1
            yield row

    extra: dict[str, Any] = {}
    with _new(path) as made:
        records = (_record(row, kind, sides.get(row.id, "")) for row in counted())
        if format == "jsonl":
            _lines(made, ({k: v for k, v in r.items() if v is not None or k == REQUIRED[kind][1]} for r in records))
        elif format == "csv":
            extra["neutralised"] = _csv(made, records)
        elif format == "parquet":
            _parquet(records, lambda _: made)
        elif format == "huggingface":
            _huggingface(records, made)
        else:
            _lines(made, (_chat(row, kind, instruction) for row in counted(kind in TEXTS)))
            extra["without_reference"] = silent
        if not counts:
            raise BadInput("There is no row to export.", "bucle data versions lists what there is.")
    return {"rows": dict(counts), **extra}


def _record(row: Example, kind: TaskKind, side: str) -> dict[str, Any]:
    asked, given = REQUIRED[kind]
    body: dict[str, Any] = {asked: row.input, given: said(kind, row)}
    if kind == "answer":
        body["document"] = row.document
    if kind == "instruct":
        body["checks"] = row.checks
    first, last = row.span or (None, None)
    return body | {
        "group": row.group,
        "time": row.at,
        "language": row.language,
        "side": side,
        "id": row.id,
        "source": row.source,
        "span_first": first,
        "span_last": last,
        "labelled_by": row.labelled_by,
    }


def _chat(row: Example, kind: TaskKind, instruction: str) -> dict[str, Any]:
    asked = json.loads(row.input) if kind == "converse" else [{"role": "user", "content": row.input}]
    own = asked[0]["role"] == "system"
    system = [{"role": "system", "content": instruction}] if instruction and not own else []
    target = ABSTAIN if row.target is None else row.target
    return {"messages": [*system, *asked, {"role": "assistant", "content": target}]}


def _lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _csv(path: Path, records: Iterator[dict[str, Any]]) -> int:
    neutralised = 0
    with path.open("w", encoding="utf-8", newline="") as out:
        writer: Any = None
        for record in records:
            if writer is None:
                writer = csv.writer(out, quoting=csv.QUOTE_MINIMAL)
                writer.writerow(record)
            cells = ["" if value is None else str(value) for value in record.values()]
            safe = ["'" + cell if cell.startswith(_FORMULA) else cell for cell in cells]
            neutralised += sum(a != b for a, b in zip(cells, safe, strict=True))
            writer.writerow(safe)
    return neutralised


def _schema(pa: Any, names: Iterable[str]) -> Any:
    return pa.schema([(n, pa.int64() if n.startswith("span_") else pa.string()) for n in names])


def _parquet(records: Iterator[dict[str, Any]], file_of: Callable[[str], Path]) -> set[str]:
    """Parquet files by `file_of(side)`, written a batch at a time; returns the sides that occurred."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writers: dict[Path, Any] = {}
    sides: set[str] = set()
    try:
        while batch := list(islice(records, _BATCH)):
            parts: dict[Path, list[dict[str, Any]]] = {}
            for record in batch:
                sides.add(record["side"])
                parts.setdefault(file_of(record["side"]), []).append(record)
            for path, some in parts.items():
                if path not in writers:
                    writers[path] = pq.ParquetWriter(path, _schema(pa, some[0]))
                writers[path].write_table(pa.Table.from_pylist(some, schema=writers[path].schema))
    finally:
        for writer in writers.values():
            writer.close()
    return sides


def _huggingface(records: Iterator[dict[str, Any]], folder: Path) -> None:
    """A folder as the Hub has them: a Parquet file a side, and a card that names them."""
    (folder / "data").mkdir(parents=True)
    sides = _parquet(records, lambda side: folder / "data" / f"{side or 'unsplit'}.parquet")
    order = [s for s in ("train", "validation", "test", "") if s in sides]
    files = "".join(f"      - split: {s or 'unsplit'}\n        path: data/{s or 'unsplit'}.parquet\n" for s in order)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n  - config_name: default\n    data_files:\n{files}---\nExported by Bucle.\n", encoding="utf-8"
    )


@contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".export-"))
    try:
        yield scratch / path.name
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
