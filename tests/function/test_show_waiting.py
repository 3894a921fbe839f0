"""`bucle data show` of rows that nobody has labelled, and of a file that is not UTF-8."""

from __future__ import annotations

from pathlib import Path

from command import answer, told


def test_a_row_without_a_label_is_found_and_shown_in_its_encoding(tmp_path: Path) -> None:
    rows = "".join(f"mensaje número {n};{'' if n % 2 else 'a' if n % 4 else 'b'}\n" for n in range(20))
    (tmp_path / "d.csv").write_text("texto;etiqueta\n" + rows, "utf-16")
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ntasks:\n  t: {kind: classify, data: d.csv, text: texto, label: etiqueta}\n"
    )
    row = answer("data", "show", "d.csv:3", "-p", tmp_path)
    assert (row["input"], row["target"], row["version"]) == ("mensaje número 1", None, None)
    assert row["file"]["bytes"].strip() == "mensaje número 1;"
    text = told("data", "show", "d.csv:3", "-p", tmp_path)
    assert "bucle label start t" in text
    assert "\0" not in text
