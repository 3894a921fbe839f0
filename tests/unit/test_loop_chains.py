"""What the loop does with chains before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucle.core.errors import ConfigError
from bucle.loop.check import check_project
from bucle.loop.workspace import Workspace

BUCLE = """\
project: p
language: en
data: {{}}
tasks:
  one: {{kind: classify, data: one.tsv}}
  two:
    kind: generate
    data: two.tsv
    chains: [{chain}]
chains: {{plain: plain.yaml, codes: codes.yaml, ours: {{library: python, object: "own:answer"}}}}
choose: {{candidates: [{candidate}]}}
"""


def project(folder: Path, chain: str, candidate: str) -> Workspace:
    (folder / "bucle.yaml").write_text(BUCLE.format(chain=chain, candidate=candidate), "utf-8")
    (folder / "one.tsv").write_text("text\tlabel\n" + "a\tx\nb\ty\n" * 9, "utf-8")
    (folder / "two.tsv").write_text("input\toutput\n" + "a\tx\nb\ty\n" * 9, "utf-8")
    (folder / "plain.yaml").write_text("name: c\nsteps:\n  - {name: t, kind: text, text: hola}\n", "utf-8")
    (folder / "codes.yaml").write_text("name: c\nsteps:\n  - {name: t, kind: text, text: hola}\n"
                                       "  - {name: c, kind: check, function: 'own:even'}\n", "utf-8")
    (folder / "own.py").write_text("raise SystemExit('it ran')\n", "utf-8")
    return Workspace.open(folder)


@pytest.mark.parametrize("chain", ["codes", "ours"])
def test_code_that_nobody_trusts_is_refused_before_anything_is_read(tmp_path: Path, chain: str,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUCLE_TRUST", raising=False)
    with pytest.raises(ConfigError, match="nobody has said that it may run") as caught:
        check_project(project(tmp_path, chain, "chain"))
    assert f"chain/{chain}: own:" in caught.value.message
    assert "bucle.yaml:9" in caught.value.message
    assert "read own.py" in caught.value.hint
    check_project(project(tmp_path, chain, "majority"))
    check_project(project(tmp_path, "plain", "chain/plain"))
    monkeypatch.setenv("BUCLE_TRUST", "1")
    check_project(project(tmp_path, chain, "chain"))
