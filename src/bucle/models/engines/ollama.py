"""Ollama speaks the OpenAI wire, so WireEngine asks it; what it reads and ignores is not offered.

    models: {llama: {kind: openai, base_url: http://127.0.0.1:11434/v1, model: "llama3.2", api_key_env: ""}}
"""

from __future__ import annotations

from urllib.parse import urlsplit

from bucle.models.engines.wire import WIRE_OFFERS

__all__ = ["OLLAMA_OFFERS", "offers_at"]

PORT = 11434
OLLAMA_OFFERS = WIRE_OFFERS - {"n", "logit_bias", "verbosity", "metadata", "prompt_cache_key"}
"""By its documentation it knows none of these, and by what it does it gives one answer and no error."""


def offers_at(base_url: str) -> frozenset[str]:
    """What the OpenAI-compatible server at `base_url` takes, as far as its address tells."""
    try:
        port = urlsplit(base_url).port
    except ValueError:
        port = None
    return OLLAMA_OFFERS if port == PORT else WIRE_OFFERS
