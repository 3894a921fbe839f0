"""The climb: what pays is tried, what does not is told, and budgets hold."""

from __future__ import annotations

import pytest

from bucle.choose.climb import Climb, Expected
from bucle.core.choosing import Budget, Costs


def test_without_a_price_or_a_budget_everything_is_climbed() -> None:
    climb = Climb(Costs(), Budget())
    climb.saw(0.95, free=True)
    assert climb.decide("lora", Expected(usd_once=1000, minutes=1000, usd_month=1e6)).climbed


def test_a_rung_is_climbed_only_where_its_expected_gain_pays() -> None:
    climb = Climb(Costs(usd_per_point=10, months=12), Budget())
    climb.saw(0.80, free=True)
    # a quarter of the 20 points left: 5 points, worth 50 dollars a month
    cheap, dear = climb.decide("few-shot", Expected(usd_month=49)), climb.decide("big", Expected(usd_month=51))
    assert cheap.climbed
    assert not dear.climbed
    assert dear.key == "does_not_pay"
    assert dear.figures["gain"] == pytest.approx(0.05)
    assert dear.figures["worth"] == pytest.approx(50)
    assert dear.figures["most"] == pytest.approx(200)


def test_what_is_paid_once_is_spread_over_the_months() -> None:
    climb = Climb(Costs(usd_per_point=10, months=10), Budget())
    climb.saw(0.80, free=True)
    assert climb.decide("a", Expected(usd_once=490)).climbed
    assert not climb.decide("b", Expected(usd_once=510)).climbed


def test_disappointments_lower_what_is_expected_and_gains_raise_it() -> None:
    poor, good = Climb(Costs(usd_per_point=1), Budget()), Climb(Costs(usd_per_point=1), Budget())
    for climb, seen in ((poor, 0.5), (good, 0.9)):
        climb.saw(0.5, free=True)
        before = climb.share
        climb.saw(seen)
        assert (climb.share < before) is (seen == 0.5)
    assert poor.share == pytest.approx((0.25 * 2) / 3)
    assert good.share == pytest.approx((0.25 * 2 + 0.8) / 3)


def test_a_better_rung_that_costs_more_than_it_is_worth_is_not_the_mark() -> None:
    climb = Climb(Costs(usd_per_point=1), Budget())
    climb.saw(0.80, free=True)
    climb.saw(0.85, usd_month=1000)
    assert climb.decide("next", Expected(usd_month=6)).figures["best"] == pytest.approx(0.80)


def test_budgets_hold_and_free_rungs_pass_them() -> None:
    climb = Climb(Costs(), Budget(usd=1.0, minutes=10))
    assert climb.decide("a", Expected(usd_once=0.6, minutes=5)).climbed
    climb.saw(0.5, usd=0.6, minutes=5)
    over = climb.decide("b", Expected(usd_once=0.5))
    assert (over.climbed, over.key) == (False, "over_usd")
    late = climb.decide("c", Expected(minutes=5.1))
    assert (late.climbed, late.key) == (False, "over_minutes")
    assert climb.decide("d", Expected()).climbed
    assert [d.name for d in climb.decisions] == ["a", "b", "c", "d"]
