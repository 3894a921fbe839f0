"""A real model in a process of its own, killed while sixteen clients stream from it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.core.errors import ContextOverflow
from bucle.models.engines.child import CannotServe
from bucle.models.engines.host import HostSpec
from bucle.models.engines.process import EngineDied, EngineProcess, Watch

pytestmark = pytest.mark.torch

TEXTS = [f"La factura número {i} llega el día {i % 28} y se paga en la tienda de fibra." for i in range(80)]
WATCH = Watch(start_s=120, beat_s=0.5, wait_s=60, quick_s=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bucle.customise.pretrain import pretrain

    out = tmp_path_factory.mktemp("nano")
    pretrain(TEXTS, out, out / "work", steps=3, report=lambda done, total, note="": None, width=64, layers=2,
             context=192, batch_tokens=384, vocabulary=320, threads=1)
    return out


def spec(folder: Path) -> HostSpec:
    return HostSpec("nano", str(folder), engine="transformers", precision="fp32", threads=1, max_tokens=40)


async def ask(engine: EngineProcess, text: str, **more: object) -> ChatAnswer:
    asked = ChatAsk("nano", ({"role": "user", "content": text},), **more)  # type: ignore[arg-type]
    context = AskContext(deadline=time.monotonic() + 90)
    if not asked.stream:
        return await engine.complete(asked, context)
    last = [piece async for piece in engine.stream(asked, context)][-1]
    assert isinstance(last, ChatAnswer)
    return last


def test_sixteen_clients_a_kill_and_the_same_answers_again(folder: Path) -> None:
    async def main() -> None:
        engine = EngineProcess("nano", spec(folder), watch=WATCH)
        facts = await engine.start()
        assert (facts["engine"], facts["precision"], facts["context"]) == ("transformers", "float32", 192)
        assert {"json_schema", "logprobs", "stop"} <= engine.offers
        print(f"start {engine.describe()['started_s']} s")
        alone = {text: (await ask(engine, text)).text for text in TEXTS[:4]}
        died: list[EngineDied] = []
        stop = time.monotonic() + 60
        good: list[str] = []

        async def client(number: int) -> None:
            while time.monotonic() < stop and not (engine.restarts and len(good) > 60):
                text = TEXTS[number % 4]
                try:
                    said = await ask(engine, text, stream=bool(number % 2), temperature=0.0)
                    assert said.text == alone[text]
                    good.append(text)
                except EngineDied as error:
                    died.append(error)

        work = [asyncio.create_task(client(number)) for number in range(16)]
        await asyncio.sleep(0.4)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*work), 90)
        assert 0 < len(died) <= 16
        assert len(good) > 60
        assert engine.restarts == 1
        print(f"back and {len(good)} answers {time.monotonic() - killed:.1f} s after the kill, {len(died)} failed")
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                  "additionalProperties": False}
        said = await ask(engine, "hola", schema=schema, top_logprobs=1)
        assert said.text in ('{"a": true}', '{"a": false}')
        assert said.choices[0].logprobs is not None
        with pytest.raises(ContextOverflow, match="holds 192"):
            await ask(engine, "palabra " * 300)
        await engine.drain()
        await engine.close()

    asyncio.run(main())


def test_a_folder_that_is_no_model_is_said_once_and_clearly(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "model.safetensors").write_bytes(b"x" * 20)
        engine = EngineProcess("nada", spec(tmp_path), watch=WATCH)
        with pytest.raises(CannotServe, match="cannot be loaded as a causal language model"):
            await engine.start()
        assert engine.restarts == 0
        await engine.close()

    asyncio.run(main())
