"""`bucle prompt improve` as a user runs it, against a provider on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from command import answer, bucle, told

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
