"""A LlamaIndex query engine as it is: asked by `query`, its sources read, its instrumentation told as one trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from bucle.core.records import Prediction, TaskKind
from bucle.customise.external.answers import read_answer
from bucle.customise.external.python import accepts
from bucle.customise.external.rows import Steps

__all__ = ["calling", "takes_access"]

_STEPS: ContextVar[Steps | None] = ContextVar("bucle_llamaindex_steps", default=None)
KINDS = {"retrieve": "retrieve", "query": "chain", "chat": "model", "complete": "model", "predict": "model"}


def calling(engine: Any, kind: TaskKind, access: frozenset[str], root: Path | None) -> Callable[
        [str, Steps], Prediction]:
    """The call of one question: `query`, or `aquery` where it has no other. Labels are given as `access` where the
    method has that keyword."""
    method = getattr(engine, "query", None) or engine.aquery
    more = {"access": access} if accepts(method, "access") else {}
    _listen()

    def call(question: str, steps: Steps) -> Prediction:
        token = _STEPS.set(steps)
        try:
            said = method(question, **more)
            if asyncio.iscoroutine(said):
                said = asyncio.run(said)
            text = getattr(said, "response_gen", None)  # a streaming engine
            if text is not None:
                said.response = "".join(text)
        finally:
            _STEPS.reset(token)
        return read_answer(said, kind=kind, root=root)

    return call


def takes_access(engine: Any) -> bool:
    """Whether it takes the asker's labels: the keyword `access` of its `query`."""
    return accepts(getattr(engine, "query", None) or engine.aquery, "access")


@cache
def _listen() -> None:
    """Join LlamaIndex's dispatcher, once a process. Spans go to the steps of the question that is being asked; those of
    other code are none of ours."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler
    from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
    from llama_index.core.instrumentation.span import BaseSpan
    from llama_index.core.instrumentation.span_handlers import BaseSpanHandler

    class Spans(BaseSpanHandler[BaseSpan]):
        def new_span(self, id_: str, bound_args: Any, instance: Any = None, parent_span_id: str | None = None,
                     tags: Any = None, **kwargs: Any) -> BaseSpan | None:
            if (steps := _STEPS.get()) is not None:
                name = id_.rsplit("-", 5)[0]  # Class.method-uuid
                given = [one for key, one in bound_args.arguments.items() if key != "self"] if bound_args else []
                steps.start(id_, name, parent_span_id, kind=KINDS.get(name.rpartition(".")[2].strip("_"), "step"),
                            input=given)
            return None  # nothing is kept in the handler: it lives as long as the process

        def prepare_to_exit_span(self, id_: str, bound_args: Any, instance: Any = None, result: Any = None,
                                 **kwargs: Any) -> BaseSpan | None:
            if (steps := _STEPS.get()) is not None:
                steps.end(id_, output=result)
            return None

        def prepare_to_drop_span(self, id_: str, bound_args: Any, instance: Any = None,
                                 err: BaseException | None = None, **kwargs: Any) -> BaseSpan | None:
            if (steps := _STEPS.get()) is not None:
                steps.end(id_, error=type(err).__name__)
            return None

    class Tokens(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            steps = _STEPS.get()
            if steps is not None and isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent) and event.response:
                steps.used(type(event).__name__, *_tokens(event.response))

    root = get_dispatcher()
    root.add_span_handler(Spans())
    root.add_event_handler(Tokens())


def _tokens(response: Any) -> tuple[Any, Any]:
    """Tokens in and out as a response's provider tells them; (None, None) where it does not."""
    raw = response.raw
    usage = raw.get("usage") if isinstance(raw, Mapping) else getattr(raw, "usage", None)
    for told in (usage, response.additional_kwargs):
        get = told.get if isinstance(told, Mapping) else lambda name, told=told: getattr(told, name, None)
        for asked, written in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
            if told is not None and get(asked) is not None:
                return get(asked), get(written)
    return None, None
