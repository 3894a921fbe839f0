"""One prompt on one input: the exact text that a model reads, its tokens by part, what was left out, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bucle.core.config import RemoteModel
from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.core.ports import FitContext, Hit, Message
from bucle.core.prompting import PromptSpec, Shots
from bucle.core.records import Example
from bucle.customise.prompt.assembly import (
    Asking,
    Assembled,
    Window,
    ask_parts,
    assemble,
    tokens_by_part,
    window_named,
)
from bucle.customise.prompt.inputs import coerced
from bucle.customise.prompt.parts import Parts
from bucle.customise.prompt.template import messages_of, names_used
from bucle.loop.prompts import find_prompt
from bucle.loop.workspace import Workspace

__all__ = ["try_prompt"]

MAX_TOKENS = 400  # of an answer where neither the prompt nor the task says
PASSAGES = 3


@dataclass(frozen=True)
class _Tried:
    """What a prompt is tried on."""

    text: str
    row: Example | None = None
    side: str = ""
    passages: Sequence[Hit] = ()


def try_prompt(
    ws: Workspace,
    ref: str,
    *,
    task: str = "",
    model: str = "",
    text: str | None = None,
    row: str = "",
    values: Mapping[str, Any] | None = None,
    access: frozenset[str] = frozenset(),
    send: bool = False,
) -> dict[str, Any]:
    """The prompt that `ref` names, made for one input, JSON-ready.

    With `task`, as its candidates would ask it: its labels, its schema, its training rows as examples, its passages
    (those that `access` may see). `row` is one of its rows, by id, place or text. `model` is one of bucle.yaml or a
    provider's name of one (default: the first of bucle.yaml that writes). The model is not opened unless `send`, which
    asks it once, whatever `samples` says, and gives `answer`. Raises ContextOverflow, TemplateError, BadInput,
    NotFound, ModelUnavailable.
    """
    if task and task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    if task and ws.config.tasks[task].kind == "retrieve":
        raise BadInput(f"`{task}` retrieves and asks no model.", "Choose another task.")
    found = find_prompt(ws, ref)
    name, window = _window(ws, model)
    train, labels, tried = _input(ws, found.spec, task, text, row, access)
    parts, most = _parts(ws, found.spec, task, values or {}, tried, train, labels)
    made = assemble(parts, name, max_tokens=most, window=window)
    told: dict[str, Any] = {
        "prompt": {"name": found.spec.name, "version": found.version, "node": found.node},
        "task": task, "model": name, "of_project": name in ws.config.models,
        "text": _final(made.messages, window), "messages": [dict(m) for m in made.messages],
        "tokens": made.tokens, "how": made.how, "note": made.note, "context": made.context, "room": made.room,
        "max_tokens": most, "samples": found.spec.samples, "parts": tokens_by_part(_kept(parts, made), window),
        "dropped": [asdict(d) for d in made.dropped],
        "row": {"id": tried.row.id, "target": tried.row.target, "side": tried.side} if tried.row else None,
        "passages": [{"id": hit.chunk.id, "path": hit.chunk.path, "place": hit.chunk.place} for hit in tried.passages],
    }
    return told | (_answer(ws, name, parts, most, window) if send else {})


def _window(ws: Workspace, model: str) -> tuple[str, Window]:
    from bucle.core.config import EncoderModel, LocalModel, RerankerModel
    from bucle.models.catalogue import context_window, facts
    from bucle.models.catalogue.facts import folder_here
    from bucle.models.tokens import encoding_of

    writes = {n: m for n, m in ws.config.models.items() if not isinstance(m, EncoderModel | RerankerModel)}
    name = model or next(iter(writes), "")
    if not name:
        raise BadInput("Tokens of which model?", "--model gpt-4o-mini, or add one under `models:` in bucle.yaml")
    configured = ws.config.models.get(name)
    if configured is None:
        folder = folder_here(name)
        context = _context(folder) if folder else context_window(name)
        if context is None and not encoding_of(name):
            raise _unknown(name, list(writes))
        return name, window_named(name, folder=folder, context=context, language=ws.config.language)
    if name not in writes:
        raise BadInput(f"`{name}` is a {configured.kind} and writes nothing.", f"--model one of: {', '.join(writes)}")
    if isinstance(configured, RemoteModel):
        known = facts(name, configured, ws.config.catalogue).context
        return name, window_named(configured.model, context=known, language=ws.config.language)
    folder = folder_here(configured.path) if isinstance(configured, LocalModel) else _trained(ws, name)
    if folder is None:
        raise BadInput(f"The model `{name}` is not on this machine.", f"Correct models.{name}.path, or: bucle doctor")
    return name, window_named(name, folder=folder, context=_context(folder), language=ws.config.language)


def _unknown(name: str, writes: Sequence[str]) -> BadInput:
    from difflib import get_close_matches

    from bucle.models.catalogue.prices import listed

    near = get_close_matches(name, [*writes, *(model for _, model, *_ in listed())], n=1)
    return BadInput(f"`{name[:100]}` is no model of this project, and none of a provider that Bucle knows.",
                    (f"Did you mean `{near[0]}`? " if near else "")
                    + (f"Under `models:` here: {', '.join(writes)}." if writes else "Add one under `models:`."))


def _trained(ws: Workspace, name: str) -> Path:
    from bucle.loop.interop import model_node
    from bucle.loop.model_steps import model_folder

    return model_folder(ws, model_node(ws, name))


def _context(folder: Path) -> int:
    """As LocalModel reads it."""
    from bucle.models.folder import outline

    return int(outline(folder)["context"] or 2048)


def _input(ws: Workspace, spec: PromptSpec, task: str, text: str | None, row: str, access: frozenset[str]
           ) -> tuple[list[Example], tuple[str, ...], _Tried]:
    """Training rows and labels of the task, and the input: what is given, the row that is named, the first row."""
    rows, sides = _rows(ws, task) if task else ([], {})
    picked: Example | None = None
    if row:
        if not task:
            raise BadInput("A row of which task?", f"--task one of: {', '.join(ws.config.tasks)}")
        picked = next((r for r in rows if row in (r.id, r.source, r.input)), None) or next(
            (r for r in rows if r.id.removeprefix("example:").startswith(row.removeprefix("example:"))), None)
        if picked is None:
            raise NotFound(f"`{task}` has no row `{row[:80]}`.", "bucle data list, or bucle data show TEXT")
    elif text is None and rows:
        picked = rows[0]
    if picked is None and text is None and "input" in names_used(spec):
        raise BadInput("The prompt is for which input?", "--input TEXT, --task TASK --row ID, or - for standard input")
    said = picked.input if picked else text or ""
    train = [r for r in rows if sides.get(r.id) == "train" and r.target and (picked is None or r.id != picked.id)]
    kind = ws.config.tasks[task].kind if task else ""
    labels = tuple(sorted({str(r.target) for r in rows if sides.get(r.id) != "test" and r.target}))
    hits: Sequence[Hit] = ()
    if kind == "answer":
        from bucle.loop.indexing import search

        hits = search(ws, said, k=PASSAGES, access=access)
    side = sides.get(picked.id, "") if picked else ""
    return train, labels if kind == "classify" else (), _Tried(said, picked, side, hits)


def _rows(ws: Workspace, task: str) -> tuple[list[Example], dict[str, str]]:
    """The task's rows as the latest run read them, and their sides. Raises NotFound before any run."""
    from bucle.loop.version_diff import newest_split
    from bucle.loop.versions import version_called

    dataset = version_called(ws, task, "current").node
    split = newest_split(ws, dataset)
    return ws.examples(dataset), ws.sides(split) if split else {}


def _parts(ws: Workspace, spec: PromptSpec, task: str, values: Mapping[str, Any], tried: _Tried,
           train: Sequence[Example], labels: Sequence[str]) -> tuple[Parts, int]:
    """The prompt's parts and the tokens of its answer: for a task, by the very technique that its candidates use."""
    kind = ws.config.tasks[task].kind if task else ""
    if kind in ("", "answer"):
        parts = messages_of(spec, tried.text, values=values, passages=tried.passages, language=ws.config.language)
        return parts, spec.max_tokens or MAX_TOKENS
    from bucle.customise.conversation import gist
    from bucle.customise.prompt.examples import chooser
    from bucle.customise.prompt.files import load_prompt
    from bucle.customise.prompt.spec import OwnPrompt
    from bucle.customise.registry import technique
    from bucle.loop.candidates import task_params

    coerced(spec, {**{n: v for n, v in _defaults(spec).items() if n not in values}, **values}, text=tried.text)
    inputs = {n: one.model_copy(update={"default": values.get(n, one.default)}) for n, one in spec.inputs.items()}
    spec = spec.model_copy(update={"inputs": inputs})
    said = spec.shots or Shots()
    t = technique("few-shot" if (said.count or said.rows) and kind != "code" else "zero-shot")
    params = {**task_params(ws, task, t), "prompt": spec.model_dump(mode="json")}
    with TemporaryDirectory() as folder:
        t.fit(FitContext(out=Path(folder), work=Path(folder), train=train, validation=(), labels=labels, params=params,
                         seed=ws.config.seed, report=_quiet, kind=ws.config.tasks[task].kind))
        kept = load_prompt(Path(folder))
    choice = chooser(kept, key=partial(gist, kind))
    sign = "" if not kept.get("thinking") else "RESPUESTA: " if "RESPUESTA" in kept["thinking"] else "ANSWER: "
    found = choice.near([tried.text], int(kept["shots"]))[0] if choice else []
    shown = [(asked, f"{sign}{answer}") for asked, answer in found]  # as its answers are read
    return OwnPrompt(kept).parts(tried.text, shown), int(kept["max_tokens"])


def _defaults(spec: PromptSpec) -> dict[str, Any]:
    """What stands in for inputs that the task itself gives, while the others are checked."""
    stand_in: dict[str, Any] = {"text": "", "number": 0, "flag": False, "list": ()}
    return {n: stand_in.get(one.type, one.of[0] if one.of else "") for n, one in spec.inputs.items()
            if one.default is None and n != "input"}


def _quiet(done: int, total: int, note: str = "") -> None:
    pass


def _kept(parts: Parts, made: Assembled) -> Parts:
    """The parts that were left after what was dropped."""
    leaving = parts.leaving()
    return leaving[len(made.dropped) - 1][1] if made.dropped else parts


def _final(messages: Sequence[Message], window: Window) -> str:
    """What the model reads: after its chat template, where that is at hand, else each message under its role."""
    if window.render is not None:
        return window.render(messages)
    return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)


def _answer(ws: Workspace, name: str, parts: Parts, most: int, window: Window) -> dict[str, Any]:
    """What the model says now (`answer`), asked afresh at temperature 0, its object held against the schema (`error`
    and `error_kind` say what is wrong with it); `dropped` again, where the provider refused a longer prompt."""
    from bucle.customise.prompt.parsing import answer_after
    from bucle.customise.prompt.structured import Form
    from bucle.loop.interop import model_node
    from bucle.loop.model_steps import chat_model
    from bucle.models.ask import Ask

    if name not in ws.config.models:
        raise BadInput(f"`{name}` is none of the models of bucle.yaml, so it cannot be asked.",
                       f"--model one of: {', '.join(ws.config.models) or 'add one under `models:`'}")
    model = chat_model(ws, model_node(ws, name))
    schema = None if parts.thinking else parts.schema  # an object alone has no room for reasoning
    asked = ask_parts(model, [Asking(parts, most, seed=ws.config.seed, schema=schema)], window=window)[0]
    if isinstance(asked.reply, BucleError):
        raise asked.reply
    assert asked.prompt is not None  # noqa: S101 - what has a reply was asked
    reply, used = asked.reply, {"dropped": [asdict(d) for d in asked.prompt.dropped]}
    told: dict[str, Any] = {"text": reply.text, "finish": reply.finish, "ms": reply.ms, **reply.usage.model_dump()}
    form = Form(parts.schema, parts.language) if parts.schema else None
    if form is not None and schema is not None:
        one = form.settle(model, [Ask(asked.prompt.messages, most, seed=ws.config.seed, schema=schema)], [reply])[0]
        told |= {"text": one.reply, "value": one.value, "valid": one.value is not None, "repaired": one.repaired,
                 "error": one.error.message if one.error else "", "error_kind": type(one.error).__name__
                 if one.error else "", "hint": one.error.hint if one.error else "", "ms": one.ms,
                 **one.usage.model_dump()}
        return used | {"answer": told}
    if parts.thinking:
        try:
            told["reasoning"], told["text"] = answer_after(reply.text, last=True)
        except BadInput as error:
            told |= {"error": error.message, "error_kind": type(error).__name__, "hint": error.hint}
    if form is not None and "error" not in told:
        value, fault = form.read(str(told["text"]))
        told |= {"value": value, "valid": value is not None and not fault, "error": fault,
                 "error_kind": "SchemaBroken" if fault else "", "hint": "Loosen the schema, or raise max_tokens."}
    return used | {"answer": told}
