"""The loop's sentences: both languages say the same with the same figures, and every one that is made is known."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

import bucle
from bucle.core.records import Trace
from bucle.evaluate.gate import GateFacts, Reference, check_gates
from bucle.loop.sentences import alert_text, say
from bucle.monitor import service

SENTENCES = json.loads(resources.files("bucle.loop").joinpath("sentences.json").read_text("utf-8"))
SOURCE = Path(bucle.__file__).parent
FIELD = re.compile(r"{(\w+)")


def test_both_languages_have_every_sentence_and_use_the_same_figures() -> None:
    assert SENTENCES.keys() == {"es", "en"}
    assert SENTENCES["es"].keys() == SENTENCES["en"].keys()
    for key, text in SENTENCES["es"].items():
        assert sorted(FIELD.findall(text)) == sorted(FIELD.findall(SENTENCES["en"][key])), key


def test_numbers_follow_the_language() -> None:
    told = say("baseline_stands", {"best_baseline": "tfidf", "baseline_value": 0.7654, "rows": 217})
    assert "tfidf (76,5\u00a0%) con 217" in told["es"]
    assert "tfidf (76.5%) on 217" in told["en"]
    gain = say("gain", {"a": 0.5, "b": 0.6, "n": 9, "d": 10.0, "low": -1.5, "high": 21.5})
    assert "−1,5 a +21,5" in gain["es"]
    assert "−1.5 to +21.5" in gain["en"]


def test_what_is_not_known_falls_back_on_the_stored_text() -> None:
    assert say("alert.nothing", {}) == {}
    assert say("gain", {"a": 1}) == {}
    assert alert_text({"message": "as stored"}) == {"es": "as stored", "en": "as stored"}


@pytest.mark.parametrize(("file", "prefix", "made"), [
    ("monitor/service.py", "alert.", r'"key": "(\w+)"|"(latency_\w+)"'),
    ("monitor/alerts.py", "alert.", r'"key": "(\w+)"|"(drift_new|suspicious)"'),
    ("evaluate/gate.py", "gate.", r'_say\("(\w+)"|"((?:no|not|judge|licence)_\w+|interval_number)"'),
    ("evaluate/compare.py", "", r'key = "(\w+)"|"(baseline_stands|allowed_baseline_stands|best|cheapest_as_good)"'),
])
def test_every_key_that_is_made_has_its_sentence(file: str, prefix: str, made: str) -> None:
    found = {one for pair in re.findall(made, (SOURCE / file).read_text("utf-8")) for one in pair if one}
    assert len(found) >= 2
    assert {prefix + one for one in found} <= SENTENCES["en"].keys()


def test_each_gate_note_is_told_in_spanish() -> None:
    scores = {"accuracy": [1.0] * 30 + [0.0] * 10}
    facts = GateFacts(rows=40, metrics={"accuracy": 0.75, "p95_ms": 20.0}, per_row=scores,
                      baseline=Reference("baseline", {"accuracy": 0.5}, {"accuracy": [1.0] * 20 + [0.0] * 20}))
    gates = ["accuracy >= 0.5 at 95%", "accuracy >= baseline - 0.02 at 95%", "accuracy >= baseline",
             "accuracy >= production", "ece <= 0.1", "p95_ms <= 100"]
    checks = check_gates(gates, facts).checks
    told = [say(f"gate.{check.say['key']}", check.say["figures"])["es"] if check.say else "" for check in checks]
    assert told[0].startswith("75,0\u00a0%, intervalo de ")
    assert told[1].startswith("Diferencia con la referencia: +0,250")
    assert told[2] == "La referencia mide 0,5."
    assert told[3] == "Aún no hay producción con la que comparar."
    assert told[4] == "No se ha medido ece."
    assert told[5] == checks[5].note == ""
    assert [bool(check.note) for check in checks] == [bool(text) for text in told]


def test_a_finding_is_told_in_both_languages() -> None:
    def timed(ms: float) -> list[Trace]:
        return [Trace(id=f"trace:{n}", at="2026-09-07T10:00:00+00:00", received_at="", route="r", model="m", input="x",
                      ms=ms) for n in range(40)]

    found = service.latency(timed(900.0), timed(100.0))
    assert found is not None
    told = alert_text({"message": found.message, "detail": {"say": dict(found.say)}})
    assert told["es"] == "La latencia p95 es de 900 ms, 9,0 veces la habitual (100 ms)."
    assert told["en"] == "p95 latency is 900 ms, 9.0 times the usual 100 ms."
