"""The index of passages: LanceDB for vectors and language-aware full text, TF-IDF beside it to score sentences."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, WrongEncoder
from bucle.core.ports import Hit, Report
from bucle.core.records import Chunk
from bucle.data.sentences import sentences

__all__ = ["Hit", "Index", "build_index", "sentences"]

# Full-text stemmers of the index by ISO code; others get no stemming.
_STEMMERS = {"es": "Spanish", "en": "English", "pt": "Portuguese", "fr": "French", "de": "German", "it": "Italian"}


def build_index(
    chunks: Sequence[Chunk], out: Path, *, encoder: Path, language: str, report: Report, previous: Path | None = None
) -> dict[str, Any]:
    """Write an index of `chunks` into the empty folder `out`; returns its size and dimensions.

    The heading stands before each passage's text in both searches. `audience` numbers the distinct sets of access
    labels, so that a search can leave out what the asker may not see. Raises BadInput when there is nothing to index.
    """
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS

    from bucle.customise.classic.features import fit_tfidf, save_arrays, save_tfidf
    from bucle.models.encoder import shared_encoder

    if not chunks:
        raise BadInput(
            "There is no passage to index: no document could be read.", "bucle data quarantine lists the reasons."
        )
    texts = [_searchable(c) for c in chunks]
    report(0, 3, "embedding")
    vectors = shared_encoder(encoder).embed_array(texts)
    report(1, 3, "indexing")
    dimensions = int(vectors.shape[1])
    audiences = _audiences(chunks)
    columns = pa.table(
        {
            "id": pa.array([c.id for c in chunks]),
            "text": pa.array([_folded(text) for text in texts]),
            "path": pa.array([c.path for c in chunks]),
            "heading": pa.array([c.heading for c in chunks]),
            "language": pa.array([c.language for c in chunks]),
            "document": pa.array([c.document_id for c in chunks]),
            "audience": pa.array([audiences[c.access] for c in chunks], pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), dimensions),
        }
    )
    table = lancedb.connect(str(out / "lance")).create_table("chunks", columns)
    stemmer = _STEMMERS.get(language)
    words = FTS(
        language=stemmer or "English",
        stem=stemmer is not None,
        ascii_folding=True,
        remove_stop_words=stemmer is not None,
    )
    table.create_index("text", config=words)
    report(2, 3, "indexing")
    save_tfidf(fit_tfidf(texts), out)
    (out / "chunks.jsonl").write_text("".join(c.model_dump_json() + "\n" for c in chunks))
    cut = {c.id: sentences(c.text) for c in chunks}
    spans = list(dict.fromkeys(s for own in cut.values() for s in own))
    row = {span: i for i, span in enumerate(spans)}
    of = {chunk: [row[s] for s in own] for chunk, own in cut.items()}
    (out / "sentences.json").write_text(json.dumps({"spans": spans, "of": of}, ensure_ascii=False))
    save_arrays({"vectors": shared_encoder(encoder).embed_array(spans)}, out / "sentences.safetensors")
    opened = shared_encoder(encoder)
    meta = {
        "chunks": len(chunks),
        "dimensions": dimensions,
        "language": language,
        "languages": sorted({c.language or language for c in chunks}),
        "encoder": {"name": opened.name, "identity": getattr(opened, "identity", "")},
        "added": len(chunks),
        "removed": 0,
        "kept": 0,
    }
    (out / "index.json").write_text(json.dumps(meta))
    return meta


class Index:
    """An index opened for reading. `encoder` must be the one it was built with.

    A passage is found only by an asker who holds all of its access labels. `labels` are those that paths have today:
    an index may be older than the labels of its documents, and then needs both.
    """

    def __init__(
        self, folder: Path, encoder: Path | None, *, labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        import lancedb

        from bucle.customise.classic.features import load_arrays, load_tfidf, tfidf_matrix

        self.meta = json.loads((folder / "index.json").read_text())
        self.chunks = {
            c.id: c for c in map(Chunk.model_validate_json, (folder / "chunks.jsonl").read_bytes().splitlines())
        }
        self.vectorizers = load_tfidf(folder)
        self.encoder = encoder
        cut = json.loads((folder / "sentences.json").read_text())
        self._spans, self._of = cut["spans"], cut["of"]
        self._row = {span: i for i, span in enumerate(self._spans)}
        self._meaning = load_arrays(folder / "sentences.safetensors")["vectors"]
        self._lexical = tfidf_matrix(self.vectorizers, self._spans)
        self._table = lancedb.connect(str(folder / "lance")).open_table("chunks")
        self._audiences = _audiences(list(self.chunks.values()))
        self._later = {
            c.id: frozenset(labels[c.path]) for c in self.chunks.values() if labels and labels.get(c.path)
        }

    def embed(self, texts: Sequence[str]) -> Any:
        """Unit vectors `[len(texts), dimensions]` of questions. Raises BadInput if the encoder is not the index's."""
        from bucle.models.encoder import shared_encoder

        if self.encoder is None:
            raise BadInput("This index needs its encoder to search by meaning.", "Add an encoder under `models:`.")
        vectors = shared_encoder(self.encoder).embed_alone(texts)
        built, asks = self.meta.get("encoder") or {}, getattr(shared_encoder(self.encoder), "identity", "")
        if built.get("identity") and asks and built["identity"] != asks:
            raise WrongEncoder(
                f"The index was built by the encoder {built['name']}; {self.encoder.name} asks it.",
                "Run `bucle run` again: the index is rebuilt for the new encoder.",
            )
        if vectors.shape[1] != self.meta["dimensions"]:
            raise BadInput(
                f"The index has {self.meta['dimensions']} dimensions, the encoder {vectors.shape[1]}.",
                "Run `bucle run` again: the index is rebuilt for the new encoder.",
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
        depth: int = 50,
    ) -> list[Hit]:
        """The `k` best passages that a holder of the labels `access` may see, best first. `weight` is the share of
        meaning (1) against words (0) in the fused score; each search's scores are put on [0, 1] before fusion, and each
        gives `depth` passages. `vector` is the question's, where already known. `where` keeps passages by `path` (`*`
        stands for anything), `language`, `document` (its id) and `heading`. Raises BadInput for anything else."""
        seen = " AND ".join(part for part in (self._condition(access), condition(where)) if part)
        words: dict[str, float] = {}
        meaning: dict[str, float] = {}
        depth = max(depth, k)
        if weight < 1:
            words = self._words(question, depth, seen)
        if weight > 0:
            vector = self.embed([question])[0] if vector is None else vector
            rows = self._filtered(self._table.search(vector).metric("cosine"), seen).limit(depth).to_list()
            meaning = {r["id"]: 1.0 - r["_distance"] for r in rows}
        fused: dict[str, float] = {}
        for scores, share in ((words, 1 - weight), (meaning, weight)):
            for node, value in _unit_range(scores).items():
                fused[node] = fused.get(node, 0.0) + share * value
        best = sorted(fused.items(), key=lambda item: (-item[1], item[0]))
        return [
            Hit(self.chunks[node], score, words.get(node), meaning.get(node))
            for node, score in best
            if self.visible(node, access)
        ][:k]

    def get(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        """Passages by id: those of them that are here and that `access` may see."""
        return {node: self.chunks[node] for node in ids if self.visible(node, access)}

    def count(self, access: frozenset[str] = frozenset()) -> int:
        """How many passages a holder of `access` may see."""
        return int(self._table.count_rows(self._condition(access) or None))

    def visible(self, chunk_id: str, access: frozenset[str] = frozenset()) -> bool:
        """Whether a holder of `access` may see a passage; False for one that is not in this index."""
        chunk = self.chunks.get(chunk_id)
        return chunk is not None and {*chunk.access, *self._later.get(chunk_id, ())} <= access

    def _condition(self, access: frozenset[str]) -> str:
        """SQL that leaves only what `access` may see, inside the search, so that hidden passages cost no hit. Labels
        themselves never stand in it: only numbers, and ids of this index's own. Empty where all may be seen."""
        hidden = [number for labels, number in self._audiences.items() if not set(labels) <= access]
        later = [chunk for chunk, labels in self._later.items() if not labels <= access]
        parts = [f"audience NOT IN ({', '.join(map(str, hidden))})"] if hidden else []
        if later:
            ids = ", ".join("'" + chunk.replace("'", "''") + "'" for chunk in later)
            parts.append(f"id NOT IN ({ids})")
        return " AND ".join(parts)

    def _filtered(self, query: Any, condition: str) -> Any:
        return query.where(condition, prefilter=True) if condition else query

    def sentences(self, chunk_id: str, access: frozenset[str] = frozenset()) -> list[str]:
        """The sentences of one passage, as they were cut when the index was built; none of one that `access` may not
        see."""
        if not self.visible(chunk_id, access):
            return []
        return [self._spans[i] for i in self._of[chunk_id]]

    def support(self, question: str, spans: Sequence[str], *, weight: float, vector: Any = None) -> Any:
        """How well each sentence of the index supports the question, `[len(spans)]` in [0, 1]: its TF-IDF cosine mixed
        with its embedding's, by `weight`."""
        from bucle.customise.classic.features import tfidf_matrix

        rows = [self._row[span] for span in spans]
        asked = tfidf_matrix(self.vectorizers, [question])
        support = (self._lexical[rows] @ asked.T).toarray().ravel() / 2 * (1 - weight)
        return support if weight == 0 else support + weight * (self._meaning[rows] @ vector)

    def _words(self, question: str, k: int, condition: str) -> dict[str, float]:
        from lancedb.query import MatchQuery

        if not any(c.isalnum() for c in question):
            return {}
        query = self._table.search(MatchQuery(_folded(question), "text"), query_type="fts")
        rows = self._filtered(query, condition).limit(k).to_list()
        return {r["id"]: float(r["_score"]) for r in rows}


def _audiences(chunks: Sequence[Chunk]) -> dict[tuple[str, ...], int]:
    """A number for each distinct set of access labels, 0 for none; the same for the same passages."""
    found = sorted({(), *(c.access for c in chunks)})
    return {labels: number for number, labels in enumerate(found)}


def _searchable(chunk: Chunk) -> str:
    return (
        f"{chunk.heading}\n{chunk.text}" if chunk.heading and not chunk.text.startswith(chunk.heading) else chunk.text
    )


def _folded(text: str) -> str:
    """Without accents: the index folds them only after stemming, and Spanish stems differ with them (`averia`)."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


COLUMNS = ("path", "language", "document", "heading")
"""What `where` may narrow a search by."""


def condition(where: Mapping[str, str] | None) -> str:
    """SQL for `where`. Raises BadInput for a key that is none of COLUMNS."""
    parts = []
    for key, value in (where or {}).items():
        if key not in COLUMNS:
            raise BadInput(f"A search cannot be narrowed by `{key}`.", f"Give one of: {', '.join(COLUMNS)}.")
        quoted = value.replace("'", "''")
        if key == "path" and "*" in value:
            for special in ("\\", "%", "_"):
                quoted = quoted.replace(special, "\\" + special)
            parts.append(f"path LIKE '{quoted.replace('*', '%')}' ESCAPE '\\'")
        else:
            parts.append(f"{key} = '{quoted}'")
    return " AND ".join(parts)


def _unit_range(scores: dict[str, float]) -> dict[str, float]:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {node: (value - low) / (high - low) if high > low else 1.0 for node, value in scores.items()}
