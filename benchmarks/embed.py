"""Texts embedded a second on this CPU: Bucle's encoder beside sentence-transformers' default, in one run.

    python benchmarks/embed.py [--quick] [--json]

The packaged all-MiniLM-L6-v2. The peer is `SentenceTransformer(...).encode(texts)` as it comes: float32, batches of 32,
torch's own threads. Paragraphs and questions of XQuAD in Spanish and English where it lies in ../shared/data, else text
made here of the same lengths (--quick: a quarter). Rounds go by turns, so that other work meets both; the
median round counts. Cosines are to the peer's vectors. Memory and start-up are of a process of their own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from shared import ROOT, arguments, report

os.environ.setdefault("HF_HUB_OFFLINE", "1")
XQUAD = ROOT.parent / "shared" / "data" / "xquad"
ROUNDS = 3
ONE = """
import json, sys, time
began = time.perf_counter()
if sys.argv[1] == "peer":
    from sentence_transformers import SentenceTransformer
    from bucle.models.encoder import encoder_folder
    model = SentenceTransformer(str(encoder_folder()), device="cpu", local_files_only=True)
    embed = lambda texts: model.encode(texts)
else:
    from bucle.models.encoder import Encoder
    embed = Encoder(precision=sys.argv[1]).embed_array
embed(["hello"])
first = time.perf_counter() - began
embed(json.load(sys.stdin))
# getrusage would tell the peak of the process that began this one
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(first, int(peak.split()[1]) / 2**20)
"""


def texts() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for language in ("es", "en"):
        path = XQUAD / f"xquad.{language}.json"
        if path.is_file():
            paragraphs = [p for a in json.loads(path.read_text())["data"] for p in a["paragraphs"]]
            found[f"paragraphs {language}"] = [p["context"] for p in paragraphs]
            found[f"questions {language}"] = [q["question"] for p in paragraphs for q in p["qas"]]
            continue
        rng = np.random.default_rng(0)
        words = (ROOT / "README.md").read_text().split()
        for kind, count, size in (("paragraphs", 120, 130), ("questions", 600, 11)):
            found[f"{kind} {language}"] = [" ".join(rng.choice(words, max(3, int(rng.normal(size, size / 3)))))
                                           for _ in range(count)]
    return found


def timed(embed: Callable[[Sequence[str]], Any], rows: Sequence[str]) -> tuple[np.ndarray, float, float]:
    """Vectors, seconds, and seconds of processor time."""
    began, used = time.perf_counter(), time.process_time()
    vectors = np.asarray(embed(rows))
    return vectors, time.perf_counter() - began, time.process_time() - used


def alone(kind: str, rows: Sequence[str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", ONE, kind], input=json.dumps(rows), capture_output=True, text=True,
                          check=True)
    first, peak = map(float, done.stdout.split()[-2:])
    return {"first_text_s": round(first, 2), "peak_gib": round(peak, 3)}


def main() -> None:
    options = arguments(__doc__ or "")
    from sentence_transformers import SentenceTransformer

    from bucle.models.encoder import Encoder, encoder_folder

    sets = {kind: rows[:: 4 if options.quick else 1] for kind, rows in texts().items()}
    model = SentenceTransformer(str(encoder_folder()), device="cpu", local_files_only=True)
    ours = {precision: Encoder(precision=precision) for precision in ("bf16", "int8", "fp32")}
    embedders: dict[str, Callable[[Sequence[str]], Any]] = {"peer": lambda rows: model.encode(list(rows))}
    embedders |= {precision: encoder.embed_array for precision, encoder in ours.items()}
    for embed in embedders.values():
        embed(next(iter(sets.values()))[:8])
    table: dict[str, Any] = {}
    for kind, rows in sets.items():
        runs: dict[str, list[tuple[np.ndarray, float, float]]] = {name: [] for name in embedders}
        for _ in range(ROUNDS):
            for name, embed in embedders.items():
                runs[name].append(timed(embed, rows))
        peer = runs["peer"][0][0]
        wall = {name: statistics.median(s for _, s, _ in found) for name, found in runs.items()}
        cpu = {name: statistics.median(s for _, _, s in found) for name, found in runs.items()}
        table[kind] = {"texts": len(rows), "peer_per_s": round(len(rows) / wall["peer"], 1)}
        for name in ours:
            cosine = (runs[name][0][0] * peer).sum(1) / np.linalg.norm(peer, axis=1)
            table[kind][name] = {
                "per_s": round(len(rows) / wall[name], 1), "ratio": round(wall["peer"] / wall[name], 2),
                "ratio_cpu_time": round(cpu["peer"] / cpu[name], 2), "cosine_min": round(float(cosine.min()), 5),
                "cosine_mean": round(float(cosine.mean()), 5)}
        if not options.json:
            print(kind, json.dumps(table[kind]), flush=True)
    some = next(iter(sets.values()))[:60]
    processes = {name: alone(name, some) for name in embedders}
    auto = Encoder().precision
    least = min(table[kind][auto]["ratio"] for kind in sets)
    worst = next(kind for kind in sets if table[kind][auto]["ratio"] == least)
    report("embed", ours=table[worst][auto]["per_s"], peer=table[worst]["peer_per_s"], ratio=least,
           target="at least 4 times, cosine at least 0.999 (bf16) or 0.99 (int8)", unit=f"texts/s, {worst}, {auto}",
           packages=["openvino", "torch", "sentence-transformers", "tokenizers"], kinds=table, processes=processes)


if __name__ == "__main__":
    main()
