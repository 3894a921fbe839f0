"""Retrieval and quoting on public questions: does the fused search beat words alone and meaning alone?

    python benchmarks/retrieval.py [--data es=FILE --data en=FILE] [--json]

Files are in SQuAD's format. Every paragraph is a document; a question's right one is its own. Everything that is fitted
is fitted on questions about other articles (cross-fitting: articles are dealt into folds), so every question is held
out once. Intervals are 95%, clustered by article; differences are paired. Ends with 2 where a file is not there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import ROOT, report

DATA = ROOT.parent / "shared" / "data" / "xquad"
SEARCHES = ("bm25", "dense", "hybrid-search")
ANSWERS = ("quote", "retrieve")
MEASURES = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")
TIMED = 60  # questions asked one by one


@dataclass(frozen=True)
class Asked:
    question: str
    paragraph: str
    article: str
    answers: tuple[str, ...]


def read(path: Path, language: str) -> tuple[list[Any], list[Asked]]:
    from bucle.core.records import Chunk

    chunks, asked = [], []
    for a, article in enumerate(json.loads(path.read_text("utf-8"))["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            name = f"{a:03d}-{p:03d}.md"
            chunks.append(Chunk(id=f"chunk:{name}", document_id=name, path=name, text=paragraph["context"],
                                language=language))
            for one in paragraph["qas"]:
                said = tuple(dict.fromkeys(answer["text"] for answer in one.get("answers", ())))
                if said:
                    asked.append(Asked(one["question"], name, f"{a:03d}", said))
    if not asked:
        raise SystemExit(f"{path} holds no question with an answer")
    return chunks, asked


def example(n: int, one: Asked) -> Any:
    from bucle.core.records import Example

    return Example(id=str(n), input=one.question, target=one.answers[0], document=one.paragraph)


def ranked(found: Sequence[str], right: str) -> dict[str, float]:
    rank = found.index(right) + 1 if right in found else 0
    return {
        **{f"recall@{k}": float(0 < rank <= k) for k in (1, 5, 10)},
        "mrr": 1 / rank if rank else 0.0,
        "ndcg@10": 1 / math.log2(rank + 1) if 0 < rank <= 10 else 0.0,
    }


def measure(path: Path, language: str, *, folds: int, seed: int, encoder: Path) -> dict[str, Any]:
    from bucle.core.ports import FitContext, LoadContext
    from bucle.customise.overlap import exact_match, token_f1
    from bucle.customise.registry import technique
    from bucle.customise.retrieve import build_index

    def quiet(done: int, total: int, note: str = "") -> None:
        pass

    chunks, asked = read(path, language)
    articles = sorted({one.article for one in asked})
    random.Random(seed).shuffle(articles)
    fold = {article: i % folds for i, article in enumerate(articles)}
    rows: dict[str, dict[str, list[float]]] = {}
    fitted: dict[str, list[Any]] = {}
    ms: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        index = Path(made) / "index"
        index.mkdir()
        build_index(chunks, index, encoder=encoder, language=language, report=quiet)
        for name in (*SEARCHES, *ANSWERS):
            t, kind = technique(name), "retrieve" if name in SEARCHES else "answer"
            scores: dict[int, dict[str, float]] = {}
            for out in range(folds):
                train = [example(n, one) for n, one in enumerate(asked) if fold[one.article] != out]
                held = [n for n, one in enumerate(asked) if fold[one.article] == out]
                folder = Path(made) / f"{name}-{out}"
                folder.mkdir()
                shared: dict[str, Any] = {"labels": (), "params": {"language": language}, "seed": seed, "index": index,
                                          "encoder": encoder, "kind": kind}
                figures = t.fit(FitContext(out=folder, work=folder, train=train, validation=(), report=quiet, **shared))
                fitted.setdefault(name, []).append(
                    {key: figures[key] for key in ("weights", "chosen", "mrr", "fusion", "weight", "second",
                                                   "threshold") if key in figures})
                predictor = t.load(folder, LoadContext(**shared))
                for n, said in zip(held, predictor.predict([asked[n].question for n in held]), strict=True):
                    one = asked[n]
                    if kind == "retrieve":
                        scores[n] = ranked(said.output.splitlines(), one.paragraph)
                    else:
                        scores[n] = {
                            "exact_match": max(exact_match(said.output, a) for a in one.answers),
                            "f1": max(token_f1(said.output, a) for a in one.answers),
                            "holds_answer": float(any(a in said.output for a in one.answers)),
                            "cites_right": float(f"chunk:{one.paragraph}" in said.citations),
                            "abstained": float(said.abstained),
                        }
                for n in held[: TIMED // folds]:
                    began = time.perf_counter()
                    predictor.predict([asked[n].question])
                    ms.setdefault(name, []).append((time.perf_counter() - began) * 1000)
            measures = next(iter(scores.values()))
            rows[name] = {m: [scores[n][m] for n in range(len(asked))] for m in measures}
    return summary(rows, asked, fitted, ms) | {"paragraphs": len(chunks), "questions": len(asked),
                                               "articles": len(articles), "folds": folds}


def summary(
    rows: Mapping[str, Mapping[str, Sequence[float]]], asked: Sequence[Asked], fitted: Mapping[str, Any],
    ms: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    from bucle.evaluate.statistics import interval, paired_difference

    clusters = {"article": [one.article for one in asked], "paragraph": [one.paragraph for one in asked]}

    def told(found: Any) -> dict[str, float]:
        return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}

    means = {
        name: {m: told(interval(values, clusters=clusters["article"])) for m, values in of.items()}
        for name, of in rows.items()
    }
    differences = {
        f"hybrid-search - {other}": {
            m: {by: told(paired_difference(rows["hybrid-search"][m], rows[other][m], clusters=names))
                for by, names in clusters.items()}
            for m in MEASURES
        }
        for other in ("bm25", "dense")
    }
    return {"means": means, "differences": differences, "fitted": fitted,
            "ms": {name: round(sorted(times)[len(times) // 2], 1) for name, times in ms.items()}}


def table(language: str, found: Mapping[str, Any]) -> str:
    def cell(one: Mapping[str, float], sign: str = "") -> str:
        return f"{one['value']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"

    lines = [f"{language}: {found['questions']} questions, {found['paragraphs']} paragraphs, {found['articles']} "
             f"articles, {found['folds']} folds", "", "| | " + " | ".join(MEASURES) + " | ms |", "|---" * 7 + "|"]
    for name in SEARCHES:
        cells = " | ".join(cell(found["means"][name][m]) for m in MEASURES)
        lines.append(f"| {name} | {cells} | {found['ms'][name]:g} |")
    for pair, of in found["differences"].items():
        lines.append(f"| {pair} | " + " | ".join(cell(of[m]["article"], "+") for m in MEASURES) + " | |")
    shown = ("exact_match", "f1", "holds_answer", "cites_right")
    lines += ["", "| | " + " | ".join(shown) + " | ms |", "|---" * 6 + "|"]
    for name in ANSWERS:
        cells = " | ".join(cell(found["means"][name][m]) for m in shown)
        lines.append(f"| {name} | {cells} | {found['ms'][name]:g} |")
    weights = ("; ".join(", ".join(f"{name} {weight:.2f}" for name, weight in fold["weights"].items())
                         for fold in found["fitted"]["hybrid-search"]))
    pairs = "; ".join(f"{pair} MRR {cell(of['mrr']['paragraph'], '+')}" for pair, of in found["differences"].items())
    return "\n".join([*lines, "", f"Fitted weights, fold by fold: {weights}.", "",
                      f"Clustered by paragraph instead: {pairs}.", "",
                      f"No gain beyond doubt: {', '.join(undecided(found)) or 'none'}."])


def undecided(found: Mapping[str, Any]) -> list[str]:
    """The differences whose interval, clustered by article, does not lie above 0."""
    return [f"{measure} of {pair}" for pair, of in found["differences"].items() for measure, by in of.items()
            if by["article"]["low"] <= 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="LANGUAGE=FILE", help="SQuAD's format")
    parser.add_argument("--encoder", default="minilm", help="a sentence-transformers folder")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="the first language only")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args()
    if odd := [pair for pair in given.data if "=" not in pair]:
        parser.error(f"--data {odd[0]}: write LANGUAGE=FILE")
    files = dict(pair.split("=", 1) for pair in given.data) if given.data else {
        language: str(DATA / f"xquad.{language}.json") for language in ("es", "en")
    }
    absent = {language: name for language, name in files.items() if not Path(name).is_file()}
    for language, name in absent.items():
        print(f"{name} is not there: give --data {language}=FILE, in SQuAD's format", file=sys.stderr)
    if absent:
        sys.exit(2)
    from bucle.models.encoder import encoder_folder

    folds = max(2, given.folds)
    began = time.perf_counter()
    shared: dict[str, Any] = {"folds": folds, "seed": given.seed, "encoder": encoder_folder(given.encoder)}
    found = {language: measure(Path(name), language, **shared)
             for language, name in list(files.items())[: 1 if given.quick else None]}
    if not given.json:
        print("\n\n".join(table(language, one) for language, one in found.items()))
        return
    gains = [of["mrr"]["article"] for one in found.values() for of in one["differences"].values()]
    report("retrieval", ours=min(g["value"] for g in gains), peer=0.0, ratio=None, unit="difference of MRR, the least",
           target="in each language, the paired interval of MRR of hybrid-search minus bm25 and minus dense above 0",
           packages=["lancedb"], mrr_met=all(g["low"] > 0 for g in gains),
           undecided={language: undecided(one) for language, one in found.items()},
           seconds=round(time.perf_counter() - began, 1), languages=found)


if __name__ == "__main__":
    main()
