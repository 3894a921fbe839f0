"""What a step reads out of a text, and what a text must keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bucle.core.errors import BadInput, BucleError, SchemaBroken
from bucle.core.ports import ChatReply
from bucle.core.records import Usage
from bucle.customise.chain.result import ChainEnv, Result
from bucle.customise.chain.spec import CheckStep, ParseStep

__all__ = ["Unmet", "check", "cited", "paid", "parse"]

MAX_TOKENS = 1600  # of a repaired object
PATTERN_S = 2.0  # of a pattern over one text


class Unmet(BadInput):
    """A check that does not hold; `schema` where it is the form that is broken."""

    def __init__(self, why: str, *, schema: bool = False) -> None:
        super().__init__(why, "see the step before it: bucle chain run NAME … --trace")
        self.schema = schema


def parse(step: ParseStep, text: str, env: ChainEnv) -> Result:
    """The value that a parse step finds in a text. Raises BadInput, or SchemaBroken for an object."""
    if step.choice:
        from bucle.customise.prompt.classify import label_in

        label = label_in(text, step.choice)
        if label is None:
            raise BadInput(f"the text names none, or several, of {', '.join(step.choice)}: {text[:80]!r}",
                           "say in the prompt that only one of them is wanted")
        return Result(label, label)
    if step.regex:
        found = _match(step.regex, text)
        if found is None:
            raise BadInput(f"the text does not match {step.regex[:80]}: {text[:80]!r}", "correct pattern or prompt")
        return Result.of(found.group(1) or "" if found.groups() else found.group())
    return _object(step, text, env)


def _object(step: ParseStep, text: str, env: ChainEnv) -> Result:
    from bucle.customise.prompt.structured import Form
    from bucle.models.ask import Ask

    assert isinstance(step.json_schema, Mapping)  # noqa: S101 - files were read where the chain was loaded
    form = Form(step.json_schema, env.language)
    value, fault = form.read(text)
    if not fault and value is not None:
        return Result.of(value)
    if not step.model:
        raise SchemaBroken(fault, f"give `{step.name}` a `model` to repair it once, or loosen the schema")
    schema = json.dumps(dict(step.json_schema), ensure_ascii=False)
    ask = form.wanted(Ask(({"role": "user", "content": f"JSON: {schema}"},), MAX_TOKENS, seed=env.seed))
    one = form.settle(env.models[step.model], [ask], [ChatReply(text or "{}", Usage())])[0]
    if one.value is None:
        raise paid(one.error or SchemaBroken(fault, "loosen the schema"), one.usage)
    return Result.of(one.value, usage=one.usage)


def check(step: CheckStep, asked: Mapping[str, Any], env: ChainEnv, call: Callable[[str, dict[str, Any]], Any]) -> None:
    """That the text keeps every condition of a check step. Raises Unmet with the first that it does not."""
    text = asked["text"]
    words = len(text.split())
    if step.min_words and words < step.min_words:
        raise Unmet(f"it has {words} words, under {step.min_words}")
    if step.max_words and words > step.max_words:
        raise Unmet(f"it has {words} words, over {step.max_words}")
    if step.condition and not asked["condition"]:
        raise Unmet(f"`{step.condition[:80]}` does not hold")
    if step.cites:
        found, wrong = cited(text, asked["shown"])
        if wrong:
            raise Unmet(f"it cites [{wrong[0]}], and {len(asked['shown'])} passages were shown")
        if not found:
            raise Unmet("it cites no passage that was shown")
    if step.matches and _match(step.matches, text) is None:
        raise Unmet(f"it does not match {step.matches[:80]}")
    if step.language:
        from bucle.data.language import is_other

        if written := is_other(text, (step.language,)):
            raise Unmet(f"it is written in `{written}`, not in `{step.language}`")
    if not step.personal_data:
        from bucle.data.personal import find

        if personal := find(text):
            raise Unmet(f"it holds personal data: {', '.join(sorted({one.kind for one in personal}))}")
    if isinstance(step.json_schema, Mapping):
        from bucle.customise.prompt.structured import Form

        if fault := Form(step.json_schema, env.language).read(text)[1]:
            raise Unmet(fault, schema=True)
    if step.function:
        said = call(step.function, {"text": text})
        if said is not True and said is not None and said != "":
            raise Unmet(str(said)[:200] if isinstance(said, str) else f"{step.function} says no")


def cited(text: str, shown: Any) -> tuple[list[str], list[int]]:
    """The ids of the passages that `text` cites as [1], [2] or [1, 2], each once; and the numbers that none has."""
    from bucle.customise.retrieve.citations import markers_in

    numbers = markers_in(text)
    found = [str(shown[n - 1]["id"]) for n in numbers if 1 <= n <= len(shown)]
    wrong = [n for n in numbers if not 1 <= n <= len(shown)]
    return list(dict.fromkeys(found)), wrong


def _match(pattern: str, text: str) -> Any:
    import regex

    try:
        return regex.search(pattern, text, timeout=PATTERN_S)
    except TimeoutError:
        raise BadInput(f"the pattern {pattern[:80]} takes over {PATTERN_S:g} s on this text",
                       "write it without repeats inside repeats") from None


def paid(error: BucleError, usage: Usage) -> BucleError:
    """`error` with what the model was paid for it."""
    vars(error)["usage"] = usage
    return error
