"""What Bucle adds to each evaluated sample, and whether it fills a provider's limit and no more; beside Inspect.

    python benchmarks/overhead.py [--quick] [--json] [--peer PYTHON]

Overhead: a model that answers at once, through the zero-shot candidate, the remembered replies (SQLite, each stored
as it comes) and the scoring of a classify task of 1,000 rows, intervals of 10,000 draws and all. Limit: 500 requests at
once to a provider that takes a second for each and refuses what is beyond 64 under way; no client can take less than 8
rounds of a second. PYTHON is the interpreter of an environment with inspect-ai and openai, which runs the same two (its
own mock model; the same provider). Fails where the overhead is 1 ms or more, a request is lost or refused, the limit is
not reached, or less than 95% of the best throughput is.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from shared import report

from bucle.core.ports import ChatReply, FitContext, LoadContext, Message
from bucle.core.records import Example, Prediction, Usage
from bucle.customise.registry import technique
from bucle.evaluate.scoring import Scoring, score
from bucle.models.ask import remembered
from bucle.models.remote import OpenAIChat

LIMIT, SECONDS, REQUESTS = 64, 1.0, 500
LABELS = ("alta", "baja", "factura")
PEER = r"""
import json, sys, tempfile, time
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

url, requests, limit, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def task(many):
    return Task(dataset=MemoryDataset([Sample(input=f"mensaje {n}", target="alta") for n in range(many)]),
                solver=generate(), scorer=includes())
def took(many, model, parallel):
    began = time.perf_counter()
    log, = eval(task(many), model=model, max_connections=parallel, max_samples=parallel, display="none",
                log_dir=tempfile.mkdtemp())
    assert log.status == "success" and len(log.samples) == many
    return time.perf_counter() - began
def at_once(*_):
    out = ModelOutput.from_content("mockllm/model", "alta")
    out.usage = ModelUsage(input_tokens=20, output_tokens=1, total_tokens=21)
    return out
instant = get_model("mockllm/model", custom_outputs=at_once)
took(20, instant, 16)
remote = get_model("openai/mock", base_url=url, api_key="x", responses_api=False)
print(json.dumps({"overhead_ms": took(samples, instant, 16) / samples * 1000,
                  "seconds": took(requests, remote, limit)}))
"""


class Instant:
    """A model that answers at once."""

    name, identity, max_parallel = "instant", "instant://here 1", 16

    def chat(self, messages: Sequence[Message], **_: Any) -> ChatReply:
        return ChatReply("alta", Usage(tokens_in=20, tokens_out=1))

    def stream(self, messages: Sequence[Message], **more: Any) -> Iterator[str | ChatReply]:
        yield self.chat(messages, **more)


def candidate(chat: Any, folder: Path) -> Any:
    """The zero-shot candidate over `chat`."""
    folder.mkdir(parents=True, exist_ok=True)
    train = [Example(id=label, input=label, target=label) for label in LABELS]
    zero_shot = technique("zero-shot")
    zero_shot.fit(FitContext(out=folder, work=folder, train=train, validation=[], labels=LABELS, params={}, seed=0,
                             report=lambda done, total, note="": None, chat=chat))
    return zero_shot.load(folder, LoadContext(labels=LABELS, params={}, chat=chat))


def rows(many: int) -> list[Example]:
    return [Example(id=str(n), input=f"mensaje {n} sobre su contrato", target=LABELS[n % 3]) for n in range(many)]


def evaluate(predictor: Any, wanted: list[Example], replies: Path) -> tuple[list[Prediction], float]:
    """Ask, remember, score (metrics and their intervals): as the loop does. Also the seconds until all was answered."""
    began = time.perf_counter()
    with remembered(replies):
        said: list[Prediction] = predictor.predict([row.input for row in wanted])
    answered = time.perf_counter() - began
    found = score(Scoring(kind="classify"), wanted, said)
    assert len(found.per_row["accuracy"]) == len(wanted)
    return said, answered


def overhead(folder: Path, batches: int, size: int) -> dict[str, float]:
    """Milliseconds a sample: the mean of the whole, and percentiles over batches."""
    predictor = candidate(Instant(), folder / "instant")
    wanted = rows(batches * size)
    evaluate(predictor, rows(10), folder / "warm.db")
    took, asking = [], 0.0
    for start in range(0, len(wanted), size):
        began = time.perf_counter()
        asking += evaluate(predictor, wanted[start : start + size], folder / "replies.db")[1]
        took.append((time.perf_counter() - began) / size * 1000)
    began = time.perf_counter()
    evaluate(predictor, wanted, folder / "replies.db")
    again = (time.perf_counter() - began) / len(wanted) * 1000
    p50, p95, p99 = np.percentile(took, [50, 95, 99])
    return {"mean": float(np.mean(took)), "p50": float(p50), "p95": float(p95), "p99": float(p99),
            "asking": asking / len(wanted) * 1000, "remembered": again}


@contextmanager
def provider(seconds: float) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("mock_provider.py")), str(seconds), str(LIMIT)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    finally:
        child.terminate()
        child.wait()


def stats(url: str) -> dict[str, int]:
    """What the provider counted since it was last asked."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10) as response:  # noqa: S310 - the mock's own address
        found: dict[str, int] = json.load(response)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--peer", default="", help="Python of an environment with inspect-ai and openai")
    options = parser.parse_args()
    batches, size = (3, 500) if options.quick else (20, 1000)
    with tempfile.TemporaryDirectory() as name, provider(SECONDS) as url:
        folder = Path(name)
        cost = overhead(folder, batches, size)
        chat = OpenAIChat("mock", f"{url}/v1", "mock", "", max_parallel=LIMIT)
        predictor = candidate(chat, folder / "remote")
        stats(url)
        began = time.perf_counter()
        said, answered = evaluate(predictor, rows(REQUESTS), folder / "remote.db")
        seconds = time.perf_counter() - began
        counted = stats(url)
        peer: dict[str, float] = {}
        if options.peer:
            many = 200 if options.quick else 1000
            command = [options.peer, "-c", PEER, f"{url}/v1", str(REQUESTS), str(LIMIT), str(many)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
            if done.returncode:
                raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
            peer = json.loads(done.stdout.splitlines()[-1]) | {f"provider_{k}": v for k, v in stats(url).items()}
    best = math.ceil(REQUESTS / LIMIT) * SECONDS
    lost = sum(bool(one.error) for one in said)
    filled = best / answered
    if options.json:
        report("overhead", ours=cost["mean"], peer=peer.get("overhead_ms"), unit="ms a sample",
               ratio=peer["overhead_ms"] / cost["mean"] if peer else None,
               target="< 1 ms a sample; 500 requests reach 64 at once, never more, at >= 95% of the best throughput",
               packages=["httpx", "numpy"], samples=batches * size, percentiles=cost, requests=REQUESTS, limit=LIMIT,
               seconds=seconds, answered_seconds=answered, best_seconds=best,
               share_of_best=filled, provider=counted, lost=lost, inspect=peer,
               seconds_ratio=peer["seconds"] / seconds if peer else None)
    else:
        print(f"overhead of {batches * size:,} samples: " + ", ".join(f"{k} {v:.3f} ms" for k, v in cost.items()))
        print(f"{REQUESTS} requests, {LIMIT} at once allowed, {SECONDS:g} s each: {answered:.2f} s, best {best:.2f} s "
              f"({filled:.1%}), with scoring {seconds:.2f} s; at most {counted['peak']} at once, "
              f"{counted['refused']} refused, {lost} lost")
        if peer:
            print(f"inspect-ai: {peer['overhead_ms']:.3f} ms a sample ({peer['overhead_ms'] / cost['mean']:.1f} times "
                  f"ours), {peer['seconds']:.2f} s ({peer['seconds'] / seconds:.2f} times ours), at most "
                  f"{peer['provider_peak']} at once, {peer['provider_refused']} refused")
    assert cost["mean"] < 1, cost
    assert lost == 0, said[0]
    assert counted == {"answered": REQUESTS, "refused": 0, "peak": LIMIT}, counted
    assert filled >= 0.95, filled


if __name__ == "__main__":
    main()
