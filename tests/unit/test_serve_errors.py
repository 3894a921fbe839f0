"""What whoever asks is told of a failure: what they can mend is named, what the server lacks is the server's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bucle.core.engine import AskContext, ChatAsk
from bucle.core.errors import BadInput
from bucle.models.endpoint import BrokenOff, NotSetUp, Refused, TimedOut
from bucle.models.engines.tools import prompt_of
from bucle.models.engines.wire import WireEngine
from bucle.models.engines.wire_errors import refusal
from bucle.models.engines.worker import _error
from bucle.serve.errors import ApiError, from_exception

ASK = ChatAsk("m", ({"role": "user", "content": "hola"},), schema={"type": "object", "properties": {
    "n": {"not": {"type": "string"}}}})


def told(message: str, ask: ChatAsk = ASK, **error: Any) -> ApiError:
    body = {"error": {"message": message, **error}}
    return from_exception(refusal("nano", "http://127.0.0.1:9", "m", "", body, status=400, ask=ask))


@pytest.mark.parametrize(("said", "keyword"), [
    ("The JSON schema cannot be followed: Unimplemented keys: [\"not\"]", "not"),
    ("`not` in a JSON schema is not followed by the engine openvino.", "not"),
    ("Invalid schema for response_format 'answer': 'not' is not permitted", "not"),
    ("The JSON schema cannot be followed: 'secret-of-the-server' is odd", ""),
])
def test_a_schema_that_is_not_followed_is_told_by_the_askers_own_keyword(said: str, keyword: str) -> None:
    error = told(said)
    assert (error.status, error.code, error.param) == (400, "unsupported_schema", "response_format")
    assert error.message == (f"this model does not follow `{keyword}` in the JSON schema; leave it out" if keyword
                             else "this model cannot follow the JSON schema; send a simpler one")
    assert said in error.detail, "the trace has the rest"


def test_an_expression_and_the_schema_of_a_tool_are_named_too() -> None:
    error = told("The regular expression cannot be read: x", ChatAsk("m", ASK.messages, regex="("))
    assert (error.param, "regular expression" in error.message) == ("regex", True)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"if": {}}}}
    error = told("`if` in a JSON schema is not followed", ChatAsk("m", ASK.messages, tools=(tool,)))
    assert (error.param, "`if`" in error.message) == ("tools", True)
    assert told("something else", ChatAsk("m", ASK.messages)).code == "bad_input"


def test_a_model_without_a_chat_template_is_the_servers_to_mend() -> None:
    class Raw:
        chat_template = None

    with pytest.raises(NotSetUp) as caught:
        prompt_of(Raw(), ASK)
    status, body = _error(caught.value)  # as the engine's process says it over its socket
    error = refusal("nano", "http://x", "m", "", json.loads(json.dumps(body)), status=status, ask=ASK)
    assert isinstance(error, Refused), "another target is asked, the same one not again"
    found = from_exception(error)
    assert (found.status, found.code, found.kind) == (502, "model_not_set_up", "NotSetUp")
    assert "chat template" in found.message
    assert not isinstance(error, BadInput)


def test_a_connection_that_breaks_is_not_called_late() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    async def asked() -> BaseException:
        server = await asyncio.start_server(breaks, "127.0.0.1", 0)
        engine = WireEngine("far", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m", timeout_s=5)
        try:
            await engine.complete(ChatAsk("m", ASK.messages), AskContext())
        except BrokenOff as error:
            return error
        finally:
            await engine.close()
            server.close()
        raise AssertionError("it answered")

    found = from_exception(asyncio.run(asked()))
    assert (found.status, found.code) == (502, "engine_unavailable")
    assert "time" not in found.message
    assert from_exception(TimedOut("slow")).code == "upstream_timeout"
