"""What a model is told for each kind of text task, in Spanish or English, and the conversation that one input makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.ports import Message
from bucle.customise.conversation import conversation

__all__ = ["language_of", "needed_by", "system_for", "text_messages", "thinking"]

_TASK = {
    "es": {
        "summarise": "Resume el texto en pocas frases, solo con lo que dice. Responde solo con el resumen.",
        "translate": "Traduce el texto{source}{target}. Responde solo con la traducción.",
        "extract": "Extrae los datos del texto. Responde solo con un objeto JSON; lo que el texto no dice es null.",
        "generate": "Escribe el texto que se pide. Responde solo con el texto.",
        "instruct": "Haz exactamente lo que se pide. Responde solo con el resultado.",
        "converse": "Continúa la conversación como asistente: responde al último mensaje.",
        "code": "Escribe en Python lo que se pide. Responde solo con un bloque ```python completo, sin explicaciones.",
    },
    "en": {
        "summarise": "Summarise the text in a few sentences, only with what it says. Answer with the summary only.",
        "translate": "Translate the text{source}{target}. Answer with the translation only.",
        "extract": "Extract the data from the text. Answer with one JSON object only; what the text lacks is null.",
        "generate": "Write the text that is asked for. Answer with the text only.",
        "instruct": "Do exactly what is asked. Answer with the result only.",
        "converse": "Go on with the conversation as the assistant: answer the last message.",
        "code": "Write in Python what is asked. Answer with one complete ```python block only, without explanations.",
    },
}
_WORDS = {
    "es": {"from": " de {}", "to": " a {}", "voice": "La voz de la marca", "schema": "El esquema del objeto",
           "fields": "Los campos", "user": "Usuario", "assistant": "Asistente", "example": "Ejemplo"},
    "en": {"from": " from {}", "to": " to {}", "voice": "The voice of the brand", "schema": "The object's schema",
           "fields": "The fields", "user": "User", "assistant": "Assistant", "example": "Example"},
}
_LANGUAGES = {
    "es": {"es": "español", "en": "inglés", "ca": "catalán", "gl": "gallego", "eu": "euskera", "pt": "portugués",
           "fr": "francés", "de": "alemán", "it": "italiano"},
    "en": {"es": "Spanish", "en": "English", "ca": "Catalan", "gl": "Galician", "eu": "Basque", "pt": "Portuguese",
           "fr": "French", "de": "German", "it": "Italian"},
}
_THINK = {
    "es": "Razona primero paso a paso, en pocas frases. Después escribe una línea que empiece por `RESPUESTA:` y, "
    "tras ella, solo la respuesta.",
    "en": "Reason first, step by step, in a few sentences. Then write a line that begins with `ANSWER:` and, after it, "
    "the answer only.",
}


def language_of(params: Mapping[str, Any]) -> str:
    """The language of the default instructions: that of the project where there are some, else English."""
    asked = str(params.get("language") or "es")
    return asked if asked in _TASK else "en"


def system_for(kind: str, params: Mapping[str, Any], fields: Sequence[str] = ()) -> str:
    """The system message of a text task: the team's `instruction` or the kind's own, with what it always needs: the
    languages, the voice, the schema (or the `fields` of the training rows)."""
    language = language_of(params)
    words = _WORDS[language]
    ways = {
        "source": words["from"].format(_called(params["source"], language)) if params.get("source") else "",
        "target": words["to"].format(_called(params["target"], language)) if params.get("target") else "",
    }
    told = str(params.get("instruction") or "") or _TASK[language][kind].format(**ways)
    schema = params.get("schema") if kind == "extract" else None
    return "\n".join([told, *needed_by(kind, params, schema or {}, fields).values()])


def needed_by(kind: str, params: Mapping[str, Any], schema: Mapping[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """What stands in the system message whoever wrote the rest of it, by its name: the brand's voice of a text to be
    written, the schema of an object (without one, the fields of the training rows)."""
    words, found = _WORDS[language_of(params)], {}
    if kind in ("generate", "converse") and params.get("voice"):
        found["voice"] = f"{words['voice']}: {params['voice']}"
    if schema:
        found["schema"] = f"{words['schema']}:\n{json.dumps(schema, ensure_ascii=False)}"
    elif kind == "extract" and fields:
        found["fields"] = f"{words['fields']}: {', '.join(fields)}"
    return found


def thinking(params: Mapping[str, Any]) -> str:
    """The sentence that asks for reasoning before the answer."""
    return _THINK[language_of(params)]


def text_messages(
    kind: str, system: str, text: str, shown: Sequence[tuple[str, str]], language: str = "es"
) -> list[Message]:
    """The conversation for one input: system, examples as earlier turns, the input.

    A conversation to be continued keeps its own turns, and its examples stand in the system message, where they cannot
    be taken for something that was said. Raises BadInput for an input that is no conversation.
    """
    if kind != "converse":
        messages: list[Message] = [{"role": "system", "content": system}]
        for asked, answer in shown:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return [*messages, {"role": "user", "content": text}]
    words = _WORDS[language]
    turns = conversation(text)
    parts = [system]
    for asked, answer in shown:
        said = [*conversation(asked), {"role": "assistant", "content": answer}]
        lines = "\n".join(f"{words.get(m['role'], m['role'])}: {m['content']}" for m in said)
        parts.append(f"{words['example']}:\n{lines}")
    parts += [m["content"] for m in turns if m["role"] == "system"]
    return [{"role": "system", "content": "\n\n".join(parts)}, *(m for m in turns if m["role"] != "system")]


def _called(code: Any, language: str) -> str:
    return _LANGUAGES[language].get(str(code).lower(), str(code))
