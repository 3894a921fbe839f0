"""Retrieval: the index, quoting with citations, and generation from what was found."""

from bucle.customise.retrieve.index import Hit, Index, build_index
from bucle.customise.retrieve.quote import NoAnswer, Quote, Retrieve
from bucle.customise.retrieve.rag import ClosedBook, Rag

__all__ = ["ClosedBook", "Hit", "Index", "NoAnswer", "Quote", "Rag", "Retrieve", "build_index"]
