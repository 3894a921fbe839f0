"""`bucle evaluate judge` and `bucle evaluate canary` as a user runs them, against a provider on loopback."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import answer, bucle, told


class Provider:
    """Speaks the OpenAI wire; `say` makes its answers."""

    def __init__(self) -> None:
        self.say: Callable[[str], str] = lambda text: f"old {len(text)}"
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                provider.asked += 1
                said = {"message": {"content": provider.say(body["messages"][-1]["content"])}, "finish_reason": "stop"}
                data = json.dumps({"model": "m-2026", "choices": [said],
                                   "usage": {"prompt_tokens": 10, "completion_tokens": 2}}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def provider() -> Iterator[Provider]:
    one = Provider()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def project(tmp_path: Path, provider: Provider) -> Path:
    (tmp_path / "rows.csv").write_text("text,label\nhola,a\nadiós,b\n", "utf-8")
    rows = [(f"¿{n}?", f"respuesta {1 + n % 5} {'ñ' * (n % 4)}", 1 + n % 5) for n in range(60)]
    scored(tmp_path / "scored.csv", rows)
    (tmp_path / "bucle.yaml").write_text(f"""project: jueces
tasks: {{t: {{kind: classify, data: rows.csv}}}}
models:
  gpt: {{kind: openai, base_url: "{provider.url}", model: m, api_key_env: "", usd_per_million_in: 1}}
judges:
  tono: {{model: gpt, rubric: Amable y correcto., agreement: scored.csv}}
""", "utf-8")
    return tmp_path


def scored(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        csv.writer(file).writerows([("input", "output", "human"), *rows])


def quoted_score(text: str, add: int = 0) -> str:
    found = re.search(r"respuesta (\d)", text)
    return json.dumps({"reason": "r", "score": min(5, int(found[1]) + add)}) if found else "OK"


def test_a_judge_beside_people(project: Path, provider: Provider) -> None:
    provider.say = quoted_score
    found = answer("evaluate", "judge", "tono", "-p", project)
    assert (found["kappa"]["value"], found["n"], found["may_gate"], found["advice"]) == (1.0, 60, True, [])
    assert [row[place] for place, row in enumerate(found["by_score"])] == [12] * 5
    assert found["usage"] == {"tokens_in": 600, "tokens_out": 120, "usd": pytest.approx(0.0006)}
    asked = provider.asked
    assert asked == 61, "a probe, and each row once"
    said = told("evaluate", "judge", "-p", project)
    assert provider.asked == asked
    assert "kappa (quadratic) 1.00" in said
    assert "it may gate" in said

    provider.say = lambda text: quoted_score(text, 2)
    scored(project / "scored.csv", [(f"¿{n}?", f"respuesta {1 + n % 5}!", 1 + n % 5) for n in range(60)])
    said = told("evaluate", "judge", "tono", "-p", project)
    assert "it may not gate" in said
    assert "points higher than people" in said


def test_a_judge_whose_model_changed_may_not_gate_until_it_is_measured_again(project: Path, provider: Provider) -> None:
    provider.say = quoted_score
    assert answer("evaluate", "canary", "gpt", "-p", project)["models"][0]["verdict"] == "first"
    assert answer("evaluate", "judge", "tono", "-p", project)["may_gate"]
    provider.say = lambda text: quoted_score(text, 2) if "respuesta" in text else "somebody else"
    assert answer("evaluate", "judge", "tono", "-p", project)["reused"], "nothing has told that it changed"
    assert bucle("evaluate", "canary", "-p", project).returncode == 1
    changed = answer("evaluate", "judge", "tono", "-p", project)
    assert (changed["reused"], changed["may_gate"]) == (False, False)
    assert changed["kappa"]["value"] < 0.5
    assert "bucle evaluate canary gpt --accept" in changed["advice"][0]
    told("evaluate", "canary", "gpt", "--accept", "-p", project)
    provider.say = lambda text: quoted_score(text) if "respuesta" in text else "somebody else"
    after = answer("evaluate", "judge", "tono", "-p", project)
    assert (after["reused"], after["may_gate"], after["kappa"]["value"]) == (False, True, 1.0)


def test_a_judge_with_gaps_or_with_one_score_may_not_gate(project: Path, provider: Provider) -> None:
    provider.say = lambda text: "I cannot say" if re.search(r"respuesta [12]", text) else quoted_score(text)
    found = answer("evaluate", "judge", "tono", "-p", project)
    assert (found["failed"], found["kappa"]["value"], found["may_gate"]) == (24, 1.0, False)
    assert "It could not score 24 of 60 rows" in found["advice"][0]
    from bucle.loop.judging import agreed, latest_agreement
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(project)
    assert agreed(ws, "tono", latest_agreement(ws, "tono")).unscored == 24
    ws.close()
    scored(project / "scored.csv", [(f"¿{n}?", f"respuesta {1 + n % 5}!", 1 + n % 5) for n in range(60)])
    provider.say = lambda text: json.dumps({"reason": "r", "score": 3})
    assert "It gives every answer the same, 3" in answer("evaluate", "judge", "tono", "-p", project)["advice"][0]


def test_what_is_wrong_with_a_judge_is_told(project: Path, provider: Provider) -> None:
    def wrong(*args: str) -> str:
        done = bucle("evaluate", "judge", *args, "-p", project)
        assert done.returncode in (2, 3), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    provider.say = quoted_score
    assert "no judge `tone`" in wrong("tone")
    for rows, message in (
            ([("q", "a", "six")], "scored.csv:2: human is 'six'"), ([("q", "a", 6)], "from 1 to 5"), ([], "no column"),
            ([(f"q{n}", "respuesta 3", 3) for n in range(9)], "every score is the same")):
        scored(project / "scored.csv", rows)
        assert message in wrong("tono"), message
    (project / "scored.csv").write_text("input,answer,human\nq,a,1\n")
    assert "no column output" in wrong("tono")
    (project / "scored.csv").unlink()
    assert "does not exist" in wrong("tono")
    scored(project / "scored.csv", [("q", "a", 1), ("q2", "a", 2)])
    text = (project / "bucle.yaml").read_text()
    (project / "bucle.yaml").write_text(text.replace(provider.url, "http://127.0.0.1:9/v1"))
    asked = provider.asked
    said = wrong("tono")
    assert "The judge tono does not answer" in said
    assert "judges.tono.model" in said
    assert provider.asked == asked
    (project / "bucle.yaml").write_text(text.replace(", agreement: scored.csv", ""))
    assert "judges.tono has no `agreement`" in wrong("tono")


def test_a_canary_from_first_to_changed_to_accepted(project: Path, provider: Provider) -> None:
    assert "kept as the reference" in told("evaluate", "canary", "-p", project)
    assert answer("evaluate", "canary", "gpt", "-p", project)["models"][0]["verdict"] == "equal"
    provider.say = lambda text: f"new {len(text)}"
    done = bucle("evaluate", "canary", "-p", project)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "gpt is no longer the model it was on" in done.stdout
    assert "before: old" in done.stdout
    found = answer("evaluate", "canary", "-p", project, code=1)
    assert (found["changed"], len(found["models"][0]["changes"])) == (True, 24)
    told("evaluate", "canary", "gpt", "--accept", "-p", project)
    assert answer("evaluate", "canary", "-p", project)["changed"] is False
    done = bucle("evaluate", "canary", "nano", "-p", project)
    assert (done.returncode, "no remote model" in done.stderr) == (2, True)
