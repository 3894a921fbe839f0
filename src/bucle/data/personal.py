"""Finding personal data and secrets in text, and keeping, masking, hashing or dropping them by kind.

Kinds with check digits (IBAN, card, DNI and NIE, social security number) are found only where the digits are
right.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bucle.core.errors import BadInput
from bucle.data.secrets import find_secrets

__all__ = ["KINDS", "Action", "Finding", "apply", "find"]

Action = Literal["keep", "mask", "hash", "drop"]
KINDS = ("secret", "email", "iban", "card", "dni", "nie", "nuss", "phone", "name")
"""In the order in which they claim a piece of text: no two findings overlap. `name` needs a model (data.names)."""


@dataclass(frozen=True)
class Finding:
    """Personal data at `[start, end)` of a text. Its own text is left out of its representation, so of logs
    too.
    """

    kind: str
    start: int
    end: int
    text: str = field(repr=False)


_IBAN_LENGTHS = {
    one[:2]: int(one[2:])
    for one in re.findall(
        r"\w+",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
"""Characters of an IBAN by country (ISO 13616 registry)."""
_EMAIL = re.compile(
    r"(?<![\w.+-])(?:[\w.+%-]{1,64}(?:'[\w.+%-]{1,30})?|\"[^\"\n@]{1,64}\")(?:@|%40|&#0{0,4}64;|&#[xX]0{0,4}40;|&commat;)"
    r"(?:[\w-]{1,63}\.){1,5}"
    r"(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})(?![^\W_]|-(?![A-ZÁÉÍÓÚÑ])\w)"
)
_DOT = r"(?:\.|\s{0,2}[\[({<]\s?(?:punto|dot)\s?[\])}>]\s{0,2}|\s{1,2}(?:punto|dot)\s{1,2})"
_SPELT = re.compile(
    rf"(?i)(?<![\w.+-])[\w+-]{{1,64}}(?:{_DOT}[\w+-]{{1,64}}){{0,4}}"
    r"(?:\s{0,2}[\[({<]\s?(?:arroba|at)\s?[\])}>]\s{0,2}|\s{1,2}arroba\s{1,2}|\s{1,2}at\s{1,2}(?=[\w-]{1,63}\s{1,2}dot\s))"
    rf"[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{0,3}}{_DOT}[a-z]{{2,24}}(?!\w)"
)
"""`ana arroba empresa punto es`, `ana [at] empresa [dot] com`."""
_FILES = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|avif|css|mjs|json|html?|pdf|xml|txt)$|@\d[\w.]*\.(?:js|ts|md)$", re.IGNORECASE
)
"""`logo@2x.png` is a file."""
_GIT = re.compile(r"git@(?:github\.com|gitlab\.com|bitbucket\.org)$")
_GIT_PATH = re.compile(r":[\w~.-]+(?:/|\.git\b)")
_IBAN = re.compile(r"(?=[A-Za-z]{2}\d\d)(?<!\w)(?=([A-Za-z]{2}\d{2}(?:[ .\n-]?[0-9A-Za-z]){11,30}))")
_IBAN_LOOSE = re.compile(
    r"(?=[A-Za-z]{2} ?\)?\d)(?:(?<!\w)|(?<=(?i:iban)))"
    r"(?=([A-Za-z]{2} ?\)?\d{2}\)?(?:[ .\n\t/|-]{0,3}\d){11,27}(?!\d)))"
)
"""Digits only, set apart by whatever a table or a form puts between them."""
_CARD = re.compile(
    r"(?=\d)(?<![\w,-])(?<!\d[./])(?:(?<!\d{4}[ -])|(?<=(?<!\d)20\d\d ))"
    r"(?:\d{4}( {0,2}|[./-])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -]?)\d{6}\2\d{4,5}|\d{4} \d{4} \d{8})"
    r"(?!\w|[.,]\d|/(?!(?:0[1-9]|1[0-2])(?:/\d\d)?(?!\d))\d|-(?!\d{3}(?![\w-]))\w|[ -](?!20[2-4]\d\b)\d{4}\b)"
)
_CARD_BRANDS = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"6(011|4[4-9]\d|5\d\d)\d{12}|3(0[0-5]|[68]\d)\d{11}|(50|5[6-9]|6[0-9])\d{14}|35(2[89]|[3-8]\d)\d{12}"
)
_ID_START = r"(?:(?<![\w-])(?<!\d[.,/])|(?<=(?i:dni|nif|nie))|(?<=(?i:dni|nif|nie)-))"
_ID_LETTER = (
    r"(?P<gap>[ -]{0,3}|[./]| ?(?P<open>\()|,? {0,2}(?i:letra):? )(?P<letter>[A-Za-z])(?(open)\))"
    r"(?!\w|-(?![A-ZÁÉÍÓÚÑ][a-zñáéíóú])\w)"
)
_DNI = re.compile(
    r"(?=[E\d])" + _ID_START
    + r"(?:ES[ -]?)?(?P<body>0{0,2}\d{8}|\d{2}[ .]\d{3}[ .]\d{3}|\d{2}-\d{3}-\d{3})" + _ID_LETTER
)
_NIE = re.compile(
    r"(?=[EXYZxyz])" + _ID_START
    + r"(?:ES[ -]?)?(?P<first>[XYZxyz])[ ./-]?0?(?P<body>\d{7}|\d[ .]\d{3}[ .]\d{3})" + _ID_LETTER
)
_ID_SAID = re.compile(
    r"(?i)(?:\bd\.?n\.?i|\bn\.?i\.?[fe]|identidad|identity)(?:\W{1,4}(?:\w{1,10}\W{1,3}){0,3})?$"
)
_CONTROL_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NUSS = re.compile(
    r"(?=\d)(?<![\w,-])(?<!\d[./])(\d{2})([ ./-]?)(\d{8}|(?<= )\d{4} \d{4}(?= ))[ ./-]?(\d{2})(?!\w|[.,/-]\d|-\w)"
)
_PHONE_LIKE = re.compile(
    r"(?=[\d(+])(?:(?<![\w#€$])(?<!\w/)(?<![^\Wa-zà-ÿ]-)(?<!\d[.,])|(?<=\d{9}[/,-])|(?<=\d{3} \d{3}[/,-])|(?<=wa\.me/)"
    r"|(?<=(?i:tel|tlf|fno))|(?<=(?i:[oó]vil|fono)))"
    r"(?:[67] \d\d \d\d \d\d \d\d|9\d{1,2}/\d{2,3}[ .]?\d\d[ .]?\d\d|"
    r"(?:\(?(?:\+|00) ?\d{1,3}\)?[ .-]?(?:\(0\)[ .-]?)?\(?\d{1,4}\)?|\(?\d{2,4}\)?)(?:(?: - |[ .-])?\d{2,4}){2,4})"
    r"(?!(?!(?:y|o|e)\b|[A-ZÁÉÍÓÚÑ][a-záéíóúñ]{2})\w|/(?!\s|[6-9]\d\d)"
    r"|[.,-](?!\d{9}(?!\d)|[679]\d\d \d{3} \d{3}(?!\d))\d)"
)
_PHONE_INSIDE = re.compile(
    r"(?:(?<![\d.,-])|(?<=\d{9}[,-])|(?<=\d{3} \d{3}[,-]))"
    r"(?:[6-9]\d{8}|[6-9]\d\d \d{3} \d{3}|[6-9]\d\d \d\d \d\d \d\d|9\d \d{3} \d\d \d\d)(?!\d)"
)
_PHONE_SAID = re.compile(
    r"(?i)(?:\bt(?:e)?l(?:f|fn|[ée]fono)?s?|tfn?o|m[óo]vil|cel(?:ular)?|wh?ats?app|fax|phone|mobile|cell|call|llam\w*|"
    r"(?:mi|su|tu) n[uú]mero)(?:\W{1,3}(?:\w{1,6}\W{1,3}){0,2}|(?<=tel|tlf|fno|vil|ono))$"
    r"|wa\.me/$"
)
_CUPS = re.compile(r"(?<!\w)ES[ ]?\d{4}(?:[ ]?\d){12}[ ]?[A-Z]{2}(?:[ ]?\d[FPRCXYZ])?(?!\w)", re.IGNORECASE)
"""A supply point of electricity or gas in Spain: a code of the meter, not of a person's account or card."""
_MONEY = re.compile(
    r"\s{0,2}(€|\$|£|eur\b|euros?\b|d[oó]lares|pesos|[kmg]?wh?\b|[kmg]?vah?\b|[kmg]?hz\b|[kmgt]?b(?:ytes)?\b|%|m3\b|m[²³]|"
    r"c[eé]ntimos|unidades|uds?\b|units|habitantes|personas|litros|toneladas|kg\b|km\b|de (?:19|20)\d\d\b)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    r"(?<!\w)(?:(?:n[uú]m(?:ero|\.)?s?|n\.?[ºo°]?\.?|n[uú]meros|c[oó]d(?:igos?|\.)?|ids?\.?|identificador|numbers?|code)"
    r"[\s:]{1,2}(?:(?:del?|of) )?(?:la |el |su )?"
    r"(?:clientes?|usuari[oa]s?|users?|customer|sesi[oó]n|session|socio|colegiad[oa]|alumn[oa]|empleado|reserva|finca)|"
    r"facturas?|invoice|contratos?|contract|pedidos?|[oó]rden(?:es)?|orders?|expedientes?|"
    r"ref(?:erencia|erence|s)?|incidencia|ticket|albar[aá]n|contador|meter|cups|lote|batch|lot|serie|serial|seguimiento|tracking|env[ií]o|shipment|"
    r"parcel|paquete|reclamaci[oó]n|claim|caso|case|p[oó]liza|policy|imei|mac|isbn|ean|sku|art[ií]culos?|barcode|"
    r"c[oó]digo de barras|operaci[oó]n|transacci[oó]n|transaction|presupuesto|quote|localizador|booking|reserva|"
    r"solicitud(?:es)?|recibos?|justificante|autorizaci[oó]n|registro(?: de (?:entrada|salida))?|"
    r"(?:parte|orden) de trabajo|ot|concepto|asiento|gu[ií]a(?: a[eé]rea)?|productos?|modelo|plano|"
    r"matr[ií]cula(?: del? alumn[oa])?|apunte|bastidor|"
    r"receipt|product|model|cat[aá]logo|remesa|n[oó]mina|acta|resoluci[oó]n|protocolo|folio|tomo)"
    r"(?:[\s.,:#=(\[]{1,3}(?:n[uú]mero|num|n[º°o]|number|no|id|code|c[oó]digo|de(?:l)?|la|el|su|tu|mi|of|is|es|the|your|was|"
    r"env[ií]o|seguimiento|tracking|pedido|order|cliente|compra|web|online|trabajo|producto))"
    r"{0,4}[\s.:#=(\[-]{0,4}(?-i:[A-Z]{1,5}[-/ ]?)?$",
    re.IGNORECASE,
)
_LIST = re.compile(r"(?:\d[\d ]{5,11}\d\s?(?:,|;|/|\b[yeo]\b|\band\b)\s{0,2}){1,20}$")
_SENTENCE_END = re.compile(r"[^\W\d_]{5,}[.!?]\s+$|(?:incidencia|reclamaci[oó]n|caso):\s{0,2}$", re.IGNORECASE)
"""What follows is not the number of what came before: `No me llega el pedido. 612345678`."""
_DOTTED = re.compile(r"[679]\d\d\.\d{3}\.(?!000)\d{3}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+(?![\d.])")
_AMOUNT_SAID = re.compile(
    r"(?i)(?:[€$£]|\b(?:importes?|total(?:es)?|sumas?|suman|cifras?|cantidad|precio|coste?|saldo|presupuesto|ingresos|ventas|"
    r"beneficios?|facturaci[oó]n|poblaci[oó]n|valor|deuda|p[eé]rdidas|inversi[oó]n|capital|unos|unas|casi|m[aá]s de|"
    r"menos de|hasta|alrededor de|cerca de|aproximadamente|eur|usd|euros|versi[oó]n|population|about|nearly|almost|"
    r"over|amount|revenue|sum|version)\b)(?:\W{1,3}(?:\w{1,6}\W{1,3}){0,2})?$"
)
_AFTER_NAME = re.compile(r"(?:^|[\s,;:(])[A-ZÁÉÍÓÚÑ][a-zà-ÿ]{1,20}-$")
_AMOUNTS = re.compile(r"(?<!\d)(?<!\d[.,])\d{3}(?: \d{3}){3,}(?!\d)")
_DIGIT = re.compile(r"\d")
_SEVEN_DIGITS = re.compile(r"\d(?:[\W_]{0,3}\d){6}")
"""What every kind but e-mail, IBAN and secrets has; most messages have not, and are done with at once."""
_UNSEEN = re.compile("[\u200b-\u200d\u2060\ufeff]")
"""Characters without width, which hide a number or an address from whoever looks for it whole."""
_PLAIN = str.maketrans(
    dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f\u3000\u200b\u2060\ufeff", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u00ad", "-")
    | {chr(0xFF01 + at): chr(0x21 + at) for at in range(94)}
)
"""Spaces, hyphens and full-width characters as they are written in mail and PDF, one for one."""
_ODD = re.compile("[" + "".join(map(chr, _PLAIN)) + "]")
_MARKS = str.maketrans("_ºª°·•\t", "    -- ")
"""Marks that stand beside a number and are no part of it: `_612345678_`, `nº612345678`, `dni_12345678Z.pdf`."""
_MARKED = re.compile("[_ºª°·•\t]")


def find(text: str) -> list[Finding]:
    """The personal data and secrets in `text`, in order, none overlapping another.

    Kinds: `secret` (keys, tokens, given passwords), `email`, `iban`, `card`, `dni`, `nie`, `nuss` (Spanish
    social security), `phone` (Spanish, British and North American, others with an international prefix). Meter
    codes (CUPS), amounts, a company's free lines (900, 902), and numbers that are called an invoice's, an order's or
    the like are none of them.
    """
    plain = text if text.isascii() or not _ODD.search(text) else text.translate(_PLAIN)
    found: list[Finding] = []
    candidates = _candidates(plain)
    if plain is not text and _UNSEEN.search(text):
        candidates = itertools.chain(_hidden(text), candidates)
    taken: bytearray | None = None  # one byte a character: as many findings as there may be, each costs its own length
    for kind, start, end in candidates:
        if taken is None:
            taken = bytearray(len(plain))
            for match in _CUPS.finditer(plain):
                taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            found.append(Finding(kind, start, end, text[start:end]))
    return sorted(found, key=lambda finding: finding.start)


def apply(
    text: str, policy: Mapping[str, Action], *, key: str = "", names: Sequence[Finding] = ()
) -> tuple[str, list[Finding]]:
    """`text` with each finding treated as `policy` says for its kind, and the findings (positions in the old
    text).

    `keep` leaves it, `mask` writes `[EMAIL]`, `hash` writes `[EMAIL:3f2a91c04b]` (HMAC-SHA256 under `key`, so
    that the same value keeps the same name and nobody without the key can try values), `drop` removes it. A
    kind the policy does not name is masked; a secret is always dropped. `names` are what a NameFinder found in the same
    text; where one overlaps another finding it gives way. Raises BadInput for an unknown kind,
    action or a missing key.
    """
    for kind, action in policy.items():
        if kind not in KINDS or action not in ("keep", "mask", "hash", "drop"):
            raise BadInput(
                f"Personal data policy {kind}: {action} is not known.",
                f"Kinds: {', '.join(KINDS)}. Actions: keep, mask, hash, drop.",
            )
    if "hash" in policy.values() and not key:
        raise BadInput("Hashing personal data needs a key.", "Set BUCLE_PERSONAL_KEY in the environment.")
    findings = _joined(find(text), names) if names else find(text)
    pieces, at = [], 0
    for finding in findings:
        action = "drop" if finding.kind == "secret" else policy.get(finding.kind, "mask")
        pieces.append(text[at : finding.start])
        if action == "keep":
            pieces.append(finding.text)
        elif action == "mask":
            pieces.append(f"[{finding.kind.upper()}]")
        elif action == "hash":
            plain = re.sub(r"[\s.()-]+", "", finding.text).lower() if finding.kind != "email" else finding.text.lower()
            digest = hmac.new(key.encode(), f"{finding.kind}:{plain}".encode(), hashlib.sha256).hexdigest()
            pieces.append(f"[{finding.kind.upper()}:{digest[:10]}]")
        at = finding.end
    return "".join(pieces) + text[at:], findings


def _joined(findings: list[Finding], names: Sequence[Finding]) -> list[Finding]:
    free = [one for one in names if not any(one.start < other.end and other.start < one.end for other in findings)]
    return sorted([*findings, *free], key=lambda finding: finding.start)


def _hidden(text: str) -> Iterator[tuple[str, int, int]]:
    """What is found once the characters without width are gone, where it stands in `text`."""
    places = [at for at, char in enumerate(text) if not _UNSEEN.match(char)]
    for kind, start, end in _candidates("".join([text[at] for at in places]).translate(_PLAIN)):
        yield kind, places[start], places[end - 1] + 1


def _candidates(text: str) -> Iterator[tuple[str, int, int]]:
    for start, end in find_secrets(text):
        yield "secret", start, end
    if "@" in text or "%40" in text or "&#" in text or "&commat;" in text:
        for match in _EMAIL.finditer(text):
            start, end = match.span()
            if _FILES.search(match[0]) or _GIT.match(match[0]):
                continue
            if match[0].startswith("git@") and _GIT_PATH.match(text, end):
                continue
            yield "email", start + (text[start] == "_" == text[end : end + 1]), end
    lower = text.lower()
    if "arroba" in lower or ("dot" in lower and "at" in lower):
        for match in _SPELT.finditer(text):
            yield "email", *match.span()
    if not _DIGIT.search(text):
        return
    bare = text.translate(_MARKS) if _MARKED.search(text) else text
    for match in _IBAN.finditer(bare):
        if end := _iban_end(match[1]):
            yield "iban", match.start(), match.start() + end
    if not _SEVEN_DIGITS.search(text):
        return
    for match in _IBAN_LOOSE.finditer(bare):
        if end := _iban_end(match[1]):
            yield "iban", match.start(), match.start() + end
    for match in _CARD.finditer(bare):
        digits = _digits(match[0])
        if _CARD_BRANDS.fullmatch(digits) and _luhn(digits) and not _is_reference(text, match.start()):
            yield "card", *match.span()
    for match in _DNI.finditer(bare):
        if _is_control(_digits(match["body"]), match["letter"]) and _letter_belongs(text, bare, match):
            yield "dni", *match.span()
    for match in _NIE.finditer(bare):
        whole = str("XYZ".index(match["first"].upper())) + _digits(match["body"])
        if _is_control(whole, match["letter"]) and _letter_belongs(text, bare, match):
            yield "nie", *match.span()
    for match in _NUSS.finditer(bare):
        if _is_nuss(match[1], _digits(match[3]), match[4]) and not _is_reference(text, match.start()):
            yield "nuss", *match.span()
    yield from _phones(text, bare)


def _phones(text: str, bare: str) -> Iterator[tuple[str, int, int]]:
    ends = iter([(one.start(), one.end()) for one in _AMOUNTS.finditer(bare)])
    low, high = next(ends, (len(bare), len(bare)))
    for match in _PHONE_LIKE.finditer(bare):
        start, end = match.span()
        told = _PHONE_SAID.search(bare[max(0, start - 30) : start])
        said = bool(told and not _REFERENCE.search(told[0]))
        if (not said and _is_reference(text, start)) or _MONEY.match(text, end):
            continue
        before = bare[max(0, start - 25) : start]
        if before[-1:] == "-" and before[-2:-1].isalpha() and not _AFTER_NAME.search(before):
            continue  # `Ana-612345678`, not `articulo-612345678`
        while high <= start < len(bare):
            low, high = next(ends, (len(bare), len(bare)))
        if not said and low <= start:
            continue  # 612 634 655 701 712: amounts in a row
        if _is_phone(match[0], said or _dotted(match[0], bare, start)):
            yield "phone", start, end
            continue
        # a number beside it is no part of it: `612 345 678 2024`, `28013 612345678`
        for inner in _PHONE_INSIDE.finditer(match[0]):
            if (inner.start() == 0 or inner[0].isdigit() or match[0][inner.start() - 1] in ",-") and _is_phone(
                inner[0], said
            ):
                yield "phone", start + inner.start(), start + inner.end()


def _dotted(number: str, text: str, start: int) -> bool:
    """Whether `612.345.678` is no amount: none is named before it, and no number with thousands stands there."""
    if not _DOTTED.fullmatch(number):
        return False
    before = text[max(0, start - 200) : start]
    return not _AMOUNT_SAID.search(before[-40:]) and all(map(_DOTTED.fullmatch, _THOUSANDS.findall(before)))


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_reference(text: str, start: int) -> bool:
    """Whether the number at `start` is said to be an invoice's, an order's or the like, or stands in a list of such."""
    before = text[max(0, start - 50) : start]
    if listed := _LIST.search(text[max(0, start - 200) : start]):
        at = max(0, start - 200) + listed.start()
        before = text[max(0, at - 50) : at]
    return bool(_REFERENCE.search(before)) and not _SENTENCE_END.search(before)


def _is_control(digits: str, letter: str) -> bool:
    return _CONTROL_LETTERS[int(digits) % 23] == letter.upper()


def _letter_belongs(text: str, bare: str, match: re.Match[str]) -> bool:
    """Whether the letter is the number's own, not the next word: `12345678 y` is a number and a word."""
    if _ID_SAID.search(bare[max(0, match.start() - 40) : match.start()]):
        return True
    gap, body = match["gap"], match["body"]
    if "(" in gap or "/" in gap or (gap == "." and "." not in body and "first" not in match.groupdict()):
        return False
    if len(body) > 8 and body.isdigit():
        return False
    apart, small = gap.isspace() and bool(gap), match["letter"].islower()
    if apart and small and not ("first" in match.groupdict() and "." in body):
        return False
    return not _is_reference(text, match.start())


def _iban_end(candidate: str) -> int:
    """How many characters of `candidate` are an IBAN with a right checksum (ISO 7064 mod 97-10); 0: none."""
    length = _IBAN_LENGTHS.get(candidate[:2].upper(), 0)
    kept = ""
    for at, char in enumerate(candidate):
        kept += char.upper() if char.isalnum() else ""
        if length and len(kept) == length:
            if candidate[at + 1 : at + 2].isalnum():
                return 0
            number = "".join(str(int(one, 36)) for one in kept[4:] + kept[:4])
            return at + 1 if int(number) % 97 == 1 else 0
    return 0


def _luhn(digits: str) -> bool:
    total = sum(
        int(digit) if at % 2 == 0 else sum(divmod(2 * int(digit), 10)) for at, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0 and len(set(digits)) > 1


def _is_nuss(province: str, number: str, control: str) -> bool:
    """The control digits of a Spanish social security number: the rest modulo 97, small numbers set apart."""
    if not (1 <= int(province) <= 53 or province == "66"):
        return False
    value = int(number)
    whole = value + int(province) * 10_000_000 if value < 10_000_000 else int(province + number)
    return whole % 97 == int(control)


_MOBILE = re.compile(r"6\d{8}|7[1-48]\d{7}")
"""Spain's mobiles, which phonenumbers takes a hundred times longer to know."""
_OF_BUSINESS = (3, 4, 5, 9)
"""phonenumbers' types toll free, premium rate, shared cost and universal access: a company's line, nobody's phone."""


def _is_series(text: str) -> bool:
    """Whether numbers count up by equal steps or are all multiples of the first: `6 12 18 24 30`, `6 12 24 48 96`."""
    numbers = [int(one) for one in text.split()]
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    return len(steps) == 1 or not any(one % numbers[0] for one in numbers)


def _is_phone(text: str, said: bool = False) -> bool:
    """Whether `text` is a number that exists: Spanish, with an international prefix, or as Britain (a leading 0) and
    North America (3-3-4) write theirs. `said`: a word before it says that it is a phone."""
    import phonenumbers

    region = "ES"
    text = text.replace("(0)", "") if text.lstrip("(").startswith(("+", "00")) else text
    digits = _digits(text)
    international = text.lstrip("(").startswith(("+", "00"))
    if not international:
        if digits.endswith("000000"):
            return False  # 734 000 000 is a count
        if len(digits) == 9 or (len(digits) == 11 and digits.startswith("34")):
            if not said and re.fullmatch(r"\d{1,3}(\.\d{3})+", text) and not re.match(r"34\.[67]", text):
                return False  # 612.345.678 is how an amount is written
            if not said and re.fullmatch(r"\d(?: \d\d){4}", text) and _is_series(text):
                return False
            if _MOBILE.fullmatch(digits):
                return True
        elif re.fullmatch(r"(?:1[ .-])?(?:\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}([.-])\d{3}\1\d{4})", text) or (
            said and len(digits) == 10 and digits[0] in "23456789"
        ):
            region = "US"
        elif digits.startswith("0") and len(digits) in (10, 11) and (said or re.search(r"\d[ )-]+\d", text)):
            region = "GB"
        else:
            return False
    try:
        number = phonenumbers.parse(re.sub(r"^\(?00", "+", text) if international else text, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number)) and phonenumbers.number_type(number) not in _OF_BUSINESS
