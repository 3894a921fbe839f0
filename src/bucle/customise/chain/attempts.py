"""One step with all that surrounds its work: what was kept of it, its time, its attempts, its span."""

from __future__ import annotations

import contextlib
import contextvars
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.errors import BucleError, ModelUnavailable, SchemaBroken, UpstreamTimeout
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import ChatModel
from bucle.core.records import Usage
from bucle.customise.chain.checks import Unmet
from bucle.customise.chain.http import Busy
from bucle.customise.chain.keep import unfit
from bucle.customise.chain.result import Result
from bucle.customise.chain.spec import AnyStep, CheckStep, HttpStep, ParseStep, PythonStep, TextStep
from bucle.customise.chain.steps import OwnFault, Worker

__all__ = ["Attempts", "Limits", "StepFailed", "kind_of"]

SHOWN = 200
"""Characters of an input or output that a span shows."""
MOST_ABANDONED = 16  # calls of one step that ran out of time and still run
FLOW = ("name", "when", "cache", "timeout_s", "retry", "on_error", "route", "then")  # no part of what a step gives


class StepFailed(Exception):
    """A step failed for good."""

    def __init__(self, step: str, error: BucleError) -> None:
        super().__init__(step)
        self.step, self.error = step, error


class Limits:
    """Keeps calls within their time and their number: those of a step, of a model (its `max_parallel`, else one at a
    time), and of another task's candidate."""

    def __init__(self, models: Mapping[str, ChatModel], tasks: Mapping[str, Any] | None = None) -> None:
        self._hung: Counter[str] = Counter()
        self._slots: dict[str, threading.Semaphore] = {}
        self._lock = threading.Lock()
        engines: list[tuple[str, str, Any]] = [("model", name, model) for name, model in models.items()]
        engines += [("task", name, predictor) for name, predictor in (tasks or {}).items()]
        self._turns = {(what, name): threading.Semaphore(max(1, int(getattr(engine, "max_parallel", 1))))
                       for what, name, engine in engines}

    def within(self, step: AnyStep, work: Callable[[], Result], seconds: float) -> Result:
        """`work()` within `seconds`. It runs in a thread, which cannot be stopped: what hangs is left behind, and while
        MOST_ABANDONED calls of a step hang no more of it is begun. Raises UpstreamTimeout."""
        if isinstance(step, TextStep | CheckStep | ParseStep) and not (
                getattr(step, "function", "") or getattr(step, "model", "")):
            return work()
        began = time.perf_counter()
        with self._lock:
            slots = self._slots.setdefault(step.name, threading.Semaphore(MOST_ABANDONED))
            hung = self._hung[step.name]
        if hung >= MOST_ABANDONED or not slots.acquire(timeout=seconds):
            raise UpstreamTimeout(f"{MOST_ABANDONED} earlier calls of `{step.name}` still run, {self._hung[step.name]} "
                                  "of them out of time: no more are begun",
                                  "mend what it asks; if they never end, start again")
        from bucle.models.endpoint import troubles

        done: list[Result | BaseException] = []
        told: list[str] = []
        ended, late = False, False
        turn = next((turn for (what, name), turn in self._turns.items() if getattr(step, what, "") == name),
                    contextlib.nullcontext())

        def target() -> None:
            nonlocal ended
            try:
                with turn:
                    done.append(work())
            except BaseException as error:  # raised again where it is read
                done.append(error)
            finally:
                with self._lock:
                    ended = True
                    self._hung[step.name] -= late
                slots.release()

        context = contextvars.copy_context()
        context.run(troubles.set, told)
        thread = threading.Thread(target=context.run, args=(target,), daemon=True, name=f"bucle-chain-{step.name}")
        thread.start()
        thread.join(max(0.0, began + seconds - time.perf_counter()))
        if not done:
            with self._lock:
                late = not ended
                self._hung[step.name] += late
            why = f": {told[-1]}" if told else ""
            raise UpstreamTimeout(f"it did not end within {seconds:.3g} s{why}", _longer(step, seconds, told))
        if isinstance(done[0], BaseException):
            raise done[0]
        return done[0]


@dataclass
class Attempts:
    """The steps of one input as they are tried: their `spans`, and what they `used`."""

    worker: Worker
    limits: Limits
    access: frozenset[str]
    began: float = field(default_factory=time.perf_counter)
    spans: list[dict[str, Any]] = field(default_factory=list)
    used: Usage = field(default_factory=Usage)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def result(self, step: AnyStep, values: Mapping[str, Any], shown: tuple[Mapping[str, Any], ...], *,
               deadline: float, again: int = 0) -> Result:
        """A step's result, kept or made, after as many attempts as it may take before `deadline` (perf_counter).
        `values` are what its templates see, `shown` the passages that a check of citations counts; `again` how often a
        check has sent the chain back. Raises StepFailed."""
        began, note = time.perf_counter(), ""
        try:
            asked = self.worker.inputs(step, values, shown)
            key = "" if values["failed"] else self._key(step, asked)
            if key and (note := unfit(asked, self.worker.hide)):
                key = ""
        except BucleError as error:
            self._span(step, began, 1, error=error)
            raise StepFailed(step.name, error) from None
        if (kept := self._kept(key)) is not None:
            self._span(step, began, 1, asked, kept, cached=True)
            return kept
        tries, before = step.retry.times if step.retry else 0, ""
        for attempt in range(1, tries + 2):
            began = time.perf_counter()
            left, nth = deadline - began, attempt - 1 + again
            try:
                if left <= 0:
                    raise UpstreamTimeout("there was no time left for it" + (before and f" after: {before}"),
                                          "raise `timeout_s` of the chain, or of the group")
                seconds = min(step.timeout_s, left)
                result = self.limits.within(
                    step, lambda seconds=seconds, nth=nth: self.worker.work(  # type: ignore[misc]
                        step, asked, self.access, seconds, nth), seconds)
            except BucleError as caught:
                fault = _typed(caught, step)
                self._span(step, began, attempt, asked, error=fault)
                self._spent(_usage(fault))
                before = fault.message
                if attempt > tries or not _may_retry(step, fault):
                    raise StepFailed(step.name, fault) from None
                assert step.retry is not None  # noqa: S101 - there are tries
                pause = step.retry.wait_s * step.retry.factor ** (attempt - 1)
                time.sleep(max(0.0, min(pause, deadline - time.perf_counter())))
                continue
            if key and (note := unfit(result.kept(), self.worker.hide)):
                key = ""
            self._span(step, began, attempt, asked, result, note=note)
            self._spent(result.usage)
            if key and self.worker.env.cache is not None:
                self.worker.env.cache.put(key, result.kept(), step.cache)
            return result
        raise AssertionError("the last attempt returns or raises")

    def _spent(self, more: Usage) -> None:
        with self.lock:
            self.used = Usage(tokens_in=self.used.tokens_in + more.tokens_in,
                              tokens_out=self.used.tokens_out + more.tokens_out, usd=self.used.usd + more.usd)

    def _key(self, step: AnyStep, asked: Mapping[str, Any]) -> str:
        """What the step's result is kept under, a hash: of its content, what stands behind it, its inputs, the asker's
        labels and those that the documents have now. Empty where nothing is kept."""
        if not step.cache or self.worker.env.cache is None:
            return ""
        if (behind := self.worker.identity(step)) is None:
            return ""
        content = {k: v for k, v in step.model_dump(mode="json").items() if k not in FLOW}
        return sha256_hex(canonical_json([content, behind, dict(asked), sorted(self.access), self.worker.labels(),
                                          self.worker.env.language, self.worker.env.seed]))

    def _kept(self, key: str) -> Result | None:
        """What is kept under `key`, if every passage in it may still be seen by the asker."""
        cache, index = self.worker.env.cache, self.worker.env.index
        value = cache.get(key) if key and cache is not None else None
        result = Result.from_kept(value) if value is not None else None
        if result is None or not result.chunks:
            return result
        ids = [str(chunk["id"]) for chunk in result.chunks]
        return result if index is not None and set(ids) <= set(index.get(ids, self.access)) else None

    def _span(self, step: AnyStep, began: float, attempt: int, asked: Mapping[str, Any] | None = None,
              result: Result | None = None, *, cached: bool = False, error: BucleError | None = None,
              note: str = "") -> None:
        now = time.perf_counter()
        given = {k: len(v) if k in ("passages", "shown") else v for k, v in (asked or {}).items() if v not in ("", {})}
        usage = result.usage if result and not cached else _usage(error)
        span: dict[str, Any] = {
            "name": step.name, "kind": step.kind, "start_ms": round((began - self.began) * 1000, 3),
            "ms": round((now - began) * 1000, 3), "attempt": attempt, "cached": cached,
            "tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out, "usd": usage.usd,
            "chunks": [str(c["id"]) for c in result.chunks] if result else [],
            "input": self._short(given), "output": self._short(result.text) if result else "",
            "error": self.one_line(error.message) if error else "", "error_kind": kind_of(error) if error else "",
        }
        dropped = result.dropped if result else getattr(error, "dropped", ())
        span |= ({"note": f"not kept: {note}"} if note else {}) | ({"dropped": list(dropped)} if dropped else {})
        with self.lock:
            self.spans.append(span)

    def one_line(self, text: str) -> str:
        """An error as it may be shown: short, and without secrets."""
        return " ".join(self.worker.hide(text).split())[:500]

    def _short(self, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        text = self.worker.hide(text)
        return text if len(text) <= SHOWN else text[:SHOWN - 1] + "…"


def _usage(error: BucleError | None) -> Usage:
    """What was paid for something that then failed."""
    found = getattr(error, "usage", None)
    return found if isinstance(found, Usage) else Usage()


def _typed(error: BucleError, step: AnyStep) -> BucleError:
    """A time-out of a model's as the one that every step has."""
    from bucle.models.endpoint import TimedOut

    if not isinstance(error, TimedOut):
        return error
    room = f"; `timeout_s` of `{step.name}` is {step.timeout_s:g}, and must leave room for it"
    return UpstreamTimeout(error.message, error.hint + room if error.hint else _longer(step, step.timeout_s))


def _longer(step: AnyStep, seconds: float, told: Sequence[str] = ()) -> str:
    """What helps against a step that took over `seconds`, of which it `told` these troubles."""
    more = " (its thread cannot be stopped and may still run)" if isinstance(step, PythonStep) else ""
    name = getattr(step, "model", "")
    if told and "429" in told[-1]:
        return (f"ask `{name}` less at once (models.{name}.max_parallel, requests_per_minute), or leave room for its "
                f"pauses: `timeout_s` of `{step.name}` is {step.timeout_s:g}")
    if seconds < step.timeout_s * 0.99:
        return (f"raise `timeout_s` of the chain, or of the group: `{step.name}` itself may take {step.timeout_s:g} s"
                f"{more}")
    return f"raise `timeout_s` of `{step.name}` (now {step.timeout_s:g}), or let `on_error` go on without it{more}"


def _may_retry(step: AnyStep, error: BucleError) -> bool:
    """Only what came from outside, and what may be done twice: see `Retry`."""
    from bucle.models.endpoint import Refused

    if isinstance(step, HttpStep):
        return isinstance(error, Busy | UpstreamTimeout) and (step.method == "GET" or step.idempotent)
    if isinstance(error, OwnFault):
        return True
    return isinstance(error, ModelUnavailable | SchemaBroken) and not isinstance(error, Refused)


def kind_of(error: BucleError) -> str:
    """The class of an error as everybody knows it."""
    if isinstance(error, Unmet):
        return "SchemaBroken" if error.schema else "BadInput"
    if isinstance(error, Busy) and getattr(error, "limited", False):
        return "RateLimited"
    return {"Busy": "ModelUnavailable", "OwnFault": "BadInput", "TimedOut": "UpstreamTimeout",
            "BrokenOff": "ModelUnavailable", "NotSetUp": "Refused"}.get(
        type(error).__name__, type(error).__name__)
