"""Sequences that are generated together, one token each a step: their keys and values side by side, padded on the
left."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bucle.models.engines.sampling import Answer

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "mergeable", "prefill"]


def prefill(model: Any, ids: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
    """Read `ids` after what `cache` holds (None: nothing): the last token's logits, `[vocabulary]` float32, and the
    cache that holds them too."""
    import torch

    with torch.inference_mode():
        result = model(input_ids=torch.tensor([list(ids)]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return result.logits[0, -1].float(), result.past_key_values


def mergeable(cache: Any) -> bool:
    """Whether sequences with such a cache can stand side by side: full attention in every layer."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class Batch:
    """Sequences of one adapter. `rows` are their answers with the token that was chosen last; `logits` of a step come
    in their order."""

    def __init__(self, adapter: str) -> None:
        self.adapter = adapter
        self.rows: list[Answer] = []
        self._last: list[int] = []
        self._pads: list[int] = []
        self._cache: Any = None

    def join(self, answer: Answer, token: int, cache: Any, *, share: bool = False) -> None:
        """Add a sequence whose prompt `cache` holds and whose first token is `token`. `share`: the cache is needed for
        another one yet."""
        import torch

        if self._cache is None:
            self._cache = copy.deepcopy(cache) if share else cache
            self._pads = [0]
        else:
            have, new = self._cache.get_seq_length(), cache.get_seq_length()
            with torch.inference_mode():
                for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
                    mine.keys = torch.cat([_padded(mine.keys, new - have), _padded(theirs.keys, have - new)])
                    mine.values = torch.cat([_padded(mine.values, new - have), _padded(theirs.values, have - new)])
            self._pads = [*(pad + max(0, new - have) for pad in self._pads), max(0, have - new)]
        self.rows.append(answer)
        self._last.append(token)

    def took(self, row: int, token: int) -> None:
        """Note the token that the answer in `row` goes on with."""
        self._last[row] = token

    def keep(self, rows: list[int]) -> None:
        """Only these sequences go on."""
        import torch

        if len(rows) == len(self.rows):
            return
        self.rows = [self.rows[row] for row in rows]
        self._last = [self._last[row] for row in rows]
        self._pads = [self._pads[row] for row in rows]
        if not rows:
            self._cache = None
            return
        spare = min(self._pads)
        self._pads = [pad - spare for pad in self._pads]
        chosen = torch.tensor(rows)
        with torch.inference_mode():
            for layer in self._cache.layers:
                layer.keys = layer.keys[chosen, :, spare:]
                layer.values = layer.values[chosen, :, spare:]

    def step(self, model: Any) -> torch.Tensor:
        """One token further: logits `[rows, vocabulary]` float32."""
        import torch

        ids = torch.tensor([[token] for token in self._last])
        more: dict[str, Any] = {}
        if len(self.rows) > 1:
            length = self._cache.get_seq_length()
            pads = torch.tensor(self._pads)
            more["position_ids"] = (length - pads)[:, None]
            if any(self._pads):
                more["attention_mask"] = (torch.arange(length + 1)[None, :] >= pads[:, None]).long()
        with torch.inference_mode():
            result = model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **more)
            self._cache = result.past_key_values
            return result.logits[:, -1].float()


def _padded(tensor: torch.Tensor, left: int) -> torch.Tensor:
    """`[rows, heads, length, width]` with `left` empty places before (none where that is not positive)."""
    import torch

    return torch.nn.functional.pad(tensor, (0, 0, left, 0)) if left > 0 else tensor
