"""The models of bucle.yaml as engines to serve: a process of its own, vLLM, or somebody's API."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bucle.core.config import AnthropicModel, LocalModel, Model, OpenAIModel, PretrainModel, ProviderModel
from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BucleError, ConfigError, ModelUnavailable
from bucle.loop.model_steps import model_folder
from bucle.loop.workspace import Workspace

log = logging.getLogger("bucle.serve")

__all__ = ["AsModel", "adapters_of", "engine_of", "remote_engine"]


class AsModel:
    """`engine`, asked as `model` whatever name the client used: one adapter of a base, by its own route."""

    def __init__(self, engine: ChatEngine, model: str) -> None:
        self.name, self._engine = model, engine

    @property
    def offers(self) -> frozenset[str]:
        return self._engine.offers

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        return await self._engine.complete(replace(ask, model=self.name), ctx)

    def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        return self._engine.stream(replace(ask, model=self.name), ctx)

    async def close(self) -> None:
        """Nothing: the base's own route closes the engine that both share."""


def engine_of(ws: Workspace, name: str, node: str) -> ChatEngine:
    """The engine of the model called `name` (its base_model node in `node`). Nothing is loaded or asked yet. Raises
    ConfigError for a kind that does not write, ModelUnavailable for a folder that is refused."""
    model = ws.config.models[name]
    if isinstance(model, OpenAIModel | AnthropicModel | ProviderModel):
        return _remote(ws, name, model)
    if isinstance(model, LocalModel | PretrainModel):
        return _local(ws, name, model, model_folder(ws, node))
    raise ConfigError(f"models.{name} is of kind {model.kind}: it writes nothing.", "bucle serve names what is served")


def _remote(ws: Workspace, name: str, model: OpenAIModel | AnthropicModel | ProviderModel) -> ChatEngine:
    from bucle.models.engines.limited import Limited

    engine: Any = remote_engine(ws, name, model)
    return Limited(engine, f"{engine.base_url} {model.model}", model.requests_per_minute, model.tokens_per_minute)


def remote_engine(ws: Workspace, name: str, model: OpenAIModel | AnthropicModel | ProviderModel) -> ChatEngine:
    """The engine of a remote model by its settings, without its limits a minute; who finds its places taken waits."""
    from bucle.models.engines.queued import Queued

    return Queued(_asked(ws, name, model), model.max_parallel)


def _asked(ws: Workspace, name: str, model: OpenAIModel | AnthropicModel | ProviderModel) -> ChatEngine:
    from bucle.models.catalogue import paid

    usd_in, usd_out = paid(name, model, ws.config.catalogue)
    if isinstance(model, OpenAIModel):
        from bucle.models.engines.ollama import offers_at
        from bucle.models.engines.wire import WireEngine

        return WireEngine(name, model.base_url, model.model, api_key_env=model.api_key_env, timeout_s=model.timeout_s,
                          offers=offers_at(model.base_url), max_parallel=model.max_parallel,
                          usd_per_million_in=usd_in, usd_per_million_out=usd_out)
    if isinstance(model, AnthropicModel):
        from bucle.models.engines.anthropic import AnthropicEngine

        return AnthropicEngine(name, model.model, base_url=model.base_url, api_key_env=model.api_key_env,
                               timeout_s=model.timeout_s, max_parallel=model.max_parallel,
                               usd_per_million_in=usd_in, usd_per_million_out=usd_out)
    from bucle.models.engines.provider import ProviderEngine

    return ProviderEngine(name, model.provider, model.model, base_url=model.base_url, api_key_env=model.api_key_env,
                          timeout_s=model.timeout_s, max_parallel=model.max_parallel, usd_per_million_in=usd_in,
                          usd_per_million_out=usd_out)


def _local(ws: Workspace, name: str, model: LocalModel | PretrainModel, folder: Path) -> ChatEngine:
    adapters = adapters_of(ws, model)
    loaded = model.adapters_loaded if isinstance(model, LocalModel) else 1
    if model.engine == "vllm":
        if shutil.which("vllm") is None:
            raise ModelUnavailable("vLLM is not installed here.", "pip install vllm (it needs a GPU), or engine: auto")
        from bucle.models.engines.vllm import VllmEngine, VllmSpec

        return VllmEngine(name, VllmSpec(str(folder), precision=model.precision, adapters=adapters,
                                         adapters_loaded=loaded))
    from bucle.models.engines.host import HostSpec
    from bucle.models.engines.process import EngineProcess

    return EngineProcess(name, HostSpec(name, str(folder), engine=model.engine, precision=model.precision,
                                        adapters=adapters, adapters_loaded=loaded, threads=ws.config.threads),
                         memory_gb=model.memory_gb if isinstance(model, LocalModel) else 0.0)


def adapters_of(ws: Workspace, model: Model) -> Mapping[str, str]:
    """The adapters of a local model: name -> folder, relative ones from the project's. One that is refused is left out,
    and the log says why."""
    if not isinstance(model, LocalModel):
        return {}
    from bucle.models.folder import checked_folder

    found: dict[str, Any] = {}
    for name, path in model.adapters.items():
        own = ws.root / path
        try:
            found[name] = str(checked_folder(own if own.is_dir() else path))
        except BucleError as error:  # the base and its other adapters go on
            log.warning("the adapter %s is not served: %s (%s)", name, error.message, error.hint)
    return found
