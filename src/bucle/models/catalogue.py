"""What a hosted model costs and how much it reads, from the offline tables of the genai-prices library."""

from __future__ import annotations

from typing import Any

__all__ = ["context_window", "price", "provider_of"]

_HOSTS = {
    "api.openai.com": "openai", "api.anthropic.com": "anthropic", "api.mistral.ai": "mistral",
    "api.groq.com": "groq", "api.deepseek.com": "deepseek", "openrouter.ai": "openrouter",
    "api.together.xyz": "together", "api.fireworks.ai": "fireworks", "api.x.ai": "x-ai",
    "generativelanguage.googleapis.com": "google", "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
}


def provider_of(base_url: str) -> str | None:
    """The genai-prices provider at the host of `base_url`, or None: a local server has no list price."""
    from urllib.parse import urlsplit

    return _HOSTS.get((urlsplit(base_url).hostname or "").lower())


def price(model: str, provider: str | None, tokens_in: int, tokens_out: int) -> float | None:
    """US dollars for one call at today's list price, or None where the model or its price is not known.

    `provider` is a genai-prices id (`openai`, `mistral`, …); None looks the model up by its name alone.
    """
    found = _calculation(model, provider, tokens_in, tokens_out)
    return None if found is None else float(found.total_price)


def context_window(model: str, provider: str | None = None) -> int | None:
    """Tokens the model reads at once (prompt and reply together), or None where the tables do not say."""
    found = _calculation(model, provider, 0, 0)
    window = None if found is None else found.model.context_window
    return None if window is None else int(window)


def _calculation(model: str, provider: str | None, tokens_in: int, tokens_out: int) -> Any | None:
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
    try:
        if provider:
            return calc_price(usage, model, provider_id=provider)
        return calc_price(usage, model)
    except (LookupError, ValueError):
        return None
