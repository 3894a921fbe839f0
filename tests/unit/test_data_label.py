"""What holds of what people said; what is asked next; files of other tools."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Annotation, Example
from bucle.data.label import Ranker, answers, apply_labels, disagreements, effective, labels_digest, random_sample
from bucle.data.label.argilla import user_id
from bucle.data.label.exchange import export, match, neutral, read_file
from bucle.data.label.queue import in_share
from bucle.ledger import AnnotationStore, Ledger

AT = "2026-03-01T10:00:00.000000+00:00"


def say(row: str, by: str, label: str | None, kind: Any = "annotation", at: str = AT) -> Annotation:
    name = f"annotation:{row}{by}{label}{kind}{at}"
    return Annotation(id=name, task="t", row=row, by=by, label=label, at=at, kind=kind)


# what holds ----------------------------------------------------------------------------------------------


def test_each_status_and_that_only_a_persons_word_is_settled() -> None:
    said = [
        say("agreed", "ana", "x"), say("agreed", "bea", "x"), say("disputed", "ana", "x"), say("disputed", "bea", "y"),
        say("two-one", "ana", "x"), say("two-one", "bea", "x"), say("two-one", "carl", "y"),
        say("decided", "ana", "x"), say("decided", "bea", "y"), say("decided", "jefa", "z", "adjudication"),
        say("machine", "tfidf", "x", "prelabel"), say("confirmed", "tfidf", "y", "prelabel"),
        say("confirmed", "ana", "x"), say("corrected", "ana", "x"), say("corrected", "ana", "y"),
        say("taken", "ana", "x"), say("taken", "ana", None), say("taken", "tfidf", "q", "prelabel"),
    ]  # fmt: skip
    now = effective(said)
    assert {row: (one.status, one.label, one.by) for row, one in now.items()} == {
        "agreed": ("confirmed", "x", "ana, bea"), "disputed": ("disputed", "", "ana, bea"),
        "two-one": ("disputed", "", "ana, bea, carl"), "decided": ("adjudicated", "z", "jefa"),
        "machine": ("prelabel", "x", "tfidf"), "confirmed": ("confirmed", "x", "ana"),
        "corrected": ("confirmed", "y", "ana"), "taken": ("prelabel", "q", "tfidf"),
    }  # fmt: skip
    most = effective(said, majority=True)
    assert (most["two-one"].status, most["two-one"].label, most["two-one"].by) == ("majority", "x", "ana, bea")
    assert most["disputed"].status == "disputed"
    assert {row for row, one in now.items() if one.settled} == {"agreed", "decided", "confirmed", "corrected"}
    assert list(disagreements(said)) == ["two-one", "disputed"]
    assert "taken" not in answers(said)


def test_labels_are_applied_without_changing_ids_and_one_at_a_time() -> None:
    rows = [Example(id=f"example:{n}", input=f"t{n}", target="x" if n < 2 else None) for n in range(5)]
    now = effective([say("example:0", "ana", "x"), say("example:1", "ana", "y"), say("example:2", "bea", "z"),
                     say("example:3", "tfidf", "z", "prelabel"), say("gone", "ana", "x")])
    stream = apply_labels(iter(rows), now)
    assert next(stream) == rows[0]
    assert [(r.id, r.target, r.labelled_by) for r in stream] == [("example:1", "y", "ana"), ("example:2", "z", "bea")]
    kept = list(apply_labels(rows, now, keep_unlabelled=True))
    assert [r.id for r in kept] == [r.id for r in rows]
    answered = apply_labels([rows[0]], effective([say("example:0", "ana", "")]), keep_unlabelled=True)
    assert next(answered).target is None


def test_the_digest_changes_when_and_only_when_the_data_would(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    store = AnnotationStore(ledger)
    seen = [labels_digest(store, "t")]
    for item in (say("r", "tfidf", "x", "prelabel"), say("r", "ana", "x"), say("r", "ana", "x"), say("s", "ana", "x"),
                 say("s", "bea", "y")):  # fmt: skip
        store.say(item)
        seen.append(labels_digest(store, "t"))
    empty, proposed, first, again, second, disputed = seen
    assert empty == proposed == ""
    assert len({empty, first, second}) == 3
    assert first == again == disputed
    store.add_rows("t", [Example(id="example:n", input="n", target=None)])
    assert labels_digest(store, "t") != disputed
    assert labels_digest(store, "other") == ""
    ledger.close()


# what is asked next --------------------------------------------------------------------------------------


def pool(n: int = 400) -> tuple[list[str], list[str], list[str]]:
    """Ids, texts and labels: three kinds of message, the third in a grey zone, each many times over."""
    rng = random.Random(5)
    words = {"luz": "corte luz bombilla enchufe apagón contador", "red": "wifi internet router fibra señal cable"}
    texts, labels = [], []
    for _ in range(n):
        label = rng.choice(["luz", "red"])
        texts.append(" ".join(rng.choices(words[label].split(), k=4)))
        labels.append(label)
    return [f"example:{i}" for i in range(n)], texts, labels


def test_the_uncertain_come_first_and_the_order_is_the_same_every_time() -> None:
    ids, texts, labels = pool()
    texts[350] = "wifi luz internet bombilla"
    ranker = Ranker(ids, texts, 7)
    doubt = ranker.uncertainties(dict(zip(ids[:100], labels[:100], strict=True)))
    picks = ranker.order(ids[100:], 5, uncertainty=doubt, random_share=0)
    assert picks[0].id == "example:350"
    assert {pick.why for pick in picks} == {"uncertain"}
    again = Ranker(ids, texts, 7).order(ids[100:], 5, uncertainty=doubt, random_share=0)
    assert picks == again


def test_one_batch_is_no_ten_copies() -> None:
    ids = [f"example:{i}" for i in range(60)]
    texts = ["wifi no va"] * 50 + [f"asunto {word} distinto" for word in "abcdefghij"]
    picks = Ranker(ids, texts, 7).order(ids, 10, random_share=0)
    chosen = {texts[int(pick.id.split(":")[1])] for pick in picks}
    assert len(chosen) == 10
    near = Ranker(ids, texts, 7).order(ids, 3, near=["example:0"], random_share=0)
    assert "wifi no va" not in {texts[int(pick.id.split(":")[1])] for pick in near}


def test_a_fifth_goes_by_lot_and_asking_one_by_one_has_the_same_share() -> None:
    ids, texts, labels = pool()
    ranker = Ranker(ids, texts, 7)
    doubt = ranker.uncertainties(dict(zip(ids[:100], labels[:100], strict=True)))
    picks = ranker.order(ids[100:], 50, uncertainty=doubt)
    assert sum(pick.why == "random" for pick in picks) == 10
    single = [ranker.order(ids[100:], 1, uncertainty=doubt, start=n)[0].why for n in range(50)]
    assert single.count("random") == 10


def test_the_sample_by_lot_is_unbiased_where_all_labels_are_not() -> None:
    """A fifth of the rows are rare and uncertain: asked first, they are most of the labelled rows, not of the lot's."""
    ids = [f"example:{i}" for i in range(1000)]
    rare = {row for number, row in enumerate(ids) if number % 5 == 0}
    shares = []
    for seed in range(30):
        by_lot = random_sample(ids, ids, seed)[:40]
        labelled = {*by_lot, *sorted(rare)[:150]}
        sample = random_sample(ids, labelled, seed)
        assert len(sample) >= 40
        assert sample[:40] == by_lot
        shares.append(sum(row in rare for row in by_lot) / 40)
        assert len(rare & labelled) / len(labelled) > 0.7
    assert sum(shares) / len(shares) == pytest.approx(0.2, abs=0.03)
    assert random_sample(ids, [], 7) == []


def test_overlap_is_a_share_of_rows_and_the_same_for_everybody() -> None:
    ids = [f"example:{i}" for i in range(4000)]
    shared = [row for row in ids if in_share(7, "overlap", row, 0.1)]
    assert len(shared) == pytest.approx(400, abs=70)
    assert not any(in_share(7, "overlap", row, 0) for row in ids)
    assert all(in_share(7, "overlap", row, 1) for row in ids)


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "¡!"], ["a"] * 3, ["\u2028 emoji 🙏"]])
def test_texts_without_words_are_still_asked(texts: list[str]) -> None:
    ids = [f"example:{i}" for i in range(len(texts))]
    ranker = Ranker(ids, texts, 7)
    assert ranker.uncertainties({}) is None
    assert sorted(pick.id for pick in ranker.order(ids, 10)) == ids
    assert ranker.order([], 5) == []
    assert ranker.order(["unknown"], 5) == []


# files of other tools ------------------------------------------------------------------------------------


def read(tmp_path: Path, value: Any, **options: Any) -> Any:
    path = tmp_path / "x.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return read_file(path, **options)


def task(result: list[Any], **more: Any) -> dict[str, Any]:
    one = {"id": 5, "completed_by": {"id": 3, "email": "ana@example.org"}, "created_at": "2026-01-01T00:00:00Z",
           "result": result} | more  # fmt: skip
    return {"id": 9, "data": {"text": "hola"}, "annotations": [one],
            "predictions": [{"model_version": "bert", "score": 0.4, "result": result}]}  # fmt: skip


def choice(label: Any, name: str = "sentiment") -> dict[str, Any]:
    return {"id": "a1", "from_name": name, "to_name": "text", "type": "choices", "value": {"choices": label}}


def test_label_studio_as_it_exports(tmp_path: Path) -> None:
    format_, rows, left = read(tmp_path, [task([choice(["bien"])])])
    assert (format_, left) == ("label-studio", {})
    said = [(r.by, r.label, r.kind, r.at) for r in rows[0].remarks]
    assert said == [("ana@example.org", "bien", "annotation", "2026-01-01T00:00:00Z"), ("bert", "bien", "prelabel", "")]
    area = {"from_name": "answer", "to_name": "text", "type": "textarea", "value": {"text": ["Sí, en la web."]}}
    assert read(tmp_path, [task([area])])[1][0].remarks[0].label == "Sí, en la web."


def test_label_studio_with_several_questions_asks_which(tmp_path: Path) -> None:
    both = [task([choice(["bien"]), choice(["largo"], "length")])]
    with pytest.raises(BadInput, match="several questions"):
        read(tmp_path, both)
    assert read(tmp_path, both, control="length")[1][0].remarks[0].label == "largo"


def test_a_label_changed_in_the_other_tool_is_no_longer_ours(tmp_path: Path) -> None:
    """Label Studio keeps `meta` when somebody changes the choice: the id must not hide the correction."""
    row = Example(id="example:1", input="hola", target=None)
    text = export("label-studio", [row], [say("example:1", "ana", "x")], {}, kind="classify")
    tasks = json.loads(text)
    tasks[0]["annotations"][0]["result"][0]["value"]["choices"] = ["y"]
    tasks[0]["annotations"][0]["completed_by"] = {"email": "bea@example.org"}
    remark = read(tmp_path, tasks)[1][0].remarks[0]
    assert (remark.by, remark.label) == ("bea@example.org", "y")
    assert not remark.id.startswith("annotation:")


def test_argilla_of_two_versions(tmp_path: Path) -> None:
    new = {"id": "r1", "fields": {"text": "hola"}, "metadata": {}, "vectors": {}, "_server_id": None,
           "suggestions": {"sent": {"value": "mal", "score": 0.3, "agent": "gpt"}},
           "responses": {"sent": [{"value": "bien", "user_id": "u-1"}]}}  # fmt: skip
    old = {"id": "r2", "fields": {"text": "adiós"}, "suggestions": [{"question_name": "sent", "value": "mal"}],
           "responses": [{"user_id": "u-2", "status": "submitted", "values": {"sent": {"value": "bien"}}},
                         {"user_id": "u-3", "status": "draft", "values": {"sent": {"value": "mal"}}}]}  # fmt: skip
    format_, rows, left = read(tmp_path, [new, old])
    assert (format_, left) == ("argilla", {"skipped-there": 1})
    assert [(r.by, r.label, r.kind) for row in rows for r in row.remarks] == [
        ("u-1", "bien", "annotation"), ("gpt", "mal", "prelabel"),
        ("u-2", "bien", "annotation"), ("argilla", "mal", "prelabel")]  # fmt: skip


def test_what_we_write_for_argilla_is_what_it_reads() -> None:
    """`Record.from_dict` of argilla 2.x takes exactly these keys; users are UUIDs."""
    row = Example(id="example:1", input="hola", target=None, source="f:1")
    said = [say("example:1", "ana", "x"), say("example:1", "m", "y", "prelabel")]
    said.append(say("example:1", "ana", "z", "adjudication"))
    record = json.loads(export("argilla", [row], said, {}, kind="classify"))[0]
    assert set(record) == {"id", "fields", "metadata", "suggestions", "responses", "vectors", "_server_id"}
    assert record["suggestions"] == {"label": {"value": "y", "score": None, "agent": "m"}}
    assert record["responses"] == {"label": [{"value": "z", "user_id": user_id("ana")}]}
    assert all(isinstance(value, str) for value in record["metadata"].values())


@pytest.mark.parametrize("record", [
    {"data": {"text": "t"}, "annotations": 3}, {"data": {"text": "t"}, "annotations": [3, None, {}]},
    {"data": {"text": "t"}, "annotations": [{"result": [1, {"type": "choices"}]}]},
    {"data": {"text": {"x": 1}}, "annotations": [{"result": [choice([["x"]])]}]},
    {"data": {"text": "t"}, "annotations": [{"result": [choice("x") | {"meta": {"bucle": {"label": "x", "by": 3}}}]}]},
    {"fields": {"text": "t"}, "responses": 3, "suggestions": "x", "metadata": {"bucle": "[[["}},
    {"fields": {"text": "t"}, "responses": {"label": [3, {"value": {"a": 1}}]}, "metadata": {"bucle": '[{"id": 3}]'}},
    {"fields": {"text": "t"}, "responses": {"label": 3}}, {"fields": {"text": "t"}, "responses": {"label": {"a": 1}}},
    {"fields": {"text": 5}, "responses": [{"values": {"label": 3}}, 4]},
    {"fields": {"text": "\ud800"}, "responses": {"label": [{"value": "x\ud800", "user_id": "\udfff"}]},
     "metadata": {"bucle": json.dumps([dict.fromkeys(["id", "by", "at", "label", "note"], "\ud800")
                                       | {"kind": "prelabel"}])}},
    {"row": "\ud800", "text": "\ud800", "label": "x\ud800", "by": "ana"},
    {"row": 3, "label": [], "by": None}, {"row": "x", "label": None, "by": "ana"},
])  # fmt: skip
def test_a_hostile_record_is_left_out_and_never_a_traceback(tmp_path: Path, record: dict[str, Any]) -> None:
    _, rows, left = read(tmp_path, [record])
    found = match(rows, {}, task="t", kind="classify", origin="x", at=AT)
    assert all(isinstance(a, Annotation) for a in found.annotations)
    assert left.total() + found.left_out.total() + len(found.annotations) + len(found.rows) > 0


@pytest.mark.parametrize(("change", "reason"), [
    ({"label": ""}, "no-label"), ({"label": "x" * 201}, "label-unusable"), ({"label": "a\nb"}, "label-unusable"),
    ({"label": "otra"}, "unknown-label"), ({"by": ""}, "no-author"), ({"by": "a\0b"}, "no-author"),
    ({"at": "ayer"}, "no-time"), ({"kind": "root"}, "malformed"),
    ({"text": "x" * 100_001, "row": "?"}, "text-too-long"),
])  # fmt: skip
def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    record = {"row": "example:1", "text": "t", "label": "x", "by": "ana"} | change
    _, rows, left = read(tmp_path, [record])
    found = match(rows, {"example:1": "t"}, task="t", kind="classify", origin="x", labels=["x"], at=AT)
    assert found.annotations == []
    assert left + found.left_out == {reason: 1}


def test_csv_cells_are_neutral() -> None:
    assert [neutral(c) for c in ("=1", "+1", "-1", "@x", "\tx", " =1", "a=1", "", "3-1")] == [
        "'=1", "'+1", "'-1", "'@x", "'\tx", "' =1", "a=1", "", "3-1"]  # fmt: skip
