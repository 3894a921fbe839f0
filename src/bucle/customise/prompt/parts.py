"""The parts of a prompt before it is put together: what always stands in it, and what may leave it piece by piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bucle.core.ports import Hit, Message
from bucle.core.prompting import DROPPED, Part, Tone
from bucle.core.records import Chunk

__all__ = ["Parts", "Passage", "Piece", "passage_of", "plain_parts", "unnumbered"]

Passage = Mapping[str, Any]
"""`text`, `heading`, `path`, `place` of a passage, and its `number` in the prompt, from 1: what a template sees."""

_UNSEEN = "\u00ad\u200b-\u200f\u2060-\u2064\ufeff"  # characters without a width
_GAP = rf"[\s{_UNSEEN}]{{0,20}}"
_NUMBER = re.compile(rf"[\[【［]({_GAP}\d{{1,3}}(?:{_GAP}(?:[,;&–-]|y|and){_GAP}\d{{1,3}}){{0,40}}{_GAP})[\]】］]")

_WORDS = {
    "es": {"voice": "La voz de la marca", "tone": "Ejemplos de tono", "plain": "Dicho sin más",
           "ours": "Como lo decimos", "user": "Usuario", "assistant": "Asistente", "example": "Ejemplo",
           "schema": "La respuesta es un objeto JSON que cumple este esquema, y nada más"},
    "en": {"voice": "The voice of the brand", "tone": "Examples of tone", "plain": "Said plainly",
           "ours": "As we say it", "user": "User", "assistant": "Assistant", "example": "Example",
           "schema": "The answer is a JSON object that fits this schema, and nothing else"},
}


@dataclass(frozen=True)
class Piece:
    """Something that may leave a prompt: `what` names it for people, `text` is what it says."""

    part: Part
    what: str
    text: str


@dataclass(frozen=True)
class Parts:
    """A prompt in parts. `system` and `user` are rendered already, or rendered again by `write` with the passages that
    are left, where the template puts them in itself. `shown` are examples, the nearest last; `passages` the most
    relevant first; `turns` an earlier conversation, the oldest first. `always` (labels), the schema and
    `thinking` stand at the end of the system message. `drop` is the order in which pieces leave."""

    system: str
    user: str
    shown: tuple[tuple[str, str], ...] = ()
    passages: tuple[Passage, ...] = ()
    turns: tuple[Message, ...] = ()
    voice: str = ""
    tone: tuple[Tone, ...] = ()
    always: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    thinking: str = ""
    language: str = "es"
    drop: tuple[Part, ...] = DROPPED
    max_tokens: int = 0
    write: Callable[[tuple[Passage, ...]], tuple[str, str]] | None = None

    def messages(self) -> tuple[Message, ...]:
        """The conversation: the system message, examples as earlier turns, the conversation so far, the input. Where
        there is a conversation, the examples stand in the system message: nobody said them in it."""
        system, user = self.write(self.passages) if self.write else (self.system, self.user)
        shown = self._shown() if self.turns else []
        blocks = [system, self._tone(), *shown, *self.always, self._schema(), self.thinking]
        head = "\n".join(block for block in blocks if block.strip())
        messages: list[Message] = [{"role": "system", "content": head}] if head else []
        for asked, answer in () if self.turns else self.shown:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        messages += self.turns
        if self.passages and self.write is None:
            listed = "\n\n".join(f"[{p['number']}] {p['text']}" for p in self.passages)
            user = f"{listed}\n\n{user}"
        return (*messages, {"role": "user", "content": user})

    def leaving(self) -> list[tuple[Piece, Parts]]:
        """Each piece that may leave, in the order of `drop`, with the parts that are left when it and those before it
        are gone."""
        left, found = self, []
        for part in dict.fromkeys(self.drop):
            while (gone := left._without(part)) is not None:
                found.append(gone)
                left = gone[1]
        return found

    def sections(self) -> dict[str, str]:
        """The text of each part, by its name, in the order of the prompt; those that are empty are left out."""
        system, user = self.write(()) if self.write else (self.system, self.user)
        said = {
            "system": system,
            "voice": self._voice(),
            "tone": "\n".join(map(self._tone_line, self.tone)),
            "examples": "\n".join(f"{asked}\n{answer}" for asked, answer in self.shown),
            "labels": "\n".join(self.always),
            "schema": self._schema(),
            "thinking": self.thinking,
            "turns": "\n".join(m["content"] for m in self.turns),
            "passages": "\n\n".join(str(p["text"]) for p in self.passages),
            "input": user,
        }
        return {name: text for name, text in said.items() if text.strip()}

    def _without(self, part: Part) -> tuple[Piece, Parts] | None:
        if part == "tone" and self.tone:
            line = self._tone_line(self.tone[-1])
            return Piece(part, f"example of tone {len(self.tone)}", line), replace(self, tone=self.tone[:-1])
        if part == "examples" and self.shown:
            asked, answer = self.shown[0]
            return (Piece(part, f"example {asked[:60]!r}", f"{asked}\n{answer}"), replace(self, shown=self.shown[1:]))
        if part == "passages" and self.passages:
            last = self.passages[-1]
            named = " ".join(str(last[k]) for k in ("path", "place") if last.get(k)) or repr(str(last["text"])[:60])
            return Piece(part, f"passage {last['number']}: {named}", str(last["text"])), replace(
                self, passages=self.passages[:-1])
        if part == "turns" and self.turns:
            # A turn of the user leaves with what was answered to it: templates want the two in turns.
            size = next((n for n in range(1, len(self.turns)) if self.turns[n]["role"] == "user"), len(self.turns))
            text = "\n".join(m["content"] for m in self.turns[:size])
            return Piece(part, f"turn {text[:60]!r}", text), replace(self, turns=self.turns[size:])
        return None

    @property
    def _words(self) -> Mapping[str, str]:
        return _WORDS.get(self.language, _WORDS["en"])

    def _voice(self) -> str:
        return f"{self._words['voice']}: {self.voice}" if self.voice.strip() else ""

    def _tone_line(self, one: Tone) -> str:
        said = f"{self._words['ours']}: {one.ours}"
        return f"- {self._words['plain']}: {one.plain}\n  {said}" if one.plain else f"- {said}"

    def _tone(self) -> str:
        lines = [f"{self._words['tone']}:", *map(self._tone_line, self.tone)] if self.tone else []
        return "\n".join([*([self._voice()] if self._voice() else []), *lines])

    def _shown(self) -> list[str]:
        words = self._words
        return [f"{words['example']}:\n{words['user']}: {asked}\n{words['assistant']}: {answer}"
                for asked, answer in self.shown]

    def _schema(self) -> str:
        if not self.schema:
            return ""
        return f"{self._words['schema']}:\n{json.dumps(dict(self.schema), ensure_ascii=False)}"


def plain_parts(system: str, user: str, **more: Any) -> Parts:
    """Parts of texts that are no templates: for a technique's own instruction. `more` as in Parts, with passages
    of any kind that `messages_of` takes."""
    passages = tuple(passage_of(p, n) for n, p in enumerate(more.pop("passages", ()), 1))
    shown = tuple((str(a), str(b)) for a, b in more.pop("shown", ()))
    return Parts(system, user, shown=shown, passages=passages, turns=tuple(more.pop("turns", ())), **more)


def passage_of(given: str | Chunk | Hit | Passage, number: int) -> Passage:
    """A passage as a template sees it, from a text, a chunk, a hit of a search, or a mapping with `text`."""
    if isinstance(given, Hit):
        given = given.chunk
    if isinstance(given, Chunk):
        found = {"text": given.text, "heading": given.heading, "path": given.path, "place": given.place}
    elif isinstance(given, str):
        found = {"text": given, "heading": "", "path": "", "place": ""}
    else:
        found = {name: str(given.get(name, "")) for name in ("text", "heading", "path", "place")}
    return {**{name: unnumbered(value) for name, value in found.items()}, "number": number}


def unnumbered(text: str) -> str:
    """A passage's text with what reads as a passage's number, `[2]` or `[1, 3]`, in round brackets: a document may not
    pass for another passage of the prompt."""
    return _NUMBER.sub(r"(\1)", text)


