"""Logistic regression on TF-IDF, on a frozen encoder, and on both: fitted in seconds, hard to beat.

The strength of the regularisation is chosen by cross-validation inside the training rows, so that no held-out row
takes part. All three save a vocabulary (JSON) and arrays (safetensors); nothing is pickled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Example, Prediction
from bucle.customise.classic.features import fit_tfidf, load_arrays, load_tfidf, save_arrays, save_tfidf, tfidf_matrix
from bucle.customise.timing import timed

__all__ = ["FrozenEncoder", "Hybrid", "TfidfLogistic"]

STRENGTHS = (1.0, 5.0, 20.0, 80.0, 300.0)
ENCODER_SCALE = 1.5  # weight of the encoder's block beside the two unit TF-IDF blocks in the hybrid


class _Linear:
    """What the three share: features -> multinomial logistic regression."""

    name = ""
    tfidf = False
    encoder = False

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Fits on train and validation rows together: nothing is tuned on the validation rows."""
        return self.fit_rows(ctx, [e for e in [*ctx.train, *ctx.validation] if e.target])

    def fit_rows(
        self, ctx: FitContext, rows: Sequence[Example], weights: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """Fits on `rows`, each of them labelled, with a weight each where given."""
        targets = [str(e.target) for e in rows]
        if len(set(targets)) < 2:
            raise BadInput(
                f"`{self.name}` needs at least two labels; the training rows have {len(set(targets))}.",
                "bucle explore shows the balance of labels.",
            )
        texts = [e.input for e in rows]
        blocks: list[Any] = []
        if self.tfidf:
            vectorizers = fit_tfidf(texts)
            blocks.append(tfidf_matrix(vectorizers, texts))
            save_tfidf(vectorizers, ctx.out)
        if self.encoder:
            blocks.append(_encode(ctx.encoder, texts) * (ENCODER_SCALE if self.tfidf else 1.0))
        matrix = _join(blocks)
        strength, table = self._choose(matrix, targets, ctx, weights)
        model = self._model(strength).fit(matrix, targets, sample_weight=weights)
        save_arrays(
            {"coef": model.coef_.astype("float32"), "intercept": model.intercept_.astype("float32")},
            ctx.out / "head.safetensors",
        )
        (ctx.out / "head.json").write_text(
            json.dumps({"labels": list(model.classes_), "C": strength}, ensure_ascii=False)
        )
        return {"C": strength, "cross_validated": table, "rows": len(rows)}

    def _choose(
        self, matrix: Any, targets: Sequence[str], ctx: FitContext, weights: Sequence[float] | None
    ) -> tuple[float, dict[str, float]]:
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        # Labels with fewer than three rows cannot stand in every fold; they stay in the final fit.
        counts = Counter(targets)
        keep = [i for i, t in enumerate(targets) if counts[t] >= 3]
        if len({targets[i] for i in keep}) < 2:
            return 10.0, {}
        folds = StratifiedKFold(3, shuffle=True, random_state=ctx.seed)
        weighed = None if weights is None else {"sample_weight": [weights[i] for i in keep]}
        table = {}
        for done, strength in enumerate(STRENGTHS):
            ctx.report(done, len(STRENGTHS) + 1, f"C={strength:g}")
            scores = cross_val_score(self._model(strength), matrix[keep], [targets[i] for i in keep], cv=folds,
                                     params=weighed)
            table[f"{strength:g}"] = round(float(scores.mean()), 5)
        return max(STRENGTHS, key=lambda s: (table[f"{s:g}"], -s)), table

    @staticmethod
    def _model(strength: float) -> Any:
        from sklearn.linear_model import LogisticRegression

        # newton-cg: the same optimum as the default lbfgs, 20 to 50 times sooner on these sparse, wide matrices
        return LogisticRegression(C=strength, max_iter=2000, solver="newton-cg")

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _LinearPredictor(folder, tfidf=self.tfidf, encoder=ctx.encoder if self.encoder else None)


class TfidfLogistic(_Linear):
    """TF-IDF of words and characters with logistic regression."""

    name = "tfidf"
    kinds = frozenset({"classify"})
    needs: frozenset[str] = frozenset()
    rung = 2
    baseline = True
    tfidf = True
    when = "The baseline to beat: trains in seconds, answers in under a millisecond, needs no model."
    settings: frozenset[str] = frozenset()


class FrozenEncoder(_Linear):
    """Transfer learning: a new head on a frozen sentence encoder."""

    name = "frozen-encoder"
    kinds = frozenset({"classify"})
    needs = frozenset({"encoder"})
    rung = 10
    baseline = False
    encoder = True
    when = "Few rows per label, or wording that varies more than words do; the encoder must know the language."
    settings: frozenset[str] = frozenset()


class Hybrid(_Linear):
    """A new head on TF-IDF and a frozen encoder together."""

    name = "hybrid-head"
    kinds = frozenset({"classify"})
    needs = frozenset({"encoder"})
    rung = 11
    baseline = False
    tfidf = True
    encoder = True
    when = "When words and meaning each miss rows that the other gets right."
    settings: frozenset[str] = frozenset()


class _LinearPredictor:
    def __init__(self, folder: Path, *, tfidf: bool, encoder: Path | None) -> None:
        head = json.loads((folder / "head.json").read_text())
        arrays = load_arrays(folder / "head.safetensors")
        self.labels: list[str] = head["labels"]
        self.coef, self.intercept = arrays["coef"], arrays["intercept"]
        self.vectorizers = load_tfidf(folder) if tfidf else []
        self.encoder = encoder

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        import numpy as np
        from scipy.sparse import csr_matrix
        from scipy.special import softmax

        if not inputs:
            return []
        blocks: list[Any] = [tfidf_matrix(self.vectorizers, inputs)] if self.vectorizers else []
        if self.encoder is not None:
            blocks.append(_encode(self.encoder, inputs, alone=True) * (ENCODER_SCALE if self.vectorizers else 1.0))
        # A sparse product goes row by row; a dense one gives other last digits to a row alone than to one in a batch.
        scores = np.asarray(csr_matrix(_join(blocks)) @ self.coef.T) + self.intercept
        if scores.shape[1] == 1:  # two labels: one column, as scikit-learn stores it
            scores = np.hstack([np.zeros_like(scores), scores])
        shares = softmax(scores, axis=1)
        return [Prediction(output=self.labels[row.argmax()], score=float(row.max())) for row in shares]


def _encode(folder: Path | None, texts: Sequence[str], *, alone: bool = False) -> Any:
    from bucle.models.encoder import shared_encoder

    if folder is None:
        raise BadInput(
            "This technique needs an encoder.", "Add `encoder: {kind: encoder}` under `models:` in bucle.yaml."
        )
    encoder = shared_encoder(folder)
    return encoder.embed_alone(texts) if alone else encoder.embed_array(texts)


def _join(blocks: Sequence[Any]) -> Any:
    from scipy.sparse import csr_matrix, hstack

    return blocks[0] if len(blocks) == 1 else hstack([csr_matrix(b) for b in blocks]).tocsr()
