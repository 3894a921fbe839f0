"""What of a text an answer turns on, and embeddings hardly tell apart: numbers in digits and in words, dates, names
with digits, negations and quotations (Spanish and English)."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["telling"]

_PARTS = re.compile(r"[«\"“][^»\"”]+[»\"”]|\w*\d[\w.,:/-]*\w|\w*\d|\w+n't\b|\w+")

_ONES = "dos tres cuatro cinco seis siete ocho nueve"
_WORDS = f"""
cero {_ONES} diez once doce trece catorce quince veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa
cien ciento mil millon millones medio media medios medias mitad doble triple docena docenas decena decenas centenar par
ambos ambas tercio tercios solo sola

primer primero primera primeros primeras segundo segunda tercer tercero tercera cuarto cuarta quinto quinta sexto sexta
septimo septima octavo octava noveno novena decimo decima undecimo duodecimo ultimo ultima ultimos ultimas penultimo
penultima anterior anteriores siguiente siguientes proximo proxima proximos proximas pasado pasada

enero febrero marzo abril mayo junio julio agosto septiembre setiembre octubre noviembre diciembre
lunes martes miercoles jueves viernes sabado sabados domingo domingos
hoy manana ayer anteayer anoche mediodia medianoche madrugada tarde tardes noche noches

no sin nunca jamas ni tampoco nadie nada ningun ninguno ninguna excepto salvo

zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million millions
billion half quarter double triple dozen dozens pair couple both once twice thrice single

first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
sixteenth seventeenth eighteenth nineteenth twentieth thirtieth last next previous

january february march april june july august september october november december
monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays sundays
today tomorrow yesterday tonight noon midnight morning afternoon evening night am pm

not never without nor none nobody nothing neither cannot except unless
"""
_KNOWN = frozenset(_WORDS.split()) | {f"dieci{one}" for one in _ONES.split()} | {
    f"veinti{one}" for one in (*_ONES.split(), "un", "uno", "una")} | {
    f"{many}ient{end}" for many in ("dosc", "tresc", "cuatroc", "quin", "seisc", "setec", "ochoc", "novec")
    for end in ("os", "as")}
_ARTICLES = frozenset(("un", "uno", "una"))
"""Numbers only after another one: of `treinta y uno`, not of `una cita`."""


def telling(text: str) -> list[str]:
    """The parts of `text` that an answer turns on, in their order, without case and accents."""
    parted = unicodedata.normalize("NFD", text.casefold().replace("’", "'"))
    plain = "".join(c for c in parted if not unicodedata.combining(c))
    found: list[str] = []
    counting = False
    for part in _PARTS.findall(plain):
        told = part in _KNOWN or not part.isalpha() or (counting and part in _ARTICLES)
        if told:
            found.append(part)
        counting = told or (counting and part == "y")
    return found
