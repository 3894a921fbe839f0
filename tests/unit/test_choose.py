"""The ladder: which candidates a task gets."""

from __future__ import annotations

from typing import Any

import pytest

from bucle.choose import ladder
from bucle.core.choosing import Choose
from bucle.core.config import EncoderModel, Model, OpenAIModel, PretrainModel
from bucle.core.errors import ConfigError
from bucle.core.records import TaskKind

MODELS: dict[str, Model] = {
    "nano": PretrainModel(kind="pretrain"), "minilm": EncoderModel(kind="encoder"),
    "gpt": OpenAIModel(kind="openai", base_url="http://127.0.0.1:1/v1", model="m"),
    "e5": EncoderModel(kind="encoder", path="e5"),
}


def names(kind: TaskKind, models: dict[str, Model] = MODELS, /, *, index: bool = True, **choose: Any) -> list[str]:
    return [rung.name for rung in ladder(kind, models, Choose(**choose), has_index=index)]


def test_every_technique_meets_every_model_that_fits_cheapest_first() -> None:
    assert names("classify") == [
        "majority", "nearest", "tfidf", "zero-shot/nano", "zero-shot/gpt", "few-shot/nano", "few-shot/gpt",
        "chain-of-thought/gpt", "frozen-encoder/minilm", "frozen-encoder/e5",
        "hybrid-head/minilm", "hybrid-head/e5", "lora/nano", "full/nano", "distilled/gpt"]
    answers = names("answer")
    assert answers[:2] == ["no-answer", "quote"]
    assert {"retrieve/minilm", "rag/nano", "rag/gpt", "zero-shot-answer/nano"} <= set(answers)
    assert len(set(answers)) == len(answers)
    rungs = [r.technique.rung for r in ladder("classify", MODELS, Choose(), has_index=False)]
    assert rungs == sorted(rungs)


def test_a_student_takes_the_encoder_where_the_project_has_one() -> None:
    def encoder(models: dict[str, Model]) -> set[str]:
        choose = Choose(candidates=("distilled",))
        return {r.encoder for r in ladder("classify", models, choose, has_index=False) if r.name == "distilled/nano"}

    assert encoder(MODELS) == {"minilm"}
    assert encoder({"nano": MODELS["nano"]}) == {""}


def test_a_model_of_the_projects_own_text_reasons_and_teaches_only_if_asked_to() -> None:
    assert "distilled/nano" not in names("classify")
    assert "chain-of-thought-answer/nano" not in names("answer")
    asked = names("classify", candidates=("chain-of-thought", "distilled/nano"))
    assert {"chain-of-thought/nano", "chain-of-thought/gpt", "distilled/nano"} <= set(asked)
    assert "distilled/gpt" not in asked


def test_what_a_project_lacks_takes_its_candidates_away() -> None:
    assert names("classify", {}) == ["majority", "nearest", "tfidf"]
    assert names("answer", {}, index=False) == ["no-answer"]
    without = names("answer", index=False)
    assert not {n.partition("/")[0] for n in without} & {"quote", "retrieve", "rag"}
    assert names("answer", {"nano": MODELS["nano"]}) == ["no-answer", "quote", "zero-shot-answer/nano"]


def test_named_candidates_join_the_baselines() -> None:
    baselines = ["majority", "nearest", "tfidf"]
    assert names("classify", candidates=("lora",)) == [*baselines, "lora/nano"]
    assert names("classify", candidates=("zero-shot/gpt",)) == [*baselines, "zero-shot/gpt"]
    assert names("classify", candidates=()) == baselines
    assert names("classify", models=("e5",)) == [*baselines, "frozen-encoder/e5", "hybrid-head/e5"]


def test_one_list_serves_tasks_of_both_kinds() -> None:
    both = ("lora/nano", "rag/gpt", "tfidf")
    assert names("classify", candidates=both) == ["majority", "nearest", "tfidf", "lora/nano"]
    assert names("answer", candidates=both) == ["no-answer", "quote", "rag/gpt"]


def test_one_list_names_the_chains_of_every_task() -> None:
    choose = Choose(candidates=("chain/faq", "tfidf"))
    found = ladder("classify", MODELS, choose, has_index=False, others=["chain/faq"])
    assert [rung.name for rung in found] == ["majority", "nearest", "tfidf"]
    with pytest.raises(ConfigError, match="chain/fap") as caught:
        ladder("classify", MODELS, Choose(candidates=("chain/fap",)), has_index=False, others=["chain/faq"])
    assert "Did you mean `chain/faq`?" in caught.value.hint


@pytest.mark.parametrize(("choose", "says", "hint"), [
    ({"candidates": ("tfdif",)}, "tfdif", "Did you mean `tfidf`?"),
    ({"candidates": ("lora/otro",)}, "lora/otro", "Did you mean `lora`?"),
    ({"candidates": ("zzzzzzzz",)}, "zzzzzzzz", "Known: "),
    ({"candidates": ("chain/otra",)}, "chain/otra", "Name the chain in a task's `chains`. Those there are: none."),
    ({"models": ("nanno",)}, "nanno", "Known: nano, minilm, gpt, e5."),
])
def test_a_name_that_nothing_has_is_told(choose: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        names("classify", **choose)
    assert caught.value.hint.startswith(hint)
