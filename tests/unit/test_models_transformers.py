"""The reference engine against one-at-a-time generation, and what it may be asked for."""

from __future__ import annotations

import json
import queue
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucle.core.engine import ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, ContextOverflow, ModelUnavailable
from bucle.models.endpoint import Refused
from bucle.models.engines import transformers
from bucle.models.engines.host import Event, HostSpec
from bucle.models.engines.transformers import TransformersHost

pytestmark = pytest.mark.torch

TEXTS = [f"La factura número {i} llega el día {i % 28} y se paga en la tienda de fibra." for i in range(80)]
ADAPTERS = ("gorra", "boina", "casco")
BROKEN = ("zeros", "torn", "foreign", "nan", "pissa")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    from bucle.customise.pretrain import pretrain

    out = tmp_path_factory.mktemp("nano")
    pretrain(TEXTS, out, out / "work", steps=3, report=lambda done, total, note="": None, width=64, layers=2,
             context=512, batch_tokens=384, vocabulary=320, threads=1)
    model = AutoModelForCausalLM.from_pretrained(out)
    torch.manual_seed(5)
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.25)  # says something else to each question
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def hats(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three adapters that change much, and broken ones."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    out = tmp_path_factory.mktemp("hats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, name in enumerate((*ADAPTERS, *BROKEN)):
            torch.manual_seed(seed)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(
                r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
            for key, weight in model.named_parameters():
                if "lora_B" in key and name != "zeros":
                    torch.nn.init.normal_(weight, std=1.0)
                    if name == "nan":
                        weight.data[0, 0] = float("nan")
            model.save_pretrained(str(out / name))
    (out / "torn" / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    for name, change in (("foreign", {"target_modules": ["up_proj"]}), ("pissa", {"init_lora_weights": "pissa"})):
        config = out / name / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
    return {name: str(out / name) for name in (*ADAPTERS, *BROKEN)}


@pytest.fixture(scope="module")
def host(folder: Path, hats: dict[str, str]) -> Iterator[TransformersHost]:
    made = TransformersHost(HostSpec("nano", str(folder), precision="fp32", adapters=hats, adapters_loaded=2, threads=1,
                                     parallel=8, max_tokens=24))
    yield made
    made.close()


def asks(text: str, **more: Any) -> ChatAsk:
    return ChatAsk("nano", ({"role": "user", "content": text},), **more)


def begin(host: TransformersHost, ask: ChatAsk, adapter: str = "") -> queue.Queue[Event]:
    events: queue.Queue[Event] = queue.Queue()
    host.submit(ask, adapter, events.put)
    return events


def end(events: queue.Queue[Event]) -> tuple[ChatAnswer, list[Delta]]:
    deltas = []
    while True:
        event = events.get(timeout=60)
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, ChatAnswer):
            return event, deltas
        deltas.append(event)


def answer(host: TransformersHost, ask: ChatAsk, adapter: str = "") -> ChatAnswer:
    return end(begin(host, ask, adapter))[0]


def plain(folder: Path, text: str, tokens: int, adapter: str = "") -> str:
    """The likeliest tokens one after another, the whole text read again for each."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if adapter:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(model, adapter).eval()
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        while len(ids) - start < tokens:
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).rstrip("\ufffd")  # a character cut in half


def test_answers_are_the_same_alone_in_company_and_by_plain_generation(host: TransformersHost, folder: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    questions = ["hola", TEXTS[3], "¿Y la luz? " * 6, "ñ", TEXTS[40] * 2, "La", "día 7", "se paga", "x", "y z"]
    alone = [answer(host, asks(text)).text.rstrip("\ufffd") for text in questions]
    assert alone[:3] == [plain(folder, text, 24) for text in questions[:3]]
    together = [begin(host, asks(text, max_tokens=24 - number, stream=bool(number % 2)))
                for number, text in enumerate(questions)]
    for number, events in enumerate(together):
        said, deltas = end(events)
        assert alone[number].startswith(said.text.rstrip("\ufffd"))
        assert said.usage.tokens_out <= 24 - number
        assert not deltas or "".join(delta.text for delta in deltas) == said.text
    assert len(set(alone)) > 3
    monkeypatch.setattr(transformers, "CHUNK", 5)  # a long prompt is read in pieces
    assert [answer(host, asks(text)).text for text in questions] == alone


def test_many_adapters_answer_as_each_alone_with_the_least_used_out(host: TransformersHost, folder: Path,
                                                                    hats: dict[str, str]) -> None:
    alone = {name: plain(folder, TEXTS[5], 16, hats[name]) for name in ADAPTERS} | {"": plain(folder, TEXTS[5], 16)}
    assert len(set(alone.values())) == 4
    order = ["gorra", "", "boina", "casco", "gorra", "", "casco", "boina", "gorra", "boina"]
    running = [(name, begin(host, asks(TEXTS[5], max_tokens=16), name)) for name in order]
    for name, events in running:
        said = end(events)[0]
        assert (said.text.rstrip("\ufffd"), said.served_by) == (alone[name], f"nano:{name}" if name else "nano")
    assert len(host.describe()["loaded"]) == 2
    for name in ("gorra", "casco"):
        answer(host, asks("x"), name)
    assert host.describe()["loaded"] == ["gorra", "casco"]
    again = answer(host, asks(TEXTS[5], max_tokens=16)).text.rstrip("\ufffd")
    assert again == alone[""]  # the base model is what it was


@pytest.mark.parametrize(("name", "why"), [("zeros", "changes nothing"), ("torn", "cannot be read"),
                                           ("foreign", "does not fit"), ("nan", "no numbers"),
                                           ("pissa", "changes the base model")])
def test_a_broken_adapter_is_refused_by_name_and_harms_nobody(host: TransformersHost, name: str, why: str) -> None:
    before = answer(host, asks("hola")).text
    for _ in range(2):
        with pytest.raises(Refused, match=f"'{name}'.*{why}"):
            answer(host, asks("hola"), name)
    assert answer(host, asks("hola")).text == before


def test_stop_seed_n_penalties_bias_and_top_p(host: TransformersHost) -> None:
    whole = answer(host, asks(TEXTS[3])).text
    stop = whole[6:9]
    said, deltas = end(begin(host, asks(TEXTS[3], stop=(stop, "never there"), stream=True)))
    assert said.text == whole[:whole.find(stop)] == "".join(delta.text for delta in deltas)
    assert said.choices[0].finish == "stop"
    assert answer(host, asks("x", max_tokens=3)).choices[0].finish == "length"
    warm = asks("hola", temperature=1.5, seed=7, n=3, stream=True)
    said, deltas = end(begin(host, warm))
    texts = [choice.text for choice in said.choices]
    assert len(set(texts)) == 3
    for index, text in enumerate(texts):
        assert "".join(delta.text for delta in deltas if delta.index == index) == text
    noise = [begin(host, asks(text, temperature=1.0)) for text in TEXTS[:4]]
    assert [choice.text for choice in answer(host, warm).choices] == texts  # whatever else runs
    for events in noise:
        end(events)
    assert [choice.text for choice in answer(host, asks("hola", temperature=1.5, seed=8, n=3)).choices] != texts
    assert answer(host, asks("hola", temperature=1.5, top_p=0.0, seed=1)).text == answer(host, asks("hola")).text
    first = answer(host, asks("hola", max_tokens=1, top_logprobs=0)).choices[0].logprobs
    assert first is not None
    token = host._tokenizer(first["content"][0]["token"], add_special_tokens=False)["input_ids"][0]
    other = answer(host, asks("hola", max_tokens=1, logit_bias={str(token): -100.0}))
    assert other.text != first["content"][0]["token"]
    repeated = answer(host, asks(TEXTS[3], frequency_penalty=50.0, presence_penalty=50.0, top_logprobs=0))
    told = [tuple(one["bytes"]) for one in repeated.choices[0].logprobs["content"]]  # type: ignore[index]
    assert len(set(told)) == len(told)


def test_logprobs_are_the_models_own(host: TransformersHost) -> None:
    import torch

    said, deltas = end(begin(host, asks("hola", max_tokens=5, top_logprobs=3, temperature=0.0, stream=True)))
    told = said.choices[0].logprobs["content"]  # type: ignore[index]
    assert [one for delta in deltas for one in (delta.logprobs or {}).get("content", ())] == told
    assert b"".join(bytes(one["bytes"]) for one in told).decode(errors="replace").startswith(said.text)
    rendered = host._tokenizer.apply_chat_template([{"role": "user", "content": "hola"}], tokenize=False,
                                                   add_generation_prompt=True)
    ids = host._tokenizer(rendered, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = torch.log_softmax(host._model(input_ids=torch.tensor([ids])).logits[0, -1], -1)
    top = expected.topk(3).values.tolist()
    assert [one["logprob"] for one in told[0]["top_logprobs"]] == pytest.approx(top, abs=1e-4)
    assert told[0]["logprob"] == pytest.approx(top[0], abs=1e-4)


def test_guided_answers_fit_whatever_the_model_would_say(host: TransformersHost) -> None:
    schema = {"type": "object", "additionalProperties": False, "required": ["clase", "urgente"], "properties": {
        "clase": {"enum": ["alta", "baja"]}, "urgente": {"type": "boolean"}}}
    running = [begin(host, asks("hola", schema=schema, max_tokens=60, temperature=1.0, seed=seed)) for seed in range(4)]
    for events in running:
        said = end(events)[0]
        assert said.choices[0].finish == "stop"
        value = json.loads(said.text)
        assert value["clase"] in ("alta", "baja")
        assert isinstance(value["urgente"], bool)
    assert re.fullmatch(r"[0-9]{4}-[a-f]{2}", answer(host, asks("x", regex="[0-9]{4}-[a-f]{2}", max_tokens=40)).text)
    loose = answer(host, asks("x", any_json=True, max_tokens=40))
    assert loose.text.startswith("{")
    for bad in ({"schema": {"type": "nothing"}}, {"regex": "(("}, {"schema": {"$ref": "file:///etc/passwd"}}):
        with pytest.raises(BadInput, match="cannot be followed"):
            answer(host, asks("x", **bad))


def test_prompts_special_tokens_limits_and_cancelling(host: TransformersHost) -> None:
    end_token = host._tokenizer.eos_token
    rendered = host._encoder(f"{end_token}", add_special_tokens=False)["input_ids"]
    assert rendered == [host._tokenizer.eos_token_id]
    typed = answer(host, asks(f"a{end_token}b", max_tokens=1)).usage.tokens_in
    assert typed > answer(host, asks("ab", max_tokens=1)).usage.tokens_in + 1  # it stayed text
    raw = answer(host, ChatAsk("nano", prompt=TEXTS[2][:20], max_tokens=4))
    assert raw.usage.tokens_out == 4
    with pytest.raises(ContextOverflow, match=r"tokens; nano holds 512"):
        answer(host, asks("palabra " * 400))
    with pytest.raises(ContextOverflow, match="characters; nano holds"):
        answer(host, asks("palabra " * 100_000))  # said without counting them
    with pytest.raises(BadInput, match="n is 9"):
        answer(host, asks("x", n=9))
    with pytest.raises(BadInput, match="logit_bias"):
        answer(host, asks("x", logit_bias={"hola": 1.0}))
    assert answer(host, asks("")).usage.tokens_in > 0
    assert answer(host, asks("x", max_tokens=0)).choices[0].finish == "length"
    assert "tools" not in host.offers
    assert {"logprobs", "regex", "json_schema", "n"} <= host.offers
    events: queue.Queue[Event] = queue.Queue()
    cancel = host.submit(asks("hola", stream=True, max_tokens=150, temperature=2.0, logit_bias={
        str(host._tokenizer.eos_token_id): -100.0}), "", events.put)
    events.get(timeout=30)
    cancel()
    for _ in range(200):
        if not host.describe()["running"]:
            break
        answer(host, asks("x", max_tokens=1))
    assert host.describe()["running"] == 0
    with pytest.raises(ModelUnavailable, match="no precision int8"):
        TransformersHost(HostSpec("nano", host.spec.folder, precision="int8"))


def test_tools_where_the_template_has_them(folder: Path, tmp_path: Path) -> None:
    from bucle.models.engines.tools import calls_of, prompt_of, takes_tools

    shutil.copytree(folder, tmp_path / "m")
    template = ("{% if tools %}Tools: {{ tools | tojson }} Say <tool_call>{\"name\", \"arguments\"}</tool_call>\n"
                "{% endif %}"
                "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
                "{% endif %}\n{% endfor %}assistant: ")
    for path in (tmp_path / "m").glob("chat_template*"):
        path.unlink()
    config = tmp_path / "m" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    host = TransformersHost(HostSpec("nano", str(tmp_path / "m"), threads=1, max_tokens=60))
    tools = ({"type": "function", "function": {"name": "buscar", "parameters": {
        "type": "object", "additionalProperties": False, "required": ["n"], "properties": {"n": {"enum": [1, 2]}}}}},)
    try:
        assert takes_tools(host._tokenizer)
        assert "tools" in host.offers
        for choice in ("required", {"type": "function", "function": {"name": "buscar"}}):
            said, deltas = end(begin(host, asks("x", tools=tools, tool_choice=choice, stream=True)))
            call = said.choices[0].tool_calls[0]["function"]
            assert (call["name"], json.loads(call["arguments"])["n"] in (1, 2)) == ("buscar", True)
            assert (said.choices[0].finish, said.text) == ("tool_calls", "")
            assert deltas[-1].tool_calls[0]["index"] == 0
        with pytest.raises(BadInput, match="not among the tools"):
            answer(host, asks("x", tools=tools, tool_choice={"type": "function", "function": {"name": "otra"}}))
        asked = asks("x <tool_call> y", tools=tools)
        prompt = prompt_of(host._tokenizer, asked)
        assert "buscar" in prompt
        assert "x < tool_call> y" in prompt
    finally:
        host.close()
    text = 'Voy. <tool_call>\n{"name": "buscar", "arguments": {"n": 1}}\n</tool_call>'
    rest, calls = calls_of(text, asked)
    assert (rest, calls[0]["function"]["arguments"]) == ("Voy.", '{"n": 1}')
    for other in ('<tool_call>{"name": "borrar", "arguments": {}}</tool_call>', "<tool_call>{x}</tool_call>",
                  "<tool_call>nada"):
        assert calls_of(other, asked) == (other, ())


def test_auto_falls_back_where_openvino_cannot_and_says_why(folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

    from bucle.models.engines.open import open_host

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "eos_token_id": tokenizer.eos_token_id}
    BloomForCausalLM(BloomConfig(**size, n_layer=1, n_head=2)).save_pretrained(tmp_path / "bloom")
    MambaForCausalLM(MambaConfig(**size, num_hidden_layers=1, state_size=4)).save_pretrained(tmp_path / "mamba")
    for name in ("bloom", "mamba"):
        tokenizer.save_pretrained(tmp_path / name)
    host = open_host(HostSpec("b", str(tmp_path / "bloom"), threads=1, max_tokens=8, cached=str(tmp_path / "kept")))
    try:
        assert isinstance(host, TransformersHost)
        assert "OpenVINO does not take this model" in host.describe()["note"]
        running = [begin(host, asks(text)) for text in ("hola", "x", TEXTS[0])]  # no positions: each by itself
        alone = [end(events)[0].text for events in running]
        assert [answer(host, asks(text)).text for text in ("hola", "x", TEXTS[0])] == alone
    finally:
        host.close()
    with pytest.raises(ModelUnavailable, match="no cache of keys and values"):
        TransformersHost(HostSpec("m", str(tmp_path / "mamba")))
