"""The forgetting suite: short questions with one right answer, in Spanish and English, that a model which learnt a
language can mostly answer. A local model is scored by how likely it finds each answer, a remote one by asking it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from bucle.core.errors import BadInput, BucleError
from bucle.core.ids import sha256_hex
from bucle.core.ports import ChatModel, Report

__all__ = ["Question", "answered", "asked", "own_questions", "questions"]

LETTERS = "ABCDEFGH"
MOST, LONGEST = 5000, 4000  # questions in a file of the team's own, characters of one
_PROMPTS = {"es": "Pregunta: {}\nRespuesta:", "en": "Question: {}\nAnswer:"}
_ASK = {"es": "Responde solo con la letra.", "en": "Answer with the letter only."}
_LETTER = re.compile(r"\b([A-H])\b")


@dataclass(frozen=True)
class Question:
    """A question of a `part` (grammar, sense, arithmetic, language, facts; own). `choices` hold the right `answer`
    once, in an order that follows from the question."""

    part: str
    language: str
    text: str
    choices: tuple[str, ...]
    answer: str


class Scorer(Protocol):
    """What `LocalModel` offers."""

    def label_scores(self, prompts: Sequence[str], continuations: Sequence[str]) -> Any: ...


@cache
def questions() -> tuple[Question, ...]:
    """The packaged questions."""
    import yaml

    text = resources.files("bucle.evaluate.suite").joinpath("questions.yaml").read_text("utf-8")
    found = []
    for language, parts in yaml.safe_load(text).items():
        for part, lines in parts.items():
            for line in lines:
                asked_, *choices = (piece.strip() for piece in str(line).split(" | "))
                found.append(_question(part, language, asked_, choices, choices[0]))
    return tuple(found)


def own_questions(path: Path, language: str) -> tuple[Question, ...]:
    """The team's own questions: columns `question`, `choices` separated by `|`, `answer`. Raises BadInput, NotFound."""
    from bucle.data.tables import read_table

    names = ("question", "choices", "answer")
    table = read_table(path, names)
    if missing := [name for name in names if name not in table.columns]:
        raise BadInput(f"{path} has no column {missing[0]}.", f"The suite's columns are {', '.join(names)}.")
    if len(table.rows) > MOST:
        raise BadInput(f"{path} has {len(table.rows):,} questions; {MOST:,} are the most.", "Take a sample of them.")
    places = [table.columns.index(name) for name in names]
    found = []
    for line, row in zip(table.lines, table.rows, strict=True):
        text, said, answer = (row[place].strip() for place in places)
        choices = [one.strip() for one in said.split("|")]
        if not text or len(text) + len(said) > LONGEST:
            raise BadInput(f"{path}:{line}: the question is empty or too long.", f"{LONGEST:,} characters at most.")
        if not 2 <= len(choices) <= len(LETTERS) or len(set(choices)) < len(choices) or not all(choices):
            raise BadInput(f"{path}:{line}: a question has two to {len(LETTERS)} different choices.",
                           "Write them as `one | two | three`.")
        if answer not in choices:
            raise BadInput(f"{path}:{line}: the answer is none of the choices.", "Write it exactly as it stands there.")
        found.append(_question("own", language, text, choices, answer))
    if not found:
        raise BadInput(f"{path} holds no question.", "Write one a row, or leave `forgetting.suite` out.")
    return tuple(found)


def answered(model: Scorer, wanted: Sequence[Question], report: Report | None = None) -> list[float]:
    """1 for each question whose right answer is the likeliest after it, by bytes (nats divided by the answer's UTF-8
    length, as `acc_norm` of the language-model harnesses), else 0. The prompt is plain text, without a chat template:
    the same before and after tuning. A tie is no right answer."""
    right = []
    for number, one in enumerate(wanted):
        prompt = _PROMPTS.get(one.language, _PROMPTS["en"]).format(one.text)
        said = [f" {choice}" for choice in one.choices]
        scores = [float(score) / len(choice.encode())
                  for score, choice in zip(model.label_scores([prompt], said)[0], said, strict=True)]
        best = max(scores)
        right.append(float(scores.count(best) == 1 and one.choices[scores.index(best)] == one.answer))
        if report is not None:
            report(number + 1, len(wanted), "questions")
    return right


def asked(model: ChatModel, wanted: Sequence[Question], *, seed: int = 0, report: Report | None = None) -> list[float]:
    """1 for each question whose right letter a model writes when asked, else 0. An error of one counts as wrong.
    Raises ModelUnavailable where nothing answers."""
    from bucle.models.ask import Ask, ask_all

    replies = ask_all(model, [Ask([{"role": "user", "content": _lettered(one)}], 16, seed=seed) for one in wanted],
                      report=report)
    right = []
    for one, reply in zip(wanted, replies, strict=True):
        letter = None if isinstance(reply, BucleError) else _LETTER.search(reply.text)
        place = LETTERS.index(letter[1]) if letter else len(one.choices)
        right.append(float(place < len(one.choices) and one.choices[place] == one.answer))
    return right


def _lettered(one: Question) -> str:
    choices = "\n".join(f"{letter}) {choice}" for letter, choice in zip(LETTERS, one.choices, strict=False))
    return f"{one.text}\n{choices}\n{_ASK.get(one.language, _ASK['en'])}"


def _question(part: str, language: str, text: str, choices: Sequence[str], answer: str) -> Question:
    order = sorted(choices, key=lambda choice: sha256_hex(f"{text} {choice}"))
    return Question(part, language, text, tuple(order), answer)
