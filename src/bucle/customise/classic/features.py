"""Text features that are stored without pickle: a vocabulary in JSON and arrays in safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["fit_tfidf", "load_arrays", "load_tfidf", "save_arrays", "save_tfidf", "tfidf_matrix"]

# Words and pairs of words; characters within words, which survive typos and Spanish endings.
_WORDS = {"ngram_range": (1, 2), "sublinear_tf": True, "strip_accents": "unicode", "lowercase": True}
_CHARS = {
    "analyzer": "char_wb",
    "ngram_range": (2, 5),
    "sublinear_tf": True,
    "strip_accents": "unicode",
    "lowercase": True,
}


def fit_tfidf(texts: Sequence[str]) -> list[Any]:
    """Two vectorizers fitted on `texts`, of words and of characters. Raises BadInput where no text holds a word."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return [TfidfVectorizer(**settings, dtype=np.float32).fit(texts) for settings in (_WORDS, _CHARS)]
    except ValueError:  # scikit-learn: empty vocabulary
        raise BadInput(
            f"None of the {len(texts)} texts holds a word of two letters.", "bucle explore shows the rows."
        ) from None


def tfidf_matrix(vectorizers: Sequence[Any], texts: Sequence[str]) -> Any:
    """`[len(texts), words + characters]` sparse; each of the two blocks has unit rows (or zeros)."""
    from scipy.sparse import csr_matrix, hstack

    if not texts:
        return csr_matrix((0, sum(len(v.vocabulary_) for v in vectorizers)), dtype="float32")
    return hstack([v.transform(texts) for v in vectorizers]).tocsr()


def save_tfidf(vectorizers: Sequence[Any], folder: Path) -> None:
    vocabularies = [{term: int(i) for term, i in v.vocabulary_.items()} for v in vectorizers]
    (folder / "vocabulary.json").write_text(json.dumps(vocabularies, ensure_ascii=False, sort_keys=True))
    save_arrays({f"idf_{i}": v.idf_ for i, v in enumerate(vectorizers)}, folder / "tfidf.safetensors")


def load_tfidf(folder: Path) -> list[Any]:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    arrays = load_arrays(folder / "tfidf.safetensors")
    vectorizers = []
    for i, (settings, vocabulary) in enumerate(
        zip((_WORDS, _CHARS), json.loads((folder / "vocabulary.json").read_text()), strict=True)
    ):
        vectorizer = TfidfVectorizer(**settings, dtype=np.float32, vocabulary=vocabulary)
        vectorizer.idf_ = arrays[f"idf_{i}"]
        vectorizers.append(vectorizer)
    return vectorizers


def save_arrays(arrays: dict[str, Any], path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))


def load_arrays(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(str(path)))
