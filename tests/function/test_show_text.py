"""`bucle data show DOCUMENT --text`: the text that a draft's `start` and `end` count in."""

from __future__ import annotations

import json
from pathlib import Path

from command import answer, bucle, told


def test_a_drafts_place_is_in_the_text_that_is_shown(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Envíos\n\nEl envío cuesta 5 euros.\n\nLa garantía dura dos años.\n")
    told("init", tmp_path / "p", "--docs", tmp_path / "docs")
    made = answer("data", "bootstrap", "--model", "rules", "-p", tmp_path / "p")
    rows = [json.loads(line) for line in Path(made["path"]).read_text("utf-8").splitlines()]
    text = answer("data", "show", "a.md", "--text", "-p", tmp_path / "p")["text"]
    placed = [row for row in rows if row["start"] is not None]
    assert len(placed) == 2
    assert all(text[row["start"] : row["end"]] == row["support"] for row in placed)
    assert told("data", "show", "a.md", "--text", "-p", tmp_path / "p") == text + "\n"
    assert bucle("data", "show", "no.md", "--text", "-p", tmp_path / "p").returncode == 2
