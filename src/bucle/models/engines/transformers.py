"""Any causal language model of transformers as a Host: the reference engine, many requests at a time, a step at a
time."""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bucle.core.engine import OFFERS, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.core.records import Usage
from bucle.models.cpu import prepare_torch
from bucle.models.engines.adapters import Adapters
from bucle.models.engines.batch import Batch, mergeable, prefill
from bucle.models.engines.guide import Guide, Guides
from bucle.models.engines.host import Cancel, Event, HostSpec, On
from bucle.models.engines.sampling import Answer
from bucle.models.engines.tools import CALL, call_schema, prompt_of, takes_tools
from bucle.models.folder import checked_folder
from bucle.models.local import load_model

__all__ = ["TransformersHost"]

CHUNK = 128
"""Tokens of a prompt that are read between two steps of those who generate: what a newcomer makes the others wait, and
the longest that a sound engine is silent (a model of 7 billion parameters takes some 40 s for them on a slow CPU)."""
GUIDED = frozenset({"json_object", "json_schema", "regex"})


@dataclass(eq=False)
class _Work:
    """One request: its prompt, how far it is read, its answers."""

    ask: ChatAsk
    adapter: str
    on: On
    ids: list[int] = field(default_factory=list)
    guides: list[Guide | None] = field(default_factory=list)
    cache: Any = None
    read: int = 0
    logits: Any = None
    answers: list[Answer] = field(default_factory=list)
    ended: bool = False

    def tell(self, event: Event) -> None:
        if not self.ended:
            self.ended = not isinstance(event, Delta)
            self.on(event)


class TransformersHost:
    """The model of `spec` in memory. Sequences of one adapter take their steps together, each with its own sampler; at
    temperature 0 in fp32 an answer is the same in any company. `note` is told in `describe`.

    Raises ModelUnavailable where the folder is refused or cannot be loaded, or `precision` is one that only another
    engine has."""

    def __init__(self, spec: HostSpec, note: str = "") -> None:
        import torch

        if spec.precision not in ("auto", "fp32", "bf16"):
            raise ModelUnavailable(f"The engine transformers has no precision {spec.precision}.",
                                   "use engine: openvino for int8 and int4, or precision: auto")
        self.spec, self._note = spec, note
        self._threads = prepare_torch(spec.threads or None)
        self._model, self._tokenizer = load_model(checked_folder(spec.folder), float32=spec.precision == "fp32")
        if spec.precision == "bf16":
            self._model.to(torch.bfloat16)
        self._encoder = copy.deepcopy(self._tokenizer)  # one tokenizer may not be used from two threads
        config = self._model.config
        self.context = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)
        ends = self._model.generation_config.eos_token_id
        self._end_ids = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        taken = inspect.signature(self._model.forward).parameters
        if not {"past_key_values", "logits_to_keep"} <= taken.keys():
            raise ModelUnavailable(
                f"{type(self._model).__name__} has no cache of keys and values that this engine knows.",
                "choose a model of an attention architecture (Llama, Qwen, Mistral, Gemma, GPT-2, …)")
        self._side_by_side = "position_ids" in taken and "attention_mask" in taken
        self._guides = Guides(self._encoder, self._end_ids, int(self._model.get_input_embeddings().weight.shape[0]))
        self._widest = max(map(len, self._encoder.get_vocab()), default=1)
        self._shelf = Adapters(self._model, spec.adapters, spec.adapters_loaded)
        self.adapters = tuple(spec.adapters)
        missing = {"conversation"} if not self._tokenizer.chat_template else set()
        missing |= set() if self._guides.usable else GUIDED
        self.offers = OFFERS - missing - (set() if takes_tools(self._encoder) else {"tools"})
        self._token_bytes = _bytes_a_token(config, self._model.dtype.itemsize)
        self._waiting: deque[_Work] = deque()
        self._filling: deque[_Work] = deque()
        self._batches: list[Batch] = []
        self._owner: dict[Answer, _Work] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._beat = time.monotonic()
        self._tokens = 0
        self._prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    # --- the port

    def submit(self, ask: ChatAsk, adapter: str, on: On) -> Cancel:
        """As Host.submit."""
        work = _Work(ask, adapter, on)

        def cancel() -> None:
            work.ended = True
            with self._wake:
                self._wake.notify()

        if self._closing:
            on(ModelUnavailable(f"{self.spec.name} is being closed"))
        else:
            self._prepare.submit(self._prepared, work)
        return cancel

    def describe(self) -> Mapping[str, Any]:
        """As Host.describe; `stalled_s` is how long the model has not moved with work before it."""
        running = sum(len(batch.rows) for batch in self._batches) + len(self._filling)
        waiting = len(self._waiting)
        return {"engine": "transformers", "precision": str(self._model.dtype).removeprefix("torch."),
                "context": self.context, "note": self._note, "loaded": list(self._shelf.loaded), "running": running,
                "waiting": waiting, "threads": self._threads, "tokens": self._tokens,
                "stalled_s": round(time.monotonic() - self._beat, 3) if running or waiting else 0.0}

    def close(self) -> None:
        """As Host.close."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._prepare.shutdown(wait=True, cancel_futures=True)
        self._thread.join()

    # --- before generation, in a thread of its own

    def _prepared(self, work: _Work) -> None:
        """Render, count, and compile what guides the answer; then queue."""
        try:
            ask = work.ask
            if ask.n > self.spec.parallel:
                raise BadInput(f"n is {ask.n}; {self.spec.name} writes {self.spec.parallel} answers at once.",
                               "ask several times")
            text = prompt_of(self._encoder, ask) if ask.prompt is None else ask.prompt
            if len(text) > 4 * self._widest * self.context:  # no tokenizer makes few enough tokens of that
                raise ContextOverflow(
                    f"The prompt has {len(text):,} characters; {self.spec.name} holds {self.context} tokens.",
                    "shorten the conversation or choose a model with a longer context")
            begin = self._encoder.bos_token
            raw = ask.prompt is not None and not (begin and text.startswith(begin))
            work.ids = self._encoder(text, add_special_tokens=raw, verbose=False)["input_ids"]
            work.ids = work.ids or [self._encoder.bos_token_id or next(iter(self._end_ids), 0)]
            room = self.context - len(work.ids)
            if room < 1:
                raise ContextOverflow(
                    f"The prompt has {len(work.ids)} tokens; {self.spec.name} holds {self.context}.",
                    "shorten the conversation or choose a model with a longer context")
            work.guides = [self._guides.of(ask) if self._guides.usable else None for _ in range(ask.n)]
            limit = min(self.spec.max_tokens if ask.max_tokens is None else ask.max_tokens, room)
            opened = f"{CALL}\n" if call_schema(ask) is not None else ""
            work.answers = [Answer(ask, index, limit, self._end_ids, guide, self._decode, self._guides.bytes_of, opened)
                            for index, guide in enumerate(work.guides)]
            for answer in work.answers if limit < 1 else ():
                answer.finish = "length"
            if limit < 1:
                work.tell(self._answer(work))
                return
        except BucleError as error:
            work.tell(error)
            return
        except Exception as error:  # a tokenizer's own; the engine goes on
            work.tell(BadInput(f"The prompt cannot be read by this model: {type(error).__name__}"))
            return
        with self._wake:
            if self._closing:
                work.tell(ModelUnavailable(f"{self.spec.name} is being closed"))
                return
            if not self._busy():
                self._beat = time.monotonic()
            self._waiting.append(work)
            self._wake.notify()

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # --- generation, in its thread

    def _busy(self) -> bool:
        return bool(self._waiting or self._filling or self._batches)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not self._busy():
                    self._wake.wait()
                if self._closing:
                    break
            self._forget()
            try:
                self._admit()
                if self._filling:
                    self._read_on(self._filling[0])
                for batch in list(self._batches):
                    self._step(batch)
            except Exception as error:  # nobody may wait for a thread that is gone
                works = {*self._filling, *self._owner.values()}
                self._filling.clear()
                self._batches.clear()
                self._fail(list(works), error)
            self._batches = [batch for batch in self._batches if batch.rows]
            self._beat = time.monotonic()
        for work in {*self._waiting, *self._filling, *self._owner.values()}:
            work.tell(ModelUnavailable(f"{self.spec.name} was closed"))

    def _admit(self) -> None:
        """Let those in whose sequences and memory have room, in order; who waits for an adapter's place holds up only
        others that need an adapter."""
        busy = {batch.adapter for batch in self._batches} | {work.adapter for work in self._filling}
        rows = sum(len(batch.rows) for batch in self._batches) + sum(work.ask.n for work in self._filling)
        held, blocked = self._held(), False
        with self._wake:
            waiting = [work for work in self._waiting if not work.ended]
            self._waiting.clear()
        left: list[_Work] = []
        for number, work in enumerate(waiting):
            needs = self._needs(work)
            full = rows and (rows + work.ask.n > self.spec.parallel or held + needs > self.spec.cache_gb * 2**30)
            if full:
                left += waiting[number:]
                break
            if work.adapter and blocked:
                left.append(work)
                continue
            try:
                if not self._shelf.load(work.adapter, busy):
                    blocked = True
                    left.append(work)
                    continue
            except BucleError as error:
                work.tell(error)
                continue
            busy.add(work.adapter)
            rows, held = rows + work.ask.n, held + needs
            self._filling.append(work)
        with self._wake:
            self._waiting.extendleft(reversed(left))

    def _needs(self, work: _Work) -> int:
        """Bytes of keys and values that the request can come to."""
        return self._token_bytes * sum(len(work.ids) + answer.limit for answer in work.answers)

    def _held(self) -> int:
        return sum(self._needs(work) for work in {*self._filling, *self._owner.values()})

    def _read_on(self, work: _Work) -> None:
        """Read the next piece of its prompt; after the last, let its answers begin."""
        if work.ended:
            self._filling.popleft()
            return
        try:
            self._shelf.choose(work.adapter)
            chunk = work.ids[work.read:work.read + CHUNK]
            work.logits, work.cache = prefill(self._model, chunk, work.cache)
            work.read += len(chunk)
            if work.read < len(work.ids):
                return
            self._filling.popleft()
            for number, answer in enumerate(work.answers):
                self._owner[answer] = work
                token = answer.choose(work.logits.clone())
                if not self._went_on(answer, token):
                    continue
                batch = self._batch_for(work)
                batch.join(answer, token, work.cache, share=number + 1 < len(work.answers))
            work.cache = work.logits = None
        except Exception as error:  # memory, an architecture's own; the others go on
            if self._filling and self._filling[0] is work:
                self._filling.popleft()
            self._fail([work], error)

    def _batch_for(self, work: _Work) -> Batch:
        together = self._side_by_side and mergeable(work.cache)
        found = next((batch for batch in self._batches if together and batch.adapter == work.adapter), None)
        if found is None:
            found = Batch(work.adapter)
            self._batches.append(found)
        return found

    def _step(self, batch: Batch) -> None:
        batch.keep([row for row, answer in enumerate(batch.rows) if answer in self._owner])
        if not batch.rows:
            return
        try:
            self._shelf.choose(batch.adapter)
            logits = batch.step(self._model)
            likeliest = logits.argmax(-1).tolist()
        except Exception as error:  # memory, an architecture's own; the others go on
            rows, batch.rows = batch.rows, []
            self._fail(list({self._owner[answer] for answer in rows}), error)
            return
        left = []
        for row, answer in enumerate(batch.rows):
            try:
                token = likeliest[row] if answer.plain else answer.choose(logits[row].clone())
                if self._went_on(answer, token):
                    batch.took(row, token)
                    left.append(row)
            except BucleError as error:
                self._fail([self._owner[answer]], error)
        batch.keep(left)

    def _went_on(self, answer: Answer, token: int) -> bool:
        """Tell what `token` adds; whether the answer goes on."""
        work = self._owner[answer]
        piece = answer.take(token)
        self._tokens += 1
        if piece is not None and work.ask.stream:
            work.tell(piece)
        if not answer.finish:
            return True
        if all(one.finish for one in work.answers):
            work.tell(self._answer(work))
        return False

    def _answer(self, work: _Work) -> ChatAnswer:
        written = sum(len(answer.ids) for answer in work.answers)
        name = f"{self.spec.name}:{work.adapter}" if work.adapter else self.spec.name
        return ChatAnswer(tuple(answer.choice() for answer in work.answers),
                          Usage(tokens_in=len(work.ids), tokens_out=written), served_by=name)

    def _fail(self, works: list[_Work], error: BaseException) -> None:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        known = error if isinstance(error, BucleError) else ModelUnavailable(
            f"{self.spec.name} failed: {type(error).__name__}: {said}",
            "shorten the request, or lower what is asked at once")
        for work in works:
            work.tell(known)

    def _forget(self) -> None:
        """Let go of what has ended or was given up: its sequences leave their batch at its next step."""
        self._owner = {answer: work for answer, work in self._owner.items() if not work.ended}


def _bytes_a_token(config: Any, item: int) -> int:
    """Keys and values of one token, all layers."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = int(getattr(text, "num_hidden_layers", 0) or 0)
    heads = int(getattr(text, "num_attention_heads", 0) or 1)
    kept = int(getattr(text, "num_key_value_heads", 0) or heads)
    width = int(getattr(text, "head_dim", 0) or (getattr(text, "hidden_size", 0) or 0) // heads)
    return 2 * layers * kept * width * item

