"""What candidates said to the same held-out rows, side by side: the part of the story, and what the page reads."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bucle.core.errors import BadInput
from bucle.core.records import Example, Prediction
from bucle.evaluate.slices import Slice
from bucle.loop.report.formats import Both, same
from bucle.loop.report.parts import Outputs

__all__ = ["inert_json", "outputs_json", "side_by_side", "slices_part"]

MOST_ROWS = 2_000
MOST_CANDIDATES = 4
MOST_TEXT = 2_000
MOST_CHARACTERS = 8_000_000
SLICES_SHOWN = 30


def slices_part(found: Sequence[Slice], candidate: str) -> dict[str, Any]:
    """`Slices` of the story from what `find_slices` gave for `candidate`: the surest ones, without their rows."""
    shown = [{k: v for k, v in one.to_dict().items() if k != "rows"} for one in found[:SLICES_SHOWN]]
    return {"candidate": candidate, "looked": len(found), "found": shown}


def side_by_side(examples: Sequence[Example], said: Mapping[str, tuple[Sequence[Prediction], Sequence[float]]], *,
                 slices: Sequence[Slice] = (), passages: Mapping[str, str] | None = None, most: int = MOST_ROWS,
                 seed: int = 0) -> dict[str, Any]:
    """`Outputs` of the story: the predictions and scores (in [0, 1]) of up to four candidates to the same rows, in the
    order given. `slices` are what `slices_part` was made of; `passages` name a cited chunk (id -> path). Of more than
    `most` rows, or of more text than a page should hold, a random part is kept, in its order. Raises BadInput."""
    names = list(said)[:MOST_CANDIDATES]
    for name in names:
        if {len(part) for part in said[name]} != {len(examples)}:
            raise BadInput(f"{name} was not measured on the same {len(examples)} rows")
    inside: dict[int, list[int]] = {}
    for number, one in enumerate(slices[:SLICES_SHOWN]):
        for place in one.rows:
            inside.setdefault(place, []).append(number)
    weight = sum(min(len(one.input), MOST_TEXT) for one in examples) + sum(
        min(len(one.output) + len(one.reasoning), 2 * MOST_TEXT) for name in names for one in said[name][0])
    kept = min(len(examples), most)
    if weight * kept / max(1, len(examples)) > MOST_CHARACTERS:
        kept = max(1, int(len(examples) * MOST_CHARACTERS / weight))
    places = sorted(random.Random(seed).sample(range(len(examples)), kept))

    def output(one: Prediction, score: float) -> dict[str, Any]:
        cited = [(passages or {}).get(chunk, chunk) for chunk in (one.citations or one.chunks[:5])]
        told = {
            "text": one.output[:MOST_TEXT], "score": round(float(score), 4), "abstained": one.abstained,
            "error": one.error[:MOST_TEXT], "reasoning": one.reasoning[:MOST_TEXT], "citations": cited,
        }
        return {key: value for key, value in told.items() if value or key == "score"}

    rows = [
        {
            "input": examples[i].input[:MOST_TEXT], "target": (examples[i].target or "")[:MOST_TEXT] or None,
            "source": examples[i].source, "slices": inside.get(i, []),
            "outputs": [output(said[name][0][i], said[name][1][i]) for name in names],
        }
        for i in places
    ]
    return {"candidates": names, "total": len(examples), "rows": rows}


def outputs_json(outputs: Outputs, slices: Sequence[Both], labelled: bool,
                 error_said: Callable[[str], Both] = same) -> Markup:
    """The rows as the page's script reads them: [input, target, source, slices, [[text, score, kind, reasoning,
    citations], …]], where kind is 1 for abstained, 2 for failed, whose text is [Spanish, English] as `error_said` gives
    it. `labels` are the targets to filter by."""
    rows = [
        [row.input, row.target, row.source, row.slices, [
            [_both(error_said(one.error)) if one.error else one.text, one.score,
             2 if one.error else int(one.abstained), one.reasoning, one.citations]
            for one in row.outputs
        ]]
        for row in outputs.rows
    ]
    labels = sorted({row.target for row in outputs.rows if row.target}) if labelled else []
    return inert_json({
        "candidates": outputs.candidates, "labels": labels[:500], "slices": [[one.es, one.en] for one in slices],
        "rows": rows,
    })


def _both(text: Both) -> list[str]:
    return [text.es, text.en]


def inert_json(data: Any) -> Markup:
    """`data` as JSON that no HTML parser takes for markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704  (nothing in it can end the element or open one)
