"""Genera el ejemplo de soporte de Voltaria: documentos y datos, siempre iguales para una semilla.

    python examples/soporte/generate.py --seed 7 --out examples/soporte
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _gen import formatos, mensajes, preferencias, registro
from _gen.fuentes import Pregunta, lee_documentos, lee_sin_respuesta


def _jsonl(ruta: Path, filas: Iterable[dict[str, Any]]) -> None:
    ruta.write_bytes("".join(json.dumps(f, ensure_ascii=False) + "\n" for f in filas).encode())


def elige_preguntas(rng: random.Random, todas: list[Pregunta], total: int) -> list[Pregunta]:
    """Todas las inglesas, al menos una por documento, y el resto al azar."""
    elegidas: list[Pregunta] = []
    vistos: set[str | None] = set()
    for pregunta in todas:
        if pregunta.idioma == "en" or pregunta.documento not in vistos:
            elegidas.append(pregunta)
        vistos.add(pregunta.documento)
    resto = [p for p in todas if p not in elegidas]
    return elegidas + rng.sample(resto, total - len(elegidas))


def genera_datos(seed: int, salida: Path) -> None:
    """Escribe data/: mensajes, preguntas, preferencias y registro."""
    salida.mkdir(parents=True, exist_ok=True)
    enteros_datos, enteros_registro = mensajes.reparte_enteros(random.Random(f"{seed}-reparto"))
    rng = random.Random(f"{seed}-mensajes")
    redactor = mensajes.Redactor(rng, enteros_datos)
    filas, errores = mensajes.etiquetados(rng, redactor)
    columnas = ("id", "texto", "intencion", "fecha", "cliente")
    lineas = ["\t".join(columnas)] + ["\t".join(f[c] for c in columnas) for f in filas]
    (salida / "mensajes.tsv").write_bytes(("\n".join(lineas) + "\n").encode())
    nota = "Verdad plantada: etiquetas cambiadas a propósito en mensajes.tsv. Solo la usan las pruebas."
    texto = json.dumps({"nota": nota, "errores": errores}, ensure_ascii=False, indent=1)
    (salida / "mensajes.errores.json").write_bytes((texto + "\n").encode())

    respondibles = [p for d in lee_documentos() for p in d.preguntas]
    sin_respuesta = lee_sin_respuesta()
    rng = random.Random(f"{seed}-preguntas")
    lista = elige_preguntas(rng, respondibles, 120 - len(sin_respuesta)) + sin_respuesta
    rng.shuffle(lista)
    _jsonl(salida / "preguntas.jsonl", (
        {"id": f"q-{k:03d}", "question": p.texto, "answer": p.respuesta, "document": p.documento,
         "support": p.apoyo, "language": p.idioma} for k, p in enumerate(lista, 1)))

    rng = random.Random(f"{seed}-preferencias")
    redactor.rng = rng
    _jsonl(salida / "preferencias.jsonl", preferencias.pares(rng, redactor))

    rng = random.Random(f"{seed}-registro")
    redactor.rng = rng
    redactor.usa(enteros_registro)
    verdad_previa = {e["id"]: e["verdadera"] for e in errores}
    previos = [(f["texto"], verdad_previa.get(f["id"], f["intencion"])) for f in filas]
    peticiones, verdades = registro.registro(rng, redactor, respondibles + sin_respuesta, previos)
    _jsonl(salida / "registro.jsonl", peticiones)
    lineas_v = ",\n".join(f'"{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in verdades.items())
    (salida / "registro.verdad.json").write_bytes(f"{{\n{lineas_v}\n}}\n".encode())


def genera_documentos(salida: Path) -> None:
    """Escribe docs/ (no depende de la semilla: los textos son fijos)."""
    for documento in lee_documentos():
        formatos.escribe(documento, salida)


def main(argv: list[str] | None = None) -> int:
    """Punto de entrada."""
    crudo = argparse.RawDescriptionHelpFormatter
    analizador = argparse.ArgumentParser(description=__doc__, formatter_class=crudo)
    analizador.add_argument("--seed", type=int, default=7)
    analizador.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    analizador.add_argument("--solo-datos", action="store_true", help="no escribe docs/")
    opciones = analizador.parse_args(argv)
    genera_datos(opciones.seed, opciones.out / "data")
    if not opciones.solo_datos:
        genera_documentos(opciones.out / "docs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
