"""Tokens a second that this CPU generates: Bucle's OpenVINO engine beside transformers, in one run.

    python benchmarks/engine.py [--quick] [--json]

Two models of random weights: the shape of Qwen3 0.6B (28 layers, width 1,024, vocabulary 151,936) and Bucle's nano (3
layers, width 192). At concurrency 1, 4 and 16 all requests arrive at once, each of 48 tokens and asking for 64 more,
greedily: a short question and a short answer of a chat. Ours is `OpenVINOHost` as it is served, text decoded and
streamed, in each precision; the peers are `generate` on a batch and the `ContinuousBatchingManager` of transformers,
both bfloat16 (their fastest here), tokens only. Everybody gets the same new prompts each round (nothing is remembered
from the one before) and the rounds go by turns, so that other work on the machine meets all; medians count.
`tokens_per_s` is all tokens over the wall time from the first request to the last token; `first_ms` the median
request's first token. `of_bandwidth` is the weights' bytes read a second at concurrency 1 over what a triad (a = b +
3c, all cores, in the same run) moves. Models are kept in the temporary folder between runs. --quick: nano alone.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shared import arguments, report

os.environ.setdefault("HF_HUB_OFFLINE", "1")
KEPT = Path(tempfile.gettempdir()) / "bucle-benchmark-engine"
PROMPT, TOKENS = 48, 64
CONCURRENCY = (1, 4, 16)
PRECISIONS = {"qwen3-0.6b": ("bf16", "int8", "int4"), "nano": ("fp32", "bf16", "int8")}
ROUNDS = {"qwen3-0.6b": 2, "nano": 9}
SPEC_PARALLEL = 16
Times = tuple[float, float, int]
"""Seconds to the median first token, seconds to the last, tokens."""


def built(name: str) -> Path:
    """The folder of the model `name`, random weights, with a tokenizer of one word for each token."""
    folder = KEPT / name
    if (folder / "done").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if name == "nano":
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=4096, hidden_size=192, num_hidden_layers=3, intermediate_size=512, num_attention_heads=3,
            num_key_value_heads=3, max_position_embeddings=256, tie_word_embeddings=False, **ends))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(
            vocab_size=151_936, hidden_size=1024, num_hidden_layers=28, intermediate_size=3072, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, max_position_embeddings=4096, tie_word_embeddings=True, **ends))
    model.to(torch.bfloat16).save_pretrained(folder)
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    words = {{0: "<s>", 1: "</s>", 2: "<pad>"}.get(i, word): i for word, i in words.items()}
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    plain = Tokenizer(models.WordLevel(words, "<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)
    (folder / "done").touch()
    return folder


def bandwidth() -> float:
    """GB/s of a triad over arrays that no cache holds."""
    import torch

    size = 64 * 2**20
    a, b, c = torch.empty(size), torch.ones(size), torch.ones(size)
    best = 0.0
    for _ in range(4):
        began = time.perf_counter()
        torch.add(b, c, alpha=3.0, out=a)
        best = max(best, 12 * size / (time.perf_counter() - began) / 1e9)
    return best


def ours(host: Any, prompts: Sequence[Sequence[int]], tokens: int) -> Times:
    from bucle.core.engine import ChatAnswer, ChatAsk, Delta

    first: dict[int, float] = {}
    written: dict[int, int] = {}
    over = threading.Event()
    texts = [" ".join(f"w{one}" for one in prompt) for prompt in prompts]
    began = time.perf_counter()

    def hear(number: int) -> Callable[[Any], None]:
        def on(event: Any) -> None:
            if isinstance(event, Delta):
                first.setdefault(number, time.perf_counter() - began)
                return
            written[number] = event.usage.tokens_out if isinstance(event, ChatAnswer) else -1
            if len(written) == len(prompts):
                over.set()
        return on

    for number, text in enumerate(texts):
        host.submit(ChatAsk("m", prompt=text, max_tokens=tokens, stream=True), "", hear(number))
    assert over.wait(600)
    seconds = time.perf_counter() - began
    assert min(written.values()) > 0, written
    return statistics.median(first.values()), seconds, sum(written.values())


def generate(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> Times:
    import torch

    stamps: list[float] = []

    def note(ids: Any, scores: Any, **more: Any) -> Any:
        stamps.append(time.perf_counter())
        return torch.zeros(ids.shape[0], dtype=torch.bool)

    ids = torch.tensor(prompts)
    began = time.perf_counter()
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                          do_sample=False, stopping_criteria=[note])
    return stamps[0] - began, time.perf_counter() - began, (made.shape[1] - ids.shape[1]) * len(prompts)


def batching(manager: Any, prompts: Sequence[Sequence[int]], tokens: int) -> Times:
    first: dict[str, float] = {}
    ended: dict[str, int] = {}
    began = time.perf_counter()
    for prompt in prompts:
        manager.add_request(list(prompt), max_new_tokens=tokens, streaming=True, eos_token_id=-1)
    while len(ended) < len(prompts):
        output = manager.get_result(timeout=60)
        assert output is not None
        if output.generated_tokens:
            first.setdefault(output.request_id, time.perf_counter() - began)
        if output.is_finished():
            ended[output.request_id] = len(output.generated_tokens)
    return statistics.median(first.values()), time.perf_counter() - began, sum(ended.values())


def compared(name: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    from bucle.models.cpu import quiet_libraries
    from bucle.models.engines.host import HostSpec
    from bucle.models.engines.openvino.convert import precision_of
    from bucle.models.engines.openvino.host import OpenVINOHost

    folder = built(name)
    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.max_length = None
    weights = sum(one.numel() for one in model.parameters())
    weights -= 0 if model.config.tie_word_embeddings else model.model.embed_tokens.weight.numel()
    bits = {"fp32": 4.0, "bf16": 2.0, "int8": 1.01, "int4": 0.53}
    hosts, opening = {}, {}
    for precision in PRECISIONS[name]:
        began = time.perf_counter()
        spec = HostSpec("m", str(folder), precision=precision, parallel=SPEC_PARALLEL, cached=str(KEPT / "converted"))
        hosts[precision] = OpenVINOHost(spec)
        opening[precision] = round(time.perf_counter() - began, 2)
    default = precision_of(folder, "auto")
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=2, max_new_tokens=TOKENS)
    settings = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=1024)
    random = np.random.default_rng(0)
    found: dict[tuple[str, int], list[Times]] = {}
    triads = [bandwidth()]

    def batched(prompts: Any, tokens: int) -> Times:
        """The manager's thread would take a core from the others: it runs for its own rounds only, warmed up."""
        with model.continuous_batching_context_manager(
                generation_config=config, continuous_batching_config=settings) as manager:
            batching(manager, random.integers(3, 4096, (1, PROMPT)).tolist(), 3)
            return batching(manager, prompts, tokens)

    with quiet_libraries(), torch.no_grad():
        runners: dict[str, Callable[[Any, int], Times]] = {
            "generate": lambda prompts, tokens: generate(model, prompts, tokens),
            "continuous batching": batched}
        for precision, host in hosts.items():
            runners[precision] = lambda prompts, tokens, host=host: ours(host, prompts, tokens)
        for round_number in range(ROUNDS[name] + 1):  # the first warms up
            for count in CONCURRENCY:
                prompts = random.integers(3, model.config.vocab_size, (count, PROMPT)).tolist()
                for runner, run in runners.items():
                    times = run(prompts, TOKENS if round_number else 3)
                    if round_number:
                        found.setdefault((runner, count), []).append(times)
            triads.append(bandwidth())
    for host in hosts.values():
        host.close()
    moved = statistics.median(triads)
    table: dict[str, Any] = {}
    for count in CONCURRENCY:
        row: dict[str, Any] = {}
        for runner in runners:
            runs = found[runner, count]
            rate = statistics.median(tokens / seconds for _, seconds, tokens in runs)
            row[runner] = {
                "tokens_per_s": round(rate, 1), "first_ms": round(1000 * statistics.median(f for f, _, _ in runs), 1),
                "decoding_per_s": round(statistics.median((t - count) / (s - f) for f, s, t in runs), 1)}
        peer = max(row["generate"]["tokens_per_s"], row["continuous batching"]["tokens_per_s"])
        for precision in hosts:
            row[precision]["ratio"] = round(row[precision]["tokens_per_s"] / peer, 2)
            if count == 1:
                gb = weights * bits[precision] / 1e9
                row[precision]["of_bandwidth"] = round(row[precision]["decoding_per_s"] * gb / moved, 2)
        table[str(count)] = row
    return {"default": default, "prompt": PROMPT, "tokens": TOKENS, "triad_gb_per_s": round(moved, 1),
            "opening_s": opening, "weights_read": weights, "concurrency": table}


def main() -> None:
    options = arguments(__doc__ or "")
    from bucle.models.cpu import prepare_torch

    threads = prepare_torch()
    models = {}
    for name in ("nano",) if options.quick else ("nano", "qwen3-0.6b"):
        models[name] = compared(name)
        if not options.json:
            print(name, json.dumps(models[name], indent=1), flush=True)
    cells = [(model["concurrency"][str(count)], model["default"], f"{name}, {count} at once")
             for name, model in models.items() for count in CONCURRENCY]
    row, precision, where = min(cells, key=lambda cell: cell[0][cell[1]]["ratio"])
    report("engine", ours=row[precision]["tokens_per_s"],
           peer=max(row[peer]["tokens_per_s"] for peer in ("generate", "continuous batching")),
           ratio=row[precision]["ratio"], target="at least 2 times the better of both peers at every concurrency",
           unit=f"tokens/s, {where}, {precision} (the default)", threads=threads, models=models,
           packages=["openvino", "openvino-genai", "torch", "transformers"])


if __name__ == "__main__":
    main()
