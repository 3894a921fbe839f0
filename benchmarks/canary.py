"""How often a canary is rolled back that is no worse, and how soon one that is: `python benchmarks/canary.py`.

Simulated with the gate that serves (serve.routing.gate.Gate) and its defaults: a canary at 10% of the traffic, errors
1%, answers of 300 ms in the median (log-normal, sigma 0.5), one answer in 20 rated, of these 20% badly. `--runs`,
`--seed`.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from typing import Any

import numpy as np

from bucle.core.serving import Canary
from bucle.evaluate.sequential import GAPS, log_bets, log_mean
from bucle.serve.routing.gate import GATES, Gate, RollBacks

SHARE, RATED = 0.1, 0.05
USUAL = {"errors": 0.01, "times": 1.0, "bad": 0.2}


def one_run(rng: np.random.Generator, requests: int, new: dict[str, float], outages: float = 0.0) -> tuple[int, str]:
    """The request (of all) at which the canary was rolled back, and the gate; (0, "") where it never was."""
    rollbacks = RollBacks("r", (), None)
    gate = Gate(Canary(), "old", ["new"], rollbacks)
    canary = rng.random(requests) < SHARE
    chance = np.where(canary, new["errors"], USUAL["errors"])
    if outages:  # stretches of 100 requests in which everything fails, of both
        down = np.repeat(rng.random(requests // 100 + 1) < outages, 100)[:requests]
        chance = np.where(down, 1.0, chance)
    ok = rng.random(requests) >= chance
    ms = 300 * np.exp(0.5 * rng.standard_normal(requests)) * np.where(canary, new["times"], 1.0)
    rated, bad = rng.random(requests) < RATED, rng.random(requests) < np.where(canary, new["bad"], USUAL["bad"])
    for n in range(requests):
        target = "new" if canary[n] else "old"
        gate.outcome(target, bool(ok[n]), float(ms[n]))
        if rated[n]:
            gate.rated(target, -1 if bad[n] else 1, str(n))
        if rollbacks.stopped:
            return n + 1, rollbacks.history[0].gate
    return 0, ""


def shares(rng: np.random.Generator, runs: int, canary_requests: int, old: float, new: float, margin: float,
           level: float) -> tuple[float, Any]:
    """The share of `runs` in which the test of a share decides within so many requests of the canary, looking after
    each; and after how many of them it did."""
    k1, n1, logs = np.zeros(runs), np.zeros(runs), np.zeros((runs, len(GAPS)))
    at = np.zeros(runs, dtype=int)
    for step in range(1, canary_requests + 1):
        more = rng.geometric(SHARE, runs)  # of the old one between two of the canary
        bad, of_old = rng.random(runs) < new, rng.binomial(more, old)
        logs += log_bets(k1, n1, of_old, more, bad, np.ones(runs), margin)
        k1, n1 = k1 + of_old, n1 + more
        at[(at == 0) & (log_mean(logs) >= math.log(1 / level))] = step
    return float((at > 0).mean()), at[at > 0]


PARTS = ("shares", "null", "faults")
NULLS = ((0.01, 0.01, 0.02), (0.01, 0.03, 0.02), (0.2, 0.25, 0.05), (0.05, 0.05, 0.0))
FAULTS: tuple[tuple[str, dict[str, float]], ...] = (
    ("errors 5%", {"errors": 0.05}), ("errors 10%", {"errors": 0.1}), ("errors 30%", {"errors": 0.3}),
    ("all fail", {"errors": 1.0}), ("3 times as slow", {"times": 3.0}), ("5 times as slow", {"times": 5.0}),
    ("50% bad ratings", {"bad": 0.5}), ("90% bad ratings", {"bad": 0.9}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, action="append", help="that alone; the figures are the same")
    said = parser.parse_args()
    began, rule = time.perf_counter(), Canary()
    logging.disable(logging.WARNING)  # thousands of roll-backs
    print(f"{said.runs} runs each, seed {said.seed}; level {rule.level:g} over the whole run and all three gates")
    for part in said.part or PARTS:
        rng = np.random.default_rng([said.seed, PARTS.index(part)])
        {"shares": of_shares, "null": of_the_null, "faults": of_faults}[part](rng, said.runs, rule)
    print(f"{time.perf_counter() - began:.0f} s; each gate has a level of {rule.level / GATES:.4f}")


def of_shares(rng: np.random.Generator, runs: int, rule: Canary) -> None:
    print("the test of shares alone, looked at after each of 2,000 requests of the canary (20,000 in all):")
    for old, new, margin in NULLS:
        rate, _ = shares(rng, runs, 2000, old, new, margin, rule.level)
        print(f"  {old:.0%} against {new:.0%}, margin {margin:.0%}: decided in {rate:.2%} (at most {rule.level:.0%})")


def of_the_null(rng: np.random.Generator, runs: int, rule: Canary) -> None:
    print("the gate, no difference or as much as is allowed, 4,000 requests:")
    edge = {"errors": USUAL["errors"] + rule.errors, "times": rule.p95_ratio, "bad": USUAL["bad"] + rule.bad_ratings}
    for name, new, outages in (("no difference", USUAL, 0.0), ("no difference, outages of both", USUAL, 0.03),
                               ("all three at the edge of what is allowed", edge, 0.0)):
        found = [one_run(rng, 4000, new, outages) for _ in range(runs)]
        print(f"  {name}: rolled back in {sum(n > 0 for n, _ in found) / runs:.2%}", flush=True)


def of_faults(rng: np.random.Generator, runs: int, rule: Canary) -> None:
    few = max(1, runs // 10)
    print(f"planted faults, {few} runs of 20,000 requests: caught; after how many of the canary's (median, 95%)")
    for name, fault in FAULTS:
        found = [one_run(rng, 20_000, {**USUAL, **fault}) for _ in range(few)]
        took = np.array([n for n, _ in found if n]) * SHARE
        print(f"  {name}: {len(took) / few:.1%}" + (
            f"; {np.median(took):.0f}, {np.quantile(took, 0.95):.0f}" if len(took) else ""), flush=True)


if __name__ == "__main__":
    main()
