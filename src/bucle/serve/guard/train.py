"""Train the packaged classifier of injections and abuse from our own templates: `python -m bucle.serve.guard.train`.

Writes `classifier.safetensors` and its report, `classifier.json`, beside this file. The same seed and templates give
the same weights. A minute, one core; scikit-learn fits, numpy alone is needed to use what it wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucle.monitor.injection import fold
from bucle.serve.guard.classifier import BITS, CATEGORIES, MODEL, WINDOW, features

__all__ = ["Text", "expand", "main", "texts"]

TEMPLATES = Path(__file__).with_name("templates.txt")
FOLDS = 3
HARMLESS = "harmless"
MORE = 3
"""Texts of a harmless template for each of another: most of what comes is harmless, in more ways than can be listed."""
FLAGGED = {"injection": 0.003}
RARELY = 0.001
"""The share of harmless validation texts that score 0.5 or more (injection, each other category): where the middle of
the classifier is put."""
PIECES = 6000
"""Pieces of our own prose among the harmless texts, of 20 to 600 characters."""


class Text(NamedTuple):
    """A text, its category and the line of the template that its category comes from."""

    text: str
    category: str
    template: int


def expand(template: str, slots: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    """One text of `template`: `{slot}` and `(a|b)` are drawn until none is left; `\\(` is a parenthesis."""
    text = template.replace(r"\(", "\0").replace(r"\)", "\1").replace(r"\?", "?")
    while True:
        inner = re.search(r"\{(\w+)\}|\(([^()]*)\)", text)
        if inner is None:
            return " ".join(text.replace("\0", "(").replace("\1", ")").replace("  ", " ").split())
        chosen = draw.choice(slots[inner[1]]) if inner[1] else draw.choice(inner[2].split("|"))
        text = text[: inner.start()] + chosen + text[inner.end() :]


def texts(seed: int, each: int = 40, path: Path = TEMPLATES) -> list[Text]:
    """`each` texts of every template, two thirds alone and the others among harmless ones, some with typing errors."""
    draw = random.Random(seed)
    slots: dict[str, list[str]] = {}
    rows: list[tuple[str, str]] = []
    label = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("@"):
            name, _, values = line[1:].partition(" = ")
            slots[name] = re.split(r"\|(?![^()]*\))", values)
        elif line.startswith("["):
            if line.rstrip("]")[1:] in (*CATEGORIES, HARMLESS):
                label = line[1:].rstrip("]")
        elif line and not line.startswith("#"):
            rows.append((label, line))
    plain = [line for category, line in rows if category == HARMLESS]
    found = []
    for at, (category, line) in enumerate(rows):
        for _ in range(each * (MORE if category == HARMLESS else 1)):
            parts = [expand(line, slots, draw)]
            if draw.random() < 1 / 3:
                around = [expand(draw.choice(plain), slots, draw) for _ in range(draw.choice((1, 1, 2, 3, 5)))]
                if category != HARMLESS and draw.random() < 0.4:
                    same = [other for kind, other in rows if kind == category]
                    around += [expand(draw.choice(same), slots, draw) for _ in range(draw.choice((1, 2, 3)))]
                parts += around
                draw.shuffle(parts)
            text = draw.choice((" ", ". ", "\n")).join(parts)
            found.append(Text(_mistyped(text, draw) if draw.random() < 0.15 else text, category, at))
    return found


def prose(files: Sequence[Path], seed: int, pieces: int = PIECES) -> list[Text]:
    """`pieces` of the sentences of `files`, harmless; each file counts as one template."""
    draw = random.Random(seed)
    found = []
    sentences = [re.split(r"(?<=[.:?!|])\s+|\n+", file.read_text("utf-8")) for file in files]
    weights = [len(one) for one in sentences]
    for _ in range(pieces if files else 0):
        at = draw.choices(range(len(files)), weights)[0]
        start = draw.randrange(len(sentences[at]))
        text = " ".join(sentences[at][start : start + draw.choice((1, 1, 2, 4, 8))])[:WINDOW]
        found.append(Text(text, HARMLESS, -1 - at))
    return found


def _mistyped(text: str, draw: random.Random) -> str:
    letters = list(text)
    for _ in range(max(1, len(letters) // 40)):
        at = draw.randrange(len(letters))
        letters[at] = draw.choice(("", letters[at] * 2, letters[at - 1]))
    return "".join(letters)


def _matrix(rows: Sequence[Text]) -> Any:
    from scipy.sparse import csr_matrix

    found = [features(fold(row.text)[:WINDOW]) for row in rows]
    ends = np.cumsum([0, *map(len, found)])
    values = np.concatenate([np.full(len(one), 1 / np.sqrt(max(1, len(one)))) for one in found])
    return csr_matrix((values, np.concatenate(found), ends), shape=(len(rows), 1 << BITS))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--out", type=Path, default=MODEL)
    asked.add_argument("--strength", type=float, default=8.0, help="C of the logistic regression")
    asked.add_argument("--prose", type=Path, nargs="*", default=_own_prose(), help="more harmless texts")
    given = asked.parse_args()
    rows = texts(given.seed) + prose(given.prose, given.seed)
    x, groups = _matrix(rows), np.array([row.template for row in rows])
    labels = np.array([row.category for row in rows])
    tables, biases, told = [], [], {}
    for category in CATEGORIES:
        held = _held_out(x, labels == category, groups, given.strength, given.seed)
        flagged = FLAGGED.get(category, RARELY)
        middle = float(np.quantile(held[labels == HARMLESS], 1 - flagged))
        model = _fit(x, labels == category, given.strength, given.seed)
        tables.append(model.coef_[0])
        biases.append(float(model.intercept_[0]) - middle)
        told[category] = _told(held, labels, category, middle, flagged)
        print(category, told[category], flush=True)
    table = np.stack(tables, axis=1)
    scale = np.abs(table).max(axis=0) / 127
    small = np.rint(table / scale).astype(np.int8)
    _write(given.out, small, scale.astype(np.float32), np.array(biases, dtype=np.float32))
    facts = {"seed": given.seed, "strength": given.strength, "texts": len(rows), "templates": int(groups.max()) + 1,
             "prose": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in given.prose},
             "templates_sha256": hashlib.sha256(TEMPLATES.read_bytes()).hexdigest(),
             "sha256": hashlib.sha256(given.out.read_bytes()).hexdigest(),
             "bytes": given.out.stat().st_size, "validation": {"folds": FOLDS, "by": "template", **told}}
    given.out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def _own_prose() -> list[Path]:
    """What the project itself says, in a checkout: the example's documents in Spanish, the manual in English."""
    root = Path(__file__).parents[4]
    return sorted([*root.glob("examples/soporte/_gen/textos/docs/*.txt"), *root.glob("docs/*.md")])


def _fit(x: Any, is_it: NDArray[np.bool_], strength: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", solver="liblinear", tol=1e-2,
                              random_state=seed).fit(x, is_it)


def _held_out(x: Any, is_it: NDArray[np.bool_], groups: NDArray[np.int64], strength: float, seed: int
              ) -> NDArray[np.float64]:
    """Logits of every text from a model that never saw its template."""
    from sklearn.model_selection import GroupKFold

    held = np.zeros(len(is_it))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(x, is_it, groups):
        held[test] = _fit(x[train], is_it[train], strength, seed).decision_function(x[test])
    return held


def _told(held: NDArray[np.float64], labels: NDArray[np.str_], category: str, middle: float,
          flagged: float) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    kept = (labels == category) | (labels == HARMLESS)
    auc = roc_auc_score(labels[kept] == category, held[kept])
    return {"texts": int((labels == category).sum()), "auc": round(float(auc), 4), "false_positive_rate": flagged,
            "recall": round(float((held[labels == category] >= middle).mean()), 4)}


def _write(path: Path, table: NDArray[np.int8], scale: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    save_file({"table": table, "scale": scale, "bias": bias}, path, {"categories": " ".join(CATEGORIES)})


if __name__ == "__main__":
    main()
