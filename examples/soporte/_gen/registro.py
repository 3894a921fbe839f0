"""Registro reproducible de tres semanas de tráfico."""

from __future__ import annotations

import base64
import math
import random
from datetime import datetime, timedelta, timezone
from typing import Any

from .fuentes import Pregunta
from .mensajes import NUEVA, PESOS, SECCIONES, Redactor, rellena, ruido

INICIO = datetime(2026, 9, 7, tzinfo=timezone(timedelta(hours=2)))
ATACANTE = "u-0666"
_DIAS = (1.18, 1.06, 1.0, 1.02, 0.95, 0.5, 0.22)
_HORAS = (2, 1, 1, 1, 1, 2, 5, 14, 34, 58, 70, 66, 55, 40, 32, 36, 52, 58, 50, 40, 30, 22, 12, 5)
_REDACTA = [
    "Redacta una respuesta breve para este cliente: «{m}»",
    "Contesta con amabilidad a: {m}",
    "borrador de respuesta, tono formal. Mensaje del cliente: {m}",
    "Cliente enfadado, dale una respuesta tranquila y sin prometer nada. Dice: «{m}»",
    "Escribe un correo de contestación en tres frases. {m}",
    "respuesta por whatsapp a esto -> {m}",
    "Prepara un borrador: pedimos disculpas y damos plazo. Texto: «{m}»",
    "Resúmeme y contesta: {m}",
    "Draft a polite reply in English to: {m}",
    "Necesito una respuesta para {m} (que no pase de cinco líneas)",
    "Ponlo más cercano y responde al cliente que escribe: {m}",
    "Le hemos resuelto ya el problema. Escribe el mensaje de cierre. Decía: «{m}»",
]
_ANTES = ["", "", "", "hola, ", "una duda: ", "buenas, ", "oye, ", "me preguntan esto: ",
          "cliente en línea: ", "rápido, ", "necesito saber ", "para un correo: "]  # fmt: skip


def _momento(rng: random.Random, dia: int) -> datetime:
    hora = rng.choices(range(24), _HORAS)[0]
    segundos = rng.randrange(3600)
    return INICIO + timedelta(days=dia, hours=hora, seconds=segundos, milliseconds=rng.randrange(1000))


def _dia(rng: random.Random, desde: int = 0, hasta: int = 21) -> int:
    dias = range(desde, hasta)
    return rng.choices(dias, [_DIAS[d % 7] for d in dias])[0]


def latencia(rng: random.Random, dia: int) -> float:
    """Milisegundos del proveedor externo; desde el día 17 (índice 16) se degrada."""
    mediana, p95 = (40.0, 80.0) if dia < 16 else (170.0, 350.0)
    return round(mediana * math.exp(rng.gauss(0, math.log(p95 / mediana) / 1.645)), 1)


def _usuario(rng: random.Random) -> str:
    numero = 1 + int(620 * rng.random() ** 1.5)
    return f"u-{numero:04d}"


def _ataques(rng: random.Random, total: int) -> list[tuple[datetime, str]]:
    piezas = SECCIONES["ataque"]
    base = piezas["es"] + piezas["en"]
    textos: list[str] = []
    ronda: list[str] = []
    while len(textos) < total:
        if not ronda:
            ronda = rng.sample(base, len(base))
        texto = ronda.pop()
        cifrado = base64.b64encode(rng.choice(piezas["b64"]).encode()).decode()
        texto = texto.replace("{b64}", cifrado)
        if len(textos) >= len(base):
            texto = ruido(rng, f"{rng.choice(piezas['prefijo'])} {texto} {rng.choice(piezas['sufijo'])}", 0.8)
        textos.append(texto)
    salida: list[tuple[datetime, str]] = []
    rafagas = [(15, 23, 9), (15, 23, 41), (16, 1, 12), (16, 1, 50), (16, 13, 20), (16, 22, 5), (16, 23, 30)]
    for k, texto in enumerate(textos):
        dia, hora, minuto = rafagas[k * len(rafagas) // total]
        base_t = INICIO + timedelta(days=dia, hours=hora, minutes=minuto)
        previo = salida[-1][0] if salida and salida[-1][0] >= base_t else base_t
        salida.append((previo + timedelta(seconds=rng.uniform(3, 22)), texto))
    return salida


def registro(
    rng: random.Random, redactor: Redactor, preguntas: list[Pregunta], previos: list[tuple[str, str]]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """Las peticiones en orden y, aparte, la verdad de cada una (solo para pruebas)."""
    filas: list[tuple[datetime, dict[str, Any], dict[str, str]]] = []
    etiquetas, pesos = list(PESOS), list(PESOS.values())

    dias = sorted(_dia(rng) for _ in range(1050))
    tercera = [k for k, d in enumerate(dias) if d >= 14]
    nuevas = set(rng.sample(tercera, round(0.22 * len(tercera))))
    repes = set(rng.sample([k for k in range(1050) if k not in nuevas], 30))
    ordinarias = [k for k in range(1050) if k not in nuevas]
    revisadas = set(rng.sample(sorted(nuevas), round(0.75 * len(nuevas))))
    revisadas |= set(rng.sample(ordinarias, round(0.55 * 1050) - len(revisadas)))
    agentes = [f"agente-{n}" for n in range(1, 8)]
    for k, dia in enumerate(dias):
        if k in repes:
            texto, verdad = rng.choice(previos)
            texto = ruido(rng, texto, 0.8)
        else:
            verdad = NUEVA if k in nuevas else rng.choices(etiquetas, pesos)[0]
            texto = redactor.mensaje(verdad, p_entero=0.55 if verdad == NUEVA else 0.3)
        revision = None
        if k in revisadas:
            dada = verdad if rng.random() > 0.02 else rng.choice([e for e in etiquetas if e != verdad])
            revision = {"by": rng.choice(agentes), "label": dada}
        filas.append((_momento(rng, dia), {"user": _usuario(rng), "route": "intenciones", "input": texto,
                      "upstream_ms": None, "review": revision}, {"kind": "normal", "label": verdad}))

    vistas: set[str] = set()
    con_revision = set(rng.sample(range(200), 80))
    ronda: list[Pregunta] = []
    while len(vistas) < 200:
        if not ronda:
            ronda = rng.sample(preguntas, len(preguntas))
        pregunta = ronda.pop()
        antes = "" if pregunta.idioma == "en" else rng.choice(_ANTES)
        texto = ruido(rng, antes + pregunta.variante, 0.7)
        if texto in vistas or texto == pregunta.texto:
            continue
        vistas.add(texto)
        revision_r = None
        if len(vistas) - 1 in con_revision:
            quien = rng.choice(agentes)
            revision_r = {"by": quien, "answer": pregunta.respuesta, "document": pregunta.documento}
        mesa = f"u-{rng.randint(700, 718):04d}"
        filas.append((_momento(rng, _dia(rng)), {"user": mesa, "route": "respuestas",
                      "input": texto, "upstream_ms": None, "review": revision_r},
                      {"kind": "normal", "document": pregunta.documento or ""}))

    con_nota = set(rng.sample(range(200), 80))
    for k in range(200):
        dia = _dia(rng)
        intencion = rng.choices(etiquetas, pesos)[0]
        orden = rng.choice(_REDACTA).replace("{m}", redactor.mensaje(intencion, 0.8, 0.0))
        revision_d = None
        if k in con_nota:
            revision_d = {"by": rng.choice(agentes), "rating": 1 if rng.random() < 0.8 else -1}
        filas.append((_momento(rng, dia), {"user": f"u-{rng.randint(700, 718):04d}", "route": "redactor",
                      "input": rellena(rng, orden), "upstream_ms": latencia(rng, dia), "review": revision_d},
                      {"kind": "normal"}))

    for momento, texto in _ataques(rng, 90):
        ruta = "redactor" if rng.random() < 0.45 else "intenciones"
        dia = (momento - INICIO).days
        filas.append((momento, {"user": ATACANTE, "route": ruta, "input": texto,
                      "upstream_ms": latencia(rng, dia) if ruta == "redactor" else None, "review": None},
                      {"kind": "ataque"}))

    filas.sort(key=lambda f: (f[0], f[1]["user"]))
    salida: list[dict[str, Any]] = []
    verdades: dict[str, dict[str, str]] = {}
    for k, (momento, fila, verdad_fila) in enumerate(filas):
        ident = f"r-{k + 1:05d}"
        salida.append({"id": ident, "at": momento.isoformat(timespec="milliseconds"), **fila})
        verdades[ident] = verdad_fila
    return salida, verdades
