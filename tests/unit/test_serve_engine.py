"""Engines in threads: batches, order, failures of one input, streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from bucle.core.errors import ConfigError
from bucle.core.ports import ChatReply
from bucle.core.records import Prediction, Usage
from bucle.models.remote import forward_headers
from bucle.serve.engine import MAX_BATCH, Batcher, Pump
from bucle.serve.routes import Route
from bucle.serve.upstream import TemplateDrafter


class Upper:
    """Upper-cases; fails a whole batch that holds `boom`; remembers the size and headers of each batch."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, str]] = []
        self.gate = threading.Event()

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        self.gate.wait(5)
        self.batches.append((len(inputs), (forward_headers.get() or {}).get("x-upstream-ms", "")))
        if "boom" in inputs:
            raise ValueError("boom")
        return [Prediction(output=text.upper()) for text in inputs]


def test_waiting_requests_share_batches_and_keep_their_answers() -> None:
    engine = Upper()
    batcher = Batcher(engine, "r")
    futures = [batcher.submit(f"t{n}", {}) for n in range(40)]
    engine.gate.set()
    assert [f.result(5).prediction.output for f in futures] == [f"T{n}" for n in range(40)]
    assert max(size for size, _ in engine.batches) == MAX_BATCH
    assert sum(size for size, _ in engine.batches) == 40
    batcher.close()


def test_one_failure_stays_with_its_input() -> None:
    engine = Upper()
    batcher = Batcher(engine, "r")
    futures = [batcher.submit(text, {}) for text in ("a", "b", "boom", "c")]
    engine.gate.set()
    assert [f.result(5).prediction.output for f in (futures[0], futures[1], futures[3])] == ["A", "B", "C"]
    with pytest.raises(ValueError, match="boom"):
        futures[2].result(5)
    batcher.close()


def test_a_cancelled_request_is_not_predicted_and_headers_do_not_mix() -> None:
    engine = Upper()
    batcher = Batcher(engine, "r")
    first = batcher.submit("first", {})
    gone, slow, quick = (batcher.submit(t, h) for t, h in
                         (("gone", {}), ("slow", {"x-upstream-ms": "9"}), ("quick", {})))
    assert gone.cancel() or not first.done()
    engine.gate.set()
    assert slow.result(5).prediction.output == "SLOW"
    assert quick.result(5).prediction.output == "QUICK"
    assert [size for size, header in engine.batches if header == "9"] == [1]
    batcher.close()


def test_a_pump_gives_pieces_then_none_and_closes_the_model() -> None:
    ended = threading.Event()

    def pieces() -> Iterator[str | ChatReply]:
        try:
            yield "a"
            yield ChatReply("a", Usage())
        finally:
            ended.set()

    pump = Pump(pieces, {})
    assert pump.next() == "a"
    pump.close()
    assert ended.is_set()
    assert pump.next() is None


@pytest.mark.parametrize("options", [{"kind": "classify"}, {"kind": "chat", "predictor": Upper()},
                                     {"kind": "classify", "predictor": Upper(), "chat": TemplateDrafter()}])
def test_a_route_has_exactly_its_own_engine(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Route("r", **options)  # type: ignore[arg-type]


def test_the_stand_in_drafts_within_its_limits() -> None:
    drafter = TemplateDrafter(language="en")
    messages = [{"role": "user", "content": "my bill {x} is wrong"}]
    whole = drafter.chat(messages, max_tokens=100)
    assert "my bill {x} is wrong" in whole.text
    assert whole.usage == Usage(tokens_in=5, tokens_out=len(whole.text.split()))
    short = ChatReply("Thank you", Usage(tokens_in=5, tokens_out=2), "length")
    assert drafter.chat(messages, max_tokens=2) == short
