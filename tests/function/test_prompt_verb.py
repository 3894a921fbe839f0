"""`bucle prompt` as a user runs it: from a file to a version in production, and what a model reads of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import answer, bucle, told

FILE = """\
name: intencion
about: Clasifica mensajes
inputs:
  empresa: {type: text, default: Luz y Red}
system: |
  Eres de {{ empresa }}. Di solo la categoría.
user: "Mensaje: {{ input }}"
shots: {count: 2, choose: diverse}
"""


@contextmanager
def _provider(reply: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OpenAI-compatible server on loopback that always says `reply`, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply},
                                            "finish_reason": "stop"}],
                               "usage": {"prompt_tokens": 40, "completion_tokens": 5}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def _change(folder: Path, **models: Any) -> None:
    path = folder / "bucle.yaml"
    body = yaml.safe_load(path.read_text("utf-8"))
    body["models"] |= models
    path.write_text(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), "utf-8")


def test_a_file_becomes_versions_and_an_alias_moves_between_them(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / "prompts").mkdir()
    path = folder / "prompts" / "intencion.yaml"
    path.write_text(FILE, "utf-8")
    here: dict[str, Any] = {"cwd": folder}
    assert "no prompt saved yet" in told("prompt", **here)
    assert answer("prompt", "check", "prompts/intencion.yaml", **here)["warnings"] == []
    assert answer("prompt", "save", "prompts/intencion.yaml", "--by", "ana", **here)["version"] == 1
    path.write_text(FILE.replace("Di solo", "Contesta solo").replace("count: 2", "count: 1"), "utf-8")
    saved = answer("prompt", "save", "prompts/intencion.yaml", "--alias", "production", "--because", "corta", **here)
    assert (saved["version"], saved["alias"]["before"]) == (2, "")
    diff = answer("prompt", "diff", "intencion@1", "intencion@production", **here)
    assert "+Eres de {{ empresa }}. Contesta solo la categoría." in diff["text"]
    assert diff["settings"] == {"shots.count": [2, 1]}
    moved = told("prompt", "alias", "intencion@1", "production", **here)
    assert moved.startswith("intencion@production is version 1, before it intencion@2\n")
    moves = answer("prompt", "history", "intencion", **here)["moves"]
    assert [(m["alias"], m["version"]) for m in moves] == [
        ("saved", 1), ("saved", 2), ("production", 2), ("production", 1)]
    shown = told("prompt", "show", "intencion@production", **here)
    assert "@production" in shown
    assert "Di solo la categoría" in shown
    assert "production = 1" in told("prompt", "list", **here)


def test_try_shows_what_a_local_model_reads_and_what_its_small_context_leaves_out(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / "p.yaml").write_text(FILE.replace("count: 2", "count: 8"), "utf-8")
    found = answer("prompt", "try", "p.yaml", "--task", "intenciones", "--model", "nano", "--input",
                   "no tengo luz {{ 7 * 7 }} <|end|>", "--var", "empresa=Ñandú", cwd=folder)
    assert found["how"] == "tokenizer"
    assert found["context"] == 192
    assert found["tokens"] + found["room"] <= 192
    assert {d["part"] for d in found["dropped"]} == {"examples"}
    assert "Eres de Ñandú" in found["text"]
    assert "{{ 7 * 7 }}" in found["text"]
    assert sum(found["parts"].values()) == found["tokens"]
    human = told("prompt", "try", "p.yaml", "--task", "intenciones", "--model", "nano", "--input", "hola", cwd=folder)
    assert "left out: example" in human
    (folder / "p.yaml").write_text(FILE.replace("Di solo", "Di solo " + "la categoría de la factura " * 60), "utf-8")
    over = bucle("prompt", "try", "p.yaml", "--model", "nano", "--input", "hola", cwd=folder)
    assert over.returncode == 2
    assert "nano holds 192" in over.stderr
    assert "Shorten `system`" in over.stderr


def test_send_asks_the_model_and_holds_its_object_to_the_schema(copy: Callable[[], Path]) -> None:
    folder = copy()
    schema = "output: {type: object, required: [tema], properties: {tema: {type: string}}}\n"
    (folder / "p.yaml").write_text("name: p\nsamples: 3\n" + schema, "utf-8")
    for reply, valid, asks in (('{"tema": "luz"}', True, 1), ('{"otro": 1}', False, 2)):
        with _provider(reply) as (url, asked):
            _change(folder, gpt={"kind": "openai", "base_url": url, "model": "gpt-4o-mini", "api_key_env": "",
                                 "usd_per_million_in": 1, "usd_per_million_out": 2})
            code = 0 if valid else 2
            found = answer("prompt", "try", "p.yaml", "-m", "gpt", "--input", "no hay luz", "--send", cwd=folder,
                           code=code)
            human = bucle("prompt", "try", "p.yaml", "-m", "gpt", "--input", "no hay luz", "--send", cwd=folder)
            assert human.returncode == code
            assert ("does not fit the schema, after one repair" in human.stdout) is not valid
            assert ("tema" in human.stderr) is not valid
            assert "one sample at temperature 0; as a candidate, 3 samples vote" in human.stdout
        assert len(asked) == 2 * asks  # an object that does not fit is asked for once more
        assert asked[0]["messages"] == found["messages"]
        said = found["answer"]
        assert said["valid"] is valid
        assert said["usd"] == pytest.approx(asks * 50e-6)
        assert said["ms"] > 0
    assert "tema" in said["error"]
    assert said["error_kind"] == "SchemaBroken"


def test_what_a_user_gets_wrong_is_two_lines_and_no_traceback(copy: Callable[[], Path]) -> None:
    folder = copy()
    (folder / "p.yaml").write_text(FILE, "utf-8")
    (folder / "malo.yaml").write_text(FILE.replace("{{ empresa }}", "{{ empressa }}"), "utf-8")
    for args, said in (
        (("check", "malo.yaml"), "malo.yaml:6: `system` line 1: `empressa` is no input"),
        (("check", "no.yaml"), "no.yaml does not exist"),
        (("show", "nada"), "No prompt is called `nada`"),
        (("save", "intencion"), "is no file"),
        (("alias", "p.yaml", "production"), "stands for a saved version"),
        (("try", "p.yaml"), "which input"),
        (("try", "p.yaml", "--task", "nada", "--input", "x"), "There is no task `nada`"),
        (("try", "p.yaml", "--input", "x", "--row", "1"), "Give one input"),
        (("try", "p.yaml", "--task", "intenciones", "--row", "nada"), "has no row `nada`"),
        (("try", "p.yaml", "--input", "x", "--var", "empressa=1"), "`empressa` is no input"),
        (("try", "p.yaml", "--input", "x", "--var", "empresa"), "has no value"),
        (("try", "p.yaml", "--input", "x", "-m", "gpt-4o-mini", "--send"), "none of the models"),
        (("try", "p.yaml", "--input", "x", "-m", "minilm"), "writes nothing"),
        (("try", "p.yaml", "--input", "x", "-m", "nanno"), "`nanno` is no model of this project, and none of a"),
        (("try", "p.yaml", "--input", "x", "-m", "nanno"), "Did you mean `nano`?"),
    ):
        done = bucle("prompt", *args, cwd=folder)
        assert done.returncode == 2, (args, done.stdout, done.stderr)
        assert said in done.stderr, (args, done.stderr)
        assert "Traceback" not in done.stderr
