"""vLLM for real: needs a GPU, `vllm` on the PATH, and BUCLE_TEST_MODEL (a folder or Hub name; Qwen/Qwen3-0.6B will do).

    BUCLE_TEST_MODEL=Qwen/Qwen3-0.6B pytest tests/gpu/test_vllm.py
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.models.engines.process import EngineDied
from bucle.models.engines.vllm import VllmEngine, VllmSpec
from bucle.models.folder import checked_folder

MODEL = os.environ.get("BUCLE_TEST_MODEL", "")

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(3000),
    pytest.mark.skipif(not MODEL or shutil.which("vllm") is None,
                       reason="set BUCLE_TEST_MODEL on a machine with a GPU and vllm installed"),
]


def hats(folder: Path, out: Path) -> dict[str, str]:
    """Three adapters that change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, name in enumerate(("a", "b", "c")):
            torch.manual_seed(seed)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(
                r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(weight, std=0.05)
            model.save_pretrained(str(out / name))
            found[name] = str(out / name)
    return found


def test_vllm_serves_adapters_guides_answers_and_comes_back(tmp_path: Path) -> None:
    folder = checked_folder(MODEL)
    adapters = hats(folder, tmp_path)

    async def main() -> None:
        engine = VllmEngine("gpu", VllmSpec(str(folder), adapters=adapters, adapters_loaded=2, context=2048,
                                            memory=0.5))

        async def ask(text: str, model: str = "gpu", **more: object) -> ChatAnswer:
            asked = ChatAsk(model, ({"role": "user", "content": text},), max_tokens=48, **more)  # type: ignore[arg-type]
            return await engine.complete(asked, AskContext(deadline=time.monotonic() + 1800))

        await engine.start()
        try:
            alone = {name: (await ask("Count to ten.", f"gpu:{name}" if name else "gpu")).text
                     for name in ("", "a", "b", "c")}
            assert len(set(alone.values())) == 4
            order = ["a", "", "b", "c", "a", "c", "", "b"]
            mixed = await asyncio.gather(*(ask("Count to ten.", f"gpu:{name}" if name else "gpu") for name in order))
            same = [answer.text == alone[name] for name, answer in zip(order, mixed, strict=True)]
            assert sum(same) >= len(same) - 1  # bfloat16: a near tie may fall the other way in another batch
            schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
            assert isinstance(json.loads((await ask("Is water wet?", schema=schema)).text)["ok"], bool)
            assert (await ask("A digit:", regex="[0-9]")).text in set("0123456789")
            told = (await ask("Hi", top_logprobs=2)).choices[0].logprobs
            assert told is not None
            assert len(told["content"][0]["top_logprobs"]) == 2
            running = asyncio.create_task(ask("Write a long story.", n=8, temperature=1.0))
            await asyncio.sleep(0.1)
            assert engine.pid is not None
            os.killpg(engine.pid, signal.SIGKILL)
            with pytest.raises(EngineDied):
                await running
            await engine.start()
            assert (await ask("Count to ten.", "gpu:a")).text
            assert engine.restarts == 1
        finally:
            await engine.close()

    asyncio.run(main())
