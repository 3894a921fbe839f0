"""Drift: the alarm rate holds under no change, a new intent is found and explained, one caller is not a trend."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Trace
from bucle.monitor.drift import drift

INTENTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "intents-es" / "train.tsv"
WORDS = [
    f"{a}{b}{c}"
    for a in ("ca", "lu", "mi", "to", "re")
    for b in ("ra", "no", "si", "pe")
    for c in ("do", "la", "tu", "ves")
]


def trace(number: int, text: str, output: str = "", score: float | None = None, user: str = "") -> Trace:
    return Trace(
        id=f"t{number:05d}",
        at="2026-09-07T10:00:00+00:00",
        received_at="",
        route="r",
        model="m",
        input=text,
        output=output,
        score=score,
        user=user,
    )


def messages(rng: np.random.Generator, count: int, start: int = 0) -> list[Trace]:
    """Short messages of five topics, each with its own words, and a label and a confidence."""
    rows = []
    for number in range(count):
        topic = int(rng.integers(5))
        said = [*rng.choice(WORDS[topic * 12 : topic * 12 + 16], 3), *rng.choice(WORDS[60:], 3)]
        rows.append(trace(start + number, " ".join(said), f"topic{topic}", float(rng.beta(8, 2))))
    return rows


def test_alarm_rate_holds_without_change() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(
        drift(messages(rng, 120), messages(rng, 60, 500), alarm_rate=0.1, seed=seed).alarm
        for seed in range(60)
    )
    assert alarms <= 11  # 6 expected at most; P(more than 11) is 2% at the full rate


@pytest.mark.slow
def test_alarm_rate_holds_at_its_default() -> None:
    rng = np.random.default_rng(2)
    alarms = sum(drift(messages(rng, 300), messages(rng, 150, 500), seed=seed).alarm for seed in range(500))
    assert alarms <= 10  # 5 expected at most


def test_a_new_topic_is_found_and_explained() -> None:
    rng = np.random.default_rng(3)
    window = messages(rng, 180, 1000) + [
        trace(
            2000 + n,
            f"{rng.choice(['quiero', 'me interesan', 'cuánto valen'])} placas solares {rng.choice(WORDS)}",
            "topic1",
            0.5,
        )
        for n in range(20)
    ]
    found = drift(messages(rng, 400), window, seed=0)
    assert found.alarm
    assert found.p <= 0.01
    assert 0.05 <= found.score <= 0.15
    one = found.clusters[0]
    assert {"placas", "solares"} <= set(one["terms"])
    assert {"placas", "solares"} & set(one["label"].split("_"))
    assert all("placas solares" in text for text in one["examples"])
    assert set(one["traces"]) <= {f"t{2000 + n:05d}" for n in range(20)}
    assert found.to_dict()["kind"] in {"inputs", "words"}
    assert drift(messages(np.random.default_rng(3), 400), window, seed=0).p == found.p


def test_another_mix_of_labels_and_lower_confidence_are_told() -> None:
    rng = np.random.default_rng(4)
    old = messages(rng, 300)
    new = [
        one.model_copy(
            update={
                "output": "topic0" if int(one.id[1:]) % 2 else one.output,
                "score": (one.score or 0) * 0.6,
            }
        )
        for one in messages(rng, 200, 700)
    ]
    found = drift(old, new)
    told = {one["test"]: one for one in found.changed}
    assert set(told) == {"labels", "confidence"}
    assert told["labels"]["labels"][0]["label"] == "topic0"
    assert told["labels"]["labels"][0]["after"] > 0.5
    assert told["confidence"]["after"] < 0.7 < told["confidence"]["before"]


def test_one_caller_is_not_a_trend() -> None:
    rng = np.random.default_rng(5)
    old, new = messages(rng, 400), messages(rng, 200, 700)
    flood = [
        trace(5000 + n, "compre criptomonedas baratas aquí ya", "topic1", 0.8, user="spam") for n in range(60)
    ]
    assert not drift(old, new + flood).alarm
    varied = [
        trace(6000 + n, f"criptomonedas {WORDS[n]} baratas", "topic1", 0.8, user="spam") for n in range(60)
    ]
    assert drift(old, new + varied).score < 0.08


def test_embeddings_take_part() -> None:
    class Sides:
        """Knows what the words hide: the language of a sentence."""

        name, dimensions = "sides", 2

        def embed(self, texts):
            return [[1.0, 0.0] if hash_of(text) else [0.0, 1.0] for text in texts]

    def hash_of(text: str) -> bool:
        return sum(map(ord, text)) % 2 == 0

    rng = np.random.default_rng(6)
    everything = messages(rng, 1500)
    even, odd = ([one for one in everything if hash_of(one.input) is side] for side in (True, False))
    mixed = [one for pair in zip(even[:150], odd[:150], strict=True) for one in pair]
    assert not drift(mixed, even[200:350], seed=1).alarm
    assert drift(mixed, even[200:350], seed=1, embed=Sides()).alarm


def test_refusals_and_odd_texts() -> None:
    rng = np.random.default_rng(7)
    with pytest.raises(BadInput, match="20 traces"):
        drift(messages(rng, 10), messages(rng, 100))
    with pytest.raises(BadInput, match="alarm rate"):
        drift(messages(rng, 30), messages(rng, 30), alarm_rate=0)
    odd = [trace(n, text) for n, text in enumerate(["?!", "😀", "a" * 50_000, "\x00", "."] * 8)]
    assert drift(odd[:20], odd[20:]).p > 0.01


@pytest.mark.skipif(not INTENTS.exists(), reason="the development data ../shared/data/intents-es is not here")
@pytest.mark.parametrize("intent", ["alarm/cancel_alarm", "reminder/show_reminders"])
def test_an_unseen_intent_at_15_percent_of_real_messages(intent: str) -> None:
    rows = [line.rstrip("\n").split("\t") for line in INTENTS.read_text("utf-8").splitlines()]
    by = collections.defaultdict(list)
    for label, _, text in rows:
        by[label == intent].append(text)
    rng, found = np.random.default_rng(8), 0
    for trial in range(5):
        known = [trace(n, str(text)) for n, text in enumerate(rng.choice(by[False], 955, replace=False))]
        new = [trace(2000 + n, str(text)) for n, text in enumerate(rng.choice(by[True], 45, replace=False))]
        found += drift(known[:700], known[700:] + new, seed=trial).alarm
        assert not drift(known[:600], known[600:900], seed=trial).alarm
    assert found >= 4
