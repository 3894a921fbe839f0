"""The prompt of a fitted candidate, as a JSON file in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import ChatModel, LoadContext

__all__ = ["load_prompt", "needs_chat", "save_prompt"]


def save_prompt(prompt: Mapping[str, Any], folder: Path) -> None:
    """Write `prompt.json`, the only file of a candidate that prompts."""
    (folder / "prompt.json").write_text(json.dumps(prompt, ensure_ascii=False), "utf-8")


def load_prompt(folder: Path) -> dict[str, Any]:
    """The prompt of a candidate; one written before kinds were kept is of a classify task."""
    return {"kind": "classify", **json.loads((folder / "prompt.json").read_text("utf-8"))}


def needs_chat(name: str, ctx: LoadContext) -> ChatModel:
    """The model to ask. Raises BadInput where there is none."""
    if ctx.chat is None:
        raise BadInput(f"`{name}` needs a model that writes.", "Add one under `models:` in bucle.yaml.")
    return ctx.chat
