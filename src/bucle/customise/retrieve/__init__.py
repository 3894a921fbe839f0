"""Retrieval: the index, searching, quoting with citations, and generation from what was found."""

from bucle.core.ports import Hit
from bucle.customise.retrieve.index import Index, build_index
from bucle.customise.retrieve.quote import NoAnswer, Quote, Retrieve
from bucle.customise.retrieve.rag import ClosedBook, Rag, RagThought
from bucle.customise.retrieve.search import Bm25, Dense, HybridSearch, RewrittenSearch

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
    "RewrittenSearch",
    "build_index",
]
