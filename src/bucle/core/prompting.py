"""A prompt as a file says it: typed inputs, the text of its turns, voice, examples, the form of the answer.

    name: atencion
    inputs:
      tono: {type: choice, of: [formal, cercano], default: formal}
    system: |
      Eres el asistente de {{ empresa }}. Tono {{ tono }}.
    user: "{{ input }}"
    voice: {description: "Cercana y breve.", examples: [{plain: "Su solicitud fue recibida.", ours: "¡Recibido!"}]}
    shots: {count: 4, choose: diverse}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from bucle.core.sources import Names, Section

__all__ = ["DROPPED", "Part", "PromptInput", "PromptSpec", "Shots", "Tone", "Voice"]

Part = Literal["examples", "passages", "turns", "tone"]
"""What may leave a prompt that does not fit, piece by piece: examples (the farthest first), passages (the least
relevant first), earlier turns of a conversation (the oldest first), examples of tone (the last first)."""
DROPPED: tuple[Part, ...] = ("tone", "examples", "turns", "passages")
"""The order in which they leave where a prompt does not say another. Instruction, schema, labels and input never do."""


class PromptInput(Section):
    """A variable of the template. `of` are the values of a choice; `max_characters` bounds a text, or each item of a
    list. One without a default must be given."""

    type: Literal["text", "number", "flag", "choice", "list"] = "text"
    of: Names = ()
    default: Any = None
    required: bool = True
    max_characters: int = Field(20_000, ge=1, le=2_000_000)
    about: str = ""


class Tone(Section):
    """An example of the brand's voice: the same said plainly and as the team says it."""

    plain: str = ""
    ours: str


class Voice(Section):
    description: str = ""
    examples: tuple[Tone, ...] = ()


class Shots(Section):
    """Which training rows stand in the prompt. `nearest` to the input; `diverse`: near to it and unlike each other;
    `fixed`: the same ones always, those of `rows` (ids), or the most typical of each label (for texts, the first
    rows)."""

    count: int = Field(0, ge=0, le=100)
    choose: Literal["nearest", "diverse", "fixed"] = "nearest"
    rows: Names = ()


class PromptSpec(Section):
    """A prompt. `input` is always an input: what the user wrote; where it searches, `passages` is one too. `role` is
    who the model is (stands before `system`). `output` is the path of the answer's JSON schema, or the schema."""

    name: str = Field(pattern=r"^[\w][\w.-]{0,60}$")
    about: str = ""
    language: Literal["es", "en", ""] = ""
    inputs: Mapping[str, PromptInput] = Field(default_factory=dict)
    role: str = ""
    system: str = ""
    user: str = "{{ input }}"
    voice: Voice = Voice()
    shots: Shots | None = None
    thinking: bool = False
    samples: int = Field(1, ge=1, le=100)
    output: str | Mapping[str, Any] = ""
    max_tokens: int = Field(0, ge=0, le=100_000)
    drop: tuple[Part, ...] = DROPPED
