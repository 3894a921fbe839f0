"""MinHash signatures of many texts at once, and the band keys under which alike ones meet.

Broder, "On the resemblance and containment of documents" (1997); Indyk and Motwani, "Approximate nearest neighbors"
(STOC 1998). Shingles are hashed in numpy, `rensa` takes the minima.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Bands",
    "band_keys",
    "bands_for",
    "batches",
    "digest",
    "jaccard",
    "normal_form",
    "normal_forms",
    "shingles",
    "signatures",
]

SHINGLE = 5
BATCH_CHARACTERS = 1_000_000
_BATCH_ROWS = 8_192
_PIECE = 1_000_000
_PERMUTATIONS = 80
_MISSED = 1e-4
"""The share of pairs exactly at the threshold that the bands may miss."""
_SEED = 1
_FEW = 32
_GAPS = re.compile(r"[^\w\n]+")
_ASCII = bytes(code if code == 10 or chr(code).isalnum() or chr(code) == "_" else 32 for code in range(256))
Bands = tuple[int, int]
"""How many bands, and how many minima each has."""


def normal_form(text: str) -> str:
    """`text` without case, accents, punctuation and runs of space: what two copies have in common."""
    return normal_forms([text])[0]


def normal_forms(texts: Sequence[str]) -> list[str]:
    """The normal form of each text; one pass over all of them."""
    if not texts:
        return []
    plain = "\n".join(text.replace("\n", " ") for text in texts)
    if plain.isascii():
        plain = plain.lower()
    else:
        plain = unicodedata.normalize("NFKD", plain.casefold())
        foreign = [char for char in set(plain) if not char.isascii()]
        gone = {char: "" if unicodedata.combining(char) else " " for char in foreign if not _is_word(char)}
        if len(gone) > _FEW:
            plain = plain.translate({ord(char): instead for char, instead in gone.items()})
        else:
            for char, instead in gone.items():
                plain = plain.replace(char, instead)
    if not plain.isascii():
        return [form.strip(" ") for form in _GAPS.sub(" ", plain).split("\n")]
    data = plain.encode().translate(_ASCII)  # what most text comes to, several times as fast
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.replace(b"\n ", b"\n").replace(b" \n", b"\n").strip(b" ").decode().split("\n")


def _is_word(char: str) -> bool:
    """Whether a character beyond ASCII belongs to a word (`\\w` means the same there)."""
    return char.isalnum() and not unicodedata.combining(char)


def batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The texts' normal forms in batches that bound memory, each with the place of its first."""
    at = 0
    while at < len(texts):
        end, size = at, 0
        while end < len(texts) and end - at < _BATCH_ROWS and (end == at or size + len(texts[end]) < BATCH_CHARACTERS):
            size += len(texts[end])
            end += 1
        yield at, normal_forms(texts[at:end])
        at = end


def digest(form: str) -> bytes:
    """16 bytes that stand for a normal form."""
    return hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(form: str) -> set[str]:
    """The five-character pieces of a normal form; a shorter one is its own only piece."""
    return {form[at : at + SHINGLE] for at in range(max(1, len(form) - SHINGLE + 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared pieces by all pieces, in [0, 1]."""
    common = len(a & b)
    return common / (len(a) + len(b) - common) if common else 0.0


def bands_for(threshold: float) -> Bands:
    """The most selective bands that miss fewer than 1 in 10,000 pairs at `threshold` (by `1 - (1 - t^r)^b`)."""
    import math

    best = (_PERMUTATIONS, 1)
    for rows in range(1, 17):
        bands = math.ceil(math.log(_MISSED) / math.log1p(-(min(threshold, 0.99) ** rows)))
        if bands * rows <= _PERMUTATIONS:
            best = (bands, rows)
    return best


def signatures(forms: Sequence[str], size: int) -> NDArray[np.uint32]:
    """`[len(forms), size]` minima, one row a form: the share in which two rows agree estimates their Jaccard
    similarity."""
    import numpy as np
    from rensa import RMinHash

    if not forms:
        return np.zeros((0, size), np.uint32)
    padded = [form if len(form) >= SHINGLE else form.ljust(SHINGLE, "\0") for form in forms]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    hashes = _shingle_hashes("".join(padded))
    ends = np.cumsum(lengths)
    keep = np.ones(len(hashes), bool)
    for back in range(1, SHINGLE):  # a shingle that runs into the next text is none
        keep[ends[:-1] - back] = False
    offsets = np.zeros(len(padded) + 1, np.uint64)
    offsets[1:] = np.cumsum(lengths - SHINGLE + 1)
    minima = RMinHash.digest_matrix_from_flat_token_hashes(hashes[keep], offsets, size, _SEED)
    return np.array(minima.to_rows(), dtype=np.uint32)


def band_keys(minima: NDArray[np.uint32], bands: Bands) -> NDArray[np.uint32]:
    """`[bands, rows]` keys of 32 bits: rows with the same key in a band agree in all of its minima (or, once in
    4 billion, do not)."""
    import numpy as np

    count, rows = bands
    cut = minima[:, : count * rows].reshape(len(minima), count, rows).astype(np.uint64)
    key = np.zeros((len(minima), count), np.uint64)
    for column in range(rows):
        key = (key ^ cut[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return np.ascontiguousarray((key >> np.uint64(32)).astype(np.uint32).T)


def _shingle_hashes(text: str) -> NDArray[np.uint64]:
    """A hash of 64 bits for the shingle that begins at each character (the last four have none)."""
    import numpy as np

    factors = np.random.default_rng(_SEED).integers(1, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(text) - SHINGLE + 1, np.uint64)
    for at in range(0, len(hashes), _PIECE):
        piece = text[at : at + _PIECE + SHINGLE - 1]
        codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        size = len(codes) - SHINGLE + 1
        out = codes[:size] * factors[0]
        for place in range(1, SHINGLE):
            out += codes[place : place + size] * factors[place]
        out ^= out >> np.uint64(32)
        out *= np.uint64(0xD6E8FEB86659FD93)
        out ^= out >> np.uint64(32)
        hashes[at : at + size] = out
    return hashes
