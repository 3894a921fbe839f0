"""Asking many prompts at once, each shortened until the model's context holds it. Nothing is cut inside a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bucle.core.errors import BadInput, BucleError
from bucle.core.ports import ChatModel, ChatReply
from bucle.models.ask import Ask, ask_all

__all__ = ["Asked", "ask_fitting", "cut_off", "fits", "is_local"]

T = TypeVar("T")

MOST_REFUSALS = 3
"""Shorter prompts tried after a provider refused one: it may refuse for another reason than its length."""


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What came of one row: the reply or its error, what stood in the prompt that was asked, and how many longer ones
    did not fit."""

    reply: ChatReply | BucleError
    used: T
    shortened: int


def is_local(model: ChatModel) -> bool:
    """Whether prompts can be counted before they are asked, and labels scored: a model in this process."""
    return hasattr(model, "label_scores") and hasattr(model, "render")


def fits(model: Any, ask: Ask) -> bool:
    """Whether a local model's context holds the prompt with room to answer: `max_tokens`, or a quarter of a context
    that is too small for those."""
    room = min(ask.max_tokens, model.context // 4)
    return bool(model.count_tokens([model.render(ask.messages)])[0] + room <= model.context)


def ask_fitting(model: ChatModel, prompts: Sequence[Iterator[tuple[Ask, T]]]) -> list[Asked[T]]:
    """One reply for each of `prompts`, in order.

    A prompt is given as its versions, the longest first, each with what stands in it; at least one. The first that
    fits is asked: a local model counts its tokens, a remote one refuses what is too long. Where none fits, the shortest
    is asked, and the model says what is wrong. Raises ModelUnavailable where nothing answers.
    """
    local = is_local(model)
    now: list[tuple[Ask, T]] = []
    shortened = [0] * len(prompts)
    for i, versions in enumerate(prompts):
        version = next(versions)
        while local and not fits(model, version[0]) and (shorter := next(versions, None)) is not None:
            version = shorter
            shortened[i] += 1
        now.append(version)
    done: list[ChatReply | BucleError | None] = [None] * len(prompts)
    waiting = list(range(len(prompts)))
    for left in range(0 if local else MOST_REFUSALS, -1, -1):
        again = []
        for i, reply in zip(waiting, ask_all(model, [now[i][0] for i in waiting]), strict=True):
            done[i] = reply
            if left and isinstance(reply, BadInput) and (shorter := next(prompts[i], None)) is not None:
                now[i] = shorter
                shortened[i] += 1
                again.append(i)
        waiting = again
        if not waiting:
            break
    return [
        Asked(reply, used, short)
        for reply, (_, used), short in zip(done, now, shortened, strict=True)
        if reply is not None
    ]


def cut_off(reply: ChatReply, limit: int) -> str:
    """The error of a row whose reply was cut; empty for a whole one."""
    if reply.finish != "length":
        return ""
    return f"the reply was cut off after {reply.usage.tokens_out or limit} tokens: raise `max_tokens`"
