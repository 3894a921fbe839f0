"""`bucle prompt improve` as a user runs it, against a provider on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from command import BUCLE, answer, bucle, environment, told

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from test_loop_improve import MAGIC, project


def test_a_better_prompt_is_searched_saved_and_used(tmp_path: Path) -> None:
    with project(tmp_path / "p", gain=40) as (ws, peer):
        ws.close()
        plan = told("prompt", "improve", "intenciones", "-p", tmp_path / "p", "--dry-run")
        assert "Nothing was asked" in plan
        assert peer.asked == []
        text = told("prompt", "improve", "intenciones", "-p", tmp_path / "p", "--rounds", "1", "--alias", "production",
                    "--plot", tmp_path / "a.png")
        assert "It helped: accuracy +" in text
        assert "Saved as intenciones@1, and production now stands for it." in text
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        found = answer("prompt", "improve", "intenciones", "-p", tmp_path / "p", "--rounds", "1", "--alias",
                       "production")
        assert found["reused"]
        assert found["confirmed"]["difference"]["low"] > 0
        assert MAGIC in json.dumps(found["chosen"]["spec"])
        shown = told("prompt", "show", "intenciones@production", "-p", tmp_path / "p")
        assert MAGIC in shown


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    with project(folder, gain=40) as (ws, peer):
        ws.close()
        args = ("prompt", "improve", "intenciones", "-p", str(folder), "--rounds", "1", "--budget-tokens", "60000")
        first = subprocess.Popen([*BUCLE, *args], env=environment(), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while len(peer.asked) < 150 and time.monotonic() < until and first.poll() is None:
            time.sleep(0.005)
        first.kill()
        assert first.wait() == -signal.SIGKILL
        before = {json.dumps(body, sort_keys=True) for body in peer.asked}
        assert len(before) >= 150
        found = answer(*args)
        after = [json.dumps(body, sort_keys=True) for body in peer.asked[len(before):]]
        assert len(before & set(after)) <= 16, "only what was under way is asked again"
        assert found["helped"]
        counted = sum(len(m["content"].split()) for body in peer.asked for m in body["messages"])
        assert counted < found["spent"]["tokens"] <= 60_000, "what was under way counts too"


def test_what_cannot_be_searched_is_two_lines_and_a_code(tmp_path: Path) -> None:
    with project(tmp_path / "p", gain=0) as (ws, _):
        ws.close()
        for args, code, said in (
            (("nada",), 2, "no task"),
            (("intenciones", "--budget-tokens", "9"), 2, "least that a search takes"),
            (("intenciones", "--technique", "lora"), 2, "no prompting candidate"),
            (("intenciones", "--rounds", "x"), 2, "rounds"),
        ):
            done = bucle("prompt", "improve", *args, "-p", tmp_path / "p", "-q")
            assert done.returncode == code, done.stdout + done.stderr
            assert said in done.stderr
            assert "Traceback" not in done.stderr
    module = subprocess.run([sys.executable, "-m", "bucle.cli.main", "prompt", "improve", "--help"],
                            capture_output=True, text=True, env=environment(), timeout=60)
    assert "--budget-tokens" in module.stdout, "the module is the command, too"
