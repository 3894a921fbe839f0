"""Prompt files: read, checked before they are used, and made into the parts of a prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bucle.core.errors import BadInput, ConfigError, TemplateError
from bucle.core.ports import Hit, Message
from bucle.core.prompting import PromptSpec
from bucle.core.records import Chunk
from bucle.core.yamlfile import load_yaml_model
from bucle.customise.prompt.inputs import GIVEN, check_inputs, coerced
from bucle.customise.prompt.instructions import thinking
from bucle.customise.prompt.parts import Parts, Passage, passage_of
from bucle.customise.prompt.sandbox import Fault, compiled, rendered, uses

__all__ = ["check_spec", "load_prompt_file", "messages_of", "names_used", "read_spec", "render"]

TEMPLATES = ("role", "system", "user", "voice.description")
"""What of a prompt file is a template. Examples of tone are texts as they are."""
MAX_SCHEMA = 1_000_000  # bytes


def load_prompt_file(path: Path, root: Path | None = None) -> PromptSpec:
    """The prompt in a YAML file, checked, its schema read in (`output` is then a mapping). The schema's path is
    relative to the prompt's folder, else to `root`. Raises TemplateError or ConfigError with file and line."""
    path = Path(path)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        there = False
    if not there:
        raise ConfigError(f"{str(path)[:300]} does not exist.", "bucle prompt list")
    try:
        spec = load_yaml_model(path, PromptSpec)
    except ConfigError as error:
        raise _for_prompts(error) from None
    try:
        check_spec(spec)
    except TemplateError as error:
        place = _place(path, error)
        raise TemplateError(f"{path}:{place}: {_told(error)}", error.hint) from None
    return spec.model_copy(update={"output": _schema(spec, path, root)}) if spec.output else spec


def read_spec(body: Mapping[str, Any]) -> PromptSpec:
    """A prompt kept as a mapping (in the ledger, in a candidate's settings), checked again. Raises TemplateError."""
    try:
        spec = PromptSpec.model_validate(body)
    except ValueError as error:
        raise TemplateError(f"This is no prompt: {str(error).splitlines()[0]}.", "bucle prompt check FILE") from None
    check_spec(spec)
    return spec


def check_spec(spec: PromptSpec) -> None:
    """Raises TemplateError where an input cannot be meant, or a template is wrong or takes a name that is no input. The
    error's `field` and `line` say where."""
    check_inputs(spec)
    known = frozenset(spec.inputs) | GIVEN
    for field, source in _sources(spec):
        try:
            compiled(source, known)
        except Fault as fault:
            raise _error(spec, field, fault) from None
    if isinstance(spec.output, Mapping) and spec.output:
        from bucle.data.schema import Schema

        try:
            Schema(spec.output, "`output`")
        except BadInput as error:
            raise _error(spec, "output", Fault(error.message, error.hint)) from None
    if len(set(spec.drop)) != len(spec.drop):
        raise _error(spec, "drop", Fault("a part is named twice.", "Name each part once."))


def names_used(spec: PromptSpec) -> frozenset[str]:
    """The inputs that the templates of a prompt take."""
    return frozenset(name for _, source in _sources(spec) for name in uses(source))


def render(spec: PromptSpec, values: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages that a prompt makes of its inputs (`input` among them), with no example, passage or earlier turn.
    Raises TemplateError."""
    values = dict(values)
    text = values.pop("input", "")
    return messages_of(spec, text, values=values).messages()


def messages_of(
    spec: PromptSpec,
    text: str,
    *,
    values: Mapping[str, Any] | None = None,
    shown: Sequence[tuple[str, str]] = (),
    passages: Sequence[str | Chunk | Hit | Passage] = (),
    turns: Sequence[Message] = (),
    labels: Sequence[str] = (),
    language: str = "es",
) -> Parts:
    """The parts of the prompt for one input.

    `values` are the other inputs; `shown` examples as (input, answer), the nearest last, each put through the prompt's
    own `user`; `passages` the most relevant first; `turns` the conversation before the input, whose system messages
    join the prompt's; `labels` those to choose from. The prompt's own language, schema, voice and thinking come with
    it. Raises TemplateError for a value that does not fit or a template that fails.
    """
    given = coerced(spec, values or {}, text=text)
    language = spec.language or language
    found = tuple(passage_of(p, n) for n, p in enumerate(passages, 1))

    def made(field: str, source: str, over: Mapping[str, Any]) -> str:
        return _rendered(spec, field, source, {**given, "passages": (), **over})

    def system(kept: tuple[Passage, ...]) -> str:
        parts = [made("role", spec.role, {"passages": kept}), made("system", spec.system, {"passages": kept})]
        parts += [m["content"] for m in turns if m["role"] == "system"]
        return "\n".join(p for p in (part.strip() for part in parts) if p)

    def write(kept: tuple[Passage, ...]) -> tuple[str, str]:
        return system(kept), made("user", spec.user, {"passages": kept})

    own = any("passages" in uses(source) for source in (spec.role, spec.system, spec.user))
    head, user = write(found)
    return Parts(
        system=head,
        user=user,
        shown=tuple((made("user", spec.user, coerced(spec, values or {}, text=asked)), str(answer))
                    for asked, answer in shown),
        passages=found,
        turns=tuple(m for m in turns if m["role"] != "system"),
        voice=made("voice.description", spec.voice.description, {}).strip(),
        tone=spec.voice.examples,
        always=(", ".join(labels),) if labels else (),
        thinking=thinking({"language": language}) if spec.thinking else "",
        schema=spec.output if isinstance(spec.output, Mapping) and spec.output else None,
        language=language,
        drop=spec.drop,
        max_tokens=spec.max_tokens,
        write=write if own and found else None,
    )


def _sources(spec: PromptSpec) -> Iterator[tuple[str, str]]:
    yield from zip(TEMPLATES, (spec.role, spec.system, spec.user, spec.voice.description), strict=True)


def _rendered(spec: PromptSpec, field: str, source: str, values: Mapping[str, Any]) -> str:
    if "{" not in source:
        return source
    try:
        return rendered(compiled(source, frozenset(spec.inputs) | GIVEN), values)
    except Fault as fault:
        raise _error(spec, field, fault) from None


def _error(spec: PromptSpec, field: str, fault: Fault) -> TemplateError:
    line = f" line {fault.line}" if fault.line else ""
    error = TemplateError(f"Prompt {spec.name}: `{field}`{line}: {fault.message}", fault.hint)
    vars(error).update(field=field, line=fault.line)
    return error


def _for_prompts(error: ConfigError) -> ConfigError:
    """An error of reading YAML in the words of prompt files, whose texts hold braces and colons."""
    message, hint = error.message, error.hint
    if "bucle.yaml" in hint or "project" in hint or "bucle init" in hint:
        hint = "A prompt file begins with `name:`, then `system:` and `user:`."
    if "ScalarNode(" in message:  # what YAML makes of bare braces
        message = re.sub(r" must be text \(found .*?ScalarNode\(.*", " is no text to YAML.", message)
        hint = 'Text that begins with braces needs quotes, "{{ input }}", or a block, `user: |`.'
    elif "not valid YAML" in message:
        hint = "Text with colons or braces needs quotes, or a block: `system: |` and its lines below, indented."
    return ConfigError(message, hint)


def _told(error: TemplateError) -> str:
    return error.message.partition(": ")[2] if error.message.startswith("Prompt ") else error.message


def _place(path: Path, error: TemplateError) -> int:
    """The line of the file that an error of `check_spec` is about."""
    field, line = getattr(error, "field", ""), getattr(error, "line", 0)
    node: Any = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    for key in field.split(".") if field else ["inputs"]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), node)
    start = node.start_mark.line + 1
    literal = isinstance(node, yaml.ScalarNode) and node.style == "|"
    return start + line if literal and line else start


def _schema(spec: PromptSpec, path: Path, root: Path | None) -> Mapping[str, Any]:
    if not isinstance(spec.output, str):
        return spec.output
    from bucle.data.schema import Schema

    homes = [path.parent.resolve(), *([root.resolve()] if root else [])]
    try:
        found = [f for home in homes if (f := (home / spec.output).resolve()).is_file()]
    except (OSError, ValueError):  # no name that a file can have
        found = []
    if not found:
        raise ConfigError(f"{path}: `output` names {spec.output[:200]}, which does not exist.",
                          "Give the schema's path, from the prompt's folder or the project's, or write it here.")
    file = found[0]
    if not any(file.is_relative_to(home) for home in homes):  # what stands in a prompt is told to a provider
        raise ConfigError(f"{path}: `output` leads out of the project: {spec.output[:200]}.",
                          "Copy the schema beside the prompt.")
    if file.stat().st_size > MAX_SCHEMA:
        raise BadInput(f"{file} is larger than {MAX_SCHEMA // 1_000_000} MB.", "That is no JSON schema.")
    try:
        body = json.loads(file.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {str(error)[:160]}.", "Correct the schema.") from None
    if not isinstance(body, dict):
        raise ConfigError(f"{file} holds no JSON schema.", "A schema is a JSON object.")
    return Schema(body, str(file)).body
