"""Our gateway as a user runs it, in front of one model server: traces, journal, guards, keys, budgets.

    python benchmarks/gateway_serve.py '{"upstream": 9000, "folder": "/tmp/x", "guards": true}'    prints port and key
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gateway_edge

from bucle.core.serving import Allowance, Guards
from bucle.ledger.keys import KeyStore
from bucle.ledger.spend_watch import SpendWatch
from bucle.ledger.store import Ledger
from bucle.ledger.traces import TraceStore
from bucle.loop.serving import redactor
from bucle.models.engines.wire import WireEngine
from bucle.serve.app import create_app
from bucle.serve.budgets import Accounts
from bucle.serve.guard import GuardSet
from bucle.serve.journal import Journal
from bucle.serve.keys import Keys
from bucle.serve.routes import Route
from bucle.serve.server import serve


def main(upstream: int, folder: str, guards: bool = True) -> None:
    gateway_edge.install()
    ledger = Ledger(Path(folder))
    keys = KeyStore(ledger)
    _, secret = keys.create("bench", by="bench", team="bench", usd_per_month=1000.0)
    engine = WireEngine("mock", f"http://127.0.0.1:{upstream}/v1", "mock", usd_per_million_in=0.15,
                        usd_per_million_out=0.6)
    watched = SpendWatch(ledger)
    app = create_app(
        {"mock": Route("mock", "chat", engine=engine)}, writer=TraceStore(ledger), redact=redactor(),
        guards=GuardSet(Guards()) if guards else (), keys=Keys((), (), keys),
        accounts=Accounts(watched, {"bench": Allowance(usd_per_month=10_000.0)}),
        journal=Journal(Path(folder) / "journal"))
    serve(app, "127.0.0.1", 0, ready=lambda url: print(url.rsplit(":", 1)[1], secret, flush=True))
    watched.close()
    ledger.close()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
