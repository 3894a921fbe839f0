"""The trials of a search for a better prompt: fitted, asked within the budget, scored, remembered through a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from bucle.choose import Rung
from bucle.core.errors import BadInput, ContextOverflow, TemplateError
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import ChatModel, FitContext, LoadContext, Predictor
from bucle.core.prompting import PromptSpec, Shots
from bucle.core.records import Example, Prediction
from bucle.customise.prompt.improve import (
    PROPOSALS,
    Demos,
    Instruction,
    best_pairs,
    demonstrations,
    proposal_ask,
    proposals,
    rephrasings,
    started,
    with_parts,
)
from bucle.execute import StepContext
from bucle.loop.budget import Budget, BudgetSpent, Metered
from bucle.loop.candidates import TaskData
from bucle.loop.improve_rows import Sides
from bucle.loop.improve_standing import HALVED_OUT, SHARE_SPENT, Trial, leading, unfinished, verdict
from bucle.loop.model_steps import chat_model
from bucle.loop.opening import open_roles
from bucle.loop.scoring import scoring_of
from bucle.loop.workspace import Workspace

__all__ = ["Search"]

NEW = 4
"""Instructions that join in a round."""
TRIALS = 6
"""Pairs that are tried in a round, beside the best so far."""
HALVED = 0.5  # of the scores that a round without halving would take: the least that one is planned with
EIGHTH = 8
MARGIN = 1.15  # held back for the confirmation, over what its rows took before
FLOOR_CALLS = 6  # single calls' worth held back beside it: a call is reserved at its most
SETTINGS = ("instruction", "shots", "examples", "max_tokens", "samples")


class Search:
    """One search. `baseline`, then `rounds`, then `confirm`; `figures` tells what was found at any time."""

    def __init__(self, ws: Workspace, ctx: StepContext, data: TaskData, rung: Rung, roles: Mapping[str, str],
                 params: Mapping[str, Any], sides: Sides, *, tokens: int | None, usd: float | None, proposer: str,
                 seed: int) -> None:
        self.ws, self.ctx, self.data, self.technique, self.seed = ws, ctx, data, rung.technique, seed
        self.kind, self.params, self.sides = ws.config.tasks[data.name].kind, dict(params), sides
        self.budget = Budget(ctx.work / "spent.json", tokens=tokens, usd=usd)
        self.opened = open_roles(ws, roles, rung.technique)
        self.opened["chat"] = Metered(self.opened["chat"], self.budget)
        self.opened["models"] = {name: Metered(one, self.budget) for name, one in self.opened["models"].items()}
        self.proposer: ChatModel | None = None
        if proposer:
            self.proposer = Metered(chat_model(ws, data.models[proposer]), self.budget)
        whole = scoring_of(ws, data)
        if whole.primary.startswith("judge:"):
            raise BadInput("A judge decides this task, and what a judge asks is outside the budget.",
                           f"Put a metric that asks no model first: tasks.{data.name}.metrics.")
        self.scoring = replace(whole, metrics=(whole.primary,), also=(), judges={})
        self.labels = tuple(sorted({str(r.target) for r in (*sides.train, *sides.validation)})) \
            if self.kind == "classify" else ()
        self.language = str(params.get("language") or "es")
        self.language = self.language if self.language in ("es", "en") else "en"
        self.base = self._baked(self._in_force(params))
        self.instructions = [Instruction(self.base.system, "in force")]
        self.demos = [Demos(None, "in force")]
        self.trials: list[Trial] = []
        self.wrong: list[tuple[Example, str]] = []
        self.done_rounds, self.stopped, self.refused = 0, "", 0
        self._open: dict[str, Predictor] = {}

    def baseline(self) -> None:
        """The prompt in force on the choosing rows, and a look at its failures on training rows. Raises
        BudgetSpent."""
        first = Trial("t0", None, "in force", "in force", 0, (0, 0), len(self.sides.choose))
        self.trials.append(first)
        self.best = first
        self._score(first, range(len(self.sides.choose)))
        self._hold_back()
        right = self._look(first)
        if self.technique.name != "zero-shot" and "examples" in self.technique.settings:
            count = self.base.shots.count if self.base.shots and self.base.shots.count else (
                6 if self.kind == "classify" else 3)
            some = demonstrations(self.kind, count, self.sides.pool, right, [row for row, _ in self.wrong], self.seed)
            now = self.base.shots or (Shots(count=count) if self.technique.name == "few-shot" else None)
            self.demos += [one for one in some if one.shots != now]  # those in force are no trial
        self.fixed = rephrasings(self.base, self.kind, self.sides.pool, self.language)

    def rounds(self, most: int) -> None:
        """Up to `most` rounds, until the budget's part for searching is spent or nothing new is left to try."""
        for number in range(1, most + 1):
            try:
                self._instruct(number)
                if not (pairs := self._pairs(number)):
                    self.stopped = "nothing new is left to try"
                    return
                self._contest(number, pairs, rounds=most - number + 1)
            except BudgetSpent:
                self.stopped = "the budget's part for searching is spent"
                for trial in self.trials:
                    if not trial.out and not trial.finished:
                        trial.out = f"{SHARE_SPENT} after {len(trial.scores)} rows"
                return
            self.done_rounds = number

    def confirm(self, earlier: int) -> dict[str, Any]:
        """The best trial against the prompt in force on the test rows: once, paired, at a level that allows for
        `earlier` confirmations on the same rows. Nothing is asked where nothing was better on the choosing rows."""
        from bucle.evaluate.statistics import interval, paired_difference

        metric, level = self.scoring.primary, 1 - 0.05 / (earlier + 1)
        finished = verdict(self.trials, self.best)
        if self.best is self.trials[0]:
            why = f"{finished}; the test rows were not looked at"
            return {"confirmed": None, "helped": False, "why": why, **self._spent()}
        try:
            with self.budget.everything():
                found = [self._on_test(trial) for trial in (self.trials[0], self.best)]
        except BudgetSpent:
            why = f"the budget ended before the confirmation was whole: nothing is saved; {finished}"
            return {"confirmed": None, "helped": False, "why": why, **self._spent()}
        clusters = [row.cluster for row in self.sides.test]
        gap = paired_difference(found[1], found[0], clusters=clusters, level=level)
        before, after = (interval(values, clusters=clusters) for values in found)
        said = (f"{metric} {100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}] on {gap.n} test "
                f"rows")
        if gap.low > 0:
            why = f"it helped: {said}"
        elif gap.high < 0:
            why = f"it made it worse: {said}; nothing is saved"
        else:
            why = f"not shown to help: {said}; nothing is saved"
        why += f"; {finished}" if unfinished(self.trials) else ""
        return {
            "confirmed": {"difference": gap.model_dump(), "before": before.model_dump(), "after": after.model_dump(),
                          "level": level},
            "helped": gap.low > 0, "why": why, **self._spent(),
        }

    def figures(self) -> dict[str, Any]:
        """Trials in their order, the best, and what was spent."""
        chosen = with_parts(self.base, self.instructions[self.best.pair[0]], self.demos[self.best.pair[1]])
        return {
            "metric": self.scoring.primary,
            "finished": len(self.trials) - 1 - len(unfinished(self.trials)),
            "leading": leading(self.trials, self.best),
            "rounds_done": self.done_rounds,
            "stopped": self.stopped,
            "refused_proposals": self.refused,
            "chosen": {"trial": self.best.name, "instruction": self.best.instruction, "demos": self.best.demos,
                       "spec": chosen.model_dump(mode="json")},
            "trials": [
                {"trial": t.name, "round": t.round, "instruction": t.instruction, "demos": t.demos,
                 "rows": len(t.scores), "mean": t.mean if t.scores else None, "tokens": t.tokens, "usd": t.usd,
                 "out": t.out, "finished": t.finished, "spent": t.spent_when_done,
                 "text": (t.spec or self.base).system}
                for t in self.trials
            ],
        }

    # --- one round

    def _instruct(self, number: int) -> None:
        """Instructions that join: proposals of a model where one proposes, and rephrasings."""
        new: list[Instruction] = []
        if self.proposer is not None:
            new = self._proposed(number)
        while len(new) < NEW and self.fixed:
            new.append(self.fixed.pop(0))
            if self.proposer is not None and number == 1:
                break  # the label's words join the proposals; further rephrasings only where those run dry
        known = {one.text for one in self.instructions}
        self.instructions += [one for one in new if one.text not in known]

    def _proposed(self, number: int) -> list[Instruction]:
        from bucle.customise.prompt.structured import structured

        assert self.proposer is not None  # noqa: S101
        history: dict[str, float] = {}
        for trial in self.trials:
            text = self.instructions[trial.pair[0]].text
            history[text] = max(history.get(text, 0.0), trial.mean)
        ask = proposal_ask(
            self.base, self.kind, self.language, examples=self.sides.look, failures=self.wrong,
            history=list(history.items()) if number > 1 else [], n=NEW, seed=self.seed + number,
        )
        said = structured(self.proposer, [ask], PROPOSALS, language=self.language)[0]
        if self.budget.ended:
            raise BudgetSpent("The budget does not pay for the next proposals.")
        if not isinstance(said, dict):
            self.refused += NEW
            return []
        found = [replace(one, origin=f"proposed {number}.{nth}")
                 for nth, one in enumerate(proposals(said, self.base, ""), 1)]
        self.refused += max(0, len(said["instructions"]) - len(found))
        return found[:NEW]

    def _pairs(self, number: int) -> list[tuple[int, int]]:
        tried = {t.pair: t.mean for t in self.trials}
        if number > 1:
            return best_pairs(tried, len(self.instructions), len(self.demos), TRIALS)
        said = [(i, 0) for i in range(1, len(self.instructions))]
        shown = [(0, d) for d in range(1, len(self.demos))]
        mixed = [pair for two in zip_longest(said, shown) for pair in two if pair is not None]
        return mixed[: TRIALS + 2]

    def _contest(self, number: int, pairs: Sequence[tuple[int, int]], *, rounds: int) -> None:
        from bucle.choose.contest import Contest

        new, (many, scores) = list[Trial](), self._planned(len(pairs), rounds)
        rows = len(self.sides.choose)
        for pair in pairs[:many]:
            one, demos = self.instructions[pair[0]], self.demos[pair[1]]
            spec = with_parts(self.base, one, demos)
            new.append(Trial(f"t{len(self.trials)}", spec, one.origin, demos.origin, number, pair, rows))
            self.trials.append(new[-1])
        field_ = {t.name: t for t in (self.best, *new)}
        contest = Contest(list(field_), rows, budget=scores, batch=max(5, rows // 8),
                          seed=self.seed + number)
        while (ask := contest.ask()) is not None:
            told = {}
            for name in ask.candidates:
                self._score(field_[name], ask.rows)
                told[name] = [field_[name].scores[place] for place in ask.rows]
                self._hold_back()
            contest.tell(told)
            standing = contest.standing()
            self.ctx.report(int(self.budget.tokens), self.budget.limit_tokens or 0,
                            f"tokens; round {number}: {len(standing.live)} of {len(field_)} live, best "
                            f"{100 * max(standing.means.values()):.1f}%")
        standing = contest.standing()
        for out in standing.out:
            trial = field_[out.name]
            trial.out = trial.out or (f"{HALVED_OUT}: dropped after {out.rows} rows for lying behind"
                                      if out.why == "budget" else f"{out.why} than {out.by}")
        chosen = field_[standing.chosen]
        # who is chosen is measured on every row, and takes the place of the best only if it is better there
        self._score(chosen, range(rows))
        if chosen is not self.best and chosen.mean > self.best.mean + 1e-12:
            self.best = chosen
        for fresh in new:
            fresh.spent_when_done = fresh.spent_when_done or float(self.budget.tokens)

    def _planned(self, many: int, rounds: int) -> tuple[int, int]:
        """How many of `many` new trials a round takes, and the scores it may take for them and the best: what is left
        of the budget after the confirmation, shared among the `rounds` that are left, where a share pays for a round
        that halves once; else all of it, for as many trials as it pays for. Raises BudgetSpent for not even one."""
        file = self.ctx.work / f"rounds-left-{rounds}.json"
        if file.exists():  # a search that was broken off goes on with what it was planned with
            kept: list[int] = json.loads(file.read_text("utf-8"))
            return kept[0], kept[1]
        rows, first, left = len(self.sides.choose), self.trials[0], list[float]()
        if self.budget.limit_tokens is not None:
            tokens = self.budget.limit_tokens - self.budget.floor_tokens - self.budget.tokens
            left.append(tokens / max(1.0, self._dearest()))
        if self.budget.limit_usd is not None and first.usd:
            usd = self.budget.limit_usd - self.budget.floor_usd - self.budget.usd
            left.append(usd / max(1e-12, self._dearest() * first.usd / max(1, first.tokens)))
        able = min(left) / MARGIN if left else float(many * rows * rounds)
        able = max(able / rounds, min(able, (HALVED * (many + 1) - 1) * rows))
        scores = min((many + 1) * rows, int(able) + rows)  # those of the best are there already
        trials = min(many, int(scores / (HALVED * rows)) - 1)
        if trials < 1:
            raise BudgetSpent("The budget does not pay for one more trial.")
        part = file.with_suffix(".part")
        part.write_text(json.dumps([trials, scores]), "utf-8")
        os.replace(part, file)
        return trials, scores

    # --- asking and scoring

    def _score(self, trial: Trial, places: Sequence[int]) -> None:
        """The trial's scores on those choosing rows that it has none of yet. Raises BudgetSpent."""
        from bucle.evaluate.scoring import score

        some = [place for place in places if place not in trial.scores]
        if not some:
            return
        rows = [self.sides.choose[place] for place in some]
        before = self.budget.tokens
        said = self._said(trial, rows, "choose", self.sides.pool)
        values = score(self.scoring, rows, said).per_row[self.scoring.primary]
        trial.scores.update(zip(some, values, strict=True))
        told = sum(p.usage.tokens_in + p.usage.tokens_out for p in said)
        trial.tokens += max(told, self.budget.tokens - before)  # scoring labels takes more than the prompt
        trial.usd += sum(p.usage.usd for p in said)
        trial.asked += len(said)
        trial.spent_when_done = float(self.budget.tokens)

    def _look(self, trial: Trial) -> list[Example]:
        """Training rows that the prompt in force answers right when it is not shown them; those it answers wrong join
        the failures."""
        from bucle.evaluate.scoring import score

        looked = {row.cluster for row in self.sides.look}
        rest = [row for row in self.sides.pool if row.cluster not in looked]
        if not self.sides.look or not rest:
            return []
        said = self._said(trial, self.sides.look, "look", rest)
        values = score(self.scoring, list(self.sides.look), said).per_row[self.scoring.primary]
        ranked = sorted(zip(values, self.sides.look, said, strict=True), key=lambda one: one[0])
        middle = sum(values) / max(1, len(values))
        self.wrong = [(row, p.output or p.error) for value, row, p in ranked if value < min(1.0, middle + 1e-9)]
        return [row for value, row, _ in reversed(ranked) if value >= max(middle, 1e-9)]

    def _on_test(self, trial: Trial) -> list[float]:
        from bucle.evaluate.scoring import score

        rows = list(self.sides.test)
        said: list[Prediction] = []
        for start in range(0, len(rows), 32):
            said += self._said(trial, rows[start : start + 32], "test", self.sides.train)
            self.ctx.report(len(said), len(rows), f"test rows: {trial.instruction}, {trial.demos}")
        return list(score(self.scoring, rows, said).per_row[self.scoring.primary])

    def _said(self, trial: Trial, rows: Sequence[Example], side: str, train: Sequence[Example]) -> list[Prediction]:
        """Predictions, each kept on disk before anything is made of it. Raises BudgetSpent."""
        key = sha256_hex(canonical_json([side, trial.spec.model_dump(mode="json") if trial.spec else None]))[:24]
        path = self.ctx.work / f"said-{key}.jsonl"
        kept: dict[str, Prediction] = {}
        for line in path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []:
            if line.endswith("\n"):
                row, body = json.loads(line)
                kept[row] = Prediction.model_validate(body)
        missing = [row for row in rows if row.id not in kept]
        while missing:  # a few at first, until what a call takes is known
            size = self.opened["chat"].wave or len(missing)
            some, missing = missing[:size], missing[size:]
            try:
                made = self._predictor(trial, key, train).predict([row.input for row in some])
            except (ContextOverflow, TemplateError) as error:
                if trial.spec is None:
                    raise
                made = [Prediction(output="", error=error.message, error_kind=type(error).__name__) for _ in some]
                trial.out = type(error).__name__
            if self.budget.ended:
                raise BudgetSpent("The budget does not pay for the next rows.")
            with path.open("a", encoding="utf-8") as file:
                for row, p in zip(some, made, strict=True):
                    kept[row.id] = p
                    file.write(json.dumps([row.id, p.model_dump(mode="json")], ensure_ascii=False) + "\n")
        return [kept[row.id] for row in rows]

    def _predictor(self, trial: Trial, key: str, train: Sequence[Example]) -> Predictor:
        if key in self._open:
            return self._open[key]
        params = dict(self.params)
        if trial.spec is not None:  # the trial's prompt says what the technique's settings said
            params = {name: value for name, value in params.items() if name not in SETTINGS}
            params["prompt"] = trial.spec.model_dump(mode="json")
        out = self.ctx.work / f"fit-{key}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        validation: list[Example] = []
        if "index" in self.technique.needs:  # what is tuned at fitting is tuned on training rows, as a search does
            validation = [row for row in train if int(sha256_hex(row.cluster)[:8], 16) % EIGHTH == 0]
            train = [row for row in train if int(sha256_hex(row.cluster)[:8], 16) % EIGHTH]
        self.technique.fit(FitContext(
            out=out, work=self.ctx.work, train=train, validation=validation, labels=self.labels, params=params,
            seed=self.ws.config.seed, report=self.ctx.report, kind=self.kind, **self.opened))
        self._open[key] = self.technique.load(out, LoadContext(
            labels=self.labels, params=params, seed=self.ws.config.seed, kind=self.kind, **self.opened))
        return self._open[key]

    # --- the budget

    def _hold_back(self) -> None:
        """What the confirmation will take at most is not spent on searching."""
        rows, first, dearest = len(self.sides.test), self.trials[0], self._dearest()
        largest = self.budget.largest
        once = max(FLOOR_CALLS * dearest, float(largest.tokens_in + largest.tokens_out))
        tokens = MARGIN * rows * (first.row_tokens + dearest) + once
        self.budget.floor_tokens = tokens
        each = max((t.usd / max(1, t.tokens) for t in self._live()), default=0.0)
        self.budget.floor_usd = tokens * each

    def _live(self) -> list[Trial]:
        return [t for t in self.trials if t.asked and not t.out]

    def _dearest(self) -> float:
        """The most tokens that a row takes of a trial that may still win."""
        return max((t.row_tokens for t in self._live()), default=0.0)

    def _spent(self) -> dict[str, Any]:
        spent = {"tokens": self.budget.tokens, "usd": self.budget.usd, "calls": self.budget.calls}
        return {"spent": spent, "passed_by": self.budget.passed_by}

    def _in_force(self, params: Mapping[str, Any]) -> PromptSpec:
        """The task's own prompt, or what the technique says today as one."""
        if given := params.get("prompt"):
            return PromptSpec.model_validate(given)
        told = dict(params)
        if self.kind == "answer" and not told.get("instruction"):
            from bucle.customise.retrieve.rag import INSTRUCTION

            told["instruction"] = INSTRUCTION[self.language]
        return started(self.kind, self.data.name, told)

    def _baked(self, spec: PromptSpec) -> PromptSpec:
        """The prompt in force with what the technique's settings say about it, so that trials begin from it."""
        from bucle.customise.prompt.examples import how_chosen

        how, rows = how_chosen(self.params, spec.shots.choose if spec.shots else "nearest")
        changes: dict[str, Any] = {}
        if self.params.get("shots") or self.params.get("examples"):
            count = self.params.get("shots") or (spec.shots.count if spec.shots else 0) or len(rows)
            changes["shots"] = Shots.model_validate({"count": count, "choose": how, "rows": rows})
        for name in ("max_tokens", "samples"):
            if self.params.get(name):
                changes[name] = self.params[name]
        return spec.model_copy(update=changes)
