"""Nodes, edges, aliases, steps, traces and feedback: one SQLite file and a folder of blobs."""

from bucle.ledger.annotations import AnnotationStore
from bucle.ledger.blobs import BlobStore
from bucle.ledger.store import Ledger, now
from bucle.ledger.traces import TraceStore

__all__ = ["AnnotationStore", "BlobStore", "Ledger", "TraceStore", "now"]
