"""vLLM as an engine: `vllm serve` as a process of its own on a private socket, its adapters loaded over its API.

Written against vLLM's documentation and source (0.12 and newer: `--uds`, `structured_outputs`); see docs/engines.md for
what of it has run on a GPU.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.engine import OFFERS, AskContext, ChatAsk
from bucle.core.errors import ModelUnavailable
from bucle.models.endpoint import Refused
from bucle.models.engines.adapters import checked_adapter
from bucle.models.engines.child import CannotServe, Child, Launch, clean_environment, private_folder
from bucle.models.engines.process import EngineDied, Supervised, Watch
from bucle.models.engines.tools import CALL, MARKS, clean
from bucle.models.folder import chat_template, checked_folder, read_json

if TYPE_CHECKING:
    from bucle.core.ports import Report

__all__ = ["VllmEngine", "VllmSpec"]

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that `--max-lora-rank` takes."""
TYPES = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}
START = Watch(start_s=1800.0, hang_s=120.0)
"""vLLM compiles and captures its graphs for minutes before it answers."""


@dataclass(frozen=True, slots=True)
class VllmSpec:
    """One base model for vLLM: `folder` and `adapters` as in HostSpec, `adapters_loaded` of them known to vLLM at a
    time. `tool_parser` is vLLM's name of the form in which the model writes tool calls (`auto`: `hermes` where the chat
    template asks for that form; empty: tools are not offered); `context` bounds the tokens of a conversation (0: the
    model's own); `memory` is the share of the GPU's memory that it takes; `command` is how vLLM is started, if not as
    `vllm` on the PATH."""

    folder: str
    precision: str = "auto"
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapters_loaded: int = 4
    max_tokens: int = 512
    tool_parser: str = "auto"
    context: int = 0
    memory: float = 0.9
    command: tuple[str, ...] = ("vllm",)


class VllmEngine(Supervised):
    """A ChatEngine over vLLM. The port is a Unix socket in a folder that only this user may enter, with a key of this
    process's life in front of it. Raises ModelUnavailable where vLLM is not installed, or the model, an adapter or
    `precision` is refused."""

    def __init__(self, name: str, spec: VllmSpec, *, watch: Watch | None = None, report: Report | None = None) -> None:
        folder = checked_folder(spec.folder)
        if spec.precision not in TYPES:
            raise ModelUnavailable(f"The engine vllm is not given precision {spec.precision}.",
                                   "give a model that is stored so, or use precision: auto")
        ranks = [int(checked_adapter(Path(path), one).get("r") or 8) for one, path in spec.adapters.items()]
        rank = next((allowed for allowed in RANKS if allowed >= max(ranks, default=8)), None)
        if rank is None:
            raise ModelUnavailable(f"An adapter of {name} has rank {max(ranks)}; vLLM takes {RANKS[-1]} at most.",
                                   "train it with a lower rank, or merge it into a model of its own")
        template = chat_template(folder)
        parser = ("hermes" if CALL in template else "") if spec.tool_parser == "auto" else spec.tool_parser
        self.spec = replace(spec, folder=str(folder.absolute()), tool_parser=parser)
        self._rank, self._special = rank, _special_tokens(folder)
        self._missing = {name for name, there in (("tools", parser), ("conversation", template)) if not there}
        self._loaded: dict[Child, OrderedDict[str, None]] = {}
        self._change = asyncio.Lock()
        super().__init__(name, self._launch_vllm, adapters=spec.adapters, watch=watch or START, report=report)

    @property
    def offers(self) -> frozenset[str]:
        """What vLLM takes over its API."""
        return OFFERS - self._missing

    def describe(self) -> dict[str, Any]:
        """As of any supervised engine, with the adapters that vLLM has loaded now."""
        loaded = list(self._loaded.get(self._child, ())) if self._child else []
        return super().describe() | {"engine": "vllm", "precision": self.spec.precision, "loaded": loaded}

    def command(self, socket: str) -> list[str]:
        """The command line of vLLM, listening on `socket`."""
        spec = self.spec
        line = [*spec.command, "serve", spec.folder, "--served-model-name", self.name, "--uds", socket,
                "--dtype", TYPES[spec.precision], "--load-format", "safetensors", "--generation-config", "vllm",
                "--gpu-memory-utilization", str(spec.memory), "--disable-uvicorn-access-log"]
        if spec.context:
            line += ["--max-model-len", str(spec.context)]
        if spec.adapters:
            line += ["--enable-lora", "--max-loras", str(spec.adapters_loaded),
                     "--max-cpu-loras", str(spec.adapters_loaded), "--max-lora-rank", str(self._rank)]
        if spec.tool_parser:
            line += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_parser]
        return line

    def _launch_vllm(self) -> Launch:
        program = shutil.which(self.spec.command[0])
        if program is None:
            raise CannotServe(f"{self.spec.command[0]} is not installed here",
                              "pip install vllm on a machine with a GPU, or use engine: auto")
        folder, key = private_folder(), secrets.token_urlsafe(32)
        socket = str(folder / "s")
        environment = clean_environment(
            VLLM_API_KEY=key, VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
        guard = Path(__file__).with_name("guard.py")
        return Launch(argv=(sys.executable, "-I", "-S", str(guard), str(folder), program, *self.command(socket)[1:]),
                      folder=folder, env=environment, base_url="http://engine/v1", uds=socket,
                      headers={"authorization": f"Bearer {key}"}, secret=key)

    def _told(self, ask: ChatAsk) -> ChatAsk:
        """As an engine of this machine: the likeliest token where nothing is said, and what users wrote stays text."""
        special = [*self._special, *MARKS] if ask.tools else self._special
        return replace(
            ask, messages=tuple(clean(message, special) for message in ask.messages),
            tools=tuple(clean(tool, special) for tool in ask.tools),
            temperature=0.0 if ask.temperature is None else ask.temperature,
            max_tokens=self.spec.max_tokens if ask.max_tokens is None else ask.max_tokens)

    async def _prepare(self, child: Child, adapter: str, ctx: AskContext) -> None:
        """Load `adapter` unless vLLM has it, the least recently used one out for it; one in use is never unloaded, but
        waited for."""
        if not adapter:
            return
        for known in [one for one in self._loaded if one.dead.is_set()]:
            del self._loaded[known]
        loaded = self._loaded.setdefault(child, OrderedDict())
        while True:
            async with self._change:
                if adapter in loaded:
                    loaded.move_to_end(adapter)
                    return
                if len(loaded) >= self.spec.adapters_loaded:
                    idle = next((one for one in loaded if not child.using[one]), None)
                    if idle is not None:
                        del loaded[idle]
                        await self._post(child, "unload_lora_adapter", {"lora_name": f"{self.name}:{idle}"})
                if len(loaded) < self.spec.adapters_loaded:
                    await self._post(child, "load_lora_adapter", {
                        "lora_name": f"{self.name}:{adapter}",
                        "lora_path": str(Path(self.spec.adapters[adapter]).absolute())})
                    loaded[adapter] = None
                    return
            if ctx.left_s <= 0 or child.dead.is_set():
                raise EngineDied(f"All {self.spec.adapters_loaded} adapters that {self.name} holds are in use",
                                 "try again, or raise adapters_loaded")
            await asyncio.sleep(0.05)

    async def _post(self, child: Child, path: str, body: Mapping[str, str]) -> None:
        import aiohttp

        connector = aiohttp.UnixConnector(path=str(child.launch.uds))
        try:
            async with aiohttp.ClientSession(connector=connector, headers=dict(child.launch.headers)) as session, \
                    session.post(f"{child.launch.base_url}/{path}", json=dict(body),
                                 timeout=aiohttp.ClientTimeout(total=120)) as response:
                said = (await response.content.read(2000)).decode(errors="replace")
                if response.status != 200:
                    raise Refused(f"vLLM does not take the adapter {body['lora_name']!r} (HTTP {response.status}): "
                                  f"{said[:300]}", "see its log, and whether it was trained on this base model")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ModelUnavailable(f"vLLM did not load an adapter ({type(error).__name__})", "try again") from error


def _special_tokens(folder: Path) -> list[str]:
    """The special tokens of the model's tokenizer, longest first, read without loading it."""
    added = read_json(folder / "tokenizer.json").get("added_tokens") or []
    found = {str(one.get("content")) for one in added if isinstance(one, dict) and one.get("special")}
    return sorted(found, key=len, reverse=True)
