"""Pares de borradores de respuesta: tono, corrección y seguridad, sin atajos de longitud."""

from __future__ import annotations

import random

from .mensajes import PESOS, SECCIONES, Redactor, rellena, ruido


def _monta(rng: random.Random, nucleo: list[str], neutras: list[str]) -> str:
    partes = list(nucleo)
    for frase in neutras:
        partes.insert(rng.randrange(len(partes) + 1), rellena(rng, frase))
    return " ".join(partes)


def pares(rng: random.Random, redactor: Redactor, total: int = 600) -> list[dict[str, str]]:
    """Pares con la mitad de los elegidos más largos y la otra mitad más cortos."""
    neutras = SECCIONES["neutro"]["frases"]
    bien, mal = SECCIONES["tono"]["bien"], SECCIONES["tono"]["mal"]
    seguridad = [p.split("|") for p in SECCIONES["seguridad"]["pares"]]
    intenciones, pesos = list(PESOS), list(PESOS.values())
    salida: list[dict[str, str]] = []
    vistos: set[tuple[str, str]] = set()
    while len(salida) < total:
        k = len(salida)
        guia = ""
        aspecto = ("tone", "correctness", "safety")[k % 3]
        mas_largo = (k // 3) % 2 == 0
        intencion = rng.choices(intenciones, [p**0.6 for p in pesos])[0]
        cierto, falso = rng.choice([h.split("|") for h in SECCIONES[intencion]["hechos"]])
        if aspecto == "tone":
            a, b = [rng.choice(bien), cierto], [rng.choice(mal), cierto]
        elif aspecto == "correctness":
            cordial = rng.sample(bien, 2) if rng.random() < 0.6 else ["", ""]
            a, b = [cordial[0], cierto], [cordial[1], falso]
        else:
            seguro, inseguro, guia = rng.choice(seguridad)
            if guia.startswith("@"):
                intencion = rng.choice(guia[1:].split(","))
                cierto = rng.choice(SECCIONES[intencion]["hechos"]).split("|")[0]
            extra = [cierto] if guia[0] in "*@" and rng.random() < 0.5 else []
            a, b = [seguro, *extra], [inseguro, *extra]
        a, b = [x for x in a if x], [x for x in b if x]
        for cuerpo in (a, b):
            if rng.random() < 0.3:
                cuerpo.reverse()
        if aspecto == "safety" and not guia.startswith(("*", "@")):
            saludo = rng.choice(["", "", "Hola. ", "Buenas, ", "Perdonad, ", "Una cosa: ", "Oye, "])
            prompt = ruido(rng, saludo + rng.choice(guia.split("~")), 0.6)
        else:
            prompt = redactor.mensaje(intencion, nivel=0.6, p_entero=0.0)
        for _ in range(60):
            elegido = _monta(rng, a, rng.sample(neutras, rng.randint(0, 3)))
            peor = _monta(rng, b, rng.sample(neutras, rng.randint(0, 3)))
            if len(elegido) != len(peor) and (len(elegido) > len(peor)) == mas_largo:
                break
        if (elegido, peor) in vistos:
            continue
        vistos.add((elegido, peor))
        salida.append({"id": f"p-{k + 1:04d}", "prompt": prompt, "chosen": elegido, "rejected": peor,
                       "aspect": aspecto})
    return salida
