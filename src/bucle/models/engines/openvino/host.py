"""A model converted to OpenVINO as a Host: the CPU engine, continuous batching, one pipeline for each adapter."""

from __future__ import annotations

import copy
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucle.core.engine import OFFERS, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.core.records import Usage
from bucle.models.cpu import default_threads, quiet_libraries
from bucle.models.engines.guide import Guides
from bucle.models.engines.host import Cancel, Event, HostSpec, On
from bucle.models.engines.openvino.grammar import grammar_of
from bucle.models.engines.openvino.lanes import Lane, Lanes
from bucle.models.engines.openvino.pipeline import BLOCK, Work
from bucle.models.engines.sampling import Answer
from bucle.models.engines.tools import CALL, call_schema, prompt_of, takes_tools
from bucle.models.folder import checked_folder, read_json

__all__ = ["OpenVINOHost"]

GUIDED = frozenset({"json_object", "json_schema", "regex"})
COLDEST = 1e-3
"""Temperatures below are 0: divided by them, logits overflow."""


@dataclass(eq=False)
class _Request:
    """One ask: its prompt, its `n` answers and the pipeline's handles of those that run."""

    ask: ChatAsk
    adapter: str
    on: On
    works: list[Work] = field(default_factory=list)
    answers: list[_Told] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)
    blocks: int = 0
    ended: bool = False

    def tell(self, event: Event) -> None:
        if not self.ended:
            self.ended = not isinstance(event, Delta)
            self.on(event)


class OpenVINOHost:
    """The model of `spec`, converted (`openvino.convert`) and in memory. All sequences of one adapter take their steps
    together; an adapter is merged into weights of its own and shares nothing with another, so that its answers are
    those it gives alone.

    Raises NotConverted, with the reason, where OpenVINO cannot host the model, and ModelUnavailable where the folder is
    refused."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec
        folder = checked_folder(spec.folder)
        self._threads = spec.threads or default_threads()
        self._lanes = Lanes(spec, folder, self._threads)
        self._tokenizer, ends = _tokenizer(folder)
        self._encoder = copy.deepcopy(self._tokenizer)  # one tokenizer may not be used from two threads
        meta = self._lanes.meta
        self.context = min(int(meta["context"]), self._lanes.blocks * BLOCK - 1)
        self._end_ids = ends
        self._backend = self._tokenizer.backend_tokenizer
        self._guides = Guides(self._encoder, ends, int(meta["vocabulary"]))
        self.adapters = tuple(spec.adapters)
        missing = {"logit_bias"}
        missing |= set() if self._tokenizer.chat_template else {"conversation"}
        missing |= set() if meta["guided"] else GUIDED
        missing |= set() if takes_tools(self._encoder) else {"tools"}
        self.offers = OFFERS - missing
        self._wake = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._running: dict[Lane, list[_Request]] = {}
        self._closing = False
        self._beat = time.monotonic()
        self._tokens = 0
        self._prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    # --- the port

    def submit(self, ask: ChatAsk, adapter: str, on: On) -> Cancel:
        """As Host.submit. `top_logprobs` above 0 is BadInput: the pipeline knows only the chosen token's."""
        request = _Request(ask, adapter, on)

        def cancel() -> None:
            request.ended = True
            with self._wake:
                self._wake.notify()

        if self._closing:
            on(ModelUnavailable(f"{self.spec.name} is being closed"))
        else:
            self._prepare.submit(self._prepared, request)
        return cancel

    def describe(self) -> Mapping[str, Any]:
        """As Host.describe; `stalled_s` is how long the model has not moved with work before it, `check` how far the
        converted weights were from the model's own in transformers (nats)."""
        running = sum(len(request.handles) for some in self._running.values() for request in some)
        waiting = len(self._waiting)
        meta = self._lanes.meta
        return {"engine": "openvino", "precision": meta["precision"], "context": self.context, "note": "",
                "loaded": self._lanes.loaded(), "running": running, "waiting": waiting, "threads": self._threads,
                "tokens": self._tokens, "cache_blocks": self._lanes.blocks, "top_logprobs": 0,
                "check": {name: meta[name] for name in ("regret", "same", "logprob_error")},
                "stalled_s": round(time.monotonic() - self._beat, 3) if running or waiting else 0.0}

    def close(self) -> None:
        """As Host.close."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._prepare.shutdown(wait=True, cancel_futures=True)
        self._thread.join()
        self._lanes.close()

    # --- before generation, in a thread of its own

    def _prepared(self, request: _Request) -> None:
        """Render, count, and write the grammar that guides the answer; then queue."""
        try:
            ready = self._ready(request)
        except BucleError as error:
            request.tell(error)
            return
        except Exception as error:  # a tokenizer's own; the engine goes on
            request.tell(BadInput(f"The prompt cannot be read by this model: {type(error).__name__}"))
            return
        if not ready:
            request.tell(self._answer(request))
            return
        with self._wake:
            if not self._closing:
                if not self._waiting and not self._running:
                    self._beat = time.monotonic()
                self._waiting.append(request)
                self._wake.notify()
                return
        request.tell(ModelUnavailable(f"{self.spec.name} is being closed"))

    def _ready(self, request: _Request) -> bool:
        """Fill in what `request` needs; whether there is anything to generate."""
        ask = request.ask
        if request.adapter and request.adapter not in self.spec.adapters:
            raise BadInput(f"{self.spec.name} has no adapter {request.adapter[:100]!r}", "ask for one of its adapters")
        if ask.top_logprobs:
            raise BadInput("top_logprobs above 0 is not offered by the engine openvino: it knows the log-probability "
                           "of the chosen token alone.", "send top_logprobs 0, or serve with engine: transformers")
        text = prompt_of(self._encoder, ask) if ask.prompt is None else ask.prompt
        begin = self._encoder.bos_token
        raw = ask.prompt is not None and not (begin and text.startswith(begin))
        text = text.encode("utf-8", "replace").decode()  # half surrogate pairs, which tokenizers refuse
        ids = self._encoder(text, add_special_tokens=raw, verbose=False)["input_ids"]
        ids = ids or [self._encoder.bos_token_id or next(iter(self._end_ids), 0)]
        room = self.context - len(ids)
        if room < 1:
            raise ContextOverflow(f"The prompt has {len(ids)} tokens; {self.spec.name} holds {self.context}.",
                                  "shorten the conversation or choose a model with a longer context")
        limit = min(self.spec.max_tokens if ask.max_tokens is None else ask.max_tokens, room)
        grammar = grammar_of(ask)
        opened = f"{CALL}\n" if call_schema(ask) is not None else ""
        temperature = ask.temperature or 0.0
        cold = temperature < COLDEST or ask.top_p == 0
        seed = secrets.randbits(31) if ask.seed is None else ask.seed
        for index in range(ask.n):
            request.works.append(Work(
                ids, max(1, limit), frozenset(self._end_ids), 0.0 if cold else temperature,
                1.0 if ask.top_p is None else ask.top_p, (seed + index * 0x9E3779B9) % 2**32,
                ask.presence_penalty or 0.0, ask.frequency_penalty or 0.0, grammar, ask.top_logprobs is not None))
            answer = _Told(ask, index, limit, self._end_ids, None, self._decode, self._guides.bytes_of, opened)
            answer.finish = "" if limit > 0 else "length"
            request.answers.append(answer)
        request.blocks = sum(map(self._lanes.needs, request.works))
        if request.blocks > self._lanes.blocks:
            raise ContextOverflow(
                f"{ask.n} answers of {limit} tokens after a prompt of {len(ids)} do not fit the cache of "
                f"{self.spec.name} ({self._lanes.blocks * BLOCK} tokens).", "ask for fewer or shorter answers")
        return limit > 0

    def _decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=True))

    # --- generation, in its thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not self._waiting and not self._running:
                    self._wake.wait()
                if self._closing:
                    break
            self._admit()
            for lane in list(self._running):
                self._step(lane)
            self._beat = time.monotonic() if self._running else self._beat
            if not self._running:
                with self._wake:
                    if self._waiting and not self._closing:  # an adapter is being loaded
                        self._wake.wait(0.02)
        for request in [*self._waiting, *(one for some in self._running.values() for one in some)]:
            request.tell(ModelUnavailable(f"{self.spec.name} was closed"))

    def _admit(self) -> None:
        """Let those in whose sequences and blocks have room, in order; who waits for an adapter to be loaded holds up
        nobody else."""
        with self._wake:
            waiting = [request for request in self._waiting if not request.ended]
            self._waiting.clear()
        left: list[_Request] = []
        for number, request in enumerate(waiting):
            rows = sum(len(one.works) for some in self._running.values() for one in some)
            if rows and rows + len(request.works) > self.spec.parallel:
                left += waiting[number:]
                break
            try:
                lane = self._lanes.get(request.adapter, {lane.adapter for lane in self._running})
            except BucleError as error:
                request.tell(error)
                continue
            held = 0 if lane is None else sum(one.blocks for one in self._running.get(lane, ()))
            if lane is None or held + request.blocks > self._lanes.blocks:
                left.append(request)
                continue
            try:
                request.handles = [lane.paged.add(work) for work in request.works]
            except Exception as error:  # a setting that openvino-genai refuses
                request.tell(BadInput(f"The request cannot be generated: {_said(error)}"))
                self._broken(lane)
                continue
            self._running.setdefault(lane, []).append(request)
        with self._wake:
            self._waiting.extendleft(reversed(left))

    def _step(self, lane: Lane) -> None:
        requests = self._running[lane]
        for request in requests:
            if request.ended:
                self._end(lane, request)
        try:
            if lane.paged.busy:
                lane.paged.step()
        except Exception as error:  # after which the pipeline is of no use: another takes its place
            for request in requests:
                request.tell(ModelUnavailable(f"{self.spec.name} failed: {_said(error)}", "ask again"))
            self._broken(lane)
            return
        for request in requests:
            if not request.ended:
                self._read(lane, request)
        left = [request for request in requests if not request.ended]
        if left:
            self._running[lane] = left
            return
        del self._running[lane]
        if lane.paged.busy:  # what was cancelled gives its blocks back
            lane.paged.step()

    def _read(self, lane: Lane, request: _Request) -> None:
        for work, answer, handle in zip(request.works, request.answers, request.handles, strict=True):
            if answer.finish:
                continue
            tokens, logprobs, over = lane.paged.read(handle)
            for token, logprob in zip(tokens, logprobs, strict=True):
                self._tokens += 1
                answer.note(token, logprob)
                piece = answer.take(token)
                if piece is not None and request.ask.stream:
                    request.tell(piece)
                if answer.finish:
                    break
            if answer.finish and not over:
                lane.paged.end(handle)
            if over and not answer.finish:
                if not work.grammar:
                    self._end(lane, request)
                    request.tell(ModelUnavailable(f"{self.spec.name} broke off an answer.", "ask again"))
                    return
                piece = answer.finished()
                if piece is not None and request.ask.stream:
                    request.tell(piece)
        if all(answer.finish for answer in request.answers):
            request.tell(self._answer(request))

    def _end(self, lane: Lane, request: _Request) -> None:
        for answer, handle in zip(request.answers, request.handles, strict=True):
            if not answer.finish:
                lane.paged.end(handle)

    def _broken(self, lane: Lane) -> None:
        """Forget `lane`, whatever it was doing; the next request opens another."""
        for request in self._running.pop(lane, ()):
            request.tell(ModelUnavailable(f"{self.spec.name} was opened again.", "ask again"))
        self._lanes.drop(lane)

    def _answer(self, request: _Request) -> ChatAnswer:
        written = sum(len(answer.ids) for answer in request.answers)
        name = f"{self.spec.name}:{request.adapter}" if request.adapter else self.spec.name
        prompt = len(request.works[0].prompt) if request.works else 0
        return ChatAnswer(tuple(answer.choice() for answer in request.answers),
                          Usage(tokens_in=prompt, tokens_out=written), served_by=name)


class _Told(Answer):
    """An Answer whose tokens another chose."""

    def note(self, token: int, logprob: float) -> None:
        """What the pipeline said of `token`, before `take`."""
        if self.ask.top_logprobs is not None:
            spelled = self._spell(token)
            self._told.append({"token": spelled.decode(errors="replace"), "logprob": round(logprob, 6),
                               "bytes": list(spelled), "top_logprobs": []})
            self._ends_at.append((self._ends_at[-1] if self._ends_at else 0) + len(spelled))

    def finished(self) -> Delta | None:
        """The grammar allows nothing more."""
        return self._end("stop")


def _tokenizer(folder: Path) -> tuple[Any, set[int]]:
    """The model's own tokenizer, and the tokens that end an answer. Raises ModelUnavailable."""
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a folder that somebody else wrote: whatever the library stumbles over
        raise ModelUnavailable(f"{folder} has no tokenizer that can be loaded: {_said(error)}",
                               "check that it holds tokenizer.json and tokenizer_config.json") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelUnavailable(f"{folder} has no tokenizer.json.", "serve it with `engine: transformers`")
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        said = read_json(folder / name).get("eos_token_id")
        if said is not None:
            ends = {int(one) for one in (said if isinstance(said, list) else [said])}
            break
    return tokenizer, ends | ({int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set())


def _said(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
