"""What is known about one model of bucle.yaml, each field from the nearest source that says it: the team's own entry,
the model's settings, its folder, the packaged data, the tables of prices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.choosing import ModelFacts
from bucle.core.config import (
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
from bucle.core.errors import ConfigError
from bucle.models.catalogue.packaged import Provider, family_of, licence_class, provider_named
from bucle.models.catalogue.prices import context_window, list_price, provider_of

__all__ = ["described", "facts", "folder_here", "hosted", "merged", "paid", "price_known"]

TEXT_TASKS = ("classify", "answer", "summarise", "translate", "extract", "generate", "instruct", "converse", "code")
"""What a model that converses can be prompted to do; how well is for the comparison to measure."""
MAX_CARD = 256 * 1024  # bytes of a model card that are read
_NO_CHAT = ("embed", "rerank", "ocr", "tts", "whisper", "transcribe", "image", "audio", "realtime", "moderation",
            "guard", "video", "voice", "speech", "sonic", "lyria", "imagen", "veo", "bge-", "voyage", "minilm",
            "dall-e")


def facts(name: str, model: Model, own: Mapping[str, ModelFacts]) -> ModelFacts:
    """Everything known about the model called `name` in bucle.yaml; what nobody says stays None or empty.

    `own` is `catalogue:` of bucle.yaml, by that name or by the provider's name of the model; it wins field by field.
    Nothing is fetched: a model of the Hub is described where it is in the local cache. Never raises.
    """
    if isinstance(model, PretrainModel):
        found = ModelFacts(provider="own", model=name, context=model.context, tasks=TEXT_TASKS, modalities=("text",),
                           licence="open", licence_name="the team's own", residency=("local",),
                           usd_per_million_in=0.0, usd_per_million_out=0.0)
        return merged(found, own.get(name))
    if isinstance(model, EncoderModel | RerankerModel) and model.base_url:
        found = hosted(model.model, provider_of(model.base_url), local=_is_local(model.base_url))
        if isinstance(model, EncoderModel) and model.usd_per_million_in is not None:
            found = found.model_copy(update={"usd_per_million_in": model.usd_per_million_in})
        return merged(found, own.get(model.model), own.get(name))
    if isinstance(model, RemoteModel):
        provider = model.provider if isinstance(model, ProviderModel) else provider_of(model.base_url)
        found = hosted(model.model, provider, local=_is_local(model.base_url))
        said: dict[str, Any] = {k: v for k in ("usd_per_million_in", "usd_per_million_out")
                                if (v := getattr(model, k)) is not None}
        return merged(found.model_copy(update=said), own.get(model.model), own.get(name))
    return merged(described(model), own.get(model.path), own.get(name))


def paid(name: str, model: OpenAIModel | AnthropicModel | ProviderModel,
         own: Mapping[str, ModelFacts]) -> tuple[float | None, float | None]:
    """What the team says it pays for a million tokens in and out: its own entry, else the model's settings;
    (None, None) where the list price counts. Where it gives one of both, the other is the list price. Raises
    ConfigError where that is not known: it is not nothing."""
    settings = ModelFacts(usd_per_million_in=model.usd_per_million_in, usd_per_million_out=model.usd_per_million_out)
    said = merged(settings, own.get(model.model), own.get(name))
    usd_in, usd_out = said.usd_per_million_in, said.usd_per_million_out
    if (usd_in is None) == (usd_out is None):
        return usd_in, usd_out
    listed = facts(name, model, own)
    usd_in, usd_out = listed.usd_per_million_in, listed.usd_per_million_out
    if usd_in is None or usd_out is None:
        given, missing = ("out", "in") if usd_in is None else ("in", "out")
        raise ConfigError(f"models.{name} has a price of tokens {given}, none of tokens {missing}, and no list has it.",
                          f"Add usd_per_million_{missing} (0 where it is free), or take the other out.",
                          ("models", name, f"usd_per_million_{given}"))
    return usd_in, usd_out


def price_known(name: str, model: Model, own: Mapping[str, ModelFacts]) -> bool:
    """Whether the dollars that calls to the model called `name` are counted at are its price. Where they are not, they
    are counted as 0, which no limit may rely on. What runs on the team's own machines has a known price by the token:
    none."""
    found = facts(name, model, own)
    writes = not isinstance(model, EncoderModel) and found.tasks != ("retrieve",)  # vectors have no price of their own
    return found.usd_per_million_in is not None and (found.usd_per_million_out is not None or not writes)


def hosted(model: str, provider: str | None, *, local: bool = False, priced: bool = True) -> ModelFacts:
    """A model behind an API, by the provider's id and the provider's name of the model. `local`: the server is the
    team's own, and nothing is paid by the token. Without `priced`, prices and context are left out."""
    place = provider_named(provider) if provider else None
    found = _through_api(family_of(model) or ModelFacts(), place)
    listed = provider if priced else None
    window = context_window(model, listed) if listed else None
    usd_in, usd_out = (0.0, 0.0) if local else list_price(model, listed) if listed else (None, None)
    return found.model_copy(update={
        "provider": provider or ("own" if local else ""), "model": model, "context": window or found.context,
        "usd_per_million_in": usd_in, "usd_per_million_out": usd_out,
        "residency": ("local",) if local else place.residency if place else (),
        "tasks": _tasks(model, found),
    } | _conditions(found, place))


def described(model: LocalModel | EncoderModel | RerankerModel) -> ModelFacts:
    """A model in a folder, as its files say: size, context, licence and languages of its card."""
    local = {"provider": "own", "model": model.path, "residency": ("local",), "usd_per_million_in": 0.0,
             "usd_per_million_out": 0.0}
    name = "all-minilm-l6-v2" if (model.kind, model.path) == ("encoder", "minilm") else Path(model.path).name
    family = family_of(model.path if "/" in model.path and not Path(model.path).exists() else name) or ModelFacts()
    usual = {"encoder": ("classify", "retrieve"), "reranker": ("retrieve",)}
    tasks = family.tasks or usual.get(model.kind) or _tasks(name, family)
    folder = folder_here(model.path, encoder=model.kind != "local")
    read = _read_folder(folder) if folder else {}
    if "licence" in read:  # the folder's licence is one thing with its name and condition
        read = {"conditions": ""} | read
    return family.model_copy(update={**local, "tasks": tasks, **read})


def folder_here(path: str, *, encoder: bool = False) -> Path | None:
    """The folder of a local model if it is on this machine (a folder, or in the Hub's cache); nothing is fetched."""
    from bucle.core.errors import BucleError

    if encoder and path == "minilm":
        from bucle.models.encoder import encoder_folder

        try:
            return encoder_folder(path)
        except BucleError:
            return None
    if Path(path).is_dir():
        return Path(path)
    if path.startswith((".", "/", "~")) or "\\" in path or path.count("/") > 1:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def merged(found: ModelFacts, *own: ModelFacts | None) -> ModelFacts:
    """`found` with every field that an entry of the team's own says, a later entry over an earlier."""
    for entry in own:
        if entry is not None:
            found = found.model_copy(update={name: getattr(entry, name) for name in entry.model_fields_set})
    return found


def _through_api(found: ModelFacts, place: Provider | None) -> ModelFacts:
    """A maker's own API has terms of its own, whatever the licence of the weights."""
    if place is None or not place.terms or found.licence not in (None, "unknown", "research"):
        return found
    weights = f"the weights alone: {found.licence_name}, {found.licence}" if found.licence == "research" else ""
    return found.model_copy(update={"licence": "commercial", "licence_name": place.terms,
                                    "conditions": "; ".join(t for t in ("through the API", weights) if t)})


def _tasks(model: str, found: ModelFacts) -> tuple[str, ...]:
    low = model.lower()
    if found.tasks:
        return found.tasks
    if "embed" in low:
        return ("retrieve",)
    return TEXT_TASKS if found.licence and not any(word in low for word in _NO_CHAT) else ()


def _conditions(found: ModelFacts, place: Provider | None) -> dict[str, str]:
    told = [found.conditions, f"place: {place.conditions}" if place and place.conditions else ""]
    source = {} if found.source or not place else {"source": place.source, "checked": place.checked}
    return {"conditions": "; ".join(t for t in told if t), **source}


def _is_local(base_url: str) -> bool:
    """Whether the address is this machine or a private network: the team's own, where nothing leaves."""
    import ipaddress
    from urllib.parse import urlsplit

    try:
        host = urlsplit(base_url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _read_folder(folder: Path) -> dict[str, Any]:
    from bucle.core.errors import BucleError
    from bucle.models.folder import outline

    try:
        told = outline(folder)
    except (BucleError, OSError, UnicodeDecodeError):
        return {}  # what is refused is refused, with its reason, when it is used
    card = _front_matter(folder / "README.md")
    name = str(told["licence"] or card.get("license") or "")
    if name.strip().lower() == "other" and isinstance(card.get("license_name"), str):
        name = card["license_name"]
    found: dict[str, Any] = {}
    if name:
        kind, condition = licence_class(name)
        found |= {"licence": kind, "licence_name": name[:120], "conditions": condition}
    if languages := _codes(card.get("language")):
        found["languages"] = languages
    told["context"] = _read_at_once(folder) or told["context"]
    for key in ("parameters", "context"):
        if isinstance(told[key], int) and told[key] > 0:
            found[key] = told[key]
    return found


def _read_at_once(folder: Path) -> int:
    """Tokens that a sentence-transformers model reads of a text, where it says so: fewer than its network could."""
    from bucle.core.errors import BucleError
    from bucle.models.folder import read_json

    try:
        said = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    except BucleError:
        return 0
    return said if isinstance(said, int) else 0


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between two `---` at the head of a model card; empty where there is none that is plain."""
    import yaml

    if not card.is_file():
        return {}
    with card.open("rb") as file:
        lines = file.read(MAX_CARD).decode("utf-8", "replace").lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    try:
        value = yaml.safe_load("\n".join(lines[1:end]))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _codes(value: object) -> tuple[str, ...]:
    # YAML reads the code of Norwegian as False
    said = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    codes = ["no" if code is False else code for code in said[:300]]
    return tuple(dict.fromkeys(c.strip().lower() for c in codes if isinstance(c, str) and 1 < len(c.strip()) <= 12))
