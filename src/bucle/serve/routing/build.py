"""From the `serve.routes` section of bucle.yaml to engines made of engines; what cannot be meant is refused here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from bucle.core.engine import ChatEngine
from bucle.core.ports import Embedder
from bucle.core.serving import RouteRule
from bucle.serve.routing.alias import Alias
from bucle.serve.routing.facts import ShadowRun, TargetFacts

__all__ = ["build_routes"]


def build_routes(
    rules: Mapping[str, RouteRule],
    targets: Mapping[str, ChatEngine],
    facts: Mapping[str, TargetFacts],
    *,
    encoder: Embedder | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_rollback: Callable[[str, str, str], None] | None = None,
    on_shadow: Callable[[ShadowRun], None] | None = None,
    rolled_back: Mapping[str, Collection[str]] | None = None,
    seed: int = 0,
) -> dict[str, Alias]:
    """One engine for each route of bucle.yaml.

    `targets` holds an engine for each `target_key` that is neither a route (those are built here): `NAME`, or
    `NAME@RELEASE` where a target names its release; `facts` what is known of them. `rolled_back` are the targets of each
    route that a canary gate stopped before this start and nobody restored (their users stay with the first target).
    `on_rollback(route, target, why)` is told once of each roll-back, `on_shadow` of each shadow answer; both are called
    on the event loop and must not block. Raises ConfigError that names the key.
    """
    raise NotImplementedError
