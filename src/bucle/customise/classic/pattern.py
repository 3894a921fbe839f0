"""Extraction by shape: a value that always looks alike, and stands after the same word, needs no model to be found."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction
from bucle.customise.classic.text import as_object
from bucle.customise.timing import timed

__all__ = ["Pattern"]

FITTED_ON = 500  # rows at most
SHAPES = 40  # rules of a field that are tried at most, the commonest first
RULES = 5  # and that are kept
LONGEST = 20_000  # characters of a text that are searched
_RUNS = re.compile(r"\d+|[^\W\d_]+|\s+|.", re.DOTALL)


class Pattern:
    """Learns for each field the shapes of its values (digits, letters, marks between) and the word before them, where
    they stand in the text word for word; keeps the rules that find most of them in the training rows."""

    name = "pattern"
    kinds = frozenset({"extract"})
    needs: frozenset[str] = frozenset()
    rung = 3
    baseline = True
    when = "Codes, dates, amounts and names that follow the same word: found by their shape, with nothing invented."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Figures: the `fields` with a rule, and for each the share of training rows in which it finds the value."""
        rows = [(e.input[:LONGEST], value) for e in ctx.train if (value := as_object(e.target or "")) is not None]
        if len(rows) > FITTED_ON:
            rows = random.Random(ctx.seed).sample(rows, FITTED_ON)
        fields: dict[str, Counter[str]] = defaultdict(Counter)
        numbers: Counter[str] = Counter()
        for text, value in rows:
            for field, content in value.items():
                if isinstance(content, bool) or not isinstance(content, str | int | float) or content == "":
                    continue
                for rule in _rules(text, str(content)):
                    fields[field][rule] += 1
                numbers[field] += 1 if isinstance(content, int | float) else -1
        learnt: dict[str, Any] = {}
        found: dict[str, float] = {}
        for field, counts in sorted(fields.items()):
            rules, share = _best(field, counts, rows)
            if rules:
                learnt[field] = {"rules": rules, "number": numbers[field] > 0}
                found[field] = round(share, 4)
        (ctx.out / "pattern.json").write_text(json.dumps(learnt, ensure_ascii=False), "utf-8")
        return {"fields": len(learnt), "found": found, "rows": len(rows)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Finder(json.loads((folder / "pattern.json").read_text("utf-8")))


class _Finder:
    def __init__(self, learnt: Mapping[str, Any]) -> None:
        self.fields = {name: ([re.compile(r) for r in one["rules"]], one["number"]) for name, one in learnt.items()}

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [Prediction(output=json.dumps(self._read(text[:LONGEST]), ensure_ascii=False)) for text in inputs]

    def _read(self, text: str) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for field, (rules, number) in self.fields.items():
            said = _first(rules, text)
            if said is not None:
                read[field] = _number(said) if number else said
        return read


def _rules(text: str, value: str) -> list[str]:
    """Patterns that would find `value` where it stands in `text`: its shape after the word before it, and its shape
    alone."""
    at = re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
    if at is None or len(value) > 200:
        return []
    # Bounded runs between word borders, so that searching takes time in proportion to the text.
    shape = "".join(
        r"\d{1,20}" if run.isdecimal() else r"[^\W\d_]{1,30}" if run.isalpha() else r"\s" if run.isspace()
        else re.escape(run) for run in _RUNS.findall(value)
    )
    before = re.search(r"(\S{1,40})\s{1,5}$", text[: at.start()])
    bounded = rf"(?<!\w)({shape})(?!\w)"
    return ([rf"(?:(?<=\s)|^){re.escape(before.group(1))}\s{{1,5}}{bounded}"] if before else []) + [bounded]


def _best(field: str, counts: Counter[str], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[list[str], float]:
    """The rules that, tried in order, find the field in most rows; each is added only where it finds more."""
    tried = [rule for rule, _ in sorted(counts.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))[:SHAPES]]
    compiled = {rule: re.compile(rule) for rule in tried}
    says = {rule: [_first([compiled[rule]], text) for text, _ in rows] for rule in tried}
    wanted = [None if (v := value.get(field)) is None else str(v) for _, value in rows]
    chosen: list[str] = []
    now: list[str | None] = [None] * len(rows)
    for _ in range(RULES):
        gains = {rule: _gain(wanted, now, says[rule]) for rule in tried}
        best = max(gains, key=gains.__getitem__, default="")
        if not best or gains[best] <= 0:
            break
        chosen.append(best)
        now = [n if n is not None else s for n, s in zip(now, says[best], strict=True)]
    right = sum(w == n for w, n in zip(wanted, now, strict=True) if w is not None)
    return chosen, right / max(1, sum(w is not None for w in wanted))


def _gain(wanted: Sequence[str | None], now: Sequence[str | None], says: Sequence[str | None]) -> int:
    """How many more rows are right where a rule speaks after those that have spoken."""
    return sum((w == (n if n is not None else s)) - (w == n) for w, n, s in zip(wanted, now, says, strict=True))


def _first(rules: Sequence[re.Pattern[str]], text: str) -> str | None:
    return next((m.group(1) for rule in rules if (m := rule.search(text))), None)


def _number(said: str) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return said
