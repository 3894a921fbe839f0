"""A project with one task of each kind whose out is a text or documents, through the command line: data to service."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import answer, bucle, told

HERE = Path(__file__).parent / "kinds"
KEPT = {"resumir": 12, "traducir": 12, "facturas": 11, "redactar": 10, "ordenes": 10, "charla": 10, "programar": 11,
        "buscar": 13}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "p"
    shutil.copytree(HERE, folder)
    assert "The data are ready" in told("run", "--until", "data", folder)
    return folder


def _without_search(project: Path, folder: Path) -> Path:
    """A copy whose whole run needs no encoder."""
    shutil.copytree(project, folder)
    body = yaml.safe_load((folder / "bucle.yaml").read_text())
    del body["tasks"]["buscar"], body["data"], body["models"]
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False))
    return folder


def test_rows_are_read_and_what_cannot_be_used_is_told(project: Path) -> None:
    problems = answer("data", "problems", "-p", project)["problems"]
    reasons: dict[str, list[str]] = {}
    for one in problems:
        reasons.setdefault(one["task"], []).append(one["reason"])
    assert {task: sorted(some) for task, some in reasons.items()} == {
        "resumir": ["empty-text", "no-reference", "not-json"],
        "traducir": ["no-reference"],
        "facturas": ["breaks-schema", "no-reference", "not-json-object", "not-json-object"],
        "redactar": ["empty-text", "no-reference"],
        "ordenes": ["bad-checks", "bad-checks", "bad-checks", "no-reference"],
        "charla": ["bad-messages", "bad-messages", "bad-messages", "bad-messages", "no-reference", "no-reference"],
        "programar": ["bad-tests", "bad-tests", "no-reference"],
        "buscar": ["no-document"],
    }
    assert "email in the tests" in told("data", "removed", "-p", project)
    assert "eva.lopez" not in told("data", "removed", "-p", project)


def test_a_judge_makes_a_reference_unneeded(project: Path, tmp_path: Path) -> None:
    folder = _without_search(project, tmp_path / "p")
    body = yaml.safe_load((folder / "bucle.yaml").read_text())
    body["tasks"] = {"redactar": {**body["tasks"]["redactar"], "metrics": ["judge:voz"]}}
    body["models"] = {"m": {"kind": "openai", "base_url": "http://127.0.0.1:9", "model": "m", "api_key_env": "K"}}
    body["judges"] = {"voz": {"model": "m", "rubric": "¿Suena cercano?"}}
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body, allow_unicode=True))
    said = bucle("run", "--until", "data", folder)
    assert said.returncode == 0, said.stderr
    assert "11 rows, 1 left out, 1 without a reference: only checks and judges score those" in said.stderr + said.stdout


@pytest.mark.slow
def test_what_people_say_is_what_the_kind_needs(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(project, folder)

    def open_row(task: str) -> str:
        return str(answer("label", "next", task, "-p", folder, "--by", "ana", "-n", 1)["rows"][0]["id"])

    rows: dict[str, str] = {}
    said = (
        ("facturas", '{"numero": 7}', '{"numero":"8","emisor":"X","importe":2}', None),
        ("programar", "x = 1", "assert otra(1) == 2; assert otra(2) == 3", None),
        ("buscar", " ; ", "pagos.md; bajas.md", "pagos.md;bajas.md"),
        ("resumir", "", "No sirve para medir.", None),
    )
    for task, wrong, right, _ in said:
        rows[task] = open_row(task)
        refused = bucle("label", "add", task, rows[task], wrong, "-p", folder, "--by", "ana")
        assert refused.returncode == 2, task
        assert "->" in refused.stderr
        told("label", "add", task, rows[task], right, "-p", folder, "--by", "ana")
    answer("run", "--until", "data", folder)
    for task, _, right, held in said:
        shown = answer("data", "show", rows[task], "-p", folder)
        assert (shown["document"] if task == "buscar" else shown["target"]) == (
            held or (json.dumps(json.loads(right)) if task == "facturas" else right)
        )
        assert shown["labelled_by"] == "ana"
    assert "1 added" in told("data", "diff", "buscar", "-p", folder)


def test_exports_and_exploring_say_nothing_that_is_not_so(project: Path, tmp_path: Path) -> None:
    folder = _without_search(project, tmp_path / "p")
    found = answer("explore", "-p", folder)["tasks"]
    for task, figures in found.items():
        assert figures["rows"] == KEPT[task], task
        assert (figures["labels"], figures["suspects"], figures["unanswerable"]) == ({}, [], 0), task
        topics = json.dumps(figures["topics"]["topics"])
        assert "assistant" not in topics
        assert '"role' not in topics
    assert found["ordenes"]["without_reference"] == 9
    page = (folder / ".bucle" / "explore.html").read_text()
    assert "Sin referencia" in page
    chats = tmp_path / "chats.jsonl"
    told("data", "export", "traducir", "-p", folder, "-o", chats, "--format", "openai")
    first = json.loads(chats.read_text().splitlines()[0])["messages"]
    assert "inglés" in first[0]["content"]
    assert [m["role"] for m in first] == ["system", "user", "assistant"]
    refused = bucle("data", "export", "programar", "-p", folder, "-o", tmp_path / "x.jsonl", "--format", "openai")
    assert refused.returncode == 2
    assert "no chats" in refused.stderr


def test_documents_that_are_not_there_are_told(project: Path) -> None:
    from bucle.loop.explore import _unknown
    from bucle.loop.story import latest_records
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(project)
    by_name = {record.name: record for record in latest_records(ws.ledger)}
    found = _unknown(ws, by_name, by_name["examples buscar"]["dataset"])
    assert found == [{"document": "piscina.md", "rows": 1}]


def test_every_kind_is_served(project: Path, tmp_path: Path) -> None:
    folder = _without_search(project, tmp_path / "p")
    assert bucle("run", folder).returncode == 0
    with _client(folder) as client:
        names = {one["id"]: one["bucle"]["kind"] for one in client.get("/v1/models").json()["data"]}
        assert names == {"resumir": "summarise", "traducir": "translate", "facturas": "extract", "redactar": "generate",
                         "ordenes": "instruct", "charla": "converse", "programar": "code"}
        for name in names:
            reply = _ask(client, name, {"role": "user", "content": "Hola, no me funciona el wifi"})
            assert reply.status_code == 200, reply.text
            assert reply.json()["choices"][0]["finish_reason"] == "stop"
            assert _ask(client, name, {"role": "user", "content": "a"}, n=2).status_code == 400
            assert _ask(client, name, {"role": "user", "content": "a"}, stop=["x"]).status_code == 400
        talk = [{"role": "user", "content": "Hola"}, {"role": "assistant", "content": "Dígame"},
                {"role": "user", "content": "¿Aceptan tarjeta?"}]
        trace = _ask(client, "charla", *talk).json()["bucle"]["trace"]
        ended = _ask(client, "charla", *talk[:2])
        assert (ended.status_code, ended.json()["error"]["code"]) == (400, "invalid_value")
    from bucle.loop.workspace import Workspace

    assert json.loads(Workspace.open(folder).traces.trace(trace).input) == talk


@pytest.mark.torch
def test_documents_found_are_the_reply(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(project, folder)
    body = yaml.safe_load((folder / "bucle.yaml").read_text())
    body["tasks"] = {"buscar": body["tasks"]["buscar"]}
    body["choose"] = {"candidates": ["bm25"]}
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body, allow_unicode=True))
    assert bucle("run", folder).returncode == 0
    with _client(folder) as client:
        reply = _ask(client, "buscar", {"role": "user", "content": "¿Cuánto cuesta trasladar la línea?"}).json()
    text = reply["choices"][0]["message"]["content"].splitlines()
    assert text[0] == "mudanzas.md"
    assert reply["bucle"]["citations"][0] == "mudanzas.md apartado Mudanzas"
    assert len(reply["bucle"]["citations"]) == len(reply["bucle"]["chunks"]) == len(text)


def _client(folder: Path) -> Any:
    from starlette.testclient import TestClient

    from bucle.loop.serving import app_for
    from bucle.loop.workspace import Workspace
    from bucle.release import production

    ws = Workspace.open(folder)
    return TestClient(app_for(ws, production(ws.ledger)), base_url="http://localhost")


def _ask(client: Any, model: str, *messages: dict[str, str], **more: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": model, "messages": list(messages), **more})
