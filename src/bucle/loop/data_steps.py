"""The data stage after reading: rows split without leakage and explored, preference pairs. Each a step, each a node."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from bucle.core.errors import BadInput
from bucle.core.ids import file_sha256
from bucle.core.records import Example
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.sides import Sides
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.data.split import Split

__all__ = ["explore_step", "preferences_step", "split_step"]

MIN_DOCUMENTS = 10
"""With questions about fewer documents than this, a side of whole documents would measure one document's luck."""
_SHOWN = 200


def split_step(
    ws: Workspace, runner: Runner, name: str, dataset: str, *, version: int = 1, previous: str = ""
) -> StepRecord:
    """Train, validation and test rows; rows of one group, or about one of MIN_DOCUMENTS documents and more, go
    together. Rows that ever stood in `previous` or in a split it followed keep their side; where none is given, those
    of the split that was made last of the task's earlier rows with the same settings."""
    task = ws.config.tasks[name]
    settings = task.split or ws.config.split
    recipe = {**settings.model_dump(), "seed": ws.config.seed}
    previous = previous or _split_before(ws, name, dataset, recipe)

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.kinds import plain
        from bucle.data.split import Side, split_columns

        ids: list[str] = []
        texts: list[str] = []
        labels: list[str | None] = []
        groups: list[str] = []
        documents: list[str] = []
        times: list[str] = []
        for line in ws.row_lines(dataset):
            row = json.loads(line)
            ids.append(row["id"])
            texts.append(plain(task.kind, row["input"]))
            labels.append(None if row["target"] is None else sys.intern(row["target"]))
            groups.append(sys.intern(row["group"]))
            documents.append(sys.intern(row["document"].partition(";")[0]))
            times.append(row["at"] if settings.by == "time" else "")
        if len(set(documents)) > MIN_DOCUMENTS:  # one source, one side
            groups = [group or document for group, document in zip(groups, documents, strict=True)]
        made = split_columns(
            ids,
            texts,
            labels=labels if task.kind == "classify" else None,
            groups=groups,
            times=times,
            test=settings.test,
            validation=settings.validation,
            seed=ws.config.seed,
            near_duplicate_threshold=ws.config.data.near_duplicates,
            by=settings.by,
            previous=cast("dict[str, Side]", ws.sides_ever(previous, ids)),
            report=ctx.report,
        )
        rows = len(ids)
        del ids, texts, labels, groups, documents, times
        parts = {"train": made.train, "validation": made.validation, "test": made.test}
        if not parts["test"] or not parts["train"]:
            raise BadInput(*_unsplit(name, rows, made, ws.config.data.near_duplicates))
        with (ctx.work / "split.json").open("w", encoding="utf-8") as file:
            json.dump(parts, file)
        node = ctx.ledger.put(
            "split",
            {"task": name, "version": version, "recipe": recipe, **{k: len(v) for k, v in parts.items()}},
            parents=[("dataset", dataset), *([("previous", previous)] if previous else [])],
            blobs={"split.json": ctx.work / "split.json"},
        )
        figures = {k: len(v) for k, v in parts.items()} | {
            "leaks_prevented": made.leaks_prevented,
            "excluded": len(made.excluded),
            "excluded_list": _excluded(ws, dataset, made.excluded[:_SHOWN]),
        }
        told = [f"{k} {len(v)}" for k, v in parts.items()]
        if made.excluded:
            told.append(f"excluded {len(made.excluded)}")
        return Outcome({"split": node.id}, figures, " / ".join(told))

    return runner.step(
        f"split {name}" + (f" v{version}" if version > 1 else ""),
        work,
        stage="data",
        version=3,
        params={"split": recipe, "near": ws.config.data.near_duplicates},
        inputs={"dataset": dataset, "previous": previous},
    )


def _unsplit(name: str, rows: int, made: Split, near_duplicates: float) -> tuple[str, str]:
    """Why rows have no train or no test side, and what to do."""
    told = "only row" if rows == 1 else f"{rows} rows"
    fact = f"The {told} of `{name}` cannot be split into train and test"
    if made.alike > rows / 2:
        return (
            f"{fact}: {made.alike} of them are nearly the same text, and such rows go to one side together.",
            f"If they are different, raise `data.near_duplicates` (now {near_duplicates:g}) in bucle.yaml: at 1 only "
            "equal texts stay together. If not, add rows that differ.",
        )
    if made.together > rows / 2:
        return (
            f"{fact}: {made.together} of them are of one group or document, and such rows go to one side together.",
            "Add rows of other groups, or change `group:` or `split:` in bucle.yaml.",
        )
    return f"{fact}.", "Add rows, or change `split:` in bucle.yaml."


def _excluded(ws: Workspace, dataset: str, excluded: Collection[str]) -> list[dict[str, str]]:
    """Where the rows stand that the split left out, as the other rows with a problem are told."""
    left = set(excluded)
    found = []
    for line in ws.row_lines(dataset) if left else ():
        row = json.loads(line)
        if row["id"] in left:
            detail = f"{row['id']}: its group and its near copies are on different sides"
            found.append({"source": row["source"], "reason": "excluded-from-split", "detail": detail})
    return found


def _split_before(ws: Workspace, task: str, dataset: str, recipe: Mapping[str, Any]) -> str:
    """The split whose sides the rows of `dataset` keep: what its own split of this recipe started from, if there is
    one; else the last one made of the task's rows as they come from their source; empty for the first."""
    known = [
        node
        for node in ws.ledger.nodes("split")
        if node.attrs["task"] == task and node.attrs["version"] == 1 and node.attrs.get("recipe") == recipe
    ]
    for node in known:
        parents = {edge.role: edge.parent for edge in ws.ledger.parents(node.id)}
        if parents["dataset"] == dataset:
            return parents.get("previous", "")
    return known[-1].id if known else ""


def explore_step(ws: Workspace, runner: Runner, name: str, dataset: str, split: str) -> StepRecord:
    """What the rows look like: lengths, languages, balance, doubtful labels, leakage, personal data."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.explore import explore_examples

        sides = Sides(json.loads(ws.ledger.read(ws.ledger.get(split), "split.json")))
        rows = (Example.model_validate_json(line) for line in ws.row_lines(dataset))
        near, kind = ws.config.data.near_duplicates, ws.config.tasks[name].kind
        return Outcome(
            {}, explore_examples(rows, sides, kind=kind, near_duplicate_threshold=near, report=ctx.report)
        )

    return runner.step(
        f"explore {name}",
        work,
        stage="data",
        version=3,
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
