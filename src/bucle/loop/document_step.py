"""Documents: every source brought here, parsed in workers, cleaned. One step, one corpus node, lineage to each file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import content_id, sha256_hex
from bucle.core.records import Document
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.versions import DOCUMENTS, documents_read
from bucle.loop.workspace import Workspace

__all__ = ["documents_step", "name_finder", "read_documents"]

def documents_step(ws: Workspace, runner: Runner) -> StepRecord:
    """Every document of every source under `data.documents`, parsed in workers, cleaned; unreadable ones in quarantine
    with the reason. What was parsed once is not parsed again, also after a kill or under another name."""
    from bucle.data.parse import retried
    from bucle.loop.restore import put_removed, restored
    from bucle.loop.sync import sync_all

    if not ws.config.data.documents:
        raise BadInput("This project names no documents.", "Add `data.documents` to bucle.yaml.")
    data, cache, key = ws.config.data, ws.root / ".bucle" / "parsed", os.environ.get("BUCLE_PERSONAL_KEY", "")
    synced = sync_all(ws, report=runner.display.update)
    passwords = {one.passwords_env: _passwords(one.passwords_env) for one in synced}
    back = restored(ws.ledger)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.clean import CleanPolicy, clean_documents
        from bucle.data.connect import changes
        from bucle.data.parse import parse_all

        documents: list[Document] = []
        source_of: dict[str, str] = {}
        quarantined = [
            {"path": one.prefix + p.path, "reason": p.reason, "message": p.message}
            for one in synced
            for p in one.problems
        ]
        for number, one in enumerate(synced):
            parsed = parse_all(
                one.files,
                one.root,
                passwords=passwords[one.passwords_env],
                report=ctx.report,
                cache=cache,
                parsers=data.parsers,
            )
            found = [_placed(document, one.prefix) for document in parsed.documents]
            documents += found
            source_of |= {document.id: str(number) for document in found}
            quarantined += [
                {"path": one.prefix + q.path, "reason": q.reason, "message": q.message} for q in parsed.quarantined
            ]
        cleaned = clean_documents(
            documents,
            CleanPolicy(
                near_duplicate=data.near_duplicates,
                boilerplate=data.boilerplate,
                quality=data.quality,
                languages=data.languages,
                personal={str(kind): action for kind, action in data.personal_data.items()},
                personal_key=key,
                names=name_finder(ws),
                restored=back,
            ),
            source_of=lambda document: source_of[document.id],
            report=ctx.report,
        )
        parents = []
        with ctx.ledger.transaction():
            for document in cleaned.documents:
                attrs = document.model_dump(
                    include={"id", "path", "sha256", "media_type", "title", "language", "access", "origin"}
                )
                parents.append(("document", ctx.ledger.put("document", attrs).id))
        files = [dataclasses.replace(file, path=one.prefix + file.path) for one in synced for file in one.files]
        before = _files_before(ws)
        listing = json.dumps([{"path": f.path, "sha256": f.sha256} for f in files], ensure_ascii=False)
        corpus = ctx.ledger.put(
            "corpus",
            {"documents": len(cleaned.documents)},
            parents=parents,
            blobs={"documents.jsonl": _jsonl(cleaned.documents), "files.json": listing.encode()},
        )
        figures = {
            "files": len(files),
            "documents": len(cleaned.documents),
            "quarantined": quarantined,
            "removed": [
                {"id": r.id, "path": r.path, "reason": r.reason, "detail": r.detail, "kept": r.kept}
                for r in cleaned.removed
            ],
            "boilerplate": [{"id": b.id, "text": b.text[:300], "detail": b.detail} for b in cleaned.boilerplate[:200]],
            "changes": None if before is None else dataclasses.asdict(changes(before, files)),
            "notes": [one.note for one in synced if one.note],
            "languages": dict(Counter(d.language for d in cleaned.documents).most_common()),
            "personal": _personal(cleaned.personal),
            "dropped": dict(Counter(one.reason for one in cleaned.dropped)),
        }
        gone = put_removed(ctx.ledger, "documents", [*cleaned.removed, *cleaned.boilerplate, *cleaned.dropped])
        return Outcome(
            {"corpus": corpus.id, "removed": gone},
            figures,
            f"{len(cleaned.documents)} documents, {len(quarantined)} in quarantine",
        )

    record = runner.step(
        "documents",
        work,
        stage="data",
        version=3,
        params={
            "files": [[one.prefix + f.path, f.sha256 or f.size, f.access] for one in synced for f in one.files],
            "problems": [[p.path, p.reason] for one in synced for p in one.problems],
            "retried": retried(cache),
            "restored": sorted(back),
            "passwords": sha256_hex(json.dumps([passwords, key], sort_keys=True)),
            "personal_key": sha256_hex(key),
            "policy": data.model_dump(mode="json", exclude={"documents", "rows"}),
        },
    )
    documents_read(ws, record["corpus"])
    return record


def name_finder(ws: Workspace) -> Any:
    """The model that finds people's names, opened, where bucle.yaml names one; else None."""
    names = ws.config.data.names
    if names is None:
        return None
    from bucle.data.names import NameFinder

    return NameFinder(names)


def _placed(document: Document, prefix: str) -> Document:
    """`document` under the name its source has in a project with several."""
    if not prefix:
        return document
    path = prefix + document.path
    name = content_id("document", {"path": path, "sha256": document.sha256})
    return document.model_copy(update={"path": path, "id": name})


def _files_before(ws: Workspace) -> list[dict[str, str]] | None:
    """Path and sha256 of the files behind the corpus that was read last; None for the first."""
    corpus = ws.ledger.alias(DOCUMENTS)
    if not corpus:  # a ledger that does not say it
        done = ws.ledger.rows("SELECT outputs FROM steps WHERE name = 'documents' ORDER BY finished_at DESC LIMIT 1")
        corpus = json.loads(done[0][0])["corpus"] if done else None
    node = ws.ledger.get(corpus) if corpus else None
    if node is None or "files.json" not in node.blobs:
        return None
    found: list[dict[str, str]] = json.loads(ws.ledger.read(node, "files.json"))
    return found


def read_documents(ws: Workspace, corpus: str) -> list[Document]:
    """The documents of a corpus node."""
    node = ws.ledger.get(corpus)
    return [Document.model_validate_json(line) for line in ws.ledger.read(node, "documents.jsonl").splitlines()]


def _passwords(variable: str) -> dict[str, str]:
    """`path=password` pairs, separated by commas, from an environment variable; never written anywhere."""
    pairs = [pair.partition("=") for pair in os.environ.get(variable, "").split(",")] if variable else []
    return {path.strip(): password for path, _, password in pairs if path.strip() and password}


def _personal(counts: Iterable[Any]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for item in counts:
        total[item.kind] += item.count
    return dict(total.most_common())




def _jsonl(records: Iterable[Document]) -> bytes:
    return "".join(r.model_dump_json() + "\n" for r in records).encode()
