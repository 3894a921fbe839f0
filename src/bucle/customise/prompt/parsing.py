"""Reading what a model wrote: a JSON object, a block of Python, the answer after its reasoning. Never a guess."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["answer_after", "json_object", "python_block"]

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(
    r"^[ \t]*[*_#>`]*[ \t]*(?:(?i:respuesta|answer)(?i:[ \t]+final)?|(?i:final[ \t]+answer))[ \t]*[*_`]*:[*_`]*[ \t]*",
    re.MULTILINE,
)
_INLINE = re.compile(r"\b(?:RESPUESTA|ANSWER)(?: FINAL)?:[*_`]*[ \t]*")


def json_object(reply: str) -> dict[str, Any]:
    """The JSON object in a reply, which may stand in a fence or between sentences. Raises BadInput with what is wrong.

    The first `{` begins it: a reply with several objects gives its first. Not-a-number and infinity are refused, since
    JSON has neither.
    """
    begin = reply.find("{")
    if begin < 0:
        raise BadInput("the reply holds no JSON object", "")
    try:
        read, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(reply[begin:])
    except json.JSONDecodeError as error:
        raise BadInput(f"the reply is not JSON: {error.msg} at character {begin + error.pos}", "") from None
    except (ValueError, RecursionError):
        raise BadInput("the reply is not JSON: nested too deep, or a number that JSON lacks", "") from None
    if not isinstance(read, dict):  # a `{` begins an object
        raise BadInput("the reply holds no JSON object", "")
    return read


def python_block(reply: str) -> str:
    """The program in a reply: its first block of Python (the first of any language where none says it), or the whole
    reply where that is Python. Raises BadInput where there is none."""
    blocks = [(m.group(1).lower(), m.group(2)) for m in _FENCE.finditer(reply)]
    for wanted in (("python", "py", "python3"), ("",)):
        if found := [text for language, text in blocks if language in wanted and text.strip()]:
            return found[0].rstrip() + "\n"
    if not blocks and reply.strip() and _is_python(reply):
        return reply.strip() + "\n"
    raise BadInput("the reply holds no block of Python", "")


def answer_after(reply: str, *, last: bool) -> tuple[str, str]:
    """Reasoning and answer of a reply, parted at the line `RESPUESTA:` or `ANSWER:`; the `last` one for a short answer,
    which a model may correct, the first for a long one, which may hold such a line itself. Raises BadInput where the
    marker or what follows it is missing."""
    marks = list(_MARKER.finditer(reply)) or list(_INLINE.finditer(reply))
    if not marks:
        raise BadInput("the reply has no line `RESPUESTA:` (or `ANSWER:`) after its reasoning", "")
    mark = marks[-1 if last else 0]
    answer = reply[mark.end() :].strip()
    if not answer:
        raise BadInput("nothing follows `RESPUESTA:` in the reply", "")
    return reply[: mark.start()].strip(), answer


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    # `No` is an expression of Python too, and no program
    return any(not isinstance(part, ast.Expr) or isinstance(part.value, ast.Call) for part in tree.body)
