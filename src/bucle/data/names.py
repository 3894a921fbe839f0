"""People's names, found by a token-classification model that the team names under `data.names`."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bucle.core.config import Names
from bucle.core.errors import ModelUnavailable
from bucle.data.personal import Finding

__all__ = ["NameFinder"]

BATCH = 16
MAX_TOKENS = 256
"""Of one window; longer texts are read in windows that overlap by STRIDE tokens. BATCH windows at once bound memory."""
STRIDE = 32
_TEXTS = 64
_PERSON = re.compile(
    r"^(?:[BIELSU][-_])?(?:PER|PERS|PERSON|PERSONA|NAME|NOMBRE|NOMBRE_\w+|GIVENNAME\d?|SURNAME\d?)$", re.IGNORECASE
)
_PARTICLES = re.compile(
    r"\s+(?:(?:de|del|la|las|los|el|y|e|i|da|das|do|dos|di|van|von|der|den|ter|zu|bin|ibn|al|san|santa|mac|le)\s+){0,3}|[-'’]",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[^\W\d_]")


class NameFinder:
    """Finds names by the model in `names.path`: a folder, or a Hub name that is already in the local cache.

    Weights are read from safetensors only and no code that comes with a model is run. The model is opened at the first
    use. Raises ModelUnavailable where it cannot be, or where it has no label for persons.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self._opened: tuple[Any, Any, list[int]] | None = None

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The names in each of `texts`, in order, as findings of kind `name`: whole words, joined over the particles of
        a name (`María de la O Núñez`), each with a mean score of `min_score` at least."""
        found: list[list[Finding]] = [[] for _ in texts]
        told = [at for at, text in enumerate(texts) if _LETTER.search(text)]
        for start in range(0, len(told), _TEXTS):
            part = told[start : start + _TEXTS]
            for at, findings in zip(part, self._find([texts[at] for at in part]), strict=True):
                found[at] = findings
        return found

    def _find(self, texts: Sequence[str]) -> Iterator[list[Finding]]:
        scores: list[dict[tuple[int, int], float]] = [{} for _ in texts]
        for at, spans in self._tokens(texts):
            for span, score in spans:
                scores[at][span] = max(score, scores[at].get(span, 0.0))
        for text, tokens in zip(texts, scores, strict=True):
            yield _names(text, tokens, self.names.min_score)

    def _tokens(self, texts: Sequence[str]) -> Iterator[tuple[int, list[tuple[tuple[int, int], float]]]]:
        """Of each window: its text's index, and the characters of each token with the chance that it is of a person."""
        import torch

        tokenizer, model, people = self._open()
        limit = min(MAX_TOKENS, int(getattr(model.config, "max_position_embeddings", MAX_TOKENS)) - 2)
        coded = tokenizer(
            list(texts),
            truncation=True,
            max_length=limit,
            stride=min(STRIDE, limit // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            padding=False,
        )
        of_text, offsets = coded.pop("overflow_to_sample_mapping"), coded.pop("offset_mapping")
        special = coded.pop("special_tokens_mask")
        names = [name for name in tokenizer.model_input_names if name in coded]
        order = sorted(range(len(of_text)), key=lambda window: len(coded["input_ids"][window]))
        for start in range(0, len(order), BATCH):
            windows = order[start : start + BATCH]
            batch = tokenizer.pad({n: [coded[n][w] for w in windows] for n in names}, return_tensors="pt")
            with torch.inference_mode():
                chances = model(**batch).logits.float().softmax(-1)[..., people].sum(-1)
            for row, window in enumerate(windows):
                yield (
                    of_text[window],
                    [
                        ((int(first), int(last)), float(chances[row, at]))
                        for at, (first, last) in enumerate(offsets[window])
                        if not special[window][at] and last > first
                    ],
                )

    def _open(self) -> tuple[Any, Any, list[int]]:
        if self._opened is None:
            from transformers import AutoModelForTokenClassification, AutoTokenizer

            path = Path(self.names.path).expanduser()
            where = str(path) if path.is_dir() else self.names.path
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            try:
                tokenizer = AutoTokenizer.from_pretrained(where, **options)
                model = AutoModelForTokenClassification.from_pretrained(where, use_safetensors=True, **options)
            except Exception as error:  # transformers raises many kinds; all mean the same here
                raise ModelUnavailable(
                    f"The model for names `{self.names.path}` cannot be loaded: {str(error).splitlines()[0][:200]}",
                    "Name a folder with a token-classification model (safetensors), or a model of the local Hub cache, "
                    "under `data.names.path`.",
                ) from error
            people = [at for at, label in model.config.id2label.items() if _PERSON.match(str(label))]
            if not people or not tokenizer.is_fast:
                lack = "no label for persons" if not people else "no fast tokenizer"
                labels = ", ".join(str(label) for label in list(model.config.id2label.values())[:20])
                raise ModelUnavailable(
                    f"The model for names `{self.names.path}` has {lack} (its labels: {labels}).",
                    "Name a model with a label such as PER or PERSON under `data.names.path`.",
                )
            self._opened = tokenizer, model.eval(), people
        return self._opened


def _names(text: str, tokens: dict[tuple[int, int], float], least: float) -> list[Finding]:
    """Words of which a token is a person's, joined where only a particle stands between them."""
    score = array("f", bytes(4 * len(text)))  # of each character
    for (first, last), chance in tokens.items():
        for at in range(first, last):
            score[at] = max(score[at], chance)
    words = [
        (word.start(), word.end(), max(score[word.start() : word.end()]))
        for word in re.finditer(r"[^\W\d_]+(?:[.'’-][^\W\d_]+)*\.?", text)
    ]
    runs: list[list[tuple[int, int, float]]] = []
    for one in words:
        if one[2] < 0.5:
            continue
        if runs and _PARTICLES.fullmatch(text, runs[-1][-1][1], one[0]):
            runs[-1].append(one)
        else:
            runs.append([one])
    found = []
    for run in runs:
        start, end = run[0][0], run[-1][1]
        if text[end - 1] == "." and end - run[-1][0] > 2:
            end -= 1  # the sentence's, not an initial's
        if sum(score for *_, score in run) / len(run) >= least:
            found.append(Finding("name", start, end, text[start:end]))
    return found
