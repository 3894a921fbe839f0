"""Reading a YAML file so that every complaint names its line and the nearest right key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bucle.core.errors import ConfigError

__all__ = ["load_yaml_model"]

M = TypeVar("M", bound=BaseModel)
MAX_BYTES = 1_000_000
_PathKey = tuple[str | int, ...]


def load_yaml_model(path: Path, model: type[M]) -> M:
    """`path` parsed as YAML and checked against `model`. Raises ConfigError with `file:line`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.", f"bucle init {path.parent}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"{path} is larger than {MAX_BYTES:,} bytes.", "A bucle.yaml is a page; data belongs in files."
        )
    try:
        root = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}.", "Check indentation and colons.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}", "Check indentation and colons.") from None
    if root is None:
        raise ConfigError(f"{path} is empty.", "bucle init --help shows how to make one.")
    lines: dict[_PathKey, int] = {}
    value = _plain(root, (), lines, path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected keys and values at the top.", "Begin with `project: NAME`.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(*_explain(error, path, lines, model)) from None


def _plain(node: yaml.Node, where: _PathKey, lines: dict[_PathKey, int], path: Path, depth: int = 0) -> Any:
    lines[where] = node.start_mark.line + 1
    if depth > 40:
        raise ConfigError(f"{path}:{lines[where]}: nested too deep.", "bucle.yaml needs four levels at most.")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(f"{path}:{line}: `{key}` stands here a second time.", "Keep one of the two.")
            result[key] = _plain(value_node, (*where, key), lines, path, depth + 1)
            lines[(*where, key)] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, i), lines, path, depth + 1) for i, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)  # scalars only: dates, numbers, booleans, text


def _explain(error: ValidationError, path: Path, lines: dict[_PathKey, int], model: type[BaseModel]) -> tuple[str, str]:
    messages, hint = [], ""
    for problem in error.errors()[:5]:
        loc = _real(problem["loc"], lines)
        line = next((lines[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in lines), 1)
        dotted = ".".join(str(part) for part in loc) or "the file"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, loc[:-1], problem["loc"])
            near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
            messages.append(f"{path}:{line}: unknown key `{dotted}`.")
            hint = hint or (f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known)}.")
        elif problem["type"] == "missing":
            messages.append(f"{path}:{line}: `{dotted}` is missing.")
            hint = hint or f"Add `{loc[-1]}:` under line {line}."
        else:
            messages.append(f"{path}:{line}: `{dotted}`: {problem['msg']} (found {problem['input']!r:.60}).")
            hint = hint or "Correct that line."
    return "\n".join(messages), hint


def _real(loc: tuple[int | str, ...], lines: dict[_PathKey, int]) -> _PathKey:
    """pydantic puts the tag of a discriminated union into `loc`; drop what the file does not hold."""
    real: _PathKey = ()
    for position, part in enumerate(loc):
        if (*real, part) in lines or position == len(loc) - 1:
            real = (*real, part)
    return real


def _fields_at(model: type[BaseModel], parents: _PathKey, loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that stands at `parents`, following unions by their tag in `loc`."""
    current: Any = model
    tags = {str(part) for part in loc}
    for part in parents:
        if isinstance(current, type) and issubclass(current, BaseModel) and str(part) in current.model_fields:
            current = current.model_fields[str(part)].annotation
        candidates = _models_in(current)
        tagged = [
            m for m in candidates if tags & {str(v) for f in m.model_fields.values() for v in get_args(f.annotation)}
        ]
        if tagged or candidates:
            current = (tagged or candidates)[0]
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [m for arg in get_args(annotation) for m in _models_in(arg)]
    return list(dict.fromkeys(found))
