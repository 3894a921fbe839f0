"""Who may see a document is what its labels say now: in a server that runs, a process that stays, every version."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from command import answer, told
from command import bucle as command
from small_project import build_tiny

import bucle
from bucle.core.errors import BadInput, BucleError
from bucle.loop.indexing import index_versions
from bucle.loop.opening import open_candidate
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace
from bucle.release import make_release, production
from bucle.serve.server import BackgroundServer

TOPICS = ("horario", "factura", "mudanza", "fibra", "avería", "contrato", "domiciliación", "cobertura", "roaming",
          "portabilidad", "permanencia", "reembolso")
SECRET = "El salario de la directora Quintanilla es de 98765 euros."


class Encoder(BaseHTTPRequestHandler):
    """Speaks OpenAI's embeddings; texts that share words are near."""

    broken = False

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        vectors = [[0.01] * 32 for _ in texts]
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                vector[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        body = json.dumps({"error": {"message": "gone"}} if self.broken else {
            "data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)],
            "usage": {"prompt_tokens": 1, "total_tokens": 1}}).encode()
        self.send_response(400 if self.broken else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    peer = ThreadingHTTPServer(("127.0.0.1", 0), Encoder)
    threading.Thread(target=peer.serve_forever, args=(0.01,), daemon=True).start()
    folder = tmp_path_factory.mktemp("labels") / "p"
    build_tiny(folder, data={"documents": "docs"}, models={"far": {
        "kind": "encoder", "base_url": f"http://127.0.0.1:{peer.server_address[1]}/v1", "model": "m",
        "api_key_env": ""}},
        tasks={"busca": {"kind": "retrieve", "data": "data/q.jsonl"}}, choose={"candidates": ["bm25", "hybrid-search"]})
    (folder / "docs").mkdir()
    rows = []
    for i, topic in enumerate(TOPICS):
        (folder / "docs" / f"{topic}.md").write_text(f"# {topic}\n\nLa {topic} se pide por teléfono al {900 + i}.\n")
        rows += [{"query": f"¿Cómo se pide la {topic}{more}?", "document": f"{topic}.md"} for more in ("", " hoy")]
    (folder / "docs" / "salario.md").write_text(f"# Sueldo\n\n{SECRET}\n")
    (folder / "data" / "q.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    bucle.Project(folder).run()
    yield folder
    peer.shutdown()
    peer.server_close()


def asked(url: str) -> str:
    said = httpx.post(url + "/v1/chat/completions", timeout=30, json={
        "model": "busca", "messages": [{"role": "user", "content": "salario de la directora Quintanilla"}]})
    assert said.status_code == 200, said.text
    return said.text


def test_a_label_and_a_deletion_hold_at_once_wherever_somebody_asks(project: Path) -> None:
    docs, question = project / "docs", "salario de la directora Quintanilla"
    label, ws = docs / "salario.md.access", Workspace.open(project)
    held, runner = bucle.Project(project), bucle.Project(project)

    def where(access: tuple[str, ...] = ()) -> set[str]:
        found = {"API": "salario.md" in asked(server.url),
                 "predict": "salario.md" in held.predict("busca", [question], access=access)[0].output}
        for version in ("", "1"):
            hits = held.search(question, version=version, access=access)
            found[f"search {version}".strip()] = "salario.md" in {h.chunk.path for h in hits}
        return {name for name, seen in found.items() if seen}

    everywhere = {"API", "predict", "search", "search 1"}
    with BackgroundServer(app_for(ws, production(ws.ledger))) as server:
        assert where() == everywhere

        label.write_text("dirección\n")
        Encoder.broken = True
        with pytest.raises(BucleError):
            runner.run()
        Encoder.broken = False
        assert "search" not in where(), "read, though the run failed later"
        assert where() == set()
        assert where(("dirección",)) == everywhere - {"API"}

        label.unlink()
        runner.run()
        assert where() == everywhere, "no step was done again"
        label.write_text("dirección\n")
        runner.run(until="data")
        assert where() == set(), "nor this time"

        label.write_text("")
        runner.run(until="data")
        assert where(("dirección",)) == set(), "labels that cannot be read"
        label.unlink()
        text = (docs / "salario.md").read_text()
        (docs / "salario.md").unlink()
        runner.run(until="data")
        assert where(("dirección",)) == set(), "deleted, with its label"
        (docs / "rrhh").mkdir()
        (docs / "rrhh" / ".access").write_text("rrhh\n")
        (docs / "rrhh" / "salario.md").write_text(text)
        runner.run()
        assert where(("dirección",)) == set(), "moved where a label is"
        assert held.search(question, access=("rrhh",))[0].chunk.path == "rrhh/salario.md"
        assert "98765" not in asked(server.url)

    whole = held.search(question, version="1", everything=True)
    assert whole[0].chunk.path == "salario.md"
    said = answer("index", "search", question, "--version", "1", "--all", "-p", project)
    assert said["hits"][0]["path"] == "salario.md"
    assert said["labels_applied"] is False
    assert "not applied" in told("index", "search", question, "--all", "-p", project)
    said = answer("index", "search", question, "--version", "1", "-p", project)
    assert said["labels_applied"] is True
    assert all(h["path"] != "salario.md" for h in said["hits"])


def test_a_question_is_asked_with_the_weights_of_what_is_released_on_that_index(project: Path) -> None:
    ws, question = Workspace.open(project), "¿Cómo se pide la mudanza?"
    first = index_versions(ws)[0].node
    on_first = next(n for n in ws.ledger.nodes("candidate") if n.attrs["technique"] == "hybrid-search"
                    and first in {e.parent for e in ws.ledger.parents(n.id)})
    release = make_release(ws.ledger, "p", {"busca": on_first.id}, {}, str)
    ws.ledger.move_alias("production", release.id, by="t", reason="t")
    assert answer("index", "search", question, "-p", project)["fusion"] == "even", "it is about another index"
    assert "fusion: fitted by busca" in told("index", "search", question, "--version", "1", "-p", project)
    held, predictor = bucle.Project(project), open_candidate(ws, on_first.id)
    found = [h.chunk.path for h in held.search(question, version="1", k=9)]
    assert found == predictor.predict([question])[0].output.split("\n")[:9]
    by_hand = answer("index", "search", question, "--weight", "0", "-p", project)
    assert by_hand["fusion"] == "weight 0"
    assert by_hand["hits"][0]["meaning"] is None

    assert held.search("¿¡...!?") == []
    assert "no letter and no digit" in told("index", "search", "???", "-p", project)
    with pytest.raises(BadInput, match="no question"):
        held.search(" \n")
    with pytest.raises(BadInput, match="narrowed"):
        held.search("??", where={"colour": "red"})
    done = command("index", "search", str(project))
    assert done.returncode == 2
    assert f"-p {project}" in done.stderr.replace("\n", "")
