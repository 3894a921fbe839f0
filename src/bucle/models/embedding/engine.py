"""A converted encoder on OpenVINO: texts in bulk to tokens, batches of like length, several at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.models.cpu import bf16_is_fast, default_threads
from bucle.models.embedding.library import openvino_quiet
from bucle.models.folder import read_json

__all__ = ["Engine", "Spoilt"]

BATCH_TOKENS = 1024
"""Tokens in one batch: fastest of 256, 1,024, 2,048 and 4,096 for paragraphs and for questions (benchmarks/embed.py);
more falls out of the processor's cache."""
LARGEST_BATCH = 64
Asked = str | tuple[str, str]
"""A text for an encoder, two for a cross-encoder."""


class Spoilt(ModelUnavailable):
    """What was converted cannot be read any more."""

    def __init__(self, folder: Path, said: str) -> None:
        super().__init__(f"the converted model in {folder} cannot be opened: {said}",
                         f"delete {folder}: it is made again")
        self.folder = folder


class Engine:
    """The model in a folder that `converted` made. Threads may share it; one core a stream, `threads` streams."""

    def __init__(self, folder: Path, precision: str, threads: int | None = None) -> None:
        from tokenizers import Tokenizer

        openvino = openvino_quiet()
        properties, hint = openvino.properties, openvino.properties.hint

        try:
            meta = read_json(folder / "meta.json")
            self._prompt, self._pad, self._left = str(meta["prompt"]), int(meta["pad"]), bool(meta["left"])
            self._types = "token_type_ids" in meta["inputs"]
        except (ModelUnavailable, KeyError, TypeError, ValueError, OSError) as error:
            raise Spoilt(folder, "meta.json is not what was written") from error
        self._streams = threads or default_threads()
        half = precision == "bf16" or (precision == "int8" and bf16_is_fast())
        settings: dict[Any, Any] = {
            hint.inference_precision(): openvino.Type.bf16 if half else openvino.Type.f32,
            hint.enable_cpu_pinning(): False,  # other work shares these cores
            properties.inference_num_threads(): self._streams,
            properties.num_streams(): self._streams,
        }
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._model = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
        except Exception as error:  # both libraries raise bare exceptions for a file that is cut
            raise Spoilt(folder, (str(error).splitlines() or [""])[0]) from error
        self._mine = threading.local()

    def vectors(self, texts: Sequence[Asked]) -> np.ndarray:
        """`[len(texts), dimensions]` float32, not yet of length 1 (a cross-encoder's scores: `[len(texts), labels]`).
        Texts of like length are computed together."""
        tokens = self._tokens(texts)
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]), reverse=True)
        batches: list[list[int]] = []
        for i in order:
            if batches and len(batches[-1]) < _fits(len(tokens[batches[-1][0]])):
                batches[-1].append(i)
            else:
                batches.append([i])
        return self._run(tokens, batches)

    def alone(self, texts: Sequence[Asked]) -> np.ndarray:
        """As `vectors`, each text a batch of its own, without padding: its company changes nothing."""
        tokens = self._tokens(texts)
        return self._run(tokens, [[i] for i in range(len(tokens))])

    def _tokens(self, texts: Sequence[Asked]) -> list[Any]:
        clean = [tuple(map(_clean, text)) if isinstance(text, tuple) else self._prompt + _clean(text) for text in texts]
        return list(self._tokenizer.encode_batch_fast(clean))

    def _run(self, tokens: Sequence[Any], batches: Sequence[Sequence[int]]) -> np.ndarray:
        found: list[np.ndarray | None] = [None] * len(tokens)

        def keep(request: Any, batch: Sequence[int]) -> None:
            rows = np.array(request.get_output_tensor(0).data, dtype=np.float32)
            for i, row in zip(batch, rows, strict=True):
                found[i] = row

        queue = self._queue()
        queue.set_callback(keep)
        for batch in batches:
            queue.start_async(self._inputs([tokens[i] for i in batch]), batch)
        queue.wait_all()
        return np.stack([row for row in found if row is not None])

    def _inputs(self, rows: Sequence[Any]) -> list[np.ndarray]:
        width = max(1, *map(len, rows))
        ids = np.full((len(rows), width), self._pad, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for place, row in enumerate(rows):
            where = slice(width - len(row), width) if self._left else slice(0, len(row))
            ids[place, where], mask[place, where] = row.ids, 1
            if self._types:
                types[place, where] = row.type_ids
        return [ids, mask, types] if self._types else [ids, mask]

    def _queue(self) -> Any:
        """This thread's infer requests."""
        if not hasattr(self._mine, "queue"):
            self._mine.queue = openvino_quiet().AsyncInferQueue(self._model, self._streams)
        return self._mine.queue


def _clean(text: str) -> str:
    """Without half surrogate pairs, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode()


def _fits(width: int) -> int:
    return max(1, min(LARGEST_BATCH, BATCH_TOKENS // max(1, width)))
