"""An encoder behind an OpenAI-compatible API: a folder that holds `remote.json`, and no weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bucle.core.errors import BucleError, ConfigError, ModelUnavailable
from bucle.core.ids import canonical_json, sha256_hex
from bucle.models.encoder import Kept
from bucle.models.folder import read_json
from bucle.models.remote import OpenAIEmbedder

__all__ = ["RemoteEncoder"]

PARALLEL = 8
"""Batches on their way at once."""
BATCH = 64
BATCH_CHARACTERS = 400_000
"""OpenAI allows 2,048 texts and 300,000 tokens a request: about three characters a token leave room for both."""


class RemoteSettings(BaseModel):
    """What `remote.json` says. `dimensions` 0: as many as the first reply has; `name`: what bucle.yaml calls it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(min_length=1)
    model: str = Field(min_length=1)
    name: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(60, gt=0)
    dimensions: int = Field(0, ge=0, le=65_536)


class RemoteEncoder(Kept):
    """The encoder that `folder/remote.json` names. `identity` is its address and name: its weights cannot be seen.

    Raises UpstreamTimeout, ModelUnavailable or BadInput; what was embedded before a call failed is in `cache`.
    `embed_alone` sends each text by itself.
    """

    def __init__(self, folder: Path, *, cache: Path | None = None, max_retries: int = 2, batch: int = BATCH,
                 sleep: Callable[[float], None] | None = None) -> None:
        try:
            settings = RemoteSettings.model_validate(read_json(folder / "remote.json"))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{folder / 'remote.json'}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
                              "give base_url, model, and where needed api_key_env, timeout_s, dimensions") from error
        self.folder, self.name, self.dimensions = folder, settings.model, settings.dimensions
        self.identity = sha256_hex(canonical_json([settings.base_url.rstrip("/"), settings.model, settings.dimensions]))
        self._cache, self._batch = cache, batch
        more: dict[str, Any] = {} if sleep is None else {"sleep": sleep}
        self._client = OpenAIEmbedder(settings.name or settings.model, settings.base_url, settings.model,
                                      settings.api_key_env, settings.timeout_s, max_retries,
                                      dimensions=settings.dimensions, batch=batch, **more)

    def close(self) -> None:
        self._client.close()

    def embed_kept(self, texts: Sequence[str], cache: Path) -> np.ndarray:
        other = copy.copy(self)  # an error says that what was made is kept
        other._cache = cache
        made = other.embed_array(texts)
        self.dimensions = other.dimensions
        return made

    def _key(self) -> str:
        return f"{self.identity} remote"

    def _compute(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        return self._sent(list(_batches(texts, self._batch)))

    def _compute_alone(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        return self._sent([[text] for text in texts])

    def _sent(self, batches: Sequence[Sequence[str]]) -> Iterator[tuple[Sequence[str], np.ndarray]]:
        """Batches as they come back. After a failure no further one is sent; those on their way are still taken."""
        failed: BucleError | None = None
        done = 0
        with ThreadPoolExecutor(max(1, min(PARALLEL, len(batches)))) as pool:
            try:
                futures = {pool.submit(self._one, batch): batch for batch in batches}
                for future in as_completed(futures):
                    if future.cancelled():
                        continue
                    try:
                        vectors = self._checked(future.result())
                    except BucleError as error:
                        failed = failed or error
                        for other in futures:
                            other.cancel()
                        continue
                    done += len(vectors)
                    yield futures[future], vectors
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # when the caller stops, nothing more is sent
        if failed is not None:
            total = sum(map(len, batches))
            kept = "and kept: the next call asks for the others only" if self._cache else "and lost with this call"
            failed.hint = f"{failed.hint} ({done} of {total} texts were embedded, {kept})".strip()
            raise failed

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        self.dimensions = self.dimensions or vectors.shape[1]
        if vectors.shape[1] != self.dimensions:
            raise ModelUnavailable(
                f"{self.name} answered {vectors.shape[1]} dimensions instead of {self.dimensions}",
                "the model behind this name is another one: correct the encoder in bucle.yaml")
        return vectors

    def _one(self, batch: Sequence[str]) -> np.ndarray:
        # APIs refuse an empty text, and half a surrogate pair cannot be sent.
        sent = [text.encode("utf-8", "replace").decode() or " " for text in batch]
        return np.asarray(self._client.embed(sent), dtype=np.float32)


def _batches(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == most or size + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
