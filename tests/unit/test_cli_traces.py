"""`bucle traces` on a real ledger, as a user runs it."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bucle.cli.main import main
from bucle.cli.traces import command
from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Feedback, Trace, Usage
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.spend import spent

STEPS = ({"name": "guard", "start_ms": 0.0, "ms": 10.0, "on": "input"},
         {"name": "engine", "start_ms": 50.0, "ms": 50.0, "batch": 4, "input": "never in the table"})


def trace(number: int, said: str, **more: Any) -> Trace:
    at = f"2026-03-{number:02d}T09:00:00.000+00:00"
    fields = {"id": f"trace:{number:064x}", "at": at, "received_at": at, "route": "r", "model": "m", "input": said,
              "output": "Doce euros", "user": "ana", "ms": 100.0, "spans": STEPS, "usage": Usage(tokens_in=7, usd=0.5)}
    return Trace.model_validate(fields | more)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[TraceStore]:
    (tmp_path / "bucle.yaml").write_text("project: p\nmodels:\n  m: {kind: openai, base_url: 'http://127.0.0.1:9/v1', "
                                         "model: m}\n")
    ledger = Ledger(tmp_path / ".bucle")
    store = TraceStore(ledger)
    store.add_traces([trace(1, "¿Cuánto es la cuota?"), trace(2, "una \x1b[31mbaja\r\nhoy", status=503, user="eva"),
                      trace(3, "la cuota mensual", key="key:1"), trace(4, "我想取消 🦊", route="otra")])
    store.add_feedback([Feedback(id="f", trace=trace(1, "").id, at="2026-03-01", by="eva", rating=-1,
                                 correction="Trece euros")])
    yield store
    ledger.close()


def run(store: TraceStore, *args: str, answer: str = "") -> Result:
    return CliRunner().invoke(command, [args[0], "-p", str(store.ledger.folder.parent), *args[1:]], input=answer)


def listed(store: TraceStore, *args: str) -> list[int]:
    done = run(store, "list", *args, "--json")
    assert done.exit_code == 0, done.output
    return [int(t["id"][6:], 16) for t in json.loads(done.output)["traces"]]


@pytest.mark.parametrize(("args", "found"), [
    ([], [4, 3, 2, 1]), (["CUOTA"], [3, 1]), (["cuota", "mensual"], [3]), (['"la cuota"'], [3, 1]), (["mens*"], [3]),
    (["取消"], [4]), (["🦊"], [4]), (['(("*:^'], []), (["--failed"], [2]), (["--user", "eva"], [2]),
    (["--route", "otra"], [4]), (["--key", "key:1"], [3]), (["--since", "2026-03-03"], [4, 3]),
    (["--since", "2026-03-02", "--until", "2026-03-03T09:00+00:00"], [2]), (["--limit", "1", "cuota"], [3]),
    (["--since", "1s"], []),
])
def test_traces_are_found(project: TraceStore, args: list[str], found: list[int]) -> None:
    assert listed(project, *args) == found


def test_a_list_is_for_people_and_harmless_to_their_terminal(project: TraceStore) -> None:
    said = run(project, "list", "--limit", "3").output
    assert "\x1b" not in said
    assert "\\x1b[31mbaja" in said
    assert "the newest 3" in said
    assert "No trace fits" in run(project, "search", "nada").output


def test_one_is_shown_with_its_steps_on_a_scale(project: TraceStore) -> None:
    said = run(project, "show", "0" * 63 + "1").output
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    bars = {name: lines[name].split()[1] for name in ("guard", "engine")}
    assert bars["guard"] == "█" * 3 + "·" * 29
    assert bars["engine"] == "·" * 16 + "█" * 16
    assert "batch 4" in said
    assert "never in the table" not in said
    assert "Trece euros" in said
    shown = json.loads(run(project, "show", trace(2, "").id, "--json").output)
    assert (shown["trace"]["status"], shown["feedback"]) == (503, [])
    assert isinstance(run(project, "show", "9").exception, NotFound)


@pytest.mark.parametrize("said", ["ayer", "7 d", "1e9d", "99999-01-01", "0001-01-01T00:00+14:00"])
def test_a_time_that_is_none_is_told(project: TraceStore, said: str) -> None:
    done = run(project, "list", "--since", said)
    assert isinstance(done.exception, BadInput) or (said.startswith("0001") and done.exit_code == 0)


def test_all_are_exported_whole_and_nothing_is_written_over(project: TraceStore, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert json.loads(run(project, "export", str(file), "--json").output) == {"file": str(file), "traces": 4}
    assert [Trace.model_validate_json(line) for line in file.read_bytes().splitlines()] == project.traces()
    assert isinstance(run(project, "export", str(file)).exception, BadInput)
    assert run(project, "export", str(file), "--force", "--query", "cuota").output == f"2 traces in {file}\n"
    run(project, "export", str(tmp_path / "o.jsonl.gz"), "--failed")
    with gzip.open(tmp_path / "o.jsonl.gz", "rt") as packed:
        assert [json.loads(line)["status"] for line in packed] == [503]
    assert len(run(project, "export", "-").output.splitlines()) == 4
    assert isinstance(run(project, "export", str(tmp_path / "no" / "x")).exception, BadInput)


def test_new_ones_are_followed_in_the_order_they_came(project: TraceStore) -> None:
    said = run(project, "tail", "--once", "-n", "2", "--json").output.splitlines()
    assert [json.loads(x)["input"] for x in said] == [
        "la cuota mensual", "我想取消 🦊"]
    place, nothing = project.follow()
    assert nothing == []
    project.add_traces([trace(9, "nueve"), trace(5, "cinco, de antes", status=500)])
    after, new = project.follow(place)
    assert {t.input for t in new} == {"nueve", "cinco, de antes"}
    assert project.follow(after) == (after, [])
    assert [t.input for t in project.follow(place, status=400)[1]] == ["cinco, de antes"]


def test_old_ones_go_after_a_question_and_what_they_cost_stays(
    project: TraceStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, "prune", "--days", "1", answer="n\n").exit_code == 1
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(SystemExit) as stopped:
        main(["traces", "prune", "-p", str(project.ledger.folder.parent), "--days", "1"])
    told = capsys.readouterr().err
    assert (stopped.value.code, "Nothing was done" in told, "goes on" in told) == (1, True, False)
    assert project.count() == 4
    done = json.loads(run(project, "prune", "--days", "1", "--json").output)
    assert done == {"traces": 4, "feedback": 1, "left": 0}
    assert sum(row.nano_usd for row in spent(project.ledger)) == 2_000_000_000
    assert "No traces yet" in run(project, "list").output
    assert run(project, "prune").exit_code == 2
