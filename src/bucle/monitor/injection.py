"""A transparent scorer of prompt injections and probing in Spanish and English: known phrasings with
weights."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence

__all__ = ["SUSPICIOUS", "fold", "suspicion", "words_of"]

SUSPICIOUS = 0.5
"""From this score on, a text counts as suspicious."""

_LONGEST = 8000
_ORDERS = (r"instructions?|prompts?|rules?|guidelines?|directions?|policies|restrictions?|training|"
           r"instruccion(?:es)?|ordenes|reglas?|normas|directrices|indicaciones|restricciones|politicas|"
           r"filtros")
_DROP = (r"ignore|disregard|forget|bypass|override|skip|ignora(?:d|s)?|ignore(?:n)?|olvida(?:te|d)?|omite|"
         r"descarta|"
         r"desobedece|saltate|anula|haz caso omiso|no (?:hagas|prestes) (?:caso|atencion)|no sigas")
_TELL = (r"reveal|show|print|repeat|output|display|tell|give|leak|dump|list|write|what (?:is|are|were)|"
         r"revela|"
         r"muestra(?:me)?|ensename|ensena|imprime|repite|dime|dame|escribe|lista|vuelca|copia|traduce|"
         r"resume|lee(?:me)?|translate|summari[sz]e|cual(?:es)? (?:es|son|fue)|"
         r"que (?:dice|dicen|pone)")
_INSIDE = (r"system prompt|system message|hidden prompt|initial prompt|developer message|api ?keys?|"
           r"source code|"
           r"(?:prompt|mensaje|instrucciones) (?:del?|de tu) sistema|prompt (?:oculto|inicial|interno|"
           r"secreto)|"
           r"instrucciones (?:internas|ocultas|iniciales|secretas|originales|confidenciales|"
           r"de configuracion)|"
           r"(?:internal|hidden|initial|secret|original|confidential) instructions|claves? (?:(?:de )?api|"
           r"internas?)|"
           r"(?:your|tus?) (?:instructions|prompt|rules|guidelines|instrucciones|reglas|directrices|"
           r"configuracion)(?! (?:de|para|for|sobre|del) (?!sistema))")
_OTHERS = (r"(?:todos? los|otros?|otras?|los demas|del resto de|all (?:the )?|other|another|every) ?"
           r"(?:clientes?|usuari[oa]s?|personas|customers?|users?|people)")
_PATTERNS: Sequence[tuple[str, float, str]] = (
    ("override", 0.8, rf"\b(?:{_DROP})\b(?: \S+){{0,3}} (?:all|any|every|previous|prior|above|your|system|"
                      rf"earlier|following|"
                      rf"todas?|tod[oa]s? las|las|los|tus?|cualquier)\b(?: \S+){{0,4}} (?:{_ORDERS})\b"),
    ("override", 0.8, rf"\b(?:{_DROP})\b (?:absolutely )?(?:everything|todo|all|cuanto)\b.{{0,20}}\b(?:you|"
                      rf"above|before|told|"
                      r"learned|te (?:han|hayan|dijeron|ensenaron)|anterior|lo de arriba|aprend|sabes|eres)"),
    ("override", 0.6, r"\bstop everything\b|\b(?:deja|para) todo(?: lo que (?:estas|"
                      r"estes) haciendo)?[ ,!]+(?:ya |ahora )?"
                      r"(?:y )?(?:solo |unicamente )?(?:di|imprime|escribe|responde)\b"),
    ("override", 0.8, r"\b(?:new|updated|nuevas?) (?:system )?(?:instructions?|instrucciones|"
                      r"ordenes)(?: \w+)? ?:"),
    ("persona", 0.6, r"\b(?:jailbreak|jailbroken|do anything now|dan mode|developer mode|god mode|"
                     r"sudo mode|modo (?:dan|dios|"
                     r"desarrollador|sin (?:restricciones|filtros|limites|censura)))\b"),
    ("persona", 0.6, r"\b(?:act as|pretend|you are (?:now|going to)|immerse yourself|play the role|"
                     r"from now on|roleplay|"
                     r"actua como|finge|eres ahora|ahora eres|haz de cuenta|comportate como|"
                     r"a partir de ahora|imagina que eres|"
                     r"simula)\b.{0,160}\b(?:dan|unrestricted|uncensored|unfiltered|evil|no (?:rules|"
                     r"filters|restrictions|"
                     r"limits)|without (?:any )?(?:rules|filters|restrictions|limits)|free from|"
                     r"broken (?:free|the)|another ai|"
                     r"other artificial|hacker|root|admin(?:istrador)?|sin (?:ninguna? )?(?:reglas|filtros|"
                     r"restriccion(?:es)?|"
                     r"limites(?! de)|censura|normas)|otra ia|malvad[oa]|no (?:tienes|tiene) (?:reglas|"
                     r"filtros|restricciones|limites))\b"),
    ("persona", 0.4, r"\b(?:stay in character|broken free|openai'?s? (?:content )?polic\w+|content policy|"
                     r"no ethical|"
                     r"as an ai (?:language )?model|your new (?:role|identity)|tu nuev[oa] (?:rol|"
                     r"identidad|personalidad))\b"),
    ("persona", 0.4, r"\bpretend(?:ing)? to be\b.{0,120}\b(?:ai|chatgpt|model|mode|norms)\b"),
    ("leak", 0.6, rf"\b(?:{_TELL})\b.{{0,60}}\b(?:{_INSIDE})"),
    ("leak", 0.6, rf"\b(?:{_TELL})\b.{{0,60}}\b(?:passwords?|contrasenas?|credenciales|credentials|datos|"
                  rf"tarjetas?|"
                  rf"card numbers?|personal data|records?|facturas|telefonos|iban|dni|addresses|"
                  rf"direcciones|emails?|correos)\b"
                  rf".{{0,30}}\b{_OTHERS}\b"),
    ("leak", 0.6, r"\b(?:listado|lista|base de datos|list|dump|database) (?:de|of) (?:l[oa]s |all |the |"
                  r"your |tod[oa]s l[oa]s )?"
                  r"(?:clientes|usuarios|customers|users)\b"),
    ("leak", 0.6, r"\b(?:contrasena|password|credenciales|credentials)\b.{0,20}\b(?:del? |of (?:the )?|"
                  r"for (?:the )?)"
                  r"(?:admin\w*|root|sistema|system|servidor|server|base de datos|database|empleados|"
                  r"staff)\b"),
    ("leak", 0.6, rf"\b(?:{_TELL}|vuelca|exporta|export|extract|extrae)\b.{{0,40}}\b(?:tabla|table|base|database|"
                  r"ultimos|last)\b.{0,20}\b(?:clientes|usuarios|customers?|users?)\b"),
    ("leak", 0.6, r"\b(?:variables? de entorno|environment variables?|env vars?|system_prompt|api_?key|"
                  r"clave de la api|datos de entrenamiento|training (?:data|examples|set))\b"),
    ("leak", 0.6, rf"\b(?:{_TELL})\b.{{0,30}}\b(?:words?|text|texto|palabras|todo lo que hay)\b.{{0,20}}\b"
                  r"(?:above|before|encima|anterior(?:es)?)\b"),
    ("smuggle", 0.6, r"\bbase64\b.{0,60}\b[a-z0-9+/]{16,}={0,2}"),
    ("hijack", 0.5, r"\b(?:just|only|solo|unicamente|simplemente|exactamente) (?:print|say|output|reply|"
                    r"imprime|di|escribe|"
                    r"repite|contesta|responde)\b.{0,20}[\"“'«]"),
    ("override", 0.6, r"\b(?:desactiva|apaga|quita(?:te)?|elimina|disable|turn off|"
                      r"remove)\b(?: \S+){0,2} (?:tus?|your|los|the)"
                      r" (?:\w+ )?(?:filtros?|filters?|restricciones|restrictions|safety|seguridad|"
                      r"guardrails|censura)\b"),
    ("override", 0.6, r"\b(?:system|admin|sistema) override\b"),
    ("smuggle", 0.8, r"<\|?(?:im_start|im_end|system|endoftext|begin_of_text)\|?>|\[/?inst\]|<</?sys>>|"
                     r"</?system>|"
                     r"^\s*(?:system|sistema) ?:|#{2,} ?(?:system|instruction|sistema|instruccion)|"
                     r"!\[[^\]]{0,80}\]\(https?:"),
    ("smuggle", 0.7, r"\b(?:decode|decodifica|descifra|ejecuta|execute|run)\b.{0,40}\b(?:base64|rot13|hex|"
                     r"shell|bash|sql)\b|"
                     r"\bor 1 ?= ?1\b|\bdrop table\b|\bunion select\b|<script\b|/etc/passwd|\brm -rf\b|"
                     r"\{\{.{0,60}\}\}|\$\{jndi:"),
    ("threat", 0.5, r"\b(?:te|os|los) voy a (?:matar|quemar|rajar|reventar|partir la)|"
                    r"\bhij[oa]s? de (?:la gran )?puta\b|"
                    r"\b(?:muerete|pudrete)\b|\bojala (?:te|os) (?:muer|pudr)\w+|\b(?:kill yourself|"
                    r"i(?:'ll| will) kill you|fuck you|i will find you)\b"),
)
# A person who speaks of an earlier message of their own, or of a paper in their hand, is no attacker.
_OWN = (
    rf"\b(?:{_DROP})\b(?: \S+){{0,4}} (?:mi|mis|my|el|lo|del?) (?:\w+ )?(?:mensajes?|correos?|emails?|"
    rf"messages?|consultas?|"
    r"preguntas?|reclamacion|solicitud|peticion|instrucciones|indicaciones|que (?:te|os|le) (?:dije|puse|"
    r"escribi|mande|envie)|i (?:sent|wrote|said))\b"
    r"|\b(?:que (?:te|os|le|les) (?:di|dije|puse|mande|envie)|i (?:gave|sent|told) you)\b"
    r"|\b(?:router|manual|tecnico|carta|folleto|contador|lavadora|caldera|installer|leaflet)\b"
)


_WORDS: Mapping[str, str] = {
    "drop": "ignore disregard forget bypass override skip ignora ignorad ignoras ignoren olvida olvidate olvidad omite "
            "descarta desobedece saltate anula omiso hagas prestes sigas",
    "orders": "instruction instructions prompt prompts rule rules guideline guidelines direction directions policies "
              "restriction restrictions training instruccion instrucciones ordenes regla reglas normas directrices "
              "indicaciones restricciones politicas filtros",
    "every": "everything todo all cuanto",
    "new": "new updated nueva nuevas",
    "mode": "jailbreak jailbroken anything mode modo",
    "act": "act pretend you immerse play from roleplay actua finge eres haz comportate partir imagina simula",
    "free": "dan unrestricted uncensored unfiltered evil rules filters restrictions limits free broken another other "
            "hacker root admin administrador reglas filtros restriccion restricciones limites censura normas otra "
            "malvado malvada",
    "role": "character broken content ethical ai role identity nuevo nueva openai openais",
    "pretend": "pretend pretending",
    "tell": "reveal show print repeat output display tell give leak dump list write what revela muestra muestrame "
            "ensename ensena imprime repite dime dame escribe lista vuelca copia traduce resume lee leeme translate "
            "summarise summarize cual cuales dice dicen pone",
    "out": "vuelca exporta export extract extrae",
    "inside": "system hidden initial developer api source prompt mensaje instrucciones internal secret original "
              "confidential clave claves your tu tus",
    "data": "password passwords contrasena contrasenas credenciales credentials datos tarjeta tarjetas card personal "
            "record records facturas telefonos iban dni addresses direcciones email emails correos",
    "people": "cliente clientes usuario usuarios customer customers user users",
    "table": "listado lista base list dump database",
    "key": "contrasena password credenciales credentials",
    "env": "entorno environment env system_prompt api_key apikey api entrenamiento training",
    "text": "word words text texto palabras todo",
    "base64": "base64",
    "only": "just only solo unicamente simplemente exactamente",
    "say": "print say output reply imprime di escribe repite contesta responde",
    "off": "desactiva apaga quita quitate elimina disable turn remove",
    "filter": "filtro filtros filter filters restricciones restrictions safety seguridad guardrails censura",
    "override": "override",
    "run": "decode decodifica descifra ejecuta execute run",
    "code": "base64 rot13 hex shell bash sql",
    "sql": "drop union",
    "threat": "voy puta muerete pudrete ojala yourself kill fuck find",
}
"""What each pattern cannot do without, in groups: whole words of the folded text."""
_PIECES: Mapping[str, tuple[str, ...]] = {
    "apikey": ("apikey",),
    "quoted": ("\"", "“", "\'", "«"),
    "marks": ("<", "[", "##", "system:", "system :", "sistema:", "sistema :"),
    "attack": ("or 1", "<script", "/etc/passwd", "rm -rf", "{{", "${jndi:"),
}
_NEEDS = (
    "drop orders", "drop every", "every", "new orders", "mode", "act free", "role", "pretend", "tell inside|apikey",
    "tell data", "table people", "key", "tell|out people", "env", "tell text", "base64", "only say quoted",
    "off filter", "override", "marks", "run|sql|attack code|sql|attack", "threat",
)
"""Of each pattern of `_PATTERNS`, in order: every group (or one of several) that its text must have words of."""


def suspicion(text: str) -> tuple[float, tuple[str, ...]]:
    """How much `text` looks like an attempt to turn the model, in [0, 1], and the kinds of pattern found.

    Patterns are combined as independent evidence, 1 - prod(1 - weight). Only the first and last 4,000
    characters are read. It is a count of known phrasings, not a proof: `abusers` asks for several from one
    caller.
    """
    if len(text) > _LONGEST:
        text = text[:_LONGEST // 2] + " " + text[-_LONGEST // 2:]
    folded = fold(text)
    misses, kinds = 1.0, []
    patterns, own = _compiled()
    words = _groups(folded)
    for kind, weight, pattern, needs in patterns:
        if not words & needs[0]:
            continue  # most texts hold no word that a pattern could begin with
        if not all(words & need for need in needs) or not pattern.search(folded):
            continue
        if not (kind == "override" and own.search(folded)):
            misses *= 1 - weight
            kinds.append(kind)
    return 1 - misses, tuple(dict.fromkeys(kinds))


@functools.cache
def _compiled() -> tuple[tuple[tuple[str, float, re.Pattern[str], tuple[int, ...]], ...], re.Pattern[str]]:
    bits = {name: 1 << at for at, name in enumerate([*_WORDS, *_PIECES])}
    rows = []
    for (kind, weight, pattern), needs in zip(_PATTERNS, _NEEDS, strict=True):
        needed = tuple(sum(bits[name] for name in need.split("|")) for need in needs.split())
        rows.append((kind, weight, re.compile(pattern), needed))
    return tuple(rows), re.compile(_OWN)


@functools.cache
def _table() -> tuple[dict[str, int], list[tuple[str, int]]]:
    """The groups of each word, as bits, and those of each piece of text."""
    words: dict[str, int] = {}
    for at, listed in enumerate(_WORDS.values()):
        for word in listed.split():
            words[word] = words.get(word, 0) | 1 << at
    return words, [(piece, 1 << at) for at, pieces in enumerate(_PIECES.values(), len(_WORDS)) for piece in pieces]


_WORD = re.compile(r"\w+")


@functools.lru_cache(maxsize=16)
def words_of(folded: str) -> tuple[str, ...]:
    """The words of a folded text, in order."""
    return tuple(_WORD.findall(folded))


def _groups(folded: str) -> int:
    table, pieces = _table()
    found = 0
    for word in table.keys() & words_of(folded):
        found |= table[word]
    for piece, bit in pieces:
        if piece in folded:
            found |= bit
    return found


_UNSEEN = re.compile(r"[^\x00-\x7f]+")


@functools.lru_cache(maxsize=16)
def fold(text: str) -> str:
    """Lower case, accents and invisible characters gone, white space single: evasions that cost nothing are
    undone."""
    plain = text.casefold()
    if not plain.isascii():
        plain = _UNSEEN.sub(_bare, unicodedata.normalize("NFKD", plain))
    return " ".join(plain.split())


def _bare(match: re.Match[str]) -> str:
    return "".join(letter for letter in match[0] if unicodedata.category(letter) not in ("Mn", "Cf"))
