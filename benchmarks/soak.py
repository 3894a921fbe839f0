"""A server under load whose engine and whose own process are killed half-way: what was lost, and whether the money is
right.

    python benchmarks/soak.py [--quick] [--json]

`bucle serve` in front of a provider (a mock that fails 1% of its calls) and of a small model in an engine's process,
with keys of two teams, one of which runs out of its budget. 64 clients send 10,000 requests. At 40% the engine is
killed (SIGKILL), at 60% the server itself, which is then started again on the same port. Afterwards every answer that a
client got whole must be in the ledger with the same dollars; what the ledger counts as spent must be what its traces
say, to the nano-dollar; no budget may be passed by more than what was under way. Fails where any of it is not so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import arguments, report

CLIENTS, REQUESTS, FAILURES = 64, 10_000, 0.01
BUDGET_USD = 1.0
PRICES = {"usd_per_million_in": 50.0, "usd_per_million_out": 200.0}


async def provider(port_to: asyncio.Future[int], seed: int) -> None:
    """A provider that fails one call in a hundred (500, or a broken connection), else answers after 2 to 10 ms."""
    rng = random.Random(seed)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                sizes = [int(line.split(b":")[1]) for line in head.split(b"\r\n")
                         if line.lower().startswith(b"content-length:")]
                body = json.loads(await reader.readexactly(sizes[0])) if sizes else {}
                await asyncio.sleep(rng.uniform(0.002, 0.01))
                luck = rng.random()
                if luck < FAILURES / 2:
                    break
                words = len(str(body.get("messages", "")).split())
                out = rng.randint(5, 40)
                said = {"index": 0, "message": {"role": "assistant", "content": "de acuerdo " * out},
                        "finish_reason": "stop"}
                answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "mock", "choices": [said],
                          "usage": {"prompt_tokens": words, "completion_tokens": out, "total_tokens": words + out}}
                status = "500 Internal Server Error" if luck < FAILURES else "200 OK"
                data = json.dumps(answer if luck >= FAILURES else {"error": {"message": "overheated"}}).encode()
                writer.write(f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
                             f"content-length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    port_to.set_result(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def small_model(folder: Path) -> None:
    """A tiny model in `folder`, pretrained for a moment: what it says does not matter here."""
    from bucle.customise.pretrain import pretrain

    (folder / "work").mkdir(parents=True)
    (folder / "model").mkdir()
    pretrain(["El cliente pregunta por su factura. Le respondemos hoy.\n" * 40] * 20, folder / "model", folder / "work",
             steps=10, width=64, layers=2, context=512, batch_tokens=1024, seed=1,
             report=lambda done, total, note="": None)


@dataclass
class Told:
    """What the clients saw."""

    answers: dict[str, float] = field(default_factory=dict)  # trace -> dollars
    statuses: Counter[str] = field(default_factory=Counter)
    by_key: Counter[str] = field(default_factory=Counter)


class Server:
    """`bucle serve` as a process of its own, on one port through its restarts."""

    def __init__(self, project: Path, port: int) -> None:
        self.project, self.port = project, port
        self.process: subprocess.Popen[str] | None = None
        self.started_s: list[float] = []

    def start(self) -> None:
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bucle.cli.main", "serve", str(self.project), "--port", str(self.port), "--json"],
            stdout=subprocess.PIPE, stderr=(self.project / "server.log").open("a"), text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"})
        while True:
            if self.process.poll() is not None:
                raise SystemExit((self.project / "server.log").read_text()[-3000:])
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.02)
        self.started_s.append(time.perf_counter() - began)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)

    def engines(self) -> list[int]:
        """The processes of its engines."""
        assert self.process is not None
        found, below = [], [self.process.pid]
        while below:
            listed = subprocess.run(["pgrep", "-a", "-P", ",".join(map(str, below))], capture_output=True, text=True,
                                    check=False).stdout.splitlines()
            below = [int(line.split()[0]) for line in listed]
            found += [int(line.split()[0]) for line in listed if "engines.worker" in line]
        return found


async def load(server: Server, keys: list[str], requests: int, seed: int) -> tuple[Told, dict[str, Any]]:
    """Send it all; kill the engine and the server on the way."""
    import aiohttp

    told, sent, rng = Told(), 0, random.Random(seed)
    events: dict[str, Any] = {}
    restarting: asyncio.Task[Any] | None = None

    async def one(session: aiohttp.ClientSession, model: str, body: dict[str, Any], key: str) -> bool:
        try:
            async with session.post(f"http://127.0.0.1:{server.port}/v1/chat/completions", json=body,
                                    headers={"authorization": f"Bearer {key}"}) as response:
                answer = await response.json()
                told.statuses[f"{model} {response.status} {(answer.get('error') or {}).get('code', '')}"] += 1
                if response.status == 200:
                    told.answers[answer["bucle"]["trace"]] = float(answer["bucle"]["usd"])
                return True
        except (aiohttp.ClientError, OSError):
            told.statuses["no connection"] += 1
            return False

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal sent, restarting
        while sent < requests:
            sent += 1
            at = sent
            if at == int(requests * 0.4):
                alive = server.engines()
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                events["engines_killed"] = len(alive)
            if at == int(requests * 0.6):
                server.kill()
                events["server_killed"] = True
                restarting = asyncio.create_task(asyncio.to_thread(server.start))
            model = "casa" if rng.random() < 0.05 else "lejos"
            key = rng.choice(keys)
            body = {"model": model, "max_tokens": 40, "user": f"cliente {number}",
                    "messages": [{"role": "user", "content": f"Pregunta {at}: " + "¿cuándo llega mi factura? " * 8}]}
            while not await one(session, model, body, key):
                await asyncio.sleep(0.2)  # nobody there: the same again

    limits = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(120)) as session:
        first = {"model": "casa", "max_tokens": 2, "messages": [{"role": "user", "content": "Hola"}]}
        if not await one(session, "casa", first, keys[-1]):
            raise SystemExit("the server does not answer")
        await asyncio.gather(*(client(n, session) for n in range(CLIENTS)))
    if restarting is not None:
        await restarting
    return told, events


def bucle(project: Path, *words: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "bucle.cli.main", *words, "--json"], capture_output=True, text=True,
                          cwd=project, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"bucle {' '.join(words)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def project_in(folder: Path, port: int) -> list[str]:
    """The project, its small model and its keys; returns the keys' secrets."""
    small_model(folder / "nano")
    prices = ", ".join(f"{name}: {value}" for name, value in PRICES.items())
    (folder / "bucle.yaml").write_text(
        "project: soak\nmodels:\n"
        f'  lejos: {{kind: openai, base_url: "http://127.0.0.1:{port}/v1", model: mock, api_key_env: "", {prices}}}\n'
        "  casa: {kind: local, path: nano/model}\n"
        f"serve:\n  teams:\n    corta: {{usd_per_month: {BUDGET_USD}}}\n    larga: {{}}\n", "utf-8")
    secrets = []
    for number in range(8):
        team = "corta" if number < 2 else "larga"
        made = bucle(folder, "keys", "create", f"clave{number}", "--team", team)
        secrets.append(str(made["secret"]))
    return secrets


def checked(folder: Path, told: Told) -> dict[str, Any]:
    """What the ledger holds against what the clients saw, and its spend against its traces."""
    with contextlib.closing(sqlite3.connect(folder / ".bucle" / "ledger.db")) as db:
        stored = {row[0]: row[1:] for row in db.execute("SELECT id, nano_usd, key, team, status FROM traces")}
        counted = dict(db.execute("SELECT team, sum(nano_usd) FROM spend GROUP BY team"))
    lost = [trace for trace in told.answers if trace not in stored]
    other = [t for t, usd in told.answers.items() if t in stored and round(usd * 1e9) != stored[t][0]]
    by_team: Counter[str] = Counter()
    for nano, _key, team, _status in stored.values():
        by_team[team] += nano
    return {
        "answers": len(told.answers), "traces": len(stored), "lost": len(lost), "other_dollars": len(other),
        "spend_usd": {team: nano / 1e9 for team, nano in sorted(counted.items())},
        "traces_usd": {team: nano / 1e9 for team, nano in sorted(by_team.items())},
        "spend_is_traces": {t: n for t, n in counted.items() if n} == {t: n for t, n in by_team.items() if n},
        "cut_off": sum(1 for row in stored.values() if row[3] == 599),
        "budget_usd": BUDGET_USD, "budget_passed_usd": round(max(0.0, counted.get("corta", 0) / 1e9 - BUDGET_USD), 9),
    }


async def soak(folder: Path, requests: int) -> dict[str, Any]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    upstream = asyncio.create_task(provider(port, 5))
    secrets = await asyncio.to_thread(project_in, folder, await port)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    server = Server(folder, own)
    await asyncio.to_thread(server.start)
    began = time.perf_counter()
    told, events = await load(server, secrets, requests, 11)
    seconds = time.perf_counter() - began
    stopped = await asyncio.to_thread(server.stop)
    upstream.cancel()
    found = checked(folder, told)
    return {"seconds": round(seconds, 1), "requests_per_s": round(requests / seconds, 1), **events,
            "server_started_s": [round(s, 2) for s in server.started_s], "stopped_with": stopped,
            "statuses": dict(sorted(told.statuses.items())), **found}


def main() -> None:
    asked = arguments(__doc__ or "")
    requests = 2_000 if asked.quick else REQUESTS
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soak(Path(folder), requests))
    report("soak", ours=found["lost"], peer=None, ratio=None, unit="answers lost", packages=["aiohttp", "uvicorn"],
           target="0 lost, 0 with other dollars, spend equal to the traces, no budget passed",
           requests=requests, clients=CLIENTS, **found)
    strange = [s for s in found["statuses"] if s.split()[1] not in ("200", "429", "502", "503", "connection")]
    if not found.get("engines_killed") or not found["statuses"].get("casa 200 "):
        strange.append("no engine died, or none answered")
    if (found["lost"] or found["other_dollars"] or not found["spend_is_traces"] or found["budget_passed_usd"]
            or strange or found["stopped_with"] or not found["answers"]):
        sys.exit(f"not so: {strange or found}")


if __name__ == "__main__":
    main()
