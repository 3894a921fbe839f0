"""The field's own evaluations: what lm-evaluation-harness and Inspect wrote, read as untrusted files; and a Bucle model
as one that lm-evaluation-harness can ask."""

from bucle.evaluate.interop.imported import Imported, ImportedRow
from bucle.evaluate.interop.read import read_evaluations

__all__ = ["Imported", "ImportedRow", "read_evaluations"]
