"""`bucle chain` as a user runs it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from command import answer, bucle, told
from small_project import build_tiny

PRICE = """\
name: precio
about: El precio con IVA de un plan
steps:
  - {name: plan, kind: parse, text: "{{ input }}", choice: [fibra, movil], on_error: no_se}
  - {name: iva, kind: python, function: "precios:con_iva", args: {plan: "{{ steps.plan.value }}"}, cache: 3600}
  - {name: di, kind: text, text: "{{ steps.plan.value }}: {{ steps.iva.value }} €", then: end}
  - {name: no_se, kind: text, text: "No sé de qué plan me habla.", abstain: true}
"""
SEARCH = """\
name: buscar
steps:
  - {name: busca, kind: retrieve, weight: 0, k: 2, cache: forever}
  - {name: hay, kind: check, condition: "steps.busca.value > 0", on_fail: abstain}
output: "{{ steps.busca.chunks[0].text }}"
"""


def test_chains_listed_shown_and_run(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", chains={"precio": "c.yaml", "rota": "rota.yaml"})
    (folder / "c.yaml").write_text(PRICE, "utf-8")
    (folder / "rota.yaml").write_text("name: rota\nsteps:\n  - {name: a, kind: prompt, model: gpt, user: x}\n", "utf-8")
    (folder / "precios.py").write_text("def con_iva(plan):\n    return round({'fibra': 30}[plan] * 1.21)\n")
    listed = told("chain", "list", "-p", folder)
    assert "plan iva di no_se" in listed
    assert "rota.yaml:3: `a` asks the model `gpt`" in listed
    assert "-> no_se  (on error)" in told("chain", "show", "precio", "-p", folder)
    assert told("chain", "show", "precio", "--mermaid", "-p", folder).startswith("flowchart TD")
    refused = answer("chain", "run", "precio", "fibra", "-p", folder, code=2)
    assert "nobody has said that it may run" in refused["error"]["message"]
    shown = told("chain", "run", "precio", "¿y la fibra?", "--trust", "--trace", "-p", folder)
    assert shown.startswith("fibra: 36 €\n")
    assert 'iva <- {"args": {"plan": "fibra"}}' in shown
    again = answer("chain", "run", "precio", "¿y la fibra?", "--trust", "-p", folder)
    assert [span["cached"] for span in again["spans"]] == [False, True, False]
    (folder / "precios.py").write_text("def con_iva(plan):\n    raise ValueError('sin precio')\n")
    broken = bucle("chain", "run", "precio", "movil", "--trust", "-p", folder)
    assert broken.returncode == 3
    assert "error (BadInput): step `iva`: precios:con_iva failed: ValueError: sin precio" in broken.stdout
    assert "Did you mean `precio`" in bucle("chain", "run", "preci", "x", "-p", folder).stderr


def test_a_chain_searches_the_projects_index(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "soporte"))
    with (folder / "bucle.yaml").open("a", encoding="utf-8") as file:
        file.write("\nchains: {buscar: buscar.yaml}\n")
    (folder / "buscar.yaml").write_text(SEARCH, "utf-8")
    first = answer("chain", "run", "buscar", "domiciliación bancaria", "-p", folder)
    assert first["error"] == ""
    assert len(first["chunks"]) == 2
    assert "domicili" in first["output"].lower()
    again = answer("chain", "run", "buscar", "domiciliación bancaria", "--access", "staff", "-p", folder)
    assert not again["spans"][0]["cached"], "other labels, another key"
    kept = answer("chain", "run", "buscar", "domiciliación bancaria", "-p", folder)
    assert kept["spans"][0]["cached"]
    assert kept["output"] == first["output"]
    assert answer("chain", "run", "buscar", "zzzz qqqq", "-p", folder)["abstained"]
    with sqlite3.connect(folder / ".bucle" / "chains.db") as db:
        assert db.execute("SELECT count(*) FROM kept").fetchone() == (3,)
    db.close()
