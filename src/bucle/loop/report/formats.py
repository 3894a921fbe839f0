"""Texts and numbers in both languages at once: a page carries both, and a switch shows one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from bucle.loop.sentences import HUNDREDS

__all__ = [
    "LANGUAGES",
    "Both",
    "axis_score",
    "catalogue",
    "date",
    "duration",
    "figure",
    "metric_value",
    "ms",
    "number",
    "place",
    "points",
    "same",
    "score",
    "translator",
    "usd",
]

LANGUAGES = ("es", "en")
LOCALES = Path(__file__).parent / "locales"
NBSP, THIN = "\u00a0", "\u202f"
MONTHS = {
    "es": ["ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"],
    "en": ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"],
}
DASH = "–"
LEAST_USD = 0.0001
LEAST_MS = 0.1
COUNTS = {"rows", "errors", "shortened", "tokens"}
"""Metrics that are counts; the rest are shares in [0, 1] or means."""


@dataclass(frozen=True)
class Both:
    """The same text in Spanish and English. In a template it escapes itself."""

    es: str
    en: str

    def __html__(self) -> Markup:
        if self.es == self.en:
            return escape(self.es)
        return Markup('<span lang="es">{}</span><span lang="en">{}</span>').format(self.es, self.en)

    def __str__(self) -> str:
        return str(self.__html__())

    def __bool__(self) -> bool:
        return bool(self.es or self.en)

    def __add__(self, other: Both | str) -> Both:
        return (
            Both(self.es + other, self.en + other)
            if isinstance(other, str)
            else Both(self.es + other.es, self.en + other.en)
        )


def same(text: Any) -> Both:
    return text if isinstance(text, Both) else Both(str(text), str(text))


@cache
def catalogue(folder: Path = LOCALES) -> dict[str, Both]:
    """Every key of `folder`/es.json and en.json. A key that either lacks is an error."""
    es, en = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in LANGUAGES)
    if es.keys() != en.keys():
        raise KeyError(f"locales differ in: {sorted(es.keys() ^ en.keys())}")
    return {key: Both(es[key], en[key]) for key in es}


def translator(*folders: Path) -> Callable[..., Both]:
    """`t(key, **values)`: the text of `key` with `{values}` filled in, each in its language.

    `t` raises KeyError for a key that no catalogue has, unless `default` is given.
    """
    texts: dict[str, Both] = {}
    for folder in folders or (LOCALES,):
        texts |= catalogue(folder)

    def t(key: str, default: Any = None, **values: Any) -> Both:
        if default is not None and key not in texts:
            return same(default)
        text = texts[key]
        if not values:
            return text
        pairs = {name: same(value) for name, value in values.items()}
        return Both(
            text.es.format_map({k: v.es for k, v in pairs.items()}),
            text.en.format_map({k: v.en for k, v in pairs.items()}),
        )

    return t


def number(value: float | None, digits: int = 0, sign: bool = False) -> Both:
    """`1 234,5` and `1,234.5`; a dash for None."""
    if value is None:
        return same(DASH)
    value = round(float(value), digits) + 0.0
    english = f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")
    whole, _, rest = english.partition(".")
    spanish = whole.replace(",", THIN if abs(value) >= 10_000 else "")
    return Both(f"{spanish},{rest}" if rest else spanish, english)


def _is_share(value: float) -> bool:
    return abs(value) <= 1.0 + 1e-9


def figure(value: float | None, digits: int = 1) -> Both:
    """A metric: a share in [0, 1] as a percentage, anything else as it is."""
    if value is None:
        return same(DASH)
    if not _is_share(value):
        return number(value, 2)
    text = number(100 * value, digits)
    return Both(f"{text.es}{NBSP}%", f"{text.en}%")


def points(value: float | None, unit: bool = False, digits: int = 1) -> Both:
    """A difference of two metrics, in percentage points, always with its sign."""
    if value is None:
        return same(DASH)
    text = number(100 * value, digits, sign=True) if _is_share(value) else number(value, 2, sign=True)
    return Both(f"{text.es} puntos", f"{text.en} points") if unit else text


def ms(value: float | None) -> Both:
    """Milliseconds, or seconds from 1,000 up."""
    if value is None:
        return same(DASH)
    if value >= 1000:
        return number(value / 1000, 1) + f"{NBSP}s"
    if 0 < value < LEAST_MS:
        return same("< ") + ms(LEAST_MS)
    return number(value, 0 if value >= 10 else 1 if value >= LEAST_MS else 0) + f"{NBSP}ms"


def metric_value(value: float | None, name: str) -> Both:
    """A candidate's figure by its name: a count (tokens: to the nearest one), dollars, BLEU and chrF of the corpus from
    0 to 100, a share as a percentage."""
    if name == "usd":
        return usd(value)
    if name in HUNDREDS:
        return number(value, 1)
    return number(value) if name in COUNTS else figure(value)


def score(value: float | None, metric: str = "", digits: int = 1) -> Both:
    """What a comparison decides by, a `value` in [0, 1]: from 0 to 100 for BLEU and chrF, else a percentage."""
    return number(None if value is None else 100 * value, digits) if metric in HUNDREDS else figure(value, digits)


def axis_score(value: float, metric: str = "") -> Both:
    """`score` for a tick, which may lie beyond 0 or 1 by a hair."""
    text = number(100 * value)
    return text if metric in HUNDREDS else Both(f"{text.es}{NBSP}%", f"{text.en}%")


def duration(seconds: float | None) -> Both:
    if seconds is None:
        return same(DASH)
    if 0 < seconds < 0.05:
        return Both(f"< 0,1{NBSP}s", f"< 0.1{NBSP}s")
    if seconds < 60:
        return number(seconds, 1 if seconds < 10 else 0) + f"{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    return same(f"{minutes}{NBSP}min {rest:02d}{NBSP}s")


def usd(value: float | None) -> Both:
    """US dollars; small sums keep two significant digits, and a price is never rounded to nothing."""
    if value is None:
        return same(DASH)
    if 0 < value < LEAST_USD:
        return same("< ") + usd(LEAST_USD)
    digits = 2
    while 0 < abs(value) < 10 ** (1 - digits):
        digits += 1
    text = number(value, digits if value else 0)
    return Both(f"{text.es}{NBSP}US$", f"${text.en}")


def parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def date(text: str, time: bool = False) -> Both:
    """`21 nov 2026` and `Nov 21, 2026`; the text itself where it is no ISO 8601 date."""
    at = parse_time(text)
    if at is None:
        return same(text or DASH)
    clock = f" {at:%H:%M}" if time else ""
    month = at.month - 1
    return Both(
        f"{at.day}{NBSP}{MONTHS['es'][month]} {at.year}{clock}",
        f"{MONTHS['en'][month]}{NBSP}{at.day}, {at.year}{clock}",
    )


PLACES = {
    "page": "página", "section": "apartado", "sheet": "hoja", "slide": "diapositiva", "line": "línea", "rows": "filas",
    "date": "fecha", "header": "cabecera", "body": "cuerpo", "attachment": "adjunto",
}
"""The words of a citation's place, as the parsers write it."""


def place(text: str) -> Both:
    """Where a passage stands (`guide.pdf page 3`), in both languages."""
    spanish = re.sub(rf"(?<= )({'|'.join(PLACES)})(?= |$)", lambda m: PLACES[m[1]], text, count=1)
    return Both(spanish, text)


def day(at: datetime) -> Both:
    """`21 nov` and `Nov 21`, for an axis."""
    month = at.month - 1
    return Both(f"{at.day} {MONTHS['es'][month]}", f"{MONTHS['en'][month]} {at.day}")
