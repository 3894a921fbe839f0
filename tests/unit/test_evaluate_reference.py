"""Every metric against its reference library, on the same inputs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bucle.core.errors import BadInput, ConfigError
from bucle.core.records import Interval
from bucle.evaluate.metrics import Metric, Sample, measure, metric, metrics, own_metric, pass_at_k
from bucle.evaluate.resample import score_differences, score_intervals

WORDS = [
    *("el", "la", "casa", "de", "año", "un", "niño", "factura", "pagar", "mes", "en", "que", ",", ".", "y", "treinta"),
    *("días", "3,5", "€", "móvil", "Ñandú", "don't", "U.S.A.", "naïve", "北京", "😀", "e\u0301l", "--", "(", ")", '"'),
    *("1.250,50", "x"),
]


def texts(rows: int, seed: int, most: int = 1, longest: int = 25) -> list[Sample]:
    """Rows with 1 to `most` references, empty texts among them; outputs share words with their references."""
    rng, found = random.Random(seed), []
    for _ in range(rows):
        gold = [" ".join(rng.choices(WORDS, k=rng.randint(0, longest))) for _ in range(rng.randint(1, most))]
        said = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in gold[0].split(" ")]
        found.append(Sample(output=" ".join(said[: rng.randint(0, longest)]), references=gold))
    return found


def streams(samples: list[Sample]) -> list[list[str | None]]:
    most = max(len(one.references) for one in samples)
    return [[one.references[i] if i < len(one.references) else None for one in samples] for i in range(most)]


@pytest.mark.parametrize(("rows", "most"), [(400, 1), (300, 3), (1, 1), (2, 2), (3, 1)])
def test_bleu_and_chrf_are_sacrebleus(rows: int, most: int) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    for seed in range(1 if rows > 10 else 60):
        samples = texts(rows, seed, most)
        found, outputs, gold = measure(["bleu", "chrf"], samples), [one.output for one in samples], streams(samples)
        for name, scorer, by_row in (
            ("bleu", BLEU(force=True), BLEU(effective_order=True)),
            ("chrf", CHRF(), CHRF()),
        ):
            assert found[name].value == pytest.approx(scorer.corpus_score(outputs, gold).score, abs=1e-6)
            assert found[name].signature.endswith(str(scorer.get_signature()))
            rowed = [by_row.sentence_score(one.output, list(one.references)).score for one in samples]
            assert found[name].per_row == pytest.approx(rowed, abs=1e-6)


def test_a_resample_of_sums_is_the_score_of_the_resampled_texts() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    samples, rng = texts(60, 1), np.random.default_rng(0)
    found = measure(["bleu", "chrf"], samples)
    for _ in range(20):
        drawn = rng.integers(0, 60, 60)
        outputs, gold = [samples[i].output for i in drawn], [[samples[i].references[0] for i in drawn]]
        for name, scorer in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
            statistics = found[name].statistics
            again = float(statistics.combine(statistics.table[drawn].sum(axis=0)))
            assert again == pytest.approx(scorer.corpus_score(outputs, gold).score, abs=1e-6)


@pytest.mark.parametrize("most", [1, 3])
def test_rouge_is_rouge_scores(most: int) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    samples, kinds = texts(400, 2, most), ["rouge1", "rouge2", "rougeL"]
    found, theirs = measure(kinds, samples), RougeScorer(kinds)
    reference = [theirs.score_multi(list(one.references), one.output) for one in samples]
    for kind in kinds:
        assert found[kind].per_row == pytest.approx([one[kind].fmeasure for one in reference], abs=1e-6)
        assert found[kind].value == pytest.approx(np.mean([one[kind].fmeasure for one in reference]), abs=1e-6)


def test_rouge_of_whole_words_knows_spanish() -> None:
    sample = [Sample(output="El año", references=["un ano"]), Sample(output="EL AÑO", references=["el año"])]
    found = measure(["rouge1", "rouge1_words"], sample)
    assert found["rouge1_words"].per_row == [0.0, 1.0]
    assert found["rouge1"].per_row[0] == 0.0
    assert found["rouge1"].signature != found["rouge1_words"].signature


def test_retrieval_is_trec_evals_and_scikit_learns() -> None:
    import pytrec_eval
    from sklearn.metrics import ndcg_score

    rng, samples = random.Random(3), []
    for _ in range(80):
        ids = [f"d{i}" for i in range(30)]
        relevant = {name: float(rng.randint(1, 3)) for name in rng.sample(ids, rng.randint(1, 8))}
        samples.append(Sample(ranking=rng.sample(ids, rng.randint(0, 25)), relevant=relevant))
    found = measure(["recall@5", "recall@10", "mrr", "ndcg@10", "ndcg@30"], samples)
    judged = {str(i): {name: int(gain) for name, gain in one.relevant.items()} for i, one in enumerate(samples)}
    run = {str(i): {name: 1.0 / (1 + place) for place, name in enumerate(one.ranking)}
           for i, one in enumerate(samples)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"recall.5,10", "recip_rank", "ndcg_cut.10,30"}).evaluate(run)
    for ours, name in (("recall@5", "recall_5"), ("recall@10", "recall_10"), ("mrr", "recip_rank"),
                       ("ndcg@10", "ndcg_cut_10"), ("ndcg@30", "ndcg_cut_30")):
        wanted = [theirs.get(str(i), {}).get(name, 0.0) for i in range(len(samples))]
        assert found[ours].per_row == pytest.approx(wanted, abs=1e-6)
    full = Sample(ranking=[f"d{i}" for i in range(30)], relevant=samples[0].relevant)
    gains = [[full.relevant.get(f"d{i}", 0.0) for i in range(30)]]
    assert measure(["ndcg@10"], [full])["ndcg@10"].value == pytest.approx(
        ndcg_score(gains, [list(range(30, 0, -1))], k=10), abs=1e-6)


def test_calibration_perplexity_and_code() -> None:
    from math import comb

    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(4)
    right, sure = (rng.random(200) < 0.7).astype(float), rng.random(200)
    samples = [Sample(correct=float(a), confidence=float(b)) for a, b in zip(right, sure, strict=True)]
    found = measure(["ece", "brier", "accuracy"], samples)
    assert found["brier"].value == pytest.approx(brier_score_loss(right, sure), abs=1e-6)
    ece = 0.0  # bin by bin, as Guo et al. write it
    for low in np.arange(0, 1, 0.1):
        inside = (sure >= low) & (sure < low + 0.1)
        ece += inside.mean() * abs(right[inside].mean() - sure[inside].mean()) if inside.any() else 0.0
    assert found["ece"].value == pytest.approx(ece, abs=1e-6)
    rows = [Sample(logprobs=list(-rng.random(int(rng.integers(1, 9))))) for _ in range(20)]
    tokens = np.concatenate([one.logprobs for one in rows])
    assert measure(["perplexity"], rows)["perplexity"].value == pytest.approx(np.exp(-tokens.mean()), abs=1e-9)
    for tries in range(1, 12):
        for passed in range(tries + 1):
            for k in range(1, tries + 1):
                assert pass_at_k(tries, passed, k) == pytest.approx(
                    1 - comb(tries - passed, k) / comb(tries, k), abs=1e-12)
    with pytest.raises(BadInput, match="at least 3 tries"):
        pass_at_k(2, 1, 3)
    with pytest.raises(BadInput, match="logprobs"):
        measure(["perplexity"], [Sample(logprobs=[0.5])])


def test_citations() -> None:
    rows = [Sample(citations=["a", "a", "x"], relevant={"a": 1.0, "b": 1.0}), Sample(relevant={"a": 1.0})]
    found = measure(["citation_precision", "citation_recall"], rows)
    assert found["citation_precision"].per_row == [0.5, 0.0]
    assert found["citation_recall"].per_row == [0.5, 0.0]


CHECKED = ['[{"max_words": 5}]', '[{"min_words": 3}, {"contains": "la"}]', '{"language": "es", "json": false}']


def test_every_metric_has_an_interval_and_a_difference() -> None:
    rng = random.Random(5)

    def row(one: Sample) -> Sample:
        ids = [str(i) for i in range(9)]
        return Sample(
            one.output, one.references, float(rng.random() < 0.6), rng.random(), [-rng.random() for _ in range(4)],
            [rng.random() < 0.3 for _ in range(10)], rng.sample(ids, 6), dict.fromkeys(rng.sample(ids, 2), 1.0),
            rng.sample(ids, 2), [one.references[0] + ".", "otra cosa"], rng.choice(CHECKED), {"type": "object"},
            rng.choice("abc"), float(rng.random() < 0.8))

    def labelled(one: Sample) -> Sample:
        """What reads a whole output gets one that it can read, now and then."""
        said = rng.choice([one.output, rng.choice("abc"), "{}", one.output + " idiota", '{"a": 1, "b": [2]}'])
        return replace(one, output=said, references=[*one.references, rng.choice(['{"a": 1}', '{"a": 1, "b": [2]}'])])

    one, other = ([labelled(row(sample)) for sample in texts(60, seed, longest=12)] for seed in (6, 7))
    names, clusters = sorted(set(metrics()) - {"bertscore"}), [str(place // 3) for place in range(60)]
    first, second = measure(names, one), measure(names, other)
    found = score_intervals(first, clusters=clusters, draws=300)
    gaps = score_differences(first, second, clusters=clusters, draws=300)
    assert set(found) == set(gaps) == set(names)
    for name, interval in found.items():
        assert interval.low < interval.value < interval.high, name
        assert gaps[name].value == pytest.approx(first[name].value - second[name].value), name
        assert gaps[name].low < gaps[name].value < gaps[name].high, name
    assert score_intervals(first, clusters=clusters, draws=300) == found
    same = score_differences(first, first, clusters=clusters, draws=50)
    for name, gap in same.items():  # no difference seen is not none: 20 sources say no more than Tango's interval
        assert gap.value == 0
        assert first[name].metric.top is None or gap.low < -0.1 * first[name].metric.top < 0 < gap.high


def test_perfect_scores_are_not_certainty() -> None:
    rows = [Sample(output="hola qué tal estás hoy", references=["hola qué tal estás hoy"])] * 12
    found = score_intervals(measure(["bleu", "rougeL"], rows), draws=50)
    assert found["bleu"].value == pytest.approx(100)
    assert found["bleu"].low < 80
    assert found["rougeL"].low < 0.8
    with pytest.raises(BadInput, match="two sources"):
        score_intervals(measure(["bleu"], rows), clusters=["a"] * 12)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="did you mean rougeL"):
        metric("rougel")
    with pytest.raises(ConfigError, match="no metric"):
        metric("recall@0")
    with pytest.raises(BadInput, match="no rows"):
        measure(["bleu"], [])
    with pytest.raises(BadInput, match="row 2 has no references"):
        measure(["bleu"], [Sample("a", ["a"]), Sample("a")])
    with pytest.raises(BadInput, match="one text"):
        measure(["bleu"], [Sample("a", "abc")])
    for bad in (Sample("a", [None]), Sample(None, ["a"])):
        with pytest.raises(BadInput, match="row 1 needs a text"):
            measure(["rouge1"], [bad])
    with pytest.raises(BadInput, match="more than"):
        measure(["rougeL"], [Sample("a " * 200_000, ["a"])])
    with pytest.raises(BadInput, match="no confidence"):
        measure(["ece"], [Sample(correct=1.0)])
    with pytest.raises(BadInput, match="gain of 0"):
        measure(["mrr"], [Sample(relevant={"a": 0.0})])
    assert metric("pass@7").name == "pass@7"


OWN = '''
def shorter(output: str, reference: str) -> float:
    """Share of the longer text's length that the shorter has."""
    return min(len(output), len(reference)) / max(len(output), len(reference), 1)

def length(sample):
    return len(sample.output)
length.top, length.better = None, "<="

def wrong(output, reference):
    return 7

def broken(output, reference):
    return 1 / 0
'''


def test_a_users_own_metric(tmp_path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "outside.py").write_text("def f(a, b): return 1", encoding="utf-8")
    (project / "link.py").symlink_to(tmp_path / "outside.py")
    (project / "bad.py").write_text("1 / 0", encoding="utf-8")
    rows = [Sample("abcd", ["ab", "abc"]), Sample("a", ["a"])]
    own = own_metric("mine:shorter", project, trusted=True)
    assert isinstance(own, Metric)
    assert own.says.startswith("Share of")
    assert measure([own], rows)["mine:shorter"].per_row == [0.75, 1.0]
    assert measure([own_metric("mine:length", project, trusted=True)], rows)["mine:length"].value == 2.5
    for name, says in (("mine:wrong", "outside 0 to 1"), ("mine:broken", "ZeroDivisionError")):
        with pytest.raises(BadInput, match=says):
            measure([own_metric(name, project, trusted=True)], rows)
    with pytest.raises(ConfigError, match="nobody has said that it may run"):
        own_metric("mine:shorter", project, trusted=False)
    for name, says in (("../outside:f", "does not name"), ("link:f", "project's folder"), ("none:f", "needs the file"),
                       ("bad:f", "does not run"), ("mine:absent", "no function"), ("mine", "does not name")):
        with pytest.raises(ConfigError, match=says):
            own_metric(name, project, trusted=True)


def test_a_metric_joins_by_entry_point(monkeypatch) -> None:
    from importlib import metadata

    class Point:
        name, value = "words_said", "elsewhere:words_said"

        @staticmethod
        def load():
            def words_said(output: str, reference: str) -> float:
                return min(1.0, len(output.split()) / 10)

            return words_said

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point] if group == "bucle.metrics" else [])
    metrics.cache_clear()
    try:
        assert measure(["words_said"], [Sample("a b", ["x"])])["words_said"].value == pytest.approx(0.2)
        Point.name = "bleu"
        metrics.cache_clear()
        with pytest.raises(ConfigError, match="which Bucle has"):
            metrics()
    finally:
        monkeypatch.undo()
        metrics.cache_clear()


def test_macro_f1_is_scikit_learns_in_every_resample() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(3)
    wanted = [str(rng.choice(list("abcdefgh"), p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.04, 0.01])) for _ in range(300)]
    said = [one if rng.random() < 0.7 else str(rng.choice(list("abcdexyz"))) for one in wanted]
    samples = [Sample(mine, wanted=right) for mine, right in zip(said, wanted, strict=True)]
    found = measure(["macro_f1"], samples)["macro_f1"]
    for rows in (range(300), *(rng.integers(0, 300, 300) for _ in range(20))):
        truth, spoken = [wanted[i] for i in rows], [said[i] for i in rows]
        reference = f1_score(truth, spoken, labels=sorted(set(truth)), average="macro", zero_division=0)
        assert float(found.statistics.combine(found.statistics.table[list(rows)].sum(axis=0))) == pytest.approx(
            reference, abs=1e-9)


def test_macro_f1_in_a_bootstrap_is_the_same_by_either_way_and_by_differences() -> None:
    """Narrow tables go by products, wide ones by rows; the known slope is that of small steps. Its own interval is
    another way to the same where every label has many rows."""
    from bucle.evaluate import resample

    rng = np.random.default_rng(4)
    wanted = [str(rng.choice(list("abcd"))) for _ in range(200)]
    samples = [Sample(one if rng.random() < 0.7 else "a", wanted=one) for one in wanted]
    measured = measure(["macro_f1"], samples)
    one = measured["macro_f1"].statistics

    def drawn(*gradient: Any) -> Interval:
        return resample.bootstrap({"": (one.table, one.combine, *gradient)}, draws=500)[""]

    narrow = drawn(one.gradient)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "_WIDE", 0)
        assert drawn(one.gradient).low == pytest.approx(narrow.low, abs=1e-9)
    assert drawn().low == pytest.approx(narrow.low, abs=1e-5)
    own = score_intervals(measured)["macro_f1"]
    assert (own.value, own.low, own.high) == pytest.approx((narrow.value, narrow.low, narrow.high), abs=0.015)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_bertscore_is_bert_scores() -> None:
    bert_score = pytest.importorskip("bert_score")
    from bucle.evaluate.metrics.meaning import bertscore
    from bucle.models.encoder import encoder_folder

    samples = [one for one in texts(60, 11) if one.output.strip() and one.references[0].strip()]
    samples += [Sample("the cat sat on the mat", ["a cat was sitting there"]), Sample("x", ["x"])]
    _, _, theirs = bert_score.score(
        [one.output for one in samples], [one.references[0] for one in samples],
        model_type=str(encoder_folder()), num_layers=6, batch_size=16)
    values, signature = bertscore([Sample(one.output, one.references[:1]) for one in samples])
    assert values == pytest.approx([float(one) for one in theirs], abs=1e-6)
    assert "layer:last" in signature
    best = bertscore([Sample("the cat sat", ["nothing alike", "the cat sat"]), Sample("", ["algo"])])[0]
    assert best == pytest.approx([1.0, 0.0], abs=1e-6)
