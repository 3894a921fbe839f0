"""The catalogue: who makes a model and under what licence, where it is processed, what it costs, and who says so."""

from __future__ import annotations

import json
import re
import struct
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from bucle.core.choosing import ModelFacts
from bucle.core.config import EncoderModel, LocalModel, OpenAIModel, PretrainModel
from bucle.core.errors import BadInput, ConfigError
from bucle.models.catalogue import (
    context_window,
    facts,
    packaged,
    paid,
    price,
    price_known,
    prices_as_of,
    provider_of,
    search,
)
from bucle.models.catalogue.facts import hosted
from bucle.models.catalogue.packaged import family_of, licence_class, provider_at
from bucle.models.catalogue.prices import list_price, listed


def remote(model: str, url: str = "https://api.openai.com/v1", **settings: object) -> OpenAIModel:
    return OpenAIModel(kind="openai", base_url=url, model=model, **settings)  # type: ignore[arg-type]


def folder(path: Path, card: str = "", **config: object) -> Path:
    """A model's folder as Hugging Face writes it, with one small tensor."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(60))
    if card:
        (path / "README.md").write_text(card, encoding="utf-8")
    return path


# --- the packaged data

def test_every_packaged_entry_is_sourced_and_its_dates_are_dates() -> None:
    here = Path(packaged.__file__).parent
    families = yaml.safe_load((here / "families.yaml").read_text("utf-8"))
    assert len(families) > 60
    for entry in families:
        assert entry["source"].startswith("https://"), entry
        ModelFacts.model_validate({k: str(v) if k == "checked" else v
                                   for k, v in entry.items() if k not in ("makers", "match")})
        if entry.get("licence") == "commercial":
            assert entry["conditions"], f"a licence with conditions says them: {entry['match']}"
    for provider in yaml.safe_load((here / "providers.yaml").read_text("utf-8")):
        assert provider.get("source", "").startswith("https://") or not provider.get("residency"), provider
    for text in ((here / name).read_text("utf-8") for name in ("families.yaml", "providers.yaml")):
        for found in re.findall(r"checked: (\S+?)[},\n]", text):
            assert date.fromisoformat(found) <= date.fromisoformat("2026-11-21")


@pytest.mark.parametrize(("name", "licence", "words"), [
    ("meta-llama/Llama-3.1-8B-Instruct", "commercial", "700M"),
    ("Meta-Llama-3_3-70B-Instruct", "commercial", "700M"),
    ("accounts/fireworks/models/llama-v3p1-70b-instruct", None, ""),  # a host's own spelling is not guessed at
    ("@cf/meta/llama-3.1-8b-instruct", "commercial", "700M"),
    ("google/gemma-2-9b-it", "commercial", "prohibited use"),
    ("google/gemma-4-31b-it", "open", ""),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "open", ""),
    ("mistral-large-2411", "research", "research"),
    ("mistralai/Mistral-Large-3-675B-Instruct-2512", "open", ""),
    ("codestral-22b-v0.1", "research", "testing"),
    ("Qwen/Qwen2.5-72B-Instruct", "commercial", "100M"),
    ("Qwen/Qwen2.5-3B-Instruct", "research", "no commercial use"),
    ("Qwen/Qwen2.5-7B-Instruct", "open", ""),
    ("Qwen/Qwen3-32B", "open", ""),
    ("deepseek-ai/DeepSeek-R1", "open", ""),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "commercial", "Llama"),
    ("deepseek-ai/DeepSeek-V3", "commercial", "restrictions"),
    ("openai/gpt-oss-120b", "open", ""),
    ("gpt-4o-mini", "commercial", "not published"),
    ("CohereLabs/aya-expanse-8b", "research", "no commercial use"),
    ("moonshotai/Kimi-K2-Instruct", "commercial", "100M"),
    # names that borrow a family's, by somebody else
    ("nvidia/llama-3.1-nemotron-70b-instruct", None, ""),
    ("nousresearch/hermes-3-llama-3.1-405b", None, ""),
    ("neversleep/llama-3.1-lumimaid-70b", None, ""),
    ("somebody/mistral-7b", None, ""),
    ("", None, ""), ("/", None, ""), ("x" * 10_000, None, ""),
])
def test_licences_are_those_of_the_maker_and_unknown_stays_unknown(name: str, licence: str | None, words: str) -> None:
    found = family_of(name)
    assert (found.licence if found else None) == licence
    assert words in (found.conditions if found else "")


@pytest.mark.parametrize(("name", "parameters", "active"), [
    ("qwen3-30b-a3b-instruct-2507", 30_000_000_000, 3_000_000_000), ("llama-3.1-8b-instruct", 8_000_000_000, None),
    ("gpt-oss-20b", 21_000_000_000, 3_600_000_000), ("mixtral-8x7b-instruct", 46_700_000_000, 12_900_000_000),
    ("gpt-4o", None, None),
])
def test_sizes_are_the_familys_or_those_in_the_name(name: str, parameters: int | None, active: int | None) -> None:
    found = family_of(name)
    assert found is not None
    assert (found.parameters, found.active) == (parameters, active)


@pytest.mark.parametrize(("said", "kind"), [
    ("apache-2.0", "open"), ("Apache License, Version 2.0", "open"), ("MIT License", "open"), ("mit", "open"),
    ("llama3.1", "commercial"), ("gemma", "commercial"), ("cc-by-nc-4.0", "research"), ("cc-by-nc-sa-4.0", "research"),
    ("Qwen RESEARCH LICENSE AGREEMENT", "research"), ("other", "unknown"), ("", "unknown"), ("all rights", "unknown"),
    ("'mit'", "open"), ("gpl-3.0", "open"), ("mit-but-not-really", "unknown"),
])
def test_a_licence_is_recognised_by_its_name_or_not_at_all(said: str, kind: str) -> None:
    assert licence_class(said)[0] == kind


def test_providers_are_known_by_their_hosts_and_by_nothing_like_them() -> None:
    assert provider_of("https://api.mistral.ai/v1") == "mistral"
    assert provider_of("https://mine.openai.azure.com/x") == "azure"
    assert provider_of("https://API.OpenAI.com:443/v1") == "openai"
    for other in ("http://localhost:8000/v1", "https://api.mistral.ai.evil.com/v1", "https://xapi.openai.com",
                  "nonsense", "http://[", ""):
        assert provider_of(other) is None
    place = provider_at("eu.api.openai.com")
    assert place is not None
    assert (place.residency, place.prices) == (("eu",), "openai")


# --- prices

def test_prices_come_from_the_tables_and_are_dated() -> None:
    usd = price("gpt-4o-mini", "openai", 1_000_000, 1_000_000)
    assert usd == pytest.approx(sum(v or 0 for v in list_price("gpt-4o-mini", "openai")))
    assert price("gpt-4o-mini", "openai-eu", 1_000_000, 0) == list_price("gpt-4o-mini", "openai")[0]
    assert context_window("gpt-4o-mini", "openai") == 128_000
    assert price("no such model", "openai", 1, 1) is None
    assert price("gpt-4o-mini", "no such provider", 1, 1) is None
    assert price("Meta-Llama", "scaleway", 1, 1) is None  # a provider the tables do not have, nor is it guessed
    assert re.fullmatch(r"genai-prices [\d.]+, checked up to 20\d\d-\d\d-\d\d", prices_as_of())
    assert len(listed()) > 1000


# --- one model of bucle.yaml

def test_a_providers_model_has_its_price_its_place_and_its_terms() -> None:
    found = facts("mini", remote("gpt-4o-mini"), {})
    assert (found.provider, found.context, found.max_output, found.residency) == ("openai", 128_000, 16_384, ("us",))
    assert (found.usd_per_million_in, found.usd_per_million_out) == list_price("gpt-4o-mini", "openai")
    assert "classify" in found.tasks
    assert found.languages == ()  # not published, not guessed


def test_weights_for_research_may_be_paid_for_at_their_maker() -> None:
    paid = hosted("mistral-large-2411", "mistral")
    assert (paid.licence, paid.residency) == ("commercial", ("eu",))
    assert "research" in paid.conditions
    assert hosted("mistral-large-2411", "openrouter").licence == "research"


def test_settings_win_over_the_tables_and_the_teams_own_entries_over_all_field_by_field() -> None:
    model = remote("gpt-4o-mini", usd_per_million_in=9.0)
    assert facts("mini", model, {}).usd_per_million_in == 9.0
    assert facts("mini", model, {}).usd_per_million_out == list_price("gpt-4o-mini", "openai")[1] > 0  # type: ignore[operator]
    own = {"gpt-4o-mini": ModelFacts(licence="open", languages=("es",)), "mini": ModelFacts(languages=("ca",))}
    found = facts("mini", model, own)
    assert (found.licence, found.languages, found.usd_per_million_in) == ("open", ("ca",), 9.0)
    assert found.context == 128_000  # what the team does not say stays
    assert facts("mini", model, {"mini": ModelFacts(conditions="")}).conditions == ""  # said, even if empty


def test_what_the_team_says_it_pays_is_what_calls_are_counted_at() -> None:
    model = remote("ghost-1", "https://models.example.com/v1")
    assert paid("ghost", model, {}) == (None, None)
    assert paid("ghost", model, {"ghost": ModelFacts(usd_per_million_in=1.0, usd_per_million_out=2.0)}) == (1.0, 2.0)
    listed = list_price("gpt-4o-mini", "openai")[1]
    assert paid("mini", remote("gpt-4o-mini", usd_per_million_in=3.0), {}) == (3.0, listed)
    assert paid("own", remote("x", "http://127.0.0.1:8000/v1", usd_per_million_out=3.0), {}) == (0.0, 3.0)
    half = remote("ghost-1", "https://models.example.com/v1", usd_per_million_in=3.0)
    with pytest.raises(ConfigError, match=r"models\.ghost has a price of tokens in, none of tokens out") as caught:
        paid("ghost", half, {"ghost-1": ModelFacts(licence="open")})
    assert "usd_per_million_out" in caught.value.hint
    assert paid("ghost", half, {"ghost": ModelFacts(usd_per_million_out=0.0)}) == (3.0, 0.0)


@pytest.mark.parametrize(("url", "place"), [
    ("http://127.0.0.1:8000/v1", ("local",)), ("http://localhost:11434/v1", ("local",)),
    ("http://10.1.2.3/v1", ("local",)), ("http://[::1]:8000/v1", ("local",)), ("https://x.example.com/v1", ()),
])
def test_a_server_of_the_teams_own_costs_nothing_by_the_token(url: str, place: tuple[str, ...]) -> None:
    found = facts("mine", remote("qwen/qwen3-8b", url), {})
    assert (found.residency, found.licence) == (place, "open")
    assert found.usd_per_million_in == (0.0 if place else None)


def test_a_model_that_is_trained_here_is_the_teams_own() -> None:
    found = facts("nano", PretrainModel(kind="pretrain", context=256), {})
    assert (found.licence, found.residency, found.context, found.usd_per_million_in) == ("open", ("local",), 256, 0.0)


def test_a_folder_says_its_size_licence_and_languages(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_name: cc-by-nc-4.0\nlanguage:\n- es\n- no\n- ES\n---\n# Modelo\n"
    made = folder(tmp_path / "m", card.replace("\n", "\r\n"), max_position_embeddings=2048)
    found = facts("m", LocalModel(kind="local", path=str(made)), {})
    assert (found.parameters, found.context, found.residency) == (15, 2048, ("local",))
    assert (found.licence, found.languages, found.usd_per_million_out) == ("research", ("es", "no"), 0.0)


@pytest.mark.parametrize("card", [
    "---\nlanguage: {a: b}\nlicense: [x]\n---\n", "---\n- a\n---\n", "---\nlicense: !!python/object:os.system x\n---\n",
    "---\n" + "[" * 5000 + "\n---\n", "no head", "---\nnever closed", "\ufeff---\nlanguage: es\n---\n", "\x00" * 100,
    "---\nlanguage: &a [es, *a]\n---\n",
])
def test_a_hostile_card_says_nothing_and_breaks_nothing(card: str, tmp_path: Path) -> None:
    found = facts("m", LocalModel(kind="local", path=str(folder(tmp_path / "m", card))), {})
    assert found.licence in (None, "unknown")
    assert found.languages in ((), ("es",))


def test_what_is_not_here_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = facts("aya", LocalModel(kind="local", path="CohereLabs/aya-expanse-8b"), {})
    assert (found.licence, found.parameters) == ("research", 8_000_000_000)  # by its name, as packaged
    assert facts("x", LocalModel(kind="local", path="../nowhere/x"), {}).licence is None
    assert list(tmp_path.iterdir()) == []


def test_the_packaged_encoder_is_described_by_its_own_folder() -> None:
    found = facts("minilm", EncoderModel(kind="encoder"), {})
    assert (found.languages, found.licence, found.residency) == (("en",), "open", ("local",))
    assert (found.parameters, found.context) == (22_713_728, 256)


# --- the whole of it

def test_a_search_says_who_fits_and_of_the_rest_why_not() -> None:
    found = search(task="answer", languages=["es"], licence="open", residency=["eu"], context=30_000,
                   max_usd_per_1k=0.07, tokens=(500, 100))
    fit = [e for e in found if not e.ruled_out]
    assert fit
    for entry in fit:
        known = entry.facts
        assert known.licence == "open"
        assert known.residency == ("eu",)
        assert "es" in known.languages
        assert known.context is not None
        assert known.context >= 30_000
        assert entry.usd_per_1k is not None
        assert entry.usd_per_1k <= 0.07
    assert [e.usd_per_1k for e in fit] == sorted(e.usd_per_1k or 0.0 for e in fit)
    assert found[:len(fit)] == fit
    by_name = {(e.facts.provider, e.facts.model): e for e in found}
    mini = by_name["openai", "gpt-4o-mini"]
    assert mini.usd_per_1k == pytest.approx((500 * 0.15 + 100 * 0.6) / 1000)
    assert {"languages not known", "processed in us"} <= set(mini.ruled_out)
    assert any(reason.startswith("licence commercial") for reason in mini.ruled_out)


def test_a_wish_that_nobody_answers_rules_out_as_not_known() -> None:
    entry = search(provider="openrouter", text="hermes-4-405b", licence="commercial", modality="image",
                   residency=["eu"])[0]
    assert {"licence not known", "modalities not known", "place not known"} <= set(entry.ruled_out)
    assert search(text="no such model at all") == []


def test_what_only_embeds_or_is_answered_tomorrow_does_not_lead_the_list() -> None:
    found = search()
    assert not [e.facts.model for e in found if "batch" in e.facts.model], "batch prices are not taken"
    writes = [e.facts.tasks != ("retrieve",) for e in found]
    assert writes == sorted(writes, reverse=True)
    assert all(e.usd_per_1k is None for e, w in zip(found, writes, strict=True) if w and
               e.facts.usd_per_million_out is None), "what is not known is not 0"
    ranked = search(task="retrieve", tokens=(500, 100))
    assert ranked[0].usd_per_1k == pytest.approx(500 * (ranked[0].facts.usd_per_million_in or 0) / 1000)


@pytest.mark.parametrize(("wish", "nearest"), [
    ({"provider": "mistrl"}, "mistral"), ({"residency": ["europe"]}, "eu"), ({"languages": ["es", "ess"]}, "es")])
def test_a_wish_for_what_nothing_has_names_the_nearest(wish: dict[str, Any], nearest: str) -> None:
    with pytest.raises(BadInput, match=f"The nearest is {nearest}"):
        search(**wish)


def test_an_unknown_price_is_told_from_none() -> None:
    ghost = remote("ghost-1", "https://models.example.com/v1")
    assert not price_known("g", ghost, {})
    assert not price_known("g", ghost, {"g": ModelFacts(usd_per_million_in=1.0)}), "what it writes costs something too"
    assert price_known("g", ghost, {"g": ModelFacts(usd_per_million_in=1.0, usd_per_million_out=0.0)})
    assert not price_known("g", remote("ghost-1", "https://models.example.com/v1", usd_per_million_in=1.0), {})
    assert price_known("m", remote("gpt-4o-mini", "https://api.openai.com/v1"), {})
    assert price_known("l", remote("x", "http://127.0.0.1:8000/v1"), {})
    assert price_known("n", PretrainModel(kind="pretrain"), {})


def test_the_teams_own_entries_are_searched_too() -> None:
    own = {
        "gpt-4o-mini": ModelFacts(languages=("es",)),
        "house": ModelFacts(provider="house", model="house-1", licence="open", residency=("eu",), languages=("es",),
                            context=32_000, usd_per_million_in=0.01, usd_per_million_out=0.01),
    }
    found = search(languages=["es"], licence="open", residency=["eu"], own=own)
    assert (found[0].facts.model, found[0].prices_as_of) == ("house-1", "catalogue: in bucle.yaml")
    mini = next(e for e in search(own=own, provider="openai", text="gpt-4o-mini") if e.facts.model == "gpt-4o-mini")
    assert (mini.facts.languages, mini.prices_as_of) == (("es",), prices_as_of())
