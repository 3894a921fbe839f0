"""A model's folder on disk: what is refused before anything in it is loaded, and what it says about
itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import ModelUnavailable
from bucle.core.ids import file_sha256, sha256_hex

__all__ = ["chat_template", "checked_folder", "describe", "outline", "read_json"]

# Formats that run code when they are read.
PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
MAX_JSON_BYTES = 64 * 2**20
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")


def checked_folder(name: str | Path) -> Path:
    """The folder of the model `name` (a folder, else a Hugging Face Hub name fetched through its own client's
    cache).

    Only safetensors weights are accepted, and no code that comes with a model. Raises ModelUnavailable
    otherwise.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(str(name))
    files = [path for path in folder.rglob("*") if path.is_file()]
    pickled = sorted(path.name for path in files if path.suffix.lower() in PICKLED)
    if pickled:
        raise ModelUnavailable(
            f"{folder} has weights in a format that can run code when read: {', '.join(pickled[:3])}.",
            "convert the model to safetensors, or take the copy of it that is")
    for part in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if (folder / part).is_file() and "auto_map" in read_json(folder / part):
            raise ModelUnavailable(f"{folder} asks to run its own Python code (auto_map in {part}).",
                                   "choose a model whose architecture transformers already knows")
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelUnavailable(f"{folder} holds no .safetensors weights.", "give the folder that has config.json and "
                               "model.safetensors in it")
    return folder


def _from_hub(name: str) -> Path:
    looks_like_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if looks_like_path:
        raise ModelUnavailable(f"There is no model folder {name}.", "check the path in bucle.yaml")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelUnavailable(f"There is no folder {name}, nor a model of that name on the Hugging Face Hub.",
                               "check the name, and HF_TOKEN where the model is private") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "ON", "YES"}:
            raise ModelUnavailable(
                f"{name} is not a folder and is not in the local cache; HF_HUB_OFFLINE=1 forbids fetching it.",
                "unset HF_HUB_OFFLINE to download it, or give a local folder") from error
        raise ModelUnavailable(
            f"{name} is not a folder and the Hugging Face Hub could not be reached: {type(error).__name__}.",
            "give a local folder, or set HF_HUB_OFFLINE=1 to be told so without waiting for the network") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, at most 64 MB; {} where there is no such file. Raises ModelUnavailable if
    malformed."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelUnavailable(f"{path} is larger than {MAX_JSON_BYTES // 2**20} MB.", "that is no configuration file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path} is not JSON: {error}.", "copy the model again") from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{path} is not a JSON object.", "copy the model again")
    return value


def chat_template(folder: Path) -> str:
    """The chat template of the model in `folder`, as Jinja text; empty where it has none."""
    separate = folder / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template", "")
    return template if isinstance(template, str) else ""


def describe(folder: Path) -> dict[str, Any]:
    """What the model in `folder` is, read without loading it.

    As `outline`, and `tokenizer_sha256`, `chat_template_sha256` (empty where missing), `weights_sha256`.
    """
    folder = checked_folder(folder)
    digests = [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    tokenizer, template = folder / "tokenizer.json", chat_template(folder)
    return outline(folder) | {
        "tokenizer_sha256": file_sha256(tokenizer) if tokenizer.is_file() else "",
        "chat_template_sha256": sha256_hex(template) if template else "",
        "weights_sha256": digests[0] if len(digests) == 1 else sha256_hex("".join(digests)),
    }


def outline(folder: Path) -> dict[str, Any]:
    """What the heads of the files in `folder` say, whatever its size within milliseconds.

    `architecture`, `parameters` (stored numbers), `bytes`, `dtypes`, `context` (tokens), `vocabulary`,
    `width`, `layers`, `licence` (empty where not found).
    """
    folder = checked_folder(folder)
    config = read_json(folder / "config.json")
    parameters, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in _header(path).values():
            parameters += math.prod(tensor["shape"])
            dtypes.add(str(tensor["dtype"]))
    return {
        "architecture": (config.get("architectures") or ["unknown"])[0],
        "parameters": parameters,
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "dtypes": sorted(dtypes),
        "context": config.get("max_position_embeddings") or config.get("n_positions") or 0,
        "vocabulary": config.get("vocab_size", 0),
        "width": config.get("hidden_size") or config.get("n_embd") or 0,
        "layers": config.get("num_hidden_layers") or config.get("n_layer") or 0,
        "licence": _licence(folder, config),
    }


def _header(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_JSON_BYTES:
            raise ModelUnavailable(f"{path} is not a safetensors file.", "copy the model again")
        try:
            header: dict[str, Any] = json.loads(file.read(size))
        except ValueError as error:
            raise ModelUnavailable(f"{path} is not a safetensors file.", "copy the model again") from error
    header.pop("__metadata__", None)
    return header


def _licence(folder: Path, config: Mapping[str, Any]) -> str:
    if isinstance(config.get("license"), str):
        return str(config["license"])
    card = folder / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace")[:20_000].splitlines():
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    for path in sorted(folder.glob("LICENSE*")):
        lines = path.read_text(encoding="utf-8", errors="replace")[:2_000].split("\n")
        return next((line.strip() for line in lines if line.strip()), "")
    return ""
