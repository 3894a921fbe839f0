"""Lectura de los textos escritos a mano: documentos, preguntas y piezas de mensajes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

TEXTOS = Path(__file__).parent / "textos"
_LETRAS_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"


@dataclass
class Pregunta:
    """Una pregunta escrita junto al documento que la contesta."""

    texto: str
    variante: str
    idioma: str
    respuesta: str | None = None
    documento: str | None = None
    apoyo: str | None = None


@dataclass
class Documento:
    """Un documento fuente: cuerpo por líneas, opciones de formato y preguntas."""

    ruta: str
    idioma: str
    titulo: str
    opciones: dict[str, str]
    lineas: list[str] = field(default_factory=list)
    preguntas: list[Pregunta] = field(default_factory=list)


def dni(numero: str) -> str:
    """DNI con su letra de control."""
    return f"{numero}{_LETRAS_DNI[int(numero) % 23]}"


def nie(prefijo: str) -> str:
    """NIE (X, Y o Z y siete cifras) con su letra de control."""
    return f"{prefijo}{_LETRAS_DNI[int(str('XYZ'.index(prefijo[0])) + prefijo[1:]) % 23]}"


def iban(banco: str, oficina: str, cuenta: str) -> str:
    """IBAN español con los dígitos de control de la cuenta y del propio IBAN."""

    def control(cifras: str) -> str:
        pesos = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)
        resto = 11 - sum(int(c) * p for c, p in zip(cifras, pesos, strict=True)) % 11
        return {10: "1", 11: "0"}.get(resto, str(resto))

    ccc = banco + oficina + control("00" + banco + oficina) + control(cuenta) + cuenta
    dc = 98 - int(ccc + "142800") % 97
    plano = f"ES{dc:02d}{ccc}"
    return " ".join(plano[i : i + 4] for i in range(0, len(plano), 4))


def _marcas(linea: str) -> str:
    linea = re.sub(r"\{\{DNI:(\d{8})\}\}", lambda m: dni(m[1]), linea)
    linea = re.sub(r"\{\{NIE:([XYZ]\d{7})\}\}", lambda m: nie(m[1]), linea)
    return re.sub(r"\{\{IBAN:(\d{4}) (\d{4}) (\d{10})\}\}", lambda m: iban(m[1], m[2], m[3]), linea)


def limpia(linea: str) -> str:
    """Una línea sin marcas de formato, tal como se leerá en el documento."""
    linea = re.sub(r"^(#+ |- |NOTE: |NOTA: |>+ ?)", "", linea)
    return re.sub(r"^\d+/\d+/\d+, \d+:\d+ - [^:]+: ", "", linea)


def frases(linea: str) -> list[str]:
    """Frases de un párrafo."""
    if linea.startswith("|"):
        return []
    trozos = re.split(r"(?<=[.?!:])\s+(?=[A-ZÁÉÍÓÚÑ¿¡])", limpia(linea))
    unidas: list[str] = []
    for trozo in trozos:  # los dos puntos solo separan saludos; «3.º B» y similares no separan
        if unidas and unidas[-1].endswith(":"):
            unidas[-1] += " " + trozo
        else:
            unidas.append(trozo)
    return [f.strip() for f in unidas if f.strip()]


def _apoyo(doc: Documento, clave: str) -> str:
    halladas = [f for linea in doc.lineas for f in frases(linea) if clave in f]
    if not halladas:
        raise ValueError(f"{doc.ruta}: no hay ninguna frase con «{clave}»")
    return halladas[0]


def _opciones(texto: str) -> dict[str, str]:
    salida: dict[str, str] = {}
    for par in filter(None, texto.strip().split(";")):
        clave, _, valor = par.strip().partition("=")
        salida[clave] = valor or "1"
    return salida


def lee_documentos() -> list[Documento]:
    """Todos los documentos, con las variantes (casi duplicados) ya resueltas."""
    docs: dict[str, Documento] = {}
    claves: list[tuple[Documento, list[str]]] = []
    for fichero in sorted((TEXTOS / "docs").glob("0[1-5]*.txt")):
        actual: Documento | None = None
        for cruda in fichero.read_text(encoding="utf-8").splitlines():
            if cruda.startswith("=== "):
                partes = [p.strip() for p in cruda[4:].split(" | ", 3)]
                actual = Documento(partes[0], partes[1], partes[2], _opciones("".join(partes[3:])))
                docs[actual.ruta] = actual
                if "from" in actual.opciones:
                    actual.lineas = list(docs[actual.opciones["from"]].lineas)
                continue
            if actual is None or (not cruda.strip() and "from" in actual.opciones):
                continue
            if cruda.startswith("@@ "):
                claves.append((actual, [p.strip() for p in cruda[3:].split(" | ")]))
            elif "from" in actual.opciones:
                viejo, nuevo = cruda.split("->")
                if not any(viejo in linea for linea in actual.lineas):
                    raise ValueError(f"{actual.ruta}: no aparece «{viejo}»")
                actual.lineas = [linea.replace(viejo, nuevo) for linea in actual.lineas]
            else:
                actual.lineas.append(_marcas(cruda))
    for doc in docs.values():
        while doc.lineas and not doc.lineas[-1].strip():
            doc.lineas.pop()
    for doc, (texto, respuesta, clave, variante) in claves:
        pregunta = Pregunta(texto, variante, doc.idioma, respuesta, doc.ruta, _apoyo(doc, clave))
        doc.preguntas.append(pregunta)
    return list(docs.values())


def lee_sin_respuesta() -> list[Pregunta]:
    """Preguntas verosímiles que la documentación no contesta."""
    salida = []
    for linea in (TEXTOS / "docs" / "06_sin_respuesta.txt").read_text(encoding="utf-8").splitlines():
        idioma, texto, variante = (p.strip() for p in linea.split(" | "))
        salida.append(Pregunta(texto, variante, idioma))
    return salida


def lee_secciones(*nombres: str) -> dict[str, dict[str, list[str]]]:
    """Ficheros con bloques «== nombre» y apartados «[apartado]»."""
    salida: dict[str, dict[str, list[str]]] = {}
    bloque = apartado = ""
    for nombre in nombres:
        for linea in (TEXTOS / "mensajes" / nombre).read_text(encoding="utf-8").splitlines():
            if linea.startswith("== "):
                bloque, apartado = linea[3:].strip(), "hechos"
                salida[bloque] = {}
            elif re.fullmatch(r"\[\w+\]", linea):
                apartado = linea[1:-1]
            elif linea.strip():
                salida[bloque].setdefault(apartado, []).append(linea.strip())
    return salida
