"""A name that stands for others: the engine of one route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bucle.core.engine import AskContext, ChatAsk
from bucle.core.errors import NotFound
from bucle.core.records import Trace, Usage
from bucle.serve.routing.attempt import Attempt
from bucle.serve.routing.cached import Cached
from bucle.serve.routing.chain import Chain
from bucle.serve.routing.facts import RollBack, TargetFacts
from bucle.serve.routing.gate import Gate, RollBacks
from bucle.serve.routing.opening import Layer, Outcome, Reply
from bucle.serve.routing.prefer import Chooser
from bucle.serve.routing.shadow import Shadowed
from bucle.serve.routing.share import ByShare

__all__ = ["Alias"]


class Alias(Layer):
    """One route of bucle.yaml as a ChatEngine: Cached(Shadowed(Chain(targets))). Built by `build_routes`.

    `offers` is what every target that may be asked offers, shadows aside. Answers carry `route` (the key of the target
    that answered), `release` and `candidate`; each attempt leaves a span `attempt` with `route`, `target`, `ms` and,
    where it failed, `error`.
    """

    def __init__(self, name: str, chooser: Chooser, members: Mapping[str, TargetFacts], chain: Chain, engine: Layer,
                 rollbacks: RollBacks, gate: Gate | None) -> None:
        self.name, self.chooser, self.chain, self.gate = name, chooser, chain, gate
        self._members, self.engine, self._rollbacks = dict(members), engine, rollbacks

    @property
    def offers(self) -> frozenset[str]:
        return self.chain.offers

    @property
    def history(self) -> list[RollBack]:
        """Each roll-back and restoration since the start, oldest first."""
        return self._rollbacks.history

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None) -> Reply:
        return await self.engine.open(ask, ctx, whole)

    async def close(self) -> None:
        """End the shadows at work. The targets belong to whoever made them and are not closed here."""
        await self.engine.close()

    def heard(self, trace: Trace, rating: int) -> bool:
        """Count a rating (+1 or -1) of the answer in `trace` for the canary gate; whether it was. Only a user's first
        one counts (where no user is named: a trace's), and none of an answer from a cache or of a stand-in."""
        inner = [t.attempt.engine for t in self.chain.targets.values()]
        told = [engine.heard(trace, rating) for engine in inner if isinstance(engine, Alias)]
        return self._counted(trace, rating) or any(told)

    def _counted(self, trace: Trace, rating: int) -> bool:
        target = self._answered(trace)
        if self.gate is None or not target or trace.cached or trace.role or rating not in (-1, 1):
            return False
        return self.gate.rated(target, rating, f"user {trace.user}" if trace.user else f"trace {trace.id}")

    def _answered(self, trace: Trace) -> str:
        """The target that was chosen for a trace and answered it: by its spans, else by its release."""
        spans = [s for s in trace.spans if s.get("name") == "attempt" and s.get("route") == self.name]
        if spans:
            by = {str(s.get("target")) for s in spans}
            return str(spans[-1]["target"]) if len(by) == 1 and not spans[-1].get("error") else ""
        found = [name for name, facts in self._members.items() if facts.release and facts.release == trace.release]
        return found[0] if len(found) == 1 and trace.route == self.name else ""

    def priced(self, tokens_in: int, tokens_out: int) -> Usage | None:
        """These tokens at the dearest target that may be asked, a hedge's added: what a budget reserves. None where
        nobody knows the price of one."""
        each = [_price(target.attempt, tokens_in, tokens_out) for target in self.chain.targets.values()]
        known = sorted(usd for usd in each if usd is not None)
        if len(known) < len(each):
            return None
        twice = 0.0 if self.chain.hedge_s is None else known[-2] if len(known) > 1 else known[-1]
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=known[-1] + twice)

    def pool(self, ctx: AskContext) -> str:
        """What may answer this asker unless it fails: targets, releases and candidates, of inner routes too."""
        return "; ".join(sorted(self._pool_of(name, ctx) for name in self._chosen(ctx)))

    def own(self, ctx: AskContext) -> frozenset[str]:
        """The targets in `pool` that are no routes, by their keys."""
        leaves: set[str] = set()
        for name in self._chosen(ctx):
            engine = self.chain.targets[name].attempt.engine
            leaves |= engine.own(ctx) if isinstance(engine, Alias) else {name}
        return frozenset(leaves)

    def _chosen(self, ctx: AskContext) -> tuple[str, ...]:
        return tuple(self.chooser.order(_NO_ASK, ctx)) if isinstance(self.chooser, ByShare) else tuple(self._members)

    def _pool_of(self, name: str, ctx: AskContext) -> str:
        engine, facts = self.chain.targets[name].attempt.engine, self._members[name]
        inner = f"({engine.pool(ctx)})" if isinstance(engine, Alias) else ""
        return f"{name}{inner}#{facts.release}#{facts.candidate}"

    def roll_back(self, target: str, why: str = "by hand") -> None:
        """Give `target` no more traffic: its users go to the first one. Raises NotFound for any but a target of this
        route's shares that is not the first."""
        self._known(target)
        self._rollbacks.stop(target, "hand", why, {})

    def restore(self, target: str) -> None:
        """Give a rolled back `target` its share again; its comparison with the first begins anew. Raises NotFound for
        one that is not rolled back."""
        self._known(target)
        if not self._rollbacks.restore(target):
            raise NotFound(f"{target} of route {self.name} is not rolled back", "look at its targets: GET /v1/models")
        if self.gate is not None and target in self.gate.pairs:
            self.gate.begin_again(target)

    def _known(self, target: str) -> None:
        if not isinstance(self.chooser, ByShare) or target not in self._members or target == self.chooser.first:
            raise NotFound(f"route {self.name} has no target {target} beside its first",
                           f"name one of: {', '.join(list(self._members)[1:]) or 'there is none'}")

    def standing(self) -> dict[str, Any]:
        """What the route does now, as JSON: targets with their shares, breakers, canary figures and roll-backs;
        retries, hedges, shadows and cache by count."""
        shares = self.chooser.shares() if isinstance(self.chooser, ByShare) else {}
        told: dict[str, Any] = {
            "targets": {name: {"share": shares.get(name), "release": t.attempt.facts.release,
                               "breaker": t.attempt.breaker.state, "opened": t.attempt.breaker.opened,
                               "attempts": dict(t.attempt.outcomes),
                               "rolled_back": name in self._rollbacks.stopped}
                        for name, t in self.chain.targets.items()},
            "retries": {"made": self.chain.budget.spent - self.chain.hedges, "refused": self.chain.budget.refused},
            "hedges": self.chain.hedges, "fallbacks": self.chain.fallen_back,
            "rollbacks": [asdict(one) for one in self.history],
        }
        if self.gate is not None:
            told["canary"] = self.gate.figures()
        layer: Any = self.engine
        while layer is not self.chain:
            if isinstance(layer, Cached):
                told["cache"] = {**asdict(layer.counts), "kept": len(layer.answers), "bytes": layer.answers.size}
            elif isinstance(layer, Shadowed):
                told["shadow"] = {name: asdict(counts) for name, counts in layer.counts.items()}
            layer = layer.inner
        return told


_NO_ASK = ChatAsk("")


def _price(target: Attempt, tokens_in: int, tokens_out: int) -> float | None:
    """US dollars of these tokens at one target: by what is known of it or what its engine says (a task: what it cost
    lately), whichever is more; else nothing where it computes here, None where it asks others (it takes several)."""
    known = target.facts.price_in is not None or target.facts.price_out is not None
    usd = target.facts.usd(tokens_in, tokens_out)
    if (priced := getattr(target.engine, "priced", None)) is not None:
        said = priced(tokens_in, tokens_out)
        if said is not None:
            return max(usd, float(getattr(said, "usd", said)))
        return usd if known else None
    if known:
        return usd
    return None if getattr(target.engine, "parallel", 1) > 1 else 0.0
