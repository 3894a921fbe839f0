"""What the benchmarks share: one JSON object each, with machine and versions, and whole-process time and memory."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser.parse_args()


def measured(command: Sequence[str], *, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Seconds and peak memory (GiB, the largest process) of `command`, run as its own process. Fails if it fails."""
    code = (
        "import resource, subprocess, sys, json; "
        "r = subprocess.run(json.loads(sys.argv[1]), stdout=subprocess.DEVNULL); "
        "print(json.dumps([r.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20]))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(command))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(env or {})},
    )
    seconds = time.perf_counter() - began
    status, peak = json.loads(done.stdout.splitlines()[-1])
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed with status {status}:\n{done.stderr[-2000:]}")
    return {"seconds": seconds, "peak_gib": peak}


def report(
    name: str,
    *,
    ours: float,
    peer: float | None,
    ratio: float | None,
    target: str,
    unit: str,
    packages: Sequence[str],
    **more: Any,
) -> None:
    """Print the benchmark's one object."""
    versions = {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}
    machine = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    print(
        json.dumps(
            {
                "name": name,
                "ours": ours,
                "peer": peer,
                "ratio": ratio,
                "target": target,
                "unit": unit,
                **more,
                "machine": f"{cpu[0]}, {len(cpu)} cores" if cpu else machine,
                "versions": versions,
                "peak_gib_self": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
            },
            indent=2,
        )
    )
