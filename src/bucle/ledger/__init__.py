"""Nodes, edges, aliases, steps, traces and feedback: one SQLite file and a folder of blobs."""

from bucle.ledger.blobs import BlobStore
from bucle.ledger.store import Ledger, now
from bucle.ledger.traces import TraceStore

__all__ = ["BlobStore", "Ledger", "TraceStore", "now"]
