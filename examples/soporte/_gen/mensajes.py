"""Mensajes de clientes: composición de piezas escritas a mano y canal ruidoso."""

from __future__ import annotations

import random
import re
import unicodedata
from datetime import date, timedelta

from .fuentes import lee_secciones

PESOS = {
    "consultar_factura": 17.0, "averia_internet": 15.5, "reclamar_cobro": 13.0, "averia_luz": 11.0,
    "cambiar_tarifa": 9.0, "cita_tecnico": 7.5, "baja_contrato": 6.5, "alta_contrato": 6.0,
    "lectura_contador": 5.0, "devolver_equipo": 4.0, "bono_social": 3.0, "cambio_titular": 2.5,
}  # fmt: skip
NUEVA = "alta_movil"
Enteros = dict[str, list[tuple[str, str]]]
SECCIONES = lee_secciones("1.txt", "2.txt", "comun.txt", "preferencias.txt")
PIEZAS = lee_secciones("1.txt", "2.txt")
COMUN = SECCIONES["comun"]

_RANURAS: dict[str, list[str]] = {
    "mes": ["enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "noviembre",
            "diciembre"],
    "dia": ["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "día 3", "día 14", "20", "28"],
    "hora": ["las 7", "ayer", "anoche", "las 6 de la mañana", "esta mañana", "hace dos horas", "el domingo",
             "las 22:30", "mediodía"],
    "plan": ["la Luz Fija", "Luz Clara", "la indexada", "Fibra Giga", "la de 600", "la de tres periodos",
             "la cuota fija"],
    "serv": ["la luz", "el gas", "la fibra", "internet", "luz y gas", "la luz y la fibra"],
    "serv2": ["gas", "luz", "el gas", "la luz"],
    "equipo": ["el router", "la ONT", "el repetidor", "los aparatos", "el descodificador", "el equipo viejo"],
    "fam": ["madre", "hermano", "marido", "hija", "padre", "mujer", "suegra", "compañero de piso"],
    "calle": ["la calle Olmo 14", "plaza del Ángel", "avenida Goya 112", "calle Cierzo 20",
              "paseo del Canal 9", "Sancho el Fuerte 61", "la calle Mayor", "el camino de la ermita",
              "los Tilos 31"],
    "nombre": ["Marta", "Joaquín", "Pilar", "Samir", "Elena", "Ramón", "Lucía", "Andrés G.", "Nuria Sanz",
               "Toño", "Paqui", "Iván R.", "Mª Jesús", "Kevin", "Begoña Ruiz", "Óscar"],
    "nombre_en": ["Gareth", "Susan", "Tom", "Mrs Hughes", "Aoife", "Linda P.", "Jack"],
}  # fmt: skip
_VECINAS = {
    "a": "sqz", "b": "vn", "c": "xv", "d": "sfe", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo",
    "j": "hk", "k": "jl", "l": "kñ", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
_ABREVIA = [
    (r"\bque\b", "q"), (r"\bporque\b", "xq"), (r"\bpor qué\b", "xq"), (r"\btambién\b", "tb"),
    (r"\bpara\b", "pa"),
    (r"\bpor favor\b", "xfa"), (r"\bgracias\b", "grcias"), (r"\bmucho\b", "mxo"), (r"\bfactura\b", "fra"),
    (r"\binternet\b", "inet"), (r"\bmensaje\b", "msj"), (r"\bcuando\b", "cndo"), (r"\bde\b", "d"),
    (r"\btengo\b", "tngo"), (r"\bestoy\b", "toy"), (r"\bnada\b", "na"), (r"\bhasta\b", "asta"),
]  # fmt: skip
_FALTAS = [
    (r"\bhay\b", "ahi"), (r"\ba ver\b", "haber"), (r"\bhabéis\b", "abeis"), (r"\bhe\b", "e"), (r"ll", "y"),
    (r"v", "b"), (r"\bvoy\b", "boy"), (r"\bquiero\b", "kiero"), (r"\becho\b", "hecho"), (r"ge", "je"),
]  # fmt: skip


def _elige(rng: random.Random, lista: list[str]) -> str:
    return lista[rng.randrange(len(lista))]


def rellena(rng: random.Random, texto: str) -> str:
    """Sustituye las ranuras {mes}, {euros}, etc."""

    def uno(m: re.Match[str]) -> str:
        clave = m[1]
        if clave == "euros":
            return _elige(rng, [f"{rng.randint(9, 190)}", f"{rng.randint(9, 140)},{rng.randint(10, 99)}"])
        if clave == "n":
            return _elige(rng, ["dos", "tres", "cuatro", "cinco", "2", "3", "5", "6"])
        if clave == "n3":
            return str(rng.randint(2, 14))
        if clave == "n2":
            return str(rng.randint(8, 40))
        if clave == "lect":
            return f"{rng.randint(1200, 98000):05d}"
        return _elige(rng, _RANURAS[clave])

    return re.sub(r"\{(\w+)\}", uno, texto)


def sin_tildes(texto: str) -> str:
    """Quita tildes, pero conserva la eñe."""
    partido = unicodedata.normalize("NFD", texto.replace("ñ", "\0"))
    salida = "".join(c for c in partido if not unicodedata.combining(c))
    return salida.replace("\0", "ñ")


def ruido(rng: random.Random, texto: str, nivel: float) -> str:
    """Canal ruidoso: tildes, signos de apertura, abreviaturas, faltas, erratas de teclado y mayúsculas."""
    if rng.random() < 0.8:
        texto = re.sub("[¿¡]", "", texto)
    if rng.random() < 0.42:
        texto = sin_tildes(texto)
    if rng.random() < 0.28 * nivel:
        for patron, corto in _ABREVIA:
            if rng.random() < 0.6:
                texto = re.sub(patron, corto, texto)
    if rng.random() < 0.10 * nivel:
        patron, mal = _FALTAS[rng.randrange(len(_FALTAS))]
        texto = re.sub(patron, mal, texto)
    tasa = 0.0 if rng.random() < 0.5 else rng.uniform(0.004, 0.03) * nivel
    letras: list[str] = []
    for c in texto:
        if rng.random() < tasa and c.lower() in _VECINAS:
            golpe = rng.random()
            if golpe < 0.4:
                letras.append(_elige(rng, list(_VECINAS[c.lower()])))
            elif golpe < 0.65:
                continue
            elif golpe < 0.8:
                letras += [c, c]
            elif letras:
                letras.insert(-1, c)
            else:
                letras.append(c)
        else:
            letras.append(c)
    texto = "".join(letras)
    if rng.random() < 0.3:
        texto = texto.lower()
    elif rng.random() < 0.03:
        texto = texto.upper()
    if rng.random() < 0.12:
        texto = re.sub(r"[.,](?= )", "", texto)
    if rng.random() < 0.07:
        texto = texto.rstrip(".") + _elige(rng, ["!!!", "???", "...", " :(", " 😡", " 🙏", "!!"])
    return re.sub(r"\s+", " ", texto).strip()


def _mayuscula(texto: str) -> str:
    return texto[:1].upper() + texto[1:]


class Redactor:
    """Da mensajes nuevos de una intención; no repite ningún texto ya dado."""

    def __init__(self, rng: random.Random, enteros: Enteros) -> None:
        self.rng = rng
        self.usa(enteros)
        self.vistos: set[str] = set()
        self.detalles: dict[str, str] = {}

    def usa(self, enteros: Enteros) -> None:
        """Cambia el depósito de mensajes enteros; los ingleses pueden repetirse con otro saludo."""
        self.enteros = {k: [t for t, idioma in v if idioma == "es"] for k, v in enteros.items()}
        self.ingles = {k: [t for t, idioma in v if idioma == "en"] for k, v in enteros.items()}

    def _pieza(self, intencion: str, apartado: str) -> str:
        pieza = rellena(self.rng, _elige(self.rng, PIEZAS[intencion][apartado]))
        if apartado == "detalle":  # solo un detalle puede ir detrás de «es que» o de «y»
            self.detalles[pieza] = _elige(self.rng, [" y ", ", es que ", " porque ", " y además ", ", eh, "])
        return pieza

    def _compuesto(self, intencion: str) -> str:
        rng = self.rng
        suerte = rng.random()
        nucleo = self._pieza(intencion, "nucleo")
        if suerte < 0.06:  # fragmento sin núcleo: solo el detalle y lo que pide
            partes = [self._pieza(intencion, "detalle"), self._pieza(intencion, "peticion")]
        elif suerte < 0.12:
            partes = [nucleo]
        elif suerte < 0.27:  # dos temas; manda el de la etiqueta
            otra = _elige(rng, [i for i in PESOS if i != intencion])
            segunda = self._pieza(otra, "nucleo")
            if rng.random() < 0.65:
                partes = [nucleo, self._pieza(intencion, "peticion"),
                          rellena(rng, _elige(rng, COMUN["puente"])) + " " + segunda]
                if "(" in partes[-1]:
                    partes[-1] += ")"
            else:
                union = [", pero lo que me urge es otra cosa: ", ". Eso ya lo veremos, ahora ",
                         " y lo principal, ", ". Pero escribo por esto: "]
                partes = [segunda + _elige(rng, union) + nucleo, self._pieza(intencion, "peticion")]
        elif suerte < 0.42:  # largo y con rodeos
            partes = [rellena(rng, _elige(rng, COMUN["contexto"])), nucleo, self._pieza(intencion, "detalle"),
                      rellena(rng, _elige(rng, COMUN["contexto"])), self._pieza(intencion, "detalle"),
                      self._pieza(intencion, "peticion")]
        else:
            partes = [nucleo]
            if rng.random() < 0.6:
                partes.append(self._pieza(intencion, "detalle"))
            if rng.random() < 0.65:
                partes.insert(rng.choice([0, len(partes), len(partes)]), self._pieza(intencion, "peticion"))
            if rng.random() < 0.25:
                partes.insert(rng.randrange(len(partes) + 1), rellena(rng, _elige(rng, COMUN["contexto"])))
        enfado = {"reclamar_cobro": 0.35, "averia_internet": 0.2, "averia_luz": 0.12, "baja_contrato": 0.2}
        if rng.random() < enfado.get(intencion, 0.05):
            partes.insert(rng.randrange(len(partes) + 1), _elige(rng, COMUN["enfado"]))
        return self._viste(list(dict.fromkeys(partes)), "saludo", "cierre")

    def _viste(self, partes: list[str], saludo: str, cierre: str) -> str:
        rng = self.rng
        if rng.random() < 0.42:
            inicial = rellena(rng, _elige(rng, COMUN[saludo]))
            if rng.random() < 0.5:
                partes[0] = inicial + ", " + partes[0]
            else:
                partes.insert(0, inicial)
        final = rellena(rng, _elige(rng, COMUN[cierre])) if rng.random() < 0.3 else ""
        texto = _mayuscula(partes[0])
        for parte in partes[1:]:
            if texto[-1] in "?!.":
                texto += " " + _mayuscula(parte)
            elif parte.endswith("?") or rng.random() < 0.5:
                texto += ". " + _mayuscula(parte)
            else:
                causa = self.detalles.get(parte, "")
                texto += _elige(rng, [", ", ", ", causa or ", ", causa or "... ", "... "]) + parte
        if final:
            texto += (" " if texto[-1] in "?!." else _elige(rng, [". ", ", "])) + final
        return texto if texto[-1] in "?!.)" or rng.random() < 0.5 else texto + "."

    def _ingles(self, intencion: str) -> str:
        partes = [_elige(self.rng, self.ingles[intencion])]
        if self.rng.random() < 0.5:
            partes.insert(self.rng.randrange(2), rellena(self.rng, _elige(self.rng, COMUN["contexto_en"])))
        return self._viste(partes, "saludo_en", "cierre_en")

    def mensaje(self, intencion: str, nivel: float = 1.0, p_entero: float = 0.38) -> str:
        """Un mensaje nuevo de esa intención."""
        rng = self.rng
        for _ in range(400):
            if rng.random() < 0.095:
                bruto = self._ingles(intencion)
            elif self.enteros.get(intencion) and rng.random() < p_entero:
                lista = self.enteros[intencion]
                bruto = rellena(rng, lista.pop(rng.randrange(len(lista))))
                if rng.random() < 0.2:
                    bruto = rellena(rng, _elige(rng, COMUN["saludo"])) + ", " + bruto[:1].lower() + bruto[1:]
            else:
                bruto = self._compuesto(intencion)
            texto = ruido(rng, bruto, nivel)
            clave = re.sub(r"\W+", " ", sin_tildes(texto.lower())).strip()
            if clave not in self.vistos:
                self.vistos.add(clave)
                return texto
        raise RuntimeError(f"sin textos nuevos para {intencion}")


def reparte_enteros(rng: random.Random) -> tuple[Enteros, Enteros]:
    """Reparte los mensajes enteros entre el conjunto etiquetado y el registro, sin solaparse."""
    datos: Enteros = {}
    registro: Enteros = {}
    inocuos: dict[str, list[str]] = {}
    for linea in COMUN["inocuo"]:
        intencion, texto = linea.split("|", 1)
        inocuos.setdefault(intencion, []).append(texto)
    for intencion, piezas in PIEZAS.items():
        lista = [(t, "es") for t in piezas["full"]]
        rng.shuffle(lista)
        ingles = [(t, "en") for t in piezas["en"]]
        rng.shuffle(ingles)
        corte, corte_en = (0, 0) if intencion == NUEVA else (len(lista) // 2, len(ingles) // 2)
        datos[intencion] = lista[:corte] + ingles[:corte_en]
        registro[intencion] = lista[corte:] + ingles[corte_en:]
        registro[intencion] += [(t, "es") for t in inocuos.get(intencion, [])]
    return datos, registro


def cuotas(total: int) -> dict[str, int]:
    """Filas por intención; suman exactamente el total."""
    salida = {k: int(total * p / 100) for k, p in PESOS.items()}
    for clave in list(salida)[: total - sum(salida.values())]:
        salida[clave] += 1
    return salida


def etiquetados(
    rng: random.Random, redactor: Redactor, total: int = 800, repetidos: int = 32, errores: int = 24
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Las filas etiquetadas y la lista de etiquetas cambiadas a propósito."""
    filas: list[tuple[str, str]] = []
    for intencion, cantidad in cuotas(total - repetidos).items():
        filas += [(redactor.mensaje(intencion), intencion) for _ in range(cantidad)]
    copias = rng.sample(filas, repetidos)
    for k, (texto, intencion) in enumerate(copias):  # la mitad idénticas, la mitad con otro ruido
        otra = ruido(rng, texto + rng.choice(["", " gracias", "!", " porfa"]), 1.5)
        filas.append((texto if k % 2 else otra, intencion))
    rng.shuffle(filas)
    malos = set(rng.sample(range(total), errores))
    clientes = [f"c-{n:04d}" for n in rng.sample(range(100, 3000), 420)]
    salida: list[dict[str, str]] = []
    lista_errores: list[dict[str, str]] = []
    dias = sorted(rng.random() for _ in range(total))
    for k, (texto, intencion) in enumerate(filas):
        etiqueta = intencion
        ident = f"m-{k + 1:04d}"
        if k in malos:
            etiqueta = rng.choice([i for i in PESOS if i != intencion])
            lista_errores.append({"id": ident, "etiqueta": etiqueta, "verdadera": intencion})
        salida.append({"id": ident, "texto": texto, "intencion": etiqueta, "fecha": _fecha(dias[k]),
                       "cliente": clientes[int(len(clientes) * rng.random() ** 1.6)]})
    return salida, lista_errores


def _fecha(fraccion: float) -> str:
    return (date(2026, 3, 7) + timedelta(days=int(fraccion * 183))).isoformat()
