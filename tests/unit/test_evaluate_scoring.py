"""Predictions of every kind of task, scored by its default metrics and by lists of the team's own."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable
from bucle.core.records import Example, Prediction, TaskKind, Usage
from bucle.evaluate.metrics import metrics
from bucle.evaluate.sandbox import refusal
from bucle.evaluate.scoring import (
    DEFAULTS,
    Scored,
    Scoring,
    check_metrics,
    corpus_metrics,
    default_metrics,
    says_of,
    score,
)

ROWS = 6


def rows(*targets: str | None, **more: Any) -> list[Example]:
    return [Example(id=f"e{i}", input="La cuota es de 30 euros.", target=one, **more) for i, one in enumerate(targets)]


def said(*outputs: str, **more: Any) -> list[Prediction]:
    return [Prediction(output=one, **more) for one in outputs]


def check(found: Scored, primary: str, many: int) -> None:
    assert next(iter(found.per_row)) == primary
    assert all(len(values) == many for values in found.per_row.values())
    assert all(0 <= value <= 1 for values in found.per_row.values() for value in values)
    assert found.figures["rows"] == many
    assert set(found.values) <= set(found.figures)
    json.dumps(found.figures, allow_nan=False)


CASES: dict[TaskKind, tuple[Example, str, str, dict[str, float]]] = {
    "classify": (rows("alta")[0], "alta", "baja", {"accuracy": 1}),
    "answer": (rows("30 euros", document="tarifas.md")[0], "30 euros", "nada", {"token_f1": 1, "abstention": 1}),
    "summarise": (rows("cuota de 30 euros")[0], "cuota de 30 euros", "otro", {"rougeL_words": 1, "groundedness": 1}),
    "translate": (rows("the fee is 30 euros")[0], "the fee is 30 euros", "gato", {"chrf": 100, "bleu": 100}),
    "extract": (rows('{"cuota": 30}')[0], '{"cuota": 30}', "30", {"field_f1": 1, "schema_valid": 1, "json_match": 1}),
    "generate": (rows("hola qué tal")[0], "hola qué tal", "xyz", {"chrf": 100, "token_f1": 1}),
    "instruct": (rows(None, checks='[{"max_words": 2}]')[0], "dos palabras", "van tres palabras", {"followed": 1}),
    "converse": (rows("claro que sí")[0], "claro que sí", "jamás", {"token_f1": 1}),
    "code": (rows("assert f(1) == 2")[0], "```python\ndef f(x): return x + 1\n```", "f = abs", {"pass@1": 1}),
    "retrieve": (rows(None, document="a.md; b.md")[0], "", "", {"ndcg@10": 1, "recall@10": 1, "mrr": 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", get_args(TaskKind))
def test_every_kind_has_defaults_that_tell_right_from_wrong(kind: TaskKind) -> None:
    if kind == "code" and refusal():
        pytest.skip(f"no sandbox here: {refusal()}")
    row, right, wrong, wanted = CASES[kind]
    examples = [row.model_copy(update={"id": f"e{i}"}) for i in range(3)]
    scoring = Scoring(kind, documents={"c1": "a.md", "c2": "b.md", "c3": "x.md"}, schema={"type": "object"})
    ranked = [("c1", "c2"), ("c3",), ()] if kind == "retrieve" else [(), (), ()]
    predictions = [Prediction(output=right, chunks=ranked[0], score=0.9), Prediction(output=wrong, chunks=ranked[1],
                   score=0.1), Prediction(output=right, error="timeout", score=0.0)]
    found = score(scoring, examples, predictions)
    check(found, scoring.primary, 3)
    assert found.per_row[scoring.primary][0] == pytest.approx(1)
    assert found.per_row[scoring.primary][1] < 0.5
    assert {name: values[2] for name, values in found.per_row.items()} == dict.fromkeys(found.per_row, 0)
    alone = score(scoring, examples[:1], predictions[:1])
    assert {name: alone.figures[name] for name in wanted} == pytest.approx(wanted)
    assert found.figures["errors"] == 1
    assert score(scoring, [], []).figures == {"rows": 0}
    with pytest.raises(BadInput, match="2 predictions for 3"):
        score(scoring, examples, predictions[:2])


@pytest.mark.parametrize("kind", get_args(TaskKind))
def test_defaults_are_metrics_of_their_kind_and_the_first_decides(kind: TaskKind) -> None:
    check_metrics(kind, DEFAULTS[kind])
    assert metrics()[DEFAULTS[kind][0]].decides


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("answer", ["token_f"], "did you mean token_f1"),
        ("classify", ["ece"], "cannot be decided by ece: less of it is better"),
        ("classify", ["macro_f1"], "a single row has no such score"),
        ("classify", ["accuracy", "bleu", "accuracy"], "named twice"),
        ("answer", ["accuracy"], "an answer task has no label"),
        ("translate", ["pass@1"], "a translate task has no tests"),
        ("summarise", ["perplexity"], "has no log-probability of each token"),
        ("generate", ["toxicity_lexicon"], "less of it is better"),
        ("generate", ["chrf", "toxicity:"], "names no model"),
        ("generate", ["judge:tono"], "there is no judge tono"),
        ("generate", ["chrf", "judge:tonos"], "known: tono"),
        ("code", ["chrf"], "a code task has no text to be near to"),
        ("retrieve", ["ndcg@0"], "there is no metric ndcg@0"),
    ],
)
def test_metrics_that_cannot_be(kind: TaskKind, names: list[str], message: str) -> None:
    judges = ("tono",) if "judge:tonos" in names else ()
    with pytest.raises(ConfigError) as error:
        check_metrics(kind, names, judges)
    assert message.removeprefix("an ").removeprefix("a ") in str(error.value)


def test_metrics_that_can_be() -> None:
    check_metrics("classify", ["accuracy", "macro_f1", "ece", "brier"])
    check_metrics("generate", ["judge:tono", "toxicity_lexicon", "bertscore", "toxicity:modelos/toxico"], ["tono"])
    check_metrics("retrieve", ["recall@3"])
    check_metrics("summarise", ["mias:mi_metrica", "chrf"])


def test_no_answer_is_right_only_for_an_abstention() -> None:
    examples = [*rows("30 euros", "30 euros", document="t.md"), *rows(None, None)]
    predictions = [*said("30 euros"), Prediction(output="", abstained=True), Prediction(output="", abstained=True),
                   *said("inventado")]
    found = score(Scoring("answer", metrics=("token_f1", "chrf", "abstention")), examples, predictions)
    assert found.per_row == {"token_f1": [1, 0, 1, 0], "chrf": [1, 0, 1, 0], "abstention": [1, 0, 1, 0]}
    assert found.figures["token_f1"] == 0.5
    only = score(Scoring("answer", metrics=("chrf",)), examples[:2], predictions[:2])
    assert found.figures["chrf"] == only.figures["chrf"]  # a corpus score is of questions that have an answer
    assert found.figures["unanswerable"] == {"rows": 2, "decided_rightly": 0.5}
    lonely = score(Scoring("answer"), examples[2:], predictions[2:])
    assert lonely.per_row["token_f1"] == [1, 0]
    assert lonely.figures["answerable"] == {"rows": 0, "decided_rightly": None}


def test_an_empty_reference_is_not_matched_by_an_error() -> None:
    found = score(Scoring("generate", metrics=("token_f1",)), rows("...", "..."),
                  [*said("..."), Prediction(output="...", error="x")])
    assert found.per_row["token_f1"] == [1, 0]


def test_corpus_scores_have_signature_and_interval_by_cluster() -> None:
    examples = [row.model_copy(update={"group": str(i // 2)}) for i, row in enumerate(rows(*["the cat sat here"] * 8))]
    found = score(Scoring("translate"), examples, said(*["the cat sat here", "a cat sat there"] * 4))
    assert found.values["bleu"].low < found.values["bleu"].value == found.figures["bleu"] < found.values["bleu"].high
    assert found.signatures["bleu"].startswith("BLEU|nrefs:1|")
    assert found.figures["chrf"] > 1 > max(found.per_row["chrf"]) - 1e-9
    one = [row.model_copy(update={"group": "g"}) for row in examples]
    assert score(Scoring("translate"), one, said(*["the cat"] * 8)).values == {}


def test_groundedness_reads_the_passages_shown() -> None:
    examples = rows("30 euros", "30 euros", document="t.md")
    scoring = Scoring("answer", passages={"c1": "La cuota es de 30 euros.", "c2": "Otra cosa."})
    shown = [Prediction(output="La cuota es de 30 euros", chunks=("c1", "c2")),
             Prediction(output="La cuota es de 30 euros", chunks=("c2",))]
    assert score(scoring, examples, shown).per_row["groundedness"] == [1, 0]
    assert "groundedness" not in score(scoring, examples, said("30 euros", "30 euros")).per_row
    asked = Scoring("answer", metrics=("groundedness",))
    assert score(asked, examples, said("30 euros", "30 euros")).per_row["groundedness"] == [0, 0]


def test_what_a_row_lacks_is_told_by_its_id() -> None:
    with pytest.raises(BadInput, match="example e1 has no text to be near to, which chrf needs"):
        score(Scoring("generate"), rows("a", None), said("a", "b"))
    with pytest.raises(BadInput, match="example e0 has no document to be found"):
        score(Scoring("retrieve"), rows(None), said(""))
    with pytest.raises(BadInput, match="example e0 has tests that test nothing"):
        score(Scoring("code"), rows(" "), said("x = 1"))
    with pytest.raises(BadInput, match="neither checks nor a reference"):
        score(Scoring("instruct"), rows(None), said("x"))
    with pytest.raises(BadInput, match="no label"):
        score(Scoring("classify"), rows(None), said("x"))


def test_instruct_rows_with_checks_and_with_references_mix() -> None:
    examples = [*rows(None, checks='[{"max_words": 1, "contains": "b"}]'), *rows("uno dos")]
    found = score(Scoring("instruct"), examples, said("a", "uno"))
    assert found.per_row == {"followed": [0.5, pytest.approx(2 / 3)]}


def test_own_metric_in_five_lines(tmp_path: Path) -> None:
    (tmp_path / "mias.py").write_text(
        "def corta(salida: str, referencia: str) -> float:\n    return float(len(salida) <= len(referencia))\n")
    scoring = Scoring("generate", metrics=("mias:corta", "token_f1"), folder=tmp_path, trusted=True)
    found = score(scoring, rows("abc", "abc"), said("ab", "abcd"))
    assert found.per_row["mias:corta"] == [1, 0]
    assert next(iter(found.per_row)) == scoring.primary == "mias:corta"
    with pytest.raises(ConfigError, match="nobody has said that it may run"):
        score(Scoring("generate", metrics=("mias:corta",), folder=tmp_path), rows("a"), said("a"))
    (tmp_path / "mias.py").write_text("def corta(s, r): return 1.0\ncorta.better = '<='\n")
    with pytest.raises(ConfigError, match="less of it is better"):
        score(scoring, rows("a"), said("a"))


class Ratings:
    """What a judge returns; the judge itself, over the wire, is tested with it."""

    def __init__(self, *scores: float | None) -> None:
        self.scores, self.asked = scores, 0

    def rate(self, inputs: list[str], outputs: list[str], references: list[str], report: Any = None) -> list[Any]:
        self.asked += len(outputs)
        usage = Usage(tokens_in=10, tokens_out=2, usd=0.01)
        return [SimpleNamespace(score=one, error="" if one is not None else "no number", usage=usage)
                for one in self.scores[: len(outputs)]]


def test_a_judge_sees_answers_only_and_costs_apart() -> None:
    judge = Ratings(0.75, 0.25)
    scoring = Scoring("generate", metrics=("judge:tono",), judges={"tono": judge})  # type: ignore[dict-item]
    found = score(scoring, rows("a", None, "c"), [*said("a", "b"), Prediction(output="", error="x")])
    assert found.per_row == {"judge:tono": [0.75, 0.25, 0]}
    assert found.figures["judge:tono"] == pytest.approx(1 / 3)
    assert judge.asked == 2
    assert found.judge_usage == Usage(tokens_in=20, tokens_out=4, usd=0.02)
    assert found.figures["usd_per_1k"] == 0
    broken = Scoring("generate", metrics=("judge:tono",), judges={"tono": Ratings(None, 1.0)})  # type: ignore[dict-item]
    with pytest.raises(ModelUnavailable, match="could not rate 1 of 2 rows"):
        score(broken, rows("a", "b"), said("a", "b"))


@pytest.mark.skipif(bool(refusal()), reason="no sandbox here")
def test_code_written_several_times_has_pass_at_k() -> None:
    right, wrong = "def f(x): return x + 1", "def f(x): return x"
    examples, steps = rows(*["assert f(1) == 2"] * 3), []
    predictions = [Prediction(output=wrong, others=(right,)), Prediction(output=right, others=(right,)),
                   Prediction(output="", error="timeout")]
    found = score(Scoring("code"), examples, predictions,
                  report=lambda done, total, note="": steps.append((done, total)))
    assert found.per_row == {"pass@1": [0.5, 1, 0], "pass@2": [1, 1, 0]}
    assert steps == [(1, 2), (2, 2)]
    with pytest.raises(BadInput, match="pass@3 needs at least 3 tries"):
        score(Scoring("code", metrics=("pass@3",)), examples, predictions)


def test_lower_is_better_stays_as_it_is() -> None:
    found = score(Scoring("generate", metrics=("token_f1", "toxicity_lexicon")), rows("hola", "hola", "hola"),
                  [*said("hola", "hola imbécil"), Prediction(output="", error="x")])
    assert found.per_row["toxicity_lexicon"] == [0, 1, 1]
    assert found.figures["toxicity_lexicon"] == pytest.approx(2 / 3)


def test_classification_tells_its_labels() -> None:
    found = score(Scoring("classify"), rows("a", "a", "b"), said("a", "zzz", "b", score=0.5))
    assert found.figures["confusion"] == {"labels": ["a", "b"], "columns": ["a", "b", "(other)"],
                                          "matrix": [[1, 0, 1], [0, 1, 0]]}
    assert found.figures["macro_f1"] == found.values["macro_f1"].value == pytest.approx((2 / 3 + 1) / 2)
    assert set(found.per_row) == {"accuracy"}
    assert "ece" not in score(Scoring("classify"), rows("a", "a"), said("a", "a")).figures


def test_an_error_does_not_take_the_calibration_of_all_rows() -> None:
    found = score(Scoring("classify", also=("ece", "macro_f1")), rows("a", "a", "b"),
                  [*said("a", "b", score=0.75), Prediction(output="", error="x")])
    assert found.figures["ece"] == pytest.approx((1 - 0.75 - 0.75) / -3)
    with pytest.raises(BadInput, match="example e0 has no confidence, which ece needs"):
        score(Scoring("classify", also=("ece",)), rows("a"), said("a"))


def test_unicode_and_long_texts() -> None:
    found = score(Scoring("summarise"), rows("ñandú 😀 北京", "e\u0301l"), said("ñandú 😀 北京\r\n", "él"))
    assert found.per_row["rougeL_words"][0] == 1
    with pytest.raises(BadInput, match="more than 200,000 characters"):
        score(Scoring("summarise"), rows("a"), said("a " * 150_000))


@pytest.mark.skipif(bool(refusal()), reason="no sandbox here")
def test_who_writes_one_program_has_it_counted_for_every_try(tmp_path: Path) -> None:
    """The example of docs/tasks.md: `samples: 5`, pass@1 and pass@5, and a baseline that always writes the same."""
    from bucle.core.ports import FitContext, LoadContext
    from bucle.customise.classic.text import Empty

    examples = rows("def f():\n    return 1\nassert f() == 1", "assert f(1) == 2")
    for metrics_ in (("pass@1", "pass@5"), ()):
        scoring = Scoring("code", metrics=metrics_, samples=5)
        Empty().fit(FitContext(tmp_path, tmp_path, examples, [], [], {}, 0, lambda *told: None, kind="code"))
        empty = Empty().load(tmp_path, LoadContext([], {})).predict(["x", "y"])
        assert score(scoring, examples, empty).per_row == {"pass@1": [1, 0], "pass@5": [1, 0]}
        five = [Prediction(output="def f(x): return x", others=("def f(x): return x + 1",) + ("",) * 3)] * 2
        written = score(scoring, examples, five).per_row
        assert written == {"pass@1": pytest.approx([1, 0.2]), "pass@5": [1, 1]}


def test_a_metric_that_looks_at_more_than_the_task_asks_for_is_told_first() -> None:
    check_metrics("code", ["pass@1", "pass@5"], samples=5)
    check_metrics("retrieve", ["ndcg@5", "recall@3", "mrr"], k=5)
    check_metrics("code", ["pass@7"])
    with pytest.raises(ConfigError, match="pass@5 needs 5 programs for each row, and the task writes 1") as told:
        check_metrics("code", ["pass@1", "pass@5"], samples=1)
    assert told.value.hint == "write `samples: 5` for the task, or ask for pass@1"
    with pytest.raises(ConfigError, match="recall@10 looks at 10 documents, and the task retrieves 5"):
        check_metrics("retrieve", ["ndcg@5", "recall@10"], k=5)


def test_the_metrics_of_a_search_follow_its_k() -> None:
    scoring = Scoring("retrieve", k=2)
    assert scoring.primary == "ndcg@2"
    examples = [replace_document(row, "d.md") for row in rows(None, None)]
    found = score(scoring, examples, [Prediction(output="", chunks=("a.md", "d.md", "b.md")),
                                      Prediction(output="", chunks=("a.md", "b.md", "d.md"))])
    assert list(found.per_row) == ["ndcg@2", "recall@2", "mrr"]
    assert found.per_row["recall@2"] == [1, 0]
    assert default_metrics("retrieve") == DEFAULTS["retrieve"]
    assert default_metrics("code", samples=3) == ("pass@1", "pass@3")


def replace_document(row: Example, document: str) -> Example:
    return row.model_copy(update={"document": document})


def test_the_two_numbers_of_a_corpus_metric_are_told_apart() -> None:
    found = score(Scoring("translate"), rows("the cat sat here", "a dog"), said("the cat sat", "a frog ran off"))
    assert set(says_of("chrf")) == {"es", "en"}
    assert sum(found.per_row["chrf"]) / 2 != pytest.approx(found.figures["chrf"] / 100, abs=0.01)
    assert not any(map(says_of, ("accuracy", "macro_f1", "ece", "perplexity", "judge:tono", "mias:nota", "no-such")))


def test_an_own_metric_with_another_top_is_told_and_gated_in_its_own_unit(tmp_path: Path) -> None:
    """Marks from 0 to 10, and lengths without a limit; an error is a 0, a question without an answer all or nothing."""
    from bucle.evaluate.gate import GateFacts, Reference, check_gates

    (tmp_path / "mias.py").write_text(
        "def nota(s, r): return float(s)\nnota.top = 10\ndef largo(s, r): return float(len(s))\nlargo.top = None\n")
    names = ("mias:nota", "mias:largo", "chrf")
    scoring = Scoring("answer", metrics=names, folder=tmp_path, trusted=True)
    examples = rows(*["6 7 8"] * 30, None)
    marks = [*said(*["6", "7", "8"] * 9, "6", "7"), Prediction(output="", error="x"),
             Prediction(output="", abstained=True)]
    found = score(scoring, examples, marks)
    assert corpus_metrics(scoring, names) == names
    assert found.per_row["mias:nota"][:4] == [0.6, 0.7, 0.8, 0.6]
    assert found.per_row["mias:nota"][-2:] == [0, 1]
    assert found.figures["mias:nota"] == pytest.approx((27 * 7 + 13 + 10) / 31)
    assert found.figures["mias:largo"] == pytest.approx(29 / 30)
    clusters = [row.cluster for row in examples]
    worse = score(scoring, examples, [*said(*["5"] * 30), marks[-1]])
    facts = GateFacts(
        rows=31, metrics={name: found.figures[name] for name in names}, per_row=found.per_row, clusters=clusters,
        measured=found.measured, production=Reference("p", worse.figures, worse.per_row, measured=worse.measured))
    gates = ["mias:nota >= 6 at 95%", "mias:nota >= 6.9 at 95%", "mias:nota >= 6.5",
             "mias:nota >= production + 0.8 at 95%", "mias:largo >= 2 at 95%", "chrf >= 99 at 95%"]
    result = check_gates(gates, facts)
    assert [check.passed for check in result.checks] == [True, False, True, True, False, False], result.checks
    assert all("on 30 rows" in check.note for check in result.checks[4:])  # the question without an answer has no part
    assert 6 < (result.checks[0].measured or 0) < 6.9
