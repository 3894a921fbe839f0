"""Whether a text that is nearly another's copy says something of its own: a name, a number in words, a word."""

from __future__ import annotations

import itertools
import re
import unicodedata

__all__ = ["says_more"]

_WORD = re.compile(r"[^\W\d_]+")
_NAME = re.compile(r"(?<=[\w,;)] )[A-ZÁÉÍÓÚÜÑÇÀÈÒ][^\W\d_]*")
"""A capital that does not begin a sentence."""
_NUMBERS = frozenset(
    re.findall(
        r"\w+",
        "cero uno una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince veinte treinta "
        "cuarenta cincuenta sesenta setenta ochenta noventa cien ciento cientos mil millon millones medio media doble "
        "triple primero segundo tercero primer tercer cuarto quinto zero one two three four five six seven eight nine "
        "ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half first "
        "second third lunes martes miercoles jueves viernes sabado domingo enero febrero marzo abril mayo junio julio "
        "agosto septiembre octubre noviembre diciembre sin con no ni nunca not without never",
    )
)
"""Words that one letter makes another (sesenta, setenta), or that turn a sentence round: they are compared exactly."""
_LEAST = 4
_SHORT_NAME = 6
"""Names up to here are compared exactly: Luis is not Luisa."""


def says_more(text: str, other: str) -> bool:
    """Whether `text` has a word that `other` has not: a number in words, a name (a capital inside a sentence), or any
    word of four letters or more that is not one of the other's with one letter wrong, nor split or joined otherwise."""
    mine, theirs = _words(text), _words(other)
    known = set(theirs)
    new = {word for word in mine if word not in known and (len(word) >= _LEAST or word in _NUMBERS)}
    names = {_plain(name) for name in _NAME.findall(text)} - known
    if new & _NUMBERS:
        return True
    if not new and not names:
        return False
    joined, pairs = "".join(theirs), set()
    for first, second in itertools.pairwise(mine):
        if first + second in known:
            pairs |= {first, second}
    left = [word for word in new | names if word not in pairs and not (len(word) > 2 * _LEAST and word in joined)]
    return any((word in names and len(word) < _SHORT_NAME) or not _mistyped(word, known) for word in left)


def _words(text: str) -> list[str]:
    return [_plain(word) for word in _WORD.findall(text)]


def _plain(word: str) -> str:
    word = word.casefold()
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))


def _mistyped(word: str, known: set[str]) -> bool:
    """Whether `word` is one of `known` with one letter changed, added, left out, or two neighbours swapped."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for at in range(len(word) + 1):
        start, end = word[:at], word[at:]
        if end and (start + end[1:] in known or (len(end) > 1 and start + end[1] + end[0] + end[2:] in known)):
            return True
        if any(start + one + end in known or (end and start + one + end[1:] in known) for one in letters):
            return True
    return False
