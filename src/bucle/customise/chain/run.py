"""Running a chain: one input through its steps, each a span, with its cache, its time and its retries."""

from __future__ import annotations

import contextvars
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bucle.core.errors import BadInput, BucleError, ModelUnavailable, SchemaBroken, UpstreamTimeout
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.records import Prediction, Usage
from bucle.customise.chain.expressions import condition, render
from bucle.customise.chain.graph import edges
from bucle.customise.chain.http import Busy
from bucle.customise.chain.result import ChainEnv, Result
from bucle.customise.chain.spec import (
    END,
    OTHER,
    AnyStep,
    ChainSpec,
    CheckStep,
    HttpStep,
    ParallelStep,
    ParseStep,
    PythonStep,
    RetrieveStep,
    TextStep,
    all_steps,
)
from bucle.customise.chain.steps import OwnFault, Unmet, Worker, cited

__all__ = ["Chain"]

SHOWN = 200
"""Characters of an input or output that a span shows."""
MOST_VISITS = 300  # of steps by one input
MOST_ABANDONED = 16  # calls that ran out of time and still run
MOST_PARALLEL = 8  # inputs at once
FLOW = ("name", "when", "cache", "timeout_s", "retry", "on_error", "route", "then")  # no part of what a step gives


class Chain:
    """A chain ready to answer. Raises ConfigError where a step needs a model, an index or a function that `env` does
    not have, or code that nobody trusts."""

    def __init__(self, spec: ChainSpec, env: ChainEnv) -> None:
        self.spec, self.env = spec, env
        self.steps: dict[str, AnyStep] = {step.name: step for step in all_steps(spec)}
        self.worker = Worker(self.steps, env)
        order = [*(step.name for step in spec.steps), END]
        self.following = dict(pairwise(order))
        self.ways = edges(spec)
        self._abandoned: list[threading.Thread] = []
        self._locks = {name: threading.Lock() for name, model in env.models.items()
                       if not hasattr(model, "max_parallel")}

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        """The answer to each of `inputs`, in order, for an asker who holds the labels `access`. Its `spans` are the
        steps as they ran; a step that failed for good is its `error` and `error_kind`, and what ran before it stays in
        the spans. Inputs are answered side by side where every model of the chain is remote."""
        used = [model for name, model in self.env.models.items()
                if any(getattr(step, "model", "") == name for step in self.steps.values())]
        at_once = min([MOST_PARALLEL, *(int(getattr(model, "max_parallel", 1)) for model in used)]) if used else 1
        if at_once == 1 or len(inputs) < 2:
            return [_Run(self, text, access).prediction() for text in inputs]
        found: dict[int, Prediction | BaseException] = {}
        left, stop = deque(enumerate(inputs)), threading.Event()

        def answer() -> None:
            while left and not stop.is_set():
                try:
                    place, text = left.popleft()
                except IndexError:
                    return
                try:
                    found[place] = _Run(self, text, access).prediction()
                except BaseException as error:  # raised again where it is read
                    found[place] = error
                    stop.set()

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(answer,), daemon=True)
                   for _ in range(min(at_once, len(inputs)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stop.set()  # Ctrl-C: what is under way is left behind
        for one in found.values():
            if isinstance(one, BaseException):
                raise one
        return [one for _, one in sorted(found.items()) if isinstance(one, Prediction)]

    def close(self) -> None:
        """Connections are closed; the cache is its owner's."""
        self.worker.close()

    def bounded(self, step: AnyStep, work: Callable[[], Result], seconds: float) -> Result:
        """`work()` within `seconds`. It runs in a thread, which cannot be stopped: what hangs is left behind, and once
        MOST_ABANDONED hang no more is begun. Raises UpstreamTimeout."""
        if isinstance(step, TextStep | CheckStep | ParseStep) and not (
                getattr(step, "function", "") or getattr(step, "model", "")):
            return work()
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if len(self._abandoned) >= MOST_ABANDONED:
            raise UpstreamTimeout(f"{len(self._abandoned)} earlier calls ran out of time and still run",
                                  "mend what hangs, then start again")
        done: list[Result | BaseException] = []
        lock = self._locks.get(getattr(step, "model", ""))

        def target() -> None:
            try:
                if lock is None:
                    done.append(work())
                else:
                    with lock:
                        done.append(work())
            except BaseException as error:  # raised again where it is read
                done.append(error)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), daemon=True,
                                  name=f"bucle-chain-{step.name}")
        thread.start()
        thread.join(seconds)
        if not done:
            if thread.is_alive():
                self._abandoned.append(thread)
            raise UpstreamTimeout(f"it did not end within {seconds:.3g} s", _longer(step))
        if isinstance(done[0], BaseException):
            raise done[0]
        return done[0]


class _Failed(Exception):
    """A step failed for good."""

    def __init__(self, step: str, error: BucleError) -> None:
        super().__init__(step)
        self.step, self.error = step, error


@dataclass
class _Run:
    """One input on its way through a chain."""

    chain: Chain
    text: str
    access: frozenset[str]
    results: dict[str, Result] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    last: Result = field(default_factory=Result)
    answer: Result = field(default_factory=Result)
    failed: str = ""
    shown: tuple[Mapping[str, Any], ...] = ()
    used: Usage = field(default_factory=Usage)
    retries: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prediction(self) -> Prediction:
        """The answer. Never raises a BucleError."""
        said: dict[str, Any] = {"output": ""}
        self.text = self.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")  # half a character is none
        try:
            abstained = self._walk()
            output = self._output()
            quoted, _ = cited(output, self.shown)
            said = {"output": output, "abstained": abstained or not output.strip(), "score": self._score(),
                    "citations": tuple(quoted), "quotes": self._quotes(output, quoted)}
        except _Failed as failed:
            error = failed.error
            said |= {"error": _one_line(f"step `{failed.step}`: {error.message}"
                                        + (f"; {error.hint}" if error.hint else ""), self.chain),
                     "error_kind": _kind(error)}
        except BucleError as error:  # the output's own template
            said |= {"error": _one_line(f"output: {error.message}", self.chain), "error_kind": type(error).__name__}
        found = dict.fromkeys(str(chunk["id"]) for name, result in self.results.items()
                              if isinstance(self.chain.steps[name], RetrieveStep) for chunk in result.chunks)
        return Prediction(**said, chunks=tuple(found), usage=self.used, ms=(time.perf_counter() - self.began) * 1000,
                          spans=tuple(sorted(self.spans, key=lambda span: span["start_ms"])))

    # the way through -----------------------------------------------------------------------------------------

    def _walk(self) -> bool:
        """From the first step to the end; whether the chain abstained."""
        chain, name, visits = self.chain, self.chain.spec.steps[0].name, 0
        while name != END:
            step, visits = chain.steps[name], visits + 1
            if visits > MOST_VISITS:
                raise _Failed(name, BadInput(f"the chain took {MOST_VISITS} steps", "let its checks retry less"))
            try:
                if step.when and not condition(step.when, self._values()):
                    self.results[name] = Result(skipped=True)
                    name = chain.following[name]
                    continue
            except BucleError as error:
                raise _Failed(name, error) from None
            if isinstance(step, CheckStep):
                goes = self._check(step)
                if goes is None:  # what failed the check is not given to anybody
                    self.answer, self.answered = Result(), True
                    return True
                name = goes
                continue
            try:
                result = self._group(step) if isinstance(step, ParallelStep) else self._attempts(step, self._deadline())
            except _Failed as failed:
                result, goes = self._after_failure(step, failed)
                if goes:
                    name = goes
                    continue
            self._keep(step, result)
            if isinstance(step, TextStep) and step.abstain:
                self.answered = True
                return True
            name = self._next(step, result)
        return False

    def _after_failure(self, step: AnyStep, failed: _Failed) -> tuple[Result, str]:
        if step.on_error == "fail":
            raise failed
        result = Result(error=_one_line(failed.error.message, self.chain))
        if step.on_error == "go_on":
            return result, ""
        self.results[step.name] = result
        return result, step.on_error

    def _next(self, step: AnyStep, result: Result) -> str:
        value = result.value
        key = str(value).lower() if isinstance(value, bool) else str(value)
        if step.route and not result.error and (target := step.route.get(key, step.route.get(OTHER, ""))):
            return target
        return step.then or self.chain.following[step.name]

    def _check(self, step: CheckStep) -> str | None:
        """Where to go on after a check; None: the chain abstains."""
        try:
            self._attempts(step, self._deadline())
            self.failed = ""
            return self._next(step, Result(value=True))
        except _Failed as failed:
            if not isinstance(failed.error, Unmet):
                result, goes = self._after_failure(step, failed)
                self.results[step.name] = result
                return goes or self._next(step, result)
            self.failed = failed.error.message
            self.results[step.name] = Result(value=False, error=self.failed)
            then = step.on_fail
            if then is None:
                if step.on_error != "fail":
                    return self._next(step, Result()) if step.on_error == "go_on" else step.on_error
                raise
            if then.retry and self.retries.get(step.name, 0) < then.times:
                self.retries[step.name] = self.retries.get(step.name, 0) + 1
                return then.retry
            if then.go:
                return then.go
            if then.abstain:
                return None
            if then.answer:
                try:
                    self.answer = Result.of(render(then.answer, self._values()))
                except BucleError as error:
                    raise _Failed(step.name, error) from None
                self.answered = True
                return END
            raise

    answered = False  # a check or an abstention gave the answer itself, so that `output` has no say

    def _keep(self, step: AnyStep, result: Result) -> None:
        self.results[step.name] = result
        if not result.error:
            self.last = result
            if not isinstance(step, RetrieveStep):
                self.answer = result
            if result.chunks:
                self.shown = result.chunks

    def _group(self, step: ParallelStep) -> Result:
        """Every step of the group at once. All end before the first that failed fails the group."""
        deadline = min(self._deadline(), time.perf_counter() + step.timeout_s)
        values, found, failures = self._values(), dict[str, Result](), dict[str, BaseException]()

        def run(one: AnyStep) -> None:
            try:
                if one.when and not condition(one.when, values):
                    found[one.name] = Result(skipped=True)
                    return
                found[one.name] = self._attempts(one, deadline)
            except _Failed as failed:
                if one.on_error == "go_on":
                    found[one.name] = Result(error=_one_line(failed.error.message, self.chain))
                else:
                    failures[one.name] = failed
            except BucleError as error:
                failures[one.name] = _Failed(one.name, error)
            except BaseException as error:  # raised again below
                failures[one.name] = error

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(run, one), daemon=True)
                   for one in step.steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in step.steps:
            if one.name in found:
                self.results[one.name] = found[one.name]
                if found[one.name].chunks:
                    self.shown = found[one.name].chunks
        for one in step.steps:
            if one.name in failures:
                raise failures[one.name]
        whole = [found[one.name] for one in step.steps]
        return Result("\n\n".join(r.text for r in whole if r.text), {o.name: found[o.name].value for o in step.steps},
                      tuple({str(c["id"]): c for r in whole for c in r.chunks}.values()))

    # one step ------------------------------------------------------------------------------------------------

    def _attempts(self, step: AnyStep, deadline: float) -> Result:
        """A step's result, kept or made, after as many attempts as it may take. Raises _Failed."""
        began = time.perf_counter()
        try:
            asked = self.chain.worker.inputs(step, self._values(), self.shown)
            key = self._key(step, asked)
        except BucleError as error:
            self._span(step, began, 1, error=error)
            raise _Failed(step.name, error) from None
        if (kept := self._kept(key)) is not None:
            self._span(step, began, 1, asked, kept, cached=True)
            return kept
        tries = step.retry.times if step.retry else 0
        for attempt in range(1, tries + 2):
            began = time.perf_counter()
            left, again = deadline - began, attempt - 1 + sum(self.retries.values())
            try:
                if left <= 0:
                    raise UpstreamTimeout("there was no time left for it", "raise the chain's `timeout_s` (now "
                                          f"{self.chain.spec.timeout_s:g}), or that of its group")
                seconds = min(step.timeout_s, left)
                result = self.chain.bounded(
                    step, lambda asked=asked, seconds=seconds, again=again: self.chain.worker.work(  # type: ignore[misc]
                        step, asked, self.access, seconds, again), seconds)
            except BucleError as caught:
                fault = _typed(caught, step)
                self._span(step, began, attempt, asked, error=fault)
                self._spent(_usage(fault))
                if attempt > tries or not _may_retry(step, fault):
                    raise _Failed(step.name, fault) from None
                assert step.retry is not None  # noqa: S101 - there are tries
                pause = step.retry.wait_s * step.retry.factor ** (attempt - 1)
                time.sleep(max(0.0, min(pause, deadline - time.perf_counter())))
                continue
            self._span(step, began, attempt, asked, result)
            self._spent(result.usage)
            if key and self.chain.env.cache is not None:
                self.chain.env.cache.put(key, result.kept(), step.cache)
            return result
        raise AssertionError("the last attempt returns or raises")

    def _spent(self, more: Usage) -> None:
        with self.lock:
            self.used = Usage(tokens_in=self.used.tokens_in + more.tokens_in,
                              tokens_out=self.used.tokens_out + more.tokens_out, usd=self.used.usd + more.usd)

    def _key(self, step: AnyStep, asked: Mapping[str, Any]) -> str:
        """What the step's result is kept under: its content, what stands behind it, its inputs and the asker's labels.
        Empty where nothing is kept, as after a check that failed."""
        if not step.cache or self.chain.env.cache is None or self.failed:
            return ""
        if (behind := self.chain.worker.identity(step)) is None:
            return ""
        content = {k: v for k, v in step.model_dump(mode="json").items() if k not in FLOW}
        return sha256_hex(canonical_json([content, behind, dict(asked), sorted(self.access), self.chain.env.language,
                                          self.chain.env.seed]))

    def _kept(self, key: str) -> Result | None:
        """What is kept under `key`, if every passage in it may still be seen by the asker."""
        cache, index = self.chain.env.cache, self.chain.env.index
        value = cache.get(key) if key and cache is not None else None
        result = Result.from_kept(value) if value is not None else None
        if result is None or not result.chunks:
            return result
        ids = [str(chunk["id"]) for chunk in result.chunks]
        return result if index is not None and set(ids) <= set(index.get(ids, self.access)) else None

    def _span(self, step: AnyStep, began: float, attempt: int, asked: Mapping[str, Any] | None = None,
              result: Result | None = None, *, cached: bool = False, error: BucleError | None = None) -> None:
        now = time.perf_counter()
        given = {k: len(v) if k in ("passages", "shown") else v for k, v in (asked or {}).items() if v not in ("", {})}
        usage = result.usage if result and not cached else _usage(error)
        span: dict[str, Any] = {
            "name": step.name, "kind": step.kind, "start_ms": round((began - self.began) * 1000, 3),
            "ms": round((now - began) * 1000, 3), "attempt": attempt, "cached": cached,
            "tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out, "usd": usage.usd,
            "chunks": [str(c["id"]) for c in result.chunks] if result else [],
            "input": _short(given, self.chain), "output": _short(result.text, self.chain) if result else "",
            "error": _one_line(error.message, self.chain) if error else "", "error_kind": _kind(error) if error else "",
        }
        with self.lock:
            self.spans.append(span)

    # what comes of it ----------------------------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        """What templates see. A step that has not run is as one that was skipped."""
        seen = {name: self.results.get(name, _NOT_RUN).seen() for name in self.chain.steps}
        return {"input": self.text, "steps": seen, "last": self.last.seen(), "failed": self.failed}

    def _output(self) -> str:
        if self.answered or not self.chain.spec.output:
            return self.answer.text
        return Result.of(render(self.chain.spec.output, self._values())).text

    def _score(self) -> float | None:
        score = self.answer.score
        return None if score is None else min(1.0, max(0.0, score))

    def _quotes(self, output: str, citations: Sequence[str]) -> tuple[str, ...]:
        """Of each passage cited, the sentence that has most words of the answer."""
        from bucle.customise.overlap import token_f1
        from bucle.data.sentences import sentences

        texts = {str(chunk["id"]): str(chunk["text"]) for chunk in self.shown}
        return tuple(max(sentences(texts[one]) or [texts[one]], key=lambda s: token_f1(s, output)) for one in citations)

    def _deadline(self) -> float:
        return self.began + self.chain.spec.timeout_s


_NOT_RUN = Result(skipped=True)


def _usage(error: BucleError | None) -> Usage:
    """What was paid for something that then failed."""
    found = getattr(error, "usage", None)
    return found if isinstance(found, Usage) else Usage()


def _typed(error: BucleError, step: AnyStep) -> BucleError:
    """A time-out of a model's as the one that every step has."""
    from bucle.models.endpoint import TimedOut

    return UpstreamTimeout(error.message, _longer(step)) if isinstance(error, TimedOut) else error


def _longer(step: AnyStep) -> str:
    more = " (its thread cannot be stopped and may still run)" if isinstance(step, PythonStep) else ""
    return f"raise `timeout_s` of `{step.name}` (now {step.timeout_s:g}), or let `on_error` go on without it{more}"


def _may_retry(step: AnyStep, error: BucleError) -> bool:
    """Only what came from outside, and what may be done twice: see `Retry`."""
    from bucle.models.endpoint import Refused

    if isinstance(step, HttpStep):
        return isinstance(error, Busy | UpstreamTimeout) and (step.method == "GET" or step.idempotent)
    if isinstance(error, OwnFault):
        return True
    return isinstance(error, ModelUnavailable | SchemaBroken) and not isinstance(error, Refused)


def _kind(error: BucleError) -> str:
    if isinstance(error, Unmet):
        return "SchemaBroken" if error.schema else "BadInput"
    return {"Busy": "ModelUnavailable", "OwnFault": "BadInput", "TimedOut": "UpstreamTimeout"}.get(
        type(error).__name__, type(error).__name__)


def _short(value: Any, chain: Chain) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = chain.worker.hide(text)
    return text if len(text) <= SHOWN else text[:SHOWN - 1] + "…"


def _one_line(text: str, chain: Chain) -> str:
    return " ".join(chain.worker.hide(text).split())[:500]


