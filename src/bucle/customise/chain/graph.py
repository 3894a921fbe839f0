"""The chain as a graph: where each step may go on, what runs before what, and everything that can be found wrong
before the first call. Every complaint names its step and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bucle.core.errors import ConfigError
from bucle.customise.chain.expressions import FIELDS, VARIABLES, reads, texts_in
from bucle.customise.chain.spec import (
    END,
    OTHER,
    AnyStep,
    ChainSpec,
    CheckStep,
    ClassifyStep,
    HttpStep,
    ParallelStep,
    ParseStep,
    PromptStep,
    PythonStep,
    RetrieveStep,
    TextStep,
    all_steps,
)

__all__ = ["Place", "check", "edges", "near", "templates"]

Place = tuple[str | int, ...]
"""Keys that lead to a part of the file: `("steps", 2, "route")`."""
RESERVED = frozenset({END, OTHER, "fail", "go_on", "input", "steps", "last", "failed"})
Complain = Callable[[Place, str, str], ConfigError]


def edges(spec: ChainSpec) -> dict[str, list[tuple[str, str]]]:
    """Step -> (where it may go on, why), in the file's order; `end` is no step. A check's retry is not among them."""
    names = [*(step.name for step in spec.steps), END]
    found: dict[str, list[tuple[str, str]]] = {}
    for step, following in zip(spec.steps, names[1:], strict=True):
        ways = [(target, value) for value, target in step.route.items()]
        if not step.route or (OTHER not in step.route and not _all_labels(step)):
            ways.append((step.then or following, ""))
        if step.when:
            ways.append((following, "skipped"))
        if step.on_error not in ("fail", "go_on"):
            ways.append((step.on_error, "error"))
        if isinstance(step, CheckStep) and step.on_fail:
            if step.on_fail.go:
                ways.append((step.on_fail.go, "failed"))
            elif step.on_fail.answer or step.on_fail.abstain:
                ways.append((END, "failed"))
        found[step.name] = list(dict.fromkeys(ways))
    return found


def templates(step: AnyStep) -> Iterator[tuple[str, str, bool]]:
    """(field, text, whether it is a bare expression) of everything in a step that is filled in as it runs."""
    if step.when:
        yield "when", step.when, True
    if isinstance(step, RetrieveStep):
        yield from (("query", step.query, False), *(("where", text, False) for text in step.where.values()))
    elif isinstance(step, HttpStep):
        yield "url", step.url, False
        yield from (("query", text, False) for text in step.query.values())
        yield from (("body", text, False) for text in texts_in(step.body))
    elif isinstance(step, PythonStep):
        yield from (("args", text, False) for text in texts_in(step.args))
    elif isinstance(step, PromptStep):
        yield from (("input", step.input, False), ("system", step.system, False), ("user", step.user, False))
        yield from (("values", text, False) for text in texts_in(step.values))
    elif isinstance(step, ClassifyStep | ParseStep | TextStep | CheckStep):
        yield "text", step.text, False
        if isinstance(step, CheckStep):
            if step.condition:
                yield "condition", step.condition, True
            if step.on_fail and step.on_fail.answer:
                yield "on_fail", step.on_fail.answer, False


def check(spec: ChainSpec, complain: Complain) -> None:
    """Raises what `complain(place, fact, hint)` makes of the first thing that cannot be meant: names, jumps, cycles,
    steps that nothing reaches, templates that read what is not there."""
    places = _places(spec)
    steps = {step.name: step for step in all_steps(spec)}
    _names(spec, places, complain)
    ways = edges(spec)
    for step in all_steps(spec):
        _jumps(step, list(ways), places[step.name], step.name not in ways, complain)
    before = _before(spec, ways, places, complain)
    for step in all_steps(spec):
        _own(step, steps, places[step.name], complain)
        group = next((s.name for s in spec.steps if isinstance(s, ParallelStep) and step in s.steps), "")
        earlier = _with_branches(spec, before[group or step.name])
        for field, text, bare in templates(step):
            _reads(text, bare, steps, earlier, step.name, (*places[step.name], field), complain)
        if isinstance(step, PromptStep) and step.passages:
            _ran(step.passages, steps, earlier, step.name, (*places[step.name], "passages"), complain)
        if isinstance(step, CheckStep) and step.on_fail and step.on_fail.retry and step.on_fail.retry not in earlier:
            raise complain((*places[step.name], "on_fail"), f"`{step.name}` retries `{step.on_fail.retry}`, which does "
                           "not run before it", "name a step before the check")
    if spec.output:
        _reads(spec.output, False, steps, set(steps), "output", ("output",), complain)


def near(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is none of `known`."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean `{found[0]}`?" if found else f"Known: {', '.join(names) or 'none'}."


def _places(spec: ChainSpec) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for i, step in enumerate(spec.steps):
        found.setdefault(step.name, ("steps", i))
        if isinstance(step, ParallelStep):
            for j, inner in enumerate(step.steps):
                found.setdefault(inner.name, ("steps", i, "steps", j))
    return found


def _names(spec: ChainSpec, places: Mapping[str, Place], complain: Complain) -> None:
    seen: set[str] = set()
    for i, step in enumerate(all_steps(spec)):
        place = places[step.name]
        if step.name in seen:
            later = [k for k, s in enumerate(spec.steps) if s.name == step.name][-1:]
            raise complain(("steps", later[0]) if later else place, f"two steps are called `{step.name}`",
                           f"call one `{step.name}_{i + 1}`")
        if step.name in RESERVED:
            raise complain(place, f"no step can be called `{step.name}`", "that word has a meaning in a chain")
        seen.add(step.name)


def _jumps(step: AnyStep, known: list[str], place: Place, inner: bool, complain: Complain) -> None:
    jumps = [("route", target) for target in step.route.values()] + [("then", step.then)] * bool(step.then)
    if step.on_error not in ("fail", "go_on"):
        jumps.append(("on_error", step.on_error))
    if isinstance(step, CheckStep) and step.on_fail and step.on_fail.go:
        jumps.append(("on_fail", step.on_fail.go))
    for field, target in jumps:
        if inner:
            raise complain((*place, field), f"`{step.name}` runs beside others, so it cannot go to `{target}`",
                           "put the jump on the group, or on a step after it")
        if target != END and target not in known:
            words = [*known, END, *(("fail", "go_on") if field == "on_error" else ())]
            raise complain((*place, field), f"`{step.name}` goes to `{target}`, which is no step", near(target, words))
    labels = _labels(step)
    for value in step.route:
        if labels and value != OTHER and value not in labels:
            raise complain((*place, "route", value), f"`{step.name}` never gives `{value}`", near(value, labels))


def _before(spec: ChainSpec, ways: Mapping[str, list[tuple[str, str]]], places: Mapping[str, Place],
            complain: Complain) -> dict[str, set[str]]:
    """Step -> the steps that may have run before it. Refuses cycles and what is never reached."""
    state: dict[str, int] = {}
    order: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for target, _ in ways[name]:
            if target == END:
                continue
            if state.get(target) == 1:
                loop = [*path[path.index(target):], target]
                raise complain(places[name], f"the chain never ends: {' -> '.join(loop)}",
                               "a check's `on_fail: {retry: …}` is the one way back, and it is bounded")
            if target not in state:
                visit(target, [*path, target])
        state[name] = 2
        order.append(name)

    first = spec.steps[0].name
    visit(first, [first])
    for step in spec.steps:
        if step.name not in state:
            raise complain(places[step.name], f"nothing leads to the step `{step.name}`",
                           "let a `route` or `then` go to it, or take it out")
    before: dict[str, set[str]] = {name: set() for name in ways}
    for name in reversed(order):
        for target, _ in ways[name]:
            if target != END:
                before[target] |= before[name] | {name}
    return before


def _with_branches(spec: ChainSpec, names: set[str]) -> set[str]:
    inner = {s.name for step in spec.steps if isinstance(step, ParallelStep) and step.name in names for s in step.steps}
    return names | inner


def _own(step: AnyStep, steps: Mapping[str, AnyStep], place: Place, complain: Complain) -> None:
    """What one step says that it cannot mean."""
    if isinstance(step, HttpStep):
        from bucle.customise.chain.http import check_http

        if fault := check_http(step):
            raise complain((*place, fault[0]), fault[1], fault[2])
    if step.retry and step.retry.times and isinstance(step, CheckStep | ParallelStep | TextStep):
        raise complain((*place, "retry"), f"`{step.name}` is nothing that is tried again",
                       "give the retry to the step that calls")
    if step.cache and isinstance(step, CheckStep | ParallelStep | TextStep):
        raise complain((*place, "cache"), f"`{step.name}` has nothing to keep", "give the cache to the step that calls")
    if isinstance(step, CheckStep) and not _conditions(step):
        raise complain(place, f"`{step.name}` checks nothing",
                       "say cites, json_schema, language, min_words, max_words, personal_data, matches, condition or "
                       "function")
    if isinstance(step, PromptStep) and step.passages in steps and not isinstance(steps[step.passages], RetrieveStep):
        raise complain((*place, "passages"), f"`{step.passages}` retrieves no passages", "name a retrieve step")
    for field in ("regex", "matches"):
        if pattern := getattr(step, field, ""):
            import regex

            try:
                regex.compile(pattern)
            except regex.error as error:
                raise complain((*place, field), f"`{step.name}`: not a pattern: {error}", "correct it") from None


def _conditions(step: CheckStep) -> bool:
    return bool(step.cites or step.json_schema != "" or step.language or step.min_words or step.max_words
                or not step.personal_data or step.matches or step.condition or step.function)


def _reads(text: str, bare: bool, steps: Mapping[str, AnyStep], earlier: set[str], name: str, place: Place,
           complain: Complain) -> None:
    try:
        variables, fields = reads(text, expression=bare)
    except ConfigError as error:
        raise complain(place, f"`{name}`: {error.message}", error.hint) from None
    for variable in sorted(variables - set(VARIABLES)):
        hint = f"Write `steps.{variable}.text`." if variable in steps else near(variable, VARIABLES)
        raise complain(place, f"`{name}` reads `{variable}`, which is no variable of a chain", hint)
    for step, field in fields:
        if step:
            _ran(step, steps, earlier, name, place, complain)
        if field and field not in FIELDS:
            raise complain(place, f"`{name}` reads `{step or 'last'}.{field}`, which no result has",
                           near(field, FIELDS))


def _ran(step: str, steps: Mapping[str, Any], earlier: set[str], name: str, place: Place, complain: Complain) -> None:
    if step not in steps:
        raise complain(place, f"`{name}` reads the step `{step}`, which is not there", near(step, steps))
    if step not in earlier:
        raise complain(place, f"`{name}` reads `{step}`, which never runs before it", "move it, or read another step")


def _labels(step: AnyStep) -> tuple[str, ...]:
    return step.labels if isinstance(step, ClassifyStep) else step.choice if isinstance(step, ParseStep) else ()


def _all_labels(step: AnyStep) -> bool:
    labels = _labels(step)
    return bool(labels) and set(labels) <= set(step.route)
