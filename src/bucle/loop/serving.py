"""From a release and bucle.yaml to an app: tasks, models, encoders and the routes made of them, behind one door."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bucle.core.config import REMOTE, EncoderModel, Model, OpenAIModel, RerankerModel
from bucle.core.errors import BucleError, ConfigError
from bucle.core.ports import ChatModel, Embedder
from bucle.core.records import Node, Trace, Usage
from bucle.core.yamlfile import at_line, line_of
from bucle.loop.aliases import aliases
from bucle.loop.engines import AsModel, adapters_of, engine_of
from bucle.loop.following import follow
from bucle.loop.model_steps import model_folder, node_of
from bucle.loop.task_route import AT_ONCE, task_route
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bucle.models.tokens import Count, Counter
    from bucle.serve.otlp import TraceExport
    from bucle.serve.routes import Route

__all__ = ["app_for", "redactor"]

log = logging.getLogger("bucle.serve")

REMOTE_ANSWER = 4096
"""Tokens of a provider's answer that budgets reserve where the request does not say `max_tokens`."""


def app_for(
    ws: Workspace,
    release: Node | None,
    *,
    replay: bool = False,
    studio: Any = None,
    override: Mapping[str, ChatModel] | None = None,
    production: bool = False,
) -> FastAPI:
    """The gateway that serves `release`, or the models alone where it is None. `override` puts another engine behind a
    model's name (the replay's stand-in). With `production` it serves another release as soon as that alias moves.
    What a server that was killed left in its journal is committed first."""
    from bucle.ledger.keys import KeyStore
    from bucle.ledger.spend_watch import SpendWatch
    from bucle.serve.app import create_app
    from bucle.serve.budgets import Accounts
    from bucle.serve.guard import Endpoint, GuardSet
    from bucle.serve.journal import Journal, recover
    from bucle.serve.keys import Keys, keys_from_environment, studio_keys_from_environment
    from bucle.serve.routes import Limits
    from bucle.serve.traces import TraceQueue

    settings = ws.config.serve
    journals = ws.ledger.folder / "journal"
    found = recover(journals, ws.traces.add_traces)
    if found.new:
        log.warning("a server had been killed: %d of its answers are written now, %d requests of it were cut off",
                    found.ended, found.began)
    tasks, models = _tasks(ws, release), _models(ws, release, override or {})

    def shadowed(trace: Trace) -> None:
        traces.put_aside(trace)
        app.state.gateway.metrics.shadow(trace)

    def made_of(routes: Mapping[str, Route]) -> dict[str, Route]:
        with at_line(ws.root / "bucle.yaml", "serve", "routes"):
            return aliases(ws, routes, shadowed)

    def of_release(new: Node) -> dict[str, Route]:
        """The routes that are others once production is `new`: tasks whose candidate is, and what is made of them."""
        changed = {name: task_route(ws, name, candidate) for name, candidate in new.attrs["tasks"].items()
                   if name not in tasks or tasks[name].candidate != candidate}
        tasks.update(changed)
        return changed | (made_of({**models, **tasks}) if changed else {})

    routes = {**models, **tasks}
    routes |= made_of(routes)
    accounts = Accounts(SpendWatch(ws.ledger), settings.teams)
    guards = GuardSet(settings.guards, folder=ws.root, endpoints={
        name: Endpoint(model.base_url, model.model, model.api_key_env)
        for name, model in ws.config.models.items() if isinstance(model, OpenAIModel)})
    collector = _collector(ws)
    if not routes:
        raise ConfigError("There is nothing to serve.", "The log says what could not be had; or add `models:` to "
                          "bucle.yaml, or release a task: bucle run")
    # last of what may be refused: a start that fails leaves no journal. And
    # what a replay that was killed had not stored is sent again: nothing of it may stand there as cut off
    traces = TraceQueue(ws.traces, size=settings.traces.queue, journal=None if replay else Journal(journals),
                        redact=redactor() if settings.redact else None, also=collector,
                        keep_days=settings.traces.keep_days)
    app = create_app(
        routes,
        writer=ws.traces,
        release_id=release.id if release else "",
        limits=Limits(body_bytes=settings.body_kb * 1024, input_chars=settings.body_kb * 1024,  # the body bounds both
                      messages=settings.messages, max_tokens=settings.max_tokens, embed_inputs=settings.embed_inputs,
                      timeout_s=settings.timeout_s, in_flight=settings.in_flight, per_key=settings.per_key,
                      per_route=settings.per_route),
        replay=replay,
        studio=studio,
        guards=guards,
        keys=Keys(keys_from_environment(), studio_keys_from_environment(), KeyStore(ws.ledger)),
        accounts=accounts,
        traces=traces,
        people=ws.people,
    )
    follow(app, ws, release, of_release, production=production)
    return app


def _collector(ws: Workspace) -> TraceExport | None:
    """Where traces go besides the ledger."""
    settings = ws.config.serve.traces
    if not settings.otlp:
        return None
    from bucle.serve.otlp import TraceExport

    with at_line(ws.root / "bucle.yaml", "serve", "traces", "otlp"):
        return TraceExport(settings.otlp, content=settings.otlp_content)


# tasks of the release ------------------------------------------------------------------------------------------


def _tasks(ws: Workspace, release: Node | None) -> dict[str, Route]:
    """A route for each task of the release. One whose candidate cannot be opened is left out, and the log says why;
    raises where that is so of all."""
    routes: dict[str, Route] = {}
    failed: BucleError | None = None
    for task, candidate in (release.attrs["tasks"] if release else {}).items():
        try:
            routes[task] = task_route(ws, task, candidate)
        except BucleError as error:
            log.error("the task %s is not served: %s (%s)", task, error.message, error.hint)
            failed = error
    if failed is not None and not routes:
        raise failed
    return routes


# models --------------------------------------------------------------------------------------------------------


def _models(ws: Workspace, release: Node | None, override: Mapping[str, ChatModel]) -> dict[str, Route]:
    """A route for each model of bucle.yaml that can be asked; a task of the same name goes before. One that cannot be
    had says so in the log and is left out."""
    from bucle.models.catalogue import facts, price_known
    from bucle.serve.routes import Route

    routes: dict[str, Route] = {}
    tasks = release.attrs["tasks"] if release else {}
    for name, model in ws.config.models.items():
        if name in tasks or isinstance(model, RerankerModel):
            continue
        _told_of_its_key(name, model)
        try:
            node, known = node_of(ws, name), price_known(name, model, ws.config.catalogue)
            if isinstance(model, EncoderModel):
                routes[name] = Route(name, "embed", candidate=node, embedder=_embedder(ws, node, name, model),
                                     parallel=AT_ONCE if model.base_url else 0, price_known=known,
                                     vocabulary=_vocabulary(model),
                                     usd_per_million_in=facts(name, model, ws.config.catalogue).usd_per_million_in)
            elif name in override:
                routes[name] = Route(name, "chat", candidate=node, chat=override[name])
            else:
                engine = engine_of(ws, name, node)
                adapters = [f"{name}:{adapter}" for adapter in adapters_of(ws, model)]
                routes[name] = Route(name, "chat", candidate=node, engine=engine, price_known=known,
                                     answer_tokens=_answer_tokens(ws, name, model),
                                     counter=cache(partial(_counter, ws, node, model)))
                routes |= {called: Route(called, "chat", candidate=node, engine=AsModel(engine, called))
                           for called in adapters}
        except BucleError as error:
            line = line_of(file := ws.root / "bucle.yaml", "models", name)
            log.warning("%s:%s: %s is not served: %s (%s)", file, line, name, error.message, error.hint)
    return routes


def _answer_tokens(ws: Workspace, name: str, model: Model) -> int:
    """Tokens that are reserved for an answer of unsaid length. A provider's own default is its model's longest, or not
    known: REMOTE_ANSWER of them, and no more than the model can write."""
    from bucle.models.catalogue import facts
    from bucle.serve.routes import ANSWER_TOKENS

    if model.kind not in REMOTE:
        return ANSWER_TOKENS
    return min(REMOTE_ANSWER, facts(name, model, ws.config.catalogue).max_output or REMOTE_ANSWER)


def _vocabulary(model: EncoderModel) -> str:
    """The published vocabulary of a provider's encoder, read now and not at the first request; empty without one."""
    from bucle.models.tokens import decoded, encoding_of

    found = encoding_of(model.model) if model.base_url else ""
    return found if found and decoded([[0]], found) else ""


def _counter(ws: Workspace, node: str, model: Model) -> Counter:
    """What counts a model's tokens: its own tokenizer here, a provider's published vocabulary, else an estimate."""
    from bucle.models.tokens import counter

    return counter(getattr(model, "model", "")) if model.kind in REMOTE else counter("", folder=model_folder(ws, node))


def _told_of_its_key(name: str, model: Model) -> None:
    """Say in the log that the variable of a provider's key is unset: its callers are told only that it refuses."""
    from bucle.models.endpoint import is_here
    from bucle.models.engines.wire_errors import key_of

    variable = getattr(model, "api_key_env", "")
    address = getattr(model, "base_url", "") or ""
    remote = bool(address) or model.kind in REMOTE
    if remote and variable and not key_of(variable) and not is_here(address):
        log.warning("%s has no key: %s is not set (export %s=… or write it in .env; `api_key_env: \"\"` for none)",
                    name, variable, variable)


# parts ---------------------------------------------------------------------------------------------------------


def redactor() -> Any:
    """Masks personal data and secrets before a trace is stored, by what the guards have found already."""
    from bucle.serve.guard import stored

    return stored


def _embedder(ws: Workspace, node: str, name: str, model: EncoderModel) -> Embedder:
    """A provider's is asked itself, so that what it costs is counted."""
    if not model.base_url:
        return _Encoder(ws, node, name)
    from bucle.models.catalogue import facts
    from bucle.models.remote import OpenAIEmbedder

    return OpenAIEmbedder(name, model.base_url, model.model, model.api_key_env, model.timeout_s,
                          usd_per_million_in=facts(name, model, ws.config.catalogue).usd_per_million_in)


class _Encoder:
    """An encoder opened at its first request."""

    def __init__(self, ws: Workspace, node: str, name: str) -> None:
        self._ws, self._node, self.name = ws, node, name
        self.dimensions = 0
        self._count: Callable[[str], Count] | None = None

    def embed(self, texts: Any) -> list[list[float]]:
        from bucle.models.encoder import shared_encoder

        return shared_encoder(model_folder(self._ws, self._node)).embed(texts)

    def embed_metered(self, texts: Any) -> tuple[list[list[float]], Usage]:
        """The vectors, and the texts' tokens as the encoder's own tokenizer counts them, those that it cuts off too."""
        from bucle.models.tokens import counter

        if self._count is None:
            self._count = counter(self.name, folder=model_folder(self._ws, self._node)).text
        return self.embed(texts), Usage(tokens_in=sum(self._count(text).tokens for text in texts))
