"""Distillation: a model that writes labels the training inputs, and a small one learns its labels (Hinton et al. 2015,
arXiv:1503.02531, with the teacher's choice and its confidence in place of all its probabilities).

What is served is the student alone: milliseconds, no dollars, and no text leaves the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Example, Prediction
from bucle.customise.classic.linear import Hybrid, TfidfLogistic
from bucle.customise.prompt.classify import classifier, classify_prompt
from bucle.customise.prompt.text import add_usage
from bucle.customise.settings import whole

__all__ = ["Distilled"]

SHOTS = 6
BATCH = 64  # rows the teacher labels between two reports


class Distilled:
    """A student of TF-IDF (and the encoder, where the project has one) with logistic regression, taught by a prompt."""

    name = "distilled"
    kinds = frozenset({"classify"})
    needs = frozenset({"chat"})
    uses = frozenset({"encoder"})
    """What it takes where the project has it."""
    serving_needs: frozenset[str] = frozenset()
    """What it needs to answer, where that is less than to be fitted: the teacher is not served."""
    rung = 70
    baseline = False
    grown = True
    when = "A good prompted model that is too slow or too dear to serve; pays with many inputs, since few are labelled."
    settings: frozenset[str] = frozenset({"instruction", "shots"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """The teacher labels every training and validation input by prompt, shown the nearest labelled examples but
        never the row's own label; the student learns those labels, each weighted by the teacher's confidence where it
        has one. Rows that it does not label are left out and counted.

        Figures: `taught` rows, `teacher_errors`, `teacher_accuracy` (the share of people's labels that it gave; None
        without any), the student's `cross_validated` agreement with its teacher, and what the teacher used
        (`tokens_in`, `tokens_out`, `usd`). Raises BadInput where the teacher gave fewer than two labels.
        """
        if ctx.chat is None:
            raise BadInput("`distilled` needs a model that writes, as teacher.", "Add one under `models:`.")
        prompt = classify_prompt(ctx, whole(ctx.params, "shots", SHOTS, least=0, most=100))
        teacher = classifier(ctx.chat, prompt, ctx.seed, skip_same=True)
        rows = [*ctx.train, *ctx.validation]
        said: list[Prediction] = []
        for start in range(0, len(rows), BATCH):
            ctx.report(start, len(rows) + 1, "rows labelled by the teacher")
            said += teacher.predict([e.input for e in rows[start : start + BATCH]])
        taught = [(e, p) for e, p in zip(rows, said, strict=True) if p.output and not p.error]
        if len({p.output for _, p in taught}) < 2:
            raise BadInput(
                f"The teacher gave {len({p.output for _, p in taught})} different labels to {len(rows)} rows.",
                "Choose a stronger teacher, or write a clearer `instruction:`.",
            )
        student = Hybrid() if ctx.encoder is not None else TfidfLogistic()
        figures = student.fit_rows(
            ctx, [e.model_copy(update={"target": p.output}) for e, p in taught], _weights([p for _, p in taught])
        )
        (ctx.out / "student.json").write_text(json.dumps({"encoder": ctx.encoder is not None}))
        used = add_usage(*(p.usage for p in said))
        return {
            "taught": len(taught),
            "teacher_errors": len(rows) - len(taught),
            "teacher_accuracy": _agreement(rows, said),
            "student": student.name,
            "C": figures["C"],
            "cross_validated": figures["cross_validated"],
            **used.model_dump(),
        }

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        """The student. Its teacher is not needed, and neither asked nor opened."""
        encoder = json.loads((folder / "student.json").read_text())["encoder"]
        if encoder and ctx.encoder is None:
            raise BadInput("This student was taught on an encoder.", "Keep its encoder under `models:`.")
        return (Hybrid() if encoder else TfidfLogistic()).load(folder, ctx)


def _weights(said: Sequence[Prediction]) -> list[float]:
    """The teacher's confidence in each label, on average 1; 1 each of a teacher that tells none."""
    known = [p.score for p in said if p.score is not None]
    mean = sum(known) / len(known) if known else 1.0
    return [1.0 if p.score is None or mean <= 0 else p.score / mean for p in said]


def _agreement(rows: Sequence[Example], said: Sequence[Prediction]) -> float | None:
    right = [p.output == e.target and not p.error for e, p in zip(rows, said, strict=True) if e.target]
    return sum(right) / len(right) if right else None
