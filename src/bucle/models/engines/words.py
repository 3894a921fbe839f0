"""OpenAI's words as an engine's own process reads and writes them: the other end of WireEngine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta
from bucle.core.errors import BadInput

__all__ = ["Words", "ask_of"]


def ask_of(body: Any, *, chat: bool) -> ChatAsk:
    """The question in a body of /chat/completions or /completions. Its values were checked by whoever sent it: here
    only their types are. `regex` is taken as `regex`, `guided_regex` or `structured_outputs.regex`."""
    if not isinstance(body, dict):
        raise BadInput("the body is not a JSON object")
    try:
        kind = body.get("response_format") or {}
        schema = kind["json_schema"].get("schema") or {} if kind.get("type") == "json_schema" else None
        outputs = body.get("structured_outputs") or {}
        stop = body.get("stop") or ()
        chosen: int | None = None
        if chat and body.get("logprobs"):
            chosen = int(body.get("top_logprobs") or 0)
        elif not chat and body.get("logprobs") is not None and body["logprobs"] is not False:
            chosen = int(body["logprobs"])
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return ChatAsk(
            model=str(body.get("model") or ""),
            messages=tuple(dict(message) for message in body["messages"]) if chat else (),
            prompt=None if chat else str(body["prompt"]),
            max_tokens=None if limit is None else int(limit),
            temperature=_float(body.get("temperature")), top_p=_float(body.get("top_p")),
            presence_penalty=_float(body.get("presence_penalty")),
            frequency_penalty=_float(body.get("frequency_penalty")),
            logit_bias={str(token): float(bias) for token, bias in (body.get("logit_bias") or {}).items()},
            stop=(stop,) if isinstance(stop, str) else tuple(str(one) for one in stop),
            seed=None if body.get("seed") is None else int(body["seed"]), n=int(body.get("n") or 1),
            top_logprobs=chosen, tools=tuple(dict(tool) for tool in body.get("tools") or ()),
            tool_choice=body.get("tool_choice"), parallel_tool_calls=body.get("parallel_tool_calls"),
            schema=schema, any_json=kind.get("type") == "json_object",
            regex=body.get("regex") or body.get("guided_regex") or outputs.get("regex"),
            stream=bool(body.get("stream")), user=str(body.get("user") or ""))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"the request cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Words:
    """Answers to one request, as bodies and as events. `chat` False: those of /completions."""

    model: str
    chat: bool

    def whole(self, answer: ChatAnswer) -> dict[str, Any]:
        """The body of a plain reply."""
        return self._frame("chat.completion" if self.chat else "text_completion") | {
            "choices": [self._choice(number, choice) for number, choice in enumerate(answer.choices)],
            "usage": self._usage(answer)}

    def delta(self, piece: Delta) -> dict[str, Any]:
        """One event of a streamed reply."""
        choice: dict[str, Any] = {"index": piece.index, "finish_reason": None}
        if self.chat:
            choice["delta"] = {"content": piece.text} if piece.text or not piece.tool_calls else {}
            if piece.tool_calls:
                choice["delta"]["tool_calls"] = list(piece.tool_calls)
            choice["logprobs"] = piece.logprobs
        else:
            choice |= {"text": piece.text, "logprobs": _plain(piece.logprobs)}
        return self._event([choice])

    def end(self, answer: ChatAnswer) -> list[dict[str, Any]]:
        """The last events: how each choice ended, then the usage."""
        nothing: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        ends = [self._event([{"index": number, "finish_reason": choice.finish, **nothing, **_stopped(choice)}])
                for number, choice in enumerate(answer.choices)]
        return [*ends, self._event([]) | {"usage": self._usage(answer)}]

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        if not self.chat:
            return {"index": number, "text": choice.text, "finish_reason": choice.finish,
                    "logprobs": _plain(choice.logprobs), **_stopped(choice)}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        if choice.tool_calls:
            message |= {"tool_calls": list(choice.tool_calls), "content": choice.text or None}
        if choice.refusal is not None:
            message["refusal"] = choice.refusal
        return {"index": number, "message": message, "finish_reason": choice.finish, "logprobs": choice.logprobs,
                **_stopped(choice)}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._frame("chat.completion.chunk" if self.chat else "text_completion") | {"choices": choices}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": "local", "object": kind, "created": 0, "model": self.model}

    @staticmethod
    def _usage(answer: ChatAnswer) -> dict[str, int]:
        use = answer.usage
        return {"prompt_tokens": use.tokens_in, "completion_tokens": use.tokens_out,
                "total_tokens": use.tokens_in + use.tokens_out}


def _stopped(choice: Choice) -> dict[str, str]:
    """The stop string that ended it, by the name that vLLM gives it."""
    return {"stop_reason": choice.stopped} if choice.stopped else {}


def _plain(logprobs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Logprobs as /completions writes them, from those of a chat."""
    if logprobs is None:
        return None
    said = logprobs.get("content") or []
    return {"tokens": [one["token"] for one in said], "token_logprobs": [one["logprob"] for one in said],
            "top_logprobs": [{top["token"]: top["logprob"] for top in one.get("top_logprobs", ())} for one in said]}
