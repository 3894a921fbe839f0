"""One converted model in openvino-genai's continuous batching: requests of tokens in, tokens out, step by step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.models.cpu import bf16_is_fast, default_threads
from bucle.models.embedding.library import openvino_quiet
from bucle.models.folder import read_json

__all__ = ["BLOCK", "Paged", "Spoilt", "Work", "block_bytes"]

BLOCK = 32
"""Tokens in one block of the cache on a CPU."""
GROUPS = (128, 64, 32)
BATCHED_TOKENS = 512
"""Tokens computed in one step: a long prompt is cut so, and those who decode wait no longer than that takes."""


class Spoilt(ModelUnavailable):
    """What was converted cannot be read any more."""

    def __init__(self, folder: Path, said: str) -> None:
        super().__init__(f"the converted model in {folder} cannot be opened: {said}",
                         f"delete {folder}: it is made again")
        self.folder = folder


def block_bytes(meta: dict[str, Any]) -> int:
    """Bytes of one block of the cache, all layers: fp32 models keep it in float32, others in 8 bits with two float32 a
    head and token."""
    head = int(meta["head_width"])
    one = 4 * head if meta["precision"] == "fp32" else head + 8
    return 2 * int(meta["layers"]) * int(meta["heads"]) * BLOCK * one


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence to generate. `temperature` 0: the likeliest token each time. `grammar` is EBNF. `logprobs`: whether
    somebody asks how likely each token was, which costs the exponentials of a whole vocabulary."""

    prompt: Sequence[int]
    max_tokens: int
    ends: frozenset[int] = frozenset()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    presence: float = 0.0
    frequency: float = 0.0
    grammar: str = ""
    logprobs: bool = False


class Paged:
    """The model in a folder that `converted` made. One thread may use it. `blocks` bound its cache: the pipeline drops
    a request where they run out, so whoever submits keeps count (`needs`)."""

    def __init__(self, folder: Path, *, blocks: int, threads: int = 0, sequences: int = 64) -> None:
        openvino = openvino_quiet()
        import openvino_genai as genai

        try:
            meta = read_json(folder / "meta.json")
            precision, self.blocks = str(meta["precision"]), blocks
            width = int(meta["width"])
        except (ModelUnavailable, KeyError, TypeError, ValueError, OSError) as error:
            raise Spoilt(folder, "meta.json is not what was written") from error
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.num_kv_blocks = 0, blocks
        scheduler.max_num_seqs, scheduler.max_num_batched_tokens = sequences, BATCHED_TOKENS
        scheduler.dynamic_split_fuse = True
        # Right where the weights never change: one pipeline an adapter, nothing shared.
        scheduler.enable_prefix_caching = True
        threads = threads or default_threads()
        # OpenVINO 2026.4 ends the process (SIGFPE) over bfloat16 with one thread; two on one core do no harm.
        half = precision in ("bf16", "int4") and bf16_is_fast() and _cores() > 1
        threads = max(2, threads) if half else threads
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": threads,
        }
        if precision == "fp32":
            settings |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        elif precision == "int8":
            # Activations in 8 bits as well, by groups that divide every width: int8 products instead of unpacking.
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = next((size for size in GROUPS if width % size == 0), 0)
        self._genai, self._tensor = genai, openvino.Tensor
        try:
            self._pipe = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", settings)
        except Exception as error:  # bare exceptions for a file that is cut
            raise Spoilt(folder, (str(error).strip().splitlines() or [""])[-1][:200]) from error
        self._count = 0

    @staticmethod
    def needs(work: Work) -> int:
        """Blocks that `work` takes at most."""
        return -(-(len(work.prompt) + work.max_tokens + 1) // BLOCK)

    def add(self, work: Work) -> Any:
        """Begin `work`; the handle is given to `read` and `end`."""
        config = self._genai.GenerationConfig(max_new_tokens=work.max_tokens, logprobs=int(work.logprobs),
                                              stop_token_ids=set(work.ends), apply_chat_template=False)
        config.presence_penalty, config.frequency_penalty = work.presence, work.frequency
        if work.temperature > 0:
            config.do_sample, config.temperature, config.top_p = True, work.temperature, work.top_p
            config.rng_seed = work.seed
        if work.grammar:
            config.structured_output_config = self._genai.StructuredOutputConfig(grammar=work.grammar)
        self._count += 1
        return self._pipe.add_request(self._count, self._tensor(np.array([work.prompt], dtype=np.int64)), config)

    def step(self) -> None:
        """Compute the next token of everything that was added. Whatever it raises, this object cannot be used again."""
        self._pipe.step()

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._pipe.has_non_finished_requests())

    def read(self, handle: Any) -> tuple[list[int], list[float], bool]:
        """New tokens, their log-probabilities (nats, before temperature; of no meaning where `Work.logprobs` is False)
        and whether the sequence has ended."""
        tokens: list[int] = []
        logprobs: list[float] = []
        while handle.can_read():
            for piece in handle.read().values():
                tokens += piece.generated_ids
                logprobs += piece.generated_log_probs
        return tokens, logprobs, handle.get_status() != self._genai.GenerationStatus.RUNNING

    def end(self, handle: Any) -> None:
        """Stop early; its blocks are free after the next step."""
        handle.cancel()

    def greedy(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[tuple[list[int], list[float]]]:
        """So many of the likeliest tokens after each prompt, and their log-probabilities."""
        handles = [self.add(Work(prompt, tokens, logprobs=True)) for prompt in prompts]
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        while self.busy:
            self.step()
            for handle, (ids, logprobs) in zip(handles, found, strict=True):
                more = self.read(handle)
                ids += more[0]
                logprobs += more[1]
        return found

    def close(self) -> None:
        """Free the model."""
        self._pipe = None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
