"""The adaptive bake-off against the full run: how often it reaches the same decision, with how many of its samples.

    python benchmarks/bakeoff.py [--quick] [--json]

Each contest is drawn anew: candidates with true accuracies of the shape, rows with a difficulty that they share (so
that candidates agree more than chance), 1,000 rows or 300. The full run scores everybody on every row and chooses the
cheapest candidate within the margin of the best mean. The contest may pay for half of that.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from scipy.stats import norm
from shared import arguments, report

from bucle.choose.contest import Contest

SHAPES: dict[str, tuple[list[float], float]] = {  # true accuracies, cheapest first, and the margin
    "clear winner, 6": ([0.40, 0.70, 0.78, 0.72, 0.88, 0.80], 0.0),
    "two near ties at the top, 8": ([0.30, 0.62, 0.70, 0.75, 0.78, 0.845, 0.85, 0.76], 0.0),
    "three exact ties at the top, 10": ([0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.8, 0.8, 0.8, 0.74], 0.0),
    "ladder with a margin, 9": ([0.15, 0.65, 0.78, 0.60, 0.70, 0.82, 0.85, 0.86, 0.84], 0.02),
    "many, 24": ([0.80 - 0.4 * ((7 * i) % 24) / 23 for i in range(24)], 0.0),
    "few rows, 8 on 300 rows": ([0.30, 0.62, 0.70, 0.75, 0.78, 0.84, 0.88, 0.76], 0.01),
    "graded scores, 8": ([0.30, 0.42, 0.45, 0.50, 0.55, 0.52, 0.62, 0.58], 0.01),
    "all tied, 6 (no claim: the full run itself decides by chance)": ([0.80] * 6, 0.0),
}


def scores(rates: list[float], rows: int, rng: np.random.Generator, graded: bool) -> np.ndarray:
    """`[rows, candidates]`: right where shared difficulty and own luck allow, in the proportion of the true rates."""
    shared, own = rng.standard_normal((rows, 1)), rng.standard_normal((rows, len(rates)))
    ability = norm.ppf(np.asarray(rates))[None]
    latent = np.sqrt(0.6) * shared + np.sqrt(0.4) * own
    return norm.cdf(ability * 1.5 + latent) if graded else (latent < ability).astype(float)


def run(shape: str, contests: int) -> dict[str, Any]:
    rates, margin = SHAPES[shape]
    rows = 300 if "300 rows" in shape else 1000
    names = [f"{place}" for place in range(len(rates))]
    same, within, shares, proven, wrong_proof = 0, 0, [], 0, 0
    for seed in range(contests):
        table = scores(rates, rows, np.random.default_rng(seed), shape.startswith("graded"))
        means = table.mean(axis=0)
        full = names[int(np.argmax(means >= means.max() - margin - 1e-12))]
        contest = Contest(names, rows, margin=margin, budget=len(names) * rows // 2, seed=seed)
        while (ask := contest.ask()) is not None:
            contest.tell({name: table[list(ask.rows), int(name)].tolist() for name in ask.candidates})
        found = contest.standing()
        share = found.samples / (len(names) * rows)
        same += found.chosen == full
        within += found.chosen == full and share <= 0.5
        proven += found.proven
        wrong_proof += any(out.name == full and out.why != "budget" for out in found.out)
        shares.append(share)
    return {
        "shape": shape, "contests": contests, "same_decision": same / contests,
        "same_and_within_half": within / contests, "samples_mean": float(np.mean(shares)),
        "samples_most": float(np.max(shares)), "proven": proven / contests, "wrongly_dropped_by_proof":
        wrong_proof / contests,
    }


def main() -> None:
    options = arguments(__doc__ or "")
    contests = 100 if options.quick else 400
    began = time.perf_counter()
    table = [run(shape, contests) for shape in SHAPES]
    seconds = time.perf_counter() - began
    claimed = [line for line in table if "no claim" not in line["shape"]]
    worst = min(line["same_and_within_half"] for line in claimed)
    if options.json:
        report("bakeoff", ours=worst, peer=None, ratio=None, unit="share of contests with the full run's decision, of "
               "the worst shape", target=">= 0.95 with at most half of the samples", packages=["numpy", "bucle"],
               shapes=table, seconds=seconds)
        return
    print(f"{'shape':64} {'same':>6} {'samples':>8} {'most':>6} {'proven':>7} {'wrong':>6}")
    for line in table:
        print(f"{line['shape']:64} {line['same_decision']:6.1%} {line['samples_mean']:8.1%} "
              f"{line['samples_most']:6.1%} {line['proven']:7.1%} {line['wrongly_dropped_by_proof']:6.1%}")
    print(json.dumps({"worst_same_and_within_half": worst, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
