"""A model behind a real server on loopback, over the OpenAI wire as a provider is; a function says its replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor, Technique
from bucle.core.records import Example, TaskKind
from bucle.models.endpoint import RateLimited
from bucle.models.remote import OpenAIChat

Says = Callable[[list[dict[str, str]], dict[str, Any]], str]
"""The reply to messages and the whole body. One that begins with `CUT ` is sent as cut off by its length; BadInput is
the provider's refusal (400)."""


class Peer:
    """`asked` are the bodies that came, in order of arrival. `hidden`: tokens of reasoning out of sight, which are
    billed with each reply whatever `max_tokens` says."""

    hidden = 0

    def __init__(self, says: Says) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with peer.lock:
                    peer.asked.append(body)
                try:
                    text = says(body["messages"], body)
                except BadInput as error:
                    self._send(400, {"error": {"message": error.message}})
                    return
                except RateLimited as error:
                    self._send(429, {"error": {"message": error.message}}, {"retry-after": str(error.retry_after)})
                    return
                finish = "length" if text.startswith("CUT ") else "stop"
                message = {"role": "assistant", "content": text.removeprefix("CUT ")}
                size = sum(len(m["content"].split()) for m in body["messages"])
                self._send(
                    200,
                    {
                        "choices": [{"message": message, "finish_reason": finish}],
                        "usage": {"prompt_tokens": size, "completion_tokens": len(text.split()) + peer.hidden},
                    },
                )

            def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def remote(says: Says) -> Iterator[tuple[OpenAIChat, Peer]]:
    peer = Peer(says)
    chat = OpenAIChat("gpt", peer.url, "m", "", 10, max_retries=0)
    try:
        yield chat, peer
    finally:
        chat.close()
        peer.server.shutdown()
        peer.server.server_close()


def fitted(
    technique: Technique,
    out: Any,
    kind: TaskKind,
    train: Sequence[Example],
    *,
    chat: Any = None,
    labels: Sequence[str] = (),
    folders: Any = None,
    **params: Any,
) -> tuple[Predictor, dict[str, Any]]:
    """A technique fitted into the new folder `out` and loaded again, with its figures; nothing but data is written."""
    out.mkdir(exist_ok=True)
    figures = technique.fit(
        FitContext(
            out=out,
            work=out,
            train=train,
            validation=(),
            labels=labels,
            params=params,
            seed=7,
            chat=chat,
            kind=kind,
            report=lambda done, total, note="": None,
            **(folders or {}),
        )
    )
    json.dumps(figures, allow_nan=False)
    assert {p.suffix for p in out.iterdir()} <= {".json", ".safetensors"}
    return technique.load(
        out, LoadContext(labels=labels, params=params, seed=7, chat=chat, kind=kind, **(folders or {}))
    ), dict(figures)
