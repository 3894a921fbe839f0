"""What one rung would take, as ranges, before it is tried.

A step that ran here before is forecast by its own seconds. One that never did is forecast from its tokens and the
speeds measured for a model of 2.1M parameters on two cores (2026-11-21), scaled by parameters; machines differ, which
is why that range is wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucle.choose import Rung
from bucle.core.config import PretrainModel, RemoteModel
from bucle.core.records import Example
from bucle.loop.workspace import Workspace

__all__ = ["Forecast", "expect_pretraining", "expect_rung", "seconds_before"]

BYTES_PER_TOKEN = (2.5, 4.5)
TOKENS_A_SECOND = {"pretrain": 20_000, "tune": 5_000, "prompt": 20_000}  # at REFERENCE_PARAMETERS
REFERENCE_PARAMETERS = 2.1e6
ELSEWHERE = (0.4, 4.0)  # another machine
AGAIN = (0.7, 1.6)  # a step's own seconds, on a machine more or less busy than then
PASSES, FINE_TUNING_STEPS, BATCH = 4, 220, 16  # what pretraining and fine-tuning take where bucle.yaml says nothing
EXAMPLES_IN_PROMPT, LABEL_BYTES, REPLY_TOKENS = 6, 20, 32
INSTRUCTION_BYTES, PASSAGES_BYTES = 200, 3 * 1200
REASONING_TOKENS = (60, 250)
QUICK_SECONDS = (0.5, 20.0)  # fitting a head on features of a few thousand rows
REMOTE_SECONDS = (0.5, 4.0)  # one reply of a provider

CANARY_TOKENS = (30, 25)  # of a canary's prompt and its reply, about

Range = tuple[float, float]


@dataclass(frozen=True)
class Forecast:
    """What a step would take: `[low, high]` tokens, US dollars and minutes; of them `usd_per_1k` for a thousand
    requests once it serves; `before` whether its minutes are its own of an earlier run."""

    tokens: Range
    usd: Range
    minutes: Range
    usd_per_1k: Range = (0.0, 0.0)
    prompt: Range = (0.0, 0.0)
    reply: Range = (0.0, 0.0)
    before: bool = False


def seconds_before(ws: Workspace) -> dict[str, float]:
    """Name of a step -> the seconds its latest run took here."""
    return dict(ws.ledger.rows("SELECT name, seconds FROM steps ORDER BY finished_at"))


def expect_pretraining(name: str, model: PretrainModel, text: int, seconds: Mapping[str, float]) -> Forecast:
    """Pretraining the model called `name` on `text` bytes."""
    tokens = (
        (float(model.steps * model.batch_tokens),) * 2
        if model.steps
        else (PASSES * text / BYTES_PER_TOKEN[1], PASSES * text / BYTES_PER_TOKEN[0])
    )
    known = seconds.get(f"pretrain {name}")
    minutes = _minutes("pretrain", known, tokens, parameters(model))
    return Forecast(tokens, (0.0, 0.0), minutes, before=known is not None)


def expect_rung(
    ws: Workspace,
    task: str,
    rung: Rung,
    train: Sequence[Example],
    rows: int,
    seconds: Mapping[str, float],
) -> Forecast:
    """Fitting a rung on `train` and asking it `rows` rows. Tokens are of prompt and reply together; `prompt` and
    `reply` those of one of each."""
    names = [f"fit {task} {rung.name}", f"score {task} {rung.name}"]
    known = sum(seconds[n] for n in names) if all(n in seconds for n in names) else None
    model = ws.config.models.get(rung.base)
    size = sum(len(e.input.encode()) for e in train) / max(1, len(train))
    if model is not None and ("chat" in rung.technique.needs or rung.more):
        return _asking(ws, task, rung, model, train, rows, size, known)
    tokens: Range = (0.0, 0.0)
    if "base" in rung.technique.needs:
        each = [FINE_TUNING_STEPS * BATCH * (size + LABEL_BYTES) / b for b in reversed(BYTES_PER_TOKEN)]
        least = 2 * len(train) * size / BYTES_PER_TOKEN[1]
        tokens = (max(each[0], least), max(each[1], least))
    size_of = parameters(model) if isinstance(model, PretrainModel) else 0.0
    minutes = _minutes("tune", known, tokens, size_of) if size_of or known is not None else _quick()
    return Forecast(tokens, (0.0, 0.0), minutes, before=known is not None)


def _asking(
    ws: Workspace, task: str, rung: Rung, model: Any, train: Sequence[Example], rows: int, size: float,
    known: float | None,
) -> Forecast:
    settings = ws.config.tasks[task]
    reply = sum(len((e.target or "").encode()) for e in train) / max(1, len(train))
    extra = float(INSTRUCTION_BYTES)
    if settings.kind == "classify":
        extra, reply = extra + len({e.target for e in train}) * LABEL_BYTES, float(LABEL_BYTES)
    if "index" in rung.technique.needs:
        extra += PASSAGES_BYTES
    if rung.technique.name == "few-shot":
        extra += EXAMPLES_IN_PROMPT * (size + reply)
    prompt = ((size + extra) / BYTES_PER_TOKEN[1], (size + extra) / BYTES_PER_TOKEN[0])
    out = (max(1.0, reply / BYTES_PER_TOKEN[1]), max(float(REPLY_TOKENS), reply / BYTES_PER_TOKEN[0]))
    if rung.technique.name.startswith("chain-of-thought"):
        out = (out[0] + REASONING_TOKENS[0], out[1] + REASONING_TOKENS[1])
    own = ws.config.choose.techniques.get(rung.technique.name, {})
    tries = getattr(settings, "samples", 1) * int(own.get("samples", 1)) * max(1, len(rung.more))
    asked = rows * tries + (len(train) if rung.technique.name == "distilled" else 0)
    tokens = (asked * (prompt[0] + out[0]), asked * (prompt[1] + out[1]))
    usd: Range = (0.0, 0.0)
    size_of = parameters(model) if isinstance(model, PretrainModel) else 0.0
    if isinstance(model, RemoteModel):
        usd = (price_of(ws, rung.base, prompt[0], out[0]), price_of(ws, rung.base, prompt[1], out[1]))
        calls = asked / model.max_parallel / 60
        minutes = (calls * REMOTE_SECONDS[0], calls * REMOTE_SECONDS[1])
        if known is not None:
            minutes = _minutes("prompt", known, tokens, size_of)
    else:
        minutes = _minutes("prompt", known, tokens, size_of) if size_of or known is not None else _quick()
    each = 0.0 if rung.technique.name == "distilled" else 1000.0 * tries
    per_1k = (usd[0] * each, usd[1] * each)
    return Forecast(tokens, (usd[0] * asked, usd[1] * asked), minutes, per_1k, prompt, out, known is not None)


def canary_usd(ws: Workspace, name: str) -> Range:
    """US dollars of asking a remote model its canary, again and for the first time; nothing for a local one."""
    from bucle.evaluate.canary import AGAIN, FIRST, packaged_prompts

    if not isinstance(ws.config.models.get(name), RemoteModel):
        return (0.0, 0.0)
    each = price_of(ws, name, *CANARY_TOKENS) * len(packaged_prompts())
    return (AGAIN * each, FIRST * each)


def parameters(model: PretrainModel) -> float:
    """Of a Llama shape with an MLP of 8/3 the width, and embeddings and head of about 2,048 tokens."""
    return 12.0 * model.layers * model.width**2 + 2 * 2048 * model.width


def price_of(ws: Workspace, name: str, tokens_in: float, tokens_out: float) -> float:
    """US dollars of one request to the model called `name`; 0 where no price is known."""
    from bucle.choose.costs import per_request
    from bucle.models.catalogue import facts

    return per_request(facts(name, ws.config.models[name], ws.config.catalogue), tokens_in, tokens_out) or 0.0


def _minutes(kind: str, known: float | None, tokens: Sequence[float], size: float) -> Range:
    if known is not None:
        return (known * AGAIN[0] / 60, known * AGAIN[1] / 60)
    speed = TOKENS_A_SECOND[kind] * REFERENCE_PARAMETERS / size * 60
    return (tokens[0] / speed * ELSEWHERE[0], tokens[1] / speed * ELSEWHERE[1] + 0.1)


def _quick() -> Range:
    return (QUICK_SECONDS[0] / 60, QUICK_SECONDS[1] / 60)
