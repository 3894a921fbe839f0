"""What a chain's templates and conditions may say: the sandboxed Jinja of prompts, over `input`, `steps`, `last` and
`failed`. Values are data: what a step returned is put into a text and never read as a template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bucle.core.errors import BadInput, TemplateError

if TYPE_CHECKING:
    from jinja2 import nodes

__all__ = ["FIELDS", "VARIABLES", "condition", "reads", "render", "render_all", "texts_in", "url_of"]

VARIABLES = frozenset({"input", "steps", "last", "failed"})
"""What was asked, each step's result, the latest of them, why the last check failed."""
FIELDS = ("text", "value", "chunks", "score", "error", "skipped")
"""What a step's result has."""
_WHOLE = re.compile(r"\A\s*\{\{((?:(?!\{\{|\}\}|\{%).)*)\}\}\s*\Z", re.DOTALL)
_PIECE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def render(template: str, values: Mapping[str, Any]) -> Any:
    """`template` with its values in place: a text, or the value itself where the template is one `{{ expression }}`.
    Raises TemplateError."""
    if "{" not in template:
        return template
    if whole := _WHOLE.match(template):
        return json.loads(_rendered("{{ (" + whole[1] + ") | tojson }}", values, template), parse_constant=_refuse)
    return _rendered(template, values, template)


def render_all(value: Any, values: Mapping[str, Any]) -> Any:
    """Every text in a nested value rendered; the shape is the value's own, whatever the texts become."""
    if isinstance(value, str):
        return render(value, values)
    if isinstance(value, Mapping):
        return {str(key): render_all(inner, values) for key, inner in value.items()}
    return [render_all(inner, values) for inner in value] if isinstance(value, list | tuple) else value


def url_of(template: str, values: Mapping[str, Any]) -> str:
    """`template` as a URL: whatever an expression gives is quoted, so that it cannot leave its place. Raises
    TemplateError, and BadInput for a value that would lead elsewhere."""
    return _PIECE.sub(lambda piece: _quoted(_rendered(piece[0], values, template)), template)


def condition(expression: str, values: Mapping[str, Any]) -> bool:
    """Whether `expression` (with or without `{{ }}`) holds. Raises TemplateError."""
    return _rendered("{% if " + _bare(expression) + " %}1{% endif %}", values, expression) == "1"


def reads(template: str, *, expression: bool = False) -> tuple[frozenset[str], list[tuple[str, str]]]:
    """The variables that a template reads and, of `steps` and `last`, (step, field), the step of `last` being empty.
    Raises TemplateError for what is no template, or does what none may."""
    from jinja2 import Environment, TemplateAssertionError, nodes

    from bucle.customise.prompt.sandbox import Fault, compiled, uses

    text = "{{ (" + _bare(template) + ") }}" if expression else template
    if "{" not in text:
        return frozenset(), []
    try:
        try:
            names = uses(text)
        except TemplateAssertionError:  # a filter that is not there, which `compiled` tells best
            names = frozenset()
        compiled(text, names | VARIABLES)
    except Fault as fault:
        raise _explained(fault, template) from None
    found: list[tuple[str, str]] = []
    for get in Environment(autoescape=True).parse(text).find_all((nodes.Getattr, nodes.Getitem)):
        inner: Any = get.node  # type: ignore[attr-defined]
        if isinstance(inner, nodes.Getattr | nodes.Getitem) and _is(inner.node, "steps") and _key(inner):
            found.append((_key(inner), _key(get)))
        elif _is(inner, "steps") and _key(get):
            found.append((_key(get), ""))
        elif _is(inner, "last"):
            found.append(("", _key(get)))
    return names, found


def texts_in(value: Any) -> list[str]:
    """Every text in a nested value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for one in inner for text in texts_in(one)]


def _rendered(text: str, values: Mapping[str, Any], said: str) -> str:
    from bucle.customise.prompt.sandbox import Fault, compiled, rendered

    try:
        return rendered(compiled(text, VARIABLES), values)
    except Fault as fault:
        raise _explained(fault, said) from None


def _explained(fault: Any, template: str) -> TemplateError:
    hint = fault.hint
    if "printed whole" in fault.message:
        hint = "Write `| tojson` after a value that is no text, or name a part of it."
    return TemplateError(f"`{' '.join(template.split())[:60]}`: {fault.message}", hint)


def _quoted(text: str) -> str:
    if text in (".", ".."):
        raise BadInput("a value of the URL is `.` or `..`, which would lead elsewhere", "check that value")
    return quote(text, safe="")


def _refuse(name: str) -> Any:
    raise TemplateError(f"a template gives {name}, which is no number", "check what it calculates with")


def _is(node: nodes.Node, name: str) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Name) and node.name == name


def _key(node: Any) -> str:
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        return str(node.attr)
    return str(node.arg.value) if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else ""


def _bare(expression: str) -> str:
    whole = _WHOLE.match(expression)
    return (whole[1] if whole else expression).strip()
