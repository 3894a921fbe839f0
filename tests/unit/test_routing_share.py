"""Who is asked: by shares, cost, latency, language and context; and what a route cannot mean."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_engines import Told, attempts, one, say

from bucle.core.engine import OFFERS, AskContext, ChatAnswer
from bucle.core.errors import ConfigError, ContextOverflow, ModelUnavailable
from bucle.core.serving import RouteRule, Serve
from bucle.serve.routing import Alias, TargetFacts, build_routes
from bucle.serve.routing.facts import estimate
from bucle.serve.routing.prefer import ByLatency
from bucle.serve.routing.share import fraction, pick

USERS = [f"user-{n}" for n in range(20_000)]


def served(route: Alias, text: str = "hola", **said: Any) -> str:
    return asyncio.run(route.complete(say(text, **said), AskContext(trace="t", identity="ana"))).route


@pytest.mark.parametrize("weights", [{"a": 95, "b": 5}, {"a": 1, "b": 1, "c": 2}, {"a": 0, "b": 3, "c": 0.1}])
def test_each_gets_its_share_of_the_users(weights: dict[str, float]) -> None:
    counts = Counter(pick("r", user, weights) for user in USERS)
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        wide = 4.5 * (share * (1 - share) / len(USERS)) ** 0.5
        assert counts[name] / len(USERS) == pytest.approx(share, abs=wide)


def test_from_5_to_10_per_cent_moves_those_who_must_and_nobody_back() -> None:
    before = {user: pick("r", user, {"a": 95, "b": 5}) for user in USERS}
    after = {user: pick("r", user, {"a": 90, "b": 10}) for user in USERS}
    moved = [user for user in USERS if before[user] != after[user]]
    assert {(before[u], after[u]) for u in moved} == {("a", "b")}
    assert len(moved) / len(USERS) == pytest.approx(0.05, abs=0.007)


@settings(max_examples=80, deadline=None)
@given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=6), at=st.integers(0, 5), new=st.floats(0.01, 100),
       users=st.lists(st.text(max_size=20), min_size=1, max_size=30), salt=st.text(max_size=8))
def test_a_changed_weight_moves_users_to_or_from_its_target_only(
    weights: list[float], at: int, new: float, users: list[str], salt: str
) -> None:
    old = {f"t{n}": weight for n, weight in enumerate(weights)}
    name = f"t{at % len(weights)}"
    for user in users:
        before, after = pick(salt, user, old), pick(salt, user, {**old, name: new})
        assert before == pick(salt, user, old)
        if before != after:
            assert after == name if new > old[name] else before == name


@given(st.lists(st.text(max_size=12), max_size=4))
def test_the_hash_is_a_number_inside_0_and_1_and_routes_are_told_apart(parts: list[str]) -> None:
    assert 0 < fraction(*parts) < 1
    assert fraction(*parts) == fraction(*parts)


def test_two_routes_do_not_pick_the_same_users() -> None:
    in_both = sum(pick("r", u, {"a": 9, "b": 1}) == pick("s", u, {"a": 9, "b": 1}) == "b" for u in USERS)
    assert in_both / len(USERS) == pytest.approx(0.01, abs=0.004)


def test_a_user_stays_and_the_nameless_are_spread() -> None:
    route = one({"to": [{"to": "a", "weight": 1}, {"to": "b", "weight": 1}]}, Told("a"), Told("b"))

    async def who(identity: str, trace: str) -> str:
        return (await route.complete(say("hola"), AskContext(trace=trace, identity=identity))).route

    async def everybody() -> tuple[set[str], Counter[str]]:
        same = {await who("ana", str(n)) for n in range(20)}
        return same, Counter([await who("", str(n)) for n in range(200)])

    same, nameless = asyncio.run(everybody())
    assert len(same) == 1
    assert 60 < nameless["a"] < 140


def test_a_release_is_a_target_of_its_own() -> None:
    engines = {"faq": Told("faq"), "faq@candidate": Told("faq@candidate")}
    rule = RouteRule.model_validate({"to": [{"to": "faq", "weight": 0}, {"to": "faq", "release": "candidate"}]})
    route = build_routes({"r": rule}, engines, {"faq@candidate": TargetFacts(release="r2", candidate="c2")})["r"]
    answer = asyncio.run(route.complete(say("hola"), AskContext()))
    assert (answer.route, answer.release, answer.candidate) == ("faq@candidate", "r2", "c2")


def test_the_cheapest_for_these_tokens_is_asked_and_the_others_follow() -> None:
    facts = {"dear": TargetFacts(10.0, 1.0), "cheap": TargetFacts(0.1, 30.0), "unknown": TargetFacts()}
    engines = Told("unknown"), Told("dear"), Told("cheap")
    route = one({"to": [{"to": e.name} for e in engines], "prefer": "cost"}, *engines, facts=facts)
    assert served(route, "x" * 4000, max_tokens=1) == "cheap"
    assert served(route, "x", max_tokens=1000) == "dear"
    engines[1].always = ModelUnavailable("gone")
    assert served(route, "x", max_tokens=1000) == "cheap"


def test_the_least_context_that_holds_it() -> None:
    facts = {"large": TargetFacts(context=100_000), "small": TargetFacts(context=1000), "any": TargetFacts(),
             "counts": TargetFacts(context=2000, count=lambda ask: 1)}
    engines = {name: Told(name) for name in facts}
    route = one({"to": [{"to": name} for name in facts], "prefer": "context"}, *engines.values(), facts=facts)
    assert served(route, "hola", max_tokens=100) == "small"
    assert served(route, "hola " * 2000, max_tokens=100) == "counts", "this one knows its tokens"
    assert served(route, "hola", max_tokens=50_000) == "large"
    assert served(route, "hola", max_tokens=500_000) == "any"
    engines["small"].always = ContextOverflow("longer than was thought")
    assert served(route, "hola", max_tokens=100) == "counts"
    rule = {"to": [{"to": "small"}, {"to": "counts"}], "prefer": "context"}
    two = one(rule, Told("small"), Told("counts"), facts=facts)
    assert served(two, "hola", max_tokens=9000) == "counts", "where none holds it the longest may say so"


@pytest.mark.parametrize("text", [
    "The quick brown fox jumps over the lazy dog. " * 50, "¿Cómo puedo cambiar de tarifa sin perder mi número? " * 50,
    "我想更改我的资费计划，请问怎么办？" * 50, Path(__file__).read_text(encoding="utf-8"),
])
def test_tokens_are_estimated_on_the_high_side(text: str) -> None:
    from quicktok import get_encoding

    counted = len(get_encoding("o200k_base").encode(text))
    assert counted <= estimate(say(text)) < 2.5 * counted


def test_the_language_of_the_text_decides_and_a_short_one_goes_to_the_first() -> None:
    rule = {"to": [{"to": "en"}, {"to": "es"}], "prefer": "language", "languages": {"es": "es", "en": "en"}}
    route = one(rule, Told("en"), Told("es"))
    assert served(route, "¿Cómo puedo dar de baja la línea de mi padre?") == "es"
    assert served(route, "How do I cancel the line of my father?") == "en"
    assert served(route, "hola") == "en"
    assert served(route, "Wie kann ich den Vertrag meines Vaters kündigen, bitte?") == "en"
    assert served(route, "") == "en"


def test_the_fastest_lately_is_asked_and_a_slow_one_can_recover() -> None:
    now, rng = [0.0], random.Random(3)
    chooser = ByLatency(["a", "b"], rng, clock=lambda: now[0])
    speed = {"a": 100.0, "b": 50.0}

    def share_of_a(requests: int) -> float:
        first = 0
        for _ in range(requests):
            name = chooser.order(say("x"), AskContext())[0]
            first += name == "a"
            chooser.told(name, True, speed[name] * rng.uniform(0.7, 1.4))
            now[0] += 0.5
        return first / requests

    share_of_a(20)
    assert share_of_a(400) < 0.12
    speed["b"] = 400.0
    share_of_a(100)
    assert share_of_a(400) > 0.88
    speed["b"] = 20.0
    share_of_a(600)
    assert share_of_a(400) < 0.12, "it was tried now and then, and found fast again"
    for _ in range(20):
        chooser.told("b", False, 1.0)
    assert chooser.ms("b") > 1000, "an error at once is not fast"


def test_it_offers_what_all_offer_who_may_be_asked() -> None:
    few = Told("b", offers=frozenset({"seed", "stop"}))
    rule = {"to": [{"to": "a"}], "fallback": ["b"], "shadow": ["c"]}
    route = one(rule, Told("a"), few, Told("c", offers=frozenset()))
    assert route.offers == {"seed", "stop"}
    assert one({"to": [{"to": "a"}]}, Told("a")).offers == OFFERS


def test_a_budget_reserves_by_the_dearest_and_a_hedge_by_both() -> None:
    facts = {"a": TargetFacts(1.0, 2.0), "b": TargetFacts(10.0, 20.0)}
    rule = {"to": [{"to": "a"}], "fallback": ["b"]}
    assert one(rule, Told("a"), Told("b"), facts=facts).priced(100, 10).usd == pytest.approx(1200 / 1e6)
    hedging = one({**rule, "hedge_ms": 5}, Told("a"), Told("b"), facts=facts)
    assert hedging.priced(100, 10).usd == pytest.approx(1320 / 1e6)


def test_a_route_of_routes_says_who_answered_in_the_end() -> None:
    rules = {"outer": {"to": [{"to": "inner"}], "fallback": ["b"]}, "inner": {"to": [{"to": "a"}]}}
    routes = build_routes({k: RouteRule.model_validate(v) for k, v in rules.items()},
                          {"a": Told("a"), "b": Told("b")}, {"a": TargetFacts(release="r1")})
    assert list(routes) == ["outer", "inner"]
    ctx = AskContext(identity="ana")
    answer: ChatAnswer = asyncio.run(routes["outer"].complete(say("hola"), ctx))
    assert (answer.route, answer.release) == ("a", "r1")
    assert attempts(ctx) == [("a", ""), ("inner", "")]


@pytest.mark.parametrize(("rules", "told"), [
    ({"r": {"to": [{"to": "zzz"}]}}, "serve.routes.r.to names zzz"),
    ({"r": {"to": [{"to": "a"}], "fallback": ["nobody"]}}, "serve.routes.r.fallback names nobody"),
    ({"r": {"to": [{"to": "a"}], "shadow": ["nobody"]}}, "serve.routes.r.shadow names nobody"),
    ({"r": {"to": [{"to": "a", "weight": 0}, {"to": "b", "weight": 0}]}}, "r.to has weights that are all zero"),
    ({"r": {"to": [{"to": "a"}, {"to": "a"}]}}, "r.to names a twice"),
    ({"r": {"to": [{"to": "a"}], "fallback": ["a"]}}, "r.fallback names the route's only target"),
    ({"r": {"to": [{"to": "a"}], "fallback": ["r"]}}, "r.fallback names the route itself"),
    ({"r": {"to": [{"to": "r"}]}}, "serve.routes.r leads back to r"),
    ({"r": {"to": [{"to": "s"}]}, "s": {"to": [{"to": "a"}], "shadow": ["r"]}}, "s leads back to r: r -> s -> r"),
    ({"a": {"to": [{"to": "b"}]}}, "serve.routes.a has the name of a task or model"),
    ({"r": {"to": [{"to": "e"}]}}, "r.to names e, which embeds"),
    ({"r": {"to": [{"to": "a"}], "cache": {"kind": "semantic"}}}, "r.cache is semantic, and the project has no"),
    ({"r": {"to": [{"to": "a"}], "canary": {}}}, "r.canary compares"),
    ({"r": {"to": [{"to": "a", "weight": 0}, {"to": "b"}], "canary": {}}}, "r.canary compares"),
    ({"r": {"to": [{"to": "a", "weight": 2}, {"to": "b"}], "prefer": "cost"}}, "r.to has weights, which `prefer:"),
    ({"r": {"to": [{"to": "a"}, {"to": "b", "weight": 0}], "canary": {}}}, "r.canary compares"),
    ({"r": {"to": [{"to": "a"}], "prefer": "language", "languages": {"spanish": "a"}}}, "r.languages.spanish is no"),
    ({"r:x": {"to": [{"to": "a"}]}}, "serve.routes.r:x has a name"),
    ({"r": {"to": [{"to": "a"}], "languages": {"es": "a"}}}, "r.languages is read with"),
    ({"r": {"to": [{"to": "a"}], "prefer": "language", "languages": {"es": "b"}}}, "r.languages.es names b"),
    ({"r": {"to": [{"to": "s", "release": "x"}]}, "s": {"to": [{"to": "a"}]}}, "r.to names s@x"),
])
def test_what_cannot_be_meant_is_told_by_its_key(rules: dict[str, Any], told: str) -> None:
    engines = {"a": Told("a"), "b": Told("b")}
    with pytest.raises(ConfigError) as caught:
        build_routes({k: RouteRule.model_validate(v) for k, v in rules.items()}, engines,
                     {"e": TargetFacts(kind="embeddings")})
    assert told in caught.value.message
    assert caught.value.hint
    assert caught.value.at[:2] == ("serve", "routes"), "its line in bucle.yaml can be told"
    assert caught.value.at[2] in rules


def test_a_tower_of_routes_is_refused_and_many_are_no_trouble() -> None:
    tower = {f"r{n}": RouteRule.model_validate({"to": [{"to": f"r{n + 1}" if n < 5000 else "a"}]}) for n in range(5001)}
    with pytest.raises(ConfigError, match="r0 is more than 10 routes deep"):
        build_routes(tower, {"a": Told("a")}, {})
    row = {f"r{n}": RouteRule.model_validate({"to": [{"to": "a"}]}) for n in range(1000)}
    assert len(build_routes(row, {"a": Told("a")}, {})) == 1000


def test_the_example_of_the_manual_is_served() -> None:
    text = (Path(__file__).parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")
    block = text.split("\n    models:\n")[1].split("\n\n")[0]
    said = yaml.safe_load("    models:\n" + block.split("\n    bucle serve")[0])
    rules = Serve.model_validate(said["serve"]).routes
    names = ["faq", "faq@candidate", *said["models"]]
    routes = build_routes(rules, {name: Told(name) for name in names}, {})
    assert list(routes) == ["support", "writer", "polyglot"]
    assert served(routes["polyglot"], "¿Cómo puedo dar de baja la línea de mi padre?") == "nano"
