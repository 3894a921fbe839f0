"""Drafted questions: answers that stand in the documents, what a model may not say, an endpoint that misbehaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.records import Block, Document
from bucle.data.bootstrap import NewQuestions, Refused, draft_by_rules, locate, read_reply
from bucle.data.chunk import chunk_documents
from bucle.data.tables import read_examples
from bucle.execute import QuietDisplay
from bucle.loop.bootstrap import Budget, bootstrap
from bucle.loop.workspace import Workspace

TEXT = """La tarifa Luz Fija cuesta 19,95 euros al mes. El Sr. García coordina las averías.
La lectura del gas se toma cada dos meses y la hace un técnico.
Si el cliente no responde en el plazo, el contrato se renueva.
El bono social es un descuento en la factura para hogares con rentas bajas. Esto es un ejemplo que no dice nada solo."""


def document(text: str = TEXT, path: str = "a.md", language: str = "es", **more: Any) -> Document:
    blocks = (Block(text="Tarifas", kind="heading", place="section Tarifas"), Block(text=text, place="section Tarifas"))
    return Document(
        id=f"document:{path}",
        path=path,
        sha256="0" * 64,
        media_type="text/markdown",
        title="Tarifas",
        language=language,
        blocks=blocks,
        **more,
    )


def test_rules_ask_about_facts_and_answer_word_for_word() -> None:
    source = document()
    drafts = draft_by_rules([source], 20, language="es", unanswerable=0.1)
    asked = {d.question: d.answer for d in drafts}
    assert asked["¿Cuánto cuesta la tarifa Luz Fija?"] == "19,95 euros al mes"
    assert asked["¿Cuándo se toma la lectura del gas?"] == "cada dos meses"
    assert asked["¿Qué ocurre si el cliente no responde en el plazo?"] == "el contrato se renueva."
    assert asked["¿Qué es el bono social?"].startswith("El bono social es un descuento")
    assert not any("esto" in q.lower() for q in asked)
    for d in drafts:
        if d.answer is None:
            assert (d.document, d.row()["start"]) == ("", None)
        else:
            assert source.text[d.start : d.end] == d.support
            assert d.answer in d.support
    assert sum(d.answer is None for d in drafts) == 2


def test_english_tables_and_headings_that_ask() -> None:
    text = "The standard plan costs 24.90 euros per month. The Metro was built by Ann Lee. The city has 3 universities."
    blocks = (
        Block(text="Who may sign?", kind="heading"),
        Block(text="Any adult who lives in the home."),
        Block(text=text, place="p"),
        Block(text="| Plan | Price |\n|---|---|\n| Basic | 10 € |\n| Plus | 20 € |", kind="table", place="t"),
    )
    made = Document(id="d", path="a.md", sha256="0", media_type="text/plain", title="", language="en", blocks=blocks)
    asked = {d.question: d.answer for d in draft_by_rules([made], 20, language="es", unanswerable=0)}
    assert asked == {
        "Who may sign?": "Any adult who lives in the home.",
        "How much does the standard plan cost?": "24.90 euros per month",
        "By whom was the Metro built?": "Ann Lee",
        "How many universities does the city have?": "3 universities",
        "For “Basic”, what is the “price”?": "10 €",
        "For “Plus”, what is the “price”?": "20 €",
    }
    row = next(d for d in draft_by_rules([made], 20, language="es") if d.answer == "20 €")
    assert made.text[row.start : row.end] == "| Plus | 20 € |"


def test_drafts_are_spread_and_never_twice_the_same() -> None:
    some = [document(path=f"{i}.md") for i in range(5)]
    other = document("El alta de la línea cuesta 12 euros. El traslado de la línea cuesta 30 euros.", "z.md")
    drafts = draft_by_rules([*some, other], 6, language="es", unanswerable=0)
    assert len({d.question for d in drafts}) == len(drafts)
    assert {d.document for d in drafts} >= {"0.md", "1.md", "z.md"}, "each in its turn, though they say the same"
    assert draft_by_rules([], 5, language="en", unanswerable=0) == []
    assert draft_by_rules([document("")], 5, language="es", unanswerable=0) == []


def test_hostile_text_takes_time_in_proportion() -> None:
    hostile = [
        "El " + "a " * 40_000 + ".",
        "La " + "b" * 100_000,
        "Si " + "x y, " * 20_000,
        "| a |\n|---|\n" * 5_000,
        "A " * 30_000 + "cuesta 3 euros.",
        "El x " + "es " * 20_000 + "una cosa.",
        "\0\x01 \ud7ff. " * 1000,
    ]
    draft_by_rules([document(t, f"{i}.md") for i, t in enumerate(hostile)], 50, language="es")
    draft_by_rules([document(t, f"{i}.md", "en") for i, t in enumerate(hostile)], 50, language="en")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Lo siento, no puedo ayudar con eso.", "not JSON"),
        ('{"question": ', "not JSON"),
        ("[1, 2]", "not JSON"),
        ("{" * 100_000, "not JSON"),
        ('{"question": null}', "no question"),
        ('{"question": 3, "answer": "x"}', "no question"),
        ('{"question": "¿Qué dice el texto sobre el gas?", "answer": "cada dos meses"}', "names the text"),
        ('{"question": "According to this passage, how much is it?", "answer": "19,95 euros"}', "names the text"),
        ('{"question": "¿Cuánto cuesta Luz Fija?", "answer": "29,95 euros"}', "not in the passage"),
        ('{"question": "¿Cuánto cuesta Luz Fija?", "answer": "9,95 euros"}', "not in the passage"),
        ('{"question": "¿Cuánto cuesta Luz Fija?", "answer": ""}', "no answer"),
        ('{"question": "¿Cuánto cuesta Luz Fija?", "answer": null}', "no answer"),
        ('{"question": "Dime cuánto cuesta", "answer": "19,95 euros"}', "not a question"),
        ('{"question": "¿Cuesta 19,95 euros al mes?", "answer": "19,95 euros"}', "holds its answer"),
        ('{"question": "¿Qué?", "answer": "19,95 euros"}', "too short"),
    ],
)
def test_what_a_model_says_is_refused_with_the_reason(reply: str, reason: str) -> None:
    source = document()
    with pytest.raises(Refused, match=reason):
        read_reply(reply, chunk_documents([source])[0], source, by="m")


def test_an_answer_is_found_whatever_its_white_space_and_in_its_own_passage() -> None:
    source = document("Uno cuesta 5 euros.\n\nDos también.\nY tres cuesta\n5 euros.")
    chunk = chunk_documents([source])[0]
    made = read_reply(
        '```json\n{"question": "¿Cuánto cuesta el tres?", "answer": "cuesta 5 euros"}\n```', chunk, source, by="m"
    )
    assert source.text[made.start : made.end] == made.support
    assert made.answer in made.support
    assert locate("5 euro", source.text) is None
    assert locate("tres cuesta 5 euros.", source.text) is not None
    fresh = NewQuestions()
    assert [fresh.add(q) for q in ("¿Cuánto cuesta el alta?", "¿CUÁNTO cuesta el alta", "¿Cuánto cuesta la baja?")] == [
        True,
        False,
        True,
    ]


class Peer(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint: `script` decides what each request gets."""

    script: Any = None
    calls = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).calls += 1
        status, said = type(self).script(body["messages"], type(self).calls)
        reply = {
            "id": "x",
            "object": "chat.completion",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20},
        }
        data = json.dumps(reply if status == 200 else {"error": {"message": said}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def peer() -> Iterator[tuple[type[Peer], str]]:
    handler = type("Own", (Peer,), {"calls": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def project(tmp_path: Path, url: str, *, price: float = 1.0) -> Workspace:
    (tmp_path / "docs").mkdir()
    for i in range(8):
        (tmp_path / "docs" / f"{i}.md").write_text(
            f"# Servicio {i}\n\nEl servicio número {i} tiene una cuota mensual de {i + 10},95 euros con impuestos, "
            f"y se puede contratar en la oficina de la calle Mayor {i}.\n",
            "utf-8",
        )
    (tmp_path / "bucle.yaml").write_text(
        "project: p\nlanguage: es\ndata: {documents: {path: docs}}\n"
        "tasks: {respuestas: {kind: answer, data: preguntas.jsonl}}\n"
        f"models: {{redactor: {{kind: openai, base_url: '{url}', model: m, api_key_env: '', "
        f"usd_per_million_in: {price}, usd_per_million_out: {price}}}}}\n",
        "utf-8",
    )
    return Workspace.open(tmp_path)


def good(messages: list[dict[str, str]], call: int) -> tuple[int, str]:
    """What an obedient model says."""
    system, user = messages[0]["content"], messages[1]["content"]
    if "copiando" in system:
        return 200, '{"answer": null}'
    number = user.split("servicio número ")[1].split()[0]
    if "NO responde" in system:
        return 200, json.dumps(
            {"question": f"¿Tiene permanencia o penalización el servicio {number} si me mudo a otro país?"}
        )
    return 200, json.dumps(
        {
            "question": f"¿Cuál es la cuota mensual del {'abcdefgh'[int(number)] * 9} servicio {number}?",
            "answer": f"{int(number) + 10},95 euros",
        }
    )


def test_a_model_drafts_over_http_and_the_file_is_read_by_the_task(
    tmp_path: Path, peer: tuple[type[Peer], str]
) -> None:
    handler, url = peer
    handler.script = staticmethod(good)
    ws = project(tmp_path, url)
    told = bootstrap(ws, 8, QuietDisplay())
    assert (told["by"], told["drafts"], told["unanswerable"], told["refused"]) == ("redactor", 8, 1, {})
    assert told["path"] == str(tmp_path / "preguntas.jsonl")
    assert told["tokens"] == 120 * told["calls"] == 120 * handler.calls
    assert told["usd"] == pytest.approx(told["tokens"] / 1e6)
    rows, problems = read_examples(tmp_path / "preguntas.jsonl", "answer")
    assert (len(rows), problems, sum(r.target is None for r in rows)) == (8, [], 1)
    lines = [json.loads(line) for line in (tmp_path / "preguntas.jsonl").read_text("utf-8").splitlines()]
    assert {line["status"] for line in lines} == {"draft"}
    for line in lines:
        if line["answer"]:
            assert line["answer"] in (tmp_path / "docs" / line["document"]).read_text("utf-8")
            assert line["answer"] in line["support"]
    calls = handler.calls
    with pytest.raises(BadInput, match="there already"):
        bootstrap(ws, 8, QuietDisplay(), output=tmp_path / "preguntas.jsonl")
    again = bootstrap(ws, 8, QuietDisplay(), output=tmp_path / "again.jsonl")
    assert (again["calls"], again["usd"], handler.calls) == (0, 0.0, calls), "every reply was kept"
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "preguntas.jsonl").read_bytes()


def test_a_model_that_lies_refuses_and_fails_is_counted_by_reason(tmp_path: Path, peer: tuple[type[Peer], str]) -> None:
    handler, url = peer

    def script(messages: list[dict[str, str]], call: int) -> tuple[int, str]:
        if "copiando" in messages[0]["content"]:
            return 200, '{"answer": "sí"}'
        return [
            (200, "I cannot help."),
            (200, '{"question": "¿Cuánto cuesta todo?", "answer": "1 euro"}'),
            (400, "too rude"),
            good(messages, call),
        ][call % 4]

    handler.script = staticmethod(script)
    told = bootstrap(project(tmp_path, url), 10, QuietDisplay())
    assert 1 <= told["drafts"] <= 3
    assert told["unanswerable"] == 0
    assert {"the reply is not JSON", "the answer is not in the passage"} <= set(told["refused"])
    assert any("too rude" in reason for reason in told["refused"])
    assert any("do answer it" in reason for reason in told["refused"])
    assert told["refused_n"] == sum(told["refused"].values())
    assert told["stopped"]


def test_it_goes_on_where_the_endpoint_died_and_where_the_budget_ended(
    tmp_path: Path, peer: tuple[type[Peer], str]
) -> None:
    handler, url = peer
    handler.script = staticmethod(lambda m, call: good(m, call) if call <= 3 else (503, "down"))
    ws = project(tmp_path, url)
    with pytest.raises(ModelUnavailable, match="3 of 6 drafts are kept") as caught:
        bootstrap(ws, 6, QuietDisplay())
    assert "rules" in caught.value.hint
    assert not (tmp_path / "preguntas.jsonl").exists()
    handler.script = staticmethod(good)
    part = bootstrap(ws, 6, QuietDisplay(), output=tmp_path / "part.jsonl", budget=Budget(tokens=130))
    assert (part["cached"], part["calls"], part["drafts"]) == (3, 2, 5)
    assert "budget" in part["stopped"]
    dollars = bootstrap(ws, 8, QuietDisplay(), output=tmp_path / "usd.jsonl", budget=Budget(usd=0.0))
    assert (dollars["calls"], dollars["usd"]) == (0, 0.0)
    for kept in (tmp_path / ".bucle" / "drafts").glob("*.json"):
        kept.write_text(kept.read_text()[:10])  # cut short by a kill
    whole = bootstrap(ws, 6, QuietDisplay(), output=tmp_path / "whole.jsonl")
    assert (whole["cached"], whole["drafts"], whole["stopped"]) == (0, 6, "")


def test_a_dry_run_asks_nothing_and_a_wrong_model_is_told(tmp_path: Path, peer: tuple[type[Peer], str]) -> None:
    handler, url = peer
    ws = project(tmp_path, url, price=2.0)
    told = bootstrap(ws, 4, QuietDisplay(), dry_run=True)
    assert handler.calls == 0
    assert 0 < told["tokens"][0] <= told["tokens"][1]
    assert told["usd"][0] == pytest.approx(told["tokens"][0] * 2 / 1e6)
    for wrong in ("gpt", "minilm"):
        with pytest.raises(BadInput, match="can draft"):
            bootstrap(ws, 4, QuietDisplay(), model=wrong)
    with pytest.raises(BadInput, match="0 drafts"):
        bootstrap(ws, 0, QuietDisplay())
    assert bootstrap(ws, 4, QuietDisplay(), model="rules")["by"] == "rules"
    assert handler.calls == 0


@pytest.mark.parametrize(
    ("language", "text", "question", "answer"),
    [
        ("en", "The premium plan costs 19.99 USD per month.", "How much does the premium plan cost?",
         "19.99 USD per month"),
        ("en", "Refunds take 5 working days.", "How long do refunds take?", "5 working days"),
        ("en", "Return shipping costs 4.95 EUR.", "How much does return shipping cost?", "4.95 EUR"),
        ("en", "The maximum file size is 25 MB.", "How much is the maximum file size?", "25 MB"),
        ("en", "The warranty lasts two years.", "How long does the warranty last?", "two years"),
        ("es", "El tamaño máximo de archivo es de 25 MB.", "¿De cuánto es el tamaño máximo de archivo?", "25 MB"),
        ("es", "La garantía dura dos años.", "¿Cuánto dura la garantía?", "dos años"),
    ],
)
def test_one_fact_is_one_question(language: str, text: str, question: str, answer: str) -> None:
    drafts = draft_by_rules([document(text, language=language)], 5, language="es", unanswerable=0)
    assert [(d.question, d.answer) for d in drafts] == [(question, answer)]


@pytest.mark.parametrize(
    "text",
    ["Si los normandos de aquel tiempo procedían o no de Dinamarca, los autores discrepan en sus obras.",
     "It costs 5 EUR to send them.", "They take 5 days to arrive there."],
)
def test_what_would_be_no_question_is_not_drafted(text: str) -> None:
    language = "es" if text.startswith("Si") else "en"
    assert draft_by_rules([document(text, language=language)], 5, language="es", unanswerable=0) == []
