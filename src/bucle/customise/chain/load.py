"""A chain read from its file or built in Python: every file that it names read in, and everything checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError, ConfigError
from bucle.core.ids import file_sha256
from bucle.core.prompting import PromptSpec
from bucle.core.yamlfile import at_line, load_yaml_model
from bucle.customise.chain.graph import Place, check, near
from bucle.customise.chain.spec import AnyStep, ChainSpec, CheckStep, ParallelStep, ParseStep, PromptStep

__all__ = ["chain", "load_chain", "read_chain", "step"]

_HINT = "A chain's file begins with `name:` and `steps:`; docs/chains.md has whole ones."


def load_chain(path: Path, root: Path | None = None, *, models: Collection[str] | None = None,
               tasks: Collection[str] | None = None) -> ChainSpec:
    """The chain in a YAML file, with the prompts and schemas that it names (paths from `root`, the project, or from
    the chain's own folder) read in, and `files` the hashes of what it uses. `models` and `tasks` are the names that a
    step may use, where known. Raises ConfigError (TemplateError) with file and line."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.", "Correct its name under `chains:` in bucle.yaml.")
    try:
        spec = load_yaml_model(path, ChainSpec)
    except ConfigError as error:
        own = any(word in error.hint for word in ("bucle.yaml", "project", "bucle init"))
        raise ConfigError(error.message, _HINT if own else error.hint) from None
    _checked(spec, lambda place, fact, hint: _at(path, place, fact, hint), models, tasks)
    return _resolved(spec, root or path.parent, path)


def chain(name: str, *steps: AnyStep, folder: Path | None = None, **settings: Any) -> ChainSpec:
    """A chain built in Python: the same as its file says it. `folder` is where the files that it names stand. Raises
    ConfigError.

        chain("faq", step("retrieve", "buscar"), step("prompt", "redactar", model="gpt", passages="buscar",
              prompt={"system": "Answer from the passages.", "user": "{{ input }}"}))
    """
    body = {"name": name, "steps": [one.model_dump(exclude_unset=True) for one in steps], **settings}
    spec = read_chain(body)
    return _resolved(spec, folder, None) if folder is not None else spec


def step(kind: str, name: str, /, **settings: Any) -> AnyStep:
    """One step of a chain built in Python. Raises ConfigError naming the nearest kind or setting."""
    from pydantic import TypeAdapter, ValidationError

    from bucle.customise.chain.spec import Step

    if kind == "parallel":
        settings["steps"] = [one if isinstance(one, Mapping) else one.model_dump(exclude_unset=True)
                             for one in settings.get("steps", ())]
    try:
        return TypeAdapter(Step).validate_python({"kind": kind, "name": name, **settings})
    except ValidationError as error:
        raise _misread(error, f"step `{name}`") from None


def read_chain(body: Mapping[str, Any]) -> ChainSpec:
    """A chain kept as a mapping (in a candidate's settings), checked again. Raises ConfigError."""
    from pydantic import ValidationError

    try:
        spec = ChainSpec.model_validate(body)
    except ValidationError as error:
        raise _misread(error, f"chain `{body.get('name', '')}`") from None
    _checked(spec, lambda place, fact, hint: ConfigError(f"chain `{spec.name}`: {fact}.", hint), None, None)
    return spec


def _checked(spec: ChainSpec, complain: Any, models: Collection[str] | None, tasks: Collection[str] | None) -> None:
    check(spec, complain)
    for place, one in _placed(spec):
        for field, have in (("model", models), ("task", tasks)):
            name = getattr(one, field, "")
            if name and have is not None and name not in have:
                raise complain((*place, field), f"`{one.name}` asks the {field} `{name}`, which bucle.yaml does not "
                               "name", near(name, have))


def _at(path: Path, place: Place, fact: str, hint: str) -> ConfigError:
    try:
        with at_line(path, *place):
            raise ConfigError(f"{fact}.", hint)
    except ConfigError as error:
        return error


def _resolved(spec: ChainSpec, root: Path, path: Path | None) -> ChainSpec:
    """`spec` with its prompts and schemas read in and the hashes of the files that it uses."""
    files: dict[str, str] = {}
    base = path.parent if path else root

    def at(place: Place, error: BucleError) -> ConfigError:
        if path is None:
            return ConfigError(error.message, error.hint)
        return _at(path, place, error.message.rstrip("."), error.hint)

    def file(name: str) -> Path:
        for folder in (root, base):
            found = (folder / name).resolve()
            if found.is_file():
                if not found.is_relative_to(root.resolve()):
                    raise ConfigError(f"{name} is outside the project", "copy it into the project")
                files[name] = file_sha256(found)
                return found
        raise ConfigError(f"there is no file {name}", "give its path from the project's folder")

    def one(step: AnyStep, place: Place) -> AnyStep:
        from bucle.customise.own import own_file
        from bucle.customise.prompt.template import check_spec, load_prompt_file

        changed: dict[str, Any] = {}
        try:
            if isinstance(step, PromptStep):
                if isinstance(step.prompt, str) and step.prompt:
                    changed["prompt"] = load_prompt_file(file(step.prompt), root)
                elif isinstance(step.prompt, PromptSpec):
                    check_spec(step.prompt)
                    if isinstance(step.prompt.output, str) and step.prompt.output:
                        output = _schema(file(step.prompt.output))
                        changed["prompt"] = step.prompt.model_copy(update={"output": output})
                _inputs(step, changed.get("prompt", step.prompt))
            if isinstance(step, ParseStep | CheckStep | PromptStep) and step.json_schema:
                given = step.json_schema
                changed["json_schema"] = _schema(file(given)) if isinstance(given, str) else _usable(given)
            if named := getattr(step, "function", ""):
                found = own_file(named, root, f"`{step.name}`:")
                files[found.relative_to(root.resolve()).as_posix()] = file_sha256(found)
        except BucleError as error:
            raise at(place, error) from None
        if isinstance(step, ParallelStep):
            changed["steps"] = tuple(one(s, (*place, "steps", i)) for i, s in enumerate(step.steps))
        return step.model_copy(update=changed)

    steps = tuple(one(s, ("steps", i)) for i, s in enumerate(spec.steps))
    return spec.model_copy(update={"steps": steps, "files": dict(sorted(files.items()))})


def _inputs(step: PromptStep, prompt: PromptSpec | str) -> None:
    """That the prompt's inputs and the step's values are of each other."""
    if isinstance(prompt, str):
        return
    if unknown := sorted(set(step.values) - set(prompt.inputs)):
        raise ConfigError(f"`{step.name}` gives `{unknown[0]}`, which is no input of its prompt",
                          near(unknown[0], prompt.inputs))
    lacking = [n for n, i in prompt.inputs.items()
               if i.required and i.default is None and n not in step.values and n != "failed"]
    if lacking:
        raise ConfigError(f"`{step.name}` does not give its prompt's input `{lacking[0]}`",
                          f"values: {{{lacking[0]}: …}}")


def _schema(path: Path) -> Mapping[str, Any]:
    from bucle.data.schema import load_schema

    return load_schema(path).body


def _usable(body: Mapping[str, Any]) -> Mapping[str, Any]:
    from bucle.data.schema import Schema

    return Schema(body).body


def _placed(spec: ChainSpec) -> list[tuple[Place, AnyStep]]:
    found: list[tuple[Place, AnyStep]] = []
    for i, one in enumerate(spec.steps):
        found.append((("steps", i), one))
        if isinstance(one, ParallelStep):
            found += [(("steps", i, "steps", j), inner) for j, inner in enumerate(one.steps)]
    return found


def _misread(error: Any, what: str) -> ConfigError:
    problem = error.errors()[0]
    loc = [str(part) for part in problem["loc"]]
    if problem["type"] == "union_tag_invalid":
        known = [part.strip(" '") for part in problem["ctx"]["expected_tags"].split(",")]
        return ConfigError(f"{what}: there is no kind of step `{problem['ctx']['tag']}`.",
                           near(problem["ctx"]["tag"], known))
    if problem["type"] == "extra_forbidden":
        from bucle.customise.chain import spec as kinds

        kind = next((part for part in loc if part in _KINDS), "")
        model = getattr(kinds, _KINDS.get(kind, "ChainSpec"))
        return ConfigError(f"{what}: unknown setting `{loc[-1]}`.", near(loc[-1], model.model_fields))
    said = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
    return ConfigError(f"{what}: {'.'.join(loc[-2:])}: {said}."[:400], "docs/chains.md says what a step takes.")


_KINDS = {kind: f"{kind.title()}Step" for kind in
          ("retrieve", "http", "python", "classify", "prompt", "parse", "check", "text", "parallel")}
