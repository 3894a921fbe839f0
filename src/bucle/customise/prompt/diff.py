"""What changed between two prompts: their text, line by line; their settings; their inputs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from bucle.core.prompting import PromptSpec

__all__ = ["difference", "written"]

_TEXTS = ("role", "system", "user")


def written(spec: PromptSpec) -> str:
    """All that a model would be told, as one text with a heading for each part; templates are not filled in."""
    parts = [(name, getattr(spec, name)) for name in _TEXTS]
    parts.append(("voice", spec.voice.description))
    parts += [("tone", f"{tone.plain}\n=> {tone.ours}" if tone.plain else tone.ours) for tone in spec.voice.examples]
    if isinstance(spec.output, Mapping) and spec.output:
        parts.append(("output", json.dumps(dict(spec.output), ensure_ascii=False, indent=2, sort_keys=True)))
    return "\n\n".join(f"# {name}\n{text.strip()}" for name, text in parts if text.strip()) + "\n"


def difference(before: PromptSpec, after: PromptSpec, names: tuple[str, str] = ("before", "after")) -> dict[str, Any]:
    """`text`: a unified diff of what the model would be told; `settings`: key -> [before, after] of everything else;
    `inputs`: added, removed and changed ones; `same`: whether nothing changed."""
    lines = difflib.unified_diff(written(before).splitlines(), written(after).splitlines(), *names, lineterm="")
    text = "\n".join(lines)
    old, new = dict(_settings(before)), dict(_settings(after))
    settings = {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    both = set(before.inputs) & set(after.inputs)
    inputs = {
        "added": sorted(set(after.inputs) - both),
        "removed": sorted(set(before.inputs) - both),
        "changed": {name: _changed(before, after, name) for name in sorted(both)
                    if before.inputs[name] != after.inputs[name]},
    }
    return {"text": text, "settings": settings, "inputs": inputs, "same": before == after}


def _settings(spec: PromptSpec) -> Iterator[tuple[str, Any]]:
    body = spec.model_dump(mode="json", exclude={*_TEXTS, "voice", "output", "inputs"})
    for key, value in body.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", of_it) for inner, of_it in value.items())
        else:
            yield key, value


def _changed(before: PromptSpec, after: PromptSpec, name: str) -> dict[str, list[Any]]:
    old, new = before.inputs[name].model_dump(mode="json"), after.inputs[name].model_dump(mode="json")
    return {key: [old[key], new[key]] for key in old if old[key] != new[key]}
