"""Answers that must fit a JSON schema or a regular expression: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bucle.core.engine import ChatAsk
from bucle.core.errors import BadInput
from bucle.models.engines.tools import call_schema

if TYPE_CHECKING:
    import torch

__all__ = ["Guide", "Guides"]

SCHEMA_LIMIT = 200_000
"""Characters of a schema or expression."""
COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""No free whitespace: a weak model fills its whole budget with it."""


class Guides:
    """Makes guides for one tokenizer. `end_ids` end an answer; `vocabulary` is the width of the logits. A
    tokenizer that llguidance cannot read leaves `usable` False."""

    def __init__(self, tokenizer: Any, end_ids: set[int], vocabulary: int) -> None:
        import llguidance.hf

        self.vocabulary = vocabulary
        self.usable = True
        try:
            self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary,
                                                        eos_token=sorted(end_ids) or None)
        except (ValueError, RuntimeError):
            self.usable = False

    def of(self, ask: ChatAsk) -> Guide | None:
        """The guide that `ask` asks for; None where it may say anything. Raises BadInput for a schema or expression
        that cannot be followed."""
        from llguidance import LLMatcher

        schema = ask.schema if ask.schema is not None else {"type": "object"} if ask.any_json else call_schema(ask)
        if schema is None and ask.regex is None:
            return None
        what = "JSON schema" if schema is not None else "regular expression"
        try:
            text = json.dumps(schema) if schema is not None else ask.regex or ""
            if len(text) > SCHEMA_LIMIT:
                raise BadInput(f"The {what} is longer than {SCHEMA_LIMIT:,} characters.", "send a smaller one")
            grammar = LLMatcher.grammar_from_json_schema(text, defaults=COMPACT) if schema is not None else \
                LLMatcher.grammar_from_regex(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"The {what} cannot be followed: {str(error)[:300]}", "send a simpler one") from error
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise BadInput(f"The {what} cannot be followed: {str(matcher.get_error()).splitlines()[0][:300]}",
                           "see docs/engines.md for what guided answers take")
        return Guide(matcher, self.vocabulary)

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for."""
        return bytes(self._tokens.decode_bytes([token])) if self.usable else b""


class Guide:
    """The state of one answer."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        import llguidance.numpy as masks

        self._matcher, self._mask = matcher, masks.allocate_token_bitmask(1, vocabulary)

    def apply(self, logits: torch.Tensor) -> None:
        """Put what may not come next to minus infinity, in place; `logits` is `[vocabulary]` float32 on the CPU."""
        import llguidance.numpy as masks

        masks.fill_next_token_bitmask(self._matcher, self._mask)
        masks.apply_token_bitmask_inplace(logits.numpy(), self._mask)

    def take(self, token: int) -> bool:
        """Note the chosen token: whether the answer is complete with it."""
        if not self._matcher.consume_token(token):
            raise BadInput(f"The guided answer cannot go on: {str(self._matcher.get_error())[:200]}", "simplify it")
        return bool(self._matcher.is_stopped())
