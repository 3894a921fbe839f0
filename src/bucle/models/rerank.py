"""Rerankers: a cross-encoder that reads question and passage together, here or behind an API."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.config import RerankerModel
from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import Reranker
from bucle.models.cpu import bf16_is_fast, prepare_torch
from bucle.models.folder import checked_folder, read_json

__all__ = ["CrossEncoderReranker", "RemoteReranker", "open_reranker"]

log = logging.getLogger("bucle.models")
BATCH = 100
"""Documents in one request; Cohere and Jina take 1,000, small servers less."""
PARALLEL = 4
LONGEST = 20_000
"""Characters of a passage that are sent to an API: more than any reranker reads."""


def open_reranker(settings: RerankerModel) -> Reranker:
    """The reranker that `settings` describe. A local one is opened once a process, and loads at its first question.
    Raises ModelUnavailable or ConfigError."""
    if settings.base_url:
        return RemoteReranker(settings.model or "reranker", settings.base_url, settings.model, settings.api_key_env,
                              settings.timeout_s)
    return _local(settings.path)


@lru_cache(maxsize=2)
def _local(path: str) -> CrossEncoderReranker:
    return CrossEncoderReranker(path)


class CrossEncoderReranker:
    """A Reranker: a sequence-classification model with one label, by folder or Hub name, on the same fast path as
    encoders. Each pair is computed by itself, so its score does not depend on the others. Threads may share it."""

    def __init__(self, name: str | Path, *, threads: int | None = None) -> None:
        self.folder = checked_folder(name)
        self.name = Path(name).name
        labels = read_json(self.folder / "config.json").get("id2label")
        if isinstance(labels, dict) and len(labels) != 1:
            raise ModelUnavailable(f"{self.name} tells {len(labels)} classes apart and is no reranker.",
                                   "give a cross-encoder with one label, such as cross-encoder/ms-marco-MiniLM-L6-v2")
        self._threads = threads
        self._loading = threading.Lock()
        self._scores: Callable[[Sequence[tuple[str, str]]], np.ndarray] | None = None

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, higher is better: the model's own activation (a sigmoid, unless its configuration says
        otherwise)."""
        if not texts:
            return []
        distinct = list(dict.fromkeys(texts))
        scores = self._load()([(question, text) for text in distinct])
        if scores.size != len(distinct) or not np.isfinite(scores).all():
            raise ModelUnavailable(f"{self.name} did not score each passage with one number.",
                                   "give a cross-encoder with one label")
        known = dict(zip(distinct, scores.reshape(-1).tolist(), strict=True))
        return [known[text] for text in texts]

    def _load(self) -> Callable[[Sequence[tuple[str, str]]], np.ndarray]:
        from bucle.models.embedding.convert import NotConverted, load_torch, open_engine

        with self._loading:
            if self._scores is not None:
                return self._scores
            half = bf16_is_fast()
            try:
                self._scores = open_engine(self.folder, "bf16" if half else "fp32", self._threads, pairs=True).alone
            except NotConverted as error:
                log.warning("%s runs in torch, more slowly: %s", self.name, error)
                prepare_torch(self._threads)
                model = load_torch(self.folder, half=half, pairs=True)
                self._scores = lambda pairs: np.asarray(model.predict(list(pairs), batch_size=1,
                                                                      show_progress_bar=False), dtype=np.float64)
            return self._scores


class RemoteReranker:
    """A Reranker over `POST {base_url}/rerank` with `{model, query, documents}`: the wire of Jina, Cohere, vLLM and
    servers like them. `results` (or `data`) may come in any order, each with `index` and `relevance_score` (or
    `score`). Raises UpstreamTimeout, ModelUnavailable, and BadInput for a request that the service refuses."""

    def __init__(self, name: str, base_url: str, model: str, api_key_env: str = "OPENAI_API_KEY",
                 timeout_s: float = 30.0, max_retries: int = 2, *, batch: int = BATCH,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        from bucle.models.endpoint import Endpoint

        self.name, self._batch = name, batch
        self._client = Endpoint(name, base_url, model, api_key_env, timeout_s, max_retries, None, None, sleep, PARALLEL)

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score a text, as the service gives it."""
        if not question.strip():
            raise BadInput("There is no question to rank passages by.", "ask one")
        batches = [texts[at:at + self._batch] for at in range(0, len(texts), self._batch)]
        if len(batches) < 2:
            return [score for batch in batches for score in self._one(question, batch)]
        with ThreadPoolExecutor(min(PARALLEL, len(batches))) as pool:
            return [score for scores in pool.map(lambda batch: self._one(question, batch), batches) for score in scores]

    def close(self) -> None:
        self._client.close()

    def _one(self, question: str, texts: Sequence[str]) -> list[float]:
        reply = self._client.post("/rerank", {
            "model": self._client.model, "query": _sendable(question), "documents": list(map(_sendable, texts)),
            "top_n": len(texts), "return_documents": False})
        found = _scores(reply)
        if found is None or set(found) != set(range(len(texts))):
            told = "without scores" if found is None else f"with {len(found)} scores for {len(texts)} passages"
            raise ModelUnavailable(f"{self.name} answered {told}.",
                                   f"check that {self._client.base_url}/rerank is a Jina- or Cohere-like reranker")
        return [found[place] for place in range(len(texts))]


def _sendable(text: str) -> str:
    """As much as a reranker reads, without half surrogate pairs, and not empty, which services refuse."""
    return text[:LONGEST].encode("utf-8", "replace").decode() or " "


def _scores(reply: Mapping[str, Any]) -> dict[int, float] | None:
    """Score by index; None for anything that is not a list of both, each index once."""
    rows = reply.get("results", reply.get("data"))
    if not isinstance(rows, list):
        return None
    found: dict[int, float] = {}
    for row in rows:
        place = row.get("index") if isinstance(row, dict) else None
        score = row.get("relevance_score", row.get("score")) if isinstance(row, dict) else None
        if not isinstance(place, int) or isinstance(score, bool) or not isinstance(score, int | float) \
                or not math.isfinite(score) or place in found:
            return None
        found[place] = float(score)
    return found
