"""Retrieval by itself: its figures against pytrec_eval's, and the stage that lost a question, planted one by one."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from bucle.core.records import Example, Prediction
from bucle.evaluate.lost import Asked, Corpus, Gone, Home, Passage, diagnose, homes, right, say
from bucle.evaluate.retrieval import retrieval_figures, risk_coverage
from bucle.loop.retrieval_found import used

LONG = "La cuota del plan familiar es de treinta euros al mes y se cobra el día cinco."


def row(target: str | None, document: str = "a.md", **more: str) -> Example:
    return Example(id=more.pop("id", "q"), input="¿?", target=target, document=document, **more)


def corpus(**changes: object) -> Corpus:
    facts: dict[str, object] = {
        "documents": {"a.md": f"Planes\n\n{LONG}\n\nSe puede dejar cuando se quiera.", "b.md": "Averías: 900 555 010."},
        "passages": {"a1": Passage("a.md", LONG, "Planes"), "a2": Passage("a.md", "Se puede dejar cuando se quiera."),
                     "b1": Passage("b.md", "Averías: 900 555 010.")},
    }
    return Corpus(**(facts | changes))  # type: ignore[arg-type]


def lost(asked: Asked, there: Corpus, *, k: int = 0) -> tuple[str, str, int | None, bool]:
    """Stage, reason, rank and whether it is approximate, of the one question, which must have failed."""
    [one] = diagnose([asked], there, list(homes([asked.row], there, documents=bool(k))), k=k)
    assert all(say(one, asked.row).values())
    return one.stage, one.reason, one.rank, one.approximate


SILENT, ELSE = Prediction(output="", abstained=True), Prediction(output="Otra cosa.", chunks=("a2",))
ALL = ("a2", "b1", "a1")
CUT = {"a1": Passage("a.md", "La cuota del plan familiar es de treinta"),
       "a2": Passage("a.md", "euros al mes y se cobra el día cinco.")}


@pytest.mark.parametrize(
    ("target", "document", "changes", "ranking", "used", "said", "expected"),
    [
        ("noventa días", "c.pdf", {"gone": {"c.pdf": Gone("quarantined", "encrypted", "needs a password")}}, ALL, ALL,
         ELSE, ("parsing", "quarantined", None, True)),
        ("noventa días", "c.md", {"gone": {"c.md": Gone("removed", "near-duplicate", "0.9", kept="b.md")}}, ALL, ALL,
         ELSE, ("parsing", "removed", None, True)),
        ("noventa días", "c.md", {}, ALL, ALL, ELSE, ("parsing", "unread", None, True)),
        ("noventa días", "a.md", {}, ALL, ALL, ELSE, ("parsing", "absent", None, True)),
        ("noventa días", "a.md", {"boilerplate": ["Responda en noventa días."]}, ALL, ALL, ELSE,
         ("parsing", "boilerplate", None, True)),
        ("900 555 010", "a.md", {}, ALL, ALL, ELSE, ("parsing", "elsewhere", None, True)),
        ("noventa días", "", {}, ALL, ALL, ELSE, ("parsing", "nowhere", None, True)),
        ("treinta euros", "a.md", {"passages": CUT}, ALL, ALL, ELSE, ("chunking", "cut", None, False)),
        ("treinta euros", "a.md", {"passages": {"a1": Passage("a.md", "Nada.", "Treinta euros")}}, ("a1",),
         ("a1",), ELSE, ("chunking", "heading", None, False)),
        ("treinta euros", "a.md", {"passages": {}}, (), (), ELSE, ("chunking", "empty", None, False)),
        ("treinta euros", "a.md", {"hidden": frozenset({"a1", "a2"})}, ("b1",), ("b1",), SILENT,
         ("access", "hidden", None, False)),
        ("treinta euros", "a.md", {"hidden": frozenset({"a1", "a2"}), "passages": CUT}, (), (), SILENT,
         ("access", "hidden", None, False)),
        ("treinta euros", "a.md", {}, ("a2", "b1"), ("a2",), ELSE, ("retrieval", "unfound", None, False)),
        ("treinta euros", "a.md", {}, ALL, ("a2", "b1"), ELSE, ("ranking", "unused", 3, False)),
        ("treinta euros", "a.md", {}, ALL, ALL, SILENT, ("answering", "abstained", 3, False)),
        ("treinta euros", "a.md", {}, ALL, ALL, ELSE, ("answering", "wrong", 3, False)),
        ("treinta euros", "a.md", {}, ALL, ALL, Prediction(output="", error="too slow"),
         ("answering", "error", 3, False)),
        (None, "a.md", {}, ALL, ALL, ELSE, ("answering", "invented", None, False)),
        # what is not the documents' own words: another order of them, a yes before them, a yes alone
        ("El plan familiar cuesta treinta euros de cuota al mes", "a.md", {}, ALL, ALL, ELSE,
         ("answering", "wrong", 3, True)),
        ("El plan familiar cuesta 40 euros de cuota al mes", "a.md", {}, ALL, ALL, ELSE,
         ("parsing", "absent", None, True)),
        ("Sí, el día 5", "a.md", {"documents": {"a.md": "Se cobra el día 5."}, "passages": {}}, (), (), ELSE,
         ("chunking", "empty", None, False)),
        ("Sí", "a.md", {}, ALL, ALL, ELSE, ("answering", "wrong", 1, True)),
        ("Sí", "", {}, ALL, ALL, ELSE, ("answering", "unlookable", None, True)),
    ],
)
def test_each_planted_fault_is_named(
    target: str | None, document: str, changes: dict[str, object], ranking: tuple[str, ...], used: tuple[str, ...],
    said: Prediction, expected: tuple[str, str, int | None, bool],
) -> None:
    assert lost(Asked(row(target, document), said, ranking, used), corpus(**changes)) == expected


def test_a_duplicate_that_stayed_stands_for_the_one_that_went() -> None:
    there = corpus(gone={"old.md": Gone("removed", "near-duplicate", "0.93", kept="a.md")})
    asked = Asked(row("treinta euros", "old.md"), ELSE, ALL, ("a2",))
    assert lost(asked, there) == ("ranking", "unused", 3, False)
    changed = Asked(row("cuarenta euros", "old.md"), ELSE, ALL, ("a2",))
    [one] = diagnose([changed], there, list(homes([changed.row], there)))
    assert (one.stage, one.reason) == ("parsing", "removed")
    assert "a.md" in say(one, changed.row)["en"]


def test_documents_alone_of_a_retrieve_task() -> None:
    there = corpus(gone={"c.md": Gone("removed", "min_words", "3 words")})

    def asked(document: str, ranking: tuple[str, ...]) -> Asked:
        return Asked(row(None, document), Prediction(output="", chunks=ranking[:1]), ranking)

    assert lost(asked("a.md", ("b1", "a1")), there, k=1) == ("ranking", "unlisted", 2, False)
    assert lost(asked("a.md", ("b1",)), there, k=1)[:2] == ("retrieval", "missed")
    assert lost(asked("c.md", ("b1",)), there, k=1)[:2] == ("parsing", "removed")
    assert lost(asked("a.md", ("b1",)), corpus(hidden=frozenset({"a1", "a2"})), k=1)[:2] == ("access", "hidden")
    found = asked("b.md; a.md", ("b1",))
    assert diagnose([found], there, list(homes([found.row], there, documents=True)), k=1) == []


def test_an_answer_is_right_in_its_words_or_near_to_them() -> None:
    assert right(row("treinta euros"), Prediction(output=LONG))
    assert right(row("treinta euros al mes"), Prediction(output="Treinta euros mensuales"))
    assert not right(row("treinta euros"), Prediction(output="cuarenta y dos céntimos"))
    assert not right(row("treinta euros"), Prediction(output=LONG, error="cut off"))
    assert not right(row("treinta euros"), Prediction(output=""))
    assert right(row(None), SILENT)
    assert not right(row(None), Prediction(output=LONG))


def test_figures_are_pytrec_evals_on_the_same_run() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval-terrier is not installed")
    rng = random.Random(3)
    passages = {f"c{i}": Passage(f"d{i // 3}.md", "") for i in range(60)}
    asked, qrels, run = [], {}, {}
    for q in range(40):
        wanted = rng.sample(range(20), rng.randint(1, 3))
        ranking = tuple(rng.sample(list(passages), rng.randint(1, 40)))
        asked.append(Asked(row("x", ";".join(f"d{i}.md" for i in wanted), id=f"q{q}"), Prediction(output="x"), ranking))
        order = list(dict.fromkeys(passages[c].document for c in ranking))
        qrels[f"q{q}"] = {f"d{i}.md": 1 for i in wanted}
        run[f"q{q}"] = {name: float(len(order) - place) for place, name in enumerate(order)}
    scores = pytrec_eval.RelevanceEvaluator(qrels, {"recall", "recip_rank", "ndcg_cut"}).evaluate(run)
    found = retrieval_figures(asked, passages, [Home()] * len(asked), ks=(5, 10), documents=True)
    for mine, theirs in (("recall@5", "recall_5"), ("recall@10", "recall_10"), ("mrr", "recip_rank"),
                         ("ndcg@10", "ndcg_cut_10")):
        assert found[mine].value == pytest.approx(sum(s[theirs] for s in scores.values()) / 40, abs=1e-9), mine
        assert found[mine].low < found[mine].value < found[mine].high
        assert found[mine].n == 40


def test_abstaining_citing_and_risk_by_hand() -> None:
    passages = {"a1": Passage("a.md", ""), "a2": Passage("a.md", ""), "b1": Passage("b.md", "")}

    def one(target: str | None, output: str, score: float, cited: tuple[str, ...] = (), at: str = "") -> Asked:
        said = Prediction(output=output, score=score, abstained=not output, citations=cited, chunks=("a2", "a1"))
        return Asked(row(target, at, id=f"{target}{score}"), said, ("a2", "a1", "b1"), ("a2", "a1"))

    asked = [one("uno", "uno", 0.9, ("a1",), "a.md"), one("dos", "no es", 0.8, ("b1", "a2"), "a.md"),
             one("tres", "", 0.1, (), "b.md"), one(None, "", 0.2), one(None, "inventa", 0.7, ("b1",))]
    held = [Home(("a.md",), ("a1",)), Home(("a.md",), ("a2",)), Home(("b.md",), ("b1",)), Home(), Home()]
    told = retrieval_figures(asked, passages, held, ks=(1, 2))
    value = {name: one.value for name, one in told.items()}
    assert value["passage_hit@1"] == pytest.approx(1 / 3)
    assert value["passage_hit@2"] == pytest.approx(2 / 3)
    assert value["passage_mrr"] == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
    assert value["citation_precision"] == pytest.approx(3 / 4)
    assert value["citation_recall"] == 1
    assert value["citation_support"] == pytest.approx(3 / 4)
    assert (value["answered"], value["abstained"], value["abstain_precision"]) == pytest.approx((2 / 3, 1 / 2, 1 / 2))
    assert value["abstain_f1"] == pytest.approx(1 / 2)
    assert value["coverage"] == pytest.approx(3 / 5)
    assert value["risk"] == pytest.approx(2 / 3)
    assert value["aurc"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    # without its threshold it answers the other two as well, one rightly
    forced = [a.said if a.said.output else a.said.model_copy(update={"output": "tres", "abstained": False})
              for a in asked]
    on = retrieval_figures(asked, passages, held, ks=(1, 2), forced=forced)
    assert on["curve_coverage"].value == 1
    assert on["aurc"].value == pytest.approx((0 + 1 / 2 + 2 / 3 + 3 / 4 + 3 / 5) / 5)
    assert on["aurc"].low <= on["aurc"].value <= on["aurc"].high
    assert on["risk"] == told["risk"]
    sure = retrieval_figures(asked[:1] + asked[2:3], passages, held[:1] + held[2:3], ks=(1,), forced=[
        asked[0].said, asked[2].said.model_copy(update={"output": "tres", "abstained": False})])["aurc"]
    assert (sure.value, sure.low) == (0, 0)
    assert sure.high > 0.5  # two answers prove little


@pytest.mark.parametrize(("silent", "value"), [(True, 1.0), (False, 0.0)])
@pytest.mark.parametrize("clusters", [("u", "u"), ("u",)])
def test_questions_without_an_answer_from_one_source_are_measured_too(
    silent: bool, value: float, clusters: tuple[str, ...]
) -> None:
    """They are all that F1 of abstaining is made of: one source counts as one row, and nothing else is lost."""
    said = Prediction(output="" if silent else "inventa", abstained=silent, score=0.3)
    asked = [Asked(row("uno", f"{i}.md", id=f"a{i}"), Prediction(output="uno", score=0.9), ("a1",)) for i in range(5)]
    asked += [Asked(row(None, "", id=f"u{i}", group=one), said) for i, one in enumerate(clusters)]
    told = retrieval_figures(asked, {"a1": Passage("0.md", "")}, [Home()] * len(asked))
    f1 = told["abstain_f1"]
    assert (f1.value, f1.n) == (value, len(clusters))
    assert f1.high - f1.low > 0.7, "one source proves little"
    assert {"mrr", "coverage", "risk", "abstained"} <= told.keys()


def test_answers_that_are_equally_sure_come_in_together() -> None:
    assert risk_coverage([0.9, 0.5, 0.5, 0.1], [0.0, 1.0, 0.0, 1.0]) == [(0.25, 0.0), (0.75, 1 / 3), (1.0, 0.5)]
    assert risk_coverage([], []) == []


def test_one_document_makes_a_wide_interval() -> None:
    """Ten questions about one document are one source; about ten, ten."""
    passages = {"a1": Passage("a.md", "")}

    def figures(documents: list[str]) -> float:
        asked = [Asked(row("x", d, id=str(i)), Prediction(output="x"), ("a1",) if i % 2 else ())
                 for i, d in enumerate(documents)]
        told = retrieval_figures(asked, {"a1": Passage("a.md", ""), **passages}, [Home()] * len(asked), documents=True)
        return told["mrr"].high - told["mrr"].low

    assert figures(["a.md"] * 10) > figures([f"a.md; {i}.md" for i in range(10)])


def test_the_passages_that_a_model_was_shown_are_those_its_trace_says() -> None:
    """Its prompt begins with what the quotation cites, which need not be what was found first."""
    rag = SimpleNamespace(quote=object(), passages=2)
    found = Prediction(output="x", chunks=("a", "b", "c"), citations=("c",))
    said = found.model_copy(update={"spans": ({"name": "passages", "shown": ["c"]},)})
    assert used(rag, found) == ("c", "a", "b")  # type: ignore[arg-type]
    assert used(rag, said) == ("c",)  # type: ignore[arg-type]
    assert used(SimpleNamespace(), found) == ("a", "b", "c")  # type: ignore[arg-type]
