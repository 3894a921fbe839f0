"""Reading a YAML file so that every complaint names its line and the nearest right key."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from bucle.core.errors import ConfigError

__all__ = ["at_line", "line_of", "load_yaml_model"]

M = TypeVar("M", bound=BaseModel)
MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000
_PathKey = tuple[str | int, ...]
_WORDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "finite_number": "a number that is finite",
    "string_type": "text", "tuple": "a list, as in [a, b]", "list": "a list, as in [a, b]",
    "set": "a list, as in [a, b]", "frozen_set": "a list, as in [a, b]", "model": "keys and values, as in {key: value}",
    "dict": "keys and values, as in {key: value}", "mapping": "keys and values, as in {key: value}",
}
_SHALLOW = "bucle.yaml needs four levels at most."


def load_yaml_model(path: Path, model: type[M]) -> M:
    """`path` parsed as YAML and checked against `model`. Raises ConfigError with `file:line`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.", f"bucle init {path.parent}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Name a project's folder.") from None
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
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep.", _SHALLOW) from None
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


@contextmanager
def at_line(path: Path, *keys: str | int) -> Iterator[None]:
    """A ConfigError raised inside it begins with the file and line of `keys` (`"tasks", "faq", "gates", 0`), or of
    their nearest parent that the file holds; its own `at` goes before them. For what only a later room can check."""
    try:
        yield
    except ConfigError as error:
        if (line := line_of(path, *(error.at or keys))) is None:
            raise
        raise ConfigError(f"{path}:{line}: {error.message}", error.hint) from None


def line_of(path: Path, *keys: str | int) -> int | None:
    """The line of `keys` in the file, or of their nearest parent that it holds; None where it cannot be read."""
    lines: dict[_PathKey, int] = {}
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if root is not None:
            _plain(root, (), lines, path)
    except (OSError, ValueError, yaml.YAMLError, ConfigError):
        return None
    return next((lines[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in lines), 1)


def _plain(node: yaml.Node, where: _PathKey, lines: dict[_PathKey, int], path: Path, depth: int = 0) -> Any:
    lines[where] = node.start_mark.line + 1
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path}:{lines[where]}: nested too deep.", _SHALLOW)
    if len(lines) > MAX_NODES:  # a few aliases of aliases can stand for billions of values
        raise ConfigError(f"{path}:{lines[where]}: more than {MAX_NODES:,} values.", "Write it without YAML aliases.")
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
    try:
        return yaml.SafeLoader("").construct_object(node)  # scalars only: dates, numbers, booleans, text
    except (yaml.YAMLError, ValueError):
        kind = node.tag.rpartition(":")[2]
        raise ConfigError(
            f"{path}:{lines[where]}: {str(node.value)[:60]!r} cannot be read as `{kind}`.",
            "Put it in quotes if it is text.",
        ) from None


def _explain(error: ValidationError, path: Path, lines: dict[_PathKey, int], model: type[BaseModel]) -> tuple[str, str]:
    told: list[tuple[int, str]] = []
    hint = meant = ""
    for problem in error.errors()[:5]:
        loc = _real(tuple(part for part in problem["loc"] if part != "[key]"), lines)
        line = next((lines[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in lines), 1)
        dotted = ".".join(str(part) for part in loc) or "the file"
        if problem["type"] == "extra_forbidden":
            tags = set(map(str, Counter(problem["loc"]) - Counter(loc)))
            known = _fields_at(model, loc[:-1], tags)
            near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
            told.append((line, f"unknown key `{dotted}`."))
            instead = _of_another(model, loc, tags)
            meant = meant or instead or (f"Did you mean `{near[0]}`?" if near else "")
            hint = hint or f"Known here: {', '.join(known)}."
        elif problem["type"] == "missing":
            told.append((line, f"`{dotted}` is missing."))
            hint = hint or f"Add `{loc[-1]}:` under line {line}."
        elif problem["type"] in ("union_tag_invalid", "literal_error"):
            facts = problem["ctx"]
            found = str(facts.get("tag", problem["input"]))
            inner = tuple(part for part in loc if part != "[key]")
            key = facts["discriminator"].strip("'") if "tag" in facts else ""
            inner += ("kind" if key.endswith("()") else key,) if key else ()  # a function tells sources apart
            known = re.findall(r"'([^']*)'", str(facts.get("expected_tags", facts.get("expected", ""))))
            near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
            place = ".".join(map(str, inner))
            told.append((lines.get(inner, line), f"`{place}` cannot be `{found:.60}`, only {', '.join(known)}."))
            hint = hint or (f"Did you mean `{near[0]}`?" if near else "Correct that line.")
        elif problem["type"] == "value_error":  # in our words, and without the value, which may hold a secret
            told.append((line, ("" if dotted == "the file" else f"`{dotted}`: ") + f"{problem['ctx']['error']}."))
            hint = hint or "Correct that part."
        else:
            told.append((line, f"`{dotted}` {_asked(problem)} (found {_found(problem['input'])})."))
            hint = hint or "Correct that line."
    # A misspelt key explains the one that is missing, so its hint goes first.
    return "\n".join(f"{path}:{line}: {fact}" for line, fact in sorted(told)), meant or hint


def _asked(problem: Any) -> str:
    """What a value must be, in words for who writes YAML."""
    kind = str(problem["type"])
    for begins, said in _WORDS.items():
        if kind == begins or kind.startswith(begins + "_"):
            return f"must be {said}"
    return re.sub(r"^\w+ should (be|have|match)", r"must \1", str(problem["msg"]))


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"keys and values: {', '.join(map(str, value))!s:.50}" if value else "nothing"
    return f"{value!r:.60}"


def _real(loc: tuple[int | str, ...], lines: dict[_PathKey, int]) -> _PathKey:
    """pydantic puts the tag of a discriminated union into `loc`; drop what the file does not hold."""
    real: _PathKey = ()
    for position, part in enumerate(loc):
        if (*real, part) in lines or position == len(loc) - 1:
            real = (*real, part)
    return real


def _fields_at(model: type[BaseModel], parents: _PathKey, tags: set[str]) -> list[str]:
    """Names of the fields of the model that stands at `parents`, following unions by the `tags` chosen in them."""
    found = _models_at(model, parents, tags)
    return sorted(found[0].model_fields) if found else []


def _models_at(model: type[BaseModel], parents: _PathKey, tags: set[str]) -> list[type[BaseModel]]:
    """The models that may stand at `parents`; of a union those that `tags` choose, where they choose any."""
    found, named = [model], False
    for part in parents:
        if named:  # the name that an entry of a mapping has, which may be that of a field
            named = False
            continue
        holders = [m.model_fields[str(part)].annotation for m in found if str(part) in m.model_fields]
        if holders:
            found = list(dict.fromkeys(m for annotation in holders for m in _models_in(annotation)))
            named = any(get_origin(annotation) is Mapping for annotation in holders)
        tagged = [m for m in found if tags & {str(v) for f in m.model_fields.values() for v in get_args(f.annotation)}]
        found = tagged or found
    return found


def _of_another(model: type[BaseModel], loc: _PathKey, tags: set[str]) -> str:
    """What to write where a key is right for another kind of the same union, and not for the kind chosen in `tags`;
    empty where it is no other's either."""
    chosen, others = _models_at(model, loc[:-1], tags), _models_at(model, loc[:-1], set())
    if len(chosen) != 1 or not any(loc[-1] in other.model_fields for other in others):
        return ""
    own = [key for key in chosen[0].__annotations__ if key != "kind"][:2]
    kind = next((tag for tag in tags if tag not in map(str, loc)), "")
    return f"A `{kind}` reads {' and '.join(f'`{key}`' for key in own)}." if own and kind else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = [m for arg in get_args(annotation) for m in _models_in(arg)]
    return list(dict.fromkeys(found))
