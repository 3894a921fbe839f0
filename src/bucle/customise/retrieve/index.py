"""The index of passages, opened for reading: LanceDB for vectors and for full text in each language's own way.

Nothing here grows with the corpus: what a question needs is read from the disk when it is asked.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, NotFound, WrongEncoder
from bucle.core.ports import Hit
from bucle.core.records import Chunk
from bucle.customise.retrieve import index_rows as layout
from bucle.customise.retrieve.index_build import FORMAT, build_index, identity_of, table_in
from bucle.customise.retrieve.index_lexicon import Lexicon
from bucle.customise.retrieve.index_words import Words
from bucle.data.sentences import sentences

__all__ = ["Hit", "Index", "build_index", "sentences"]

DEPTH = 50
"""Passages that each of the two searches gives to be fused."""
_MASKS = 16  # conditions whose passages are kept in memory
_KEPT = 2000  # sentences' vectors kept in memory
_PROBED = 0.34  # share of the vector index's partitions that are looked into
MAX_QUESTION = 10_000
"""Characters of a question that are searched by words."""
MOST_PATHS = 50_000
"""Paths that one condition names: of the documents that are gone, or of those that are left."""


@dataclass(frozen=True)
class _Today:
    """What holds of the passages' documents at this moment: the labels of a path, the paths that are no document any
    more, and SQL that leaves those out."""

    labels: Mapping[str, frozenset[str]]
    gone: frozenset[str] = frozenset()
    here: str = ""


class Index:
    """An index opened for reading. `encoder` must be the one it was built with; without it, words alone are searched.

    A passage is found only by an asker who holds all of its access labels: inside the searches, so that hidden passages
    cost no hit, and again of every row that comes back. One whose labels cannot be read is nobody's. `labels` are those
    that paths have today: an index may be older than the labels of its documents, and then needs both. Where they have
    `now()`, it is asked at every question. Where what they are has `paths` (not None), those are all the documents of
    today, and a passage of any other is nobody's: who deletes or moves a document closes it in every version.

    `meta` is what build_index returned; `chunks` a mapping of passages by id, read from the disk; what is set in it
    stands in their place in this process only. Raises NotFound where `folder` holds no index.
    """

    def __init__(
        self, folder: Path, encoder: Path | None, *, labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        try:
            self.meta: dict[str, Any] = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise NotFound(f"{folder} holds no index.", "bucle run") from None
        if self.meta.get("format") != FORMAT:
            from bucle.customise.retrieve.index_old import upgraded

            folder = upgraded(folder, self.meta)
            self.meta = json.loads((folder / "index.json").read_text())
        self.encoder = encoder
        self.chunks = _Chunks(self)
        self._audiences = [frozenset(one) for one in json.loads((folder / "audiences.json").read_text("utf-8"))]
        self._labels: Any = {} if labels is None else labels
        self._told: tuple[Any, _Today] = (None, _Today({}))
        self._lexicon, self._own_words = Lexicon.load(folder), Words.load(folder)
        self._masks: OrderedDict[str, Any] = OrderedDict()
        self._withheld: OrderedDict[str, Lexicon] = OrderedDict()
        self._table: Any = table_in(folder / "lance")
        self._passages: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._meanings: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Any:
        """Unit vectors `[len(texts), dimensions]` of questions. Raises BadInput without an encoder, WrongEncoder where
        it is not the one that the index was built with."""
        from bucle.models.encoder import shared_encoder

        if self.encoder is None:
            raise BadInput("This index needs its encoder to search by meaning.", "Add an encoder under `models:`.")
        opened = shared_encoder(self.encoder)
        built, asks = self.meta.get("encoder") or {}, identity_of(opened)
        hint = "Run `bucle run` again: the index is rebuilt for the new encoder."
        if built.get("identity") and asks and built["identity"] != asks:
            raise WrongEncoder(
                f"The index was built by the encoder {built.get('name', 'unknown')} ({built['identity'][:12]}), "
                f"{opened.name} ({asks[:12]}) asks it.",
                hint,
            )
        vectors = opened.embed_alone(texts)
        if vectors.shape[1] != self.meta["dimensions"]:
            raise WrongEncoder(
                f"The index has {self.meta['dimensions']} dimensions, the encoder {vectors.shape[1]}.", hint
            )
        return vectors

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
        """The `k` best passages that a holder of the labels `access` may see, best first. `weight` is the share of
        meaning (1) against words (0) in the fused score; each search gives `depth` passages at least, and its scores
        are put on [0, 1] before fusion. `vector` is the question's, where already known.

        `where` keeps passages by `path` (`*` stands for anything), `language`, `document` (its id) and `heading`.
        Raises BadInput for anything else.
        """
        depth = max(depth, k)
        later = self._later()
        allowed, narrowed = self._condition(access, later), layout.condition(where)
        seen = layout.where_sql(allowed, narrowed)
        if weight > 0 and vector is None:
            vector = self.embed([question])[0]
        if 0 < weight < 1:
            beside = _pool().submit(self._words, question, depth, allowed, narrowed)
            near = self._near(vector, depth, seen)
            words = beside.result()
        else:
            words = self._words(question, depth, allowed, narrowed) if weight < 1 else {}
            near = self._near(vector, depth, seen) if weight > 0 else {}
        fused: dict[int, float] = {}
        for scores, share in ((words, 1 - weight), (near, weight)):
            for row, value in _unit_range(scores).items():
                fused[row] = fused.get(row, 0.0) + share * value
        best = sorted(fused, key=lambda row: (-fused[row], row))
        found = self._rows(best[:k], access, later)
        hits = [Hit(found[row], fused[row], words.get(row), near.get(row)) for row in best[:k] if row in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))

    def get(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        """Passages by id: those of them that are here and that `access` may see."""
        found, later = self._read(ids), self._later()
        return {
            node: chunk
            for node in ids
            if node in found and (chunk := self._shown(found[node], access, later)) is not None
        }

    def written(self, chunk: Chunk) -> Chunk:
        """What stands in the index where something was planted, else `chunk` itself."""
        return layout.chunk_of(self._read([chunk.id])[chunk.id]) if chunk.id in self.chunks.planted else chunk

    def count(self, access: frozenset[str] = frozenset()) -> int:
        """How many passages a holder of `access` may see."""
        return int(self._table.count_rows(self._condition(access, self._later()) or None))

    def visible(self, chunk_id: str, access: frozenset[str] = frozenset()) -> bool:
        """Whether a holder of `access` may see a passage; False for one that is not in this index."""
        return bool(self.get([chunk_id], access))

    def sentences(self, chunk_id: str, access: frozenset[str] = frozenset()) -> list[str]:
        """The sentences of one passage, as they were cut when the index was built; none of one that `access` may not
        see."""
        return self.sentences_of([chunk_id], access).get(chunk_id, [])

    def sentences_of(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, list[str]]:
        """The sentences of several passages, read at once: of those that are here and that `access` may see."""
        found, later = self._read(ids), self._later()
        return {
            node: list(found[node]["spans"] or ())
            for node in ids
            if node in found and self._shown(found[node], access, later) is not None
        }

    def support(
        self,
        question: str,
        spans: Sequence[str],
        *,
        weight: float,
        vector: Any = None,
        access: frozenset[str] = frozenset(),
    ) -> Any:
        """How well each sentence of the index supports the question, `[len(spans)]` in [0, 1]: its TF-IDF cosine mixed
        with its embedding's, by `weight`. How rare a word is, is reckoned from what `access` may see."""
        import numpy as np

        support = np.zeros(len(spans))
        if weight < 1:
            audiences, less = self._reckoned(access)
            support = self._lexicon.support(question, spans, audiences, less) * (1 - weight)
        if weight == 0 or not len(spans):
            return support
        with self._lock:
            known = {span: self._meanings[span] for span in spans if span in self._meanings}
        missing = [span for span in dict.fromkeys(spans) if span not in known]
        if missing:  # none of a passage that was just read
            known.update(zip(missing, self.embed(missing), strict=True))
        return support + weight * (np.stack([known[span] for span in spans]).astype(np.float32) @ vector)

    @property
    def every_label(self) -> frozenset[str]:
        """All labels that passages of this version have: who holds them sees it whole, where no others came since."""
        return frozenset().union(*self._audiences)

    def _later(self) -> _Today:
        """What holds today; made anew when the labels or the documents are others."""
        now = self._labels.now() if hasattr(self._labels, "now") else self._labels
        told = self._told
        if told[0] is not now:
            labels = {path: frozenset(own) for path, own in now.items() if own}
            self._told = told = (now, _Today(labels, *self._gone(getattr(now, "paths", None))))
        return told[1]

    def _gone(self, present: Collection[str] | None) -> tuple[frozenset[str], str]:
        """The paths of this index that are none of `present`, and SQL that leaves them out."""
        if present is None:
            return frozenset(), ""
        import pyarrow.compute as pc

        every = frozenset(pc.unique(self._table.search().select(["path"]).to_arrow()["path"]).to_pylist())
        gone = every.difference(present)
        if not gone:
            return gone, ""
        left = every - gone
        if min(len(gone), len(left)) > MOST_PATHS:
            raise BadInput(
                f"Of the {len(every):,} documents of this index {len(gone):,} are gone: too many to leave out.",
                "bucle run makes the index of today's documents; releases on this one can only be replaced.",
            )
        return gone, layout.among("path", gone, out=True) if len(gone) <= len(left) else layout.among("path", left)

    def _condition(self, access: frozenset[str], later: _Today) -> str:
        """SQL that leaves only what `access` may see. Labels never stand in it: only numbers, and paths of documents
        that got a label since or are gone. Empty where all may be seen."""
        seen = [number for number, labels in enumerate(self._audiences) if labels <= access]
        parts = [] if len(seen) == len(self._audiences) else [f"audience IN ({', '.join(map(str, [-1, *seen]))})"]
        if hidden := [path for path, labels in later.labels.items() if not labels <= access]:
            parts.append(layout.among("path", hidden, out=True))
        return layout.where_sql(*parts, later.here)

    def _shown(self, row: Mapping[str, Any], access: frozenset[str], later: _Today) -> Chunk | None:
        """The passage in a row, if `access` may see it: by its own labels, by its audience, by today's, and while its
        document is there."""
        try:
            chunk = layout.chunk_of(row)
            audience = self._audiences[row["audience"]] if row["audience"] >= 0 else None
        except (ValueError, TypeError, IndexError, KeyError):
            return None
        needed = {*chunk.access} | later.labels.get(chunk.path, frozenset())
        if audience is None or chunk.path in later.gone or not (audience | needed) <= access:
            return None
        return self.chunks.planted.get(chunk.id, chunk)

    def _words(self, question: str, depth: int, allowed: str, narrowed: str) -> dict[int, float]:
        """Row number -> BM25 score, the best of the languages'. LanceDB's where all may be seen; else reckoned from
        what is `allowed` alone, so that no score tells of what is hidden."""
        from lancedb.query import MatchQuery

        asked = layout.folded(question[:MAX_QUESTION])
        best: dict[int, float] = {}
        if not any(c.isalnum() for c in asked):
            return best
        if allowed:
            seen = self._mask(allowed)
            wanted = seen & self._mask(narrowed) if narrowed else seen
            return self._own_words.search(asked, self.meta["columns"], depth, seen, wanted)
        for column in self.meta["columns"]:
            query = self._table.search(MatchQuery(asked, f"words_{column}"), query_type="fts")
            rows = _narrowed(query, narrowed).select(["_score"]).with_row_id(True).limit(depth).to_arrow()
            for row, score in zip(rows["_rowid"].to_pylist(), rows["_score"].to_pylist(), strict=True):
                best[row] = max(score, best.get(row, score))
        return best

    def _mask(self, condition: str) -> Any:
        """Which passages a condition leaves; the latest are kept, because a version never changes."""
        with self._lock:
            if condition in self._masks:
                self._masks.move_to_end(condition)
                return self._masks[condition]
        rows = self._table.search().where(condition).select(["audience"]).with_row_id(True).to_arrow()
        mask = self._own_words.mask(rows["_rowid"].to_numpy())
        with self._lock:
            self._masks[condition] = mask
            while len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return mask

    def _reckoned(self, access: frozenset[str]) -> tuple[list[int], Lexicon | None]:
        """The audiences that `access` may see, and what is to be taken off their counts: passages that are hidden for
        another reason, their documents' labels of today."""
        later = self._later()
        audiences = [number for number, labels in enumerate(self._audiences) if labels <= access]
        allowed = self._condition(access, later)
        if allowed == self._condition(access, _Today({})):
            return audiences, None
        with self._lock:
            less = self._withheld.get(allowed)
        if less is None:
            seen = f"audience IN ({', '.join(map(str, audiences))})" if audiences else "false"
            rows = self._own_words.numbers[self._mask(seen) & ~self._mask(allowed)]
            texts = []
            if len(rows):
                found = self._table.take_row_ids(rows.tolist()).select(["heading", "text"]).to_arrow()
                texts = [layout.searchable(row["heading"], row["text"]) for row in found.to_pylist()]
            less = Lexicon.empty().changed({0: texts})
            with self._lock:
                self._withheld[allowed] = less
                while len(self._withheld) > _MASKS:
                    self._withheld.popitem(last=False)
        return audiences, less

    def _near(self, vector: Any, depth: int, condition: str) -> dict[int, float]:
        """Row number -> cosine."""
        query = self._table.search(vector).distance_type("cosine")
        if self.meta["vectors"] != "flat":
            probes = max(1, round(_PROBED * self.meta["chunks"] ** 0.5))
            query = query.nprobes(probes).refine_factor(1)
            if condition:  # what a narrow filter leaves may stand in any partition
                query = query.maximum_nprobes(0)
        rows = _narrowed(query, condition).select(["_distance"]).with_row_id(True).limit(depth).to_arrow()
        numbers, distances = rows["_rowid"].to_pylist(), rows["_distance"].to_pylist()
        return {row: 1.0 - distance for row, distance in zip(numbers, distances, strict=True)}

    def _rows(self, numbers: Sequence[int], access: frozenset[str], later: _Today) -> dict[int, Chunk]:
        """Passages by row number, of those that `access` may see."""
        if not numbers:
            return {}
        taken = self._table.take_row_ids(list(numbers)).select(list(layout.FIELDS)).with_row_id().to_arrow()
        shown = {row["_rowid"]: self._shown(row, access, later) for row in taken.to_pylist()}
        return {number: chunk for number, chunk in shown.items() if chunk is not None}

    def _read(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows by id with their sentences, whoever may see them; the latest ones are kept in memory."""
        import numpy as np

        with self._lock:
            held = {node: self._passages[node] for node in ids if node in self._passages}
        missing = [node for node in dict.fromkeys(ids) if node not in held]
        for at in range(0, len(missing), 500):
            listed = ", ".join("'" + node.replace("'", "''") + "'" for node in missing[at : at + 500])
            query = self._table.search().where(f"id IN ({listed})")
            for row in query.select([*layout.FIELDS, "spans", "meanings"]).to_arrow().to_pylist():
                meanings = np.frombuffer(row.pop("meanings") or b"", dtype=np.float16)
                held[row["id"]] = row
                self._remember(row, meanings.reshape(-1, self.meta["dimensions"]))
        return held

    def _remember(self, row: dict[str, Any], meanings: Any) -> None:
        with self._lock:
            self._passages[row["id"]] = row
            self._meanings.update(zip(row["spans"] or (), meanings, strict=False))
            while len(self._meanings) > _KEPT and len(self._passages) > 1:
                _, old = self._passages.popitem(last=False)
                for span in old["spans"] or ():
                    self._meanings.pop(span, None)

    def _ids(self) -> Iterator[str]:
        for batch in self._table.search().select(["id"]).to_batches():
            yield from batch["id"].to_pylist()


class _Chunks(MutableMapping[str, Chunk]):
    """Every passage of an index by id, whatever its labels: for lineage and red teams, not for whoever asks. What a red
    team plants in one stands in its place until it is put back; nothing is written."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.planted: dict[str, Chunk] = {}

    def __getitem__(self, key: str) -> Chunk:
        return self.planted.get(key) or layout.chunk_of(self._index._read([key])[key])

    def __setitem__(self, key: str, value: Chunk) -> None:
        if key not in self:
            raise KeyError(key)
        self.planted[key] = value

    def __delitem__(self, key: str) -> None:
        del self.planted[key]

    def __iter__(self) -> Iterator[str]:
        return self._index._ids()

    def __len__(self) -> int:
        return int(self._index.meta["chunks"])


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that search by words while the caller searches by meaning."""
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="words")


def _narrowed(query: Any, condition: str) -> Any:
    return query.where(condition, prefilter=True) if condition else query


def _unit_range(scores: Mapping[int, float]) -> dict[int, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {row: (value - low) / (high - low) if high > low else 1.0 for row, value in scores.items()}
