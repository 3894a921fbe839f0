"""Which texts are nearly the same, by MinHash and locality-sensitive hashing, each pair then measured
exactly.

Broder, "On the resemblance and containment of documents" (1997); Indyk and Motwani, "Approximate nearest
neighbors" (STOC 1998). Exact duplicates never enter the hashing: they are grouped by their text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = ["exact_duplicates", "near_duplicates", "normal_form", "similarity"]

SHINGLE = 5
PERMUTATIONS = 128
_SEED = 1
_RECALL_MARGIN = 0.15
"""The hashing looks this far below the threshold, so that few pairs at the threshold are missed."""


def normal_form(text: str) -> str:
    """`text` without case, accents, punctuation and runs of space: what two copies have in common."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return " ".join(re.findall(r"\w+", plain))


def similarity(a: str, b: str) -> float:
    """Jaccard similarity in [0, 1] of the texts' sets of five-character shingles, in normal form."""
    return _jaccard(_shingles(normal_form(a)), _shingles(normal_form(b)))


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups (two members at least, ascending) of texts with the same normal form. Empty texts are in no
    group.
    """
    return _groups([normal_form(text) for text in texts])


def near_duplicates(texts: Sequence[str], threshold: float = 0.85) -> list[list[int]]:
    """Groups of texts joined by chains of pairs whose similarity is at least `threshold`. The same for the
    same texts.

    Each group is ascending and the groups go by their first member; exact duplicates are in them. Hashing may
    miss a pair (at the threshold, fewer than 1 in 1,000 by its own formula); it never adds one.
    """
    forms = [normal_form(text) for text in texts]
    first = {form: index for index, form in reversed(list(enumerate(forms))) if form}
    unique = sorted(first.values())
    parent = {index: index for index in unique}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    if len(unique) > 1 and threshold < 1:
        from datasketch import MinHash, MinHashLSH

        shingles = {index: _shingles(forms[index]) for index in unique}
        hashing = MinHashLSH(threshold=max(0.1, threshold - _RECALL_MARGIN), num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        hashes = MinHash.generator(
            ([shingle.encode() for shingle in shingles[index]] for index in unique),
            num_perm=PERMUTATIONS,
            seed=_SEED,
        )
        for index, minhash in zip(unique, hashes, strict=True):
            for other in hashing.query(minhash):
                if root(other) != root(index) and _jaccard(shingles[index], shingles[other]) >= threshold:
                    parent[max(root(other), root(index))] = min(root(other), root(index))
            hashing.insert(index, minhash)
    return _groups([str(root(first[form])) if form else "" for form in forms])


def _groups(names: Sequence[str]) -> list[list[int]]:
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if name:
            members.setdefault(name, []).append(index)
    return [group for group in members.values() if len(group) > 1]


def _shingles(form: str) -> set[str]:
    return {form[at : at + SHINGLE] for at in range(max(1, len(form) - SHINGLE + 1))}


def _jaccard(a: set[str], b: set[str]) -> float:
    if min(len(a), len(b)) == 0:
        return 0.0
    common = len(a & b)
    return common / (len(a) + len(b) - common)
