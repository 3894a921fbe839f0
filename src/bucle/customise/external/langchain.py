"""A LangChain Runnable as it is: what it is given, and what its callbacks tell of each question's one trace.

The question is its input where its schema takes a text; where the schema is an object, at the first of QUESTIONS that
it has, or at its only key; of an object whose keys are not told, at all of QUESTIONS. The labels of the asker stand in
its config, `configurable: {"access": [...]}`, and as `access` where its input has that key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bucle.core.errors import ConfigError
from bucle.core.records import Prediction, TaskKind
from bucle.customise.external.answers import read_answer, usage_of
from bucle.customise.external.rows import Steps

__all__ = ["calling", "takes_access"]

QUESTIONS = ("question", "input", "query", "text")
UNKNOWN = "root"  # how LangChain names an input of no known type


def calling(runnable: Any, kind: TaskKind, access: frozenset[str], root: Path | None) -> Callable[
        [str, Steps], Prediction]:
    """The call of one question. Raises ConfigError where the question's place in its input cannot be told."""
    keys, labelled = _keys(runnable), "access" in (_properties(runnable) or {})
    labels = sorted(access)

    def call(question: str, steps: Steps) -> Prediction:
        given: Any = {**dict.fromkeys(keys, question), **({"access": labels} if labelled else {})} if keys else question
        said = runnable.invoke(given, {"callbacks": [_handler(steps)], "configurable": {"access": labels}})
        return read_answer(said, kind=kind, retrieved=steps.documents, root=root)

    return call


def takes_access(runnable: Any) -> bool:
    """Whether it says that it takes the asker's labels: a key of its input, or a configurable field `access`."""
    return "access" in (_properties(runnable) or {}) or any(spec.id == "access" for spec in runnable.config_specs)


def _keys(runnable: Any) -> tuple[str, ...]:
    """Where the question stands in its input; empty where the question is its input."""
    properties = _properties(runnable)
    if properties is None:
        return ()
    named = next((name for name in QUESTIONS if name in properties), "")
    rest = [name for name in properties if name != "access"]
    if not rest:
        return QUESTIONS
    if named or len(rest) == 1:
        return (named or rest[0],)
    raise ConfigError(f"The Runnable takes {', '.join(rest)[:200]}, and none of them is the question's place.",
                      f"Give it one of: {', '.join(QUESTIONS)}; or wrap it in a function of the question.")


def _properties(runnable: Any) -> dict[str, Any] | None:
    """The keys of its input, as far as it tells; None where it takes something else than an object."""
    from langchain_core.runnables import RunnableAssign

    try:
        schema = runnable.get_input_jsonschema()
    except Exception:  # some Runnables cannot describe themselves: they are given the question as it is
        schema = {}
    if "$ref" in schema:
        schema = (schema.get("$defs") or {}).get(str(schema["$ref"]).rpartition("/")[2], {})
    known = {name: told for name, told in (schema.get("properties") or {}).items() if name != UNKNOWN}
    if schema.get("type") == "object" and (known or schema.get("additionalProperties")):
        return known
    return {} if isinstance(getattr(runnable, "first", runnable), RunnableAssign) else None


def _handler(steps: Steps) -> Any:
    """LangChain's callbacks, told to `steps`."""
    from langchain_core.callbacks import BaseCallbackHandler

    def name_of(serialized: Any, told: dict[str, Any], otherwise: str) -> str:
        last = (serialized or {}).get("id") or [otherwise]
        return str(told.get("name") or (serialized or {}).get("name") or last[-1])

    class Handler(BaseCallbackHandler):
        run_inline = True

        def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None,
                           **told: Any) -> None:
            steps.start(run_id, name_of(serialized, told, "chain"), parent_run_id, kind="chain", input=inputs)

        def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: Any, parent_run_id: Any = None,
                         **told: Any) -> None:
            steps.start(run_id, name_of(serialized, told, "model"), parent_run_id, kind="model", input=prompts)

        def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, parent_run_id: Any = None,
                                **told: Any) -> None:
            steps.start(run_id, name_of(serialized, told, "model"), parent_run_id, kind="model", input=messages)

        def on_retriever_start(self, serialized: Any, query: Any, *, run_id: Any, parent_run_id: Any = None,
                               **told: Any) -> None:
            steps.start(run_id, name_of(serialized, told, "retriever"), parent_run_id, kind="retrieve",
                        input=query)

        def on_tool_start(self, serialized: Any, text: Any, *, run_id: Any, parent_run_id: Any = None,
                          **told: Any) -> None:
            steps.start(run_id, name_of(serialized, told, "tool"), parent_run_id, kind="tool", input=text)

        def on_chain_end(self, outputs: Any, *, run_id: Any, **told: Any) -> None:
            steps.end(run_id, output=outputs)

        def on_tool_end(self, output: Any, *, run_id: Any, **told: Any) -> None:
            steps.end(run_id, output=output)

        def on_retriever_end(self, documents: Any, *, run_id: Any, **told: Any) -> None:
            steps.documents.extend(documents)
            steps.end(run_id, found=len(documents), output=documents)

        def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
            tokens_in, tokens_out = _tokens(response)
            steps.used("langchain", tokens_in, tokens_out)
            steps.end(run_id, tokens_in=tokens_in, tokens_out=tokens_out, output=[some[:1] for some in
                                                                                  response.generations])

        def on_chain_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
            steps.end(run_id, error=type(error).__name__)

        on_llm_error = on_chain_error
        on_retriever_error = on_chain_error
        on_tool_error = on_chain_error

    return Handler()


def _tokens(response: Any) -> tuple[int, int]:
    """Tokens in and out of an LLMResult: its messages' `usage_metadata`, else the provider's own `token_usage`."""
    every = [usage_of(getattr(one, "message", None)) for some in response.generations for one in some]
    if any(one.tokens_in or one.tokens_out for one in every):
        return sum(one.tokens_in for one in every), sum(one.tokens_out for one in every)
    usage = (response.llm_output or {}).get("token_usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
