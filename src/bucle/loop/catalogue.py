"""What the project's models are and cost: who is ruled out before a token is spent and why, what each candidate costs a
month, and from what volume on a model of one's own is cheaper than an API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from bucle.choose import Rung
from bucle.choose.costs import PEAK, Hosting, break_even, monthly, replicas, ruled_out
from bucle.core.choosing import Costs
from bucle.core.config import REMOTE, RemoteModel
from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.core.records import Example
from bucle.loop.costs import hosted
from bucle.loop.expected import Forecast, expect_rung
from bucle.loop.row_step import task_columns
from bucle.loop.rungs import rungs_of
from bucle.loop.story import latest_records
from bucle.loop.workspace import Workspace
from bucle.models.catalogue import facts, price_known, prices_as_of

__all__ = ["candidates", "costs", "count", "reasons_against"]

SAMPLE = 5000  # rows of a task that are looked at for its mean request


def candidates(ws: Workspace) -> dict[str, Any]:
    """`{candidates: [{task, candidate, baseline, when, models, usd_per_1k, price_known, ruled_out}], rows_read,
    prices_as_of}`.

    The ladder of every task, cheapest first. `ruled_out` says why a candidate would not be asked at all; `usd_per_1k`
    is the range forecast for a thousand requests (None: no provider is paid, or its price is not known, which
    `price_known` tells apart). Without rows that a run has read (`rows_read`), nothing that depends on them is checked.
    Nothing is fetched, trained or asked."""
    listed, every = [], True
    for task, rungs in _rungs(ws).items():
        rows, longest = _rows(ws, task)
        every = every and bool(rows)
        for rung in rungs:
            expected = expect_rung(ws, task, rung, rows, 0, {}) if rows else None
            names = list(rung.models)
            priced = not _remote(ws, rung) or _priced(ws, rung)
            paid = expected is not None and _remote(ws, rung) and priced
            listed.append({
                "task": task, "candidate": rung.name, "baseline": rung.technique.baseline, "when": rung.technique.when,
                "models": {name: _short(ws, name) for name in names},
                "usd_per_1k": list(expected.usd_per_1k) if expected is not None and paid else None,
                "price_known": priced,
                "ruled_out": reasons_against(ws, rung, expected, longest=longest),
            })
    return {"candidates": listed, "rows_read": every, "prices_as_of": prices_as_of()}


def reasons_against(ws: Workspace, rung: Rung, expected: Forecast | None, *, longest: str = "") -> list[str]:
    """Why a rung breaks a hard limit before a token is spent; a baseline breaks none, since nothing is chosen without.

    `expected` is its forecast, of which the cheap end is held to the limits; `longest` the longest input, which must
    fit into what a provider's model reads. A model that the team runs itself costs its machines, where
    `choose.costs` states what one costs and how much it answers."""
    if rung.technique.baseline:
        return []
    told: list[str] = []
    traffic = ws.config.choose.costs.requests_per_month
    answers = next(iter(_serving(rung)), "")
    for name in rung.models:
        known, model = facts(name, ws.config.models[name], ws.config.catalogue), ws.config.models[name]
        remote = model.kind in REMOTE
        usd: float | None = 0.0
        if remote:
            usd = None if not _priced(ws, rung) else expected.usd_per_1k[0] if expected is not None else 0.0
        found = ruled_out(known, ws.config.choose.constraints, usd_per_1k=usd, requests_per_month=traffic,
                          hosting=_machines(ws, rung) if name == answers else 0.0,
                          needed=_needed(ws, name, expected, longest) if remote else None,
                          reply=round(expected.reply[0]) if remote and expected is not None else None)
        told += [f"{name}: {reason}" for reason in found]
    return list(dict.fromkeys(told))


def costs(ws: Workspace, *, requests_per_month: int | None = None, usd_per_hour: float | None = None,
          requests_per_second: float | None = None, peak: float = PEAK, api_usd_per_1k: float | None = None
          ) -> dict[str, Any]:
    """What every candidate costs a request, a thousand and a month, and where hosting breaks even with an API.

    `{tasks: [{task, requests_per_month, api, candidates}], usd_per_hour, peak, prices_as_of}`; what is not given is
    `choose.costs`' of bucle.yaml. A candidate of the latest comparison stands with its measured tokens, price and
    speed; one that never ran with a forecast (`measured` False) over the rows, as ranges; `why` says what is missing
    where it `asks` a provider at no known price. `api` is the cheapest candidate that pays a provider, or
    `api_usd_per_1k`; each hosted candidate's `break_even` is against it. Raises BadInput."""
    update: dict[str, Any] = {
        k: v for k, v in (("requests_per_month", requests_per_month), ("usd_per_hour", usd_per_hour),
                          ("requests_per_second", requests_per_second)) if v is not None}
    settings = ws.config.choose.costs.model_copy(update=update)
    tasks = []
    for task, rungs in _rungs(ws).items():
        measured = _measured(ws, task)
        rows = (_rows(ws, task)[0] or _unread(ws, task)) if any(r.name not in measured for r in rungs) else []
        found = [_cost(ws, task, rung, settings, measured.get(rung.name), rows, peak) for rung in rungs]
        asked = [c for c in found if c["usd_per_1k"] is not None and c["usd_per_1k"][1] > 0]
        api = min(asked, key=lambda c: (not c["measured"], sum(c["usd_per_1k"])), default=None)
        price = api_usd_per_1k if api_usd_per_1k is not None else sum(api["usd_per_1k"]) / 2 if api else None
        for one in found:
            one["break_even"] = _break_even(one, price, settings, peak) if one["hosted"] else None
        name = "stated" if api_usd_per_1k is not None else api["candidate"] if api else ""
        tasks.append({"task": task, "requests_per_month": settings.requests_per_month, "candidates": found,
                      "api": {"name": name, "usd_per_1k": price} if price is not None else None})
    return {"tasks": tasks, "usd_per_hour": settings.usd_per_hour, "peak": peak, "prices_as_of": prices_as_of()}


def _cost(ws: Workspace, task: str, rung: Rung, settings: Costs, measured: Mapping[str, Any] | None,
          rows: Sequence[Example], peak: float) -> dict[str, Any]:
    own = hosted(ws, rung)
    tokens: float | list[float] | None = None
    price: list[float] | None = [0.0, 0.0]
    speed = seconds = 0.0
    if measured is not None:
        price = [float(measured["usd_per_1k"])] * 2
        tokens = measured.get("metrics", {}).get("tokens")
        seconds = float(measured.get("fit_seconds") or 0.0)
        speed = 1000 / measured["ms_p50"] if own and measured.get("ms_p50") else 0.0
    elif rows and "chat" in rung.technique.needs and rung.technique.name != "distilled":
        expected = expect_rung(ws, task, rung, rows, 1, {})
        price, tokens = list(expected.usd_per_1k), list(expected.tokens)
    asks = _remote(ws, rung) and rung.base in _serving(rung)
    why = ""
    if asks and not _priced(ws, rung):
        why = f"the price of {rung.base} is not known: write it under models.{rung.base} or `catalogue:`"
    elif asks and measured is None and not rows:
        why = "the rows have not been read yet: bucle run --until data"
    if why:
        price = None
    training = seconds / 3600 if "base" in rung.technique.needs else 0.0
    months = None
    stuck = own and settings.usd_per_hour > 0 and not (settings.requests_per_second or speed)
    if price is not None and not stuck:
        months = [asdict(monthly(settings, usd_per_1k=p, hosted=own, requests_per_second=speed,
                                 training_hours=training, peak=peak)) for p in dict.fromkeys(price)]
    return {
        "candidate": rung.name, "baseline": rung.technique.baseline, "measured": measured is not None,
        "recommended": bool(measured and measured.get("recommended")), "hosted": own, "tokens": tokens,
        "asks": asks, "why": why,
        "usd_per_1k": price, "usd_per_request": [p / 1000 for p in price] if price is not None else None,
        "month": months, "requests_per_second": (settings.requests_per_second or speed) if own else None,
        "training_hours": training,
    }


def _break_even(one: Mapping[str, Any], price: float | None, settings: Costs, peak: float
                ) -> dict[str, Any] | None:
    if price is None:
        return None
    if not one["requests_per_second"]:
        return {"requests": None, "why": "its speed is not measured yet: bucle choose, or choose.costs"}
    if not settings.usd_per_hour:
        return {"requests": None, "why": "what the machine costs is not stated: choose.costs.usd_per_hour"}
    own = sum(one["usd_per_1k"] or [0.0]) / max(1, len(one["usd_per_1k"] or [0.0]))  # a hybrid pays both
    training = one["training_hours"] * settings.training_usd_per_hour / settings.months
    machine = Hosting(settings.usd_per_hour, one["requests_per_second"], peak)
    return asdict(break_even(price - own, machine, training_usd_per_month=training))


def _rungs(ws: Workspace) -> dict[str, list[Rung]]:
    return {name: rungs_of(ws, name) for name in ws.config.tasks}


def _latest(ws: Workspace) -> dict[str, Any]:
    try:
        return {record.name: record for record in latest_records(ws.ledger)}
    except NotFound:
        return {}


def _measured(ws: Workspace, task: str) -> dict[str, dict[str, Any]]:
    """The candidates of the latest comparison of a task, by name, with their figures."""
    found = _latest(ws).get(f"compare {task}")
    if found is None:
        return {}
    best = found.figures.get("recommended")
    return {c["name"]: {**c, "recommended": c["name"] == best} for c in found.figures["candidates"]}


def _rows(ws: Workspace, task: str) -> tuple[list[Example], str]:
    """Some of a task's rows as the latest run read them, and of all of them the longest input; empty before one."""
    record = _latest(ws).get(f"examples {task}")
    if record is None:
        return [], ""
    rows: list[Example] = []
    longest = ""
    for line in ws.row_lines(next(iter(record.outputs.values()))):
        if len(rows) < SAMPLE:
            rows.append(Example.model_validate_json(line))
            text = rows[-1].input
        else:
            text = json.loads(line)["input"]
        longest = text if len(text) > len(longest) else longest
    return rows, longest


def _unread(ws: Workspace, task: str) -> list[Example]:
    """Some of a task's rows as its file has them, before any run has read them; none where they come from elsewhere or
    cannot be read, which the run will say."""
    from bucle.data.rows import stream_rows

    settings = ws.config.tasks[task]
    if not isinstance(settings.data, str):
        return []
    try:
        found = stream_rows(ws.file(settings.data), settings.kind, task_columns(settings), unlabelled=True)
        return [row for row in islice(found, SAMPLE) if isinstance(row, Example)]
    except BucleError:
        return []


def _needed(ws: Workspace, name: str, expected: Forecast | None, longest: str) -> int | None:
    """Tokens of the longest input by the model's own count, or the least of an estimate; at least one prompt's."""
    from bucle.models.tokens import MAX_TEXT, counter

    model = ws.config.models[name]
    if not longest or not isinstance(model, RemoteModel):
        return None
    counted = counter(model.model, language=ws.config.language)
    least = counted.count(longest[:MAX_TEXT]).prompt.low
    return max(least, round(expected.prompt[0]) if expected else 0)


def _remote(ws: Workspace, rung: Rung) -> bool:
    return bool(rung.base) and ws.config.models[rung.base].kind in REMOTE


def _priced(ws: Workspace, rung: Rung) -> bool:
    return price_known(rung.base, ws.config.models[rung.base], ws.config.catalogue)


def _serving(rung: Rung) -> list[str]:
    """The models that answer: a teacher is only there while its student is fitted."""
    serves = (rung.encoder,) if rung.technique.name == "distilled" else rung.models
    return [name for name in serves if name]


def _machines(ws: Workspace, rung: Rung) -> float:
    """Dollars a month of the machines that a rung needs at the team's traffic, as far as bucle.yaml states what one
    costs and how much it answers; 0 otherwise."""
    costs = ws.config.choose.costs
    if not hosted(ws, rung) or not costs.usd_per_hour or not costs.requests_per_second:
        return 0.0
    machine = Hosting(costs.usd_per_hour, costs.requests_per_second)
    return replicas(costs.requests_per_month, machine) * machine.usd_per_month


def _short(ws: Workspace, name: str) -> dict[str, Any]:
    return facts(name, ws.config.models[name], ws.config.catalogue).model_dump(mode="json", exclude_none=True)


def count(text: str, model: str, *, completion: str = "", ws: Workspace | None = None, language: str = ""
          ) -> dict[str, Any]:
    """Tokens of a prompt and a completion under a model: one of bucle.yaml by its name, a folder, a model in the Hub's
    cache, or a provider's name. Raises BadInput for an empty model name."""
    from bucle.models.catalogue.facts import folder_here
    from bucle.models.tokens import counter

    if not model.strip():
        raise BadInput("Which model's tokens?", "bucle choose tokens TEXT --model MODEL")
    configured = ws.config.models.get(model) if ws is not None else None
    folder, name = None, model
    if ws is not None and configured is not None:
        language = language or ws.config.language
        if isinstance(configured, RemoteModel):
            name = configured.model
        elif configured.kind == "pretrain":
            folder = _trained(ws, model)
        else:
            folder = folder_here(configured.path, encoder=configured.kind == "encoder")
    else:
        folder = folder_here(model, encoder=model == "minilm")
    told = asdict(counter(name, folder=folder, language=language).count(text, completion))
    return {"model": model, **told, **({"tokenizer": model} if told["how"] == "tokenizer" else {})}


def _trained(ws: Workspace, name: str) -> Any:
    from bucle.loop.model_steps import model_folder

    nodes = [n.id for n in ws.ledger.nodes("base_model") if n.attrs.get("name") == name and n.blobs]
    if not nodes:
        raise BadInput(f"`{name}` is not trained yet.", f"bucle pretrain {name}")
    return model_folder(ws, nodes[-1])
