"""`bucle evaluate redteam` as its user meets it, after a run whose gates asked for it."""

from __future__ import annotations

from pathlib import Path

from command import answer, bucle, told
from small_project import build_tiny


def test_attacks_on_what_a_release_serves(tmp_path: Path) -> None:
    task = {"kind": "classify", "data": "data/mensajes.tsv", "text": "texto", "label": "intencion",
            "gates": ["over_refusal <= 0.5", {"licence": "open"}]}
    project = build_tiny(tmp_path / "p", redteam={"limit": 12}, tasks={"intenciones": task})
    assert answer("run", project, "-q")["gates_passed"]
    found = answer("evaluate", "redteam", "-p", project, "-q")
    assert {one["kind"]: one["n"] for one in found["kinds"]} == {"injection": 12, "indirect": 12, "harmless": 12}
    assert 0 <= found["attack_success"]["low"] <= found["attack_success"]["high"] <= 1
    assert found["skipped"]["jailbreak"] == "it answers with labels only"
    assert found["reused"]  # a gate had asked for it
    assert "harmless ones refused" in told("evaluate", "redteam", "-p", project, "-q")
    wrong = bucle("evaluate", "redteam", "-p", project, "--task", "nada")
    assert wrong.returncode == 2
    assert "There is no task `nada`" in wrong.stderr
