"""An engine's process: started, killed, hung, drained, swapped; nobody hangs and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, ContextOverflow, ModelUnavailable
from bucle.models.engines.child import CannotServe, Launch, clean_environment, private_folder
from bucle.models.engines.host import HostSpec
from bucle.models.engines.process import EngineDied, EngineProcess, Supervised, Watch, adapter_of

WORKER = Path(__file__).with_name("echo_worker.py")
FAST = Watch(start_s=20, beat_s=0.1, hang_s=10, wait_s=10, quick_s=5, pause_s=0.05, tries=3, drain_s=10)


class EchoProcess(EngineProcess):
    """As EngineProcess, its child's program another one."""

    def _worker(self, spec: HostSpec) -> Launch:
        folder = private_folder()
        return Launch((sys.executable, str(WORKER), "--memory-gb", str(self._memory_gb)), folder, clean_environment(), "http://engine/v1",
                      spec.to_json(), str(folder / "s"))


def engine(name: str = "eco", folder: str = "one", watch: Watch = FAST) -> EchoProcess:
    return EchoProcess(name, HostSpec(name, folder, adapters={"gorra": "x", "boina": "y"}), watch=watch)


def asks(text: str, **more: object) -> ChatAsk:
    return ChatAsk("eco", ({"role": "user", "content": text},), **more)  # type: ignore[arg-type]


async def answer(process: Supervised, text: str, **more: object) -> ChatAnswer:
    return await process.complete(asks(text, **more), AskContext(deadline=time.monotonic() + 20))


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No engine's folder outlives its test."""
    with tempfile.TemporaryDirectory(prefix="bk-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert list(Path(folder).iterdir()) == []


def test_the_whole_question_survives_the_trip_and_adapters_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_SECRET_KEY", "sk-not-for-you")

    async def main() -> None:
        process = engine()
        facts = await process.start()
        assert facts["secrets"] == []
        assert "seed" not in process.offers
        assert "regex" in process.offers
        folder = Path(str(facts["folder"]))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert facts["mode"] == "0o600"
        asked = asks("ask", max_tokens=7, temperature=0.5, top_p=0.9, presence_penalty=1.0, frequency_penalty=-1.0,
                     logit_bias={"5": -100.0}, stop=("a", "ñ"), top_logprobs=2, regex="[a-z]+", user="ana",
                     tools=({"type": "function", "function": {"name": "f", "parameters": {}}},), tool_choice="auto",
                     parallel_tool_calls=False)
        whole = await process.complete(asked, AskContext())
        came = json.loads(whole.text)
        assert whole.choices[0].stopped == "a"
        streamed = [piece async for piece in process.stream(asks("say x", stop=("ñ",), stream=True), AskContext())]
        assert streamed[-1].choices[0].stopped == "ñ"  # type: ignore[union-attr]
        for name in ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias",
                     "top_logprobs", "regex", "user", "tool_choice", "parallel_tool_calls"):
            assert came[name] == getattr(asked, name), name
        assert came["stop"] == ["a", "ñ"]
        assert came["tools"][0]["function"]["name"] == "f"
        schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
        assert json.loads((await answer(process, "ask", schema=schema)).text)["schema"] == schema
        assert json.loads((await answer(process, "ask", any_json=True)).text)["any_json"] is True
        raw = await process.complete(ChatAsk("eco", prompt="say hola", n=2, top_logprobs=1), AskContext())
        assert [choice.text for choice in raw.choices] == ["[base one] hola"] * 2
        assert raw.usage.tokens_in == 3
        for model, adapter in (("eco", "base"), ("an alias", "base"), ("eco:gorra", "gorra"), ("boina", "boina")):
            said = await process.complete(ChatAsk(model, prompt="say x"), AskContext())
            assert said.text == f"[{adapter} one] x", model
        hat = process.with_adapter("boina")
        pieces = [piece async for piece in hat.stream(ChatAsk("whatever", prompt="say x", stream=True), AskContext())]
        assert isinstance(pieces[0], Delta)
        assert pieces[-1].text == "[boina one] x"
        with pytest.raises(BadInput, match="no adapter 'chistera'"):
            await process.complete(ChatAsk("eco:chistera", prompt="x"), AskContext())
        with pytest.raises(BadInput, match="does not offer seed"):
            await answer(process, "say x", seed=1)
        with pytest.raises(ContextOverflow, match="900 tokens"):
            await answer(process, "overflow")
        await process.close()
        assert not folder.exists()

    asyncio.run(main())


def test_a_kill_under_load_fails_clearly_and_the_service_is_back() -> None:
    async def main() -> None:
        process = engine()
        await process.start()
        first = process.pid
        assert first is not None
        good, failures, stop = [0] * 16, [], asyncio.Event()

        async def client(number: int) -> None:
            while not stop.is_set():
                try:
                    if number % 2:
                        said = [p async for p in process.stream(asks("slow uno dos", stream=True), AskContext())][-1]
                    else:
                        said = await answer(process, "slow uno")
                    assert isinstance(said, ChatAnswer)
                    assert said.text.endswith(("uno", "dos"))
                    good[number] += 1
                except Exception as error:
                    failures.append(error)

        work = [asyncio.create_task(client(number)) for number in range(16)]
        await asyncio.sleep(0.5)
        os.kill(first, signal.SIGKILL)
        before, until = list(good), time.monotonic() + 20
        while time.monotonic() < until and not all(now > then for now, then in zip(good, before, strict=True)):
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*work), 15)
        assert all(now > then for now, then in zip(good, before, strict=True))
        assert 0 < len(failures) <= 16, failures
        assert all(isinstance(error, EngineDied) for error in failures), failures[:3]
        assert "SIGKILL" in str(failures[0])
        assert "again" in str(failures[0])
        assert process.pid not in (first, None)
        assert process.restarts == 1
        assert process.state == "ready"
        assert process.describe()["last_death"] == "signal SIGKILL"
        await process.close()

    asyncio.run(main())


def test_one_that_hangs_is_killed_whether_its_model_or_the_process_stands_still() -> None:
    async def main() -> None:
        process = engine(watch=replace(FAST, hang_s=0.8))
        await process.start()
        began = time.monotonic()
        with pytest.raises(EngineDied, match="hung"):
            await answer(process, "hang")
        assert time.monotonic() - began < 6
        assert (await answer(process, "say hola")).text.endswith("hola")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(EngineDied, match="hung"):
            await answer(process, "say hola")
        assert (await answer(process, "say hola")).text.endswith("hola")
        assert process.restarts == 2
        await process.close()

    asyncio.run(main())


def test_one_that_cannot_serve_says_why_and_one_that_keeps_dying_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broken = engine("broken")
        with pytest.raises(CannotServe, match="the weights are torn"):
            await broken.start()
        assert broken.restarts == 0
        assert broken.state == "failed"
        with pytest.raises(CannotServe, match="copy them again"):
            await answer(broken, "say x")
        await broken.close()
        fragile = engine("fragile")
        await fragile.start()
        while fragile.state != "failed":
            await asyncio.sleep(0.02)
        with pytest.raises(ModelUnavailable, match=r"ended 3 times shortly after its start .exit status 9"):
            await answer(fragile, "say x")
        assert fragile.restarts == 2
        await fragile.close()
        nowhere = Supervised("nada", lambda: Launch(("/no/such/program",), private_folder(), {}, "http://x/v1"),
                             watch=FAST)
        with pytest.raises(ModelUnavailable, match="cannot be started"):
            await nowhere.start()
        await nowhere.close()

    asyncio.run(main())
    assert "about to fall" in caplog.text  # its last lines are in the server's log


def test_a_swap_drops_nothing_and_a_bad_one_changes_nothing() -> None:
    async def main() -> None:
        process = engine()
        await process.start()
        old = process.pid
        long = asyncio.create_task(answer(process, "slow uno dos tres"))
        stop, served = asyncio.Event(), []

        async def client() -> None:
            while not stop.is_set():
                served.append((await answer(process, "say x")).text)

        work = [asyncio.create_task(client()) for _ in range(4)]
        await asyncio.sleep(0.1)
        await process.swap(HostSpec("eco", "two"))
        assert (await answer(process, "say x")).text == "[base two] x"
        stop.set()
        await asyncio.gather(*work)
        assert (await long).text == "[base one] uno dos tres"  # the old one finished it
        assert set(served) == {"[base one] x", "[base two] x"}
        assert process.pid != old
        assert process.restarts == 0
        with pytest.raises(ProcessLookupError):
            os.kill(old or 0, 0)

        async def broken() -> None:
            process.name = "broken"
            try:
                await process.swap(HostSpec("broken", "three"))
            finally:
                process.name = "eco"

        with pytest.raises(CannotServe, match="torn"):
            await broken()
        assert (await answer(process, "say x")).text == "[base two] x"
        await process.close()

    asyncio.run(main())


def test_who_asks_during_a_restart_waits_for_a_while_only() -> None:
    async def main() -> None:
        process = engine(watch=replace(FAST, wait_s=0.3, pause_s=2.0))
        await process.start()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        while process.state == "ready":
            await asyncio.sleep(0.01)
        began = time.monotonic()
        with pytest.raises(EngineDied, match="being started again") as told:
            await answer(process, "say x")
        assert 0.25 < time.monotonic() - began < 1.5
        assert told.value.retry_after > 0
        await process.close()
        assert process.state == "stopped"

    asyncio.run(main())


def test_a_process_may_not_take_more_memory_than_it_is_given() -> None:
    async def main() -> None:
        process = EchoProcess("eco", HostSpec("eco", "one"), watch=FAST, memory_gb=1.0)
        with pytest.raises(ModelUnavailable, match="MemoryError"):
            await answer(process, "eat 1200")
        assert (await answer(process, "eat 100")).text == "100"
        assert process.restarts == 0
        await process.close()

    asyncio.run(main())


def test_drain_finishes_what_is_at_work_and_closing_a_stream_ends_the_work() -> None:
    async def main() -> None:
        process = engine()
        stream = process.stream(asks("slow a b c d e f", stream=True), AskContext())
        assert await anext(stream) == Delta("[base")
        await stream.aclose()  # type: ignore[attr-defined]
        for _ in range(100):
            await asyncio.sleep(0.02)
            if process.describe().get("cancelled"):
                break
        assert process.describe()["cancelled"] == 1
        impatient = asyncio.create_task(answer(process, "slow a b c d e f g h i j"))
        await asyncio.sleep(0.2)
        impatient.cancel()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if process.describe()["cancelled"] == 2:
                break
        assert process.describe()["cancelled"] == 2
        assert process.describe()["busy"] == 0
        last = asyncio.create_task(answer(process, "slow uno dos"))
        await asyncio.sleep(0.1)
        assert await process.drain() is True
        assert last.done() or (await last).text
        with pytest.raises(EngineDied, match="stopped"):
            await answer(process, "say x")
        assert (await last).text == "[base one] uno dos"
        await process.close()
        assert process.state == "stopped"
        assert process.pid is None

    asyncio.run(main())


def test_the_parents_sudden_end_ends_the_child_and_its_folder() -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(WORKER.parent)!r})
from test_models_process import engine
async def main():
    process = engine()
    facts = await process.start()
    print(process.pid, facts["folder"], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    assert Path(folder, "s").is_socket()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 5
    while time.monotonic() < until and (Path(folder).exists() or Path(f"/proc/{pid}").exists()):
        time.sleep(0.02)
    assert not Path(folder).exists()
    assert not Path(f"/proc/{pid}").exists()


def test_adapters_are_named_by_base_and_name_or_by_name() -> None:
    adapters = {"gorra": "x"}
    assert adapter_of("eco:gorra", "eco", adapters) == adapter_of("gorra", "eco", adapters) == "gorra"
    assert adapter_of("eco", "eco", adapters) == adapter_of("otro:gorra", "eco", adapters) == ""
