"""Who is asked, by a stable hash of who asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from bucle.core.engine import AskContext, ChatAsk

__all__ = ["ByShare", "fraction", "pick"]


def fraction(*parts: str) -> float:
    """A number in (0, 1), always the same for the same parts and as good as random over different ones."""
    digest = blake2b("\x1f".join(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def pick(salt: str, identity: str, weights: Mapping[str, float]) -> str:
    """The target of `identity`: each gets its weight's share of the identities.

    Weighted rendezvous hashing (Thaler & Ravishankar 1998, IEEE/ACM Transactions on Networking 6(1); the weights after
    Schindelhauer & Schomaker 2005): the greatest of -weight / ln(hash). Changing one weight moves identities only to or
    from its target, and no more than the shares differ.
    """
    return max((name for name, weight in weights.items() if weight > 0),
               key=lambda name: -weights[name] / math.log(fraction(salt, name, identity)))


class ByShare:
    """The targets of a route by weight. `stopped` holds those whose users go to the first."""

    def __init__(self, route: str, weights: Mapping[str, float]) -> None:
        self.route, self.weights, self.stopped = route, dict(weights), set[str]()
        self.first = next(iter(weights))

    def chosen(self, identity: str) -> str:
        if len(self.weights) == 1:
            return self.first
        found = pick(self.route, identity, self.weights)
        return self.first if found in self.stopped else found

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]:
        """The one target of whoever asks; nobody's stable share leaks to another one."""
        return (self.chosen(who(ctx)),)

    def shares(self) -> dict[str, float]:
        """What each gets of the traffic now."""
        total = sum(self.weights.values())
        now = {name: 0.0 if name in self.stopped else weight / total for name, weight in self.weights.items()}
        now[self.first] += sum(self.weights[name] / total for name in self.stopped)
        return now


def who(ctx: AskContext) -> str:
    """What a share is decided by: the user, else the key, else (nobody says) each request for itself."""
    return ctx.identity or ctx.trace
