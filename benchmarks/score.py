"""Scoring 10,000 predictions: BLEU, chrF, ROUGE and a clustered bootstrap of 10,000 draws, beside rouge-score.

    python benchmarks/score.py [--quick] [--json]

Predictions of 5 to 60 words over a vocabulary with the frequencies of natural text, about two thirds of the words
those of the reference; 2,000 sources of five rows each. On two cores. rouge-score scores the same rows.
"""

from __future__ import annotations

import os
import time

import numpy as np
from shared import arguments, report

CORES = 2
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
os.environ["RAYON_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(CORES)

from bucle.evaluate.metrics import Sample, measure  # noqa: E402 -- after the cores are set
from bucle.evaluate.resample import score_intervals  # noqa: E402

KINDS = ["rouge1", "rouge2", "rougeL"]


def predictions(rows: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkáéíóúñ"))
    share = 1 / np.arange(1, len(letters) + 1)
    vocabulary = ["".join(rng.choice(letters, rng.integers(1, 12), p=share / share.sum())) for _ in range(20_000)]
    frequency = 1 / np.arange(1, len(vocabulary) + 1)
    frequency /= frequency.sum()
    found = []
    for _ in range(rows):
        wanted = rng.choice(len(vocabulary), rng.integers(5, 61), p=frequency)
        said = np.where(rng.random(len(wanted)) < 0.65, wanted, rng.choice(len(vocabulary), len(wanted), p=frequency))
        said = said[: max(3, int(len(said) * rng.uniform(0.7, 1.0)))]
        found.append(Sample(" ".join(vocabulary[i] for i in said), [" ".join(vocabulary[i] for i in wanted) + "."]))
    return found


def main() -> None:
    options = arguments(__doc__ or "")
    rows, draws = (1000, 1000) if options.quick else (10_000, 10_000)
    samples = predictions(rows)
    clusters = [str(place // 5) for place in range(rows)]
    seconds: dict[str, float] = {}

    began = time.perf_counter()
    texts = measure(["bleu", "chrf"], samples)
    seconds["bleu_chrf"] = time.perf_counter() - began
    runs = []
    for _ in range(3):
        began = time.perf_counter()
        rouge = measure(KINDS, samples)
        runs.append(time.perf_counter() - began)
    seconds["rouge"] = runs[0]  # the sum counts what a first call costs, the comparison a later one
    again = float(np.median(runs))
    began = time.perf_counter()
    found = score_intervals(texts | rouge, clusters=clusters, draws=draws)
    seconds["bootstrap"] = time.perf_counter() - began
    ours = sum(seconds.values())
    began = time.perf_counter()
    score_intervals(texts | rouge, draws=draws)
    unclustered = time.perf_counter() - began

    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(KINDS)
    began = time.perf_counter()
    reference = [theirs.score(one.references[0], one.output) for one in samples]
    peer = time.perf_counter() - began
    apart = max(abs(mine - one[kind].fmeasure) for kind in KINDS
                for mine, one in zip(rouge[kind].per_row, reference, strict=True))
    assert apart < 1e-6, apart

    if options.json:
        report("score", ours=ours, peer=None, ratio=None, unit="seconds", target="< 20 s on 2 cores; ROUGE >= 5 times "
               "rouge-score", packages=["sacrebleu", "rouge-score-rs", "rouge-score", "numpy"], rows=rows, draws=draws,
               cores=CORES, parts=seconds, bootstrap_of_unclustered_rows=unclustered, rouge_score_seconds=peer,
               rouge_median_of_3=again,
               rouge_times_faster=peer / again, rouge_largest_difference=apart,
               scores={name: one.model_dump() for name, one in found.items()})
        return
    print(f"{rows:,} predictions, {draws:,} draws, {CORES} cores")
    for name, took in (*seconds.items(), ("all", ours), ("(bootstrap of unclustered rows)", unclustered)):
        print(f"  {name:34} {took:8.2f} s")
    print(f"  {'ROUGE by rouge-score':34} {peer:8.2f} s: {peer / seconds['rouge']:.0f} times ours, "
          f"largest difference {apart:.1e}")
    for name, one in found.items():
        print(f"  {name:34} {one.value:8.4f}  {one.low:.4f} to {one.high:.4f}")


if __name__ == "__main__":
    main()
