"""What a route cannot mean is refused before anything is served, by the key that says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bucle.core.engine import ChatEngine
from bucle.core.errors import ConfigError
from bucle.core.serving import RouteRule
from bucle.serve.routing.facts import TargetFacts, target_key

__all__ = ["in_order"]

DEEPEST = 10
"""Routes that one may lead through."""


def in_order(rules: Mapping[str, RouteRule], targets: Mapping[str, ChatEngine], facts: Mapping[str, TargetFacts],
             encoder: bool) -> list[str]:
    """The routes so that each comes after those it asks. Raises ConfigError for what cannot be meant."""
    known = {*targets, *facts, *rules}
    for name, rule in rules.items():
        if name in targets:
            raise ConfigError(f"serve.routes.{name} has the name of a task or model", "give the route another name")
        _one(name, rule, known, rules, facts, encoder)
    for name, rule in rules.items():
        for key in _asked(rule):
            if key not in rules and key not in targets:
                raise ConfigError(f"serve.routes.{name} asks {key}, which has no engine",
                                  f"serve {key}, or take it out")
    return _sorted(rules)


def _one(name: str, rule: RouteRule, known: Iterable[str], rules: Mapping[str, RouteRule],
         facts: Mapping[str, TargetFacts], encoder: bool) -> None:
    at = f"serve.routes.{name}"
    to = [target_key(t) for t in rule.to]
    for where, keys in (("to", to), ("fallback", list(rule.fallback)), ("shadow", list(rule.shadow))):
        for key in keys:
            if key not in known:
                raise ConfigError(f"{at}.{where} names {key}, which is no task, model or route",
                                  f"name one of: {', '.join(sorted(set(known) - {name})) or 'there is none'}")
            if facts.get(key, TargetFacts()).kind == "embeddings":
                raise ConfigError(f"{at}.{where} names {key}, which embeds texts and does not answer",
                                  "a route goes to tasks, models that write, and routes of these")
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"{at}.{where} names {twice} twice", "name it once")
    if any(t.release and t.to in rules for t in rule.to):
        raise ConfigError(f"{at}.to gives a route a `release`", "give it to the targets of that route")
    if not any(t.weight for t in rule.to):
        raise ConfigError(f"{at}.to has weights that are all zero", "give one target a weight")
    if name in rule.fallback or (len(to) == 1 and to[0] in rule.fallback):
        raise ConfigError(f"{at}.fallback names the route itself" if name in rule.fallback
                          else f"{at}.fallback names the route's only target", "name another one, or use `retries`")
    _preferred(at, rule, to)
    if rule.canary is not None and (len(to) < 2 or rule.prefer or not rule.to[0].weight):
        raise ConfigError(f"{at}.canary compares the targets that share the traffic with the first",
                          "give `to` two or more, the first with a weight, and no `prefer`")
    if rule.cache is not None and rule.cache.kind == "semantic" and not encoder:
        raise ConfigError(f"{at}.cache is semantic, and the project has no encoder",
                          "add one: models: {e: {kind: encoder, packaged: minilm}}; or write kind: exact")


def _preferred(at: str, rule: RouteRule, to: list[str]) -> None:
    if rule.prefer and any(t.weight != 1 for t in rule.to):
        raise ConfigError(f"{at}.to has weights, which `prefer: {rule.prefer}` does not look at",
                          "take out one of both")
    if rule.languages and rule.prefer != "language":
        raise ConfigError(f"{at}.languages is read with `prefer: language` only", "write `prefer: language`")
    for language, key in rule.languages.items():
        if key not in to:
            raise ConfigError(f"{at}.languages.{language} names {key}, which is not in `to`",
                              f"name one of: {', '.join(to)}")


def _asked(rule: RouteRule) -> list[str]:
    return [*(target_key(t) for t in rule.to), *rule.fallback, *rule.shadow]


def _sorted(rules: Mapping[str, RouteRule]) -> list[str]:
    done: dict[str, None] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join([*above[above.index(name):], name])
            raise ConfigError(f"serve.routes.{above[-1]} leads back to {name}: {circle}",
                              "a route may ask others, but no circle of them")
        if len(above) >= DEEPEST:
            raise ConfigError(f"serve.routes.{above[0]} is more than {DEEPEST} routes deep",
                              "name its targets directly")
        if name not in done:
            for key in _asked(rules[name]):
                if key in rules:
                    visit(key, (*above, name))
            done[name] = None

    for name in rules:
        visit(name, ())
    return list(done)
