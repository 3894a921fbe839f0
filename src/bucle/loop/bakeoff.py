"""The bake-off of one task: rule out before a token is spent, climb, screen on few rows, compare on rows that no search
ever saw.

Without a budget and without an exchange rate every candidate is fitted and scored on every held-out row: the whole
table. With either, the validation rows are the search's, and no candidate learns from them: each rung climbed is looked
at on the first of them and held to the limits by what was measured, the contest drops what cannot win any more, and
only what is left, and the budget carries, is scored on the test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.choose import Rung
from bucle.choose.climb import Climb, Expected
from bucle.core.errors import ModelUnavailable
from bucle.execute import Runner, StepRecord
from bucle.loop.canary import check_before
from bucle.loop.candidates import TaskData, fit_step, rows_of, score_step
from bucle.loop.catalogue import reasons_against
from bucle.loop.costs import month_of
from bucle.loop.expected import Forecast, canary_usd, expect_rung
from bucle.loop.pricing import priced
from bucle.loop.rungs import rungs_of
from bucle.loop.screening import LOOK, look_step, screen_step
from bucle.loop.workspace import Workspace

__all__ = ["Bakeoff", "bake_off"]


@dataclass(frozen=True)
class Bakeoff:
    """What a bake-off did. `rungs` were scored on the test rows; `screened` were fitted and dropped before that, with
    the figures of the rows they saw; `ruled_out` and `not_climbed` were left out before that. `spent`: US dollars of
    looking and screening (`usd`) and of canaries (`canary_usd`)."""

    rungs: Sequence[Rung]
    fits: Mapping[str, StepRecord]
    evaluations: Mapping[str, StepRecord]
    screened: Sequence[Mapping[str, Any]] = ()
    ruled_out: Sequence[Mapping[str, Any]] = ()
    not_climbed: Sequence[Mapping[str, Any]] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)


def bake_off(ws: Workspace, runner: Runner, data: TaskData) -> Bakeoff:
    """Every candidate of a task that may take part, fitted, and scored on the test rows where it is still live. A model
    that does not answer is raised once everybody else is scored."""
    choose = ws.config.choose
    rungs = rungs_of(ws, data.name, has_index=bool(data.index))
    train = rows_of(ws, data.dataset, data.split, "train")
    tests = len(rows_of(ws, data.dataset, data.split))
    # the seconds of earlier runs are no part of any decision, so that a rerun decides the same
    expected = {rung.name: expect_rung(ws, data.name, rung, train, tests, {}) for rung in rungs}
    longest = max((row.input for row in ws.examples(data.dataset)), key=len, default="")
    allowed, ruled_out = _rule_out(ws, rungs, expected, longest)
    search = len(rows_of(ws, data.dataset, data.split, "validation"))
    if choose.limited and search >= 2:
        return _search(ws, runner, data, allowed, expected, ruled_out, search, tests)
    bases = list(dict.fromkeys(rung.base for rung in allowed))
    paid = [_canary(ws, runner, data, base, allowed) for base in bases]
    fits, evaluations = _fit_and_score(ws, runner, data, allowed)
    spent = {"usd": 0.0, "canary_usd": sum(usd for usd, _ in paid)}
    return Bakeoff(allowed, fits, evaluations, ruled_out=ruled_out, spent=spent)


def _search(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    allowed: Sequence[Rung],
    expected: Mapping[str, Forecast],
    ruled_out: Sequence[Mapping[str, Any]],
    search: int,
    tests: int,
) -> Bakeoff:
    budget = ws.config.choose.budget
    months = {r.name: month_of(ws, r, usd_per_1k=_middle(expected[r.name].usd_per_1k)) for r in allowed}
    order = sorted(allowed, key=lambda r: (r.technique.rung, months[r.name]))
    look = min(LOOK, max(5, budget.samples // len(order)), search) if budget.samples else min(LOOK, search)
    found = _Climbed(ws, runner, data, expected, months, look)
    for rung in order:
        found.try_(rung)
    live = found.affordable(tests)
    rows = found.screening_rows(live, search, tests)
    live.sort(key=lambda r: (found.months[r.name], r.technique.rung))
    screen = screen_step(ws, runner, data, live, found.fits, found.looks, rows=rows, months=found.months)
    kept = [r for r in allowed if r in live and (r.technique.baseline or r.name in screen.figures["live"])]
    _, evaluations = _fit_and_score(ws, runner, data, kept, found.fits, failed=found.failed)
    return Bakeoff(
        kept,
        found.fits,
        evaluations,
        screened=[one for one in screen.figures["screened"] if one["name"] not in {r.name for r in kept}],
        ruled_out=[*ruled_out, *found.ruled_out],
        not_climbed=[
            {"name": one.name, "why": {"key": one.key, "figures": dict(one.figures)}}
            for one in found.climb.decisions
            if not one.climbed
        ],
        search={k: screen.figures[k] for k in ("rows", "samples", "full", "proven")},
        spent={"usd": found.looked_usd + screen.figures["usd"], "canary_usd": found.canary_usd},
    )


class _Climbed:
    """The climb as it goes: who was fitted and looked at, at what cost, and who was left out and why."""

    def __init__(
        self,
        ws: Workspace,
        runner: Runner,
        data: TaskData,
        expected: Mapping[str, Forecast],
        months: Mapping[str, float],
        look: int,
    ) -> None:
        self._ws, self._runner, self._data, self._expected, self._look = ws, runner, data, expected, look
        self.climb = Climb(ws.config.choose.costs, ws.config.choose.budget)
        self.months = dict(months)
        self.fits: dict[str, StepRecord] = {}
        self.looks: dict[str, StepRecord] = {}
        self.rungs: list[Rung] = []
        self.ruled_out: list[dict[str, Any]] = []
        self.failed: ModelUnavailable | None = None
        self.looked_usd = self.canary_usd = 0.0
        self._canaried: set[str] = set()
        self._dearer = 1.0

    def try_(self, rung: Rung) -> None:
        """Climb to a rung if it is expected to pay, and see what it shows on the first rows."""
        ws, baseline, forecast = self._ws, rung.technique.baseline, self._expected[rung.name]
        if not baseline:
            if ws.config.choose.budget.usd is not None and not priced(ws, rung):
                self.climb.leave(rung.name, "no_price", limit=ws.config.choose.budget.usd)
                return
            usd = (_middle(forecast.usd) + self._canary_usd(rung.base)) * self._dearer
            what = Expected(usd, _middle(forecast.minutes), self.months[rung.name])
            if not self.climb.decide(rung.name, what).climbed:
                return
        try:
            self._canary(rung.base)
            fit = fit_step(ws, self._runner, self._data, rung, searched=True)
            look = look_step(ws, self._runner, self._data, rung, fit["candidate"], rows=self._look)
        except ModelUnavailable as error:
            self.failed = self.failed or error
            return
        self.fits[rung.name], self.looks[rung.name] = fit, look
        figures = look.figures
        self.months[rung.name] = month_of(
            ws, rung, usd_per_1k=figures["usd_per_1k"], ms=figures["p50_ms"], fit_seconds=fit.figures["fit_seconds"]
        )
        self.looked_usd += figures["usd"]
        if thought := _middle(forecast.usd_per_1k) * self._look / 1000:  # bills so far teach what to expect of the next
            self._dearer = max(self._dearer, figures["usd"] / thought)
        if reasons := [] if baseline else self._over(rung, figures):
            self.climb.pay(figures["usd"], (fit.seconds + look.seconds) / 60)
            self.ruled_out.append({"name": rung.name, "technique": rung.technique.name, "reasons": reasons})
            return
        self.rungs.append(rung)
        self.climb.saw(
            _cautious(figures["scores"]),
            usd_month=self.months[rung.name],
            usd=figures["usd"],
            minutes=(fit.seconds + look.seconds) / 60,
            free=baseline,
        )

    def affordable(self, tests: int) -> list[Rung]:
        """Of those climbed, who can still be asked the test rows within the budget, by what asking them cost so far:
        the best on the first rows first. The others are told."""
        limits = self._limits()
        kept: list[Rung] = []
        for rung in sorted(self.rungs, key=lambda r: -self.looks[r.name].figures["mean"]):
            over = next(((key, left, each[rung.name] * tests) for key, left, each in limits
                         if not rung.technique.baseline and each[rung.name] * tests > left), None)  # fmt: skip
            if over is not None:
                key, limit, spent = self._told(over[0])
                self.climb.leave(rung.name, key, limit=limit, spent=spent, expected=over[2])
                continue
            if not rung.technique.baseline:
                limits = [(key, left - each[rung.name] * tests, each) for key, left, each in limits]
            kept.append(rung)
        return [rung for rung in self.rungs if rung in kept]

    def screening_rows(self, live: Sequence[Rung], search: int, tests: int) -> int:
        """The rows of the search that the budget carries, once the test rows of the live ones are paid for."""
        rows = search
        for _, left, each in self._limits():
            per_row = sum(each[rung.name] for rung in live if not rung.technique.baseline)
            if per_row > 0:
                rows = min(rows, self._look + max(0, int((left - per_row * tests) / per_row)))
        return rows

    def _limits(self) -> list[tuple[str, float, dict[str, float]]]:
        """What is left of each budget, and what one row costs of it with each candidate, as its look measured."""
        budget, (usd, minutes) = self._ws.config.choose.budget, self.climb.spent
        limits = []
        if budget.usd is not None:
            limits.append(("usd", budget.usd - usd, {n: r.figures["usd"] / self._look for n, r in self.looks.items()}))
        if budget.minutes is not None:
            each = {n: r.seconds / 60 / self._look for n, r in self.looks.items()}
            limits.append(("minutes", budget.minutes - minutes, each))
        return limits

    def _told(self, what: str) -> tuple[str, float | None, float]:
        budget, (usd, minutes) = self._ws.config.choose.budget, self.climb.spent
        return ("over_usd", budget.usd, usd) if what == "usd" else ("over_minutes", budget.minutes, minutes)

    def _over(self, rung: Rung, figures: Mapping[str, Any]) -> list[str]:
        """The hard limits that a rung breaks by what the look measured: what it costs, and a median latency that is
        already over the limit on its 95th percentile."""
        limits = self._ws.config.choose.constraints.limits()
        measured = {
            "p95_ms": figures["p50_ms"],
            "usd_per_1k": figures["usd_per_1k"],
            "usd_per_month": self.months[rung.name],
        }
        says = {"p95_ms": "half of its answers take {0:,.0f} ms or more; p95_ms {1:g} is the limit",
                "usd_per_1k": "costs {0:,.4g} dollars for a thousand requests; {1:g} is the limit",
                "usd_per_month": "costs {0:,.2f} dollars a month; {1:g} is the limit"}  # fmt: skip
        return [
            says[key].format(measured[key], limit) + f" (measured on {self._look} rows)"
            for key, limit in limits.items()
            if measured[key] > limit
        ]

    def _canary_usd(self, base: str) -> float:
        return canary_usd(self._ws, base)[1] if base and base not in self._canaried else 0.0

    def _canary(self, base: str) -> None:
        if base and base not in self._canaried:
            self._canaried.add(base)
            about = [self._data.split, *(n for n in self._expected if n.endswith(f"/{base}"))]
            usd, seconds = check_before(self._ws, self._runner, self._data.models, [base], about)
            self.canary_usd += usd
            self.climb.pay(usd, seconds / 60)


def _canary(
    ws: Workspace, runner: Runner, data: TaskData, base: str, rungs: Sequence[Rung]
) -> tuple[float, float]:
    return check_before(ws, runner, data.models, [base], [data.split, *(r.name for r in rungs if r.base == base)])


def _fit_and_score(
    ws: Workspace,
    runner: Runner,
    data: TaskData,
    rungs: Sequence[Rung],
    fitted: Mapping[str, StepRecord] | None = None,
    *,
    failed: ModelUnavailable | None = None,
) -> tuple[dict[str, StepRecord], dict[str, StepRecord]]:
    """Fits (where they are not there yet) and scores of every rung. One whose model does not answer holds nobody up; it
    is raised at the end, since nothing may be chosen without it or its leave."""
    fits, evaluations = dict(fitted or {}), {}
    for rung in rungs:
        try:
            if rung.name not in fits:
                fits[rung.name] = fit_step(ws, runner, data, rung)
            evaluations[rung.name] = score_step(ws, runner, data, fits[rung.name]["candidate"], rung.name)
        except ModelUnavailable as error:
            failed = failed or error
    if failed is not None:
        more = "everybody else is scored: the same command goes on; or name the others under choose.models"
        failed.hint = f"{failed.hint}; {more}" if failed.hint else more
        raise failed
    return fits, evaluations


def _rule_out(
    ws: Workspace, rungs: Sequence[Rung], expected: Mapping[str, Forecast], longest: str
) -> tuple[list[Rung], list[dict[str, Any]]]:
    """Who keeps within the hard constraints as far as that is known before a token is spent, and who does not, why."""
    allowed, out = [], []
    for rung in rungs:
        reasons = reasons_against(ws, rung, expected[rung.name], longest=longest)
        if reasons:
            out.append({"name": rung.name, "technique": rung.technique.name, "reasons": reasons})
        else:
            allowed.append(rung)
    return allowed, out


def _middle(ends: tuple[float, float]) -> float:
    """Of a range whose ends are far apart: the geometric mean."""
    return (max(ends[0], 1e-9) * ends[1]) ** 0.5 if ends[1] > 0 else 0.0


def _cautious(scores: Sequence[float]) -> float:
    """Laplace's rule of succession: forty right answers out of forty leave something to gain."""
    return (sum(scores) + 1) / (len(scores) + 2)
