"""Another library's vector store behind the index: Chroma, Weaviate, Pinecone, pgvector and any that LangChain has.

    # stores.py beside bucle.yaml, asked for as `retrieval: {store: "stores:chroma"}`
    def chroma(embeddings, folder):
        from langchain_chroma import Chroma
        return Chroma("bucle", embedding_function=embeddings, persist_directory=str(folder / "chroma"))

The store finds by meaning. The packaged index stays beside it (the folder that holds `store.json`): it finds by words,
holds the sentences that are quoted, and is what every hit of the store is checked against. A hit counts only where its
metadata name a passage of this very version (id, text, labels and encoder); text, labels and score are the index's own,
never the store's. So whatever the store does with a filter, a passage is seen by holders of its labels only.

What is written is never changed: an entry's id is the hash of what it holds, so versions stand beside each other, and
`build_store` adds all that is new before it deletes what neither it nor a version of `keep` needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, ConfigError
from bucle.core.ports import Hit, LoadContext
from bucle.core.records import Chunk
from bucle.customise.retrieve.index import DEPTH, Index
from bucle.customise.retrieve.index_rows import condition
from bucle.customise.retrieve.store_build import SETTINGS, build_store, refill_store, store_key
from bucle.customise.retrieve.store_entries import (
    AUDIENCE,
    ENTRY,
    PASSAGE,
    asking,
    embeddings,
    entry_of,
    made,
    present,
    vectors_of,
)

__all__ = ["StoreIndex", "build_store", "open_store", "refill_store", "store_key"]

MOST = 20_000  # hits of one search that are looked through for passages that may be seen
GROWTH = 4
MONGO = frozenset({"Chroma", "PineconeVectorStore", "PGVector"})
"""Stores whose `filter` is known to understand `{"key": {"$in": [...]}}`; others are searched without one."""


def open_store(folder: Path, ctx: LoadContext) -> StoreIndex:
    """The index in `folder` with the store that it names. Raises ConfigError (no trust, no factory), and BadInput where
    the store does not hold this version (any more): it changes in place, unlike a version of the packaged index."""
    told = json.loads((folder / SETTINGS).read_text("utf-8"))
    inner = Index(folder, ctx.encoder, labels=ctx.extra.get("labels"))
    if ctx.project is None:
        raise ConfigError(f"The vector store {told['factory']} needs the project's folder.", "Open it in its project.")
    if ctx.encoder is None:
        raise BadInput("A vector store needs its encoder.", "Add an encoder under `models:`.")
    store = made(str(told["factory"]), ctx.project, ctx.trusted, embeddings(ctx.encoder))
    sample = list(told["sample"])
    there = present(store, sample)
    lacking = len(sample) - len(there & set(sample)) if there is not None else 0
    if lacking:
        raise BadInput(
            f"The vector store {told['factory']} lacks {lacking} of {len(sample)} passages looked up, of this index's "
            f"{told['count']}: it was emptied, is another one, or has moved on. A store changes in place, so a past "
            "version of it cannot be opened.",
            "bucle run puts today's passages into it again; past versions need the packaged index.")
    return StoreIndex(inner, store, told, folder)


class StoreIndex:
    """Implements SearchIndex, and what quoting and generation use of the packaged index besides."""

    def __init__(self, inner: Any, store: Any, told: Mapping[str, Any], folder: Path) -> None:
        self.inner, self.store, self._told, self._folder = inner, store, told, folder

    @property
    def meta(self) -> Any:
        return self.inner.meta

    @property
    def chunks(self) -> Mapping[str, Chunk]:
        return self.inner.chunks

    def search(
        self,
        question: str,
        *,
        k: int,
        weight: float,
        vector: Any = None,
        access: frozenset[str] = frozenset(),
        where: Mapping[str, str] | None = None,
        depth: int = DEPTH,
    ) -> list[Hit]:
        """As the packaged index's search, where the store finds by meaning."""
        condition(where)  # raises for what it cannot narrow by
        depth = max(depth, k)
        words: dict[str, float] = {}
        chunks: dict[str, Chunk] = {}
        if weight < 1:
            for hit in self.inner.search(question, k=depth, weight=0.0, access=access, where=where):
                words[hit.chunk.id], chunks[hit.chunk.id] = hit.words or 0.0, hit.chunk
        meaning: dict[str, float] = {}
        if weight > 0:
            vector = self.embed([question])[0] if vector is None else vector
            near = {chunk.id: chunk for chunk in self._nearest(vector, depth, access, where)}
            meaning = self._cosines(vector, list(near))
            chunks |= near
        fused: dict[str, float] = {}
        for scores, share in ((words, 1 - weight), (meaning, weight)):
            for name, value in _unit_range(scores).items():
                fused[name] = fused.get(name, 0.0) + share * value
        best = sorted(fused.items(), key=lambda one: (-one[1], one[0]))[:k]
        return [Hit(chunks[name], score, words.get(name), meaning.get(name)) for name, score in best]

    def get(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        return self.inner.get(ids, access)

    def count(self, access: frozenset[str] = frozenset()) -> int:
        return int(self.inner.count(access))

    def visible(self, chunk_id: str, access: frozenset[str] = frozenset()) -> bool:
        return bool(self.inner.visible(chunk_id, access))

    def embed(self, texts: Sequence[str]) -> Any:
        return self.inner.embed(texts)

    def sentences(self, chunk_id: str, access: frozenset[str] = frozenset()) -> list[str]:
        return list(self.inner.sentences(chunk_id, access))

    def sentences_of(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, list[str]]:
        return dict(self.inner.sentences_of(ids, access))

    def support(
        self,
        question: str,
        spans: Sequence[str],
        *,
        weight: float,
        vector: Any = None,
        access: frozenset[str] = frozenset(),
    ) -> Any:
        return self.inner.support(question, spans, weight=weight, vector=vector, access=access)

    def _nearest(
        self, vector: Any, depth: int, access: frozenset[str], where: Mapping[str, str] | None
    ) -> list[Chunk]:
        """Up to `depth` passages that may be seen, nearest first: as many hits are asked for as that takes."""
        asked = [float(x) for x in vector]
        narrowed, wanted = self._filter(access), depth
        with asking(str(self._told["factory"])):
            while True:
                found = self.store.similarity_search_by_vector(asked, k=wanted, **narrowed)
                seen = self._checked(found, access, where)
                if len(seen) >= depth or len(found) < wanted or wanted >= MOST:
                    return list(seen.values())[:depth]
                wanted = min(wanted * GROWTH, MOST)

    def _checked(
        self, documents: Sequence[Any], access: frozenset[str], where: Mapping[str, str] | None
    ) -> dict[str, Chunk]:
        """Those of the store's hits that are passages of this version which `access` may see, by id."""
        told = [getattr(one, "metadata", None) or {} for one in documents]
        named = [str(one[PASSAGE]) for one in told if PASSAGE in one and ENTRY in one]
        here = self.inner.get(list(dict.fromkeys(named)), access)
        seen: dict[str, Chunk] = {}
        for one in told:
            chunk = here.get(str(one.get(PASSAGE)))
            if chunk is not None and one.get(ENTRY) == entry_of(
                    self.inner.written(chunk), str(self._told["encoder"])) and _matches(chunk, where):
                seen.setdefault(chunk.id, chunk)
        return seen

    def _filter(self, access: frozenset[str]) -> dict[str, Any]:
        """What tells the store to leave out passages that may not be seen, where it understands it; only to save hits:
        each is checked again."""
        audiences = self._told["audiences"]
        allowed = [name for name, labels in audiences.items() if set(labels) <= access]
        if len(allowed) == len(audiences):
            return {}
        kind = type(self.store).__name__
        if kind in MONGO:
            return {"filter": {AUDIENCE: {"$in": allowed}}}
        if kind == "InMemoryVectorStore":
            return {"filter": lambda document: document.metadata.get(AUDIENCE) in allowed}
        return {}

    def _cosines(self, vector: Any, ids: list[str]) -> dict[str, float]:
        own = vectors_of(self._folder, ids) if ids else {}
        return {name: float(own[name] @ vector) for name in ids if name in own}


def _matches(chunk: Chunk, where: Mapping[str, str] | None) -> bool:
    own = {"path": chunk.path, "language": chunk.language, "document": chunk.document_id, "heading": chunk.heading}
    return all(_like(own[key], value) if key == "path" else own[key] == value for key, value in (where or {}).items())


def _like(text: str, pattern: str) -> bool:
    """Whether `text` is `pattern`, in which `*` stands for anything; in time proportional to both."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(first) or len(text) < len(first) + len(rest[-1]) or not text.endswith(rest[-1]):
        return False
    at, end = len(first), len(text) - len(rest[-1])
    for piece in rest[:-1]:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _unit_range(scores: Mapping[str, float]) -> dict[str, float]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {name: (value - low) / (high - low) if high > low else 1.0 for name, value in scores.items()}
