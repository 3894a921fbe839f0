"""Whatever file of another tool's evaluation: which tool's it is, and what it says."""

from __future__ import annotations

from pathlib import Path

from bucle.core.errors import BadInput, NotFound
from bucle.evaluate.interop.imported import Imported
from bucle.evaluate.interop.inspect_log import looks_like_inspect, read_eval
from bucle.evaluate.interop.inspect_log import read_json as read_inspect
from bucle.evaluate.interop.lm_results import looks_like_lm_eval, read_results
from bucle.evaluate.interop.untrusted import json_file

__all__ = ["read_evaluations"]

_HINT = "Give a .eval or .json log of Inspect, a results_*.json of lm-evaluation-harness, or a folder of them."
_MOST_FILES = 1_000


def read_evaluations(path: Path, bad: list[tuple[str, str]] | None = None) -> list[Imported]:
    """The evaluations in a file, or in every file of a folder that is one, oldest name first. Of a folder's files that
    cannot be read the names and reasons are put into `bad`, where it is given. Raises NotFound and BadInput."""
    if path.is_dir():
        files = _in_folder(path)
        if not files:
            raise BadInput(f"{path} holds no evaluation.", _HINT)
        found = []
        for file in files:
            try:
                found += read_evaluations(file)
            except BadInput as error:
                if bad is None:
                    raise
                bad.append((str(file.relative_to(path)), error.message))
        return found
    if not path.is_file():
        raise NotFound(f"{path} does not exist.", _HINT)
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty.", _HINT)
    if path.suffix == ".eval":
        return [read_eval(path)]
    if path.suffix == ".jsonl":
        raise BadInput(f"{path.name} holds samples without their results.", "Give the results_*.json beside it.")
    if path.suffix != ".json":
        raise BadInput(f"{path} is no evaluation that Bucle reads.", _HINT)
    value = json_file(path)
    if looks_like_inspect(value):
        return [read_inspect(value, path)]
    if looks_like_lm_eval(value):
        return read_results(value, path)
    raise BadInput(f"{path} is no evaluation that Bucle knows.", _HINT)


def _in_folder(path: Path) -> list[Path]:
    root, found = path.resolve(), []
    for one in sorted(path.rglob("*")):
        wanted = one.suffix == ".eval" or (one.suffix == ".json" and one.name != "logs.json")
        if wanted and one.is_file() and one.resolve().is_relative_to(root):  # a link must not lead out
            if one.suffix == ".json" and not one.name.startswith("results_") and not _is_log(one):
                continue
            found.append(one)
            if len(found) > _MOST_FILES:
                raise BadInput(f"{path} holds over {_MOST_FILES:,} evaluations.", "Give a folder of fewer.")
    return found


def _is_log(path: Path) -> bool:
    """Whether a .json in a folder is an Inspect log, by its beginning."""
    with path.open("rb") as file:
        head = file.read(4096)
    return b'"status"' in head and b'"eval"' in head
