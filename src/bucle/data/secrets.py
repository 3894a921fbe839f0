"""Secrets in text: keys and tokens by their providers' published forms, private keys, passwords that are given away."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_secrets"]

_KEY_BEGIN = r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_KEY_END = r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(
    rf"{_KEY_BEGIN}(?:(?:(?!-----)[\s\S]){{20,16000}}{_KEY_END}|[A-Za-z0-9+/=\s\\:,-]{{20,16000}}"
    r"|[\s\\rn]{0,8}(?:MI|MC|b3Bl|lQ)[A-Za-z0-9+/=]{4,20})"
)
"""A block cut off before its end is one too, as far as its letters go; a short one by how keys begin."""
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    + "|".join(
        (
            r"bk_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",  # Bucle (ledger/keys.py)
            r"sk-(?:ant-|proj-|or-|svcacct-|admin-)?[A-Za-z0-9_-]{20,250}",  # OpenAI, Anthropic, OpenRouter
            r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,80}",  # Stripe
            r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![A-Za-z0-9])",  # AWS
            r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255}",
            r"gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt)-[\w.-]{20,80}",  # GitLab
            r"xox[abeoprs](?:\.xox[abp])?-[\w-]{10,250}|xapp-\d-[\w-]{20,250}",  # Slack
            r"AIza[\w-]{35}(?![\w-])|ya29\.[\w-]{20,250}|GOCSPX-[\w-]{20,40}",  # Google
            r"hf_[A-Za-z0-9]{30,60}|gsk_[A-Za-z0-9]{40,60}|r8_[A-Za-z0-9]{37}",
            r"xai-[A-Za-z0-9]{60,90}|pplx-[A-Za-z0-9]{40,60}",
            r"SG\.[\w-]{16,32}\.[\w-]{32,64}|SK[0-9a-f]{32}(?!\w)|key-[0-9a-f]{32}(?!\w)",  # SendGrid, Twilio, Mailgun
            r"npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{40,250}|dop_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}|hvs\.[\w-]{24,120}",
            r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w-]{22,43}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,50}",
            r"\d{8,10}:AA[\w-]{33}(?![\w-])",  # Telegram
            r"eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}",  # JSON Web Token
        )
    )
    + ")"
)
_WEBHOOK = re.compile(
    r"https://(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/[\w/-]{20,200}"
)
_CONNECTION = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/@\"'<>]{0,80}:(?P<value>[^\s/@\"'<>]{2,200})@(?=[\w\[])"
)
_HEADER = re.compile(r"(?i)\b(?:bearer|basic)\s+(?P<value>[A-Za-z0-9+/=._~-]{16,2000})")
_SAID = r"(?:(?:pg)?passw(?:or)?d|passphrase|pwd|contrase[nñ]a)"
_ASSIGNED = re.compile(
    r"(?i)(?<![^\W_])(?P<word>(?:api[ _-]?key|secret(?:[ _-]?(?:access[ _-]?)?key)?|"
    r"(?:access|account|private|shared[ _-]?access)[ _-]?key|"
    rf"(?:access|auth|refresh|bot)[ _-]?token|token|{_SAID}|pass|clave|"
    r"(?P<named>(?:[a-z0-9]{2,20}_){1,3}keys?)|(?:[a-z0-9]{2,20}_){1,3}secret))"
    r"(?:(?P<joined>[\"'`]?\s{0,3}(?::=|=>|[:=→])\s{0,3})|(?P<cell>\s{0,9}\|\s{0,9})|>(?=[^\s<]{6,250}</)|"
    r"(?P<words>(?:\s+[^\W\d_]{1,14}){0,3}?)\s*(?::|→|\s(?:es|is|era|was|ser[aá]|será|will\s+be)\s*:?)\s*)"
    r"(?P<quote>[\"'`]?)(?P<value>[^\s\"'`,;<>|]{6,250})"
)
_BESIDE = re.compile(
    rf"(?i)(?<![^\W_]){_SAID}(?:\s+(?:temporal|nueva|antigua|inicial|actual|provisional|new|old))?\s+(?P<quote>[\"'`]?)(?P<value>[^\s\"'`,;<>|:=]{{6,60}})"
)
"""`usuario ana contraseña Verano2026!`: nothing stands between the word and what looks like nothing but a password."""
_CLAVE_OF = re.compile(
    r"(?i)\b(?:acceso|wi-?fi|red|router|usuari[oa]|sesi[oó]n|correo|cuenta|api|servidor|portal|web|admin\w*|app|"
    r"temporal|nueva|secreta|privada|personal|inicial|provisional|provisoria|maestra|vpn|ftp|ssh|root)\b"
)
_CLAVE_OTHER = re.compile(
    r"(?i)\b(?:palabras?|catastral(?:es)?|[ée]xito|art[ií]culo|producto|foral|registral|tributaria|fiscal)\b"
)
_COMMAND = re.compile(
    r"(?i)\bcurl\b[^\n|]{0,200}?\s(?:-u|--user)[ =]?[\"']?[^\s:\"']{1,80}:(?P<value>[^\s\"'@]{4,200})"
)
_SIGNATURE = re.compile(r"(?i)(?<=[?&])sig=(?P<value>[A-Za-z0-9%+/=_-]{10,200})")
_WORDS = ("key", "secret", "token", "pass", "pwd", "contrase", "clave", "bearer", "basic")
LONG = 15
_LONG = re.compile(rf"[\w-]{{{LONG}}}|SG\.")
_PLACEHOLDER = re.compile(
    r"(?i)^(?:[$%{\[(<*.•_-]|x{3,}|https?:|\W*$|(?:your|tu|my|mi)[-_])|[({]|^[\w.]*[a-z_]{3}\[|^(?:example|changeme|placeholder)"
)
_KEY_VALUE = re.compile(r"(?=.*\d)[A-Za-z0-9+/=~.-]{16,250}")
"""Of `OPENAI_KEY=…` such values are keys; `primary_key=id_cliente_2` is none."""
_RULE = re.compile(r"(?i)^m[ií]n(?:imo)?\.?\d|^[A-Z]{2,5}-[RHE]S\d{3}$|^\w?\d{1,2}(?:caracteres|characters|d[ií]gitos)")
"""`Contraseña: mínimo8caracteres`, `Token: JWT-RS256`."""


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where secrets stand in `text`: (start, end) of the value itself, in no order, possibly overlapping.

    Known tokens and private keys whole; of a connection string (`postgres://user:password@host`), a header and an
    assignment (`password = …`, `la clave del wifi es …`) the password. A value counts as one where it mixes kinds of
    characters as words do not: words after `contraseña:` are none.
    """
    if "-----BEGIN" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield match.span()
    if (max(map(len, text.split()), default=0) >= LONG or "SG." in text) and _LONG.search(text):
        for match in _TOKENS.finditer(text):
            yield match.span()
        if "://" in text:
            for match in _WEBHOOK.finditer(text):
                yield match.span()
    if "://" in text and "@" in text:
        for match in _CONNECTION.finditer(text):
            if not _PLACEHOLDER.search(match["value"]) and match["value"].lower() not in ("password", "pass", "pwd"):
                yield match.span("value")
    folded = text.casefold()
    if any(word in folded for word in _WORDS):
        for match in _HEADER.finditer(text):
            if _mixed(match["value"]):
                yield match.span("value")
        for match in _assigned(text):
            value = match["value"].rstrip(".)]}?!" if not match["quote"] else "")
            if match["named"] and not _KEY_VALUE.fullmatch(value):
                continue
            if match["word"].lower() == "pass" and not (_looks_made_up(value) or match["quote"]):
                continue
            if _is_given(value, bool(match["joined"] and "=" in match["joined"]) or bool(match["quote"])):
                end = match.start("value") + len(value)
                # an exclamation mark may well be the password's own; a full stop is the sentence's
                yield match.start("value"), end + (text[end : end + 1] in ("!", "?"))
        for match in _BESIDE.finditer(text):
            value = match["value"].rstrip(".)]}?" if not match["quote"] else "")
            if _looks_made_up(value) and _is_given(value, False):
                yield match.start("value"), match.start("value") + len(value)
    if "curl" in text:
        for match in _COMMAND.finditer(text):
            if not _PLACEHOLDER.search(match["value"]):
                yield match.span("value")
    if "sig=" in text:
        for match in _SIGNATURE.finditer(text):
            yield match.span("value")


def _assigned(text: str) -> Iterator[re.Match[str]]:
    """What is assigned, also behind a word that turned out to be none: `la clave mi contraseña es …`."""
    match = _ASSIGNED.search(text)
    while match is not None:
        said = match["word"].lower() != "clave" or _is_clave(text, match)
        if said:
            yield match
        match = _ASSIGNED.search(text, match.end() if said else match.end("word"))


def _is_clave(text: str, match: re.Match[str]) -> bool:
    """Whether `clave` is a password's: of a wifi, an account, or said of a value that only a password looks like; not
    `palabra clave`, `clave catastral`, `la clave del éxito`."""
    around = text[max(0, match.start() - 12) : match.start("value")]
    if _CLAVE_OTHER.search(around) or re.match(r"art\.|\d{4}-\d\d-\d\d", match["value"]):
        return False
    return bool(_CLAVE_OF.search(around)) or not (match["words"] or "").strip()


def _looks_made_up(value: str) -> bool:
    """Whether no word is written so: small letters, a digit and a mark, or a capital and four digits."""
    small, capital = re.search(r"[a-zñ]", value), re.search(r"[A-ZÑ]", value)
    other = re.search(r"[!#$%&*+?@^~=]", value) or (capital and re.search(r"[^\W_]_[^\W_]", value))
    return bool(re.search(r"\d", value) and small and (other or (capital and len(re.findall(r"\d", value)) > 3)))


def _is_given(value: str, assigned: bool) -> bool:
    """Whether `value` is a password or key, not a word: a letter and a digit, or, where it is `assigned` as in code,
    two kinds of characters."""
    if "://" in value or value.startswith("//") or _RULE.search(value):
        return False
    if _PLACEHOLDER.search(value) or "@" in value[1:-1].partition("@")[2]:
        return False
    if len(value) >= 8 and _mixed(value):
        return True
    kinds = sum(bool(re.search(kind, value)) for kind in (r"[a-zñ]", r"[A-ZÑ]", r"\d", r"[^\w.:/\\]"))
    return assigned and len(value) >= 6 and kinds >= 2


def _mixed(value: str) -> bool:
    return bool(re.search(r"\d", value) and re.search(r"[^\W\d_]", value))
