"""One answer on its way: which token comes next, and what of its text may be told already."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from bucle.core.engine import ChatAsk, Choice, Delta, Finish
from bucle.core.errors import BadInput
from bucle.models.engines.guide import Guide
from bucle.models.engines.tools import CALL, calls_of

if TYPE_CHECKING:
    import torch

__all__ = ["Answer"]


COLDEST = 1e-3
"""Temperatures below are taken as 0: divided by them, logits overflow."""


class Answer:
    """Choice `index` of the answers to `ask`. `decode` makes text of token ids, `spell` bytes of one token."""

    def __init__(self, ask: ChatAsk, index: int, limit: int, end_ids: set[int], guide: Guide | None,
                 decode: Callable[[list[int]], str], spell: Callable[[int], bytes], opened: str = "") -> None:
        self.ask, self.index, self.limit = ask, index, limit
        self.ids: list[int] = []
        self.finish: Finish | Literal[""] = ""
        self._stopped = ""
        self.text = ""
        self._opened = opened
        self._end_ids, self._guide, self._decode, self._spell = end_ids, guide, decode, spell
        self._start = self._done = 0
        self._old = ""  # what the tokens between them spell
        self._waiting = ""
        self._stops = [text for text in ask.stop if text]
        self._tools = bool(ask.tools) and ask.tool_choice != "none"
        self._hold = max((len(text) for text in [*self._stops, *([CALL] if self._tools else [])]), default=1) - 1
        self._told: list[Mapping[str, Any]] = []
        self._ends_at: list[int] = []
        self._given = 0
        self._counts: Counter[int] = Counter()
        self._random: torch.Generator | None = None
        try:
            self._bias = [(int(token), float(bias)) for token, bias in ask.logit_bias.items()]
        except ValueError as error:
            raise BadInput("The keys of logit_bias are numbers of tokens.", "count them with this model's own "
                           "tokenizer") from error
        self.plain = not (self._bias or guide or ask.presence_penalty or ask.frequency_penalty or ask.temperature
                          or ask.top_logprobs is not None)
        """Whether the likeliest token is taken as it is."""

    # --- tokens

    def choose(self, logits: torch.Tensor) -> int:
        """The next token; `logits` is `[vocabulary]` float32 and may be written to. Bias and penalties as OpenAI's API
        defines them, top_p as Holtzman et al. 2020 (the smallest set of the likeliest tokens with that mass)."""
        import torch

        ask = self.ask
        raw = torch.log_softmax(logits, -1) if ask.top_logprobs is not None else None
        for token, bias in self._bias:
            if 0 <= token < len(logits):
                logits[token] += bias
        if self._counts and (ask.presence_penalty or ask.frequency_penalty):
            seen = torch.tensor(list(self._counts))
            often = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
            logits[seen] -= (ask.frequency_penalty or 0.0) * often + (ask.presence_penalty or 0.0)
        if self._guide is not None:
            self._guide.apply(logits)
        if ask.temperature and ask.temperature >= COLDEST:
            if self._random is None:
                seed = secrets.randbits(62) if ask.seed is None else ask.seed
                self._random = torch.Generator().manual_seed((seed + self.index * 0x9E3779B9) % 2**63)
            chances = torch.softmax(logits / ask.temperature, -1)
            if ask.top_p is not None and ask.top_p < 1:
                ordered, order = chances.sort(descending=True)
                ordered[ordered.cumsum(-1) - ordered >= max(ask.top_p, 0.0)] = 0.0
                ordered[0] = max(float(ordered[0]), 1e-9)
                token = int(order[torch.multinomial(ordered, 1, generator=self._random)])
            else:
                token = int(torch.multinomial(chances, 1, generator=self._random))
        else:
            token = int(logits.argmax())
        if raw is not None:
            self._tell(raw, token)
        return token

    def _tell(self, chances: torch.Tensor, token: int) -> None:
        """Note the log-probability (nats) that the model itself gave `token`, before bias, guide and temperature."""
        def entry(one: int) -> dict[str, Any]:
            spelled = self._spell(one)
            return {"token": spelled.decode(errors="replace"), "logprob": round(float(chances[one]), 6),
                    "bytes": list(spelled)}

        top = min(self.ask.top_logprobs or 0, len(chances))
        likeliest = chances.topk(top).indices.tolist() if top else []
        said = entry(token)
        self._told.append(said | {"top_logprobs": [entry(one) for one in likeliest]})
        self._ends_at.append((self._ends_at[-1] if self._ends_at else 0) + len(said["bytes"]))

    def take(self, token: int) -> Delta | None:
        """Note the next token; the text that may be told now, if any. `finish` says whether it was the last."""
        complete = self._guide.take(token) if self._guide is not None else False
        if token in self._end_ids:
            if self._told:
                self._told.pop()
            return self._end("stop")
        self.ids.append(token)
        if self.ask.presence_penalty or self.ask.frequency_penalty:
            self._counts[token] += 1
        new = self._decode(self.ids[self._start:])
        if not (new.endswith("\ufffd") or len(new) <= len(self._old)):  # else a character that is not whole yet
            self._waiting += new[len(self._old):]
            self._start, self._done = self._done, len(self.ids)
            self._old = self._decode(self.ids[self._start:])
            found = [(place, text) for text in self._stops if (place := self._waiting.find(text)) >= 0]
            if found:
                place, self._stopped = min(found)
                self._waiting = self._waiting[:place]
                return self._end("stop")
        if complete:
            return self._end("stop")
        if len(self.ids) >= self.limit:
            return self._end("length")
        call = self._waiting.find(CALL) if self._tools or self._opened else -1
        ready = call if call >= 0 else len(self._waiting) - self._hold
        if ready <= 0 or self._opened:
            return None
        piece, self._waiting = self._waiting[:ready], self._waiting[ready:]
        return self._piece(piece)

    # --- text

    def _end(self, finish: Finish) -> Delta | None:
        self.finish = finish
        rest = self._waiting
        calls: tuple[Mapping[str, Any], ...] = ()
        if self._tools:
            if self._opened:
                rest = f"{self._opened}{rest}\n</tool_call>"
            rest, found = calls_of(rest, self.ask)
            calls = tuple({"index": place, **call} for place, call in enumerate(found))
            if calls:
                self.finish = "tool_calls"
            elif self._opened:
                rest = self._waiting  # cut off before the call was whole
        self.calls = calls
        self._waiting = ""
        return self._piece(rest, calls, last=True) if rest or calls or self._told[self._given:] else None

    calls: tuple[Mapping[str, Any], ...] = ()

    def _piece(self, text: str, calls: tuple[Mapping[str, Any], ...] = (), last: bool = False) -> Delta:
        self.text += text
        logprobs = None
        if self.ask.top_logprobs is not None:
            size = len(self.text.encode(errors="replace"))
            until = next((place for place, end in enumerate(self._ends_at) if end > size), len(self._told))
            until = len(self._told) if last and (calls or not self._stops) else min(until, len(self._told))
            logprobs = {"content": self._told[self._given:until]}
            self._given = max(self._given, until)
        return Delta(text, self.index, calls, logprobs)

    def choice(self) -> Choice:
        """The whole of it, once it has ended."""
        calls = tuple({k: v for k, v in call.items() if k != "index"} for call in self.calls)
        told = {"content": self._told[:self._given]} if self.ask.top_logprobs is not None else None
        finish: Finish = self.finish or "stop"
        return Choice(self.text, finish, calls, told, stopped=self._stopped)
