"""What a gateway costs: ours and LiteLLM's proxy in front of one mock model server, same load, same core, same run.

    python benchmarks/gateway.py --peer /path/to/venv/bin/python [--quick] [--json]

PYTHON of `--peer` is that of a virtual environment with `pip install 'litellm[proxy]'`. Ours runs as a user runs it:
traces, journal, redaction, default guards, keys and budgets on; then once more without guards. Each gateway is one
process on one core, the mock and the load on another. Latency at 200 requests a second (20 for the peer, which holds no
more) in an open loop, and twice: at the ASGI edge, from the app being called until its last byte is sent, less the
median that the mock says it took itself (what goes over the wire to the mock and back counts as ours); and for the
client, less the percentile of the mock asked directly (which has one wire and two processes' wake-ups fewer).
Saturation is asked by 1, 16 and 64 connections. Every question and answer is another. Fails where a target is missed:
at the edge p50 < 1 ms and p99 < 5 ms, and at least 8 times the peer's requests a second. Under 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway_load import percentiles

HERE = Path(__file__).parent
RATE, PEER_RATE, P50_MS, P99_MS, RATIO = 200, 20, 1.0, 5.0, 8.0
MALICIOUS = ("1.82.7", "1.82.8")
"""Releases of litellm that stole credentials."""
ASKED = ("Please tell me, in a few words, what a gateway in front of a language model should cost the people who use "
         "it every day of their working lives, and why they should care about it at all: I never noticed "
         "the one of @@@@@@@@ so far.")


def cores() -> tuple[int, int]:
    """The core of the gateways, and that of mock and load."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


@contextlib.contextmanager
def process(command: list[str], core: int, log: Path, **more: Any) -> Iterator[subprocess.Popen[str]]:
    with log.open("w") as errors:
        made = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, stderr=errors,
                                text=True, start_new_session=True, **more)
        try:
            yield made
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGTERM)
            try:
                made.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(made.pid, signal.SIGKILL)
                made.wait()


def said(made: subprocess.Popen[str]) -> list[str]:
    assert made.stdout is not None
    line = made.stdout.readline().split()
    if not line:
        raise SystemExit(f"{made.args} did not start")
    return line


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of a process and its children."""
    seconds = mib = 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    tree = [str(pid)]
    for one in tree:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / ticks
            mib += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            for task in Path(f"/proc/{one}/task").iterdir():
                tree += (task / "children").read_text().split()
    return seconds, mib


class Bench:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def load(self, port: int, *, stream: bool, key: str = "", pid: int = 0, seconds: float = 0, **how: Any
             ) -> dict[str, Any]:
        messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": ASKED}]
        body = json.dumps({"model": "mock", "messages": messages, **({"stream": True} if stream else {})},
                          separators=(",", ":"))
        plan = {"port": port, "body": body, "seconds": seconds or self.seconds, **how}
        if key:
            plan["headers"] = {"authorization": f"Bearer {key}"}
        before = usage(pid)[0] if pid else 0.0
        done = subprocess.run(["taskset", "-c", str(cores()[1]), sys.executable, str(HERE / "gateway_load.py"),
                               json.dumps(plan)], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        if pid:
            found["cpu_us"] = round((usage(pid)[0] - before) * 1e6 / max(1, found["requests"]))
        return found

    def gateway(self, port: int, key: str, pid: int, mock: int, direct: dict[str, Any], *, rate: int = RATE,
                connections: tuple[int, ...] = (1, 16, 64)) -> dict[str, Any]:
        """Everything that is measured of one gateway."""
        found: dict[str, Any] = {}
        for name, stream in (("plain", False), ("stream", True)):
            self.load(port, stream=stream, key=key, seconds=1, rate=min(50, rate))  # connections, caches
            times(port), times(mock)
            calm = self.load(port, stream=stream, key=key, pid=pid, rate=rate, seconds=1.5 * self.seconds)
            edge, took, base = times(port), times(mock), direct[name]
            added = {f"{what}_{p}": round(calm[f"{what}_ms"].get(p, float("inf")) - base[f"{what}_ms"][p], 3)
                     for what in ("first", "last") for p in ("p50", "p99")}
            at_edge = {f"{what}_{p}": round(edge[what][p] - took[what]["p50"], 3)
                       for what in ("first", "last") for p in ("p50", "p99")}
            full = {c: self.load(port, stream=stream, key=key, pid=pid, connections=c) for c in connections}
            found[name] = {"edge_ms": at_edge, "client_ms": added, "mock_ms": took, "at_rate": calm, "saturated": {
                c: {k: v for k, v in one.items() if k in ("rps", "errors", "cpu_us")} for c, one in full.items()},
                "rps": max(one["rps"] for one in full.values())}
        found["rss_mib"] = round(usage(pid)[1])
        return found


def times(port: int) -> dict[str, dict[str, float]]:
    """Percentiles of what a server timed itself since it was asked last."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/times", timeout=30) as reply:
        rows = json.load(reply)
    return {what: percentiles([row[at] / 1000 for row in rows]) for at, what in enumerate(("first", "last"))}


@contextlib.contextmanager
def ours(upstream: int, folder: Path, guards: bool) -> Iterator[tuple[int, str, int]]:
    plan = json.dumps({"upstream": upstream, "folder": str(folder / f"ledger-{guards}"), "guards": guards})
    with process([sys.executable, str(HERE / "gateway_serve.py"), plan], cores()[0], folder / "ours.log") as made:
        port, key = said(made)
        yield int(port), key, made.pid


@contextlib.contextmanager
def litellm(python: Path, upstream: int, folder: Path) -> Iterator[tuple[int, str, int]]:
    key = "sk-" + secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({  # JSON is YAML
        "model_list": [{"model_name": "mock", "litellm_params": {
            "model": "openai/mock", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}}],
        "general_settings": {"master_key": key}, "litellm_settings": {"telemetry": False, "set_verbose": False}}))
    command = [str(python), str(HERE / "gateway_edge.py"), "--config", str(config), "--port", str(port), "--host",
               "127.0.0.1", "--num_workers", "1"]
    env = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
           "NO_PROXY": "127.0.0.1"}
    with process(command, cores()[0], folder / "litellm.log", env=env) as made:
        end = time.monotonic() + 180
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if made.poll() is not None or time.monotonic() > end:
                raise SystemExit("litellm did not start:\n" + (folder / "litellm.log").read_text()[-3000:])
            time.sleep(0.5)
        time.sleep(3)
        yield port, key, made.pid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="python of an environment with litellm[proxy]")
    parser.add_argument("--quick", action="store_true", help="2 s a measurement instead of 4")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    bench, found = Bench(2 if asked.quick else 4), dict[str, Any]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with process([sys.executable, str(HERE / "gateway_mock.py")], cores()[1], folder / "mock.log") as made:
            mock = int(said(made)[0])
            direct = {name: bench.load(mock, stream=name == "stream", rate=RATE) for name in ("plain", "stream")}
            found["direct"] = {**direct, "rps": bench.load(mock, stream=False, connections=16)["rps"]}
            for name, guards in (("ours", True), ("ours_without_guards", False)):
                with ours(mock, folder, guards) as (port, key, pid):
                    found[name] = bench.gateway(port, key, pid, mock, direct,
                                                connections=(1, 16, 64) if guards else (16,))
            if asked.peer is not None:
                tell = "import importlib.metadata as m; print(m.version('litellm'))"
                version = subprocess.run([str(asked.peer), "-c", tell], capture_output=True, text=True,
                                         check=True).stdout.strip()
                if version in MALICIOUS:
                    raise SystemExit(f"litellm {version} steals credentials: install the newest")
                with litellm(asked.peer, mock, folder) as (port, key, pid):
                    found["litellm"] = {"version": version, **bench.gateway(port, key, pid, mock, direct,
                                                                                rate=PEER_RATE)}
    missed = judge(found)
    print(json.dumps({**found, "missed": missed}) if asked.json else table(found, missed))
    return 1 if missed else 0


def judge(found: dict[str, Any]) -> list[str]:
    missed = []
    for kind in ("plain", "stream"):
        added = found["ours"][kind]["edge_ms"]
        for what in ("first", "last") if kind == "stream" else ("last",):
            missed += [f"{kind}: at the edge {what} byte {p} {added[f'{what}_{p}']:.2f} ms, not under {limit:g}"
                       for p, limit in (("p50", P50_MS), ("p99", P99_MS)) if added[f"{what}_{p}"] >= limit]
        if "litellm" in found:
            ratio = found["ours"][kind]["rps"] / found["litellm"][kind]["rps"]
            found.setdefault("ratio", {})[kind] = round(ratio, 2)
            if ratio < RATIO:
                missed.append(f"{kind}: {ratio:.1f} times the peer's requests a second, not {RATIO:g}")
        if errors := found["ours"][kind]["at_rate"]["errors"]:
            missed.append(f"{kind}: {errors} errors")
    return missed


def table(found: dict[str, Any], missed: list[str]) -> str:
    alone = found["direct"]["plain"]["last_ms"]
    lines = [f"mock alone: {found['direct']['rps']:,.0f} requests/s; at {RATE}/s p50 {alone['p50']} ms, "
             f"p99 {alone['p99']} ms, for the client", "",
             f"{'added ms':28}{'at the ASGI edge':^32}{'for the client':^32}",
             f"{'':22}{'':6}" + 2 * f"{'p50':>8}{'p99':>8}{'first p50':>10}{'p99':>6}"
             + f"{'rps 1':>8}{'16':>8}{'64':>8}{'us CPU':>8}{'MiB':>6}"]
    for name in ("ours", "ours_without_guards", "litellm"):
        for kind in ("plain", "stream") if name in found else ():
            one = found[name][kind]
            full = one["saturated"]
            rates = "".join(f"{full[c]['rps']:8,.0f}" if c in full else f"{'':8}" for c in (1, 16, 64))
            added = "".join(f"{a['last_p50']:8.2f}{a['last_p99']:8.2f}{a['first_p50']:10.2f}{a['first_p99']:6.2f}"
                            for a in (one["edge_ms"], one["client_ms"]))
            lines.append(f"{name:22}{kind:6}{added}{rates}{full[16]['cpu_us']:8,}{found[name]['rss_mib']:6}")
    if "ratio" in found:
        lines += [f"(litellm's latencies at {PEER_RATE} requests/s)", "", "times the peer's requests/s at saturation: "
                  + ", ".join(f"{k} {v}" for k, v in found["ratio"].items())]
    return "\n".join([*lines, "", *(f"MISSED {one}" for one in missed)])


if __name__ == "__main__":
    sys.exit(main())
