"""Hugging Face datasets, by Hub name or by folder. Rows of plain tables only: no code of theirs runs, nothing is
unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.sources import HuggingFaceSource
from bucle.data.connect.http import Unreachable

__all__ = ["origin_of", "read"]

_SAFE = {"arrow", "csv", "json", "parquet", "text"}
"""Formats of `datasets` that are tables. Its others read archives, pictures or pickles."""


def origin_of(source: HuggingFaceSource, project: Path) -> str:
    """`hf://datasets/NAME@revision`, or the folder as bucle.yaml names it."""
    if (project / source.path).is_dir():
        return source.path
    return f"hf://datasets/{source.path}" + (f"@{source.revision}" if source.revision else "")


def read(source: HuggingFaceSource, project: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of the split, streamed. Raises BadInput for a dataset that is no table or lacks the split,
    Unreachable where the Hub is away."""
    folder = project / source.path
    try:
        if folder.is_dir() and any((folder / n).is_file() for n in ("state.json", "dataset_dict.json")):
            yield from _saved(source, folder)
        else:
            yield from _streamed(source, folder)
    except (BucleError, Unreachable):
        raise
    except (ConnectionError, TimeoutError) as error:
        raise Unreachable(_told(error)) from None
    except Exception as error:  # `datasets` lets through whatever its readers raise
        if type(error).__module__.startswith(("httpx", "requests", "aiohttp", "huggingface_hub")):
            raise Unreachable(_told(error)) from None
        raise BadInput(
            f"The dataset {source.path} cannot be read: {_told(error)}.", "Check `path`, `config` and `split`."
        ) from None


def _saved(source: HuggingFaceSource, folder: Path) -> Iterator[Mapping[str, Any]]:
    """What `save_to_disk` wrote: Arrow files, mapped into memory."""
    import datasets

    found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.DatasetDict):
        if source.split not in found:
            raise _no_split(source, list(found))
        found = found[source.split]
    for batch in found.with_format(None).iter(batch_size=1000):
        names = list(batch)
        yield from (dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _streamed(source: HuggingFaceSource, folder: Path) -> Iterator[Mapping[str, Any]]:
    import datasets
    from datasets import packaged_modules

    if not folder.is_dir():
        local = source.path.startswith((".", "/", "~")) or source.path.count("/") > 1
        if local or source.path in packaged_modules._PACKAGED_DATASETS_MODULES:
            raise BadInput(f"{folder} is no folder.", "Name a folder of the project, or a dataset as `owner/name`.")
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            raise Unreachable("HF_HUB_OFFLINE forbids asking the Hub")
    builder = datasets.load_dataset_builder(
        str(folder) if folder.is_dir() else source.path, source.config or None, revision=source.revision or None
    )
    module = type(builder).__module__.split(".")
    if module[:2] != ["datasets", "packaged_modules"] or module[2] not in _SAFE:
        raise BadInput(
            f"The dataset {source.path} is no table (it needs the reader `{module[-1]}`).",
            "Give Parquet, JSON lines, CSV or Arrow.",
        )
    splits = [str(name) for name in builder.config.data_files or {}]
    if splits and source.split not in splits:
        raise _no_split(source, splits)
    yield from builder.as_streaming_dataset(source.split)


def _no_split(source: HuggingFaceSource, known: list[str]) -> BadInput:
    return BadInput(f"The dataset {source.path} has no split {source.split!r}.", f"Its splits: {', '.join(known)}.")


def _told(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200].rstrip(".")
