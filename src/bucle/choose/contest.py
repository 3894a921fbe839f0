"""A bake-off that stops asking candidates that cannot win any more: which candidate to ask next on which rows, who is
out and why. It looks after every batch, and its promise holds however often it looks.

The full run would score every candidate on every row and choose the cheapest one whose mean is within `margin` of the
best mean. The contest draws the same rows in a random order without replacement and holds, for each pair of
candidates, a bet against "its mean difference over all rows is no more than the margin" (Waudby-Smith and Ramdas 2023,
Estimating means of bounded random variables by betting, section 5: sampling without replacement). A bet's capital
passes 1 / alpha with a chance of at most alpha if the sentence is true, at whatever time one looks (Ville's
inequality). So the full run's choice is dropped by proof in at most 1 - `level` of contests. A budget may drop more
than is proven; that is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bucle.core.errors import BadInput

__all__ = ["Ask", "Contest", "Out", "Standing"]

Why = Literal["worse", "dearer", "budget"]

_BOLD = 0.75  # the largest share of its capital that a bet may lose on one row
_FUTURES = 400  # ways that the rows not seen might turn out, drawn to see who still may win
_CHECKS = (0.25, 0.5)  # of the rows: where a budget is looked at
_BEATEN, _BELOW, _NEAR = 0, 1, 2


@dataclass(frozen=True)
class Ask:
    """Score these candidates on these rows (places in the full list of rows), then `tell`."""

    candidates: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Out:
    """A candidate that is not asked to win any more, after `rows` rows. `why`: `worse` (than `by`, by more than the
    margin) and `dearer` (than `by`, which is within the margin of the best) are proven at the contest's level;
    `budget` is not: others were likelier to be the full run's choice."""

    name: str
    rows: int
    why: Why
    by: str = ""


@dataclass(frozen=True)
class Standing:
    """Where a contest stands. `chosen` is the choice as of now; `done` whether nothing more will be asked. `proven`:
    the others are out by proof, or everybody who could still win was scored on every row, and none was dropped for the
    budget. `samples` are scores paid for, `rows` how many of the rows the finalists saw, `means` those of each
    candidate on the rows it saw."""

    chosen: str
    done: bool
    proven: bool
    live: tuple[str, ...]
    out: tuple[Out, ...]
    samples: int
    rows: int
    means: Mapping[str, float]


class Contest:
    """A contest among `names`, cheapest first, over `rows` rows whose scores lie in [0, 1].

    `population`: the rows are a sample of so many (None: they are all there is, and a proof is of them alone). With it
    a proof is of the population, and rows that run out prove nothing more. `level` is the chance of not dropping the
    full run's choice by proof; `budget` the most scores to pay for (None: as many as proof takes, at most all); `batch`
    rows are asked at once; `seed` decides their order. Raises BadInput.

        contest = Contest(["tfidf", "zero-shot", "lora"], rows=1000, margin=0.01, budget=1500)
        while (ask := contest.ask()) is not None:
            contest.tell({name: [score(name, row) for row in ask.rows] for name in ask.candidates})
        print(contest.standing())
    """

    def __init__(self, names: Sequence[str], rows: int, *, margin: float = 0.0, level: float = 0.95,
                 budget: int | None = None, batch: int = 20, population: int | None = None, seed: int = 0) -> None:
        import numpy as np

        if not names or len(set(names)) != len(names):
            raise BadInput("a contest needs candidates with different names")
        if rows < 1 or batch < 1 or not 0 <= margin < 1 or not 0.5 <= level < 1:
            raise BadInput("a contest needs rows, a margin from 0 to below 1 and a level from 0.5 to below 1")
        if population is not None and population < rows:
            raise BadInput(f"{rows} rows are no sample of {population}")
        if budget is not None and budget < len(names):
            raise BadInput(f"{budget} scores do not pay for one row of {len(names)} candidates", "raise the budget")
        many = len(names)
        self._names, self._rows, self._margin, self._batch, self._seed = tuple(names), rows, margin, batch, seed
        self._budget = many * rows if budget is None else min(budget, many * rows)
        self._checks = [max(int(share * rows), 2) for share in _CHECKS] if budget is not None else []
        self._order = np.random.default_rng(seed).permutation(rows)
        self._scores = np.zeros((rows, many))
        self._seen = np.zeros(many, dtype=int)
        self._at = self._samples = 0
        self._wins = np.ones(many, dtype=bool)  # who can still be the choice
        self._tops = np.ones(many, dtype=bool)  # who can still have the best mean, which the others are held to
        self._out: list[Out] = []
        # the full run's choice dropped, the best taken for a lesser, a lesser taken for near: many - 1 ways each
        self._bar = float(np.log((3 if margin > 0 else 2) * max(many - 1, 1) / (1 - level)))
        self._sample = population is not None
        self._bets = _Bets(many, population or rows, margin, self._bar)

    @property
    def order(self) -> tuple[int, ...]:
        """The order in which rows are asked."""
        return tuple(int(row) for row in self._order)

    def ask(self) -> Ask | None:
        """What to score next; None when the contest is done. The same until it is told."""
        asked = self._asked()
        left = min(self._rows - self._at, (self._budget - self._samples) // max(len(asked), 1), self._batch)
        # a look falls on each check, so that a budget is not overdrawn between two
        ahead = [check - self._at for check in self._checks if check > self._at]
        left = min([left, *ahead])
        if self._wins.sum() <= 1 or left < 1:
            return None
        return Ask(tuple(self._names[i] for i in asked),
                   tuple(int(row) for row in self._order[self._at:self._at + left]))

    def tell(self, scores: Mapping[str, Sequence[float]]) -> None:
        """The scores of what was asked, in its order. Raises BadInput for anything else."""
        import numpy as np

        ask = self.ask()
        if ask is None:
            raise BadInput("the contest is over", "look at its standing")
        if set(scores) != set(ask.candidates):
            raise BadInput(f"scores are needed for exactly {', '.join(ask.candidates)}")
        batch = np.zeros((len(ask.rows), len(self._names)))
        for name, values in scores.items():
            column = np.asarray(values, dtype=float)
            if column.shape != (len(ask.rows),) or not ((column >= 0) & (column <= 1)).all():
                raise BadInput(f"{name} needs {len(ask.rows)} scores between 0 and 1")
            batch[:, self._names.index(name)] = column
        asked = self._asked()
        self._scores[self._at:self._at + len(batch)] = batch
        active = np.zeros(len(self._names), dtype=bool)
        active[asked] = True
        self._bets.see(batch, active, self._at)
        self._at += len(batch)
        self._seen[asked] = self._at
        self._samples += len(batch) * len(asked)
        self._drop_by_proof()
        self._drop_for_budget()

    def standing(self) -> Standing:
        """Who would be chosen now, who is live, and who is out and why."""
        import numpy as np

        means = self._means()
        finished = (self._at == self._rows and not self._sample) or self._wins.sum() == 1
        by_proof = all(out.why != "budget" for out in self._out)
        return Standing(
            chosen=self._names[int(self._choice(means[None])[0])], done=self.ask() is None,
            proven=bool(finished and by_proof), live=tuple(np.asarray(self._names)[self._wins].tolist()),
            out=tuple(self._out), samples=self._samples, rows=self._at,
            means={name: float(mean) for name, mean in zip(self._names, means, strict=True)},
        )

    def _asked(self) -> list[int]:
        """Who is scored on the next rows: who can win, and who the winners are held to."""
        import numpy as np

        return [int(i) for i in np.flatnonzero(self._wins | (self._tops if self._margin > 0 else False))]

    def _means(self) -> Any:
        import numpy as np

        return self._scores.sum(axis=0) / np.maximum(self._seen, 1)

    def _choice(self, means: Any) -> Any:
        """The cheapest of those that can win within the margin of the best mean, for each row of `means`."""
        import numpy as np

        held = np.where(self._wins | self._tops, means, -1.0)
        near = self._wins & (means >= held.max(axis=1, keepdims=True) - self._margin - 1e-12)
        # nobody near: only where a budget dropped them; then the best of those left
        best = np.where(self._wins, means, -1.0).argmax(axis=1)
        return np.where(near.any(axis=1), near.argmax(axis=1), best)

    def _drop_by_proof(self) -> None:
        import numpy as np

        won = self._bets.won
        for i in np.flatnonzero(self._wins):
            by = np.flatnonzero(won[_BEATEN][:, i])
            if len(by) and self._wins.sum() > 1:
                self._drop(int(i), "worse", int(by[0]))
        for i in np.flatnonzero(self._tops):
            if won[_BELOW][:, i].any() and self._tops.sum() > 1:
                self._tops[i] = False
        for i in np.flatnonzero(self._wins):
            others = self._tops.copy()
            others[i] = False
            if won[_NEAR][others, i].all():
                for dearer in np.flatnonzero(self._wins[i + 1:]) + i + 1:
                    self._drop(int(dearer), "dearer", int(i))
                break
        if self._margin == 0:  # whoever was dropped is no better than one who was not
            self._tops &= self._wins

    def _drop_for_budget(self) -> None:
        """At a quarter of the rows, keep as many as the budget carries if half of them go at half of the rows; there,
        as many as it carries to the end: halving, but only as far as proof has not saved enough."""
        import numpy as np

        if not self._checks or self._at < self._checks[0]:
            return
        last = len(self._checks) == 1
        del self._checks[0]
        left = (self._budget - self._samples) / self._rows
        share = 1 - self._at / self._rows if last else _CHECKS[1] - _CHECKS[0] + (1 - _CHECKS[1]) / 2
        keep = max(int(left / share + 1e-9), 1) if share > 0 else len(self._names)
        asked = self._asked()
        if len(asked) <= keep:
            return
        chances = self._chances()
        kept = set(sorted(asked, key=lambda i: (-chances[i], i))[:keep])
        for i in asked:
            if i not in kept:
                self._tops[i] = False
                if self._wins[i]:
                    self._drop(i, "budget", -1)
        if not self._tops.any():
            self._tops[:] = self._wins
        if not self._wins.any():  # only marks were kept
            self._wins[int(np.argmax(chances))] = True

    def _chances(self) -> Any:
        """How often each is the full run's choice or its best, over futures of the rows not seen: normal, with the
        covariance of the rows seen and the correction for a finite number of rows."""
        import numpy as np

        means, rows = self._means(), self._at
        asked = np.array(self._asked())
        spread = np.atleast_2d(np.cov(self._scores[:rows, asked], rowvar=False)) * (1 / rows - 1 / self._rows)
        rng = np.random.default_rng(self._seed)
        futures = np.repeat(means[None], _FUTURES, axis=0)
        futures[:, asked] += rng.standard_normal((_FUTURES, len(asked))) @ _root(spread).T
        counts = np.bincount(self._choice(futures), minlength=len(means)) / _FUTURES
        if self._margin > 0:
            best = np.where(self._wins | self._tops, futures, -1.0).argmax(axis=1)
            counts = counts + 1e-3 * np.bincount(best, minlength=len(means)) / _FUTURES
        return counts + 1e-6 * means

    def _drop(self, i: int, why: Why, by: int) -> None:
        self._wins[i] = False
        self._out.append(Out(self._names[i], self._at, why, self._names[by] if by >= 0 else ""))


class _Bets:
    """Three bets for each ordered pair (i, j), `won` as booleans `[3, many, many]`: against "i is at most the margin
    above j" (won: j is beaten), "i is at most as good as j" (won: j is below) and "i is at least the margin above j"
    (won: j is near i)."""

    def __init__(self, many: int, rows: int, margin: float, bar: float) -> None:
        import numpy as np

        self._rows, self._bar = rows, bar
        self._target = np.array([(1 + margin) / 2, 0.5, (1 - margin) / 2])[:, None, None]
        shape = (3, many, many)
        self._sum, self._squares, self._capital = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.won = np.zeros(shape, dtype=bool)

    def see(self, batch: Any, active: Any, seen: int) -> None:
        """`batch` is `[rows, many]`; `active` who was scored; `seen` rows came before."""
        import numpy as np

        pairs = np.ix_(np.arange(3), np.flatnonzero(active), np.flatnonzero(active))
        scores = batch[:, active]
        gap = scores[:, :, None] - scores[:, None, :]
        x = np.stack([(1 + gap) / 2, (1 + gap) / 2, (1 - gap) / 2], axis=1)  # [rows, 3, active, active] in [0, 1]
        time = (seen + np.arange(len(batch)))[:, None, None, None]  # rows before each
        after = self._sum[pairs] + x.cumsum(axis=0)
        before = after - x
        squares = self._squares[pairs] + (x**2).cumsum(axis=0)
        # mean of what is left in the pool if the sentence is true
        fair = (self._rows * self._target - before) / (self._rows - time)
        mean = (0.5 + before) / (time + 1)
        spread = (0.25 + squares - x**2 + (0.25 - 2 * mean * (before + 0.5) + (time + 1) * mean**2)) / (time + 1)
        drift = mean - fair
        stake = np.clip(drift / (np.maximum(spread, 1e-6) + drift**2), 0.0, _BOLD / np.maximum(fair, 1e-6))
        capital = self._capital[pairs] + np.log1p(np.maximum(stake * (x - fair), -_BOLD)).cumsum(axis=0)
        sure = after > self._rows * self._target + 1e-9  # already more than the whole pool may hold
        self.won[pairs] |= (capital.max(axis=0) >= self._bar) | sure.any(axis=0)
        self._sum[pairs], self._squares[pairs], self._capital[pairs] = after[-1], squares[-1], capital[-1]


def _root(matrix: Any) -> Any:
    """A square root of a covariance that need not have full rank."""
    import numpy as np

    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0.0))
