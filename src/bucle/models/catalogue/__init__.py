"""What is known about models: prices and windows (genai-prices, offline), licences and places (packaged), the team's
own entries over both, and local folders as they describe themselves."""

from bucle.models.catalogue.facts import facts, paid, price_known
from bucle.models.catalogue.prices import context_window, price, prices_as_of, provider_of
from bucle.models.catalogue.search import Entry, search

__all__ = ["Entry", "context_window", "facts", "paid", "price", "price_known", "prices_as_of", "provider_of", "search"]
