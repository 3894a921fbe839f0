"""What a team's rows and documents look like, as JSON-ready figures for the report, the terminal and the studio."""

from __future__ import annotations

from bucle.data.explore.documents import explore_documents
from bucle.data.explore.figures import histogram, mark, quantiles, ranked, sample_by_hash, shown
from bucle.data.explore.rows import explore_examples

__all__ = [
    "explore_documents", "explore_examples", "histogram", "mark", "quantiles", "ranked", "sample_by_hash", "shown",
]
