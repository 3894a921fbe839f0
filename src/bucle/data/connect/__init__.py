"""Where a team's documents and rows are: folders where they lie, everything else brought to a mirror on this disk."""

from bucle.data.connect.access import access_of
from bucle.data.connect.changes import Changes, changes
from bucle.data.connect.files import MAX_FILE_BYTES, SourceFile, SyncProblem, list_files
from bucle.data.connect.safe import source_name
from bucle.data.connect.sync import Synced, fetch_rows, sync

__all__ = [
    "MAX_FILE_BYTES",
    "Changes",
    "SourceFile",
    "SyncProblem",
    "Synced",
    "access_of",
    "changes",
    "fetch_rows",
    "list_files",
    "source_name",
    "sync",
]
