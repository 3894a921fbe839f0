"""Asking a model many things at once: in order, within its limits, remembered, and stopped cleanly.

    with remembered(folder / "replies.db"):
        replies = ask_all(model, [Ask([{"role": "user", "content": text}], max_tokens=64) for text in texts])
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bucle.core.errors import BucleError, ModelUnavailable
from bucle.core.ports import ChatModel, ChatReply, Message, Report
from bucle.models.endpoint import Outlay, RateLimited, Refused, hurried, outlay
from bucle.models.replies import Replies, known, memory, remembered, reply_key

__all__ = ["Ask", "Told", "ask_all", "remembered", "somebody_waits", "without_waiting"]

PATIENCE_S = 120.0
"""The longest pause that a provider may ask for: a longer one ends the asking at once."""
TRIES = 6
"""How often one that keeps being told to wait is asked, each with an endpoint's own retries."""
OWN_FAULT = 0.05
"""The share of asks that may fail for good, while others are answered, before the model counts as not answering."""
FINAL = (Refused, RateLimited)
"""What ends the asking at the first: asking the next changes nothing."""
_GOODBYE_S = 3.0  # what is under way may end, and be remembered, after Ctrl-C


@dataclass
class Told(Outlay):
    """What those who asked in one context were told and spent: `retry_after`, the longest pause in seconds that a
    provider asked for, or None."""

    retry_after: float | None = None


_told = contextvars.ContextVar[Told | None]("bucle_told", default=None)


@contextlib.contextmanager
def without_waiting() -> Generator[Told, None, None]:
    """Inside it somebody waits for the answer: nothing is asked twice, a provider that says `wait` is not waited for,
    and each ask that fails is its own error, however many do (the rules for measuring do not hold)."""
    told = Told()
    token, other, spent = _told.set(told), hurried.set(True), outlay.set(told)
    try:
        yield told
    finally:
        _told.reset(token)
        outlay.reset(spent)
        hurried.reset(other)


def somebody_waits() -> bool:
    """Whether this is asked inside `without_waiting`: for somebody, not to measure."""
    return _told.get() is not None


@dataclass(frozen=True)
class Ask:
    """One question to a model: what `ChatModel.chat` takes. `schema` is the JSON schema of the answer, passed on to a
    model that can be held to it (`takes_schema`); the asker validates the answer all the same."""

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    schema: Mapping[str, Any] | None = None


def ask_all(model: ChatModel, asks: Sequence[Ask], *, report: Report | None = None,
            fresh: bool = False) -> list[ChatReply | BucleError]:
    """The reply to each of `asks`, in their order.

    Up to `model.max_parallel` are asked at once (one without the attribute), in threads, within the endpoint's limits a
    minute; a provider that says `wait` is waited for. Inside `remembered`, a model with an `identity` is asked each
    thing once, ever, and a remembered reply costs what the model's price is now (`model.priced`, where it has it);
    `fresh` asks again and remembers nothing. One ask that fails stands in its place as its error,
    after a second try at the end. ModelUnavailable is raised where nothing answers, the key or the model's name is
    refused, or more than a twentieth of the asks fail for good: what was answered until then is remembered. Ctrl-C
    stops it. Inside `without_waiting` nothing is tried again here and nothing raised: every ask has its reply or error.
    """
    results: dict[int, ChatReply | BucleError] = {}
    identity = str(getattr(model, "identity", ""))
    replies = None if fresh or not identity else memory.get()
    keys = [reply_key(identity, ask) for ask in asks] if replies is not None else [str(n) for n in range(len(asks))]
    found = known(replies, keys)
    if found and (priced := getattr(model, "priced", None)) is not None:
        found = {key: replace(reply, usage=priced(reply.usage)) for key, reply in found.items()}
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        if key in found:
            results[place] = found[key]
        else:
            places.setdefault(key, []).append(place)
    if report is not None and results:
        report(len(results), len(asks))
    work = [(key, asks[where[0]]) for key, where in places.items()]
    run = _Run(model, identity, replies, _told.get())
    with contextlib.closing(run.answers(work, len(found))) as answers:
        for key, result in answers:
            again = replace(result, cached=True) if isinstance(result, ChatReply) else result
            results |= {place: again if nth else result for nth, place in enumerate(places[key])}
            if report is not None:
                report(len(results), len(asks))
    return [results[place] for place in range(len(asks))]


_Answers = Generator[tuple[str, ChatReply | BucleError], None, None]


@dataclass(frozen=True)
class _Run:
    """The asking of what is not known yet."""

    model: ChatModel
    identity: str
    replies: Replies | None
    told: Told | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def answers(self, work: Sequence[tuple[str, Ask]], answered: int) -> _Answers:
        """Replies and errors by key, as they come. `answered`: how many are known already."""
        failed: list[tuple[str, Ask]] = []
        last: ModelUnavailable | None = None
        parallel = max(1, int(getattr(self.model, "max_parallel", 1)))
        in_a_row = 0
        for key, ask, result in self._pooled(work, parallel):
            if isinstance(result, ModelUnavailable) and self.told is None:
                failed.append((key, ask))
                last, in_a_row = result, in_a_row + 1
                if isinstance(result, FINAL) or in_a_row > parallel:
                    raise self._kept(result)
                continue
            in_a_row, answered = 0, answered + 1
            yield key, result
        if last is not None and not answered:
            raise self._kept(last)
        lost: list[tuple[str, ModelUnavailable]] = []
        for key, _, result in self._pooled(failed, parallel):
            if isinstance(result, ModelUnavailable):
                lost.append((key, result))
                if len(lost) > max(1, OWN_FAULT * (answered + len(failed))):
                    raise self._kept(result)
            else:
                yield key, result
        yield from lost

    def _pooled(self, work: Sequence[tuple[str, Ask]],
                parallel: int) -> Generator[tuple[str, Ask, ChatReply | BucleError], None, None]:
        """Each of `work` with what came of it, in the order in which they end."""
        threads = min(parallel, len(work))
        if threads <= 1:
            for key, ask in work:
                yield key, ask, self._settled(key, ask)
            return
        left, out = deque(work), queue.SimpleQueue[tuple[str, Ask, ChatReply | BaseException]]()

        def worker() -> None:
            while not self.stop.is_set():
                try:
                    key, ask = left.popleft()
                except IndexError:
                    return
                try:
                    result: ChatReply | BaseException = self._settled(key, ask)
                except BaseException as error:  # raised again where it is read
                    result = error
                if isinstance(result, FINAL) and self.told is None:
                    self.stop.set()
                out.put((key, ask, result))

        pool = [threading.Thread(target=contextvars.copy_context().run, args=(worker,), daemon=True)
                for _ in range(threads)]
        try:
            for thread in pool:
                thread.start()
            for _ in work:
                key, ask, result = out.get()
                if isinstance(result, ChatReply | BucleError):
                    yield key, ask, result
                else:
                    raise result
        except BaseException:
            self.stop.set()
            until = time.monotonic() + _GOODBYE_S
            for thread in pool:
                if thread.is_alive():
                    thread.join(max(0.0, until - time.monotonic()))
            raise

    def _settled(self, key: str, ask: Ask) -> ChatReply | BucleError:
        """The reply to `ask`, remembered, or why there is none. Waits while the provider says so."""
        held = bool(ask.schema) and getattr(self.model, "takes_schema", False)
        form: dict[str, Any] = {"schema": ask.schema} if held else {}
        for attempt in range(TRIES):
            began = time.perf_counter()
            try:
                reply = self.model.chat(ask.messages, max_tokens=ask.max_tokens, temperature=ask.temperature,
                                        stop=ask.stop, seed=ask.seed, **form)
            except RateLimited as error:
                wait = error.retry_after if error.retry_after is not None else min(30.0, 2.0**attempt)
                if self.told is not None:
                    self.told.retry_after = max(self.told.retry_after or 0.0, error.retry_after or 0.0) or None
                    return error
                if wait > PATIENCE_S or attempt == TRIES - 1 or self.stop.wait(wait):
                    return error
                continue
            except BucleError as error:
                return error
            if not reply.ms:
                reply = replace(reply, ms=(time.perf_counter() - began) * 1000)
            if self.replies is not None:
                self.replies.put(key, self.identity, reply)
            return reply
        raise AssertionError("the last try returns")

    def _kept(self, error: ModelUnavailable) -> ModelUnavailable:
        if self.replies is not None and not self.replies.problem:
            more = "what it answered is remembered: the same command goes on from there"
            error.hint = f"{error.hint}; {more}" if error.hint else more
        return error
