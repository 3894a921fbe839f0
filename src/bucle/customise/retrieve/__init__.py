"""Retrieval: the index, searching, quoting with citations, and generation from what was found."""

from bucle.customise.retrieve.index import Hit, Index, build_index
from bucle.customise.retrieve.quote import NoAnswer, Quote, Retrieve
from bucle.customise.retrieve.rag import ClosedBook, Rag, RagThought
from bucle.customise.retrieve.search import Bm25, Dense, HybridSearch

__all__ = [
    "Bm25",
    "ClosedBook",
    "Dense",
    "Hit",
    "HybridSearch",
    "Index",
    "NoAnswer",
    "Quote",
    "Rag",
    "RagThought",
    "Retrieve",
    "build_index",
]
