"""What a candidate costs: a request, a thousand, a month at the stated traffic; what hosting a model of one's own costs
beside an API; from what volume on hosting is the cheaper; and who breaks a hard limit before a token is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bucle.core.choosing import Constraints, Costs, ModelFacts
from bucle.core.errors import BadInput

__all__ = ["BreakEven", "Hosting", "Monthly", "break_even", "monthly", "per_request", "replicas", "ruled_out"]

HOURS_PER_MONTH = 730.0
"""A year of 365 days has 8,760 hours."""
PEAK = 3.0
"""The busiest hour beside the mean hour, where nobody says otherwise: an assumption, and told as one wherever it
counts. Machines are rented for the peak and paid around the clock."""


@dataclass(frozen=True)
class Hosting:
    """A machine that answers: `usd_per_hour` of one, `requests_per_second` that one answers, and how many times the
    mean traffic the busiest hour has (`peak`)."""

    usd_per_hour: float
    requests_per_second: float
    peak: float = PEAK

    @property
    def capacity(self) -> float:
        """Requests a month that one machine carries if the busiest hour is to be carried too."""
        return self.requests_per_second * 3600 * HOURS_PER_MONTH / self.peak

    @property
    def usd_per_month(self) -> float:
        return self.usd_per_hour * HOURS_PER_MONTH


@dataclass(frozen=True)
class Monthly:
    """US dollars a month: `usd` in all, of them `api` to providers by the token, `hosting` of `replicas` machines, and
    `training` paid back over `choose.costs.months`. `assumes` says in words what was not measured nor stated."""

    usd: float
    api: float = 0.0
    hosting: float = 0.0
    training: float = 0.0
    replicas: int = 0
    assumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BreakEven:
    """From `requests` a month on hosting costs no more than paying per token, up to the end of that machine's capacity
    (`until`; None: for good); from `always` on whatever the volume. None: never, and `why` says why. `replicas` are the
    machines at `requests`."""

    requests: int | None
    until: int | None = None
    always: int | None = None
    replicas: int = 0
    why: str = ""


def per_request(facts: ModelFacts, tokens_in: float, tokens_out: float) -> float | None:
    """US dollars for one request by the prices in `facts`, None where a price that counts is not known."""
    usd = 0.0
    for tokens, price in ((tokens_in, facts.usd_per_million_in), (tokens_out, facts.usd_per_million_out)):
        if tokens and price is None:
            return None
        usd += tokens * (price or 0.0) / 1e6
    return usd


def replicas(requests_per_month: float, hosting: Hosting) -> int:
    """Machines needed for the traffic, at least one: a model that is served is there at night too."""
    if hosting.capacity <= 0:
        raise BadInput("A machine that answers no request carries no traffic.", "set choose.costs.requests_per_second")
    return max(1, math.ceil(requests_per_month / hosting.capacity - 1e-9))


def monthly(costs: Costs, *, usd_per_1k: float = 0.0, hosted: bool = False, requests_per_second: float = 0.0,
            training_hours: float = 0.0, requests_per_month: float | None = None, peak: float = PEAK) -> Monthly:
    """What a candidate costs a month at `requests_per_month` (that of `costs` where not given).

    `usd_per_1k` is what providers are paid for a thousand requests; `hosted` whether the team runs the model itself, on
    machines of `costs.usd_per_hour` that answer `costs.requests_per_second` each (where that is 0, the
    `requests_per_second` measured); `training_hours` one fit took, at `costs.training_usd_per_hour`. Raises BadInput
    where a hosted model's speed is neither stated nor measured but its machines cost something.
    """
    volume = costs.requests_per_month if requests_per_month is None else requests_per_month
    assumes: list[str] = []
    hosting, many = 0.0, 0
    if hosted:
        speed = costs.requests_per_second or requests_per_second
        if not costs.usd_per_hour:
            assumes.append("the machine is free (choose.costs.usd_per_hour is not set)")
        if speed:
            machine = Hosting(costs.usd_per_hour, speed, peak)
            many = replicas(volume, machine)
            hosting = many * machine.usd_per_month
            assumes.append(f"the busiest hour has {peak:g} times the mean traffic")
            if not costs.requests_per_second:
                assumes.append(f"{speed:.3g} requests a second, as measured here one at a time")
        elif costs.usd_per_hour:
            raise BadInput("How many requests a second the model answers is not known.",
                           "run bucle choose to measure it, or set choose.costs.requests_per_second")
    api = usd_per_1k * volume / 1000
    training = training_hours * costs.training_usd_per_hour / costs.months
    if training_hours and not costs.training_usd_per_hour:
        assumes.append("training is free (choose.costs.training_usd_per_hour is not set)")
    return Monthly(api + hosting + training, api, hosting, training, many, tuple(assumes))


def break_even(usd_per_1k: float, hosting: Hosting, *, training_usd_per_month: float = 0.0) -> BreakEven:
    """From how many requests a month hosting is cheaper than paying `usd_per_1k` a thousand to a provider.

    Hosting costs a step for each machine begun: `ceil(n / capacity) * usd_per_month + training_usd_per_month`. Within
    the r-th step hosting wins from n = (r c + t) / p on, which lies in the step only where r (p K - c) >= t (p dollars
    a request, K a machine's capacity, c its month, t training): so never where the machine costs as much a request
    at full load as the provider does. All n are whole requests.
    """
    p, c, t, capacity = usd_per_1k / 1000, hosting.usd_per_month, training_usd_per_month, math.floor(hosting.capacity)
    if capacity < 1:
        return BreakEven(None, why="the machine answers no request")
    if p <= 0:
        return BreakEven(None, why="the provider costs nothing by the token")
    gain = p * capacity - c  # dollars that one full machine saves
    if gain <= 0 and not (gain == 0 and t == 0):
        full = 1000 * c / capacity
        return BreakEven(None, why=f"a machine at full load costs {full:.4g} dollars a thousand requests, the provider "
                                   f"{usd_per_1k:.4g}: more volume needs more machines and never gets cheaper")
    first = max(1, math.ceil(t / gain - 1e-9)) if gain > 0 else 1
    start = max(_from(first, c, t, p), (first - 1) * capacity + 1)
    if gain == 0:  # as dear as the provider at full load, and only there
        return BreakEven(start, until=capacity, replicas=1)
    # Hosting is ahead from the very first request of step r on where (r c + t) / p <= (r - 1) K + 1.
    settled = max(1, math.ceil((t + p * capacity - p) / gain - 1e-9))
    always = start if settled <= first else max(_from(settled - 1, c, t, p), (settled - 2) * capacity + 1)
    return BreakEven(start, None if always == start else first * capacity, always, first)


def _from(step: int, c: float, t: float, p: float) -> int:
    return math.ceil((step * c + t) / p - 1e-6)


def ruled_out(facts: ModelFacts, constraints: Constraints, *, usd_per_1k: float | None = None,
              requests_per_month: float | None = None, hosting: float = 0.0, needed: int | None = None,
              reply: int | None = None) -> list[str]:
    """Why a model breaks a hard limit, before a token is spent; empty where it breaks none.

    `usd_per_1k` is what a thousand of the team's own requests are expected to cost (None: not known), `hosting` the
    dollars a month for machines that answer beside a provider or instead (0: none, or not known), `needed` the tokens
    of the longest prompt and reply, `reply` those of a usual reply. A licence, place or price that is not known breaks
    a limit on it: a limit that is not checked is none. Languages and context that are not known do not, since the
    comparison measures what they do.
    """
    told: list[str] = []
    if needed is not None and facts.context is not None and needed > facts.context:
        told.append(f"reads {facts.context:,} tokens at once; the longest prompt and reply take {needed:,}")
    if reply is not None and facts.max_output is not None and reply > facts.max_output:
        told.append(f"writes {facts.max_output:,} tokens at most; a usual reply takes {reply:,}")
    told += _licence(facts, constraints) + _place(facts, constraints)
    if constraints.context and facts.context is not None and facts.context < constraints.context:
        told.append(f"reads {facts.context:,} tokens at once; {constraints.context:,} are asked for")
    known = facts.languages
    if known and "*" not in known and (missing := [code for code in constraints.languages if code not in known]):
        told.append(f"is not said to know {', '.join(missing)} (it knows {', '.join(known)})")
    return told + _price(constraints, usd_per_1k, requests_per_month, hosting)


def _licence(facts: ModelFacts, constraints: Constraints) -> list[str]:
    wanted, found = constraints.licence, facts.licence or "unknown"
    if wanted is None or found == wanted or (wanted == "commercial" and found == "open"):
        return []
    if found == "unknown":
        return [f"its licence is not known, and `{wanted}` is asked for (write it under `catalogue:`)"]
    name = f" ({facts.licence_name})" if facts.licence_name else ""
    return [f"its licence is `{found}`{name}, and `{wanted}` is asked for"]


def _place(facts: ModelFacts, constraints: Constraints) -> list[str]:
    if not constraints.residency or "local" in facts.residency:  # nothing leaves the team's own machines
        return []
    asked = " or ".join(constraints.residency)
    if not facts.residency:
        return [f"where it processes prompts is not known, and {asked} is asked for (write it under `catalogue:`)"]
    if set(facts.residency) <= set(constraints.residency):
        return []
    return [f"prompts are processed in {', '.join(facts.residency)}, and {asked} is asked for"]


def _price(constraints: Constraints, usd_per_1k: float | None, requests_per_month: float | None, hosting: float
           ) -> list[str]:
    if usd_per_1k is None:
        if constraints.usd_per_1k is None and constraints.usd_per_month is None:
            return []
        return ["its price is not known, and there is a limit on it (write it under `catalogue:`)"]
    told = []
    if constraints.usd_per_1k is not None and usd_per_1k > constraints.usd_per_1k:
        told.append(f"would cost {usd_per_1k:.4g} dollars for a thousand requests; {constraints.usd_per_1k:g} is the "
                    "limit")
    if constraints.usd_per_month is not None and requests_per_month is not None:
        month = usd_per_1k * requests_per_month / 1000 + hosting
        if month > constraints.usd_per_month:
            machines = f" ({hosting:,.2f} of them for machines)" if hosting else ""
            told.append(f"would cost {month:,.2f} dollars a month at {requests_per_month:,.0f} requests{machines}; "
                        f"{constraints.usd_per_month:g} is the limit")
    return told
