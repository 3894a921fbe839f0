"""Every verb on one finished project, as a user runs it: what it says to a person, and its one JSON object."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Running, answer, bucle, told

pytestmark = pytest.mark.torch
Copy = Callable[[], Path]
VERBS = ("init", "run", "data", "explore", "choose", "tune", "pretrain", "evaluate", "release", "serve", "monitor",
         "feedback", "why", "impact", "report", "doctor", "studio")


def newest(folder: Path, route: str) -> dict[str, Any]:
    """The newest trace of a route."""
    found: dict[str, Any] = answer("monitor", "--traces", "--route", route, "--limit", 1, "-p", folder)["traces"][0]
    return found


def test_help_lists_every_verb_and_each_has_json() -> None:
    text = told("--help")
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\S", text, re.MULTILINE), verb
        assert "--json" in told(verb, "--help"), verb
    assert told("--version").startswith("bucle, version ")


def test_run_again_reuses_everything(finished: Path, copy: Copy) -> None:
    folder = copy()
    again = answer("run", folder)
    assert again["reused"] == again["steps"] == len(answer("report", finished)["steps"])
    assert again["gates_passed"]
    assert {c["task"] for c in again["comparisons"]} == {"intenciones", "respuestas"}
    assert [r["version"] for r in again["releases"]] == [1, 2]
    text = told("run", folder)
    assert again["recommendation"]["text"] in text
    assert f"report: {again['report']}" in text
    assert f"studio {folder}" in text


def test_data(finished: Path) -> None:
    rows = answer("data", "list", "-p", finished)["list"]
    assert {"web/phishing.html", "docx/mudanza.docx", "data/mensajes.tsv"} <= {r["path"] for r in rows}
    quarantine = answer("data", "quarantine", "-p", finished)["quarantine"]
    assert {r["path"]: r["reason"] for r in quarantine} == {
        "notas/vacio.md": "empty", "pdf/anexo-danado.pdf": "corrupt", "pdf/protocolo-fraude-interno.pdf": "encrypted"}
    removed = answer("data", "removed", "-p", finished)["removed"]
    assert [r["path"] for r in removed] == ["web/wifi-problemas-2025.html"]
    assert answer("data", "problems", "-p", finished)["problems"] == []
    text = told("data", "quarantine", "-p", finished)
    assert re.search(r"^pdf/anexo-danado.pdf +corrupt +\S", text, re.MULTILINE)
    assert "--retry pdf/protocolo-fraude-interno.pdf" in text


@pytest.mark.slow
def test_looking_at_data_leaves_the_report_whole(copy: Callable[[], Path]) -> None:
    finished = copy()  # exploring adds steps of its own
    assert "gain" in answer("report", finished)
    answer("data", "-p", finished)
    answer("explore", "-p", finished)
    assert "gain" in answer("report", finished)


@pytest.mark.slow
def test_explore(copy: Callable[[], Path]) -> None:
    finished = copy()
    found = answer("explore", "-p", finished)["tasks"]
    assert set(found) == {"intenciones", "respuestas"}
    rows = found["intenciones"]
    assert rows["rows"] == rows["train"] + rows["validation"] + rows["test"] == 260
    assert sum(label["count"] for label in rows["labels"].values()) == 260
    text = told("explore", "-p", finished, "--task", "intenciones")
    assert re.search(r"^averia_internet +\d+ *$", text, re.MULTILINE)
    assert "labels that are probably wrong" in text
    assert "respuestas" not in text
    assert answer("explore", "-p", finished, "--task", "intencion", code=2)["error"]["hint"].startswith("Tasks: ")


def test_choose(finished: Path) -> None:
    listed = answer("choose", "--list", "-p", finished)["candidates"]
    assert {"tfidf", "frozen-encoder/minilm", "full/nano", "quote"} <= {c["candidate"] for c in listed}
    assert re.search(r"^intenciones +tfidf +baseline +\S", told("choose", "--list", "-p", finished), re.MULTILINE)
    comparisons = answer("choose", "-p", finished)["comparisons"]
    text = told("choose", "-p", finished)
    for comparison in comparisons:
        assert comparison["why"] in text
        for c in comparison["candidates"]:
            assert c["low"] <= c["value"] <= c["high"]
            words = {"beats": "beats the baseline", "ties": "does not beat the baseline",
                     "loses": "worse than the baseline", "ruled_out": "ruled out", "": "the baseline"}[c["verdict"]]
            assert re.search(rf"^{re.escape(c['name'])}( \*)? .*{words}", text, re.MULTILINE), c["name"]


@pytest.mark.slow
def test_tune(copy: Copy) -> None:
    folder = copy()
    techniques = answer("tune", "--list")["techniques"]
    assert {"majority", "tfidf", "lora", "full", "rag"} <= {t["technique"] for t in techniques}
    assert "lora" in told("tune", "--list")
    batch = answer("tune", "-p", folder, "--technique", "full", "--show-batch", 2)
    assert len(batch["rows"]) == 2
    assert all("⟦" in row for row in batch["rows"])
    dry = told("tune", "-p", folder, "--technique", "full", "--dry-run")
    assert f"{batch['train_rows']} training rows, about {batch['tokens']} tokens" in dry
    fresh = told("tune", "-p", folder, "--technique", "few-shot", "--task", "intenciones")  # not among the candidates
    assert re.search(r"few-shot/nano: accuracy 0\.\d+ \[0\.\d+, 0\.\d+\] on \d+ held-out rows", fresh)


def test_pretrain(finished: Path) -> None:
    model = answer("pretrain", "-p", finished)["models"][0]
    folder = Path(model["folder"])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert model["bits_per_byte_after"] < model["bits_per_byte_before"]
    assert str(folder) in told("pretrain", "-p", finished)


def test_evaluate(finished: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.tsv"
    fresh.write_text("texto\tintencion\n" + "".join(
        f"{text}\t{label}\n" for text, label in (
            ("no tengo internet desde ayer y el router parpadea", "averia_internet"),
            ("se ha ido la luz en toda la calle", "averia_luz"),
            ("quiero pasar el contrato a nombre de mi hija", "cambio_titular"),
            ("explicadme el importe de la factura de marzo", "consultar_factura"))), "utf-8")
    found = answer("evaluate", fresh, "-p", finished)
    assert (found["rows"], found["release"], found["seen"]) == (4, 2, 0)
    assert found["metrics"]["accuracy"]["low"] <= found["metrics"]["accuracy"]["value"]
    assert {"value", "low", "high"} <= set(found["baseline"])
    text = told("evaluate", fresh, "-p", finished, "--release", "v1")
    assert "(version 1) on 4 rows" in text
    assert re.search(r"^  accuracy +[01]\.\d+ +\[", text, re.MULTILINE)
    assert "tfidf baseline" in text


def test_release(copy: Copy) -> None:
    folder = copy()
    rows = answer("release", "list", "-p", folder)["releases"]
    assert [(r["version"], r["production"]) for r in rows] == [(1, False), (2, True)]
    assert "held-out value" in answer("release", "card", "1", "-p", folder)["card"]
    assert told("release", "card", "-p", folder).startswith("# soporte v2")
    assert answer("release", "rollback", "-p", folder, "--reason", "una prueba")["version"] == 1
    assert "production is version 2" in told("release", "promote", "2", "-p", folder)
    moves = answer("release", "history", "-p", folder)["history"]
    assert [m["node"] for m in moves] == [rows[i]["id"] for i in (0, 1, 0, 1)]
    assert moves[2]["reason"] == "rollback: una prueba"  # so that going back again goes further back
    assert re.search(r"^2 +production ", told("release", "-p", folder), re.MULTILINE)
    assert answer("release", "rollback", "9", "-p", folder, code=2)["error"]["kind"] == "NotFound"


def test_monitor(finished: Path) -> None:
    alerts = answer("monitor", "-p", finished, code=1)["alerts"]  # 1: one is open where the log ends
    assert {"abuse", "drift"} <= {a["kind"] for a in alerts}
    assert [a["detail"]["user"] for a in alerts if a["kind"] == "abuse"] == ["u-0666"]
    said = bucle("monitor", "-p", finished)
    assert said.returncode == 1
    for alert in alerts:
        assert alert["next"] in said.stdout
    traces = answer("monitor", "--traces", "--user", "u-0666", "--limit", 5, "-p", finished)["traces"]
    assert len(traces) == 5
    assert {t["user"] for t in traces} == {"u-0666"}
    assert traces[0]["id"][:20] in told("monitor", "--traces", "--user", "u-0666", "-p", finished)
    windows = answer("monitor", "--windows", "--route", "intenciones", "-p", finished)["windows"]
    assert {w["route"] for w in windows} == {"intenciones"}
    assert re.search(r"^intenciones +2026-09-07", told("monitor", "--windows", "-p", finished), re.MULTILINE)


def test_feedback(copy: Copy, tmp_path: Path) -> None:
    folder = copy()
    before = answer("feedback", "preview", "intenciones", "-p", folder)
    heard = {f["trace"] for f in answer("feedback", "list", "-p", folder)["feedback"]}
    traces = answer("monitor", "--traces", "--route", "intenciones", "--limit", 400, "-p", folder)["traces"]
    quiet = [t for t in traces if t["id"] not in heard and t["user"] != "u-0666"]
    one = answer("feedback", "add", quiet[0]["id"][:30], "--correction", "bono_social", "--by", "ana", "-p", folder)
    assert (one["trace"], one["correction"], one["by"]) == (quiet[0]["id"], "bono_social", "ana")
    assert "stored beside trace:" in told("feedback", "add", quiet[1]["id"], "--rating", "1", "-p", folder)
    table = tmp_path / "ratings.csv"
    table.write_text(f"trace,rating,correction,by\n{quiet[2]['id']},-1,baja_contrato,eva\ntrace:0000,1,,eva\n"
                     f"{quiet[3]['id']},muy bien,,eva\n")
    counts = answer("feedback", "import", table, "-p", folder)
    assert counts == {"stored": 1, "already_there": 0, "unknown_traces": 1, "unusable_rows": 1}
    assert "already there: 1" in told("feedback", "import", table, "-p", folder)
    after = answer("feedback", "preview", "intenciones", "-p", folder)
    assert after["corrections"] == before["corrections"] + 2
    assert len(after["rows"]) > len(before["rows"])
    assert re.search(r"ana .*bono_social", told("feedback", "-p", folder))


def test_why_and_impact(finished: Path) -> None:
    trace = newest(finished, "respuestas")
    chain = answer("why", trace["id"], "-p", finished)["chain"]
    kinds = {row["kind"] for row in chain}
    assert {"trace", "chunk", "document", "release", "candidate", "dataset", "split", "index", "gate"} <= kinds
    assert chain[0]["id"] == trace["id"]
    text = told("why", trace["id"][:24], "-p", finished)
    path = next(row["title"] for row in chain if row["kind"] == "document")
    assert re.search(rf"^ +document: \[document\] {re.escape(path)}", text, re.MULTILINE)
    touched = answer("impact", path, "-p", finished)["chain"]
    assert {"document", "corpus", "index", "candidate", "release", "traces"} <= {row["kind"] for row in touched}
    assert any(row["id"] == trace["id"] for row in touched)
    assert f"[document] {path}" in told("impact", path, "-p", finished)


def test_report(finished: Path, tmp_path: Path) -> None:
    story = answer("report", finished)
    assert {"project", "steps", "data", "comparisons", "gates", "releases", "monitor", "gain", "why"} <= set(story)
    page = tmp_path / "report.html"
    assert told("report", finished, "--language", "en", "-o", page).strip() == str(page)
    html = page.read_text("utf-8")
    assert '<html lang="en"' in html
    assert not re.search(r"""(src|href)=["']?https?://""", html), "the report is not self-contained"
    assert told("report", finished).strip().endswith("report.html")


def test_doctor(finished: Path, copy: Copy) -> None:
    assert all(check["ok"] for check in answer("doctor", finished)["checks"])
    assert told("doctor").count("\nok  ") >= 8
    folder = copy()
    blob = next(p for p in (folder / ".bucle" / "blobs").rglob("*") if p.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"spoilt")
    found = answer("doctor", folder, code=3)
    assert not found["ok"]
    assert [c["name"] for c in found["checks"] if not c["ok"]] == ["blobs"]


@contextmanager
def serving(verb: str, folder: Path, log: Path, *options: str) -> Iterator[tuple[Running, str]]:
    with Running(verb, folder, "--port", "0", *options, log=log) as server:
        yield server, json.loads(server.wait_for("\n"))["url"]


class SlowUpstream(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that takes a second and a half for each answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Slow)
        self.url, self.asked = f"http://127.0.0.1:{self.server_port}", threading.Event()

    def __enter__(self) -> SlowUpstream:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()


class _Slow(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, SlowUpstream)
        self.server.asked.set()
        time.sleep(1.5)
        body = json.dumps({
            "id": "x", "object": "chat.completion", "created": 0, "model": "redactor",
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": "Le llamamos mañana."}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


def test_serve_answers_streams_embeds_and_drains(copy: Copy, tmp_path: Path) -> None:
    folder = copy()
    with SlowUpstream() as upstream:
        settings = folder / "bucle.yaml"
        settings.write_text(settings.read_text("utf-8").replace("http://127.0.0.1:8790", upstream.url), "utf-8")
        answer("run", folder, "--until", "models")
        serve_and_ask(folder, upstream, tmp_path / "log")


def serve_and_ask(folder: Path, upstream: SlowUpstream, log: Path) -> None:
    with serving("serve", folder, log, "--json") as (server, url), httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        models = {m["id"] for m in client.get("/v1/models").json()["data"]}
        assert {"intenciones", "respuestas", "nano", "minilm", "redactor"} <= models
        ask = {"model": "intenciones", "messages": [{"role": "user", "content": "no me funciona la fibra"}]}
        reply = client.post("/v1/chat/completions", json=ask)
        label = reply.json()["choices"][0]["message"]["content"]
        assert label in answer("explore", "-p", folder)["tasks"]["intenciones"]["labels"] | {"alta_movil": {}}
        parts = client.post("/v1/chat/completions", json=ask | {"stream": True}).text
        assert label in parts
        assert parts.rstrip().endswith("data: [DONE]")
        vectors = client.post("/v1/embeddings", json={"model": "minilm", "input": ["hola", "adiós"]}).json()["data"]
        assert [len(v["embedding"]) for v in vectors] == [384, 384]
        assert client.get("/studio").status_code == 200
        assert client.post("/v1/chat/completions", json=ask | {"model": "nadie"}).status_code == 404

        late: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: late.append(httpx.post(
            f"{url}/v1/chat/completions", json=ask | {"model": "redactor"}, timeout=60)))
        asking.start()
        assert upstream.asked.wait(30)
        assert server.terminate() == 0
        asking.join(60)
    assert late[0].status_code == 200
    assert late[0].json()["choices"][0]["message"]["content"] == "Le llamamos mañana."
    assert newest(folder, "redactor")["id"] == late[0].json()["id"]
    chain = answer("why", reply.json()["id"], "-p", folder)["chain"]
    assert chain[0]["id"] == reply.json()["id"]
    assert any(row["kind"] == "release" for row in chain)


def test_serve_tells_a_person_how_to_call_it(finished: Path, tmp_path: Path) -> None:
    with Running("serve", finished, "--port", "0", log=tmp_path / "log") as server:
        text = server.wait_for("embeddings")
        url = re.search(r"^API +(http://127\.0\.0\.1:\d+)/v1$", text, re.MULTILINE)
        assert url
        assert f"curl {url[1]}/v1/models" in text
        assert server.terminate() == 0


def test_studio(finished: Path, tmp_path: Path) -> None:
    with serving("studio", finished, tmp_path / "log", "--no-browser", "--json") as (server, url), httpx.Client(
            base_url=url, timeout=30) as client:
        assert client.get("/").headers["location"] == "/studio"
        assert "tfidf" in client.get("/studio").text
        trace = newest(finished, "respuestas")["id"]
        assert "soporte" in client.get(f"/studio/traces/{trace}").text
        assert client.get("/studio/report").status_code == 200
        assert client.get("/studio", headers={"host": "evil.example"}).status_code == 403
        assert server.terminate() == 0
