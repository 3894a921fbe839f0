"""The forgetting step: what a tuned model lost of what its base could do, on the suite's questions and on text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.config import REMOTE
from bucle.core.errors import BadInput
from bucle.core.ids import canonical_json, file_sha256, sha256_hex
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.candidates import TaskData, rows_of
from bucle.loop.document_step import read_documents
from bucle.loop.model_steps import chat_model, model_folder
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.evaluate.forgetting import Lost
    from bucle.evaluate.gate import Apart
    from bucle.evaluate.suite import Question

__all__ = ["forgetting_facts", "forgetting_step", "suite_step"]

TEXTS, PIECE = 40, 4000  # texts read of each source, and the characters of each
MOST_BYTES = 64 * 2**20
SUFFIXES = (".txt", ".md")


def suite_step(ws: Workspace, runner: Runner, model: str) -> StepRecord:
    """What the model of a node can do before anything is tuned: `right`, 1 or 0 for each question of the suite. A local
    model is scored by likelihood, a remote one is asked. Once a model, whatever is made of it."""
    node = ws.ledger.get(model)
    wanted = _questions(ws)

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.suite import answered, asked

        if node.attrs.get("kind") in REMOTE:
            with remembered_replies(ws):
                right = asked(chat_model(ws, model), wanted, seed=ws.config.seed, report=ctx.report)
        else:
            from bucle.models.local import LocalModel

            right = answered(LocalModel(model_folder(ws, model)), wanted, ctx.report)
        share = sum(right) / len(right)
        return Outcome({}, {"model": str(node.attrs.get("name", "")), "right": right, "accuracy": share},
                       f"{share:.0%} of {len(right)} questions")

    return runner.step(f"suite {node.attrs.get('name', '')}", work, stage="evaluate",
                       params={"suite": _fingerprint(wanted), "seed": ws.config.seed}, inputs={"model": model})


def forgetting_step(
    ws: Workspace, runner: Runner, data: TaskData, candidate: str, name: str, base: str, corpus: str
) -> StepRecord:
    """What a tuned candidate lost of what its base could do.

    Figures: `value`, `low`, `high`, `n`, `level` of the rise in bits per byte on the project's own text and on
    `forgetting.text`, with `bits_before` and `bits_after` of each text; `suite` with the loss of accuracy on its
    questions (`evaluate.forgetting.Lost`), as the report reads it. `forgetting_facts` makes of them what gates read.
    """
    known = suite_step(ws, runner, base)
    wanted, own = _questions(ws), _own_text(ws)

    def work(ctx: StepContext) -> Outcome:
        from bucle.evaluate.forgetting import forgetting, lost
        from bucle.evaluate.suite import answered
        from bucle.models.local import LocalModel

        texts = [d.text[:PIECE] for d in read_documents(ws, corpus)] if corpus else []
        if len(texts) < 2:
            texts = [r.input for r in rows_of(ws, data.dataset, data.split)]
        texts = texts[:TEXTS] + _pieces(own)
        tuned: Any = getattr(open_candidate(ws, candidate), "model", None)
        if not hasattr(tuned, "bits_per_byte"):
            raise BadInput(f"{name} tunes a base model but keeps none whose forgetting could be measured.",
                           "A technique's predictor offers its bucle.models.local.LocalModel as `model`.")
        ctx.report(0, 3, "base")
        before = LocalModel(model_folder(ws, base)).bits_per_byte(texts)
        ctx.report(1, 3, "tuned")
        after = tuned.bits_per_byte(texts)
        found = forgetting(before, after, seed=ws.config.seed)
        ctx.report(2, 3, "suite")
        suite = lost(wanted, known.figures["right"], answered(tuned, wanted))
        figures = {"task": data.name, "candidate": name, **found.model_dump(), "bits_before": before,
                   "bits_after": after, "suite": _json(suite, data.name, name, str(ws.ledger.get(base).attrs["name"]))}
        told = f", {suite.value.value:+.1%} of the suite's answers" if suite.value else ""
        return Outcome({}, figures, f"{found.value:+.3f} bits per byte{told}")

    return runner.step(
        f"forgetting {data.name} {name}{data.suffix}",
        work,
        stage="evaluate",
        version=2,
        params={"seed": ws.config.seed, "text": [file_sha256(path) for path in own], "suite": known.key},
        inputs={"candidate": candidate, "base": base, "corpus": corpus},
    )


def forgetting_facts(record: StepRecord | None) -> tuple[dict[str, Apart], dict[str, str]]:
    """For `GateFacts`: `apart` (scores of `forgetting` and `forgetting_bpb`) and `spared` (what cannot have been lost,
    and why). None: nothing was tuned."""
    from bucle.evaluate.gate import Apart

    if record is None:
        return {}, dict.fromkeys(("forgetting", "forgetting_bpb"), "not_tuned")
    figures = record.figures
    apart = {"forgetting_bpb": Apart(figures["bits_after"], minus=figures["bits_before"], bounded=False)}
    if not figures["suite"]["known"]:
        return apart, {"forgetting": "nothing_known"}
    return apart | {"forgetting": Apart(figures["suite"]["before"], minus=figures["suite"]["after"])}, {}


def _questions(ws: Workspace) -> tuple[Question, ...]:
    from bucle.evaluate.suite import own_questions, questions

    own = ws.config.forgetting.suite
    return questions() + (own_questions(ws.file(own), ws.config.language) if own else ())


def _fingerprint(wanted: Sequence[Question]) -> str:
    return sha256_hex(canonical_json([asdict(one) for one in wanted]))


def _own_text(ws: Workspace) -> list[Path]:
    """The files of `forgetting.text`. Raises BadInput where there are none."""
    if not ws.config.forgetting.text:
        return []
    place = ws.root / ws.config.forgetting.text
    found = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
    found = [p for p in found if p.is_file()]
    if not found:
        raise BadInput(f"forgetting.text: {place} holds no text.", f"Name a {' or '.join(SUFFIXES)} file or a folder.")
    if sum(p.stat().st_size for p in found) > MOST_BYTES:
        raise BadInput(f"forgetting.text: {place} has over {MOST_BYTES:,} bytes.", "A few pages are enough.")
    return found


def _pieces(files: Sequence[Path]) -> list[str]:
    """Up to `TEXTS` pieces, spread evenly over the files."""
    from bucle.data.parse.source import decode

    texts = [decode(path.read_bytes()) for path in files]
    pieces = [text[at:at + PIECE] for text in texts for at in range(0, len(text), PIECE)]
    pieces = [piece for piece in pieces if piece.strip()]
    return [pieces[at * len(pieces) // TEXTS] for at in range(TEXTS)] if len(pieces) > TEXTS else pieces


def _json(found: Lost, task: str, candidate: str, base: str) -> dict[str, Any]:
    """As the report reads it: the loss with its interval beside the parts. Nothing known: no figures."""
    value = found.value.model_dump() if found.value else dict.fromkeys(("value", "low", "high"))
    return {"task": task, "candidate": candidate, "base": base, **asdict(found), **value}
