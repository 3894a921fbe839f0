"""vLLM as a watched process: its command line, adapters over its API, its end, against a peer that speaks both."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bucle.core.engine import AskContext, ChatAsk
from bucle.core.errors import BadInput, ContextOverflow, ModelUnavailable
from bucle.models.endpoint import Refused
from bucle.models.engines.process import EngineDied, Watch
from bucle.models.engines.vllm import VllmEngine, VllmSpec

PEER = (sys.executable, str(Path(__file__).with_name("vllm_peer.py")))
FAST = Watch(start_s=20, beat_s=0.1, hang_s=10, wait_s=10, quick_s=5, pause_s=0.05, tries=3, drain_s=5)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"w": np.ones(2, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<|end|>", "special": True}]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


def hat(folder: Path, name: str, rank: int = 4, value: float = 1.0, **config: object) -> str:
    out = folder / name
    out.mkdir()
    save_file({"a.lora_A.weight": np.ones((rank, 2), np.float32),
               "a.lora_B.weight": np.full((2, rank), value, np.float32)}, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank} | config))
    return str(out)


def asks(text: str, model: str = "gpu", **more: object) -> ChatAsk:
    return ChatAsk(model, ({"role": "user", "content": text},), **more)  # type: ignore[arg-type]


def context() -> AskContext:
    return AskContext(deadline=time.monotonic() + 20)


def test_adapters_are_loaded_over_its_api_and_the_least_used_goes_out(model: Path, tmp_path: Path) -> None:
    hats = {name: hat(tmp_path, name, rank) for name, rank in (("a", 4), ("b", 20), ("c", 8), ("d", 8))}

    async def main() -> None:
        engine = VllmEngine("gpu", VllmSpec(str(model), adapters=hats, adapters_loaded=2, command=PEER), watch=FAST)
        assert "--max-lora-rank 32" in " ".join(engine.command("s"))
        assert "regex" in engine.offers
        assert "tools" not in engine.offers
        said = await engine.complete(asks("hola <|end|>"), context())
        assert said.text == "[gpu] hola < |end|> 0.0 most=0"  # the likeliest token; what was typed stays text
        assert said.usage.tokens_out == 3
        names = ["a", "b", "c", "d", "a"] * 4
        answers = await asyncio.gather(*(engine.complete(asks("x", f"gpu:{name}"), context()) for name in names))
        assert [answer.text.split()[0] for answer in answers] == [f"[gpu:{name}]" for name in names]
        assert max(int(answer.text.rpartition("=")[2]) for answer in answers) == 2
        last = [piece async for piece in engine.with_adapter("d").stream(asks("x", regex="[a-z]"), context())][-1]
        assert last.text == '[gpu:d] x {"regex": "[a-z]"} most=2'
        assert engine.describe()["loaded"][-1] == "d"
        with pytest.raises(BadInput, match="no adapter 'z'"):
            await engine.complete(asks("x", "gpu:z"), context())
        with pytest.raises(ContextOverflow):
            await engine.complete(asks("long"), context())
        (Path(hats["a"]) / "adapter_config.json").unlink()
        await engine.complete(asks("x", "gpu:b"), context())
        with pytest.raises(Refused, match="does not take the adapter 'gpu:a'"):
            await engine.complete(asks("x", "gpu:a"), context())
        await engine.close()

    asyncio.run(main())


def test_its_death_is_told_without_the_key_and_all_it_started_ends(model: Path, tmp_path: Path,
                                                                   caplog: pytest.LogCaptureFixture) -> None:
    hats = {"a": hat(tmp_path, "a")}

    async def main() -> None:
        engine = VllmEngine("gpu", VllmSpec(str(model), adapters=hats, command=PEER), watch=FAST)
        await engine.complete(asks("x", "gpu:a"), context())
        assert engine._child is not None
        folder = engine._child.launch.folder
        core = int((folder / "core").read_text())
        with pytest.raises(EngineDied, match="exit status 1"):
            await engine.complete(asks("die"), context())
        assert (await engine.complete(asks("x", "gpu:a"), context())).text.startswith("[gpu:a]")  # and loaded again
        assert not Path(f"/proc/{core}").exists() or _zombie(core)
        assert not folder.exists()
        folder = engine._child.launch.folder
        core = int((folder / "core").read_text())
        await engine.close()
        assert not folder.exists()
        assert not Path(f"/proc/{core}").exists() or _zombie(core)

    asyncio.run(main())
    assert "illegal memory access was encountered ([key])" in caplog.text


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_servers_sudden_end_ends_vllm(model: Path) -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_models_vllm import *
async def main():
    engine = VllmEngine("gpu", VllmSpec({str(model)!r}, command=PEER), watch=FAST)
    await engine.start()
    folder = engine._child.launch.folder
    print(folder, (folder / "core").read_text(), engine.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    folder, *pids = server.stdout.readline().split()
    server.kill()
    server.wait()
    server.stdout.close()
    until = time.monotonic() + 8
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() and not _zombie(int(pid)) for pid in pids):
        time.sleep(0.05)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists() and not _zombie(int(pid))] == []
    assert not Path(folder).exists()


def test_what_cannot_be_served_is_said_at_once(model: Path, tmp_path: Path) -> None:
    async def main() -> None:
        engine = VllmEngine("gpu", VllmSpec(str(model), command=("no-such-vllm",)), watch=FAST)
        with pytest.raises(ModelUnavailable, match="no-such-vllm is not installed here"):
            await engine.start()
        assert engine.restarts == 0
        await engine.close()

    asyncio.run(main())
    for config, why in (({"value": 0.0}, "changes nothing"), ({"peft_type": "IA3"}, "no LoRA adapter"),
                        ({"rank": 600}, "rank 600"), ({"init_lora_weights": "olora"}, "changes the base model")):
        path = hat(tmp_path, why.replace(" ", "-"), **config)  # type: ignore[arg-type]
        with pytest.raises(ModelUnavailable, match=why):
            VllmEngine("gpu", VllmSpec(str(model), adapters={"x": path}))
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ tools }} <tool_call>"}))
    told = VllmEngine("gpu", VllmSpec(str(model), context=512))
    assert "tools" in told.offers
    line = " ".join(told.command("s"))
    assert line.endswith("--max-model-len 512 --enable-auto-tool-choice --tool-call-parser hermes")
    with pytest.raises(ModelUnavailable, match="precision int4"):
        VllmEngine("gpu", VllmSpec(str(model), precision="int4"))
