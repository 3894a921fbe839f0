"""What a route cannot mean is refused before anything is served, by the key that says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bucle.core.engine import ChatEngine
from bucle.core.errors import ConfigError
from bucle.core.serving import RouteRule
from bucle.data.language import known_languages
from bucle.serve.routing.facts import TargetFacts, target_key

__all__ = ["in_order"]

DEEPEST = 10
"""Routes that one may lead through."""


def _wrong(route: str, said: str, hint: str, *keys: str | int) -> ConfigError:
    """An error that names the key in bucle.yaml, for its line."""
    return ConfigError(f"serve.routes.{'.'.join(map(str, (route, *keys)))} {said}", hint,
                       ("serve", "routes", route, *keys))



def in_order(rules: Mapping[str, RouteRule], targets: Mapping[str, ChatEngine], facts: Mapping[str, TargetFacts],
             encoder: bool) -> list[str]:
    """The routes so that each comes after those it asks. Raises ConfigError for what cannot be meant."""
    known = {*targets, *facts, *rules}
    for name, rule in rules.items():
        if name in targets:
            raise _wrong(name, "has the name of a task or model", "give the route another name")
        if set(name) & set(":@") or not name.strip():
            raise _wrong(name, "has a name that is empty or has `:` (it comes before an adapter) or `@` (a release)",
                         "give the route another name")
        _one(name, rule, known, rules, facts, encoder)
    for name, rule in rules.items():
        for key in _asked(rule):
            if key not in rules and key not in targets:
                raise _wrong(name, f"asks {key}, which has no engine", f"serve {key}, or take it out")
    return _sorted(rules)


def _one(name: str, rule: RouteRule, known: Iterable[str], rules: Mapping[str, RouteRule],
         facts: Mapping[str, TargetFacts], encoder: bool) -> None:
    to = [target_key(t) for t in rule.to]
    for where, keys in (("to", to), ("fallback", list(rule.fallback)), ("shadow", list(rule.shadow))):
        for key in keys:
            if key not in known:
                raise _wrong(name, f"names {key}, which is no task, model or route that is served",
                             f"name one of: {', '.join(sorted(set(known) - {name})) or 'there is none'}", where)
            if facts.get(key, TargetFacts()).kind == "embeddings":
                raise _wrong(name, f"names {key}, which embeds texts and does not answer",
                             "a route goes to tasks, models that write, and routes of these", where)
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise _wrong(name, f"names {twice} twice", "name it once", where)
    if any(t.release and t.to in rules for t in rule.to):
        raise _wrong(name, "gives a route a `release`", "give it to the targets of that route", "to")
    if not any(t.weight for t in rule.to):
        raise _wrong(name, "has weights that are all zero", "give one target a weight", "to")
    if name in rule.fallback or (len(to) == 1 and to[0] in rule.fallback):
        raise _wrong(name, "names the route itself" if name in rule.fallback else "names the route's only target",
                     "name another one, or use `retries`", "fallback")
    _preferred(name, rule, to)
    if rule.canary is not None and (rule.prefer or not rule.to[0].weight or not any(t.weight for t in rule.to[1:])):
        raise _wrong(name, "compares the targets that share the traffic with the first",
                     "give the first and another of `to` a weight, and no `prefer`; or take `canary` out",
                     "canary")
    if rule.cache is not None and rule.cache.kind == "semantic" and not encoder:
        raise _wrong(name, "is semantic, and the project has no encoder",
                     "add one: models: {e: {kind: encoder, path: minilm}}; or write kind: exact", "cache")


def _preferred(name: str, rule: RouteRule, to: list[str]) -> None:
    if rule.prefer and any(t.weight != 1 for t in rule.to):
        raise _wrong(name, f"has weights, which `prefer: {rule.prefer}` does not look at", "take out one of both", "to")
    if rule.languages and rule.prefer != "language":
        raise _wrong(name, "is read with `prefer: language` only", "write `prefer: language`", "languages")
    told_apart = known_languages() if rule.languages else frozenset()
    for language, key in rule.languages.items():
        if language not in told_apart:
            raise _wrong(name, "is no language that can be told",
                         "write its code of two letters: es, en, fr, …", "languages", language)
        if key not in to:
            raise _wrong(name, f"names {key}, which is not in `to`", f"name one of: {', '.join(to)}",
                         "languages", language)


def _asked(rule: RouteRule) -> list[str]:
    return [*(target_key(t) for t in rule.to), *rule.fallback, *rule.shadow]


def _sorted(rules: Mapping[str, RouteRule]) -> list[str]:
    done: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join([*above[above.index(name):], name])
            raise _wrong(above[-1], f"leads back to {name}: {circle}", "a route may ask others, but no circle of them")
        if len(above) >= DEEPEST:
            raise _wrong(above[0], f"is more than {DEEPEST} routes deep", "name its targets directly")
        if name not in done:
            for key in _asked(rules[name]):
                if key in rules:
                    visit(key, (*above, name))
            done[name] = None

    for name in rules:
        visit(name, ())
    return list(done)
