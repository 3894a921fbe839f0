"""What stands in a vector store of another library's: entries that are never changed, checked when they are read back.

An entry's id is the hash of all that it holds (passage, text, labels, encoder), so versions of an index stand beside
each other in one store.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError, ConfigError, Infrastructure, WrongEncoder
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.records import Chunk
from bucle.customise.external.python import accepts
from bucle.customise.external.rows import masked
from bucle.customise.own import own_object
from bucle.customise.retrieve.index_build import TABLE
from bucle.customise.retrieve.index_rows import searchable

__all__ = ["AUDIENCE", "BATCH", "ENTRY", "PASSAGE", "asking", "audience_of", "embeddings", "entry_of", "made",
           "metadata_of", "present", "searchable_of", "vectors_of"]

BATCH = 256
ENTRY, PASSAGE, AUDIENCE = "bucle_entry", "bucle_passage", "bucle_audience"
NEEDED = ("add_texts", "delete", "similarity_search_by_vector")


def embeddings(encoder: Path, known: Mapping[str, Any] | None = None) -> Any:
    """The project's encoder as LangChain's Embeddings, for a store. `name`, `dimensions` and `identity` are the
    model's: a factory may name its collection by them. `known` texts are not embedded again."""
    try:
        from langchain_core.embeddings import Embeddings
    except ModuleNotFoundError as error:
        raise ConfigError("A vector store needs langchain_core, which is not installed.",
                          "pip install 'bucle[langchain]' (Chroma: 'bucle[chroma]')") from error
    from bucle.models.encoder import shared_encoder

    model, made = shared_encoder(encoder), {} if known is None else known

    class Ours(Embeddings):
        name = model.name
        dimensions = model.dimensions
        identity = str(getattr(model, "identity", ""))

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            new = list(dict.fromkeys(text for text in texts if text not in made))
            fresh = dict(zip(new, model.embed_array(new), strict=True)) if new else {}
            return [[float(x) for x in (made[t] if t in made else fresh[t])] for t in texts]

        def embed_query(self, text: str) -> list[float]:
            return [float(x) for x in model.embed_alone([text])[0]]

    return Ours()


def made(factory: str, project: Path, trusted: bool, given: Any) -> Any:
    """The store that the project's function `factory` makes of the embeddings `given`. Raises ConfigError."""
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")  # Chroma's, on unless told
    function = own_object(factory, project, trusted, what="retrieval.store")
    try:
        store = function(given, folder=project.resolve()) if accepts(function, "folder") else function(given)
    except BucleError:
        raise
    except Exception as error:  # any mistake in the user's own function, or a store that is away
        raise ConfigError(f"The vector store {factory} cannot be opened: {type(error).__name__}: {masked(str(error))}",
                          "See that it runs, and that the function takes the embeddings and returns it.") from error
    if not all(hasattr(store, name) for name in NEEDED):
        raise ConfigError(f"{factory} returned a {type(store).__name__}, which is no LangChain vector store.",
                          f"Return an object with {', '.join(NEEDED)}.")
    return store


@contextmanager
def asking(factory: str) -> Iterator[None]:
    """Errors of the store inside it become Infrastructure (WrongEncoder where vectors of another length are in it),
    with its name and what to do."""
    try:
        yield
    except BucleError:
        raise
    except Exception as error:  # any of any store's
        text = masked(str(error))
        if "dimension" in text.lower():
            raise WrongEncoder(f"The vector store {factory} holds vectors of another encoder: {text}",
                               "Name the collection by `embeddings.identity` in the factory, or empty it.") from error
        raise Infrastructure(f"The vector store {factory} failed: {type(error).__name__}: {text}",
                             "See that it runs; the same command goes on from here.") from error


def present(store: Any, entries: Sequence[str]) -> set[str] | None:
    """Those of `entries` that the store holds with their metadata; None where it cannot be asked."""
    found: set[str] = set()
    try:
        for at in range(0, len(entries), BATCH):
            for one in store.get_by_ids(list(entries[at : at + BATCH])):
                found.add(str((one.metadata or {}).get(ENTRY)))
    except NotImplementedError:
        return None
    except Exception as error:
        raise Infrastructure(f"The vector store cannot be read: {type(error).__name__}: {masked(str(error))}",
                             "See that it runs and may be asked.") from error
    return found & set(entries)


def entry_of(chunk: Chunk, identity: str) -> str:
    """The id of a passage in a store: a UUID (some take nothing else) made of all that its entry holds. `identity` is
    the encoder's."""
    held = [chunk.id, searchable_of(chunk), audience_of(chunk.access), identity]
    return str(uuid.UUID(sha256_hex(canonical_json(held))[:32]))


def metadata_of(entry: str, chunk: Chunk) -> dict[str, str]:
    """What stands beside an entry's text. Labels themselves never leave the project: a store gets a hash of their
    set."""
    return {ENTRY: entry, PASSAGE: chunk.id, AUDIENCE: audience_of(chunk.access), "path": chunk.path,
            "heading": chunk.heading, "place": chunk.place, "language": chunk.language, "document": chunk.document_id}


def audience_of(labels: Sequence[str]) -> str:
    """A name for a set of access labels that does not tell them."""
    return sha256_hex(canonical_json(sorted(labels)))[:16] if labels else "everyone"


def searchable_of(chunk: Chunk) -> str:
    """The text that is embedded and stored of a passage."""
    return searchable(chunk.heading, chunk.text)


def vectors_of(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """Unit vectors of passages by id, as the packaged index beside the store holds them."""
    import lancedb

    table = lancedb.connect(str(folder / "lance")).open_table(TABLE)
    found: dict[str, Any] = {}
    for at in range(0, len(ids), 1000):
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in ids[at : at + 1000])
        rows = table.search().where(f"id IN ({quoted})").select(["id", "vector"]).to_arrow()
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        found |= dict(zip(rows["id"].to_pylist(), vectors, strict=True))
    return found
