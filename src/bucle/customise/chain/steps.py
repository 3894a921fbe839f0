"""What each kind of step does: first its inputs, filled in and plain, then the work on them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import (
    BadInput,
    BucleError,
    ConfigError,
    ContextOverflow,
    ModelUnavailable,
    SchemaBroken,
    UpstreamTimeout,
)
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.prompting import PromptSpec
from bucle.customise.chain.checks import check, paid, parse
from bucle.customise.chain.expressions import condition, render, render_all
from bucle.customise.chain.http import Caller
from bucle.customise.chain.result import ChainEnv, Result
from bucle.customise.chain.spec import (
    AnyStep,
    CheckStep,
    ClassifyStep,
    HttpStep,
    ParseStep,
    PromptStep,
    PythonStep,
    RetrieveStep,
    TextStep,
)
from bucle.customise.own import hide_values, secret_values
from bucle.customise.prompt.parts import unnumbered

if TYPE_CHECKING:
    from bucle.customise.prompt.assembly import Answered, Dropped
    from bucle.customise.prompt.parts import Parts

__all__ = ["OwnFault", "Worker"]

MAX_TOKENS = 400


class Worker:
    """Does the work of one chain's steps. `functions` are those of its python and check steps, `callers` of its http
    steps, by name. Raises ConfigError where something that a step needs is missing."""

    def __init__(self, steps: Mapping[str, AnyStep], env: ChainEnv) -> None:
        self.env = env
        self._values = secret_values(env.project)
        self._labels: tuple[Any, str] = (None, "")
        self.functions: dict[str, Callable[..., Any]] = {}
        self.callers = {name: Caller(step) for name, step in steps.items() if isinstance(step, HttpStep)}
        for step in steps.values():
            self._needs(step)
            if named := getattr(step, "function", ""):
                self.functions[named] = self._function(named, step)

    def inputs(self, step: AnyStep, values: Mapping[str, Any], shown: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
        """The step's inputs as JSON: what its span shows and its cache is keyed by. Raises TemplateError, BadInput."""
        if isinstance(step, RetrieveStep):
            return {"query": _text(render(step.query, values)),
                    "where": {k: _text(render(v, values)) for k, v in step.where.items()}}
        if isinstance(step, HttpStep):
            return self.callers[step.name].inputs(values)
        if isinstance(step, PythonStep):
            return {"args": render_all(dict(step.args), values)}
        if isinstance(step, PromptStep):
            passages = values["steps"][step.passages]["chunks"] if step.passages else []
            if not step.prompt:
                return {"system": _text(render(step.system, values)), "passages": passages,
                        "user": _text(render(step.user or "{{ input }}", values)), "failed": values["failed"]}
            return {"input": _text(render(step.input, values)), "values": render_all(dict(step.values), values),
                    "passages": passages, "failed": values["failed"]}
        if isinstance(step, CheckStep):
            said: dict[str, Any] = {"text": _text(render(step.text, values))}
            if step.condition:
                said["condition"] = condition(step.condition, values)
            return said | ({"shown": list(shown)} if step.cites else {})
        assert isinstance(step, ClassifyStep | ParseStep | TextStep)  # noqa: S101 - the kinds are these
        return {"text": _text(render(step.text, values))}

    def work(self, step: AnyStep, asked: Mapping[str, Any], access: frozenset[str], seconds: float,
             again: int = 0) -> Result:
        """The step's result. `again` counts what was tried before: a model asked again draws anew. Raises BucleError;
        one that a model was paid for has its `usage`."""
        if isinstance(step, RetrieveStep):
            return self._retrieve(step, asked, access)
        if isinstance(step, HttpStep):
            value, text = self.callers[step.name].call(asked, seconds)
            return Result.of(value) if not isinstance(value, str) else Result.of(text)
        if isinstance(step, PythonStep):
            return Result.of(self._called(step.function, dict(asked["args"])))
        if isinstance(step, ClassifyStep):
            return self._classify(step, asked)
        if isinstance(step, PromptStep):
            return self._prompt(step, asked, self.env.seed + again)
        if isinstance(step, ParseStep):
            return parse(step, asked["text"], self.env)
        if isinstance(step, CheckStep):
            check(step, asked, self.env, self._called)
            return Result()
        assert isinstance(step, TextStep)  # noqa: S101 - a group is run by the chain
        return Result.of(asked["text"])

    def identity(self, step: AnyStep) -> Any:
        """What stands behind a step besides its own content and inputs; None where that cannot be told, so that nothing
        is kept."""
        if isinstance(step, RetrieveStep):
            index = self.env.index
            known = getattr(index, "meta", None) or getattr(index, "identity", None)
            version = self.env.index_version
            return None if not known and not version else [known, version, step.rerank and _named(self.env.reranker)]
        if isinstance(step, HttpStep):
            return self.callers[step.name].headers()
        if isinstance(step, PythonStep):
            return self._code(step.function)
        if isinstance(step, ClassifyStep) and step.task:
            return None
        model = getattr(step, "model", "")
        return [model, _named(self.env.models[model])] if model else []

    def hide(self, text: str) -> str:
        """`text` without the secrets of the chain's calls, and of the environment."""
        for caller in self.callers.values():
            text = caller.hide(text)
        return hide_values(text, self._values)

    def labels(self) -> str:
        """A hash of the labels that the documents have now; empty where there are none to know."""
        labels: Any = self.env.labels
        if labels is None:
            return ""
        now = labels.now() if hasattr(labels, "now") else labels
        if self._labels[0] is not now:  # the same object for as long as nothing changed
            self._labels = (now, sha256_hex(canonical_json({path: sorted(told) for path, told in now.items()})))
        return self._labels[1]

    def close(self) -> None:
        for caller in self.callers.values():
            caller.close()

    # what a step needs ---------------------------------------------------------------------------------------

    def _needs(self, step: AnyStep) -> None:
        from bucle.customise.chain.graph import near

        for what, name, have in (("model", getattr(step, "model", ""), self.env.models),
                                 ("task", getattr(step, "task", ""), self.env.tasks)):
            if name and name not in have:
                raise ConfigError(f"The step `{step.name}` needs the {what} `{name}`, which is not there.",
                                  near(name, have))
        if isinstance(step, RetrieveStep):
            if self.env.index is None:
                raise ConfigError(f"The step `{step.name}` retrieves, and this project has no index.",
                                  "Add `data.documents` and an encoder to bucle.yaml, then: bucle run")
            if step.rerank and self.env.reranker is None:
                raise ConfigError(f"The step `{step.name}` reranks, and this project has no reranker.",
                                  "Add a model of kind `reranker`, and `retrieval: {reranker: NAME}`.")
        named = [getattr(step, field, "") for field in ("prompt", "json_schema")]
        if unread := next((name for name in named if isinstance(name, str) and name), ""):
            raise ConfigError(f"The step `{step.name}` names the file {unread}, which was not read.",
                              "load_chain(path) reads it; in Python, give `folder=` to `chain`")

    def _function(self, name: str, step: AnyStep) -> Callable[..., Any]:
        if name in self.env.functions:
            return self.env.functions[name]
        from bucle.customise.own import own_object

        if self.env.project is None:
            raise ConfigError(f"The step `{step.name}` calls {name}, and there is no project to find it in.",
                              "give it in ChainEnv(functions={…}) or ChainEnv(project=…, trusted=True)")
        source = self.env.sources.get(name.partition(":")[0].replace(".", "/") + ".py")
        found = own_object(name, self.env.project, self.env.trusted, what=f"the chain's step `{step.name}`:",
                           source=source)
        if not callable(found):
            raise ConfigError(f"{name} of the step `{step.name}` is no function", "name a function")
        if isinstance(step, PythonStep):
            try:
                inspect.signature(found).bind(**dict.fromkeys(step.args))
            except TypeError as error:
                raise ConfigError(f"The step `{step.name}` gives {name} other arguments than it takes: {error}.",
                                  "correct `args`") from None
            except ValueError:
                pass  # it tells nobody what it takes
        return found

    def _code(self, name: str) -> Any:
        if name in self.env.functions:
            return None  # nobody knows which code that is
        from bucle.customise.own import own_file

        assert self.env.project is not None  # noqa: S101 - it was found there
        file = name.partition(":")[0].replace(".", "/") + ".py"
        source = self.env.sources.get(file)
        return [name, sha256_hex(own_file(name, self.env.project).read_bytes() if source is None else source)]

    # the work ------------------------------------------------------------------------------------------------

    def _retrieve(self, step: RetrieveStep, asked: Mapping[str, Any], access: frozenset[str]) -> Result:
        assert self.env.index is not None  # noqa: S101 - _needs has looked
        if not asked["query"].strip():
            raise BadInput("the query is empty", "ask something")
        from bucle.customise.retrieve.fusion import EVEN
        from bucle.customise.retrieve.passages import Finder

        weights = self.env.weights or EVEN
        if step.weight is not None:
            weights = {"words": 1 - step.weight, "meaning": step.weight}
        finder = Finder(self.env.index, {"weights": weights, "rerank": step.rerank}, reranker=self.env.reranker)
        hits = finder.find([asked["query"]], k=step.k, access=access, where=asked["where"] or None)[0].hits
        chunks = tuple({"id": h.chunk.id, "text": h.chunk.text, "heading": h.chunk.heading, "path": h.chunk.path,
                        "place": h.chunk.place} for h in hits)
        listed = "\n\n".join(f"[{n}] {unnumbered(c['text'])}" for n, c in enumerate(chunks, 1))
        return Result(listed, len(chunks), chunks, hits[0].score if hits else 0.0)

    def _called(self, name: str, args: dict[str, Any]) -> Any:
        try:
            return self.functions[name](**args)
        except BucleError:
            raise
        except Exception as error:  # any mistake in the user's own function
            said = self.hide(f"{type(error).__name__}: {error}")
            raise OwnFault(f"{name} failed: {said[:220]}", "mend the function") from error

    def _classify(self, step: ClassifyStep, asked: Mapping[str, Any]) -> Result:
        if not asked["text"].strip():
            raise BadInput("there is no text to classify", "check `text`")
        if step.task:
            found = self.env.tasks[step.task].predict([asked["text"]])[0]
        else:
            from bucle.customise.prompt.classify import INSTRUCTIONS, LABEL_TOKENS, classifier

            words = INSTRUCTIONS.get(self.env.language, INSTRUCTIONS["es"])
            prompt = {"kind": "classify", "instruction": step.instruction or words, "labels": list(step.labels),
                      "shots": 0, "max_tokens": LABEL_TOKENS, "examples": []}
            found = classifier(self.env.models[step.model], prompt, self.env.seed).predict([asked["text"]])[0]
        if found.error:
            raise paid(_of_kind(found.error_kind, found.error), found.usage)
        return Result(found.output, found.output, score=found.score, usage=found.usage)

    def _prompt(self, step: PromptStep, asked: Mapping[str, Any], seed: int) -> Result:
        from bucle.customise.prompt.assembly import Asking, ask_parts
        from bucle.customise.prompt.structured import Form
        from bucle.models.ask import Ask

        model, parts = self.env.models[step.model], self._parts(step, asked)
        max_tokens = step.max_tokens or parts.max_tokens or MAX_TOKENS
        form = Form(parts.schema, parts.language) if parts.schema else None
        schema = form.schema.body if form and form.schema else None
        made = ask_parts(model, [Asking(parts, max_tokens, step.temperature, seed=seed, schema=schema)])[0]
        if isinstance(made.reply, BucleError):
            raise _too_long(made, step) if isinstance(made.reply, ContextOverflow) else made.reply
        assert made.prompt is not None  # noqa: S101 - what has a reply was asked
        reply, usage = made.reply, made.reply.usage
        left = len(asked["passages"]) - sum(one.part == "passages" for one in made.prompt.dropped)
        more: dict[str, Any] = {"chunks": tuple(asked["passages"][:left]), "dropped": _left_out(made.prompt.dropped)}
        if form:
            ask = Ask(made.prompt.messages, max_tokens, step.temperature, seed=seed, schema=schema)
            one = form.settle(model, [ask], [reply])[0]
            if one.value is None:
                raise paid(one.error or SchemaBroken("the model gave no object", "loosen the schema"), one.usage)
            return Result.of(one.value, usage=one.usage, **more)
        if reply.finish == "length":
            raise paid(BadInput(f"the reply was cut at {max_tokens} tokens", f"raise `max_tokens` of `{step.name}`"),
                       usage)
        return Result.of(reply.text.strip(), usage=usage, **more)

    def _parts(self, step: PromptStep, asked: Mapping[str, Any]) -> Parts:
        from bucle.customise.prompt.parts import plain_parts
        from bucle.customise.prompt.template import messages_of

        spec = step.prompt
        if not isinstance(spec, PromptSpec):
            schema = step.json_schema if isinstance(step.json_schema, Mapping) and step.json_schema else None
            return plain_parts(asked["system"], asked["user"], passages=asked["passages"], schema=schema,
                               language=self.env.language)
        values = dict(asked["values"]) | ({"failed": asked["failed"]} if "failed" in spec.inputs else {})
        language = spec.language or self.env.language
        return messages_of(spec, asked["input"], values=values, passages=asked["passages"], language=language)


class OwnFault(BadInput):
    """The project's own function raised something."""


def _left_out(dropped: Sequence[Dropped]) -> tuple[str, ...]:
    """What left a prompt: passages by number and path, the rest by its part only, since it is what somebody wrote."""
    return tuple(one.what if one.part == "passages" else one.part for one in dropped)


def _too_long(made: Answered, step: PromptStep) -> BucleError:
    """A prompt that does not fit even without all that may leave it, and what helps."""
    error = made.reply
    assert isinstance(error, ContextOverflow)  # noqa: S101 - the caller has looked
    if made.prompt is None:  # counted here: its message has the tokens, its hint what is largest
        return error
    gone, message = len(made.prompt.dropped), error.message.rstrip(".")
    counted = any(c.isdigit() for c in message.partition("): ")[2])  # by the provider, whose count is the better one
    size = "" if counted else f" of about {made.prompt.tokens:,} tokens"
    left = f"was asked without the {gone} pieces that may leave it" if gone else "has nothing that may leave it"
    told = ContextOverflow(
        f"{message}; the prompt{size} {left}",
        f"shorten what `{step.name}` is given, lower its `max_tokens`, or name a model with a longer context")
    vars(told)["dropped"] = _left_out(made.prompt.dropped)
    return told


def _named(model: Any) -> str:
    return str(getattr(model, "identity", "") or getattr(model, "name", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _of_kind(kind: str, message: str) -> BucleError:
    from bucle.models.endpoint import RateLimited, Refused, TimedOut

    known: tuple[type[BucleError], ...] = (UpstreamTimeout, TimedOut, ModelUnavailable, RateLimited, Refused,
                                           SchemaBroken, ContextOverflow)
    return next((one for one in known if one.__name__ == kind), BadInput)(message, "")

