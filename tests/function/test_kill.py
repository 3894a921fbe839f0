"""`kill -9` at ten random moments of the loop, then the same command: it completes, redoes no finished step, loses
nothing that was stored, and its figures are those of an undisturbed run."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from command import Running, answer, bucle, environment
from small_project import SAMPLE, build

KILLS = 10
SEED = 20_261_121
MEASURED_ANEW = re.compile(
    r"(^|_)(ms|ms_p\d+|p\d+_ms|seconds|tokens_per_s|fit_seconds|created|at|id|key|outputs|status|pareto|flips|assumes)$")
"""Keys of a story's times and latencies, and of names (an evaluation's holds its latencies). `pareto` is drawn over
latencies, `flips` has limits on them, `assumes` a speed measured here."""
NAME = re.compile(r"[0-9a-f]{12,64}")
TABLES = {"steps": "key, finished_at, name", "nodes": "id", "aliases": "name, node, at", "traces": "id, seq",
          "trace_texts": "seq, body", "feedback": "id, at"}
DIES_BEFORE_COMMIT = """
import os, sys
from pathlib import Path
from bucle.cli.main import main
from bucle.execute import steps

died, commit = Path(sys.argv[1]), steps.Runner._commit

def dies_once(self, key, name, *rest):
    already = died.read_text().splitlines() if died.exists() else []
    if name not in already:
        died.write_text("\\n".join([*already, name]))
        os._exit(9)
    return commit(self, key, name, *rest)

steps.Runner._commit = dies_once
main(["run", sys.argv[2]])
"""
"""The first step of a run that did not die before does."""

pytestmark = pytest.mark.torch


def test_kills_of_the_small_loop(finished: Path, tmp_path: Path) -> None:
    kill_and_compare(finished, build(tmp_path / "soporte"), tmp_path, every=3)


@pytest.mark.slow
def test_ten_kills_of_the_small_loop(finished: Path, tmp_path: Path) -> None:
    kill_and_compare(finished, build(tmp_path / "soporte"), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_of_the_demo(tmp_path: Path) -> None:
    fresh = shutil.ignore_patterns(".bucle", "__pycache__")
    undisturbed = Path(shutil.copytree(SAMPLE, tmp_path / "undisturbed" / "soporte", ignore=fresh))
    done = bucle("run", undisturbed, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    kill_and_compare(undisturbed, Path(shutil.copytree(SAMPLE, tmp_path / "soporte", ignore=fresh)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_death_before_each_commit(finished: Path, tmp_path: Path) -> None:
    """Each step's work done, and the process gone before it is written down: it is done again, to the same end."""
    folder, died = build(tmp_path / "soporte"), tmp_path / "died.txt"
    for _ in range(len(stored(finished)["steps"])):
        done = subprocess.run([sys.executable, "-c", DIES_BEFORE_COMMIT, str(died), str(folder)], capture_output=True,
                              text=True, env=environment(), timeout=300)
        assert done.returncode == 9, done.stderr
    assert bucle("run", folder).returncode == 0
    assert figures(answer("report", folder)) == figures(answer("report", finished))
    counts, expected = ({t: len(rows) for t, rows in stored(p).items() if t != "nodes"} for p in (folder, finished))
    assert counts == expected


def kill_and_compare(undisturbed: Path, folder: Path, scratch: Path, *, every: int = 1) -> None:
    """Kill `bucle run folder` at ten moments (or at every third of them), let it end, and compare it with the finished
    project `undisturbed`."""
    plan = moments(undisturbed, random.Random(SEED))
    assert len(plan) == KILLS
    plan = plan[every - 1 :: every]
    committed: dict[str, set[tuple[str, ...]]] = {table: set() for table in TABLES}
    late = 0
    for number, (step, after) in enumerate(plan):
        with Running("run", folder, log=scratch / f"{number}.log") as run:
            if step:
                run.wait_for(f" {step} (")
            time.sleep(after)
            if run.process.poll() is None:
                run.kill()
            else:
                late += 1
        for table, rows in stored(folder).items():
            committed[table] |= rows
    assert late <= len(plan) // 3, "on a machine that is busy now and idle then, a kill may find the run at its end"
    assert len(committed["steps"]) >= len(stored(undisturbed)["steps"]) // 2, "the kills came too early to test much"

    done = bucle("run", folder, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    now = stored(folder)
    for table, rows in committed.items():
        assert rows <= now[table], f"{table}: {len(rows - now[table])} committed rows were lost or made again"
    kept = re.findall(r"kept \S+ +(.+?) \(", done.stderr)
    assert sorted(kept) == sorted(name for _, _, name in committed["steps"])
    assert len({name for _, _, name in now["steps"]}) == len(now["steps"]), "a step finished twice, under two keys"

    ours, theirs = (figures(answer("report", project)) for project in (folder, undisturbed))
    assert ours == theirs
    counts, expected = ({t: len(rows) for t, rows in stored(p).items() if t != "nodes"} for p in (folder, undisturbed))
    assert counts == expected  # of nodes there may be more: a step that is killed before its end has made some


def moments(undisturbed: Path, rng: random.Random) -> list[tuple[str, float]]:
    """Ten moments drawn over the undisturbed run, as (the step that has just finished, seconds after it), in order.

    Each kill waits for the same place in the loop: a time on the clock would come before the first step is done again.
    """
    with closing(sqlite3.connect(undisturbed / ".bucle" / "ledger.db")) as db:
        began = db.execute("SELECT started_at FROM runs ORDER BY seq LIMIT 1").fetchone()[0]
        rows = db.execute("SELECT name, finished_at FROM steps ORDER BY finished_at").fetchall()
    start = datetime.fromisoformat(began)
    ends = [("", 0.0)] + [(name, (datetime.fromisoformat(at) - start).total_seconds()) for name, at in rows]
    drawn = sorted(rng.uniform(0, ends[-1][1]) for _ in range(KILLS))
    return [(name, moment - at) for moment in drawn
            for name, at in [max((e for e in ends if e[1] <= moment), key=lambda e: e[1])]]


def stored(folder: Path) -> dict[str, set[tuple[str, ...]]]:
    """What is committed, by table: finished steps and when they finished, nodes, aliases, traces, feedback."""
    ledger = folder / ".bucle" / "ledger.db"
    if not ledger.exists():
        return {}
    with closing(sqlite3.connect(ledger, timeout=30)) as db:
        there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {table: set(db.execute(f"SELECT {columns} FROM {table}"))
                for table, columns in TABLES.items() if table in there}


def figures(story: Any) -> Any:
    """A story without what is measured anew in each run, and with its alerts as what, where, who and when."""
    monitor = story.get("monitor") or {}
    alerts = []
    for a in monitor.pop("alerts", []):
        days = () if a["kind"] == "latency" else (a["start"], a["end"])  # when latency is too high is measured anew
        alerts.append((a["kind"], a["route"], a["detail"].get("user"), *days))
    del story["steps"], story["recommendation"]
    for gate in story["gates"]:
        gate["checks"] = [c if "_ms" not in c["gate"] else (c["gate"], c["passed"]) for c in gate["checks"]]
    for link in (story.get("why") or {}).get("chain", []):
        link.pop("detail"), link.pop("said", None)
    return [alerts, plain(story)]


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not MEASURED_ANEW.search(key)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return NAME.sub("…", value) if isinstance(value, str) else value
