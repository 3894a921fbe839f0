"""Steps: reused by their key, continued after a failure, one run at a time, errors told."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, Infrastructure
from bucle.execute import Outcome, QuietDisplay, Runner, StepContext, StepRecord, project_lock
from bucle.execute.progress import LineDisplay, make_display
from bucle.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / ".bucle")
    yield ledger
    ledger.close()


class Work:
    """Counts its calls; makes a node; does as `act` says before."""

    def __init__(self, act: Any = None) -> None:
        self.calls, self.act = 0, act

    def __call__(self, ctx: StepContext) -> Outcome:
        self.calls += 1
        if self.act:
            self.act(ctx)
        ctx.report(1, 2, "half")
        return Outcome({"made": ctx.ledger.put("thing", {"n": 1}).id}, {"loss": 0.5, "by": (1, 2)}, "one thing")


class Seen(QuietDisplay):
    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def start(self, stage: str, title: str) -> None:
        self.told.append(("start", stage, title))

    def finish(self, status: str, seconds: float, note: str = "") -> None:
        self.told.append(("finish", status, note))


def run(ledger: Ledger, work: Work, name: str = "fit", **how: Any) -> StepRecord:
    return Runner(ledger).step(name, work, stage="customise", **how)


def test_a_finished_step_is_reused_by_a_later_run(ledger: Ledger) -> None:
    work = Work()
    first = run(ledger, work, params={"a": 1}, inputs={"data": "dataset:1"})
    again = run(ledger, work, inputs={"data": "dataset:1"}, params={"a": 1})
    assert work.calls == 1
    assert (first.cached, again.cached) == (False, True)
    assert (again.key, again.outputs, again.figures) == (first.key, first.outputs, first.figures)
    assert again.figures == {"loss": 0.5, "by": [1, 2]}, "figures are the same whether made now or read again"
    assert again["made"] == ledger.nodes("thing")[0].id


@pytest.mark.parametrize("change", [
    {"name": "other"}, {"version": 2}, {"params": {"a": 2}}, {"params": {"a": 1, "b": None}}, {"params": {"a": "1"}},
    {"inputs": {"data": "dataset:2"}}, {"inputs": {"rows": "dataset:1"}}, {"inputs": {"data": ["dataset:1"]}},
])
def test_any_change_of_name_version_parameters_or_inputs_runs_it_again(
    ledger: Ledger, change: Mapping[str, Any]
) -> None:
    work, usual = Work(), {"params": {"a": 1}, "inputs": {"data": "dataset:1"}}
    one = run(ledger, work, **usual)
    two = run(ledger, work, **{**usual, **change})
    assert work.calls == 2
    assert one.key != two.key


def test_a_failed_step_finds_its_work_folder_again(ledger: Ledger) -> None:
    def checkpoint(ctx: StepContext) -> None:
        file = ctx.work / "checkpoint"
        if not file.exists():
            file.write_text("step 300")
            raise BadInput("no", "try again")
        assert file.read_text() == "step 300"
        folders.append(ctx.work)

    folders: list[Path] = []
    work = Work(checkpoint)
    with pytest.raises(BadInput):
        run(ledger, work)
    assert ledger.rows("SELECT count(*) FROM steps") == [(0,)]
    assert run(ledger, work).cached is False
    assert not folders[0].exists(), "scratch is removed once the step has finished"
    assert run(ledger, work).cached


def test_two_steps_never_share_scratch(ledger: Ledger) -> None:
    def fail(ctx: StepContext) -> None:
        seen.append(ctx.work)
        raise BadInput("no")

    seen: list[Path] = []
    for n in range(3):
        with pytest.raises(BadInput):
            run(ledger, Work(fail), params={"n": n})
    assert len(set(seen)) == 3


@pytest.mark.parametrize(("error", "told"), [
    (OSError(28, "No space left on device"), "is full"),
    (PermissionError(13, "Permission denied", "/data/x"), "/data/x cannot be used"),
    (FileNotFoundError(2, "No such file or directory", "/data/gone.csv"), "/data/gone.csv: No such file"),
    (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
    (sqlite3.DatabaseError("malformed"), "malformed"),
])
def test_the_machine_saying_no_is_told_with_a_next_step(ledger: Ledger, error: Exception, told: str) -> None:
    def fail(ctx: StepContext) -> None:
        raise error

    display = Seen()
    with pytest.raises(Infrastructure, match=told) as caught:
        Runner(ledger, display).step("fit", Work(fail), stage="customise")
    assert caught.value.hint
    assert caught.value.__cause__ is error
    assert display.told == [("start", "customise", "fit"), ("finish", "failed", "")]


def test_what_is_explained_already_and_what_is_a_bug_stay_what_they_are(ledger: Ledger) -> None:
    for error in (BadInput("a", "b"), ZeroDivisionError("bug"), ConnectionResetError("peer"), KeyboardInterrupt()):
        def fail(ctx: StepContext, error: BaseException = error) -> None:
            raise error
        with pytest.raises(type(error)) as caught:
            run(ledger, Work(fail))
        assert caught.value is error


def test_figures_that_are_no_numbers_are_refused_before_they_are_stored(ledger: Ledger) -> None:
    with pytest.raises(ValueError):
        Runner(ledger).step("fit", lambda ctx: Outcome({}, {"loss": float("nan")}), stage="customise")
    assert ledger.rows("SELECT count(*) FROM steps") == [(0,)]


def test_a_run_writes_down_its_steps_in_order(ledger: Ledger) -> None:
    display = Seen()
    runner = Runner(ledger, display)
    for name in ("b", "a", "b"):
        runner.step(name, Work(), stage="data")
    runner.finish()
    row = ledger.rows("SELECT finished_at, json_extract(steps, '$[0].name', '$[1].name', '$[2].cached') FROM runs")
    assert row[0][0]
    assert row[0][1] == '["b","a",true]'
    assert [t[1] for t in display.told if t[0] == "finish"] == ["done", "done", "cached"]


HOLDER = """
import sys, time
from pathlib import Path
from bucle.execute import project_lock
with project_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / ".bucle"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Infrastructure, match="Another bucle run") as caught, project_lock(folder):
            pass
        assert str(tmp_path) in caught.value.message
        assert caught.value.hint
        process.send_signal(signal.SIGKILL)
    with project_lock(folder), pytest.raises(Infrastructure), project_lock(folder):
        pass
    with pytest.raises(ZeroDivisionError), project_lock(folder):
        _ = 1 / 0
    with project_lock(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(Infrastructure), project_lock(tmp_path / "file" / ".bucle"):
        pass


def test_threads_may_share_a_ledger(ledger: Ledger) -> None:
    def write(who: int) -> None:
        for n in range(20):
            ledger.put("thing", {"n": n, "who": who})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.nodes("thing")) == 80


def test_without_a_terminal_each_step_is_a_line(capsys: pytest.CaptureFixture[str], ledger: Ledger) -> None:
    display = make_display(quiet=False)
    assert isinstance(display, LineDisplay)
    with display:
        runner = Runner(ledger, display)
        runner.step("index", Work(), stage="customise")
        runner.step("index", Work(), stage="customise")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("index" in line for line in lines)
    assert "one thing" in lines[0]


def test_the_time_left_is_of_the_phase_that_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("bucle.execute.progress.time.monotonic", lambda: clock[0])
    display = LineDisplay()
    display.start("data", "documents")
    for at in range(1, 101):
        clock[0] += 1
        display.update(at, 100, "parse")
    capsys.readouterr()
    clock[0] += 5
    for at in range(0, 1500, 20):
        clock[0] += 0.2
        display.update(at, 1499, "personal data")
    said = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert said
    assert all(float(line.split("about ")[1].split()[0]) < 20 for line in said)
