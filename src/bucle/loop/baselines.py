"""The honest baselines that a release is measured beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Example, Node, Prediction
from bucle.customise.registry import technique
from bucle.loop.candidates import scores
from bucle.loop.workspace import Workspace

__all__ = ["stored_baseline", "tfidf"]


def stored_baseline(ws: Workspace, release: Node, task: str) -> tuple[str, str] | None:
    """The best baseline of the comparison behind a release: its name and candidate; None without a comparison."""
    made_from = {e.role: e.parent for e in ws.ledger.parents(release.id)}
    best: tuple[float, str, str] | None = None
    for edge in ws.ledger.parents(made_from[f"comparison {task}"]) if f"comparison {task}" in made_from else []:
        if not edge.role.startswith("evaluation "):
            continue
        its = next(e.parent for e in ws.ledger.parents(edge.parent) if e.role == "candidate")
        if technique(str(ws.ledger.get(its).attrs["technique"])).baseline:
            values = next(iter(scores(ws, edge.parent)[1].values()))
            best = max(best or (-1.0, "", ""), (sum(values) / len(values), edge.role.split(" ", 1)[1], its))
    return (best[1], best[2]) if best else None


def tfidf(fitted: list[Example], rows: Sequence[Example], seed: int) -> list[Prediction]:
    """What a TF-IDF logistic regression fitted on `fitted` says to `rows`."""
    baseline = technique("tfidf")
    with TemporaryDirectory() as folder:
        out = Path(folder)
        labels = sorted({str(e.target) for e in fitted})
        baseline.fit(
            FitContext(
                out=out,
                work=out,
                train=fitted,
                validation=[],
                labels=labels,
                params={},
                seed=seed,
                report=lambda done, total, note="": None,
            )
        )
        loaded = baseline.load(out, LoadContext(labels=labels, params={}))
        return loaded.predict([r.input for r in rows])
