"""A worker's process over a host that repeats what it is told: what is tested with it is the process and the wire.

The last user message says how: `say TEXT`, `slow SECONDS`, `sleep SECONDS` (deaf meanwhile), `hang` (the model stops,
the process lives), `die`, `eat MB`, `overflow`, `ask` (the question as it came, as JSON). The name `broken` cannot be
loaded; `fragile` dies as soon as it is ready.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from bucle.core.engine import OFFERS, ChatAnswer, ChatAsk, Choice, Delta
from bucle.core.errors import ContextOverflow, ModelUnavailable
from bucle.core.records import Usage
from bucle.models.engines.host import Cancel, HostSpec, On
from bucle.models.engines.worker import serve


class EchoHost:
    def __init__(self, spec: HostSpec) -> None:
        if spec.name == "broken":
            raise ModelUnavailable("the weights are torn", "copy them again")
        if spec.name == "fragile":
            print("about to fall", flush=True)
            threading.Timer(0.05, os._exit, (9,)).start()
        self.spec, self.offers, self.adapters = spec, OFFERS - {"seed"}, tuple(spec.adapters)
        self.hung: float | None = None
        self.cancelled = 0

    def submit(self, ask: ChatAsk, adapter: str, on: On) -> Cancel:
        gone = threading.Event()
        threading.Thread(target=self._answer, args=(ask, adapter, on, gone), daemon=True).start()

        def cancel() -> None:
            self.cancelled += not gone.is_set()
            gone.set()
        return cancel

    def _answer(self, ask: ChatAsk, adapter: str, on: On, gone: threading.Event) -> None:
        verb, _, rest = ask.text.partition(" ")
        if verb == "die":
            print("dying as told", flush=True)
            os._exit(7)
        if verb == "overflow":
            on(ContextOverflow("900 tokens do not fit in 100", "say less"))
            return
        if verb == "hang":
            self.hung = time.monotonic()
            return
        if verb == "eat":
            try:
                bytearray(int(rest) * 2**20)
            except MemoryError as error:
                on(error)
                return
        if verb == "sleep":
            time.sleep(float(rest))
        text = json.dumps(dataclasses.asdict(ask)) if verb == "ask" else rest or "." * 200_000
        text = f"[{adapter or 'base'} {self.spec.folder}] {text}" if verb in ("say", "slow") else text
        pieces = text.split(" ") if verb == "slow" else [text]
        for number, piece in enumerate(pieces):
            if verb == "slow":
                for _ in range(20):
                    if gone.wait(0.01):
                        return
            if ask.stream:
                on(Delta((" " if number else "") + piece))
        gone.set()
        stopped = ask.stop[0] if ask.stop else ""
        on(ChatAnswer(tuple(Choice(text, stopped=stopped) for _ in range(ask.n)),
                      Usage(tokens_in=3, tokens_out=len(pieces))))

    def describe(self) -> Mapping[str, Any]:
        stalled = time.monotonic() - self.hung if self.hung is not None else 0.0
        secrets = [name for name in os.environ if "SECRET" in name]
        return {"engine": "echo", "stalled_s": stalled, "cancelled": self.cancelled, "secrets": secrets,
                "folder": os.getcwd(), "mode": oct(os.stat("s").st_mode & 0o777)}

    def close(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(serve(EchoHost))
