"""One million JSONL rows through clean, split and version, as a user runs it: seconds and peak memory, and a kill -9.

    python benchmarks/stream.py [--rows 1000000] [--no-peer] [--json]

Ours is `bucle run --until data` on a project folder, in its own process, run whole; then again in another folder,
killed half way through cleaning and started again. The peer does the same job in one run: Hugging Face `datasets`
(load, mask e-mails and keys, drop exact copies), datasketch's MinHashLSH for near copies, scikit-learn's
train_test_split by label, `save_to_disk`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from shared import report as write_report

SETTINGS = """project: stream
language: es
data:
  personal_data: {email: mask}
  rows: {duplicates: near}
tasks:
  intents: {kind: classify, data: rows.jsonl, text: text, label: label, group: customer, time: date}
"""
PEER = r"""
import re, sys
from datasets import load_dataset
from datasketch import MinHash, MinHashLSH
from sklearn.model_selection import train_test_split

data = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2] + "/cache")
email, key = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"), re.compile(r"sk-[A-Za-z0-9]{20,}")
data = data.map(lambda row: {"text": key.sub("", email.sub("[email]", row["text"]))})
seen = set()
def new(row):
    known = (row["text"], row["label"]) in seen
    seen.add((row["text"], row["label"]))
    return not known
data = data.filter(new)
index, keep = MinHashLSH(threshold=0.85, num_perm=128), []
for at in range(0, len(data), 1000):
    texts = data[at : at + 1000]["text"]
    pieces = [[text[n : n + 5].encode() for n in range(max(1, len(text) - 4))] for text in texts]
    for n, one in enumerate(MinHash.bulk(pieces, num_perm=128), at):
        if not index.query(one):
            index.insert(n, one)
            keep.append(n)
data = data.select(keep)
rest, test = train_test_split(range(len(data)), test_size=0.2, random_state=7, stratify=data["label"])
data.select(rest).save_to_disk(sys.argv[2] + "/train")
data.select(test).save_to_disk(sys.argv[2] + "/test")
"""


def write_rows(path: Path, count: int) -> None:
    """Messages of 5 to 20 words; 3% exact copies, 3% near ones, 2% with an e-mail, 1% with a key."""
    draw = Random(1)
    starts = ["fac", "se", "ave", "con", "tari", "po", "cam", "titu", "li", "pa", "ri", "me", "lu", "ga", "zo"]
    words = [a + b + c for a in starts for b in starts for c in ("ción", "dor", "mente", "ndo", "nza", "ble", "ría")]
    before: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            kind = draw.random() if before else 1.0
            label = f"intent {draw.randrange(20)}"
            text = " ".join(draw.choices(words, k=draw.randint(5, 20)))
            if kind < 0.06:
                text, label = draw.choice(before)
            if 0.03 <= kind < 0.06:
                pieces = text.split()
                pieces[draw.randrange(len(pieces))] = draw.choice(words)
                text = " ".join(pieces)
            elif 0.06 <= kind < 0.08:
                text += f" {draw.choice(words)}.{draw.randrange(999)}@correo.example.com"
            elif 0.08 <= kind < 0.09:
                text += " sk-" + "".join(draw.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=40))
            if len(before) < 50_000:
                before.append((text, label))
            date = f"2024-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}"
            row = {"text": text, "label": label, "customer": f"c{draw.randrange(count)}", "date": date}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def project(folder: Path, rows: Path) -> Path:
    folder.mkdir()
    (folder / "bucle.yaml").write_text(SETTINGS)
    (folder / "rows.jsonl").hardlink_to(rows)
    return folder


def run(command: list[str], kill_when: Any = None) -> dict[str, Any]:
    """Seconds and peak GiB (the process and those it started, each by itself, summed) of `command`."""
    began, peak = time.perf_counter(), 0.0
    log = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process ended
    child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    while child.poll() is None:
        peak = max(peak, memory(child.pid))
        if kill_when and kill_when():
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return {"seconds": time.perf_counter() - began, "peak_gib": peak, "killed": True}
        time.sleep(0.1)
    if child.returncode:
        log.seek(0)
        raise SystemExit(f"{command[:4]} failed with {child.returncode}:\n{log.read()[-2000:].decode()}")
    return {"seconds": time.perf_counter() - began, "peak_gib": peak, "killed": False}


def memory(group: int) -> float:
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            except (OSError, ValueError):
                continue
    return float(total / 2**30)


def kept(folder: Path) -> int:
    """Rows cleaned so far, by the bytes of what the step writes as it goes."""
    return sum(file.stat().st_size for file in folder.rglob("rows.jsonl") if file.parent != folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--no-peer", action="store_true", help="ours only (the peer takes minutes and gigabytes)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    asked = parser.parse_args()
    count = 20_000 if asked.quick else asked.rows
    with tempfile.TemporaryDirectory(prefix="bucle-stream-") as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", count)
        command = [str(Path(sys.executable).parent / "bucle"), "run", "--until", "data", "--quiet", "--json"]
        whole = run([*command, str(project(folder / "whole", folder / "rows.jsonl"))])
        size = (folder / "rows.jsonl").stat().st_size
        again = project(folder / "again", folder / "rows.jsonl")
        killed = run([*command, str(again)], kill_when=lambda: kept(again) > size)
        if not killed["killed"]:
            raise SystemExit("The run ended before it could be killed: give more rows.")
        resumed = run([*command, str(again)])
        table = {"bucle": whole, "bucle, until kill -9": killed, "bucle, gone on": resumed}
        if not asked.no_peer:
            script = [sys.executable, "-c", PEER, str(folder / "rows.jsonl"), str(folder)]
            table["datasets + datasketch + scikit-learn"] = run(script)
    redone = killed["seconds"] + resumed["seconds"] - whole["seconds"]
    peer = table.get("datasets + datasketch + scikit-learn")
    if asked.json:
        write_report(
            "stream",
            ours=round(max(whole["peak_gib"], resumed["peak_gib"]), 3),
            peer=round(peer["peak_gib"], 3) if peer else None,
            ratio=round(peer["peak_gib"] / whole["peak_gib"], 2) if peer else None,
            target="one million rows through clean, split and version in under 1 GiB",
            unit="GiB",
            packages=["rensa", "datasketch", "datasets", "scikit-learn"],
            rows=count,
            runs=table,
            redone_seconds=round(redone, 1),
        )
        return
    print(f"{count:,} rows")
    for label, one in table.items():
        print(f"{label:40} {one['seconds']:8.1f} s {one['peak_gib']:7.3f} GiB")
    print(f"redone after the kill: {redone:.1f} s of {whole['seconds']:.1f} s")


if __name__ == "__main__":
    main()
