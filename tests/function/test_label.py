"""Labelling as people do it: two at the command line and over HTTP, another tool between, and the data after."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import BUCLE, answer, bucle, environment, told
from small_project import SAMPLE
from starlette.testclient import TestClient

from bucle.core.records import Example
from bucle.data.label import apply_labels, effective
from bucle.loop.label import Labelling
from bucle.loop.label_pool import pool_rows
from bucle.loop.row_step import labels_node
from bucle.loop.workspace import Workspace
from bucle.web.label_routes import label_app

TASK = "intenciones"
LABELLED, ROWS = 90, 240


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The first 90 messages of the sample with their label, 150 more without."""
    lines = (SAMPLE / "data" / "mensajes.tsv").read_text("utf-8").splitlines()
    column = lines[0].split("\t").index("intencion")
    (tmp_path / "data").mkdir()
    out = [lines[0]]
    for number, line in enumerate(lines[1 : ROWS + 1]):
        cells = line.split("\t")
        cells[column] = cells[column] if number < LABELLED else ""
        out.append("\t".join(cells))
    (tmp_path / "data" / "m.tsv").write_text("\n".join(out) + "\n", "utf-8")
    (tmp_path / "bucle.yaml").write_text(
        f"project: tiny\nlanguage: es\ntasks:\n  {TASK}: "
        "{kind: classify, data: data/m.tsv, text: texto, label: intencion, gates: ['accuracy >= 0.05']}\n"
    )
    return tmp_path


@pytest.fixture
def labelling(project: Path) -> Iterator[Labelling]:
    ws = Workspace.open(project)
    yield Labelling(ws, TASK)
    ws.close()


def labelled_rows(labelling: Labelling) -> list[Example]:
    """What the step that reads the rows makes of them, without the cleaning."""
    now = effective(labelling.store.annotations(TASK))
    return list(apply_labels(pool_rows(labelling.ws, TASK), now))


def test_two_people_label_disagree_and_one_decides(project: Path) -> None:
    ana = answer("label", "next", TASK, "--by", "ana", "-n", "8", "--overlap", "1", "-p", project)
    assert answer("label", "next", TASK, "--by", "ana", "-n", "8", "--overlap", "1", "-p", project)["rows"]
    ids = [row["id"] for row in ana["rows"]]
    assert len(set(ids)) == 8
    assert ana["left"] == ROWS - LABELLED
    first, second = ana["labels"][:2]
    for row in ids[:2]:
        assert answer("label", "add", TASK, row, first, "--by", "ana", "-p", project)["new"] is True
    assert answer("label", "add", TASK, ids[0][:20], first, "--by", "ana", "-p", project)["new"] is False
    answer("label", "add", TASK, ids[0], second, "--by", "bea", "-p", project)
    answer("label", "add", TASK, ids[1], first, "--by", "bea", "-p", project)
    agreed = answer("label", "agreement", TASK, "-p", project)
    assert (agreed["rows_with_two_answers"], agreed["rows_in_agreement"]) == (2, 1)
    assert agreed["confusions"] == [{"a": "ana", "says": first, "b": "bea", "instead": second, "rows": 1}]
    open_ = answer("label", "disagreements", TASK, "-p", project)["rows"]
    assert open_[0]["answers"] == {"ana": first, "bea": second}
    assert "0 decided, 1 without" in told("label", "decide", TASK, "--majority", "--by", "jefa", "-p", project)
    assert "decided by jefa" in told("label", "decide", TASK, ids[0], second, "--by", "jefa", "-p", project)
    assert answer("label", "disagreements", TASK, "-p", project)["disagreements"] == 0
    status = answer("label", "status", TASK, "-p", project)
    assert (status["labelled_here"], status["left"], status["adjudicated"]) == (2, ROWS - LABELLED - 2, 1)
    assert status["people"] == {"ana": 2, "bea": 2}


def test_a_session_in_the_terminal_stores_each_answer_and_resumes(project: Path) -> None:
    def session(typed: str) -> str:
        done = subprocess.run([*BUCLE, "label", "start", TASK, "--by", "ana", "--overlap", "0", "-p", str(project)],
                              input=typed, capture_output=True, text=True, env=environment(), timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    said = session("1\n2\nu\n3\ns\nnonsense\n99\n\nu\nu\nu\nq\n")
    assert "150 left" in said
    assert "has no label `nonsense` yet" in said
    assert "There is no label 99" in said
    assert "There is no proposal to confirm" in said
    assert "nothing to undo" in said
    assert "0 labelled in this session" in said
    assert "2 labelled in this session" in session("+Nueva ñandú\n1\n")
    status = answer("label", "status", TASK, "-p", project)
    assert (status["labelled_here"], status["people"]) == (2, {"ana": 2})


def test_nothing_that_a_machine_proposed_becomes_a_target_until_a_person_says_so(
    project: Path, labelling: Labelling
) -> None:
    done = answer("label", "prelabel", TASK, "-p", project)
    assert done["proposed"] > 100
    assert answer("label", "prelabel", TASK, "-p", project)["proposed"] == 0
    made = labelled_rows(labelling)
    assert len(made) == LABELLED
    assert labels_node(labelling.ws.ledger, TASK) == ""
    asked = labelling.next("ana", 1)["rows"][0]
    assert asked["proposal"]["by"] == "tfidf"
    labelling.add(asked["id"], asked["proposal"]["label"], "ana")
    made = labelled_rows(labelling)
    assert len(made) == LABELLED + 1
    confirmed = next(row for row in made if row.id == asked["id"])
    assert (confirmed.target, confirmed.labelled_by) == (asked["proposal"]["label"], "ana")


def test_relabelling_keeps_the_id_and_says_who_and_when(labelling: Labelling) -> None:
    rows = pool_rows(labelling.ws, TASK)
    row = rows[0]
    other = next(label for label in labelling.labels() if label != row.target)
    labelling.add(row.id, other, "ana")
    made = {one.id: one for one in labelled_rows(labelling)}
    assert set(made) == {one.id for one in rows if one.target}
    assert (made[row.id].target, made[row.id].labelled_by) == (other, "ana")
    assert labelling.status()["relabelled"] == 1
    ledger = labelling.ws.ledger
    node = ledger.get(labels_node(ledger, TASK))
    line = json.loads(ledger.read(node, "labels.jsonl"))
    assert (line["row"], line["by"], line["label"]) == (row.id, "ana", other)
    assert line["at"].startswith("20")
    labelling.take_back(row.id, "ana")
    assert labelled_rows(labelling)[0] == row


def test_review_asks_for_the_labels_most_in_doubt(labelling: Labelling) -> None:
    rows = [row for row in labelling.rows().values() if row.target]
    wrong = rows[5]
    labelling.add(wrong.id, next(x for x in labelling.labels() if x != wrong.target), "otra")
    asked = labelling.next("ana", 30, review=True, overlap=1)
    assert all(row["label"] for row in asked["rows"])
    assert asked["rows"][0]["why"] in ("overlap", "suspect")
    assert wrong.id in {row["id"] for row in asked["rows"]}


@pytest.mark.parametrize("format_", ["label-studio", "argilla", "jsonl"])
def test_a_round_trip_through_another_project_keeps_who_and_when(
    project: Path, tmp_path_factory: pytest.TempPathFactory, labelling: Labelling, format_: str
) -> None:
    asked = [row["id"] for row in labelling.next("ana", 4)["rows"]]
    first, second = labelling.labels()[:2]
    labelling.add(asked[0], first, "ana", note="claro")
    labelling.add(asked[0], second, "bea ñ")
    labelling.add(asked[0], second, "jefa", decide=True)
    labelling.add(asked[1], first, "ana@example.org")
    file = tmp_path_factory.mktemp("x") / "out.json"
    told("label", "export", TASK, "--format", format_, "-o", file, "-p", project)
    labelling.ws.ledger.rows("SELECT 1")
    other = tmp_path_factory.mktemp("other")
    (other / "data").mkdir()
    for name in ("bucle.yaml", "data/m.tsv"):
        (other / name).write_bytes((project / name).read_bytes())
    done = answer("label", "import", TASK, file, "-p", other)
    assert (done["stored"], done["matched_by_text"], done["new_rows"], done["left_out"]) == (4, 0, 0, {})
    ws = Workspace.open(other)
    assert Labelling(ws, TASK).store.annotations(TASK) == labelling.store.annotations(TASK)
    ws.close()
    again = answer("label", "import", TASK, file, "-p", other)
    assert (again["stored"], again["already_there"]) == (0, 4)


def test_foreign_rows_are_found_by_text_or_become_new_and_reach_the_data(project: Path, labelling: Labelling) -> None:
    known = next(row for row in labelling.rows().values() if row.target is None)
    label = labelling.labels()[0]

    def task(text: str, choices: list[str], **more: Any) -> dict[str, Any]:
        result = [{"from_name": "s", "to_name": "t", "type": "choices", "value": {"choices": choices}}]
        return {"id": 1, "data": {"texto": text}, "annotations": [{"id": 7, "completed_by": 3, "result": result,
                                                                 "updated_at": "2026-03-01T10:00:00Z"} | more]}

    tasks = [task(known.input, [label]), task("una fila de fuera", [label]), task("otra", ["a", "b"]),
             task("saltada", [label], was_cancelled=True), task("", [label]), {"data": 3}, 5]
    file = project / "ls.json"
    file.write_text(json.dumps(tasks), "utf-8")
    done = answer("label", "import", TASK, file, "-p", project)
    assert (done["format"], done["matched_by_text"], done["new_rows"], done["stored"]) == ("label-studio", 1, 3, 2)
    assert done["left_out"] == {"malformed": 2, "several-labels": 1, "skipped-there": 1, "no-text": 1}
    made = {row.input: row for row in labelled_rows(labelling)}
    assert made["una fila de fuera"].target == label
    assert made["una fila de fuera"].labelled_by == "label-studio-3"
    assert made["una fila de fuera"].source == "ls.json:2"
    assert made[known.input].id == known.id


def test_a_spreadsheet_runs_nothing(project: Path, labelling: Labelling) -> None:
    evil = ["=HYPERLINK(\"http://x\")", "+1+1", "-2+3", "@SUM(1)", "\t=1", "  =2"]
    file = project / "evil.jsonl"
    lines = [{"row": "", "text": text, "label": "=cmd|' /C calc'!A0", "by": "=ana"} for text in evil]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert answer("label", "import", TASK, file, "-p", project)["new_rows"] == 6
    out = project / "out.csv"
    told("label", "export", TASK, "--format", "csv", "-o", out, "-p", project)
    rows = list(csv.reader(out.read_text("utf-8").splitlines()))
    assert len(rows) == 7
    assert not [cell for row in rows[1:] for cell in row if cell.lstrip()[:1] in ("=", "+", "-", "@")]
    assert {row[2] for row in rows[1:]} == {"'=cmd|' /C calc'!A0"}


@pytest.mark.parametrize(("text", "says"), [
    ("", "no record"), ("[" * 100_000, "not JSON"), ("{", "not JSON"), ("[1, 2]", "no record"),
    ('[{"a": 1}]', "neither Label Studio"), ("a,b\n1,2\n", "not JSON"), ("\ufeff[]", "no record"),
])
def test_a_bad_file_is_told_in_two_lines(project: Path, text: str, says: str) -> None:
    (project / "x.json").write_text(text, "utf-8")
    done = bucle("label", "import", TASK, project / "x.json", "-p", project)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


@pytest.mark.parametrize(("args", "says"), [
    (["next", "nada"], "There is no task"), (["add", TASK, "example:zzzz", "x"], "No row"),
    (["add", TASK, "FIRST", "factura_"], "has no label"), (["next", TASK, "--by", " "], "Who is labelling"),
    (["prelabel", TASK, "--using", "nadie"], "no machine"), (["decide", TASK], "Which row"),
    (["import", TASK, "gone.json"], "does not exist"), (["prelabel", TASK, "--using", "production"], "released"),
])
def test_what_cannot_be_meant_is_told(project: Path, labelling: Labelling, args: list[str], says: str) -> None:
    first = next(iter(labelling.rows()))
    done = bucle("label", *[first if a == "FIRST" else a for a in args], "-p", project)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_people_settle_on_is_in_the_next_version_of_the_data(project: Path, labelling: Labelling) -> None:
    def dataset() -> dict[str, Example]:
        done = bucle("run", project, "--until", "data", "-q")
        assert done.returncode == 0, done.stderr
        newest = labelling.ws.ledger.nodes("dataset")[-1]
        return {row.id: row for row in labelling.ws.examples(newest.id)}

    before = dataset()
    asked = [row["id"] for row in labelling.next("ana", 3)["rows"]]
    label, other = labelling.labels()[:2]
    labelling.add(asked[0], label, "ana")
    labelling.add(asked[1], label, "ana")
    labelling.add(asked[1], other, "bea")  # disputed: stays out
    given = next(iter(before.values()))
    changed = next(one for one in labelling.labels() if one != given.target)
    labelling.add(given.id, changed, "bea")
    after = dataset()
    assert set(after) - set(before) == {asked[0]}
    assert (after[asked[0]].target, after[asked[0]].labelled_by) == (label, "ana")
    assert (after[given.id].target, after[given.id].labelled_by) == (changed, "bea")


class One:
    def __init__(self, labelling: Labelling) -> None:
        self._labelling = labelling

    def labelling(self, task: str) -> Labelling:
        return self._labelling if task == TASK else Labelling(self._labelling.ws, task)


@pytest.fixture
def client(labelling: Labelling) -> Iterator[TestClient]:
    with TestClient(label_app(One(labelling)), base_url="http://localhost:8700") as made:
        yield made


def test_the_api_asks_stores_measures_and_decides(client: TestClient) -> None:
    base = f"/api/label/{TASK}"
    asked = client.get(f"{base}/next", params={"by": "ana", "n": 2, "overlap": 1}).json()
    row, (first, second) = asked["rows"][0]["id"], asked["labels"][:2]
    assert len(asked["rows"]) == 2
    made = client.post(f"{base}/annotations", json={"row": row, "label": first, "by": "ana"})
    assert (made.status_code, made.json()["new"]) == (200, True)
    assert made.headers["cache-control"] == "no-store"
    client.post(f"{base}/annotations", json={"row": row, "label": second, "by": "bea"})
    assert client.get(f"{base}/agreement").json()["rows_with_two_answers"] == 1
    assert client.get(f"{base}/disagreements").json()["rows"][0]["answers"] == {"ana": first, "bea": second}
    decided = client.post(f"{base}/disagreements", json={"row": row, "label": second, "by": "jefa", "note": "guía 3"})
    assert decided.json()["annotation"]["kind"] == "adjudication"
    assert client.get(f"{base}/disagreements").json()["disagreements"] == 0
    assert client.get(f"{base}/status").json()["labelled_here"] == 1
    back = client.post(f"{base}/annotations", json={"row": row, "label": None, "by": "bea"}).json()
    assert back["annotation"]["label"] is None


@pytest.mark.parametrize(("method", "path", "options", "status", "code"), [
    ("GET", "next", {}, 400, "bad_input"),
    ("GET", "next?by=ana&n=0", {}, 400, "bad_input"),
    ("GET", "next?by=ana&overlap=nan", {}, 400, "bad_input"),
    ("GET", "next?by=ana&evil=1", {}, 400, "bad_input"),
    ("GET", "status", {"headers": {"host": "evil.example"}}, 403, "host_not_allowed"),
    ("POST", "annotations", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415,
     "unsupported_media_type"),
    ("POST", "annotations", {"json": {}, "headers": {"sec-fetch-site": "cross-site"}}, 403, "cross_site"),
    ("POST", "annotations", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad_input"),
    ("POST", "annotations", {"json": []}, 400, "bad_input"),
    ("POST", "annotations", {"json": {"row": "x", "label": 3, "by": "ana"}}, 400, "bad_input"),
    ("POST", "annotations", {"json": {"row": "x", "label": "y"}}, 400, "bad_input"),
    ("POST", "annotations", {"json": {"row": "x", "label": "y", "by": "ana", "kind": "prelabel"}}, 400, "bad_input"),
    ("POST", "annotations", {"json": {"row": "example:none", "label": "y", "by": "ana"}}, 404, "not_found"),
    ("POST", "annotations", {"json": {"row": "x" * 300_000, "label": "y", "by": "ana"}}, 413, "body_too_large"),
    ("POST", "disagreements", {"json": {"row": "x", "label": None, "by": "ana"}}, 400, "bad_input"),
])
def test_the_api_refuses_and_says_why(client: TestClient, method: str, path: str, options: dict[str, Any],
                                      status: int, code: str) -> None:
    said = client.request(method, f"/api/label/{TASK}/{path}", **options)
    assert (said.status_code, said.json()["error"]["code"]) == (status, code)


def test_an_unknown_task_is_404(client: TestClient) -> None:
    said = client.get("/api/label/nada/status")
    assert (said.status_code, said.json()["error"]["code"]) == (404, "not_found")
    assert TASK in said.json()["error"]["hint"]


def test_one_dispute_leaves_the_rest_of_the_lot(labelling: Labelling) -> None:
    from bucle.data.label.queue import chance_of

    open_ = [row.id for row in labelling.rows().values() if row.target is None]
    lot = sorted(open_, key=lambda row: chance_of(labelling.ws.config.seed, "random", row))
    first, second = labelling.labels()[:2]
    for row in lot[:8]:
        labelling.add(row, first, "ana")
    labelling.add(lot[0], second, "bea")
    sample = labelling.status()["random_sample"]
    assert (sample["rows"], sample["open"], sample["open_share"]) == (7, 1, 0.125)
    assert "disputed still: 1 row" in told("label", "status", TASK, "-p", labelling.ws.root)
    assert f"bucle label start {TASK} --review" in told("label", "next", TASK, "--review", "-p", labelling.ws.root)
