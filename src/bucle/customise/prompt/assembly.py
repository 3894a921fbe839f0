"""A prompt put together for one model: counted with its own tokenizer, fitted to its context, nothing cut in silence.

Pieces leave in the order that the prompt states (`drop`), each named with why; the instruction, the labels, the schema
and the input never do. `assemble` makes one prompt; `ask_parts` asks many, and where a remote model's context is not
known, shortens what the provider refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, ContextOverflow
from bucle.core.ports import ChatModel, ChatReply, Message
from bucle.core.prompting import Part
from bucle.customise.prompt.fitting import MOST_REFUSALS, is_local
from bucle.customise.prompt.parts import Parts
from bucle.models.ask import Ask, ask_all

__all__ = ["Answered", "Asking", "Assembled", "Dropped", "Window", "ask_parts", "assemble", "tokens_by_part",
           "window_named", "window_of"]

LEAST_ROOM = 4
"""A context too small for `max_tokens` of answer leaves it this part: one fourth."""


@dataclass(frozen=True)
class Dropped:
    """A piece that was left out: of which part, which one, its tokens, and why."""

    part: Part
    what: str
    tokens: int
    why: str


@dataclass(frozen=True)
class Assembled:
    """A prompt ready to be asked. `tokens` are the prompt's, `context` the model's (None: not known), `room` what is
    left for the answer. `how`: `tokenizer` (the model's own, on its chat template), `encoding` (its published
    vocabulary) or `estimate`, of which `tokens` is the high end; `note` says what the count leaves out, or that the
    room is less than `max_tokens`."""

    messages: tuple[Message, ...]
    tokens: int
    context: int | None
    how: str
    room: int
    dropped: tuple[Dropped, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Window:
    """How much a model reads: `context` tokens (None: not known), and what counts messages and single texts."""

    context: int | None
    how: str
    note: str
    count: Callable[[Sequence[Message]], int]
    text: Callable[[str], int]
    render: Callable[[Sequence[Message]], str] | None = None

    def room(self, max_tokens: int) -> int:
        """Tokens kept for the answer: `max_tokens`, or a fourth of a context that is not twice that."""
        if self.context is None or 2 * max_tokens <= self.context:
            return max_tokens
        return max(1, self.context // LEAST_ROOM)


def window_of(model: ChatModel, *, language: str = "", context: int | None = None) -> Window:
    """How prompts for `model` are counted: a local one's own tokenizer and chat template; a remote one's published
    vocabulary, or an estimate at its high end. `context` is known better than the catalogue says."""
    anyone: Any = model
    if is_local(model):
        return Window(
            int(anyone.context), "tokenizer", "",
            lambda messages: int(anyone.count_tokens([anyone.render(messages)])[0]),
            lambda text: int(anyone.count_tokens([text])[0]),
            anyone.render,
        )
    from bucle.models.catalogue.facts import hosted
    from bucle.models.catalogue.prices import provider_of

    address, _, name = str(getattr(model, "identity", "")).partition(" ")
    known = context or getattr(model, "context", None)
    if known is None and address:
        known = hosted(name, provider_of(address)).context
    return window_named(name or model.name, context=known, language=language)


def window_named(name: str, *, folder: Path | None = None, context: int | None = None, language: str = "") -> Window:
    """How prompts are counted for a model that is not opened: the one in `folder`, by its tokenizer and chat template,
    or a provider's, by its name."""
    from bucle.models.tokens import counter

    counts = counter(name, folder=folder, language=language)
    return Window(context, counts.how, counts.note, lambda messages: counts.count(messages).prompt.high,
                  lambda text: counts.text(text.encode("utf-8", "replace").decode()).high, counts.render)


def assemble(
    parts: Parts,
    model: ChatModel | str,
    *,
    max_tokens: int,
    drop: Sequence[Part] | None = None,
    window: Window | None = None,
) -> Assembled:
    """The longest version of a prompt that `model` holds with room for `max_tokens` of answer.

    Pieces leave in the order of `drop` (the prompt's own where none is given) until it fits. A model whose context is
    not known gets all of it; one that is not opened goes by its name, with its `window`. Raises ContextOverflow where
    what may never leave does not fit.
    """
    name = model if isinstance(model, str) else model.name
    if window is None:
        window = window_named(model) if isinstance(model, str) else window_of(model, language=parts.language)
    return _assembled(parts if drop is None else replace(parts, drop=tuple(drop)), name, max_tokens, window)[0]


def _assembled(parts: Parts, name: str, max_tokens: int, window: Window) -> tuple[Assembled, Parts]:
    room = window.room(max_tokens)
    messages = parts.messages()
    tokens = window.count(messages)
    note = window.note
    if room < max_tokens:
        note = "; ".join(filter(None, [f"{room} of the {max_tokens} tokens asked for are left for the answer", note]))
    if window.context is None or tokens + room <= window.context:
        return Assembled(messages, tokens, window.context, window.how, room, (), note), parts
    leaving = parts.leaving()
    low, high = 0, len(leaving) - 1  # of the versions that fit, the longest: each is shorter than the one before
    fitting: tuple[int, tuple[Message, ...], int] | None = None
    while low <= high:
        middle = (low + high) // 2
        messages = leaving[middle][1].messages()
        tokens = window.count(messages)
        if tokens + room <= window.context:
            fitting, high = (middle, messages, tokens), middle - 1
        else:
            low = middle + 1
    if fitting is None:
        raise _overflow(leaving[-1][1] if leaving else parts, name, room, window)
    place, messages, tokens = fitting
    why = f"{name} holds {window.context:,} tokens, {room:,} of them for the answer"
    gone = tuple(Dropped(p.part, p.what, window.text(p.text), why) for p, _ in leaving[:place + 1])
    return Assembled(messages, tokens, window.context, window.how, room, gone, note), leaving[place][1]


def _overflow(least: Parts, name: str, room: int, window: Window) -> ContextOverflow:
    tokens = window.count(least.messages())
    sizes = {part: window.text(text) for part, text in least.sections().items()}
    largest = sorted(sizes, key=lambda part: -sizes[part])[:2]
    kept = [part for part in ("examples", "passages", "turns", "tone") if part in sizes]
    do = f"Shorten {' or '.join(f'`{part}` ({sizes[part]:,} tokens)' for part in largest)}"
    do += f", name {', '.join(kept)} in `drop`" if kept else ""
    more = "" if window.how != "estimate" else " (an estimate's high end)"
    return ContextOverflow(
        f"The prompt needs {tokens:,} tokens{more} with nothing left to leave out, and {room:,} for the answer; "
        f"{name} holds {window.context:,}.",
        f"{do}, or choose a model with a longer context.",
    )


def tokens_by_part(parts: Parts, window: Window) -> dict[str, int]:
    """Tokens of each part of a prompt by itself; `framing` is what roles, chat template and headings add to them."""
    sizes = {part: window.text(text) for part, text in parts.sections().items()}
    return {**sizes, "framing": max(0, window.count(parts.messages()) - sum(sizes.values()))}


@dataclass(frozen=True)
class Asking:
    """A prompt to ask of a model, and how."""

    parts: Parts
    max_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answered:
    """What came of one: the reply or its error, the prompt that was asked, and the parts that stood in it."""

    reply: ChatReply | BucleError
    prompt: Assembled | None
    parts: Parts


def ask_parts(model: ChatModel, asks: Sequence[Asking], *, window: Window | None = None) -> list[Answered]:
    """The reply to each of `asks`, in order, each fitted to the model's context. One that cannot fit is its
    ContextOverflow. One that the provider refuses is asked again with less in it: as too long until nothing may leave,
    for a reason that is not told up to MOST_REFUSALS times. Raises ModelUnavailable where nothing answers."""
    window = window or window_of(model, language=asks[0].parts.language if asks else "")
    done: list[Answered | None] = [None] * len(asks)
    now: dict[int, tuple[Assembled, Parts]] = {}
    for i, one in enumerate(asks):
        try:
            now[i] = _assembled(one.parts, model.name, one.max_tokens, window)
        except ContextOverflow as error:
            done[i] = Answered(error, None, one.parts)
    left = 0 if window.how == "tokenizer" else MOST_REFUSALS
    while now:
        order = list(now)
        replies = ask_all(model, [_ask(asks[i], now[i][0]) for i in order])
        again = {}
        for i, reply in zip(order, replies, strict=True):
            done[i] = Answered(reply, *now[i])
            refused = isinstance(reply, ContextOverflow) or (left > 0 and isinstance(reply, BadInput))
            if refused and (less := _less(*now[i], window)) is not None:
                again[i] = less
        now, left = again, left - 1
    return [one for one in done if one is not None]


def _ask(one: Asking, prompt: Assembled) -> Ask:
    return Ask(prompt.messages, one.max_tokens, one.temperature, one.stop, one.seed, one.schema)


def _less(prompt: Assembled, parts: Parts, window: Window) -> tuple[Assembled, Parts] | None:
    """A refused prompt without the first half of what may leave it; None where nothing may."""
    leaving = parts.leaving()
    if not leaving:
        return None
    half = leaving[:(len(leaving) + 1) // 2]
    left = half[-1][1]
    gone = tuple(Dropped(p.part, p.what, window.text(p.text), "the provider refused the longer prompt")
                 for p, _ in half)
    messages = left.messages()
    return replace(prompt, messages=messages, tokens=window.count(messages), dropped=(*prompt.dropped, *gone)), left
