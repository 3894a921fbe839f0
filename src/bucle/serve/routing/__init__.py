"""Routes made of routes: shares and canaries, shadows, fallbacks, retries, breakers, hedges, preferences and caches.

`build_routes` makes one `Alias` (a ChatEngine) of each rule in bucle.yaml; docs/routing.md says what happens when.
"""

from bucle.serve.routing.alias import Alias
from bucle.serve.routing.build import build_routes
from bucle.serve.routing.facts import RollBack, ShadowRun, TargetFacts, target_key

__all__ = ["Alias", "RollBack", "ShadowRun", "TargetFacts", "build_routes", "target_key"]
