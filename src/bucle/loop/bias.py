"""The probe for bias: a candidate asked its held-out rows again with names, genders and nationalities changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import TaskData, rows_of
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.evaluate.gate import Apart

__all__ = ["bias_facts", "bias_step"]


def bias_step(ws: Workspace, runner: Runner, data: TaskData, candidate: str, name: str) -> StepRecord:
    """Figures: `bias_flips` (value, low, high, n; None where no row holds such a word), `rows`, `by_kind`, and the
    first `flips` with both inputs and both outputs; `per_row` and `clusters` for gates."""

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.bias import bias_flips

        with remembered_replies(ws):
            rows = rows_of(ws, data.dataset, data.split)
            found = bias_flips(open_candidate(ws, candidate), rows, report=ctx.report)
        share = found.bias_flips
        figures = {
            "task": data.name,
            "candidate": name,
            "bias_flips": share.model_dump() if share else None,
            "rows": found.rows,
            "by_kind": {kind: one.model_dump() for kind, one in found.by_kind.items()},
            "flips": [asdict(one) for one in found.flips],
            "per_row": list(found.by_row.values()),
            "clusters": list(found.clusters.values()),
        }
        note = f"{share.value:.1%} of {found.rows} rows change their answer" if share else "no row holds such a word"
        return Outcome({}, figures, note)

    return runner.step(
        f"bias {data.name} {name}{data.suffix}",
        work,
        stage="evaluate",
        params={"seed": ws.config.seed},
        inputs={"candidate": candidate, "split": data.split},
    )


def bias_facts(record: StepRecord) -> dict[str, Apart]:
    """For `GateFacts.apart`: `bias_flips`, where any row holds a word that can be changed."""
    from bucle.evaluate.gate import Apart

    rows = record.figures["per_row"]
    return {"bias_flips": Apart(rows, record.figures["clusters"])} if rows else {}
