"""Drafting a first test set from the project's documents: by a model where one is configured, by rules otherwise."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucle.core.config import REMOTE, LocalModel, RemoteModel
from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import ChatModel, Report
from bucle.core.records import Chunk, Document, Usage
from bucle.core.tasks import AnswerTask
from bucle.execute import Display, Runner, project_lock
from bucle.loop.versions import documents_of
from bucle.loop.workspace import Workspace

__all__ = ["RULES", "Budget", "bootstrap"]

RULES = "rules"
UNANSWERABLE = 0.1
"""Share of drafts that no document answers."""
MAX_REPLY_TOKENS = 200
CHARACTERS_PER_TOKEN = 3.5
"""For the forecast alone; what was used is counted by the model."""
PROMPTS = 1
"""Part of the cache's key: another wording of the prompts asks again."""


@dataclass(frozen=True)
class Budget:
    """What new calls may use together. The first limit that is reached ends the drafting; what there is, is kept."""

    tokens: int = 300_000
    usd: float = 1.0


@dataclass
class _Spent:
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    calls: int = 0
    cached: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, usage: Usage) -> None:
        self.tokens_in += usage.tokens_in
        self.tokens_out += usage.tokens_out
        self.usd += usage.usd
        self.calls += 1


class _OverBudget(Exception):
    pass


def bootstrap(
    ws: Workspace,
    n: int,
    display: Display,
    *,
    output: Path | None = None,
    model: str = "",
    budget: Budget | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write up to `n` drafts as JSON lines that an answer task reads at once; returns what was made, JSON-ready.

    `output`: the file of the project's answer task where that does not exist yet, else `drafts.jsonl`. `model` is one
    of bucle.yaml's (kinds `openai` and `local`; the first where not given) or `rules`. Documents with access labels
    are left out. Replies are kept by passage, so that the same command goes on after a kill, a dead endpoint or the
    end of its budget. Raises BadInput, and ModelUnavailable where the model does not answer.
    """
    if not 1 <= n <= 10_000:
        raise BadInput(f"{n} drafts cannot be made.", "Ask for 1 to 10,000: -n 50.")
    name = _model_name(ws, model)
    target = output or _default_output(ws)
    if target.exists() and not (force or dry_run):
        raise BadInput(f"{target} is there already.", "Give another name with -o, or --force to write over it.")
    with project_lock(ws.ledger.folder), display:
        documents, labelled = _documents(ws, Runner(ws.ledger, display))
        told: dict[str, Any] = {"by": name or RULES, "documents": len(documents), "labelled_left_out": labelled}
        if name:
            if dry_run:
                return told | _forecast(ws, name, documents, n)
            spent = _Spent()
            display.start("data", f"drafting with {name}")
            drafts, stopped = _with_model(ws, name, documents, n, budget or Budget(), spent, display.update)
            display.finish("done", 0.0, f"{len(drafts)} drafts")
            told |= _spending(spent, stopped)
        else:
            from bucle.data.bootstrap import draft_by_rules

            drafts = draft_by_rules(documents, n, language=ws.config.language, unanswerable=UNANSWERABLE)
            if dry_run:
                return told | {"drafts": len(drafts), "tokens": [0, 0], "usd": [0.0, 0.0]}
    rows = [draft.row() for draft in drafts]
    if not rows:
        raise BadInput(
            f"Nothing could be drafted from {len(documents)} documents.",
            "bucle data list shows what was read." if not name else f"--model {RULES} drafts by rules.",
        )
    _write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return told | {
        "drafts": len(rows),
        "asked": n,
        "unanswerable": sum(row["answer"] is None for row in rows),
        "documents_used": len({row["document"] for row in rows} - {None}),
        "path": str(target),
        "task": next((k for k, t in ws.config.tasks.items() if t.kind == "answer"), ""),
        "sample": rows[:5],
    }


def _documents(ws: Workspace, runner: Runner) -> tuple[list[Document], int]:
    from bucle.loop.document_step import documents_step

    every = list(documents_of(ws, documents_step(ws, runner)["corpus"]))
    free = [d for d in every if not d.access]
    if not free:
        raise BadInput("There is no document to draft from.", "bucle data quarantine says what could not be read.")
    return free, len(every) - len(free)


def _model_name(ws: Workspace, asked: str) -> str:
    """The model to draft with; empty for rules."""
    able = {k: m for k, m in ws.config.models.items() if isinstance(m, RemoteModel | LocalModel)}
    if asked == RULES:
        return ""
    if asked and asked not in able:
        raise BadInput(
            f"`{asked}` is no model that can draft.",
            f"--model {' | '.join([*able, RULES])}: models of kind openai or local under `models:`.",
        )
    return asked or next(iter(sorted(able, key=lambda k: able[k].kind not in REMOTE)), "")


def _open(ws: Workspace, name: str) -> ChatModel:
    settings = ws.config.models[name]
    if isinstance(settings, RemoteModel):
        from bucle.models.catalogue import paid
        from bucle.models.remote import OpenAIChat

        usd_in, usd_out = paid(name, settings, ws.config.catalogue)
        return OpenAIChat(
            name,
            settings.base_url,
            settings.model,
            settings.api_key_env,
            settings.timeout_s,
            usd_per_million_in=usd_in,
            usd_per_million_out=usd_out,
        )
    from bucle.models.folder import checked_folder
    from bucle.models.local import LocalModel as Loaded

    assert isinstance(settings, LocalModel)  # noqa: S101 - _model_name has seen to it
    return Loaded(checked_folder(settings.path), name=name)


def _default_output(ws: Workspace) -> Path:
    for task in ws.config.tasks.values():
        data = task.data if isinstance(task, AnswerTask) and isinstance(task.data, str) else ""
        if data.endswith(".jsonl") and not (ws.root / data).exists():
            return ws.root / data
    return ws.root / "drafts.jsonl"


def _passages(documents: Sequence[Document], seed: int) -> list[tuple[Document, Chunk]]:
    """Passages worth a question, one of each document in turns, in an order that follows from the seed."""
    from bucle.data.chunk import chunk_documents

    by_document = []
    for document in documents:
        chunks = [c for c in chunk_documents([document]) if len(c.text.split()) >= 12]
        random.Random(f"{seed} {document.id}").shuffle(chunks)
        by_document.append([(document, c) for c in chunks])
    random.Random(seed).shuffle(by_document)
    longest = max((len(some) for some in by_document), default=0)
    return [some[turn] for turn in range(longest) for some in by_document if turn < len(some)]


def _with_model(
    ws: Workspace, name: str, documents: Sequence[Document], n: int, budget: Budget, spent: _Spent, report: Report
) -> tuple[list[Any], str]:
    """Drafts, and why fewer than `n` where so."""
    from bucle.data.bootstrap import NewQuestions, Refused, read_reply
    from bucle.data.chunk import chunk_documents

    passages = _passages(documents, ws.config.seed)
    ask = _asking(ws, name, budget, spent)
    fresh, drafts = NewQuestions(), list[Any]()
    absent = round(n * UNANSWERABLE)
    find = _finder(chunk_documents(documents))
    kept = Counter[bool]()
    try:
        for answerable, most in ((True, n - absent), (False, absent)):
            for document, chunk in passages if answerable else reversed(passages):
                if kept[answerable] >= most:
                    break
                report(len(drafts), n, f"{sum(spent.refused.values())} refused")
                try:
                    reply = ask("answerable" if answerable else "unanswerable", [chunk], "")
                    draft = read_reply(reply, chunk, document, by=name, answerable=answerable)
                    if not answerable and not _says_none(ask("check", find(draft.question), draft.question)):
                        raise Refused("the documents do answer it")
                    if not fresh.add(draft.question):
                        raise Refused("asked before")
                except Refused as reason:
                    spent.refused[str(reason)] += 1
                    continue
                except BadInput as error:
                    spent.refused[f"the model refused the request: {error.message[:80]}"] += 1
                    continue
                drafts.append(draft)
                kept[answerable] += 1
    except _OverBudget:
        return drafts, "the budget is spent; the same command with a larger one goes on from here"
    except ModelUnavailable as error:
        raise ModelUnavailable(
            f"{error.message.rstrip('.')}. {len(drafts)} of {n} drafts are kept.",
            f"{error.hint or 'Start it'}; then the same command goes on, or --model {RULES} drafts without one.",
        ) from error
    return drafts, "" if len(drafts) == n else "the passages are used up"


def _says_none(reply: str) -> bool:
    """Whether the model, asked from the best passages, found no answer. What cannot be read is no proof."""
    from bucle.data.bootstrap import parse_json

    said = parse_json(reply)
    return "answer" in said and said["answer"] is None


def _asking(ws: Workspace, name: str, budget: Budget, spent: _Spent) -> Callable[[Any, Sequence[Chunk], str], str]:
    """A function that asks the model about passages and keeps its reply under `.bucle/drafts`."""
    from bucle.data.bootstrap import prompt

    folder = ws.ledger.folder / "drafts"
    settings = ws.config.models[name].model_dump(
        mode="json", exclude={"timeout_s", "usd_per_million_in", "usd_per_million_out"}
    )
    opened: list[ChatModel] = []

    def ask(kind: Any, chunks: Sequence[Chunk], question: str) -> str:
        messages = prompt(kind, chunks, ws.config.language, question)
        key = sha256_hex(
            canonical_json({"model": settings, "messages": messages, "seed": ws.config.seed, "v": PROMPTS})
        )
        path = folder / f"{key}.json"
        if (known := _kept(path)) is not None:
            spent.cached += 1
            return known
        if spent.tokens_in + spent.tokens_out >= budget.tokens or spent.usd >= budget.usd:
            raise _OverBudget
        if not opened:
            opened.append(_open(ws, name))
        reply = opened[0].chat(messages, max_tokens=MAX_REPLY_TOKENS, seed=ws.config.seed)
        spent.add(reply.usage)
        _write(path, json.dumps({"reply": reply.text, "usage": reply.usage.model_dump()}, ensure_ascii=False))
        return reply.text

    return ask


def _kept(path: Path) -> str | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # not there, or cut short: asked again
        return None
    reply = value.get("reply") if isinstance(value, dict) else None
    return reply if isinstance(reply, str) else None


def _finder(chunks: Sequence[Chunk]) -> Callable[[str], list[Chunk]]:
    """The three passages nearest to a question by TF-IDF, over everything that was read."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from bucle.data.similar import normal_form

    if not chunks:
        return lambda question: []
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")  # noqa: S106 - a pattern of words
    matrix = vectors.fit_transform([normal_form(f"{c.heading} {c.text}") for c in chunks])

    def find(question: str) -> list[Chunk]:
        near = (matrix @ vectors.transform([normal_form(question)]).T).toarray().ravel()
        return [chunks[i] for i in near.argsort()[::-1][:3]]

    return find


def _forecast(ws: Workspace, name: str, documents: Sequence[Document], n: int) -> dict[str, Any]:
    """Tokens and dollars of `n` drafts, as ranges: from none refused to half of them."""
    from bucle.data.bootstrap import prompt

    passages = _passages(documents, ws.config.seed)[: 2 * n]
    sizes = [sum(len(m["content"]) for m in prompt("answerable", [c], ws.config.language)) for _, c in passages]
    tokens_in = [int(sum(sizes[:k]) / CHARACTERS_PER_TOKEN) for k in (n, 2 * n)]
    tokens_out = [40 * min(k, len(sizes)) for k in (n, 2 * n)]
    settings = ws.config.models[name]
    usd: list[float] | None = [0.0, 0.0]
    if isinstance(settings, RemoteModel):
        from bucle.models.catalogue import paid

        usd = _dollars(settings, paid(name, settings, ws.config.catalogue), tokens_in, tokens_out)
    return {"passages": len(sizes), "tokens": [a + b for a, b in zip(tokens_in, tokens_out, strict=True)], "usd": usd}


def _dollars(settings: RemoteModel, each: tuple[float | None, float | None], tokens_in: Sequence[int],
             tokens_out: Sequence[int]) -> list[float] | None:
    """By the configured price, else the list price; None where neither is known."""
    from bucle.models.catalogue import price, provider_of

    if each[0] is not None and each[1] is not None:
        return [(each[0] * a + each[1] * b) / 1e6 for a, b in zip(tokens_in, tokens_out, strict=True)]
    provider = provider_of(settings.base_url)
    found = (
        [price(settings.model, provider, a, b) for a, b in zip(tokens_in, tokens_out, strict=True)] if provider else []
    )
    return [p for p in found if p is not None] if found and None not in found else None


def _spending(spent: _Spent, stopped: str) -> dict[str, Any]:
    refused = sum(spent.refused.values())
    return {
        "calls": spent.calls,
        "cached": spent.cached,
        "tokens": spent.tokens_in + spent.tokens_out,
        "usd": spent.usd,
        "refused": dict(spent.refused.most_common()),
        "refused_n": refused,
        "stopped": stopped,
    }


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}.", "Give another name with -o.") from error
