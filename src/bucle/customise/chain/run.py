"""Running a chain: one input through its steps, from the first to the end."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.records import Prediction
from bucle.customise.chain.attempts import Attempts, Limits, StepFailed, kind_of
from bucle.customise.chain.checks import Unmet, cited
from bucle.customise.chain.expressions import condition, render
from bucle.customise.chain.result import ChainEnv, Result
from bucle.customise.chain.spec import (
    END,
    OTHER,
    AnyStep,
    ChainSpec,
    CheckStep,
    ParallelStep,
    RetrieveStep,
    TextStep,
    all_steps,
)
from bucle.customise.chain.steps import Worker

__all__ = ["Chain"]

MOST_VISITS = 300  # of steps by one input
MOST_PARALLEL = 8  # inputs at once


class Chain:
    """A chain ready to answer. Raises ConfigError where a step needs a model, an index or a function that `env` does
    not have, or code that nobody trusts."""

    def __init__(self, spec: ChainSpec, env: ChainEnv) -> None:
        self.spec, self.env = spec, env
        self.steps: dict[str, AnyStep] = {step.name: step for step in all_steps(spec)}
        self.worker = Worker(self.steps, env)
        order = [*(step.name for step in spec.steps), END]
        self.following = dict(pairwise(order))
        self.limits = Limits(env.models, env.tasks)

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


@dataclass
class _Run:
    """One input on its way through a chain."""

    chain: Chain
    text: str
    access: frozenset[str]
    results: dict[str, Result] = field(default_factory=dict)
    last: Result = field(default_factory=Result)
    answer: Result = field(default_factory=Result)
    failed: str = ""
    shown: tuple[Mapping[str, Any], ...] = ()
    retries: dict[str, int] = field(default_factory=dict)
    attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.chain.worker, self.chain.limits, self.access)
        self.text = self.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")  # half a character is none

    def prediction(self) -> Prediction:
        """The answer. Never raises a BucleError."""
        said: dict[str, Any] = {"output": ""}
        try:
            abstained = self._walk()
            output = self._output()
            quoted = cited(output, self.shown)[0] if self.shown else []
            said = {"output": output, "abstained": abstained or not output.strip(), "score": self._score(),
                    "citations": tuple(quoted), "quotes": self._quotes(output, quoted)}
        except StepFailed as failed:
            error = failed.error
            said |= {"error": self.attempts.one_line(
                f"step `{failed.step}`: {error.message}" + (f"; {error.hint}" if error.hint else "")),
                     "error_kind": kind_of(error)}
        except BucleError as error:  # the output's own template
            said |= {"error": self.attempts.one_line(f"output: {error.message}"), "error_kind": type(error).__name__}
        found = dict.fromkeys(str(chunk["id"]) for name, result in self.results.items()
                              if isinstance(self.chain.steps[name], RetrieveStep) for chunk in result.chunks)
        spans = tuple(sorted(self.attempts.spans, key=lambda span: float(span["start_ms"])))
        return Prediction(**said, chunks=tuple(found), usage=self.attempts.used,
                          ms=(time.perf_counter() - self.attempts.began) * 1000, spans=spans)

    # the way through -----------------------------------------------------------------------------------------

    def _walk(self) -> bool:
        """From the first step to the end; whether the chain abstained."""
        chain, name, visits = self.chain, self.chain.spec.steps[0].name, 0
        while name != END:
            step, visits = chain.steps[name], visits + 1
            if visits > MOST_VISITS:
                raise StepFailed(name, BadInput(f"the chain took {MOST_VISITS} steps", "let its checks retry less"))
            try:
                if step.when and not condition(step.when, self._values()):
                    self.results[name] = Result(skipped=True)
                    name = chain.following[name]
                    continue
            except BucleError as error:
                raise StepFailed(name, error) from None
            if isinstance(step, CheckStep):
                goes = self._check(step)
                if goes is None:  # what failed the check is not given to anybody
                    self.answer, self.answered = Result(), True
                    return True
                name = goes
                continue
            try:
                if isinstance(step, ParallelStep):
                    result = self._group(step)
                else:
                    result = self._step(step, self._values(), self._deadline())
            except StepFailed as failed:
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

    def _after_failure(self, step: AnyStep, failed: StepFailed) -> tuple[Result, str]:
        if step.on_error == "fail":
            raise failed
        result = Result(error=self.attempts.one_line(failed.error.message))
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
            self._step(step, self._values(), self._deadline())
            self.failed = ""
            return self._next(step, Result(value=True))
        except StepFailed as failed:
            if not isinstance(failed.error, Unmet):
                result, goes = self._after_failure(step, failed)
                self.results[step.name] = result
                return goes or self._next(step, result)
            self.failed = self.chain.worker.hide(failed.error.message)
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
                    raise StepFailed(step.name, error) from None
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
                found[one.name] = self._step(one, values, deadline)
            except StepFailed as failed:
                if one.on_error == "go_on":
                    found[one.name] = Result(error=self.attempts.one_line(failed.error.message))
                else:
                    failures[one.name] = failed
            except BucleError as error:
                failures[one.name] = StepFailed(one.name, error)
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

    # what comes of it ----------------------------------------------------------------------------------------

    def _step(self, step: AnyStep, values: Mapping[str, Any], deadline: float) -> Result:
        return self.attempts.result(step, values, self.shown, deadline=deadline, again=sum(self.retries.values()))

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
        return self.attempts.began + self.chain.spec.timeout_s


_NOT_RUN = Result(skipped=True)
