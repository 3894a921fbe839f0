"""The index at 100,000 passages: building against Chroma embedded, latency, recall, memory; readers beside a writer.

    python benchmarks/index.py --json [--quick]

Passages are runs of sentences of two public-domain books, Spanish and English (`../shared/data/text`; made-up words
where that is absent). Vectors are the mean of MiniLM's own word vectors, weighted by rarity: real text in real
dimensions, made in seconds, and the same for both. The questions are another draw than the one by which the share of
partitions that are looked into was set. Needs chromadb.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from shared import ROOT, report

TEXT = ROOT.parent / "shared" / "data" / "text"
QUERIES = 300
WARM = 20
K = 10

CHROMA = """
import json, sys, time, numpy as np, chromadb
folder, n = sys.argv[1], int(sys.argv[2])
vectors, texts = np.load(folder + "/vectors.npy"), json.load(open(folder + "/texts.json"))[0]
texts = texts if sys.argv[3] == "texts" else None
made = chromadb.PersistentClient(folder + "/chroma-" + sys.argv[3]).create_collection(
    "passages", metadata={"hnsw:space": "cosine"})
began = time.perf_counter()
for at in range(0, n, 5000):
    end = min(n, at + 5000)
    made.add(ids=[str(i) for i in range(at, end)], embeddings=vectors[at:end],
             documents=texts[at:end] if texts else None)
seconds = time.perf_counter() - began
exact = np.argpartition(-(vectors[n:n + 300] @ vectors[:n].T), 10, axis=1)[:, :10]
times, right = [], []
for i, best in enumerate(exact.tolist()):
    began = time.perf_counter()
    found = made.query(query_embeddings=vectors[n + i:n + i + 1], n_results=10)
    times.append(1000 * (time.perf_counter() - began))
    right.append(len({int(one) for one in found["ids"][0]} & set(best)) / 10)
print(json.dumps({"build_s": round(seconds, 1), "meaning_p50_ms": round(float(np.median(times[20:])), 2),
                  "meaning_p95_ms": round(float(np.percentile(times[20:], 95)), 2),
                  "recall_at_10": round(float(np.mean(right)), 4), "version": chromadb.__version__}))
"""


def pieces(name: str) -> list[str]:
    from bucle.data.sentences import sentences

    if not (TEXT / name).exists():
        rng = random.Random(name)
        return [" ".join(f"w{int(rng.paretovariate(0.8)) % 20000}" for _ in range(15)) + "." for _ in range(15000)]
    words = [s.split() for s in sentences(" ".join((TEXT / name).read_text().split()))]
    return [" ".join(w[at : at + 30]) for w in words for at in range(0, len(w), 30) if len(w[at : at + 30]) > 4]


def make(folder: Path, n: int) -> None:
    """Texts, languages and vectors of `n` passages, QUERIES questions and two updates of 1%, into `folder`."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    from bucle.models.encoder import encoder_folder

    rng = random.Random(2026)
    books = {"es": pieces("quijote-es.txt"), "en": pieces("tinyshakespeare.txt")}
    texts, languages = [], []
    for _ in range(n + QUERIES + 3 * (n // 100)):
        language = "es" if rng.random() < 0.7 else "en"
        book = books[language]
        at = rng.randrange(len(book) - 3)
        texts.append(" ".join([*book[at : at + 3], rng.choice(book)]))
        languages.append(language)
    encoder = encoder_folder()
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = next(v for k, v in load_file(str(encoder / "model.safetensors")).items() if "word_embeddings" in k)
    table = table.astype(np.float32)
    ids: list[Any] = []
    for at in range(0, len(texts), 2000):
        ids += [e.ids for e in tokenizer.encode_batch(texts[at : at + 2000], add_special_tokens=False)]
    seen = np.zeros(len(table))
    for own in ids:
        seen[list(set(own))] += 1
    weight = np.log(len(ids) / (1 + seen)).clip(0).astype(np.float32)
    vectors = np.stack([weight[own] @ table[own] for own in ids])
    vectors -= vectors.mean(0)
    np.save(folder / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    (folder / "texts.json").write_text(json.dumps([texts, languages]))


class Given:
    """An encoder whose vectors are there already; sentences get one of a pool, because only their cost matters here."""

    name, identity = "given", "0" * 64

    def __init__(self, texts: list[str], vectors: Any) -> None:
        self.known = dict(zip(texts, vectors, strict=True))
        self.pool = list(vectors[:4096])

    def embed_array(self, texts: Any) -> Any:
        if not texts:
            return np.zeros((0, len(self.pool[0])), dtype=np.float32)
        return np.stack([self.known[t] if t in self.known else self.pool[len(t) % 4096] for t in texts])


def passages(texts: list[str], languages: list[str], n: int) -> list[Any]:
    from bucle.core.records import Chunk

    return [
        Chunk(
            id=f"chunk:{i:064d}",
            document_id=f"document:{i // 10:064d}",
            path=f"docs/{i // 10}.md",
            text=texts[i],
            place=f"page {i % 10}",
            language=languages[i],
            access=("hr",) if i % 10 == 0 else (),
        )
        for i in range(n)
    ]


def memory(what: str) -> int:
    """This process's VmRSS, or VmHWM (its peak), in KiB: its own, where getrusage begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def quiet(done: int, total: int, note: str = "") -> None: ...


def built(folder: Path, n: int) -> dict[str, Any]:
    """Build, then update a hundredth of the passages, twice."""
    from bucle.customise.retrieve.index_build import write_index

    texts, languages = json.loads((folder / "texts.json").read_text())
    vectors = np.load(folder / "vectors.npy")
    encoder, chunks = Given(texts, vectors), passages(texts, languages, n)
    figures: dict[str, Any] = {}
    steps = (("index", None), ("index2", folder / "index"), ("index3", folder / "index2"))
    for number, (step, previous) in enumerate(steps):
        (folder / step).mkdir()
        began = time.perf_counter()
        meta = write_index(chunks, folder / step, encoder, language="es", report=quiet, previous=previous)
        name = ("build_s", "update_1_percent_s", "update_1_percent_again_s")[number]
        figures[name] = round(time.perf_counter() - began, 2)
        extra = range(n + QUERIES + number * (n // 100), n + QUERIES + (number + 1) * (n // 100))
        chunks = chunks[n // 100 :] + [
            chunks[0].model_copy(update={"id": f"chunk:{i:064d}", "text": texts[i], "language": languages[i]})
            for i in extra
        ]
    assert meta["kept"] == n - n // 100, meta
    sizes = {p: p.stat() for p in (folder / "index").rglob("*") if p.is_file()}
    figures["disk_mb"] = round(sum(s.st_size for s in sizes.values()) / 1e6)
    held = {s.st_ino for s in sizes.values()}
    figures["update_disk_mb"] = round(
        sum(p.stat().st_size for p in (folder / "index2").rglob("*") if p.is_file() and p.stat().st_ino not in held)
        / 1e6
    )
    figures["build_peak_gib"] = round(memory("VmHWM") / 2**20, 2)
    return figures


def asked(folder: Path, n: int) -> dict[str, Any]:
    """Open, ask, compare with exact search."""
    import lancedb  # noqa: F401 - its import is not the index's opening

    from bucle.customise.retrieve.index import Index

    texts, _ = json.loads((folder / "texts.json").read_text())
    questions = [" ".join(t.split()[:10]) for t in texts[n : n + QUERIES]]
    del texts
    base = memory("VmRSS")
    began = time.perf_counter()
    index = Index(folder / "index", None)
    figures: dict[str, Any] = {"open_s": round(time.perf_counter() - began, 3)}
    every = frozenset({"hr"})
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    found: dict[str, list[list[Any]]] = {}
    for name, weight, access in (
        ("hybrid", 0.5, every),
        ("hybrid_hidden_tenth", 0.5, frozenset[str]()),
        ("words", 0.0, every),
        ("meaning", 1.0, every),
        ("hybrid_after_updates", 0.5, every),
    ):
        if name == "hybrid_after_updates":
            index = Index(folder / "index3", None)
        times, found[name] = [], []
        for i, question in enumerate(questions):
            began = time.perf_counter()
            found[name].append(index.search(question, k=K, weight=weight, vector=vectors[n + i], access=access))
            times.append(1000 * (time.perf_counter() - began))
        figures[name] = {
            "p50_ms": round(float(np.median(times[WARM:])), 2),
            "p95_ms": round(float(np.percentile(times[WARM:], 95)), 2),
        }
    figures["reader_mib_above_import"] = round((memory("VmRSS") - base) / 2**10)
    best = np.argpartition(-(np.asarray(vectors[n : n + QUERIES]) @ np.asarray(vectors[:n]).T), K, axis=1)[:, :K]
    figures["recall_at_10"] = round(
        float(
            np.mean(
                [
                    len({int(h.chunk.id[6:]) for h in hits} & set(exact)) / K
                    for hits, exact in zip(found["meaning"], best.tolist(), strict=True)
                ]
            )
        ),
        4,
    )
    return figures


READER = """
import sys, time
from pathlib import Path
from bucle.loop.indexing import search
from bucle.loop.workspace import Workspace
root = Path(sys.argv[1]); ws = Workspace.open(root); times = []; seen = set(); stale = 0
while not (root / "done").exists():
    floor = int((root / "latest").read_text())
    began = time.perf_counter()
    hits = search(ws, "qwxclave", k=5, weight=0)
    times.append(time.perf_counter() - began)
    said = [int(h.chunk.text.split()[-1].rstrip(".")) for h in hits]
    stale += len(said) != 1 or said[0] < floor
    seen.add(said[0])
times.sort()
print(len(times), stale, len(seen), 1000 * times[len(times) // 2])
"""


def side_by_side(folder: Path, n: int, updates: int) -> dict[str, Any]:
    """Four processes read through the ledger's alias while this one writes new versions."""
    from bucle.core.records import Chunk
    from bucle.customise.retrieve.index_build import write_index
    from bucle.loop.indexing import previous_folder, put_in_force
    from bucle.loop.workspace import Workspace

    texts, languages = json.loads((folder / "texts.json").read_text())
    encoder = Given(texts, np.load(folder / "vectors.npy"))
    root = folder / "project"
    (root / "docs").mkdir(parents=True)
    (root / "bucle.yaml").write_text("project: bench\ndata:\n  documents: docs\n")
    ws = Workspace.open(root)
    chunks = passages(texts, languages, n)

    def write(number: int) -> None:
        text = f"La qwxclave es {number}."
        key = Chunk(id=f"chunk:key{number}", document_id="k", path="k.md", text=text, language="es")
        out = root / f"out{number}"
        out.mkdir()
        meta = write_index([key, *chunks], out, encoder, language="es", report=quiet, previous=previous_folder(ws))
        put_in_force(ws, ws.ledger.put_folder("index", out, meta).id)
        shutil.rmtree(out)
        (root / "new").write_text(str(number))
        (root / "new").replace(root / "latest")

    write(1)
    command = [sys.executable, "-c", READER, str(root)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    began = time.perf_counter()
    for number in range(2, updates + 2):
        write(number)
    seconds = time.perf_counter() - began
    (root / "done").touch()
    said = [reader.communicate(timeout=120)[0].split() for reader in readers]
    assert all(reader.returncode == 0 for reader in readers), "a reader failed"
    return {
        "passages": n,
        "updates": updates,
        "update_s": round(seconds / updates, 2),
        "queries": sum(int(s[0]) for s in said),
        "stale": sum(int(s[1]) for s in said),
        "versions_seen": [int(s[2]) for s in said],
        "p50_ms_four_readers": [round(float(s[3]), 1) for s in said],
    }


def alone(step: str, folder: Path, n: int) -> dict[str, Any]:
    """A step of this file in a process of its own, so that memory is its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, "--folder", str(folder), "--n", str(n)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--step", choices=("built", "asked"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=0, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.step:
        print(json.dumps({"built": built, "asked": asked}[said.step](said.folder, said.n)))
        return
    n = 25_000 if said.quick else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, n)
        figures = {**alone("built", folder, n), **alone("asked", folder, n)}
        peers = {}
        for what in ("texts", "vectors alone"):
            command = [sys.executable, "-c", CHROMA, name, str(n), what.split()[0]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"Chroma failed:\n{done.stderr[-2000:]}")
            peers[what] = json.loads(done.stdout.splitlines()[-1])
        beside = side_by_side(folder, 2_000 if said.quick else 20_000, 8)
    peer = min(one["build_s"] for one in peers.values())
    report(
        "index",
        ours=figures["build_s"],
        peer=peer,
        ratio=round(peer / figures["build_s"], 2),
        target="faster than Chroma embedded; hybrid p50 < 15 ms, p95 < 40 ms; recall@10 >= 0.95; nothing stale",
        unit="seconds to index",
        packages=["lancedb", "chromadb", "pyarrow", "numpy"],
        passages=n,
        figures=figures,
        chroma=peers,
        four_readers_one_writer=beside,
    )


if __name__ == "__main__":
    main()
