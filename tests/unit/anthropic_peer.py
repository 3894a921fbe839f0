"""A model behind a real server on loopback over Anthropic's wire, as strict as theirs; a function says its replies.

test_anthropic_engine.py holds it to the official client.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-ant-test-1234"

FIELDS = {"model", "max_tokens", "messages", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream",
          "tools", "tool_choice", "metadata", "output_config", "thinking", "service_tier"}


@dataclass
class Failure(Exception):
    """What the provider refuses or fails with. `midway`: after so many pieces of a stream, as an event."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    midway: int = -1


Says = Callable[[dict[str, Any]], "str | list[dict[str, Any]] | Failure"]
"""The reply to a body: a text, or content blocks. A text that begins with `CUT ` is sent as cut off by max_tokens, one
with `DROP ` loses its connection half-way, `SLOW ` waits a second before its end."""


class Peer:
    """`asked` are the bodies that came, `headers` theirs."""

    def __init__(self, says: Says, unsupported: tuple[str, ...] = ()) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                peer.asked.append(body)
                peer.headers.append({k.lower(): v for k, v in self.headers.items()})
                try:
                    self._checked(body)
                    said = says(body)
                    if isinstance(said, Failure) and said.midway < 0:
                        raise said
                    self._answer(body, said)
                except Failure as failure:
                    self._send(failure.status, {"type": "error", "request_id": "req_1", "error": {
                        "type": failure.kind, "message": failure.message}}, failure.headers)

            def _checked(self, body: dict[str, Any]) -> None:
                def bad(message: str) -> Failure:
                    return Failure(400, "invalid_request_error", message)

                if self.path != "/v1/messages":
                    raise Failure(404, "not_found_error", "Not found")
                if KEY not in (self.headers["x-api-key"], (self.headers["authorization"] or "")[len("Bearer "):]):
                    raise Failure(401, "authentication_error", "invalid x-api-key")
                if not self.headers["anthropic-version"]:
                    raise bad("anthropic-version: header is required")
                for name in body:
                    if name not in FIELDS or name in unsupported:
                        raise bad(f"{name}: Extra inputs are not permitted")
                for name in ("model", "max_tokens", "messages"):
                    if name not in body:
                        raise bad(f"{name}: Field required")
                if body["model"].startswith("no-"):
                    raise Failure(404, "not_found_error", f"model: {body['model']}")
                if not 0 <= body.get("temperature", 0) <= 1:
                    raise bad("temperature: range: 0..1")
                if not body["messages"]:
                    raise bad("messages: at least one message is required")
                called: set[str] = set()
                for place, message in enumerate(body["messages"]):
                    if set(message) != {"role", "content"} or message["role"] not in ("user", "assistant"):
                        raise bad(f"messages.{place}: not a message")
                    if not message["content"]:
                        raise bad(f"messages.{place}: content must not be empty")
                    blocks = message["content"] if isinstance(message["content"], list) else []
                    results = {b["tool_use_id"] for b in blocks if b["type"] == "tool_result"}
                    if results - called:
                        raise bad(f"messages.{place}: unexpected `tool_use_id` found in `tool_result` blocks: "
                                  f"{sorted(results - called)[0]}")
                    if called - results:
                        raise bad(f"messages.{place}: `tool_use` ids were found without `tool_result` blocks "
                                  f"immediately after: {sorted(called - results)[0]}")
                    called = {b["id"] for b in blocks if b["type"] == "tool_use"}
                    if any(b["type"] == "text" and not b["text"].strip() for b in blocks):
                        raise bad("messages: text content blocks must be non-empty")
                for tool in body.get("tools", ()):
                    if set(tool) - {"name", "description", "input_schema", "strict", "type"}:
                        raise bad("tools.0: Extra inputs are not permitted")
                    if tool["input_schema"].get("type") != "object":
                        raise bad("tools.0.input_schema.type: Field required")

            def _answer(self, body: dict[str, Any], said: Any) -> None:
                failure = said if isinstance(said, Failure) else None
                said = "one two three four" if failure else said
                text = said if isinstance(said, str) else ""
                reason = "max_tokens" if text.startswith("CUT ") else "end_turn"
                blocks = [{"type": "text", "text": text.removeprefix("CUT ")}] if isinstance(said, str) else said
                stopped = None
                for mark in body.get("stop_sequences", ()):
                    if blocks[0]["type"] == "text" and mark in blocks[0]["text"]:
                        blocks[0]["text"] = blocks[0]["text"].partition(mark)[0]
                        reason, stopped = "stop_sequence", mark
                if any(b["type"] == "tool_use" for b in blocks):
                    reason = "tool_use"
                read = len(json.dumps(body["messages"]).split())
                wrote = sum(len(json.dumps(b).split()) for b in blocks)
                message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"] + "-20260101",
                           "content": blocks, "stop_reason": reason, "stop_sequence": stopped,
                           "usage": {"input_tokens": read, "output_tokens": wrote, "cache_creation_input_tokens": 0,
                                     "cache_read_input_tokens": 2}}
                if not body.get("stream"):
                    if text.startswith("DROP "):
                        self.send_response(200)
                        self.send_header("content-length", "1000")
                        self.end_headers()
                        self.wfile.write(b'{"type":')
                        self.close_connection = True
                        return
                    if text.startswith("SLOW "):
                        time.sleep(1)
                    self._send(200, message)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream; charset=utf-8")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self._say("message_start", message={**message, "content": [], "stop_reason": None,
                                                    "stop_sequence": None,
                                                    "usage": {**message["usage"], "output_tokens": 1}})
                self._say("ping")
                sent = 0
                for place, block in enumerate(blocks):
                    kind = block["type"]
                    empty = {"text": ""} if kind == "text" else {"input": {}}
                    self._say("content_block_start", index=place, content_block={**block, **empty})
                    whole = block["text"] if kind == "text" else json.dumps(block["input"])
                    for start in range(0, len(whole), 7):
                        if failure is not None and sent == failure.midway:
                            self._say("error", error={"type": failure.kind, "message": failure.message})
                            self.wfile.write(b"0\r\n\r\n")
                            return
                        if text.startswith("DROP ") and sent == 2:
                            self.close_connection = True
                            return
                        if text.startswith("SLOW ") and sent == 2:
                            time.sleep(1)
                        piece = whole[start:start + 7]
                        self._say("content_block_delta", index=place, delta={"type": "text_delta", "text": piece}
                                  if kind == "text" else {"type": "input_json_delta", "partial_json": piece})
                        sent += 1
                    self._say("content_block_stop", index=place)
                self._say("message_delta", delta={"stop_reason": reason, "stop_sequence": stopped},
                          usage={"output_tokens": wrote})
                self._say("message_stop")
                self.wfile.write(b"0\r\n\r\n")

            def _say(self, kind: str, **more: Any) -> None:
                data = f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def _send(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", "content-length": str(len(data)),
                                    "request-id": "req_1", **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda request, address: None  # type: ignore[method-assign] # a client that left
        self.server.block_on_close = False
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def anthropic_peer(says: Says, unsupported: tuple[str, ...] = ()) -> Iterator[Peer]:
    """`unsupported` are fields that this model does not take, as newer ones take no temperature."""
    peer = Peer(says, unsupported)
    try:
        yield peer
    finally:
        peer.server.shutdown()
        peer.server.server_close()
