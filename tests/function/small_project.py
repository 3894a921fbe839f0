"""A small project cut from examples/soporte, whose whole loop takes seconds: fewer rows, documents and candidates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

SAMPLE = Path(__file__).parents[2] / "examples" / "soporte"
DOCUMENTS = (
    "notas/area-cliente.md", "notas/alta-contrato.md", "notas/tarifa-fija.md", "notas/vacio.md",  # the last is empty
    "web/phishing.html", "web/domiciliacion.html", "web/pagos-y-plazos.html", "web/horarios-contacto.html",
    "web/wifi-problemas.html", "web/wifi-problemas-2025.html", "correo/plan-pagos.eml", "docx/mudanza.docx",
    "pdf/protocolo-fraude-interno.pdf", "pdf/anexo-danado.pdf",  # encrypted, corrupt
)
MESSAGES, PAIRS, QUESTIONS, ATTACKS = 260, 40, 20, 24
EVERY = {"intenciones": 3, "respuestas": 6, "redactor": 6}
"""Of the log's requests on each route, one in so many is kept; of the new intent, all."""


def build(folder: Path, **changes: object) -> Path:
    """Write the project into `folder` and return it. `changes` replace top-level keys of its bucle.yaml."""
    (folder / "data").mkdir(parents=True)
    for name in DOCUMENTS:
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE / "docs" / name, target)
    _head("mensajes.tsv", folder, MESSAGES + 1)
    _head("preferencias.jsonl", folder, PAIRS)
    questions = [q for q in _lines("preguntas.jsonl") if q["document"] in DOCUMENTS]
    _write(folder / "data" / "preguntas.jsonl", questions[:QUESTIONS])
    _write(folder / "data" / "registro.jsonl", _log())
    body = yaml.safe_load((SAMPLE / "bucle.yaml").read_text("utf-8"))
    body["models"]["nano"] = {"kind": "pretrain", "steps": 20, "width": 64, "layers": 1, "context": 192}
    body["choose"] |= {
        "candidates": ["frozen-encoder", "full", "quote", "retrieve"],
        "techniques": {"full": {"epochs": 2, "save_seconds": 0.5}},
    }
    body["tasks"]["intenciones"]["gates"] = ["accuracy >= 0.2", "accuracy >= baseline - 0.1", "p95_ms <= 2000"]
    body["tasks"]["respuestas"]["gates"] = ["citation_hit >= 0.1", "p95_ms <= 2000"]
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body | changes, sort_keys=False, allow_unicode=True), "utf-8")
    return folder


def _log() -> list[dict[str, object]]:
    """Three weeks of the log, thinned: the usual traffic, the whole new intent, and some of the abuser's requests."""
    truth = json.loads((SAMPLE / "data" / "registro.verdad.json").read_text("utf-8"))
    kept, seen, attacks = [], dict.fromkeys(EVERY, 0), 0
    for entry in _lines("registro.jsonl"):
        its, route = truth[str(entry["id"])], str(entry["route"])
        if its["kind"] == "ataque":
            attacks += 1
            if attacks <= ATTACKS:
                kept.append(entry)
            continue
        seen[route] += 1
        if its.get("label") == "alta_movil" or seen[route] % EVERY[route] == 0:
            kept.append(entry)
    return kept


def _lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (SAMPLE / "data" / name).read_text("utf-8").splitlines()]


def _head(name: str, folder: Path, lines: int) -> None:
    text = (SAMPLE / "data" / name).read_text("utf-8").splitlines(keepends=True)
    (folder / "data" / name).write_text("".join(text[:lines]), "utf-8")


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def build_tiny(folder: Path, rows: int = 90, **changes: object) -> Path:
    """A project of one task and no models: the baselines alone, within seconds."""
    (folder / "data").mkdir(parents=True)
    _head("mensajes.tsv", folder, rows + 1)
    body = {
        "project": "tiny", "language": "es",
        "tasks": {"intenciones": {"kind": "classify", "data": "data/mensajes.tsv", "text": "texto",
                                  "label": "intencion", "gates": ["accuracy >= 0.1"]}},
    }
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body | changes, sort_keys=False, allow_unicode=True), "utf-8")
    return folder
