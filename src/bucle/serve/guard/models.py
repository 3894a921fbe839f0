"""Scores by another model than the packaged one: a text classifier in a folder or of the Hub, or an endpoint of
`/v1/moderations`. Both are slow beside the others (milliseconds): they are asked from a thread."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import ModelUnavailable
from bucle.serve.guard.look import NOTHING, Around, Found, Look

__all__ = ["Endpoint", "classifier", "moderations"]

TIMEOUT_S = 5.0
MAX_TOKENS = 512
LONGEST = 32_000
_LABELS = {
    "injection": re.compile(r"inject|jailbreak|malicious|attack|unsafe|label_1$", re.I),
    "abuse": re.compile(r"toxic|insult|obscen|threat|hate|abus|offens|harass|sexual|violen|self|odio|ofens|amenaz"
                        r"|unsafe|label_1$", re.I),
}
_NOT = re.compile(r"\b(?:non|not|no)[-_ ]|^(?:neutral|normal|safe|benign)", re.I)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible `/v1/moderations`: `base_url` ends in /v1, `api_key_env` names the variable of the key."""

    base_url: str
    model: str = ""
    api_key_env: str = ""


def moderations(what: str, endpoint: Endpoint) -> Look:
    """A look by `endpoint`: the highest of its scores that `what` (`injection`, `abuse`) is about. Raises
    ModelUnavailable where it does not answer within TIMEOUT_S or not as the API says."""
    import httpx

    key = os.environ.get(endpoint.api_key_env, "") if endpoint.api_key_env else ""
    client = httpx.Client(timeout=TIMEOUT_S, headers={"authorization": f"Bearer {key}"} if key else {})
    wanted = _LABELS[what]

    def look(text: str, around: Around) -> Found:
        body = {"input": text[:LONGEST], **({"model": endpoint.model} if endpoint.model else {})}
        try:
            answer = client.post(f"{endpoint.base_url.rstrip('/')}/moderations", json=body)
            answer.raise_for_status()
            found: Mapping[str, Any] = answer.json()["results"][0]["category_scores"]
            scores = {name: float(score) for name, score in found.items() if wanted.search(name)}
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelUnavailable(f"The guard's endpoint did not answer ({type(error).__name__}).",
                                   "See `serve: guards:` in bucle.yaml.") from None
        if not scores:
            return NOTHING
        top = max(scores.values())
        return Found(min(1.0, max(0.0, top)), tuple(sorted(name for name, s in scores.items() if s >= 0.5)) or (what,))

    return look


def classifier(what: str, name: str, folder: Path | None) -> Look:
    """A look by the text-classification model `name`: a folder (absolute, or as seen from `folder`), or a Hub name in
    the local cache. Safetensors only, no code that comes with a model. The chance of its labels that `what` is about;
    text is cut at 512 tokens. Raises ModelUnavailable at the first look where it cannot be loaded."""
    local = (folder / name) if folder is not None else Path(name)
    where = str(local) if local.is_dir() else name

    def look(text: str, around: Around) -> Found:
        import torch

        tokenizer, model, at = _opened(where, what)
        config = model.config
        longest = min(MAX_TOKENS, int(getattr(config, "max_position_embeddings", MAX_TOKENS)) - 2)
        batch = tokenizer([text[:LONGEST]], truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**batch).logits.float()[0]
        several = getattr(config, "problem_type", None) == "multi_label_classification" or config.num_labels == 1
        chance = logits.sigmoid()[at].max() if several else logits.softmax(-1)[at].sum()
        return Found(min(1.0, float(chance)), (what,))

    return look


@functools.lru_cache(maxsize=4)
def _opened(where: str, what: str) -> tuple[Any, Any, list[int]]:
    from bucle.models.classifier import open_classifier

    tokenizer, model = open_classifier(
        where, "The guard's model", "Name a folder with a text-classification model (safetensors), a model of the "
        "local Hub cache, or an endpoint of `models:`.")
    labels = {at: str(label) for at, label in model.config.id2label.items()}
    wanted = [at for at, label in labels.items() if _LABELS[what].search(label) and not _NOT.search(label)]
    if not wanted:
        raise ModelUnavailable(f"The guard's model `{where}` has no label about {what} (its labels: "
                               f"{', '.join(list(labels.values())[:20])}).", "Name a model that has one.")
    return tokenizer, model, wanted
