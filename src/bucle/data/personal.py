"""Finding personal data and secrets in text, and keeping, masking, hashing or dropping them by kind.

Kinds with check digits (IBAN, card, DNI and NIE, social security number) are found only where the digits are
right.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bucle.core.errors import BadInput

__all__ = ["KINDS", "Action", "Finding", "apply", "find"]

Action = Literal["keep", "mask", "hash", "drop"]
KINDS = ("secret", "email", "iban", "card", "dni", "nie", "nuss", "phone")
"""In the order in which they claim a piece of text: no two findings overlap."""


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
    "AD": 24,
    "AE": 23,
    "AT": 20,
    "BE": 16,
    "BG": 22,
    "CH": 21,
    "CY": 28,
    "CZ": 24,
    "DE": 22,
    "DK": 18,
    "EE": 20,
    "ES": 24,
    "FI": 18,
    "FR": 27,
    "GB": 22,
    "GI": 23,
    "GR": 27,
    "HR": 21,
    "HU": 28,
    "IE": 22,
    "IS": 26,
    "IT": 27,
    "LI": 21,
    "LT": 20,
    "LU": 20,
    "LV": 21,
    "MC": 27,
    "MT": 31,
    "NL": 18,
    "NO": 15,
    "PL": 28,
    "PT": 25,
    "RO": 24,
    "SE": 24,
    "SI": 19,
    "SK": 24,
    "SM": 27,
    "TR": 26,
}
"""Characters of an IBAN by country (ISO 13616 registry: Europe and neighbours)."""
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,5}[a-zA-Z]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![\w])[A-Za-z]{2}\d{2}(?:[ -]?[0-9A-Za-z]){11,30}")
_CARD = re.compile(r"(?<![\w.,/-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -]?)\d{6}\2\d{4,5})(?![\w/-]|[.,]\d)")
_CARD_BRANDS = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|"
    r"6(011|4[4-9]\d|5\d\d)\d{12}|3(0[0-5]|[68]\d)\d{11}|(50|5[6-9]|6[0-9])\d{14}|35(2[89]|[3-8]\d)\d{12}"
)
_DNI = re.compile(r"(?<![\w.,/-])(\d{8}|\d{2}\.\d{3}\.\d{3})[ -]?([A-Za-z])(?![\w])")
_NIE = re.compile(r"(?<![\w.,/-])([XYZxyz])[ -]?(\d{7}|\d\.\d{3}\.\d{3})[ -]?([A-Za-z])(?![\w])")
_CONTROL_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_NUSS = re.compile(r"(?<![\w.,/-])(\d{2})([ /-]?)(\d{8})\2(\d{2})(?![\w/-]|[.,]\d)")
_PHONE_LIKE = re.compile(
    r"(?<![\w.,/#€$-])(?:(?:\+|00)\d{1,3}[ .-]?)?\(?\d{2,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\w/]|[.,-]\d)"
)
_CUPS = re.compile(r"(?<!\w)ES[ ]?\d{4}(?:[ ]?\d){12}[ ]?[A-Z]{2}(?:[ ]?\d[FPRCXYZ])?(?!\w)", re.IGNORECASE)
"""A supply point of electricity or gas in Spain: a code of the meter, not of a person's account or card."""
_MONEY = re.compile(r"\s{0,2}(€|\$|£|eur\b|euros?\b|kwh\b|kw\b|w\b|%|m3\b|m³|céntimos|unidades)", re.IGNORECASE)
_REFERENCE = re.compile(
    r"(factura|invoice|contrato|contract|pedido|order|expediente|referencia|ref|incidencia|ticket|albar[aá]n|contador|"
    r"cups|lote|serie|n[ºo°]? de cliente|"
    r"seguimiento|tracking|reclamaci[oó]n|caso|p[oó]liza|imei|mac|isbn|ean)\s*"
    r"(n[uú]mero|num|n[º°o]|number|no|#)?\s*\.?\s*[:#=]?\s*(?:[A-Z]{1,5}[-/]?)?$",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{20,8000}?-----END [A-Z ]{0,30}PRIVATE KEY-----",
            r"(?<![\w-])sk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,200}",
            r"(?<!\w)[sr]k_(?:live|test)_[A-Za-z0-9]{16,120}",
            r"(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)",
            r"(?<!\w)gh[pousr]_[A-Za-z0-9]{36,255}",
            r"(?<!\w)github_pat_\w{22,255}",
            r"(?<!\w)glpat-[\w-]{20,60}",
            r"(?<!\w)xox[abprs]-[\w-]{10,200}",
            r"(?<!\w)AIza[\w-]{35}",
            r"(?<!\w)hf_[A-Za-z0-9]{30,60}",
            r"(?<!\w)eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}",
        )
    )
)
_ASSIGNED = re.compile(
    r"(?i:\b(?:api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?token|"
    r"auth[ _-]?token|token|password|passwd|contraseña))"
    r"(?:\s*[:=]\s*|\s+(?:es|is)\s*:?\s+)[\"'`]?(?P<value>[^\s\"'`,;<>]{8,200})"
)


def find(text: str) -> list[Finding]:
    """The personal data and secrets in `text`, in order, none overlapping another.

    Kinds: `secret` (keys, tokens, given passwords), `email`, `iban`, `card`, `dni`, `nie`, `nuss` (Spanish
    social security), `phone` (Spanish, or international with a prefix). Meter codes (CUPS), amounts, and
    numbers that are called an invoice's, an order's or the like are none of them.
    """
    taken = bytearray(len(text))  # one byte a character: as many findings as there may be, each costs its own length
    for match in _CUPS.finditer(text):
        taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    found: list[Finding] = []
    for kind, start, end in _candidates(text):
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            found.append(Finding(kind, start, end, text[start:end]))
    return sorted(found, key=lambda finding: finding.start)


def apply(text: str, policy: Mapping[str, Action], *, key: str = "") -> tuple[str, list[Finding]]:
    """`text` with each finding treated as `policy` says for its kind, and the findings (positions in the old
    text).

    `keep` leaves it, `mask` writes `[EMAIL]`, `hash` writes `[EMAIL:3f2a91c04b]` (HMAC-SHA256 under `key`, so
    that the same value keeps the same name and nobody without the key can try values), `drop` removes it. A
    kind the policy does not name is masked; a secret is always dropped. Raises BadInput for an unknown kind,
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
    findings = find(text)
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


def _candidates(text: str) -> Iterator[tuple[str, int, int]]:
    for match in _SECRETS.finditer(text):
        yield "secret", *match.span()
    for match in _ASSIGNED.finditer(text):
        value = match["value"].rstrip(".)")
        if re.search(r"\d", value) and re.search(r"[^\W\d]", value) and "@" not in value[1:-1].partition("@")[2]:
            yield "secret", match.start("value"), match.start("value") + len(value)
    for match in _EMAIL.finditer(text):
        yield "email", *match.span()
    for match in _IBAN.finditer(text):
        end = _iban_end(match[0])
        if end:
            yield "iban", match.start(), match.start() + end
    for match in _CARD.finditer(text):
        if (
            _CARD_BRANDS.fullmatch(_digits(match[0]))
            and _luhn(_digits(match[0]))
            and not _is_reference(text, match.start())
        ):
            yield "card", *match.span()
    for match in _DNI.finditer(text):
        if _CONTROL_LETTERS[int(_digits(match[1])) % 23] == match[2].upper():
            yield "dni", *match.span()
    for match in _NIE.finditer(text):
        if _CONTROL_LETTERS[int(str("XYZ".index(match[1].upper())) + _digits(match[2])) % 23] == match[3].upper():
            yield "nie", *match.span()
    for match in _NUSS.finditer(text):
        if _is_nuss(match[1], match[3], match[4]) and not _is_reference(text, match.start()):
            yield "nuss", *match.span()
    for match in _PHONE_LIKE.finditer(text):
        if not _is_reference(text, match.start()) and not _MONEY.match(text, match.end()) and _is_phone(match[0]):
            yield "phone", *match.span()


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_reference(text: str, start: int) -> bool:
    """Whether the number at `start` is said to be an invoice's, an order's or the like."""
    return bool(_REFERENCE.search(text[max(0, start - 40) : start]))


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


def _is_phone(text: str) -> bool:
    import phonenumbers

    international = text.lstrip("(").startswith(("+", "00"))
    digits = _digits(text)
    if not international and len(digits) != 9 and not (len(digits) == 11 and digits.startswith("34")):
        return False
    if not international and re.fullmatch(r"\d{1,3}(\.\d{3})+", text):
        return False  # 612.345.678 is how an amount is written
    try:
        number = phonenumbers.parse(re.sub(r"^00", "+", text) if international else text, "ES")
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))
