"""How long texts are to each of a project's models: by the model's own tokenizer, against its context window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.config import EncoderModel, LocalModel, PretrainModel, RemoteModel, RerankerModel
from bucle.core.errors import BucleError, NotFound
from bucle.core.ids import file_sha256
from bucle.core.ports import Report
from bucle.loop.expected import BYTES_PER_TOKEN
from bucle.loop.workspace import Workspace

__all__ = ["Reader", "lengths", "readers"]

_BATCH = 512
_MAX_TOKENIZER = 64 * 2**20
_MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Reader:
    """A model as a reader. `window` is its context in tokens (None where not known), `tokenizer` its tokenizer.json
    (None: tokens are estimated from bytes where `estimate`, else not counted, and `note` says why: `untrained`,
    `no-tokenizer`, `unavailable`)."""

    name: str
    kind: str
    window: int | None
    tokenizer: Path | None = None
    estimate: bool = False
    note: str = ""
    detail: str = ""

    def key(self) -> list[Any]:
        """What its counts depend on."""
        digest = file_sha256(self.tokenizer) if self.tokenizer else ""
        return [self.name, self.kind, self.window, digest, self.estimate, self.note, self.detail]


def readers(ws: Workspace) -> list[Reader]:
    """Every model in bucle.yaml as a reader. One that is not there (not trained yet, not installed) is among them and
    says so; nothing raises."""
    return [_reader(ws, name) for name in ws.config.models]


def _reader(ws: Workspace, name: str) -> Reader:
    model = ws.config.models[name]
    if isinstance(model, RemoteModel) or (isinstance(model, EncoderModel | RerankerModel) and model.base_url):
        from bucle.models.catalogue import context_window, provider_of

        return Reader(name, model.kind, context_window(model.model, provider_of(model.base_url)), estimate=True)
    try:
        folder, window = _folder(ws, name, model)
    except BucleError as error:
        return Reader(name, model.kind, None, note="unavailable", detail=error.message)
    if folder is None:
        return Reader(name, model.kind, window, note="untrained")
    path = folder / "tokenizer.json"
    if not path.is_file() or path.stat().st_size > _MAX_TOKENIZER:
        return Reader(name, model.kind, window, note="no-tokenizer")
    return Reader(name, model.kind, window, path)


def _folder(
    ws: Workspace, name: str, model: PretrainModel | LocalModel | EncoderModel | RerankerModel
) -> tuple[Path | None, int | None]:
    from bucle.models.folder import checked_folder, read_json

    if isinstance(model, PretrainModel):
        from bucle.loop.model_steps import model_folder
        from bucle.loop.story import latest_records

        try:
            node = next((r["model"] for r in latest_records(ws.ledger) if r.name == f"pretrain {name}"), "")
        except NotFound:
            node = ""
        if not node:  # a run of the data alone is the latest: the last one that was trained still reads
            trained = [n.id for n in ws.ledger.nodes("base_model") if n.attrs.get("name") == name and n.blobs]
            node = trained[-1] if trained else ""
        return (model_folder(ws, node) if node else None), model.context
    if isinstance(model, EncoderModel):
        from bucle.models.encoder import encoder_folder

        folder = encoder_folder(model.path)
        window = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    else:
        folder, window = checked_folder(model.path), None
    config = read_json(folder / "config.json")
    window = window or config.get("max_position_embeddings") or config.get("n_positions")
    return folder, int(window) if window else None


def lengths(
    reader: Reader, texts: Sequence[str], report: Report | None = None, done: int = 0, total: int = 0
) -> dict[str, Any]:
    """How many tokens `texts` are to `reader`: quantiles, `histogram`, `over` (texts longer than its window) and
    `over_share`; without `tokens` where they cannot be counted. The model's special tokens are counted, a prompt and a
    reply are not."""
    found: dict[str, Any] = {
        "name": reader.name, "kind": reader.kind, "window": reader.window, "estimate": reader.estimate,
        "note": reader.note, "detail": reader.detail, "texts": len(texts),
    }
    if reader.note:
        return found
    from bucle.data.explore import histogram, quantiles

    counts: Counter[int] = Counter()
    try:
        for number, some in enumerate(_counts(reader, texts), 1):
            counts.update(some)
            if report:
                report(done + min(len(texts), number * _BATCH), total, reader.name)
    except Exception as error:  # the tokenizers library raises Exception itself for a file it cannot read
        return found | {"note": "unavailable", "detail": str(error).splitlines()[0][:200]}
    over = sum(n for size, n in counts.items() if reader.window and size > reader.window)
    return found | {
        "tokens": quantiles(counts),
        "histogram": histogram(counts),
        "over": over if reader.window else None,
        "over_share": round(over / len(texts), 4) if reader.window and texts else None,
    }


def _counts(reader: Reader, texts: Sequence[str]) -> Iterator[list[int]]:
    measure = _estimate if reader.tokenizer is None else _tokens(reader.tokenizer)
    for at in range(0, len(texts), _BATCH):
        yield measure([text[:_MAX_CHARACTERS] for text in texts[at : at + _BATCH]])


def _estimate(texts: Sequence[str]) -> list[int]:
    each = sum(BYTES_PER_TOKEN) / 2
    return [max(1, round(len(text.encode(errors="replace")) / each)) for text in texts]


def _tokens(path: Path) -> Callable[[Sequence[str]], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(one) for one in tokenizer.encode_batch_fast(list(texts))]
