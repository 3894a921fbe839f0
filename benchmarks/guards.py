"""What the guards cost and what they catch: latency of each by length, recall and false positives on real texts.

    python benchmarks/guards.py [--quick] [--json] [--data FOLDER] [--also LABEL=FILE ...]

Latency of each default guard and of all together, on texts that no cache has seen. Quality of the injection guard
beside its two halves (the phrasings of monitor/injection.py, the classifier), with 95% intervals (Wilson): recall on
real prompt injections, false positives on Spanish requests, questions in two languages, support messages, instructions,
and on hard ones written by hand. `--also attack=FILE` or `--also harmless=FILE` adds texts (JSON list, JSONL with
`text`, or lines). FOLDER is where the data of design/README.md lie; what is not there is left out and said so. Fails
where all default guards together take 150 us or more for 250 harmless characters, 50 ms for 32,000, or flag more than 2
in 100 harmless texts.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shared import ROOT, report
from sklearn.metrics import roc_auc_score

from bucle.core.serving import Guards
from bucle.evaluate.statistics import wilson
from bucle.monitor.injection import suspicion
from bucle.serve.guard import GuardSet, classifier, look
from bucle.serve.guard.scorers import abuse, injection

LIMIT_US, LIMIT_LONG_MS, LIMIT_FLAGGED = 150.0, 50.0, 0.02
ES = ("Hola, buenas tardes. Les escribo porque en la última factura aparece un importe que no entiendo y me gustaría "
      "que alguien me explicara de dónde sale, ya que no he cambiado de tarifa ni he consumido más que otros meses. ")
EN = ("Good afternoon. I am writing because on the invoice of 12 March there is an amount of 45.60 that I do not "
      "understand, and I would like somebody to explain where it comes from: I have not changed my tariff. ")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--quick", action="store_true", help="fewer repetitions")
    asked.add_argument("--json", action="store_true", help="one JSON object on standard output")
    asked.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    asked.add_argument("--also", action="append", default=[], metavar="LABEL=FILE")
    given = asked.parse_args()
    took = latency(200 if given.quick else 1000)
    attacks, harmless, abusive, absent = gathered(given.data, given.also)
    told = quality(attacks, harmless)
    told["abuse"] = {name: _share([abuse(text)[0] >= 0.5 for text in texts])
                     for name, texts in {**abusive, **harmless}.items()}
    short = max(took["all"][f"{kind} 250"]["p50_us"] for kind in ("es", "en"))
    long = took["all"]["es 32000"]["p99_us"] / 1000
    flagged = told["rates"]["both"]["harmless, all"]["value"]
    if not given.json:
        _print(took, told, absent)
    report("guards", ours=short, peer=None, ratio=None, target=f"< {LIMIT_US:.0f}", unit="us, 250 characters, all",
           packages=("numpy",), latency=took, quality=told, absent=absent)
    if short >= LIMIT_US or long >= LIMIT_LONG_MS or flagged > LIMIT_FLAGGED:
        raise SystemExit(f"over a limit: {short:.0f} us, {long:.0f} ms for 32,000 characters, {flagged:.2%} flagged")


def latency(times: int) -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds of each guard and all, p50 and p99, by language and length."""
    guards, fussy = GuardSet(Guards()), GuardSet(Guards(languages=("es", "en")))
    around = look.Around()
    accepted = look.language(("es", "en"))
    parts: Mapping[str, Callable[[str], Any]] = {
        "personal data and secrets": lambda text: look.personal(text, around),
        "injection": injection, "abuse": abuse, "language": lambda text: accepted(text, around),
        "all": guards.check_input, "all and language": fussy.check_input,
        "all, stored too": lambda text: (guards.check_input(text), guards.stored(text)),
    }
    took: dict[str, dict[str, dict[str, float]]] = {}
    for kind, text in (("es", ES), ("en", EN)):
        for length in (50, 250, 1000, 8000, 32000):
            if kind == "en" and length != 250:
                continue
            for name, run in parts.items():
                spent = []
                for at in range(max(20, times * 250 // max(length, 250))):
                    own = f"{at} {text * (length // len(text) + 1)}"[:length]  # a text that nothing remembers
                    look.forget()
                    began = time.perf_counter()
                    run(own)
                    spent.append((time.perf_counter() - began) * 1e6)
                took.setdefault(name, {})[f"{kind} {length}"] = {
                    "p50_us": round(statistics.median(spent), 1), "p99_us": round(float(np.quantile(spent, 0.99)), 1)}
    return took


def gathered(data: Path, also: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[str]],
                                                       dict[str, list[str]], list[str]]:
    """Attacks, harmless texts and abuse by where they come from, and what is not there."""
    attacks: dict[str, list[str]] = {}
    harmless: dict[str, list[str]] = {
        "hard, by hand": _lines(ROOT / "benchmarks" / "guards_hard.txt"),
        "support messages (es)": _column(ROOT / "examples" / "soporte" / "data" / "mensajes.tsv", "texto")}
    abusive: dict[str, list[str]] = {}
    absent = []
    for name, path, into, read in (
        ("injections (en)", data / "injections" / "prompt_injections.csv", attacks,
         lambda p: _column(p, "prompt", ",")),
        ("requests (es)", data / "intents-es" / "eval.tsv", harmless, lambda p: [x.split("\t")[-1] for x in _lines(p)]),
        ("questions (es)", data / "xquad" / "xquad.es.json", harmless, _questions),
        ("questions (en)", data / "xquad" / "xquad.en.json", harmless, _questions),
        ("paragraphs (es)", data / "xquad" / "xquad.es.json", harmless, _paragraphs),
        ("paragraphs (en)", data / "xquad" / "xquad.en.json", harmless, _paragraphs),
        ("instructions (en)", data / "preferences" / "alpaca_en_demo.json", harmless, _instructions),
    ):
        if path.exists():
            into[name] = read(path)
        else:
            absent.append(str(path))
    for one in also:
        label, _, file = one.partition("=")
        into = {"attack": attacks, "harmless": harmless, "abuse": abusive}[label]
        into[Path(file).stem] = _any(Path(file))
    return attacks, harmless, abusive, absent


def quality(attacks: Mapping[str, Sequence[str]], harmless: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Flagged shares at 0.5 of each set by each scorer, AUC, and recall where 0.5% and 1% of the harmless are flagged.
    """
    scorers: Mapping[str, Callable[[str], float]] = {
        "phrasings": lambda text: suspicion(text)[0],
        "classifier": lambda text: classifier.scores(text)["injection"],
        "both": lambda text: injection(text)[0],
    }
    rates: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for name, scorer in scorers.items():
        found = {of: np.array([scorer(text) for text in texts]) for of, texts in {**attacks, **harmless}.items()}
        calm = np.concatenate([found[of] for of in harmless])
        rates[name] = {of: _share(list(scored >= 0.5)) for of, scored in found.items()}
        rates[name]["harmless, all"] = _share(list(calm >= 0.5))
        for of in attacks:
            point = {"auc": round(float(roc_auc_score([1] * len(found[of]) + [0] * len(calm),
                                                      np.concatenate([found[of], calm]))), 4)}
            for rate in (0.005, 0.01):
                bar = float(np.quantile(calm, 1 - rate, method="higher"))
                point[f"recall at {rate:.1%}"] = round(float((found[of] > bar).mean()), 4)
            curves.setdefault(name, {})[of] = point
    return {"rates": rates, "curves": curves}


def _share(hits: Sequence[bool]) -> dict[str, float]:
    share = float(np.mean(hits))
    low, high = wilson(share, len(hits), 0.95)
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4), "n": len(hits)}


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("# ")]


def _column(path: Path, column: str, by: str = "\t") -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row[column] for row in csv.DictReader(file, delimiter=by)]


def _questions(path: Path) -> list[str]:
    articles = json.loads(path.read_text("utf-8"))["data"]
    return [q["question"] for a in articles for p in a["paragraphs"] for q in p["qas"]]


def _paragraphs(path: Path) -> list[str]:
    return [p["context"] for a in json.loads(path.read_text("utf-8"))["data"] for p in a["paragraphs"]]


def _instructions(path: Path) -> list[str]:
    return [f"{row['instruction']} {row.get('input') or ''}".strip() for row in json.loads(path.read_text("utf-8"))]


def _any(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        return [str(one) for one in json.loads(text)]
    return [json.loads(x)["text"] if path.suffix == ".jsonl" else x for x in text.splitlines() if x.strip()]


def _print(took: Mapping[str, Any], told: Mapping[str, Any], absent: Sequence[str]) -> None:
    for name, by_length in took.items():
        print(f"{name:27}", *(f"{of}: {t['p50_us']:.0f} / {t['p99_us']:.0f}" for of, t in by_length.items()), sep="  ")
    print("(p50 / p99 in microseconds)\n")
    for name, rates in told["rates"].items():
        for of, s in rates.items():
            print(f"{name:11} {of:28} {s['value']:7.2%}  [{s['low']:.2%}, {s['high']:.2%}]  of {s['n']}")
        print(name, json.dumps(told["curves"].get(name, {})))
    for of, s in told["abuse"].items():
        print(f"abuse       {of:28} {s['value']:7.2%}  [{s['low']:.2%}, {s['high']:.2%}]  of {s['n']}")
    for path in absent:
        print("not there, so not measured:", path)


if __name__ == "__main__":
    main()
