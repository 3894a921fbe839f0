"""Many questions to code that is not ours: some at once, each with its own time, its own error, its own spans.

Every question is a call of its own, so that its milliseconds are its own; one that hangs is given up after
`timeout_s` (its thread is a daemon, and another takes its place) and never holds up the rest.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.errors import BadInput, BucleError, ModelUnavailable, UpstreamTimeout
from bucle.core.records import Prediction, Usage

__all__ = ["PARALLEL", "Steps", "answer_each", "failed", "masked"]

PARALLEL = 8
MAX_SPANS = 200
LONGEST = 300  # characters of a foreign error that are told
SHOWN = 200  # characters of an input or output that a span shows
MAX_READ = 20_000  # characters of either that are looked at


@dataclass
class Steps:
    """What one question's call did: the spans of its one trace (milliseconds from its start), the documents that it
    retrieved and the tokens that it used. Filled by a library's own callbacks, from any thread. What a span tells as
    `input` and `output` may be anything: its beginning is shown, without `secrets`."""

    began: float = field(default_factory=time.perf_counter)
    spans: list[dict[str, Any]] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    _places: dict[Any, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, key: Any, name: str, parent: Any = None, **told: Any) -> None:
        """A step began. `parent` is the key of the one that it is part of: its place among the spans is told."""
        with self._lock:
            if len(self.spans) >= MAX_SPANS or key in self._places:
                return
        told = self._shown(told)
        with self._lock:
            above = self._places.get(parent)
            self._places[key] = len(self.spans)
            self.spans.append({"name": name[:120], "start_ms": self._now(), "ms": 0.0, **told,
                               **({} if above is None else {"parent": above})})

    def end(self, key: Any, **told: Any) -> None:
        """It ended."""
        told = self._shown(told) if key in self._places else told
        with self._lock:
            if (place := self._places.get(key)) is not None:
                span = self.spans[place]
                span.update({"ms": round(self._now() - span["start_ms"], 3), **told})

    def used(self, who: str, tokens_in: Any, tokens_out: Any) -> None:
        """Tokens of one call to a model, as `who` tells it: of several that tell, the one that counts most is right."""
        if isinstance(tokens_in, int) and isinstance(tokens_out, int):
            with self._lock:
                one = self.tokens.setdefault(who, [0, 0])
                one[0], one[1] = one[0] + tokens_in, one[1] + tokens_out

    @property
    def usage(self) -> Usage:
        most = max(self.tokens.values(), key=sum, default=[0, 0])
        return Usage(tokens_in=most[0], tokens_out=most[1])

    def _shown(self, told: Mapping[str, Any]) -> dict[str, Any]:
        from bucle.customise.external.answers import brief

        return {name: shown(brief(one), self.secrets) if name in ("input", "output") else one
                for name, one in told.items()}

    def _now(self) -> float:
        return round((time.perf_counter() - self.began) * 1000, 3)


def answer_each(
    questions: Sequence[str], call: Callable[[str, Steps], Prediction], *, timeout_s: float, parallel: int = PARALLEL,
    secrets: Sequence[str] = (),
) -> list[Prediction]:
    """`call(question, steps)` of each question, in order, `parallel` at once. What it raises, and that it took longer
    than `timeout_s`, stands in that row's Prediction, without any of `secrets`."""
    found: list[Prediction | None] = [None] * len(questions)
    running: dict[int, Steps] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    changed, lock = threading.Event(), threading.Lock()
    for i in range(len(questions)):
        waiting.put(i)

    def work() -> None:
        while True:
            try:
                i = waiting.get_nowait()
            except queue.Empty:
                return
            steps = Steps(secrets=secrets)
            with lock:
                running[i] = steps
            made = _one(questions[i], call, steps)
            with lock:
                late = found[i] is not None
                running.pop(i, None)
                if not late:
                    found[i] = made if made.ms <= timeout_s * 1000 else _late(steps, timeout_s)
            changed.set()
            if late:  # given up, and replaced
                return

    def begin() -> None:
        threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()

    for _ in range(min(parallel, len(questions))):
        begin()
    while any(one is None for one in found):
        changed.wait(_patience(running, lock, timeout_s))
        changed.clear()
        with lock:
            for i, steps in list(running.items()):
                if found[i] is None and time.perf_counter() - steps.began > timeout_s:
                    found[i] = _late(steps, timeout_s)
                    running.pop(i)
                    begin()
    return [one for one in found if one is not None]


def failed(error: BaseException, secrets: Sequence[str] = ()) -> BucleError:
    """A foreign error as one of ours: the upstream did not answer in time, cannot be reached, or the object failed.
    Secrets that its message holds, also any of `secrets`, are masked."""
    if isinstance(error, BucleError):
        return error
    names = [kind.__name__ for kind in type(error).__mro__]
    told = f"{type(error).__name__}: {masked(str(error), secrets)}".rstrip(": ")
    if isinstance(error, TimeoutError) or any("Timeout" in name for name in names):
        return UpstreamTimeout(f"What the object asks did not answer in time ({told}).",
                               "Raise its own timeout, or ask it less at once.")
    if isinstance(error, ConnectionError) or any(
        name in ("TransportError", "APIConnectionError", "RateLimitError", "HTTPError", "APIStatusError")
        for name in names
    ):
        return ModelUnavailable(f"What the object asks cannot be reached ({told}).",
                                "See that it runs and may be asked.")
    return BadInput(f"The object failed: {told}", "Run it alone on this input; the mistake is in its own code.")


def _one(question: str, call: Callable[[str, Steps], Prediction], steps: Steps) -> Prediction:
    try:
        made = call(question, steps)
    except Exception as error:  # any mistake of foreign code is that row's error
        told = failed(error, steps.secrets)
        said = masked(f"{told.message} {told.hint}".strip(), steps.secrets, 2 * LONGEST)
        made = Prediction(output="", error=said, error_kind=type(told).__name__)
    with steps._lock:
        spans = tuple(dict(span) for span in steps.spans)
    usage = steps.usage if steps.usage != Usage() else made.usage
    return made.model_copy(update={"ms": (time.perf_counter() - steps.began) * 1000, "spans": spans, "usage": usage})


def _late(steps: Steps, timeout_s: float) -> Prediction:
    with steps._lock:
        spans = tuple(dict(span) for span in steps.spans)
    return Prediction(output="", usage=steps.usage, error=f"The object did not answer within {timeout_s:g} s. "
                      "Raise `timeout_s` of its chain in bucle.yaml, or ask less of it; --trace shows which step takes "
                      "the time.", error_kind=UpstreamTimeout.__name__, ms=timeout_s * 1000, spans=spans)


def _patience(running: dict[int, Steps], lock: threading.Lock, timeout_s: float) -> float:
    with lock:
        oldest = min((steps.began for steps in running.values()), default=time.perf_counter())
    return max(0.001, min(timeout_s, oldest + timeout_s - time.perf_counter() + 0.001))


def masked(text: str, secrets: Sequence[str] = (), most: int = LONGEST) -> str:
    """A foreign message on one line, without secrets and personal data, of `most` characters at most."""
    from bucle.data.personal import KINDS, Action, apply

    policy: dict[str, Action] = dict.fromkeys(KINDS, "mask")
    return apply(_first(text, secrets, 2 * most), policy)[0][:most]


def shown(text: str, secrets: Sequence[str] = ()) -> str:
    """The beginning of what a step was given or gave, on one line, without secrets."""
    from bucle.data.personal import KINDS, Action, apply

    policy: dict[str, Action] = dict.fromkeys(KINDS, "keep")
    told = apply(_first(text, secrets, 2 * SHOWN), policy)[0]  # a secret is dropped, whatever the policy
    return told if len(told) <= SHOWN else told[:SHOWN - 1] + "…"


def _first(text: str, secrets: Sequence[str], most: int) -> str:
    from bucle.customise.own import hide_values

    return " ".join(hide_values(text[:MAX_READ], secrets).split())[:most]
