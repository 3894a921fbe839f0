"""The data stage: documents read and cleaned, rows read, split without leakage, explored. Each a step, each a node."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

from bucle.core.config import AnswerTask, ClassifyTask
from bucle.core.errors import BadInput
from bucle.core.ids import file_sha256, sha256_hex
from bucle.core.records import Document, Example
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.restore import put_removed, restored
from bucle.loop.workspace import Workspace

__all__ = [
    "documents_step",
    "examples_step",
    "explore_step",
    "preferences_step",
    "put_dataset",
    "read_documents",
    "split_step",
    "task_columns",
]


def documents_step(ws: Workspace, runner: Runner) -> StepRecord:
    """Every file under `data.documents`, parsed in workers, cleaned; unreadable ones in quarantine with the reason."""
    from bucle.data.connect import list_files

    sources = ws.config.data.documents
    if not sources:
        raise BadInput("This project names no documents.", "Add `data.documents` to bucle.yaml.")
    source = sources[0]
    if source.kind != "folder":
        raise BadInput(f"A {source.kind} source cannot be read yet.", "Name a folder.")
    root = ws.root / source.path
    files = list_files(root, source.patterns)
    passwords = _passwords(source.passwords_env)
    policy = ws.config.data
    kept = restored(ws.ledger)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.clean import CleanPolicy, clean_documents
        from bucle.data.names import NameFinder
        from bucle.data.parse import parse_all

        parsed = parse_all(files, root, passwords=passwords, report=ctx.report)
        cleaned = clean_documents(
            parsed.documents,
            CleanPolicy(
                near_duplicate=policy.near_duplicates,
                languages=policy.languages,
                quality=policy.quality,
                boilerplate=policy.boilerplate,
                names=NameFinder(policy.names) if policy.names else None,
                restored=kept,
                personal=dict(policy.personal_data),
                personal_key=os.environ.get("BUCLE_PERSONAL_KEY", ""),
            ),
            report=ctx.report,
        )
        parents = []
        with ctx.ledger.transaction():
            for document in cleaned.documents:
                attrs = document.model_dump(include={"id", "path", "sha256", "media_type", "title", "language"})
                parents.append(("document", ctx.ledger.put("document", attrs).id))
        corpus = ctx.ledger.put(
            "corpus",
            {"documents": len(cleaned.documents)},
            parents=parents,
            blobs={"documents.jsonl": _jsonl(cleaned.documents)},
        )
        gone = put_removed(ctx.ledger, "documents", [*cleaned.removed, *cleaned.boilerplate])
        figures = {
            "files": len(files),
            "documents": len(cleaned.documents),
            "quarantined": [{"path": q.path, "reason": q.reason, "message": q.message} for q in parsed.quarantined],
            "removed": [
                {"path": r.path, "reason": r.reason, "detail": r.detail, "kept": r.kept} for r in cleaned.removed
            ],
            "boilerplate": [{"id": b.id, "text": b.text[:300], "detail": b.detail} for b in cleaned.boilerplate[:200]],
            "languages": dict(Counter(d.language for d in cleaned.documents).most_common()),
            "personal": _personal(cleaned.personal),
        }
        return Outcome(
            {"corpus": corpus.id, "removed": gone},
            figures,
            f"{len(cleaned.documents)} documents, {len(parsed.quarantined)} in quarantine",
        )

    return runner.step(
        "documents",
        work,
        stage="data",
        params={
            "files": [[f.path, f.sha256 or f.size] for f in files],
            "passwords": sha256_hex(json.dumps([passwords, os.environ.get("BUCLE_PERSONAL_KEY", "")], sort_keys=True)),
            "personal_key": sha256_hex(os.environ.get("BUCLE_PERSONAL_KEY", "")),
            "policy": policy.model_dump(mode="json", exclude={"documents", "rows"}),
            "restored": sorted(kept),
        },
    )


def examples_step(ws: Workspace, runner: Runner, name: str) -> StepRecord:
    """The rows of a task, version 1. Rows that cannot be used are counted with their reason."""
    task = ws.config.tasks[name]
    path = ws.rows_file(name)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.tables import read_examples

        columns = task_columns(task)
        rows, problems = read_examples(path, task.kind, columns, known_labels=getattr(task, "labels", ()) or None)
        if not rows:
            raise BadInput(
                f"{path} holds no row that can be used: "
                + ", ".join(f"{n} {reason}" for reason, n in Counter(p.reason for p in problems).most_common())
                + (f" (first: {problems[0].source})." if problems else "."),
                f"Correct the file, or the columns of `{name}` in bucle.yaml.",
            )
        node = put_dataset(ctx, name, task.kind, 1, rows, [], {"file": path.name, "sha256": file_sha256(path)})
        figures = {
            "rows": len(rows),
            "problems": len(problems),
            "problem_list": [{"source": p.source, "reason": p.reason, "detail": p.detail} for p in problems[:200]],
            "columns": columns,
            "labels": _labels(rows),
        }
        return Outcome({"dataset": node}, figures, f"{len(rows)} rows, {len(problems)} left out")

    return runner.step(
        f"examples {name}",
        work,
        stage="data",
        params={"task": task.model_dump(mode="json", exclude={"gates", "instruction"}), "sha256": file_sha256(path)},
    )


def put_dataset(
    ctx: StepContext,
    task: str,
    kind: str,
    version: int,
    rows: list[Example],
    parents: Iterable[tuple[str, str]],
    origin: Mapping[str, Any],
) -> str:
    """Store rows as a dataset node; returns its id."""
    node = ctx.ledger.put(
        "dataset",
        {"task": task, "kind": kind, "version": version, "rows": len(rows), **origin},
        parents=parents,
        blobs={"examples.jsonl": _jsonl(rows)},
    )
    return node.id


def split_step(
    ws: Workspace, runner: Runner, name: str, dataset: str, *, version: int = 1, previous: str = ""
) -> StepRecord:
    """Train, validation and test rows. Rows that stood in `previous` keep their side."""
    task = ws.config.tasks[name]
    settings = task.split or ws.config.split

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.split import Side, split

        rows = ws.examples(dataset)
        kept = cast("dict[str, Side]", ws.sides(previous)) if previous else {}
        made = split(
            rows,
            test=settings.test,
            validation=settings.validation,
            seed=ws.config.seed,
            near_duplicate_threshold=ws.config.data.near_duplicates,
            previous=kept,
            keep_labels=task.kind == "classify",
        )
        parts = {"train": list(made.train), "validation": list(made.validation), "test": list(made.test)}
        if not parts["test"] or not parts["train"]:
            raise BadInput(
                f"The {len(rows)} rows of `{name}` cannot be split into train and test.",
                "Add rows, or change `split:` in bucle.yaml.",
            )
        node = ctx.ledger.put(
            "split",
            {"task": name, "version": version, **{k: len(v) for k, v in parts.items()}},
            parents=[("dataset", dataset), *([("previous", previous)] if previous else [])],
            blobs={"split.json": json.dumps(parts).encode()},
        )
        figures = {k: len(v) for k, v in parts.items()} | {"leaks_prevented": made.leaks_prevented}
        return Outcome({"split": node.id}, figures, " / ".join(f"{k} {len(v)}" for k, v in parts.items()))

    return runner.step(
        f"split {name}" + (f" v{version}" if version > 1 else ""),
        work,
        stage="data",
        params={"split": settings.model_dump(), "seed": ws.config.seed, "near": ws.config.data.near_duplicates},
        inputs={"dataset": dataset, "previous": previous},
    )


def explore_step(ws: Workspace, runner: Runner, name: str, dataset: str, split: str) -> StepRecord:
    """What the rows look like: lengths, languages, balance, doubtful labels, leakage, personal data."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.explore import explore_examples

        rows = (Example.model_validate_json(line) for line in ws.row_lines(dataset))
        near = ws.config.data.near_duplicates
        return Outcome(
            {}, explore_examples(rows, ws.sides(split), near_duplicate_threshold=near, report=ctx.report)
        )

    return runner.step(
        f"explore {name}",
        work,
        stage="data",
        version=2,
        inputs={"dataset": dataset, "split": split},
        params={"near": ws.config.data.near_duplicates},
    )


def preferences_step(ws: Workspace, runner: Runner) -> StepRecord:
    """The preference pairs as a dataset node, with how often the longer reply wins."""
    settings = ws.config.preferences
    if settings is None:
        raise BadInput("This project names no preferences.", "Add `preferences:` to bucle.yaml.")
    path = ws.file(settings.data)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.tables import read_table

        table = read_table(path)
        names = (settings.prompt, settings.chosen, settings.rejected)
        if missing := [n for n in names if n not in table.columns]:
            raise BadInput(f"{path} has no column `{missing[0]}`.", f"Its columns: {', '.join(table.columns)}.")
        places = [table.columns.index(n) for n in names]
        pairs = [
            dict(zip(("prompt", "chosen", "rejected"), (str(row[i] or "") for i in places), strict=True))
            for row in table.rows
        ]
        usable = [p for p in pairs if all(p.values()) and p["chosen"] != p["rejected"]]
        longer = [(len(p["chosen"]) > len(p["rejected"])) for p in usable if len(p["chosen"]) != len(p["rejected"])]
        node = ctx.ledger.put(
            "preferences",
            {"pairs": len(usable), "file": settings.data},
            blobs={"pairs.jsonl": "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in usable).encode()},
        )
        return Outcome(
            {"preferences": node.id},
            {
                "pairs": len(usable),
                "left_out": len(pairs) - len(usable),
                "longer_wins": sum(longer) / len(longer) if longer else None,
            },
        )

    return runner.step(
        "preferences",
        work,
        stage="data",
        params={"columns": settings.model_dump(mode="json"), "sha256": file_sha256(path)},
    )


def read_documents(ws: Workspace, corpus: str) -> list[Document]:
    """The documents of a corpus node."""
    node = ws.ledger.get(corpus)
    return [Document.model_validate_json(line) for line in ws.ledger.read(node, "documents.jsonl").splitlines()]


def task_columns(task: ClassifyTask | AnswerTask) -> dict[str, str]:
    if task.kind == "classify":
        return {
            k: v
            for k, v in (
                ("text", task.text),
                ("label", task.label),
                ("id", task.id),
                ("group", task.group),
                ("time", task.time),
            )
            if v
        }
    return {"question": task.question, "answer": task.answer, "document": task.document}


def _passwords(variable: str) -> dict[str, str]:
    """`path=password` pairs, separated by commas, from an environment variable; never written anywhere."""
    pairs = [pair.partition("=") for pair in os.environ.get(variable, "").split(",")] if variable else []
    return {path.strip(): password for path, _, password in pairs if path.strip() and password}


def _personal(counts: Iterable[Any]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for item in counts:
        total[item.kind] += item.count
    return dict(total.most_common())


def _labels(rows: Iterable[Example]) -> dict[str, int]:
    return dict(Counter(str(r.target) for r in rows if r.target is not None).most_common(200))


def _jsonl(records: Iterable[Document | Example]) -> bytes:
    return "".join(r.model_dump_json() + "\n" for r in records).encode()
