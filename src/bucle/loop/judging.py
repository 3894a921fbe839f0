"""Judges measured against people before they may gate: their agreement, in the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.config import RemoteModel
from bucle.core.errors import BadInput, ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.records import Interval
from bucle.evaluate.gate import Agreed
from bucle.evaluate.judge import Agreement, HumanRow, Judge
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.model_steps import canary_alias, chat_model, fingerprint, model_step
from bucle.loop.workspace import Workspace
from bucle.models.ask import remembered

__all__ = ["advice", "agreed", "changed_since", "human_rows", "judge_step", "latest_agreement", "measure_judge",
           "open_judge", "replies_file"]

MOST = 5_000
"""Rows of an agreement file that are used."""
MOST_FAILED = 0.1
"""The share of people's rows that a judge may fail to score and still gate, as in scoring."""


def replies_file(ws: Workspace) -> Path:
    """Where this project's models' replies are remembered."""
    return ws.root / ".bucle" / "replies.db"


def open_judge(ws: Workspace, name: str, node: str) -> Judge:
    """The judge called `name`, over its model's node. Raises ConfigError for one that bucle.yaml does not describe."""
    if name not in ws.config.judges:
        known = ", ".join(ws.config.judges)
        raise ConfigError(f"There is no judge `{name}`.", f"Judges: {known}." if known else "Describe it in `judges:`.")
    settings = ws.config.judges[name]
    if ws.config.models[settings.model].kind == "encoder":
        raise ConfigError(f"judges.{name}.model `{settings.model}` is an encoder and writes nothing.",
                          "Name a model of kind openai, local or pretrain.")
    return Judge(name, settings, chat_model(ws, node), seed=ws.config.seed)


def human_rows(ws: Workspace, name: str) -> list[HumanRow]:
    """The rows that people scored, from the judge's `agreement` file. Raises ConfigError where it has none, BadInput
    where the file is not there, lacks a column, or a score is off the scale."""
    from bucle.data.tables import read_table

    settings = ws.config.judges[name]
    if not settings.agreement:
        raise ConfigError(f"judges.{name} has no `agreement`, a file of rows that people scored.",
                          f"Have some 100 answers scored from 1 to {settings.scale} (columns input, output, human) and "
                          f"name the file in judges.{name}.agreement.")
    path = ws.file(settings.agreement)
    table = read_table(path, ("input", "output", "human"))
    missing = [column for column in ("input", "output", "human") if column not in table.columns]
    if missing:
        raise BadInput(f"{path} has no column {' or '.join(missing)}: it has {', '.join(table.columns)[:200]}.",
                       "An agreement file has the columns input, output, human and, where there is one, reference.")
    at = {column: table.columns.index(column) for column in table.columns}
    rows = []
    for line, cells in zip(table.lines, table.rows, strict=True):
        if not any(cell.strip() for cell in cells):
            continue
        score = _score(cells[at["human"]], settings.scale)
        if score is None:
            raise BadInput(f"{path}:{line}: human is {cells[at['human']][:40]!r}, which is no whole number from 1 to "
                           f"{settings.scale}.", f"Correct it, or set judges.{name}.scale.")
        group = next((cells[at[role]] for role in ("group", "document") if role in at), "")
        reference = cells[at["reference"]] if "reference" in at else ""
        given = cells[at["input"]]
        rows.append(HumanRow(given, cells[at["output"]], score, reference, group or sha256_hex(given)))
    if not rows:
        raise BadInput(f"{path} has no rows.", "Have some 100 answers scored.")
    return rows[:MOST]


def measure_judge(ws: Workspace, name: str, runner: Runner) -> StepRecord:
    """`judge_step` on its own, with the model's step before it: what `bucle evaluate judge NAME` runs."""
    if name not in ws.config.judges:
        open_judge(ws, name, "")
    model = ws.config.judges[name].model
    if ws.config.models[model].kind == "pretrain":
        found = [n for n in ws.ledger.nodes("base_model") if n.attrs.get("name") == model]
        if not found:
            raise BadInput(f"The judge {name} is `{model}`, which has not been trained yet.",
                           "bucle run --until models")
        return judge_step(ws, runner, name, found[-1].id)
    return judge_step(ws, runner, name, model_step(ws, runner, model, "", {})["model"])


def changed_since(ws: Workspace, model: str) -> tuple[int, str]:
    """Of a model of bucle.yaml: how often the team accepted that it is another one, and what the canary's last check
    said where it found it changed and nobody has accepted that yet (empty otherwise)."""
    settings = ws.config.models[model]
    if not isinstance(settings, RemoteModel):
        return 0, ""
    moves = ws.ledger.alias_history(canary_alias(settings.base_url, settings.model))
    if not moves:
        return 0, ""
    checks = [ws.ledger.get(e.child).attrs for e in ws.ledger.children(moves[-1]["node"]) if e.role == "reference"]
    last = max(checks, key=lambda attrs: str(attrs["at"]), default={})
    return len(moves) - 1, str(last["said"]) if last.get("verdict") == "changed" else ""


def judge_step(ws: Workspace, runner: Runner, name: str, model: str) -> StepRecord:
    """The agreement of the judge `name` (its model's node in `model`) with the people of its `agreement` file, as a
    node of kind `judge`. The step is repeated where the rubric, the file or the model changed, as its name, its files
    or its canary tell; while the canary's last word is that it changed, the judge may not gate. Raises as `human_rows`
    and, before anything is scored, ModelUnavailable where the judge does not answer."""
    settings = ws.config.judges[name]
    rows = human_rows(ws, name)
    config = ws.config.models[settings.model]
    made = model if config.kind == "pretrain" else fingerprint(config)
    content = sha256_hex(ws.file(settings.agreement).read_bytes())
    epoch, changed = changed_since(ws, settings.model)
    canary = {"canary": [epoch, bool(changed)]} if epoch or changed else {}

    def work(ctx: StepContext) -> Outcome:
        with remembered(replies_file(ws)), contextlib.ExitStack() as stack:
            judge = open_judge(ws, name, model)
            stack.callback(getattr(judge.model, "close", lambda: None))
            judge.probe()
            found = judge.agreement(rows, ctx.report)
        fit = found.kappa.low >= settings.min_kappa and not changed and not _gaps(found)
        figures = found.to_dict() | {"judge": name, "model": settings.model, "fingerprint": made,
                                     "scale": settings.scale, "min_kappa": settings.min_kappa,
                                     "may_gate": fit, "changed": changed, "advice": []}
        if changed:
            figures["advice"].append(f"{changed} Where that is known: bucle evaluate canary {settings.model} --accept, "
                                     f"then bucle evaluate judge {name}.")
        figures["advice"] += advice(found, name, settings.min_kappa)
        attrs = {"name": name, "model": settings.model, "rubric": settings.rubric, "scale": settings.scale,
                 "samples": settings.samples, "fingerprint": made, "kappa": found.kappa.model_dump(), "n": found.n,
                 "failed": found.failed}
        node = ctx.ledger.put("judge", attrs, parents=[("model", model)])
        k = found.kappa
        return Outcome({"judge": node.id}, figures,
                       f"kappa {k.value:.2f} [{k.low:.2f}, {k.high:.2f}] on {found.n} rows")

    return runner.step(f"judge {name}", work, stage="evaluate", inputs={"model": model},
                       params={"judge": settings.model_dump(mode="json"), "rows": content, "fingerprint": made,
                               "seed": ws.config.seed, **canary})


def latest_agreement(ws: Workspace, name: str) -> Mapping[str, Any] | None:
    """The judge's agreement as it was last measured with its present model, rubric, scale and samples; None where it
    never was."""
    settings = ws.config.judges[name]
    wanted = {"name": name, **settings.model_dump(mode="json", include={"model", "rubric", "scale", "samples"})}
    found = [node for node in ws.ledger.nodes("judge") if all(node.attrs.get(k) == v for k, v in wanted.items())]
    return found[-1].attrs if found else None


def agreed(ws: Workspace, name: str, record: StepRecord | Mapping[str, Any] | None) -> Agreed:
    """What a gate needs to know of a judge: its agreement as `judge_step` measured it (its record, or what
    `latest_agreement` found; None: never)."""
    settings = ws.config.judges[name]
    figures = record.figures if isinstance(record, StepRecord) else record
    kappa = Interval.model_validate(figures["kappa"]) if figures else None
    failed = int(figures.get("failed", 0)) if figures else 0
    gaps = failed if kappa and failed > MOST_FAILED * (kappa.n + failed) else 0
    return Agreed(kappa, settings.min_kappa, settings.model, changed_since(ws, settings.model)[1], gaps)


def advice(found: Agreement, name: str, least: float) -> list[str]:
    """What to do where the agreement is too low to gate, the likeliest first; nothing where it is not."""
    k = found.kappa
    told: list[str] = []
    if _gaps(found):
        told.append(f"It could not score {found.failed:,} of {found.n + found.failed:,} rows, over {MOST_FAILED:.0%}, "
                    "and those it could are the easy ones: a model that keeps to JSON would judge them.")
    if k.low >= least:
        return told
    given = [sum(row[place] for row in found.by_score) for place in range(len(found.by_score))]
    if found.n > 1 and max(given) == found.n:
        return [f"It gives every answer the same, {given.index(found.n) + 1}: more rows change nothing. Say in "
                f"judges.{name}.rubric what each score means, or name another model in judges.{name}.model."]
    if k.high >= least and found.n < 300:
        more = max(found.n * 2, 100) if k.value < least else _enough(k, least)
        told.append(f"The interval holds {least:g}: have more rows scored (about {more:,} in all).")
    if abs(found.lean) >= 0.5:
        told.append(f"It scores {abs(found.lean):.1f} points {'higher' if found.lean > 0 else 'lower'} than people: "
                    f"say in judges.{name}.rubric what each score means.")
    if found.length is not None and found.length - (found.human_length or 0.0) > 0.3:
        told.append(f"It favours long answers more than people do (rank correlation {found.length:.2f} against "
                    f"{found.human_length or 0:.2f}): have the rubric say what makes an answer too long.")
    if found.spread >= 0.5:
        told.append(f"Its own samples of one answer differ by {found.spread:.1f} points: raise judges.{name}.samples.")
    if found.failed and not _gaps(found):
        told.append(f"{found.failed} rows got no verdict: a model that keeps to JSON would judge them.")
    told.append(f"Otherwise mend the rubric on the rows they differ in, or name a better model in judges.{name}.model.")
    return told


def _gaps(found: Agreement) -> bool:
    """Whether it scored too few of people's rows: those it could are the easy ones."""
    return found.failed > MOST_FAILED * (found.n + found.failed)


def _enough(kappa: Interval, least: float) -> int:
    """Rows at which an interval that narrows with the root of its rows would lie above `least`."""
    gap = kappa.value - least
    return int(kappa.n * ((kappa.value - kappa.low) / gap) ** 2) + 1 if gap > 0.02 else kappa.n * 10


def _score(text: str, scale: int) -> int | None:
    text = text.strip().removesuffix(".0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= scale else None
