"""What a hosted model costs and how much it reads, from the offline tables of the genai-prices library."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from bucle.models.catalogue.packaged import provider_at, provider_named

__all__ = ["context_window", "list_price", "listed", "price", "prices_as_of", "provider_of"]


def provider_of(base_url: str) -> str | None:
    """The provider at the host of `base_url`, or None: a local server has no list price."""
    from urllib.parse import urlsplit

    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return None
    found = provider_at(host)
    return found.id if found else None


def price(model: str, provider: str | None, tokens_in: int, tokens_out: int) -> float | None:
    """US dollars for one call at the list price of `prices_as_of()`, or None where the model or its price is not known.

    `provider` is a provider's id (`openai`, `mistral`, …); None looks the model up by its name alone.
    """
    found = _calculation(model, provider, tokens_in, tokens_out)
    return None if found is None else float(found.total_price)


def list_price(model: str, provider: str | None) -> tuple[float | None, float | None]:
    """US dollars for a million tokens in and out, each None where not known. Of prices in tiers, the first tier's."""
    found = _calculation(model, provider, 0, 0)
    return (None, None) if found is None else _rates(found.model_price)


def context_window(model: str, provider: str | None = None) -> int | None:
    """Tokens the model reads at once (prompt and reply together), or None where the tables do not say."""
    found = _calculation(model, provider, 0, 0)
    window = None if found is None else found.model.context_window
    return None if window is None else int(window)


def listed() -> list[tuple[str, str, int | None, float | None, float | None]]:
    """Every model that the tables price: (provider, model, context, dollars a million in, out), by provider and name;
    models that their providers call deprecated are left out, and so are batch prices, for answers within a day."""
    from datetime import UTC, datetime

    from genai_prices.data_snapshot import get_snapshot

    now, found = datetime.now(tz=UTC), []
    for provider in get_snapshot().providers:
        for model in provider.models:
            if model.deprecated or model.id.endswith(":batch"):
                continue
            usd_in, usd_out = _rates(model.get_prices(now))
            found.append((provider.id, model.id, model.context_window, usd_in, usd_out))
    return found


@lru_cache(maxsize=1)
def prices_as_of() -> str:
    """`genai-prices 0.2.3, checked up to 2026-10-14`: the tables' version, and the latest date on which, by their own
    notes, a price was looked up."""
    from importlib.metadata import version

    from genai_prices.data_snapshot import get_snapshot

    dates = [
        date
        for provider in get_snapshot().providers
        for model in provider.models
        if model.price_comments
        for date in re.findall(r"(?:verified|checked)\D{0,20}(20\d\d-\d\d-\d\d)", model.price_comments, re.IGNORECASE)
    ]
    return f"genai-prices {version('genai-prices')}" + (f", checked up to {max(dates)}" if dates else "")


def _rates(prices: Any) -> tuple[float | None, float | None]:
    def rate(name: str) -> float | None:
        value = getattr(prices, name, None)
        value = getattr(value, "base", value)  # tiers begin at a base
        return None if value is None else float(value)

    return rate("input_mtok"), rate("output_mtok")


def _calculation(model: str, provider: str | None, tokens_in: int, tokens_out: int) -> Any | None:
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
    known = provider_named(provider) if provider else None
    try:
        if provider:
            return calc_price(usage, model, provider_id=known.prices if known else provider)
        return calc_price(usage, model)
    except (LookupError, ValueError):
        return None
