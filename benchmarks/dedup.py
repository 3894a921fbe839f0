"""Near-duplicate search over messages of 5 to 40 words, ours and datasketch, on the same rows in one run.

    python benchmarks/dedup.py [--rows 200000] [--json]

One row in ten has a near-copy planted (words changed, dropped, added), and which of those pairs are as alike as the
threshold is measured exactly. datasketch works as its documentation says is fastest: `MinHash.bulk`, then an
`insertion_session`, then one query a row; its bands are those that give it our recall, and its own default beside
them. Both measure each proposed pair exactly, so that neither reports one that is none.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent))
from shared import report as write_report

from bucle.data.minhash import jaccard, normal_form, normal_forms, shingles
from bucle.data.similar import near_duplicates, similarity

THRESHOLD = 0.85
Pair = tuple[int, int]


def messages(count: int, seed: int = 7) -> tuple[list[str], list[Pair]]:
    """Rows and the pairs (original, near-copy) planted among them."""
    draw = Random(seed)
    starts = ["me", "no", "ca", "fac", "lu", "tar", "con", "pe", "des", "in", "re", "gas", "cuen", "ba", "pla"]
    ends = ["ción", "do", "ra", "to", "les", "mente", "ría", "s", "nte", "za", "r", "ble", "ño", "dad"]
    words = sorted({a + b + c for a in starts for b in starts for c in ends})
    originals = count - count // 10
    rows = []
    for _ in range(originals):
        message = " ".join(draw.choices(words, k=draw.randint(5, 40)))
        rows.append(message.capitalize() + draw.choice([".", "", "!", "?"]))
    pairs = []
    for of in draw.sample(range(originals), count - originals):
        copy = rows[of].split()
        for _ in range(draw.choice([0, 0, 1, 1, 1, 2, 2, 3])):
            at = draw.randrange(len(copy))
            other = draw.choice(words)
            copy[at : at + 1] = draw.choice([[], [other], [copy[at], other], [copy[at] + "s"]])
            copy = copy or ["vacío"]
        pairs.append((of, len(rows)))
        rows.append(" ".join(copy).upper() if draw.random() < 0.2 else " ".join(copy))
    order = list(range(count))
    draw.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return [rows[old] for old in order], [(place[a], place[b]) for a, b in pairs]


def ours(rows: list[str]) -> tuple[float, list[list[int]]]:
    began = time.perf_counter()
    groups = near_duplicates(rows, THRESHOLD)
    return time.perf_counter() - began, groups


def datasketch(rows: list[str], params: tuple[int, int] | None) -> tuple[float, list[list[int]]]:
    from datasketch import MinHash, MinHashLSH

    began = time.perf_counter()
    forms = normal_forms(rows)
    pieces = [shingles(form) for form in forms]
    hashes = MinHash.bulk([[piece.encode() for piece in of] for of in pieces], num_perm=128)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128, params=params)
    with index.insertion_session() as session:
        for key, one in enumerate(hashes):
            session.insert(key, one)
    parent = list(range(len(rows)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for key, one in enumerate(hashes):
        for other in index.query(one):
            if other < key and root(other) != root(key) and jaccard(pieces[other], pieces[key]) >= THRESHOLD:
                parent[root(key)] = root(other)
    groups: dict[int, list[int]] = {}
    for key in range(len(rows)):
        groups.setdefault(root(key), []).append(key)
    return time.perf_counter() - began, [group for group in groups.values() if len(group) > 1]


def quality(rows: list[str], groups: list[list[int]], truth: list[Pair]) -> tuple[float, float]:
    """Share of the true pairs found together, and of the rows found that are indeed like another of their group."""
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    found = sum(a in group_of and group_of[a] == group_of.get(b) for a, b in truth)
    right = sum(
        any(other != row and similarity(rows[row], rows[other]) >= THRESHOLD for other in group)
        for group in groups
        for row in group
    )
    return found / max(1, len(truth)), right / max(1, len(group_of))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    asked = parser.parse_args()
    rows, pairs = messages(20_000 if asked.quick else asked.rows)
    truth = [(a, b) for a, b in pairs if similarity(rows[a], rows[b]) >= THRESHOLD]
    near = [(a, b) for a, b in truth if normal_form(rows[a]) != normal_form(rows[b])]
    near_duplicates(rows[:100])  # what is imported once is no part of the search
    table = {}
    for name, run in (
        ("bucle", ours),
        ("datasketch, 20 bands of 6 (equal recall)", lambda rows: datasketch(rows, (20, 6))),
        ("datasketch, its default bands", lambda rows: datasketch(rows, None)),
    ):
        seconds, groups = run(rows)
        recall, precision = quality(rows, groups, truth)
        table[name] = {
            "seconds": round(seconds, 2),
            "recall": round(recall, 5),
            "recall_of_changed": round(quality(rows, groups, near)[0], 5),
            "precision": round(precision, 5),
        }
    best, peer = list(table.values())[:2]
    ratio = round(peer["seconds"] / best["seconds"], 1)
    if asked.json:
        write_report(
            "dedup",
            ours=best["seconds"],
            peer=peer["seconds"],
            ratio=ratio,
            target="at least 10 times datasketch's speed at equal recall, 200,000 rows",
            unit="s",
            packages=["rensa", "numpy", "datasketch"],
            rows=len(rows),
            planted=len(pairs),
            alike=len(truth),
            alike_and_changed=len(near),
            threshold=THRESHOLD,
            runs=table,
        )
        return
    alike = f"{len(truth):,} at {THRESHOLD} or more ({len(near):,} changed)"
    print(f"{len(rows):,} rows, {len(pairs):,} copies planted, {alike}")
    print(f"{'':42} {'s':>8} {'recall':>9} {'of changed':>11} {'precision':>10}")
    for name, line in table.items():
        print(
            f"{name:42} {line['seconds']:8.2f} {line['recall']:9.5f} {line['recall_of_changed']:11.5f}"
            f" {line['precision']:10.5f}"
        )
    print(f"{ratio} times datasketch's speed at equal recall")


if __name__ == "__main__":
    main()
