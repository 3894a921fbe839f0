"""What bucle.yaml cannot mean is told before anything is served: by file, line and key, in words for who wrote it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bucle.core.errors import BucleError, ConfigError, NotFound
from bucle.loop.aliases import restore
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace
from bucle.serve.server import serve

EVERYWHERE = "0.0.0.0"  # noqa: S104
TOP = "project: p\nmodels:\n  m: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m, api_key_env: ''}\n"
"""Three lines; what a case adds begins at the fourth."""


def started(folder: Path) -> None:
    ws = Workspace.open(folder)
    try:
        app_for(ws, None)
    finally:
        ws.close()


def refused(folder: Path, more: str) -> ConfigError:
    (folder / "bucle.yaml").write_text(TOP + more, "utf-8")
    with pytest.raises(ConfigError) as caught:
        started(folder)
    assert caught.value.hint
    assert caught.value.message.startswith(f"{folder}/bucle.yaml:")
    assert not list(folder.glob(".bucle/journal/server-*")), "a start that fails leaves no journal"
    return caught.value


REMOTE = "kind: openai, model: m, base_url: 'https://models.example.com/v1'"
ROUTE = "serve:\n  routes:\n    r:\n      to: [{to: m}]\n      "


@pytest.mark.parametrize(("more", "line", "says"), [
    (f"  half: {{{REMOTE}, usd_per_million_in: 1000}}\n", 4, "models.half has a price of tokens in, none"),
    ("  x: {kind: openai, model: m, base_url: 'localhost:8000'}\n", 4, "`models.x.base_url`: it is no address"),
    ("  x: {kind: openai, model: m, base_url: 'ftp://host/v1'}\n", 4, "`models.x.base_url`: it is no address"),
    ("  x: {kind: openai, model: m, base_url: 'http://'}\n", 4, "`models.x.base_url`: it is no address"),
    ("  x: {kind: encoder, model: m, base_url: 'http://h:99999/v1'}\n", 4, "`models.x.base_url`: it is no address"),
    ("  x: {kind: anthropic, model: m, base_url: 'https://ana:pa55word@h/v1'}\n", 4, "holds no user and password"),
    ("  x: {kind: reranker, model: m, base_url: 'http://h', api_key_env: sk-pa55word}\n", 4, "x.api_key_env`: "),
    (f"  'x:y': {{{REMOTE}}}\n", 4, "`models.x:y`: a name"),
    (f"  'x@y': {{{REMOTE}}}\n", 4, "`models.x@y`: a name"),
    ("tasks:\n  'a@b': {kind: classify, data: x}\n", 5, "`tasks.a@b`: a name"),
    (ROUTE + "explore: 0.1\n", 6, "`explore` is read with `prefer: latency` only"),
    (ROUTE + "shadow_share: 0.1\n", 6, "`shadow_share` is read with `shadow` only"),
    (ROUTE + "cache: {similarity: 0.9}\n", 8, "`similarity` is read with `kind: semantic` only"),
    (ROUTE + "cache: {kind: semantic}\n", 8, "serve.routes.r.cache is semantic"),
    (ROUTE + "fallback: [m]\n", 8, "serve.routes.r.fallback names the route's only target"),
    (ROUTE + "prefer: language\n      languages: {spanish: m}\n", 9, "serve.routes.r.languages.spanish is no language"),
    ("serve:\n  routes:\n    r: {to: [{to: m}, {to: t, release: '9'}]}\n", 6, "names release `9` of t, which is none"),
    ("serve:\n  routes:\n    m: {to: [{to: m}]}\n", 6, "serve.routes.m is the name of a task or model"),
    ("serve:\n  traces:\n    otlp: collector\n", 6, "`collector` is no address of a collector"),
    ("serve:\n  guards:\n    languages: [es, spanish]\n", 6, "serve.guards.languages: `spanish` is no language"),
    ("serve:\n  routes:\n    r: [m]\n", 6, "`serve.routes.r` must be keys and values"),
    ("serve:\n  routes:\n    r: {to: m}\n", 6, "`serve.routes.r.to` must be a list, as in [a, b] (found 'm')"),
    ("serve:\n  redact: maybe\n", 5, "`serve.redact` must be true or false (found 'maybe')"),
    ("serve:\n  in_flight: many\n", 5, "`serve.in_flight` must be a whole number (found 'many')"),
    ("serve:\n  timeout_s: 0\n", 5, "`serve.timeout_s` must be greater than 0 (found 0)"),
    ("serve:\n  host: not a host\n", 5, "`serve.host`: it is no name or address of this machine"),
])
def test_what_cannot_be_meant_is_told_by_file_line_and_key(tmp_path: Path, more: str, line: int, says: str) -> None:
    error = refused(tmp_path, more)
    assert f"bucle.yaml:{line}: " in error.message
    assert says in error.message
    assert "pa55word" not in str(error), "nobody repeats a secret"
    assert not any(word in str(error) for word in ("tuple", "dictionary", "instance of", "packaged:"))


@pytest.mark.parametrize("host", ["127.0.0.1", "not a host", EVERYWHERE])
def test_a_start_that_gets_no_port_leaves_no_journal(tmp_path: Path, host: str) -> None:
    (tmp_path / "bucle.yaml").write_text(TOP, "utf-8")
    ws = Workspace.open(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        app = app_for(ws, None)
        assert list(tmp_path.glob(".bucle/journal/server-*"))
        with pytest.raises(BucleError) as caught:
            serve(app, host, busy.getsockname()[1])
    assert not list(tmp_path.glob(".bucle/journal/server-*"))
    assert ("reached by others" in caught.value.message) == (host == EVERYWHERE)
    ws.close()


def test_giving_back_names_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "bucle.yaml").write_text(TOP + "serve:\n  routes:\n    r: {to: [{to: m}]}\n", "utf-8")
    ws = Workspace.open(tmp_path)
    for route, target, says in (("nope", "m", "There is no route nope"), ("r", "x", "x is no target of route r"),
                                ("r", "m", "m of route r is not stopped")):
        with pytest.raises(NotFound, match=says):
            restore(ws, route, target, by="ana", reason="")
    ws.close()
