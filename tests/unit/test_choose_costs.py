"""Costs: the month of a candidate, machines for the traffic, the break-even with its steps, and hard limits."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucle.choose.costs import HOURS_PER_MONTH, Hosting, break_even, monthly, per_request, replicas, ruled_out
from bucle.choose.costs_plot import Line, plot
from bucle.core.choosing import Constraints, Costs, ModelFacts
from bucle.core.errors import BadInput


def test_a_request_costs_its_tokens_in_and_out() -> None:
    known = ModelFacts(usd_per_million_in=0.15, usd_per_million_out=0.6)
    assert per_request(known, 1000, 500) == pytest.approx(0.00045)
    assert per_request(ModelFacts(usd_per_million_in=0.15), 1000, 1) is None
    assert per_request(ModelFacts(usd_per_million_in=0.15), 1000, 0) == pytest.approx(0.00015)


def test_an_api_is_paid_by_the_request_and_a_machine_by_the_hour() -> None:
    costs = Costs(requests_per_month=200_000, usd_per_hour=0.5, training_usd_per_hour=2, months=10)
    api = monthly(costs, usd_per_1k=0.4)
    assert (api.usd, api.api, api.hosting, api.replicas) == (80.0, 80.0, 0.0, 0)
    own = monthly(costs, hosted=True, requests_per_second=5, training_hours=3)
    assert own.hosting == pytest.approx(0.5 * 730)
    assert own.training == pytest.approx(0.6)
    assert own.usd == pytest.approx(own.hosting + own.training)
    assert any("as measured here" in told for told in own.assumes)
    assert any("3 times" in told for told in own.assumes)


def test_machines_are_rented_for_the_busiest_hour() -> None:
    machine = Hosting(1.0, requests_per_second=2, peak=3)
    assert machine.capacity == pytest.approx(2 * 3600 * HOURS_PER_MONTH / 3)
    assert [replicas(n, machine) for n in (0, 1, machine.capacity, machine.capacity + 1)] == [1, 1, 1, 2]
    with pytest.raises(BadInput, match="answers no request"):
        replicas(1, Hosting(1.0, 0.0))


def test_a_speed_that_nobody_knows_is_asked_for_only_where_it_costs() -> None:
    with pytest.raises(BadInput, match="requests a second") as caught:
        monthly(Costs(usd_per_hour=1), hosted=True)
    assert "bucle choose" in caught.value.hint
    assert monthly(Costs(), hosted=True).usd == 0


def test_hosting_that_is_dearer_at_full_load_never_breaks_even() -> None:
    machine = Hosting(1.0, requests_per_second=0.1, peak=1)
    full = 1000 * machine.usd_per_month / machine.capacity
    found = break_even(full * 0.99, machine)
    assert found.requests is None
    assert "never gets cheaper" in found.why
    assert break_even(0.0, machine).requests is None
    assert break_even(1.0, Hosting(1.0, 0.0)).requests is None


@settings(max_examples=300, deadline=None)
@given(price=st.floats(0.05, 20), hour=st.floats(0.01, 5), capacity=st.integers(20, 400),
       training=st.one_of(st.just(0.0), st.floats(0, 3000)))
def test_the_break_even_is_the_one_that_counting_finds(
    price: float, hour: float, capacity: int, training: float
) -> None:
    """Against the definition, request by request: where hosting is no dearer than the API."""
    price *= 1000  # dollars a thousand, so that volumes small enough to count matter
    machine = Hosting(hour, capacity / (3600 * HOURS_PER_MONTH) * (1 + 1e-9), peak=1)
    found = break_even(price, machine, training_usd_per_month=training)

    def hosting_wins(n: int) -> bool:
        own = math.ceil(n / capacity) * machine.usd_per_month + training
        return own <= n * price / 1000 * (1 + 1e-9)

    wins = [hosting_wins(n) for n in range(1, 40 * capacity + 1)]
    if found.requests is None:
        assert not any(wins)
    elif found.requests <= len(wins):
        assert wins.index(True) + 1 == pytest.approx(found.requests, abs=1)
        if found.until is not None and found.until < len(wins):
            assert all(wins[found.requests:found.until - 1])
            assert not wins[found.until]
        if found.always is not None and found.always < len(wins):
            assert all(wins[found.always:])
            if found.always > found.requests:
                assert not all(wins[found.requests:found.always])


def test_a_licence_place_or_price_that_nobody_knows_breaks_a_limit_on_it() -> None:
    asked = Constraints(licence="commercial", residency=("eu",), usd_per_1k=1)
    told = ruled_out(ModelFacts(), asked)
    assert len(told) == 3
    assert all("not known" in reason and "catalogue:" in reason for reason in told)
    assert ruled_out(ModelFacts(), Constraints()) == []
    assert ruled_out(ModelFacts(), Constraints(languages=("es",), context=8000)) == []  # these the comparison measures


@pytest.mark.parametrize(("known", "asked", "says"), [
    ({"licence": "research", "licence_name": "CC-BY-NC-4.0"}, {"licence": "commercial"}, "CC-BY-NC-4.0"),
    ({"licence": "commercial"}, {"licence": "open"}, "`open` is asked for"),
    ({"residency": ("us",)}, {"residency": ("eu",)}, "processed in us"),
    ({"residency": ("us", "eu")}, {"residency": ("eu",)}, "processed in us, eu"),
    ({"context": 4096}, {"context": 8000}, "8,000 are asked for"),
    ({"languages": ("en",)}, {"languages": ("es",)}, "not said to know es"),
])
def test_what_is_known_to_break_a_limit_is_told(
    known: dict[str, object], asked: dict[str, object], says: str
) -> None:
    [reason] = ruled_out(ModelFacts.model_validate(known), Constraints.model_validate(asked))
    assert says in reason


def test_what_keeps_the_limits_is_not_ruled_out() -> None:
    open_ = ModelFacts(licence="open", residency=("eu",), languages=("es", "*"), context=8000)
    asked = Constraints(licence="commercial", residency=("eu", "local"), languages=("es", "ca"), usd_per_1k=1)
    assert ruled_out(open_, asked, usd_per_1k=1.0, needed=8000) == []
    local = ModelFacts(licence="open", residency=("local",))
    assert ruled_out(local, Constraints(residency=("eu",)), usd_per_1k=0.0) == []  # nothing leaves the machine


def test_the_longest_row_and_the_months_bill_are_limits() -> None:
    told = ruled_out(ModelFacts(context=1000), Constraints(usd_per_1k=0.5, usd_per_month=10), usd_per_1k=0.6,
                     requests_per_month=100_000, needed=1001)
    assert [part in reason for part, reason in zip(("1,001", "0.6 dollars", "60.00 dollars a month"), told,
                                                   strict=True)] == [True] * 3


def test_a_machine_counts_into_the_months_bill() -> None:
    limit = Constraints(usd_per_month=10)
    [reason] = ruled_out(ModelFacts(), limit, usd_per_1k=0.0, requests_per_month=10_000, hosting=292.0)
    assert reason == ("would cost 292.00 dollars a month at 10,000 requests (292.00 of them for machines); 10 is the "
                      "limit")
    assert ruled_out(ModelFacts(), limit, usd_per_1k=0.5, requests_per_month=10_000, hosting=5.0) == []
    assert ruled_out(ModelFacts(), limit, usd_per_1k=0.5, requests_per_month=10_000, hosting=5.1)


def test_the_plot_is_a_picture_of_the_costs(tmp_path: Path) -> None:
    machine = Hosting(0.4, 5.0)
    line = Line("own", 0.0, machine, 3.0, break_even(0.5, machine, training_usd_per_month=3.0).requests)
    assert line.usd(1) == pytest.approx(295)
    assert line.usd(machine.capacity * 1.5) == pytest.approx(587)
    plot([Line("api", 0.5), line], tmp_path / "costs.png", title="t", traffic=10_000)
    data = (tmp_path / "costs.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1260, 750)
